"""Cotangents: which scalar of the output is differentiated.

With cotangent vectors v_1 … v_q the engine computes

    K[i, j] = scale · Σ_k ⟨ J(x_i)ᵀ v_ik , P J(y_j)ᵀ v_jk ⟩ .

``total``, ``output``, ``exact_trace`` and ``probes`` use the same vectors for every sample,
which is what makes the last two (an estimate of) the trace kernel (THEORY §1);
``cotangent`` takes any vector per sample.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.tangent import batches


class Cotangents:
    """One or several cotangent vectors per sample."""

    #: True when ``values`` is a mean over random vectors and has a standard error.
    random = False

    def count(self, shape: tuple[int, ...]) -> int:
        """Number of vectors for outputs of the given per-sample shape."""
        return 1

    def scale(self, shape: tuple[int, ...]) -> float:
        """Factor in front of the sum over vectors."""
        return 1.0

    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        """Yield ``count`` tensors shaped like ``outputs`` ``[n, *out]``."""
        raise NotImplementedError

    def check(self, outputs: Tensor, batch: Any) -> None:
        """Raise InputError when the vector of one sample depends on the others."""

    def describe(self) -> str:
        """Short label for plans, figures and provenance."""
        raise NotImplementedError


class _Total(Cotangents):
    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        yield torch.ones_like(outputs)

    def describe(self) -> str:
        return "sum of outputs"


class _Output(Cotangents):
    def __init__(self, index: int | tuple[int, ...]):
        self.index = index

    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        shape = outputs.shape[1:]
        try:
            place = torch.arange(shape.numel()).reshape(shape)
            chosen = place[self.index] if isinstance(self.index, tuple) else place.reshape(-1)[self.index]
        except IndexError:
            raise InputError(f"output {self.index} does not exist: outputs have shape {tuple(shape)}") from None
        if chosen.dim():
            raise InputError(f"output {self.index} is not one entry: outputs have shape {tuple(shape)}")
        yield _one_hot(outputs, int(chosen))

    def describe(self) -> str:
        return f"output {self.index}"


class _ExactTrace(Cotangents):
    def count(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape)

    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        for index in range(self.count(tuple(outputs.shape[1:]))):
            yield _one_hot(outputs, index)

    def describe(self) -> str:
        return "exact trace"


def _one_hot(outputs: Tensor, index: int) -> Tensor:
    """1 at one flat output index of every sample, whatever the memory layout of ``outputs``."""
    flat = outputs.new_zeros(outputs.shape[0], outputs.shape[1:].numel())
    flat[:, index] = 1
    return flat.reshape(outputs.shape)


class _Probes(Cotangents):
    random = True

    def __init__(self, k: int, seed: int, kind: str):
        if k < 1:
            raise InputError(f"probes needs at least one probe, not {k}")
        if kind not in ("rademacher", "gaussian"):
            raise InputError(f"probe kind is 'rademacher' or 'gaussian', not {kind!r}")
        self.k, self.seed, self.kind = k, seed, kind

    def count(self, shape: tuple[int, ...]) -> int:
        return self.k

    def scale(self, shape: tuple[int, ...]) -> float:
        return 1.0 / self.k

    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        draw = torch.Generator().manual_seed(self.seed)
        shape = outputs.shape[1:]
        for _ in range(self.k):
            if self.kind == "rademacher":
                probe = torch.randint(0, 2, shape, generator=draw).to(torch.float64) * 2 - 1
            else:
                probe = torch.randn(shape, generator=draw, dtype=torch.float64)
            yield probe.to(outputs).expand_as(outputs)

    def describe(self) -> str:
        return f"{self.k} {self.kind} probes, seed {self.seed}"


class _PerSample(Cotangents):
    def __init__(self, fn: Callable[..., Tensor]):
        self.fn = fn
        try:
            positional = [
                p
                for p in inspect.signature(fn).parameters.values()
                if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
            ]
        except (TypeError, ValueError):
            positional = [None, None]  # type: ignore[list-item]
        self.outputs_only = len(positional) == 1 and (positional[0] is None or positional[0].kind != 2)

    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        vector = self.fn(outputs) if self.outputs_only else self.fn(outputs, batch)
        if not isinstance(vector, Tensor) or vector.shape != outputs.shape:
            got = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
            raise InputError(
                f"a cotangent function returns a tensor shaped like the outputs {tuple(outputs.shape)}, not {got}"
            )
        yield vector.detach().to(outputs)

    def check(self, outputs: Tensor, batch: Any) -> None:
        if len(outputs) < 2:
            return
        half = slice(0, len(outputs) // 2)
        (whole,) = self.vectors(outputs.clone(), batches.copy(batch))
        (part,) = self.vectors(outputs[half].clone(), batches.copy(batches.take(batch, half)))
        gap = float((whole[half] - part).abs().max())
        if gap > 1e-3 * float(whole.abs().max()):
            raise InputError(
                "the cotangent function mixes samples: its vector for a sample changes with the rest of the batch; "
                "differentiate each sample's own loss (reduction='sum', not 'mean')"
            )

    def describe(self) -> str:
        return getattr(self.fn, "__name__", "cotangent")


def total() -> Cotangents:
    """The sum of all outputs: K = 1ᵀ J Jᵀ 1 (the "pseudo" kernel, THEORY §1)."""
    return _Total()


def output(i: int | tuple[int, ...]) -> Cotangents:
    """One output: a flat index, or a tuple that indexes the per-sample output shape."""
    return _Output(i)


def exact_trace() -> Cotangents:
    """The trace kernel, exactly: one cotangent per output entry. For small outputs."""
    return _ExactTrace()


def probes(k: int = 8, seed: int = 0, kind: str = "rademacher") -> Cotangents:
    """The trace kernel by ``k`` random vectors shared by all samples: unbiased, with standard errors.

    Variance per entry (THEORY §1, S the symmetric part of K(x, x')): 2(‖S‖² − Σ S_aa²)/k for
    Rademacher, 2‖S‖²/k for Gaussian vectors. The vectors depend on (k, seed, kind) and the
    output shape alone, so kernels computed apart can be compared entry by entry.
    """
    return _Probes(k, seed, kind)


def cotangent(fn: Callable[..., Tensor]) -> Cotangents:
    """Any vector per sample: ``fn(outputs, batch)`` or ``fn(outputs)`` returns ``[n, *out]``.

    With the loss gradient ∂ℓ/∂f the kernel is the Gram matrix of per-sample loss gradients.
    Row i of the result may depend on sample i alone.
    """
    return _PerSample(fn)
