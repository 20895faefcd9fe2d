"""``Classifier``: a network, what its inputs look like, and what its outputs are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.classifier.logits import logits_of
from genkernel.errors import InputError, NonFiniteError
from genkernel.tangent import TangentModel, batches
from genkernel.tangent.passes import guarded

BATCH_NORMS = ("eval", "frozen")
TOGETHER = 256  # samples in a forward pass
_FEW = 2  # samples that a network is tried on


class Classifier:
    """A classifier as a function of its parameters.

    The network answers with logits ``[n, C]``, with an object or a mapping that has ``logits``, or with a tuple of
    which they are the first entry. ``[n, 1]`` and ``[n]`` are a single logit, of class 1 against class 0.

    Args:
        module: the network; never changed. It is evaluated in eval mode.
        names: of the classes; "class 0", … by default.
        sample_shape: of one sample, such as ``(3, 224, 224)``; whatever it is given by default.
        mean, std: per channel; images in [0, 1] become ``(image - mean) / std`` before the network sees them.
        call: ``call(module, batch) -> logits`` for networks with other arguments.
        params: which parameters span the tangent space (see :class:`~genkernel.TangentModel`).
        batch_norm: ``"eval"`` (running statistics) or ``"frozen"`` (those of ``reference``, held).
        reference: samples behind frozen statistics, as the network takes them.
        name: for reports.
        checkpoint: where the weights come from, for provenance.
        notes: plain sentences on how it was loaded.

    Attributes:
        tangent: the network as a function of its parameters.
        notes: what was assumed or found, in sentences.

    Raises:
        InputError: an option makes no sense.
        NonFiniteError: the weights hold NaN or infinity.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        names: Sequence[str] | None = None,
        sample_shape: Iterable[int] | None = None,
        mean: Any = None,
        std: Any = None,
        call: Callable[[nn.Module, Any], Any] | None = None,
        params: Any = None,
        batch_norm: str = "eval",
        reference: Any = None,
        name: str | None = None,
        checkpoint: dict[str, Any] | None = None,
        notes: Iterable[str] = (),
    ):
        if not isinstance(module, nn.Module):
            raise InputError(f"a classifier is a torch.nn.Module, not {type(module).__name__}")
        if batch_norm not in BATCH_NORMS:
            raise InputError(f"batch_norm is 'eval' or 'frozen' for a classifier, not {batch_norm!r}")
        self.module = module
        self.names = None if names is None else [str(name) for name in names]
        self.sample_shape = None if sample_shape is None else tuple(int(side) for side in sample_shape)
        self.normalization = _normalization(mean, std)
        self.name = name or type(module).__name__
        self.checkpoint = dict(checkpoint or {})
        self.notes: list[str] = list(notes)
        self._call = call or logits_of
        self.tangent = TangentModel(module, self._run, params, batch_norm, reference=reference)
        self.tangent.check_finite()
        if module.training:
            self.notes.append("the classifier arrived in train mode; it is evaluated in eval mode, which is put back")

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
        mean, std = self.normalization or (None, None)
        return {
            "name": self.name,
            "class": type(self.module).__name__,
            "parameters": self.parameters,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "sample_shape": None if self.sample_shape is None else list(self.sample_shape),
            "names": self.names,
            "mean": None if mean is None else mean.flatten().tolist(),
            "std": None if std is None else std.flatten().tolist(),
            "batch_norm": self.tangent.batch_norm,
            "checkpoint": self.checkpoint,
            "notes": self.notes,
        }

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, {self.parameters:,} parameters)"

    def prepare(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the network takes them; as they are where it has no mean and std."""
        if self.normalization is None:
            return images
        mean, std = (value.to(images) for value in self.normalization)
        if images.dim() < 2 or len(mean) not in (1, images.shape[1]):
            raise InputError(
                f"mean and std are of {len(mean)} channels, and the samples have shape {tuple(images.shape[1:])}"
            )
        shape = (-1, *[1] * (images.dim() - 2))
        return (images - mean.reshape(shape)) / std.reshape(shape)

    def class_names(self, count: int) -> list[str]:
        """Of ``count`` classes.

        Raises:
            InputError: there are fewer names than classes.
        """
        if self.names is None:
            return [f"class {c}" for c in range(count)]
        if len(self.names) < count:
            raise InputError(f"there are {count} classes and {len(self.names)} names of them")
        return self.names[:count]

    def logits(self, samples: Any, model: TangentModel | None = None) -> Tensor:
        """``[n, C]`` in float64 on the CPU, without gradients.

        Args:
            samples: as the network takes them: a tensor ``[n, ...]``, a dict of its keyword arguments, or a tuple.
            model: the network at other weights (:meth:`TangentModel.at`).

        Raises:
            InputError: the network does not run on them, or does not answer with one row of logits per sample.
            NonFiniteError: a logit is NaN or infinite.
        """
        model = model or self.tangent
        n = batches.size(samples)
        found = []
        for start in range(0, n, TOGETHER):
            part = batches.move(batches.take(samples, slice(start, start + TOGETHER)), model.device, model.dtype)
            try:
                with guarded(model):
                    found.append(model.forward(part).detach().double().cpu())
            except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
                if isinstance(error, InputError):
                    raise
                raise batches.does_not_run(batches.take(samples, slice(0, _FEW)), error) from error
        logits = torch.cat(found)
        bad = (~torch.isfinite(logits)).any(1).nonzero().flatten()
        if len(bad):
            raise NonFiniteError(f"the logits of {len(bad)} of {n} samples are NaN or infinite, first of {int(bad[0])}")
        return logits

    def head(self, samples: Any) -> list[str]:
        """Parameters of the layer whose answer the logits are; empty where no layer's own is.

        With a linear last layer the output lies in the span of its tangent features, so what these separate is to be
        seen without its block (THEORY §8).
        """
        few = batches.move(batches.take(samples, slice(0, _FEW)), self.device, self.dtype)
        said: list[tuple[str, Any]] = []
        hooks = [
            layer.register_forward_hook(lambda _, __, out, name=name: said.append((name, out)))
            for name, layer in self.module.named_modules()
            if any(True for _ in layer.parameters(recurse=False))
        ]
        try:
            with guarded(self.tangent):
                logits = self.tangent.forward(few).detach()
        finally:
            for hook in hooks:
                hook.remove()
        for name, out in reversed(said):
            same = isinstance(out, Tensor) and out.numel() == logits.numel()
            if same and torch.equal(out.detach().reshape(logits.shape), logits):
                own = self.module.get_submodule(name).named_parameters(recurse=False)
                full = [f"{name}.{parameter}" if name else parameter for parameter, _ in own]
                return [parameter for parameter in full if parameter in self.tangent.parameters]
        return []

    def _run(self, module: nn.Module, batch: Any) -> Tensor:
        out = self._call(module, batch)
        if isinstance(out, Tensor) and out.dim() == 1:
            out = out[:, None]
        if not isinstance(out, Tensor) or out.dim() != 2 or not out.shape[1]:
            have = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InputError(f"a classifier answers n samples with logits [n, C], not with {have}")
        if len(out) != batches.size(batch):
            raise InputError(f"{batches.size(batch)} samples are answered with {len(out)} rows of logits")
        return out


def _normalization(mean: Any, std: Any) -> tuple[Tensor, Tensor] | None:
    """Per channel.

    Raises:
        InputError: one without the other, or numbers that cannot be divided by.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise InputError("mean and std come together: one number each, or one per channel")
    try:
        both = [torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (mean, std)]
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"mean and std are numbers, one per channel, not {mean!r} and {std!r}") from error
    if len(both[0]) != len(both[1]) or not all(torch.isfinite(v).all() and len(v) for v in both):
        raise InputError(f"mean and std are finite, as many of the one as of the other, not {mean!r} and {std!r}")
    if not all(value > 0 and math.isfinite(value) for value in both[1].tolist()):
        raise InputError(f"std is positive, not {std!r}")
    return both[0], both[1]
