"""``tape()``: so little of a training run that it costs nothing, and so much that it can be run again.

A tape holds the initial weights and copies every √N steps (with buffers and the optimizer's state), and of every step
which samples it was made of, what they were turned into (timesteps, noise seeds), the hyperparameters in force, the
size of the gradient that the optimizer saw and a few of its entries. Clip factors and loss scales need not be told:
they follow from the size. :func:`genkernel.replay` runs it again, backwards, and answers for every single sample.
The files are those of :mod:`genkernel.paths.taped`.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from genkernel.errors import InputError, OutputError, RecordingError
from genkernel.paths.beside import Beside
from genkernel.paths.coordinates import Coordinates, optimized
from genkernel.paths.gathered import gradients_gone
from genkernel.paths.linear_step import Steps, plain_number, unwrapped
from genkernel.paths.plain_module import plain_module
from genkernel.paths.random_state import random_state
from genkernel.paths.taped import (
    FORMAT,
    SAMPLED,
    VERSION,
    Arrays,
    copies_in,
    copy_name,
    number_in,
    sampled_entries,
    steps_name,
)
from genkernel.runs import read_json, versions, write_atomic
from genkernel.runs.atomic import explain
from genkernel.tangent.restore import generators_of


def tape(
    model: Any, optimizer: Any, store: str | Path, *, steps: int | None = None, every: int | None = None, **notes: Any
) -> Tape:
    """Tape a training loop, for :func:`genkernel.replay`.

    Args:
        model: the network that trains.
        optimizer: as for :func:`genkernel.record`.
        store: the folder; a tape that is there is continued from the last copy whose weights are the model's, and what
            it holds from there on is made again. :meth:`Tape.save` beside every checkpoint makes such copies.
        steps: how many steps are to come; copies are then kept every √steps.
        every: steps between two copies, instead.
        notes: what JSON can hold, for the reader of the tape.

    Returns:
        A context manager; in it, ``tape.batch(ids, t=…, seed=…)`` names what the coming step is made of.

    Raises:
        InputError: neither or both of ``steps`` and ``every``, an optimizer that is not supported, a folder with the
            tape of another run.
        OutputError: the folder cannot be written to.

    Example:
        >>> import tempfile, torch, genkernel as gk
        >>> net = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> x, y = torch.randn(20, 3), torch.randn(20, 1)
        >>> folder = tempfile.mkdtemp()
        >>> with gk.tape(net, optimizer, folder, steps=16) as run:
        ...     for step in range(16):
        ...         ids = torch.randperm(20)[:4]
        ...         run.batch(ids)
        ...         optimizer.zero_grad()
        ...         (net(x[ids]) - y[ids]).square().mean().backward()
        ...         optimizer.step()
        >>> found = gk.replay(folder, net, lambda ids: (x[ids], y[ids]),
        ...                   lambda m, b: (m(b[0]) - b[1]).square().mean(1), queries=x[:2])
        >>> found.visits, found.contributions().gap_rel < 1e-3
        (64, True)
    """
    if (steps is None) == (every is None):
        raise InputError("say how many steps are to come (steps=), or how many lie between two copies (every=)")
    given = steps if steps is not None else every
    if not isinstance(given, int) or given < 1:
        raise InputError(f"{'steps' if steps is not None else 'every'} is a whole number from 1, not {given!r}")
    spacing = every if every is not None else math.ceil(math.sqrt(given))
    return Tape(model, optimizer, Path(store), spacing, notes)


class Tape(Beside):
    """A tape that runs. Made by :func:`tape`.

    Attributes:
        step: optimizer steps taped.
        stopped: why it ended before the training did; None while it goes on.
    """

    def __init__(self, model: Any, optimizer: Any, folder: Path, every: int, notes: Mapping[str, Any]):
        self._module, _ = plain_module(model)
        self._parameters = optimized(self._module, unwrapped(optimizer))
        self._coordinates = Coordinates(self._parameters)
        self._steps = Steps(optimizer, self._parameters, self._coordinates)
        super().__init__("tape", self._steps.optimizer, self._coordinates.device)
        self._folder, self._every, self._generators = folder, every, generators_of(self._module)
        self._sample = sampled_entries(self._coordinates)
        self._rows: list[dict[str, Any]] = []
        self._row: dict[str, Any] | None = None
        self._batches: list[dict[str, Any]] = []
        self._kinds: dict[str, tuple[int, ...]] | None = None  # of the extras, by name
        self._named = False
        self._stepping = False  # the weights are between those of two steps
        self._start = 0
        self._copied: int | None = None
        self._head: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "coordinates": self._coordinates.describe(),
            "optimizer": type(self._steps.optimizer).__name__,
            "groups": self._group_names(),
            "every": every,
            "notes": dict(notes),
            "versions": versions(),
        }
        self._open()

    def batch(self, ids: Any, weight: float | Tensor | None = None, **extras: Any) -> None:
        """Name a batch, or a micro-batch, of the coming step, before its forward pass.

        Args:
            ids: of the samples ``[b]``, numbers or strings.
            weight: as for :meth:`genkernel.paths.Recording.batch`.
            extras: whatever the batch is made from beside them: numbers, or arrays with one row per sample.

        Raises:
            InputError: before the first step only; later on the tape stops instead.
        """
        self._name(self.step == self._start and not self._named, lambda: self._add(ids, weight, extras))

    def save(self) -> None:
        """Make a copy now, beside a checkpoint of the training, so that the tape can be continued from here.

        Raises:
            RecordingError: a batch of the coming step has been named already.
        """
        if self._named:
            raise RecordingError("save() comes between two steps, before the next batch is named")
        with self._clock.ours():
            self._guarded(self._keep)

    # --------------------------------------------------------------------------- private

    def _keep(self) -> None:
        """Everything up to the present step in files."""
        if self._copied != self.step:
            self._flush()
            self._copy()

    def _add(self, ids: Any, weight: float | Tensor | None, extras: Mapping[str, Any]) -> None:
        if not self._named and (self._copied is None or self.step - self._copied >= self._every):
            self._flush()
            self._copy()
        array = as_array(ids, "ids")
        if array.ndim != 1 or not len(array):
            raise InputError(f"ids name the samples of the batch [b], not an array of shape {array.shape}")
        row: dict[str, Any] = {
            "ids": array,
            "step": self.step,
            "gone": self._named and gradients_gone(self._parameters.values()),
        }
        for name, value in extras.items():
            row[f"extra:{name}"] = extra = as_array(value, name)
            if extra.ndim and len(extra) != len(array):
                raise InputError(
                    f"{name} is one value for the batch, or one per sample [{len(array)}, …], not an array of shape "
                    f"{extra.shape}"
                )
        kinds = {
            name: (np.ndim(value), *np.shape(value)[1:]) for name, value in row.items() if name.startswith("extra:")
        }
        self._kinds = kinds if self._kinds is None else self._kinds
        if kinds != self._kinds:
            raise InputError(
                "what is said of a batch beside its ids has the same names and shapes for all batches: "
                f"{sorted(self._kinds)} at first, {sorted(kinds)} now".replace("extra:", "")
            )
        if weight is not None:
            row["weight"] = as_array(weight, "weight").astype(np.float64)
        row["random"] = random_state(self._coordinates.device, self._generators)
        self._batches.append(row)
        self._named = True

    def _look(self) -> None:
        self._row = None
        if not self._named:
            raise RecordingError("optimizer.step() was called without tape.batch(ids) since the step before")
        now = random_state(self._coordinates.device, self._generators)
        for row in self._batches:
            if row["step"] == self.step and np.array_equal(row["random"], now):
                row["random"] = now[:0]  # nothing was drawn since: the loss is not random
        given = [(name, p.grad) for name, p in self._parameters.items() if p.grad is not None]
        scale = getattr(self._steps.optimizer, "grad_scale", None)
        dense = [g.to_dense() if g.is_sparse else g for _, g in given]
        size = limit = 0.0
        if dense:
            size = float(torch.stack(torch._foreach_norm(dense)).double().norm())
            # many times as fast as the norm of order infinity
            limit = float(torch.stack([end for g in dense for end in torch.aminmax(g)]).abs().max())
        entries = torch.zeros(SAMPLED, dtype=torch.float64)
        grads = dict(given)
        for name, places, numbers in self._sample:
            g = grads.get(name)
            if g is not None:
                entries[places] = (g.to_dense() if g.is_sparse else g).detach().reshape(-1)[numbers].double().cpu()
        if scale is not None:
            size, limit, entries = size / float(scale), limit / float(scale), entries / float(scale)
        if not math.isfinite(size):
            if getattr(self._steps.optimizer, "found_inf", None) is None:
                raise RecordingError("the gradient holds NaN or infinite entries")
            return
        active = np.array([name in grads for name in self._coordinates.names])
        trained = np.array([p.requires_grad for p in self._parameters.values()])
        self._row = {
            "size": size,
            "limit": limit,
            "entries": entries.numpy(),
            "options": self._options(),
            "active": active,
            "trained": trained,
        }
        self._stepping = True

    def _take(self) -> None:
        row, self._row = self._row, None
        found_inf = getattr(self._steps.optimizer, "found_inf", None)
        if row is not None and not (found_inf is not None and float(found_inf)):
            self._rows.append(row)
            self.step += 1
            self._named = False
        # where the step was not taken its batches stay, marked as earlier ones of the next
        self._stepping = False

    def _options(self) -> list[list[float]]:
        """The hyperparameters that are numbers, of every group by the names that the head has."""
        groups = self._steps.optimizer.param_groups
        if len(groups) != len(self._head["groups"]):
            raise RecordingError("a parameter group was added to the optimizer after the tape began")
        return [
            flat_options(group, taped["numbers"]) for group, taped in zip(groups, self._head["groups"], strict=True)
        ]

    def _group_names(self) -> list[dict[str, Any]]:
        """Per parameter group: the names of its parameters and its options, for an optimizer of the same kind."""
        mine = {id(p): name for name, p in self._parameters.items()}
        known = self._steps.optimizer.defaults
        groups = []
        for group in self._steps.optimizer.param_groups:
            options = {key: plain_number(value) for key, value in group.items() if key in known}
            names = [mine[id(p)] for p in group["params"] if id(p) in mine]
            groups.append({"parameters": names, "options": options, "numbers": option_names(options)})
        return groups

    def _let_go(self) -> None:
        """What was taped before it stopped is good."""
        if not self._stepping and self._copied is not None:
            with suppress(Exception):
                self._keep()

    # ----------------------------------------------------------------------------- files

    def _open(self) -> None:
        path = self._folder / "tape.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(explain(error, self._folder)) from error
        if not path.is_file() or not copies_in(self._folder):
            return
        head = read_json(path)
        for key, what in (
            ("format", "something else"),
            ("version", "another version of genkernel"),
            ("coordinates", "another model"),
            ("optimizer", "another optimizer"),
            ("every", "a run with another every="),
        ):
            if head.get(key) != self._head[key]:
                raise InputError(f"{self._folder} holds a tape of {what}: choose another folder")
        mine, theirs = ([[g["parameters"], g["numbers"]] for g in one["groups"]] for one in (self._head, head))
        if mine != theirs:
            raise InputError(f"{self._folder} holds a tape of a run with other parameter groups: choose another folder")
        here, copies = self._coordinates.flat(self._parameters), copies_in(self._folder)
        for step in reversed(copies):
            saved = load_file(self._folder / copy_name(step))
            if torch.equal(self._coordinates.flat({n: saved[f"parameter:{n}"] for n in self._coordinates.names}), here):
                self._check_state({n: value for n, value in saved.items() if n.startswith("state:")}, step)
                self.step = self._start = step
                return
        raise InputError(
            f"{self._folder} holds the tape of a run that never had these weights at one of its copies (steps "
            f"{', '.join(map(str, copies))}): load the model and the optimizer of such a step, or choose another "
            "folder. Tape.save() beside every checkpoint makes a copy there"
        )

    def _check_state(self, saved: dict[str, Tensor], step: int) -> None:
        now = self._state()
        if now.keys() != saved.keys() or any(
            not torch.allclose(value.cpu().double(), saved[name].double(), rtol=1e-5, atol=0.0)
            for name, value in now.items()
        ):
            raise InputError(
                f"the weights are those of step {step} of the tape in {self._folder}, and the optimizer's state is "
                "not: load the optimizer of that step as well, or choose another folder"
            )

    def _state(self) -> dict[str, Tensor]:
        """The optimizer's state as the copies hold it."""
        found = {}
        for name, p in self._parameters.items():
            for key, value in self._steps.optimizer.state.get(p, {}).items():
                if value is not None:
                    found[f"state:{key}:{name}"] = (
                        value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
                    )
        return found

    def _copy(self) -> None:
        tensors = {f"parameter:{name}": p.detach() for name, p in self._parameters.items()}
        others = {name: p for name, p in self._module.named_parameters() if name not in self._parameters}
        tensors |= {f"frozen:{name}": p.detach() for name, p in others.items()}
        tensors |= {f"buffer:{name}": b.detach() for name, b in self._module.named_buffers()}
        tensors |= self._state()
        contents = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
        if self._copied is None:
            write_atomic(self._folder / "tape.json", json.dumps(self._head, indent=1) + "\n")
        write_atomic(self._folder / copy_name(self.step), to_safetensors(contents))
        if self._copied is None:  # what an earlier, interrupted run taped beyond this step
            for file in (*self._folder.glob("weights-*"), *self._folder.glob("steps-*")):
                if number_in(file) > self.step or (number_in(file) == self.step and file.suffix == ".npz"):
                    file.unlink()
        self._copied = self.step

    def _flush(self) -> None:
        """Write the steps since the last copy."""
        if not self._rows:
            return
        first = self.step - len(self._rows)
        arrays: Arrays = {
            "size": np.array([row["size"] for row in self._rows]),
            "limit": np.array([row["limit"] for row in self._rows]),
            "entries": np.stack([row["entries"] for row in self._rows]),
            **{
                f"options/{g}": np.array([row["options"][g] for row in self._rows])
                for g in range(len(self._head["groups"]))
            },
            "active": np.stack([row["active"] for row in self._rows]),
            "trained": np.stack([row["trained"] for row in self._rows]),
            "batches": np.array(len(self._batches)),
        }
        for i, row in enumerate(self._batches):
            arrays |= {f"{i}:{name}": np.asarray(value) for name, value in row.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_atomic(self._folder / steps_name(first), buffer.getvalue())
        self._rows, self._batches = [], []

    def _at_end(self) -> None:
        if self._stepping:  # the loop failed inside of a step: these weights are of no step
            return
        self._keep()
        write_atomic(self._folder / "tape.json", json.dumps({**self._head, "steps": self.step}, indent=1) + "\n")


def option_names(options: Mapping[str, Any]) -> list[str]:
    """Names of the hyperparameters that are numbers, flags or pairs of numbers: ``lr``, ``betas:0``, ``betas:1``, …"""
    found = []
    for key in sorted(options):
        value = options[key]
        if isinstance(value, (int, float)):
            found.append(key)
        elif isinstance(value, (tuple, list)):
            found += [f"{key}:{i}" for i in range(len(value))]
    return found


def flat_options(group: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """Their values in a parameter group."""
    found = []
    for name in names:
        key, _, index = name.partition(":")
        found.append(float(group[key][int(index)] if index else group[key]))
    return found


def as_array(value: Any, name: str) -> NDArray[Any]:
    """Numbers or strings as an array that a file can hold.

    Raises:
        InputError: it is something else.
    """
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "biufU":
        raise InputError(f"{name} are numbers or strings, not {array.dtype}")
    return array
