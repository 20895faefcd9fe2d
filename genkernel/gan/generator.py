"""``Generator``: a network, what its latents are, and what has to be fed to it beside them.

A sample is a latent (with its class label, for a conditional generator). The latent may live in z, or in
the intermediate space w of generators that have a mapping network: then z is drawn and mapped once, and
the synthesis network is what is analysed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genkernel.errors import BatchCouplingError, GenkernelError, InputError, NonFiniteError, RandomOutputError
from genkernel.gan.latents import (
    Prior,
    as_input,
    check_classes,
    check_labels,
    few_labels,
    for_each,
    is_number,
    is_whole,
    likely_shapes,
)
from genkernel.tangent import TangentModel, batches
from genkernel.tangent.input_jacobian import InputJacobian
from genkernel.tangent.judgement import Doubt, in_some_precision, tolerance
from genkernel.tangent.passes import guarded

if TYPE_CHECKING:
    from genkernel.gan.discriminator import Discriminator

Call = Callable[[nn.Module, dict[str, Any]], Any]
SPACES = ("z", "w")
BATCH_NORMS = ("eval", "frozen")
OWN_KEYS = frozenset({"z", "y"})
_FEW = 4  # samples that a network is tried on
_AVERAGED = 4096  # latents behind the mean of w, where the network does not keep one


class Generator:
    """A generator as a function of its latents.

    Where a network returns several tensors, the image is the entry called so in a mapping, or the first of a tuple.

    Args:
        module: the network; never changed. It is evaluated in eval mode.
        latent_shape: of one latent, ``(100,)`` or ``(100, 1, 1)``, or its size alone; found by trying when it is not
            given.
        space: ``"z"``, or ``"w"`` for the space behind a mapping network.
        mapping, synthesis: with ``space="w"``, the paths of the two submodules.
        classes: number of classes of a conditional generator. Labels are the network's second argument.
        labels: how it takes them: ``"index"`` (whole numbers ``[n]``) or ``"one-hot"`` (``[n, classes]``);
            found by trying when it is not given.
        inputs: further keyword arguments of the network (of the synthesis network, with ``space="w"``), such as
            ``{"noise_mode": "const"}``; tensors have one row, used for every latent.
        prior: ``"normal"``, ``"uniform"`` (on [-1, 1]) or ``"sphere"``.
        truncation: ψ. In z, normal entries beyond ±ψ are drawn again; in w, the latent is ``w̄ + ψ (w − w̄)``.
        call: ``call(module, batch) -> images`` where ``batch`` has ``z``, ``y`` for conditional generators, and what
            ``inputs`` holds, by its names; by default ``module(z, **inputs)`` or ``module(z, y, **inputs)``.
        params: which parameters span the tangent space (see :class:`~genkernel.TangentModel`); those that require
            gradients by default, or all where none does; with ``space="w"`` of the synthesis network.
        batch_norm: ``"eval"`` (running statistics) or ``"frozen"`` (those of ``statistics`` latents, held), for
            generators that are sampled with the statistics of a batch.
        statistics: number of latents behind frozen statistics.
        name: for reports.
        checkpoint: where the weights come from, for provenance.
        notes: plain sentences on how it was loaded.

    Attributes:
        tangent: the network as a function of its parameters.
        prior: what latents are drawn from; it has their shape.
        output_shape: of one generated sample.
        mean_w: w̄ of truncation in w, else None.
        notes: what was assumed or found, in sentences.
        discriminator: the one that it was loaded with, or None.

    Raises:
        InputError: the network cannot be run on such latents (the sentence says what was tried), or an option makes
            no sense.
        NonFiniteError: its weights or outputs hold NaN or infinity.
        RandomOutputError: it draws random numbers.
        BatchCouplingError: what it makes of one latent depends on the others of the batch.
    """

    def __init__(
        self,
        module: nn.Module,
        latent_shape: int | Iterable[int] | None = None,
        *,
        space: str = "z",
        mapping: str = "mapping",
        synthesis: str = "synthesis",
        classes: int | None = None,
        labels: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        prior: str = "normal",
        truncation: float | None = None,
        call: Call | None = None,
        params: Any = None,
        batch_norm: str = "eval",
        statistics: int = 256,
        name: str | None = None,
        checkpoint: dict[str, Any] | None = None,
        notes: Iterable[str] = (),
    ):
        if not isinstance(module, nn.Module):
            raise InputError(f"a generator is a torch.nn.Module, not {type(module).__name__}")
        if space not in SPACES:
            raise InputError(f"space is 'z' or 'w', not {space!r}")
        check_classes(classes, labels)
        if batch_norm not in BATCH_NORMS:
            raise InputError(f"batch_norm is 'eval' or 'frozen' for a generator, not {batch_norm!r}")
        if not is_whole(statistics) or statistics < 2:
            raise InputError(f"statistics is a number of latents, at least 2, not {statistics!r}")
        if bad := OWN_KEYS & set(inputs or {}):
            raise InputError(f"a further input cannot be called {min(bad)!r}: that name is the latent's own")
        self.module = module
        self.discriminator: Discriminator | None = None
        self.name = name or type(module).__name__
        self.classes, self.space = classes, space
        self.inputs = dict(inputs or {})
        self.checkpoint = dict(checkpoint or {})
        self.notes: list[str] = list(notes)
        self._call = call or partial(call_plain, sample="z")
        self._form = labels or "index"
        self._image = Entry(("image", "images", "sample", "samples", "img", "x"), self.notes)
        self._mapping: TangentModel | None = None
        self._copies = 0  # layers that get the same w
        within = ""
        if space == "w":
            if call is not None:
                raise InputError("space='w' calls mapping and synthesis itself: leave call= out")
            if truncation is not None and not is_number(truncation):
                raise InputError(f"truncation in w is a number, not {truncation!r}")
            self._paths = mapping, synthesis
            self._w_avg = getattr(_submodule(module, mapping), "w_avg", None)
            self._layers = getattr(_submodule(module, synthesis), "num_ws", None)
            self._mapping = TangentModel(module, call=self._map, params="*")
            within = f"{synthesis}."
        self._psi = truncation if space == "w" else None
        params = spanned(module, params, self.notes, within)
        self.tangent = TangentModel(module, call=self._run, params=params)
        self.tangent.check_finite()
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        if any(m.running_mean is None for m in norms):
            raise InputError(
                "its batch norms keep no running statistics, so that an image depends on the others of its batch: "
                "analyse a copy of the generator whose batch norms have them (track_running_stats=True)"
            )
        self.prior, self.output_shape = self._probe(latent_shape, prior, truncation if space == "z" else None, labels)
        self.mean_w = None if self._psi is None else self._mean_w()
        if module.training:
            self.notes.append("the generator arrived in train mode; it is evaluated in eval mode, which is put back")
        self.batch_norm = "eval" if norms else "none"
        if batch_norm == "frozen" and norms:
            reference = self.draw(statistics, stream=8)
            self.tangent = TangentModel(module, self._run, params, batch_norm="frozen", reference=reference)
            self.batch_norm = f"frozen at {statistics} latents"
            self.notes.append(f"batch normalisation uses the statistics of {statistics} latents, held")
        elif batch_norm == "frozen":
            self.notes.append("batch_norm='frozen' changes nothing: there is no batch normalisation of torch's in it")
        elif norms:
            self.notes.append(statistics_note(norms, "; if it is sampled in train mode, pass batch_norm='frozen'"))

    # --------------------------------------------------------------------- properties

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one latent, in the space that is drawn from."""
        return self.prior.shape

    @property
    def device(self) -> torch.device:
        return self.tangent.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tangent.dtype

    @property
    def parameters(self) -> int:
        """Number of entries of the parameters that span the tangent space."""
        return sum(p.numel() for p in self.tangent.parameters.values())

    def describe(self) -> dict[str, Any]:
        """What is used, JSON-ready."""
        return {
            "name": self.name,
            "class": type(self.module).__name__,
            "parameters": self.parameters,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "latent_shape": list(self.latent_shape),
            "space": self.space,
            "prior": self.prior.kind,
            "truncation": self._psi if self.space == "w" else self.prior.truncation,
            "classes": self.classes,
            "labels": self._form if self.classes else None,
            "output_shape": list(self.output_shape),
            "batch_norm": self.batch_norm,
            "inputs": sorted(self.inputs),
            "checkpoint": self.checkpoint,
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        shapes = ("×".join(map(str, s)) for s in (self.latent_shape, self.output_shape))
        return f"Generator({self.name!r}, {' → '.join(shapes)}, {self.parameters:,} parameters)"

    # ------------------------------------------------------------------------ samples

    def draw(self, n: int, seed: int = 0, *, stream: int = 0, labels: Any = None) -> dict[str, Any]:
        """The batch of n latents for ``gk.kernel(gen.tangent, batch)``; latent i depends on (seed, stream, i) alone.

        Args:
            stream: independent draws of one seed: 0, 1, ….
            labels: classes ``[n]`` of a conditional generator; they take turns by default.
        """
        return self.batch(self.prior.draw(n, seed, stream=stream), labels)

    def batch(self, z: Tensor, labels: Any = None) -> dict[str, Any]:
        """The batch of given latents ``[n, *latent_shape]`` (in z: with ``space="w"`` they are mapped here).

        Returns:
            ``z`` (or w under that name), ``y`` ``[n]`` for conditional generators, and the further inputs.

        Raises:
            InputError: shapes or labels do not fit.
            NonFiniteError: a latent is NaN or infinite.
        """
        if not isinstance(z, Tensor) or tuple(z.shape[1:]) != self.latent_shape or not len(z):
            have = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise InputError(f"latents have shape [n, {', '.join(map(str, self.latent_shape))}], not {have}")
        if not torch.isfinite(z).all():
            raise NonFiniteError("the latents hold NaN or infinity")
        if self.classes is None and labels is not None:
            raise InputError("labels were given, but the generator is not conditional: give it classes=")
        if self.classes is not None:
            labels = torch.arange(len(z)) % self.classes if labels is None else labels
            labels = check_labels(labels, len(z), self.classes)
        batch = self._in_w(self._raw_batch(z, labels))
        if self.mean_w is not None:
            batch["z"] = self.mean_w + self._psi * (batch["z"] - self.mean_w)
        return batch

    def images(self, batch: Mapping[str, Any], batch_size: int | None = None) -> Tensor:
        """G(z) ``[n, *output_shape]`` without gradients, ``batch_size`` at a time (or as many as fit in 2 GiB).

        Raises:
            NonFiniteError: an output is NaN or infinite.
        """
        return InputJacobian(self.tangent, batch, "z", batch_size=batch_size).outputs()

    __call__ = images

    # ----------------------------------------------------------------------- internals

    def _run(self, module: nn.Module, batch: dict[str, Any]) -> Tensor:
        """``call`` of the TangentModel."""
        if self.space == "z":
            return self._image(self._call(module, self._as_taken(batch)))
        w, further = batch["z"], {k: v for k, v in batch.items() if k not in OWN_KEYS}
        w = w[:, None].expand(-1, self._copies, -1) if self._copies else w
        return self._image(module.get_submodule(self._paths[1])(w, **further))

    def _map(self, module: nn.Module, batch: dict[str, Any]) -> Tensor:
        """``call`` of the mapping network."""
        own = {k: v for k, v in self._as_taken(batch).items() if k in OWN_KEYS}
        w = call_plain(module.get_submodule(self._paths[0]), own, sample="z")
        return w[0] if isinstance(w, (tuple, list)) else w

    def _as_taken(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with labels in the form that the network takes."""
        if self.classes is None:
            return batch
        return {**batch, "y": as_input(batch["y"], self._form, self.classes, batch["z"].dtype)}

    def _raw_batch(self, z: Tensor, labels: Tensor | None) -> dict[str, Any]:
        batch: dict[str, Any] = {"z": z.detach().to(self.device, self.dtype)}
        if labels is not None:
            batch["y"] = labels.to(self.device)
        return batch | for_each(self.inputs, len(z), self.device, self.dtype)

    def _in_w(self, batch: dict[str, Any]) -> dict[str, Any]:
        """z replaced by its w, one ``[n, d]`` where every layer gets the same."""
        if self._mapping is not None:
            with guarded(self._mapping):
                w = self._mapping.forward(batch)
            batch["z"] = w[:, 0].contiguous() if self._copies and w.dim() == 3 else w
        return batch

    def _mean_w(self) -> Tensor:
        if isinstance(self._w_avg, Tensor):
            self.notes.append("w is truncated toward the mapping network's own average")
            return self._w_avg.detach().to(self.device, self.dtype, copy=True)
        labels = None if self.classes is None else torch.arange(_AVERAGED) % self.classes
        batch = self._in_w(self._raw_batch(self.prior.draw(_AVERAGED, 0, stream=9), labels))
        self.notes.append(f"w is truncated toward the average of {_AVERAGED} mapped latents")
        return batch["z"].mean(0)

    # ------------------------------------------------------------------------- probing

    def _probe(
        self, given: int | Iterable[int] | None, prior: str, truncation: float | None, labels: str | None
    ) -> tuple[Prior, tuple[int, ...]]:
        """Run a few latents: the shape that works, the form of labels, the shape of an output."""
        shapes = self._shapes(given)
        failures: list[Exception] = []
        for shape in shapes:
            candidate = Prior(shape, prior, truncation)
            for form in [labels] if labels else ["index", "one-hot"] if self.classes else ["index"]:
                self._form = form
                try:
                    out = self._tried(candidate)
                except (InputError, BatchCouplingError) as error:
                    failures.append(error)
                    continue
                except GenkernelError:
                    raise
                except Exception as error:  # of any kind: whatever the network says of a shape that does not fit
                    failures.append(error)
                    continue
                if given is None:
                    self.notes.append(f"the latent shape {shape} was found by trying{_beside(self.classes, form)}")
                if self.classes and labels is None:
                    self.notes.append(f"class labels are given as {form}")
                return candidate, tuple(out.shape[1:])
        for failure in failures:
            if isinstance(failure, BatchCouplingError):
                raise failure
        tried = " or ".join("×".join(map(str, s)) for s in shapes[:4])
        said = labelled(self.module, self.classes, failures[0])
        raise InputError(f"{self.name} cannot be run on latents of shape {tried}{said}")

    def _shapes(self, given: int | Iterable[int] | None) -> list[tuple[int, ...]]:
        if given is not None:
            if isinstance(given, Iterable):
                return [tuple(int(s) if is_whole(s) else s for s in given)]
            return [(given,), (given, 1, 1)]
        parts = [self.module] if self._mapping is None else [self.module.get_submodule(self._paths[0]), self.module]
        shapes = list(dict.fromkeys(shape for part in parts for shape in likely_shapes(part, self.classes)))
        if not shapes:
            raise InputError(f"the latent shape of {self.name} is not known: pass latent_shape=")
        return shapes

    def _tried(self, prior: Prior) -> Tensor:
        self._copies = 0
        batch = self._in_w(self._raw_batch(prior.draw(_FEW, 0), few_labels(_FEW, self.classes)))
        if self._mapping is not None:
            w = batch["z"]
            if w.dim() == 3 and bool((w == w[:, :1]).all()):
                self._copies, batch["z"] = w.shape[1], w[:, 0]
            elif w.dim() == 2 and is_whole(self._layers):
                self._copies = int(self._layers)
        out, mixes = look(self.tangent, batch)
        if out.dim() < 2:
            raise InputError(f"it answers {_FEW} latents with shape {tuple(out.shape)}, not [n, …]")
        if mixes:
            raise BatchCouplingError(
                "what the generator makes of one latent depends on the others of its batch: latents have no Jacobian "
                "of their own then; switch off what mixes them (statistics or attention over the batch)"
            )
        return out


# ------------------------------------------------------------- what discriminators need as well


class Entry:
    """Takes the output tensor out of what a network returned, always from the same place.

    Args:
        names: what it may be called in a mapping, or as an attribute.
        notes: where to say which of several tensors was taken.
        smallest: of a tuple take the one with the fewest entries, not the first.
    """

    def __init__(self, names: tuple[str, ...], notes: list[str], smallest: bool = False):
        self._names, self._notes, self._smallest = names, notes, smallest
        self._key: Any = None

    def __call__(self, out: Any) -> Tensor:
        if isinstance(out, Tensor):
            return out
        every: dict[Any, Any]
        if isinstance(out, Mapping):
            every = dict(out)
        elif isinstance(out, (tuple, list)):
            every = dict(enumerate(out))
        else:
            every = {name: getattr(out, name, None) for name in self._names}
        tensors = {key: value for key, value in every.items() if isinstance(value, Tensor)}
        if self._key not in tensors:
            self._key = self._choice(tensors, type(out).__name__)
            if len(every) > 1:
                self._notes.append(f"of what it returns ({type(out).__name__}), entry {self._key!r} is its output")
        return tensors[self._key]

    def _choice(self, tensors: dict[Any, Tensor], kind: str) -> Any:
        named = [name for name in self._names if name in tensors]
        ordered = all(isinstance(key, int) for key in tensors)
        if not tensors or not (named or ordered or len(tensors) == 1):
            raise InputError(
                f"the network returned {kind} with {', '.join(map(repr, tensors)) or 'no tensor'}, of which its "
                "output is not known: pass call=lambda module, batch: <tensor>"
            )
        if named:
            return named[0]
        return min(tensors, key=lambda key: tensors[key].numel()) if self._smallest else next(iter(tensors))


def call_plain(module: nn.Module, batch: dict[str, Any], sample: str) -> Any:
    """``module(x, **further)`` or ``module(x, y, **further)``, where ``sample`` is the batch's name for x.

    Networks of the StyleGAN family require labels that may be None.
    """
    further = {k: v for k, v in batch.items() if k not in (sample, "y")}
    if "y" in batch:
        return module(batch[sample], batch["y"], **further)
    try:
        arguments = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # not written in Python
        arguments = []
    by_place = [
        p.name for p in arguments if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if len(by_place) > 1 and by_place[1] not in further:
        return module(batch[sample], None, **further)
    return module(batch[sample], **further)


def _beside(classes: int | None, form: str | None) -> str:
    """What a latent shape that was found depends on: labels that are joined to it leave the rest to latents."""
    if classes is None or form != "one-hot":
        return ""
    return f", beside one-hot labels of {classes} classes: give latent_shape= and classes= where these are others"


def spanned(module: nn.Module, params: Any, notes: list[str], within: str = "") -> Any:
    """``params``, or a filter for those that require gradients in a part of the network: all where none does.

    Averaged copies of generators come without gradients, and so do discriminators between two of their own steps.
    """
    if params is not None:
        return params
    inside = {name: p for name, p in module.named_parameters() if name.startswith(within) and p.is_floating_point()}
    chosen = {name for name, p in inside.items() if p.requires_grad}
    if inside and not chosen:
        notes.append("no parameter requires gradients (a frozen or averaged copy): all of them are taken")
        chosen = set(inside)
    if 0 < (frozen := len(inside) - len(chosen)) < len(inside):
        notes.append(f"{frozen} of {len(inside)} parameters require no gradient and are left out of the kernel")
    if not chosen:
        raise InputError(f"{within.rstrip('.') or type(module).__name__} has no parameters to take gradients in")
    return chosen.__contains__


def look(model: TangentModel, batch: dict[str, Any]) -> tuple[Tensor, bool]:
    """Outputs ``[n, *out]`` for a few samples, and whether they depend on the rest of the batch.

    Raises:
        NonFiniteError: an output is NaN or infinite.
        RandomOutputError: two runs on the same samples differ.
    """

    def attempt(precision: torch.dtype, strict: bool) -> tuple[Tensor, bool]:
        tensors = model.tensors(precision)

        def run(rows: slice) -> Tensor:
            return model.run(tensors, batches.move(batches.take(batch, rows), model.device, precision))

        with torch.no_grad():
            out, again, fewer = run(slice(None)), run(slice(None)), run(slice(0, 2))
        if not torch.isfinite(out).all():
            raise NonFiniteError(f"{type(model.module).__name__} answers ordinary inputs with NaN or infinity")
        limit = tolerance(out.dtype, strict).coupling * float(out.detach().abs().max())
        random, mixes = float((out - again).abs().max()) > limit, float((out[:2] - fewer).abs().max()) > limit
        if strict and (random or mixes):
            raise Doubt
        if random:
            raise RandomOutputError(
                f"{type(model.module).__name__} returns different outputs for the same input: give what fixes its "
                'noise, such as inputs={"noise_mode": "const"}, or a call= that feeds it the same noise for every input'
            )
        return out, mixes

    with guarded(model), model.evaluating():
        return in_some_precision(model, model.dtype, attempt)


def labelled(module: nn.Module, classes: int | None, failure: Exception) -> str:
    """How a sentence on a network that could not be run goes on: with its labels, and with what it said."""
    reason = (str(failure).strip().splitlines() or ["no message"])[0]
    kind = "" if isinstance(failure, InputError) else f"{type(failure).__name__}: "
    how = "" if classes is None else f" with labels 0 … {classes - 1}"
    if classes is None and len(inspect.signature(module.forward).parameters) > 1:
        how = " (a conditional network needs classes=)"
    return f"{how}: {kind}{reason}"


def statistics_note(norms: list[_BatchNorm], otherwise: str = "") -> str:
    """Which statistics batch norms use in eval mode, and what to do about those that were never trained."""
    untouched = all(
        not m.get_buffer("running_mean").any() and bool((m.get_buffer("running_var") == 1).all()) for m in norms
    )
    if untouched:
        return f"its batch norms have never seen a batch (running statistics as initialised){otherwise}"
    return "batch normalisation uses the running statistics"


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        near = ", ".join([name for name, _ in module.named_children()][:6]) or "none"
        raise InputError(f"the generator has no submodule {path!r} (it has {near})") from None
