"""Cotangents: which scalar of the output is differentiated.

With cotangent vectors v_1 … v_q the engine computes

    K[i, j] = scale · Σ_k ⟨ J(x_i)ᵀ v_ik , P J(y_j)ᵀ v_jk ⟩ .

``total``, ``output``, ``exact_trace`` and ``probes`` use the same vectors for every sample,
which is what makes the last two (an estimate of) the trace kernel (THEORY §1), and ``blocks``
keeps every pair of outputs apart; ``cotangent`` takes any vector per sample, of which ``loss`` and
``residual`` are the two that training is made of.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import GenkernelError, InputError
from genkernel.tangent import batches
from genkernel.tangent.fingerprint import fingerprint
from genkernel.tangent.shortage import out_of_memory


class Cotangents:
    """One or several cotangent vectors per sample."""

    #: True when ``values`` is a mean over random vectors and has a standard error.
    random = False
    #: True when every pair of vectors is kept: values ``[n, m, O, O]`` in place of their sum over equal ones.
    blocks = False

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

    def fingerprint(self, vectors: Tensor | None = None) -> str:
        """sha256 of what decides the vectors: class, options, and the code of functions with what they close over.

        Args:
            vectors: vectors for some samples, to count as well: they show what code alone does not
                (state that a function reads elsewhere).
        """
        return fingerprint(["cotangents", self, vectors])


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


class _Blocks(_ExactTrace):
    blocks = True

    def describe(self) -> str:
        return "full blocks"


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
    what = "cotangent function"

    def __init__(self, fn: Callable[..., Tensor]):
        if not callable(fn):
            raise InputError(f"a {self.what} is a function of a batch, not {type(fn).__name__}")
        self.fn = fn
        try:
            positional = [
                p
                for p in inspect.signature(fn).parameters.values()
                if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
            ]
            self.outputs_only = len(positional) == 1 and positional[0].kind != positional[0].VAR_POSITIONAL
        except (TypeError, ValueError):  # a builtin such as torch.tanh does not say what it takes
            self.outputs_only = True

    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        vector = self._called(outputs, batch)
        if not isinstance(vector, Tensor) or vector.shape != outputs.shape:
            got = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
            raise InputError(
                f"a cotangent function returns a tensor shaped like the outputs {tuple(outputs.shape)}, not {got}"
            )
        yield vector.detach().to(outputs)

    def _called(self, outputs: Tensor, batch: Any) -> Tensor:
        try:
            return self.fn(outputs) if self.outputs_only else self.fn(outputs, batch)
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            if out_of_memory(error) or isinstance(error, GenkernelError):
                raise
            how = "fn(outputs)" if self.outputs_only else "fn(outputs, batch)"
            raise InputError(
                f"the {self.what} failed when called as {how} with outputs {tuple(outputs.shape)}: "
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            ) from error

    def check(self, outputs: Tensor, batch: Any) -> None:
        if len(outputs) < 2:
            return
        half = slice(0, len(outputs) // 2)
        (whole,) = self.vectors(outputs.clone(), batches.copy(batch))
        (part,) = self.vectors(outputs[half].clone(), batches.copy(batches.take(batch, half)))
        gap = float((whole[half] - part).abs().max())
        if gap > 1e-3 * float(whole.abs().max()):
            raise InputError(
                f"the {self.what} mixes samples: its vector for a sample changes with the rest of the batch; "
                "differentiate each sample's own loss (reduction='sum', not 'mean')"
            )

    def describe(self) -> str:
        return getattr(self.fn, "__name__", "cotangent")


class _Loss(_PerSample):
    what = "loss function"

    def vectors(self, outputs: Tensor, batch: Any) -> Iterator[Tensor]:
        with torch.enable_grad():
            f = outputs.detach().clone().requires_grad_(True)
            losses = self._called(f, batch)
            n = len(outputs)
            if not isinstance(losses, Tensor) or losses.shape != (n,):
                got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
                raise InputError(
                    f"a loss function returns one loss for each of the {n} samples, shape ({n},), not {got}: take "
                    "reduction='none' and the sum or mean over what is left of each sample"
                )
            if not losses.requires_grad:
                raise InputError("the loss does not depend on the outputs by operations that can be differentiated")
            (vector,) = torch.autograd.grad(losses.sum(), f, allow_unused=True)
        yield torch.zeros_like(outputs) if vector is None else vector.detach().to(outputs)

    def describe(self) -> str:
        return f"loss gradient of {getattr(self.fn, '__name__', type(self.fn).__name__)}"


class _Residual(_PerSample):
    what = "target function"

    def _called(self, outputs: Tensor, batch: Any) -> Tensor:
        target = self.fn(batch)
        if not isinstance(target, Tensor) or target.shape != outputs.shape:
            got = f"shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
            raise InputError(
                f"a target function returns targets shaped like the outputs {tuple(outputs.shape)}, not {got}"
            )
        return outputs - target.to(outputs)

    def describe(self) -> str:
        return f"residual from {getattr(self.fn, '__name__', type(self.fn).__name__)}"


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


def blocks() -> Cotangents:
    """Every pair of outputs: K = J(x) P J(y)ᵀ itself, ``[n, m, O, O]``, exactly. For small outputs.

    As an ``[nO, nO]`` matrix it is symmetric and positive semidefinite; the trace over the last two
    axes is the kernel of :func:`exact_trace` and their sum that of :func:`total` (THEORY §1).
    """
    return _Blocks()


def loss(fn: Callable[..., Tensor]) -> Cotangents:
    """The gradient of each sample's own loss in the output: v_i = ∂ℓ_i/∂f_i.

    K is then the Gram matrix of the per-sample gradients ∇_θ ℓ_i, whose scale is the loss's own: a
    mean over outputs has its 1/O in it (THEORY §0).

    Args:
        fn: ``fn(outputs, batch)`` or ``fn(outputs)`` returns losses ``[n]``, differentiable in the
            outputs; what else it needs (targets, weights, times) travels in the batch.

    Raises:
        InputError: (when used) not one loss per sample, not differentiable, or samples are mixed.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Linear(4, 3)
        >>> model = gk.TangentModel(net, call=lambda module, batch: module(batch["x"]))
        >>> def cross_entropy(outputs, batch):
        ...     return torch.nn.functional.cross_entropy(outputs, batch["label"], reduction="none")
        >>> batch = {"x": torch.randn(5, 4), "label": torch.tensor([0, 1, 2, 1, 0])}
        >>> gk.kernel(model, batch, cotangents=gk.loss(cross_entropy)).values.shape
        torch.Size([5, 5])
    """
    return _Loss(fn)


def residual(fn: Callable[[Any], Tensor]) -> Cotangents:
    """The residual v_i = f(x_i) - y_i: the gradient of ½‖f(x_i) - y_i‖².

    Args:
        fn: ``fn(batch)`` returns targets ``[n, *out]``. They travel in the batch, because samples are
            taken from it tile by tile: ``gk.residual(lambda batch: batch["target"])``.

    Raises:
        InputError: ``fn`` is a tensor, or (when used) its targets are not shaped like the outputs.
    """
    if isinstance(fn, Tensor):
        raise InputError(
            "residual takes a function of the batch, not a tensor of targets: put the targets into the batch and give "
            "residual(lambda batch: batch['target'])"
        )
    return _Residual(fn)
