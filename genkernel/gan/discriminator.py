"""``Discriminator``: logits of samples, and the drive δ = ∇_x ℓ_G on generated ones (THEORY §7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from genkernel.errors import GenkernelError, InputError, NonFiniteError
from genkernel.gan.generator import Entry, call_plain, labelled, look, spanned, statistics_note
from genkernel.gan.latents import as_input, check_classes, check_labels, few_labels, for_each
from genkernel.gan.losses import Loss, logit_gradient, loss_of
from genkernel.tangent import TangentModel
from genkernel.tangent.input_jacobian import InputJacobian
from genkernel.tangent.passes import guarded

Call = Callable[[nn.Module, dict[str, Any]], Any]
OUTPUTS = ("logit", "probability")
OWN_KEYS = frozenset({"x", "y"})
_FEW = 4  # samples that a network is tried on
_SIZES = (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # of samples whose outputs show whether they are probabilities


class Discriminator:
    """A discriminator or critic as a function of samples, evaluated in eval mode and never changed.

    Where a network returns several tensors, its logits are the entry called so in a mapping, or the one of a tuple
    with the fewest entries (the others being features, or labels).

    Args:
        module: the network.
        sample_shape: of what the generator makes.
        output: ``"logit"`` (a raw logit, or a critic's value) or ``"probability"`` (what a final sigmoid gives).
            Found by looking for a final sigmoid when it is not given. A probability is turned back into its
            logit, by taking the input of that last sigmoid where there is one.
        classes: number of classes of a conditional discriminator; labels are its second argument.
        labels: how it takes them: ``"index"`` or ``"one-hot"``; found by trying.
        call: ``call(module, batch) -> outputs`` where ``batch`` has ``x``, ``y`` for conditional ones, and what
            ``inputs`` holds.
        inputs: further keyword arguments; tensors have one row, used for every sample.
        name: for reports.
        notes: plain sentences to carry along.

    Attributes:
        tangent: logits as a function of its parameters: its own kernel is ``gk.kernel(disc.tangent, batch)``.
        mixes: its logit for a sample depends on the rest of the batch (minibatch statistics).
        notes: what was assumed or found, in sentences.

    Raises:
        InputError: it cannot be run on such samples, or an option makes no sense.
        NonFiniteError: weights or outputs hold NaN or infinity.
        RandomOutputError: it draws random numbers.
    """

    def __init__(
        self,
        module: nn.Module,
        sample_shape: Iterable[int],
        *,
        output: str | None = None,
        classes: int | None = None,
        labels: str | None = None,
        call: Call | None = None,
        inputs: Mapping[str, Any] | None = None,
        name: str | None = None,
        notes: Iterable[str] = (),
    ):
        if not isinstance(module, nn.Module):
            raise InputError(f"a discriminator is a torch.nn.Module, not {type(module).__name__}")
        if output not in (None, *OUTPUTS):
            raise InputError(f"output is 'logit' or 'probability', not {output!r}")
        check_classes(classes, labels)
        if bad := OWN_KEYS & set(inputs or {}):
            raise InputError(f"a further input cannot be called {min(bad)!r}: that name is the sample's own")
        self.module = module
        self.name = name or type(module).__name__
        self.sample_shape = tuple(int(s) for s in sample_shape)
        self.classes, self.inputs = classes, dict(inputs or {})
        self.notes: list[str] = list(notes)
        self._call = call or partial(call_plain, sample="x")
        self._form = labels or "index"
        self._scores = Entry(("logit", "logits", "score", "scores", "validity", "output"), self.notes, smallest=True)
        self._sigmoid: int | None = None  # which of the sigmoids is the final one, counted from the last
        self.output = output or "logit"
        self.tangent = TangentModel(module, call=self._run, params=spanned(module, None, self.notes))
        self.tangent.check_finite()
        self.mixes = self._probe(labels, output)
        if self.mixes:
            self.notes.append("its logit for a sample depends on the rest of its batch: samples are judged together")
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if norms:
            self.notes.append(statistics_note(norms))

    # --------------------------------------------------------------------- properties

    @property
    def device(self) -> torch.device:
        return self.tangent.device

    @property
    def dtype(self) -> torch.dtype:
        return self.tangent.dtype

    def describe(self) -> dict[str, Any]:
        """What is used, JSON-ready."""
        return {
            "name": self.name,
            "class": type(self.module).__name__,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "output": self.output,
            "classes": self.classes,
            "mixes_samples": self.mixes,
            "notes": self.notes,
        }

    # ------------------------------------------------------------------------ samples

    def batch(self, x: Tensor, labels: Any = None) -> dict[str, Any]:
        """The batch of samples ``[n, *sample_shape]`` for ``gk.kernel(disc.tangent, batch)``.

        Raises:
            InputError: shapes or labels do not fit.
        """
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.sample_shape or not len(x):
            have = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"the discriminator takes samples [n, {', '.join(map(str, self.sample_shape))}], not {have}"
            )
        if self.classes is None:
            if labels is not None:
                raise InputError("labels were given, but the discriminator is not conditional: give it classes=")
            return self._raw_batch(x, None)
        if labels is None:
            raise InputError("the discriminator is conditional: give the labels of its samples")
        return self._raw_batch(x, check_labels(labels, len(x), self.classes))

    def logits(self, x: Tensor, labels: Any = None, batch_size: int | None = None) -> Tensor:
        """l(x) ``[n]``, or ``[n, patches]`` of a discriminator that judges patches.

        Args:
            labels: classes ``[n]`` of a conditional discriminator.
            batch_size: samples that run together; follows from a budget of 2 GiB by default. Where the discriminator
                mixes samples, these are judged together: all by default.

        Raises:
            InputError: shapes or labels do not fit.
            NonFiniteError: a logit is NaN or infinite.
        """
        found = self._jacobian(x, labels, batch_size).outputs()
        return found[:, 0] if found.shape[1] == 1 else found

    def drive(self, x: Tensor, loss: str | Loss, labels: Any = None, batch_size: int | None = None) -> Tensor:
        """δ = ∇_x ℓ_G(x) ``[n, *sample_shape]`` for each sample's own generator loss.

        Where the discriminator mixes samples, it is the gradient of the sum of the losses of those that are judged
        together, which is what training descends.

        Args:
            loss: a name of :data:`~genkernel.gan.losses.LOSSES`, or a function of the logit.
            labels, batch_size: as for :meth:`logits`.

        Raises:
            InputError: an unknown loss, or samples that do not fit.
            NonFiniteError: an output or a gradient is NaN or infinite.
        """
        loss = loss_of(loss)
        return self._jacobian(x, labels, batch_size).vjp(lambda logits, _: logit_gradient(loss, logits))

    # ----------------------------------------------------------------------- internals

    def _jacobian(self, x: Tensor, labels: Any, batch_size: int | None) -> InputJacobian:
        batch = self.batch(x, labels)
        return InputJacobian(
            self.tangent, batch, "x", batch_size=len(x) if batch_size is None and self.mixes else batch_size
        )

    def _run(self, module: nn.Module, batch: dict[str, Any]) -> Tensor:
        """``call`` of the TangentModel: logits ``[n, ...]``, maps flattened."""
        if self.classes is not None:
            batch = {**batch, "y": as_input(batch["y"], self._form, self.classes, batch["x"].dtype)}
        n = len(batch["x"])
        if self._sigmoid is None:
            out = _by_sample(self._scores(self._call(module, batch)), n)
            return _logit(out) if self.output == "probability" else out
        with _Sigmoids() as sigmoids:
            self._scores(self._call(module, batch))
        return _by_sample(sigmoids.seen[self._sigmoid][0], n)

    def _raw_batch(self, x: Tensor, labels: Tensor | None) -> dict[str, Any]:
        batch: dict[str, Any] = {"x": x.detach().to(self.device, self.dtype)}
        if labels is not None:
            batch["y"] = labels.to(self.device)
        return batch | for_each(self.inputs, len(x), self.device, self.dtype)

    def _probe(self, labels: str | None, output: str | None) -> bool:
        """Run a few samples: the form of labels, what the output is, and whether samples are mixed."""
        x = torch.randn((_FEW, *self.sample_shape), generator=torch.Generator().manual_seed(0))
        batch = self._raw_batch(x, few_labels(_FEW, self.classes))
        self.output = "logit"  # until it is known
        failures: list[Exception] = []
        for form in [labels] if labels else ["index", "one-hot"] if self.classes else ["index"]:
            self._form = form
            try:
                _, mixes = look(self.tangent, batch)
            except InputError as error:
                failures.append(error)
                continue
            except GenkernelError:
                raise
            except Exception as error:  # of any kind: whatever the network says of samples that do not fit
                failures.append(error)
                continue
            if self.classes and labels is None:
                self.notes.append(f"class labels are given as {form}")
            self._find_output(batch, output)
            return mixes
        shape = "×".join(map(str, self.sample_shape))
        said = labelled(self.module, self.classes, failures[0])
        raise InputError(f"{self.name} cannot judge samples {shape} as the generator makes them{said}")

    def _find_output(self, batch: dict[str, Any], asked: str | None) -> None:
        with guarded(self.tangent), _Sigmoids() as sigmoids:
            final = self.tangent.forward(batch)
        last = sigmoids.which(final)
        if asked == "logit":
            if last is not None:
                self.notes.append("what its last sigmoid gives is taken as the logit, as asked")
        elif last is not None:
            self._sigmoid, self.output = last, "probability"
            self.notes.append("its logit is the input of its last sigmoid")
        elif asked == "probability":
            self.output = "probability"
        elif self._between_0_and_1(batch):
            self.output = "probability"
            self.notes.append("its outputs lie between 0 and 1 and are taken as probabilities (output='logit' if not)")

    def _between_0_and_1(self, batch: dict[str, Any]) -> bool:
        """Whether the outputs are, for samples of very different sizes: some squash in a way that is not seen."""
        draw = torch.Generator().manual_seed(1)
        for size in _SIZES:
            x = size * torch.randn((_FEW, *self.sample_shape), generator=draw)
            with guarded(self.tangent):
                out = self.tangent.forward({**batch, "x": x.to(batch["x"])})
            if not bool(((out >= 0) & (out <= 1)).all()):
                return False
        return True


def _by_sample(scores: Tensor, n: int) -> Tensor:
    """Scores ``[n, ...]`` as ``[n, k]``; also those of networks that flatten theirs, or squeeze a batch of one."""
    fits = scores.shape[:1] == (n,) or (scores.dim() < 2 and scores.numel() % n == 0)
    if not fits:
        raise InputError(f"it returned shape {tuple(scores.shape)} for {n} samples: it has to give scores for each")
    return scores.reshape(n, -1)


def _logit(probability: Tensor) -> Tensor:
    """log p/(1 − p); clamping would let the gradient vanish where a discriminator is surest."""
    plain = probability.detach()
    if not bool(((plain > 0) & (plain < 1)).all()):
        raise NonFiniteError(
            "probabilities have a finite logit only between 0 and 1, and the discriminator gives "
            f"{float(plain.min()):g} … {float(plain.max()):g}: pass the network without its final squashing, or "
            "in float64, or with output='logit' where these are no probabilities"
        )
    return torch.logit(probability)


class _Sigmoids(TorchFunctionMode):
    """Remembers the input and the output of every sigmoid, called in whichever way."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in ("sigmoid", "sigmoid_", "special_expit"):
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        x = x.clone() if name == "sigmoid_" else x
        out = func(*args, **kwargs)
        self.seen.append((x, out))
        return out

    def which(self, out: Tensor) -> int | None:
        """The sigmoid whose output is the network's, counted from the last one; None where there is none."""
        for back, (_, y) in enumerate(reversed(self.seen), 1):
            if y.numel() == out.numel() and torch.equal(y.detach().flatten(), out.detach().flatten()):
                return -back
        return None
