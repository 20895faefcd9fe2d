"""Full-batch gradient descent of a network on one batch, as pure functions that can be mapped over weights and samples.

What the trainings of :mod:`genkernel.spectra.leave_one_out` and the matrix of :mod:`genkernel.spectra.effective_gram`
have in common. The user's module is not written to: weights are tensors of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vjp, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_map

from genkernel.errors import CaptureError, InputError
from genkernel.tangent import TangentModel, as_tangent_model, batches
from genkernel.tangent.forecast import size
from genkernel.tangent.jvp import UNSUPPORTED
from genkernel.tangent.passes import guarded
from genkernel.tangent.plan import parse_memory
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.shortage import out_of_memory
from genkernel.tangent.side import prove

Weights = dict[str, Tensor]

LOSSES = ("squared", "cross-entropy")
_NODES = 6  # of Gauss and Legendre, along the segment between two outputs


@contextmanager
def descent(
    model: TangentModel | nn.Module | Any, x: Any, y: Tensor, lr: float, loss: str, dtype: Any, memory: str | int
) -> Iterator[Descent]:
    """Check a problem, and hold the model in evaluation mode while it is worked on.

    Raises:
        InputError: arguments, shapes or modes make no sense.
        BatchCouplingError, RandomOutputError, NonFiniteError: of the model, as for ``gk.tangent_features``.
    """
    if isinstance(lr, bool) or not isinstance(lr, Real) or not 0 < lr < float("inf"):
        raise InputError(f"lr is a positive number, not {lr!r}")
    if loss not in LOSSES:
        raise InputError(
            f"loss is {' or '.join(map(repr, LOSSES))}, not {loss!r}: the propagator needs its Hessian in f"
        )
    model = as_tangent_model(model)
    _refuse_noise(model)
    precision = parse_dtype(dtype) or model.dtype
    n = batches.size(x)
    if n < 2:
        raise InputError("leaving one out takes two samples or more")
    proof = prove(model, x, precision, "auto", None)
    with guarded(model), model.evaluating():
        yield Descent(model, x, y, float(lr), loss, precision, proof.bytes_per_sample, parse_memory(memory))


class Descent:
    """The network, its samples and its loss.

    Attributes:
        n, outputs: samples, and outputs O of each.
        start: the weights to begin from, by name.
        x, y: samples, and targets ``[n, O]`` (squared) or classes ``[n]``.
    """

    def __init__(
        self, model: TangentModel, x: Any, y: Any, lr: float, loss: str, dtype: torch.dtype, held: int, memory: int
    ):
        self.model, self.lr, self.loss, self.dtype = model, lr, loss, dtype
        self._held, self._memory = held, memory  # bytes of activations per sample, bytes that may be used
        self.x = batches.move(x, model.device, dtype)
        self.n = batches.size(x)
        self._tensors = {name: t.detach() for name, t in model.tensors(dtype).items()}
        self.start: Weights = {name: self._tensors[name].clone() for name in model.parameter_names}
        self.size = sum(w.numel() for w in self.start.values())
        with torch.no_grad():
            self.outputs = self.model.run(self._tensors, batches.take(self.x, slice(0, 1))).numel()
        self.y = self.targets(y, self.n)

    # --------------------------------------------------------------------- the loss

    def targets(self, y: Any, n: int) -> Tensor:
        """Targets as the loss takes them.

        Raises:
            InputError: they do not fit the samples, the outputs or the loss.
        """
        t = torch.as_tensor(y).detach().to(self.model.device)
        if self.loss == "cross-entropy":
            if self.outputs < 2:
                raise InputError("cross-entropy needs two outputs or more: the network has one")
            if tuple(t.shape) != (n,) or t.is_floating_point() or not 0 <= int(t.min()) <= int(t.max()) < self.outputs:
                raise InputError(
                    f"targets of cross-entropy are whole numbers [{n}] from 0 to {self.outputs - 1}, "
                    f"not {t.dtype} {tuple(t.shape)} from {float(t.min()):g} to {float(t.max()):g}"
                )
            return t.long()
        if len(t) != n or t.numel() != n * self.outputs:
            classes = "; classes are for loss='cross-entropy'" if t.dim() == 1 and not t.is_floating_point() else ""
            raise InputError(
                f"targets have shape [{n}, {self.outputs}], one row per sample, not {tuple(t.shape)}{classes}"
            )
        t = t.reshape(n, self.outputs).to(self.dtype)
        if not torch.isfinite(t).all():
            raise InputError("the targets hold NaN or infinity")
        return t

    def losses(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ ``[b]`` of outputs ``[b, O]``."""
        if self.loss == "cross-entropy":
            return F.cross_entropy(f, y, reduction="none")
        return 0.5 * (f - y).square().sum(1)

    def residuals(self, f: Tensor, y: Tensor) -> Tensor:
        """r = ∂ℓ/∂f ``[b, O]``."""
        if self.loss == "cross-entropy":
            return f.softmax(1) - F.one_hot(y, self.outputs).to(f)
        return f - y

    def secant(self, before: Tensor, after: Tensor) -> Tensor | None:
        """H̄ ``[n, O, O]`` with r(after) - r(before) = H̄ (after - before); None for the identity (squared loss)."""
        if self.loss == "squared":
            return None
        import numpy as np

        found = torch.zeros(*before.shape, self.outputs).to(before)
        for node, weight in zip(*np.polynomial.legendre.leggauss(_NODES), strict=True):
            p = (before + (after - before) * (node + 1) / 2).softmax(1)
            found += weight / 2 * (torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
        return found

    # ------------------------------------------------------------------ the network

    def run(self, weights: Weights, x: Any = None) -> Tensor:
        """Outputs ``[b, O]``."""
        x = self.x if x is None else x
        return self.model.run({**self._tensors, **weights}, x).flatten(1)

    def evaluate(self, weights: Weights, x: Any = None) -> Tensor:
        """Outputs ``[b, O]``, without a graph."""
        with torch.no_grad():
            return self.run(weights, x)

    def jacobian(self, weights: Weights) -> Tensor:
        """J ``[n, O, P]`` at some weights."""
        eye = torch.eye(self.outputs, dtype=self.dtype, device=self.model.device)

        def alone(one: Any) -> Tensor:
            whole = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, one)
            pull = vjp(lambda own: self.run(own, whole)[0], weights)[1]
            (found,) = vmap(pull)(eye)
            return torch.cat([found[name].reshape(self.outputs, -1) for name in self.start], 1)

        width = self.fit(
            self.outputs * (2 * self.size * self.dtype.itemsize + self._held), "the Jacobian of one sample"
        )
        parts = []
        for index in torch.arange(self.n).split(width):
            part = batches.take(self.x, index)
            parts.append(mapped(alone, (axes(part),), part).detach())
        return torch.cat(parts)

    def sample_gradients(self, weights: Weights, index: Tensor) -> Weights:
        """∇ℓ_i at the same weights for some samples, ``[b, *shape]`` by name."""
        part, y = batches.take(self.x, index), self.y[index]
        return mapped(grad(self._alone), (None, axes(part), 0), weights, part, y)

    def own_gradients(self, many: Weights, index: Tensor) -> Weights:
        """∇ℓ_i for some samples, each at weights of its own ``[b, *shape]``."""
        part, y = batches.take(self.x, index), self.y[index]
        return mapped(grad(self._alone), (0, axes(part), 0), many, part, y)

    def gradient(self, weights: Weights, shares: Tensor) -> tuple[Weights, Tensor]:
        """∇ Σ_j shares_j ℓ_j, and ℓ ``[n]``."""
        found: tuple[Weights, Tensor] = grad(self._shared, has_aux=True)(weights, shares)
        return found

    def gradients(self, many: Weights, shares: Tensor) -> tuple[Weights, Tensor]:
        """The same for b trainings: weights ``[b, *shape]``, shares ``[b, n]``; losses ``[b, n]``."""
        return mapped(grad(self._shared, has_aux=True), (0, 0), many, shares)

    def _shared(self, weights: Weights, shares: Tensor) -> tuple[Tensor, Tensor]:
        losses = self.losses(self.run(weights), self.y)
        return (shares * losses).sum(), losses

    def _alone(self, weights: Weights, one: Any, y: Tensor) -> Tensor:
        whole = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, one)
        return self.losses(self.run(weights, whole), y[None])[0]

    # ------------------------------------------------------------------------ memory

    def samples_together(self) -> int:
        """Gradients of how many samples fit."""
        return self.fit(3 * (self.size * self.dtype.itemsize + self._held), "the gradient of one sample")

    def trainings_together(self) -> int:
        """How many trainings fit: weights, gradients and what autograd holds of n samples each."""
        each = 6 * self.size * self.dtype.itemsize + 3 * self.n * self._held
        return self.fit(each, f"one training on {self.n} samples")

    def fit(self, each: int, what: str) -> int:
        """How many of something fit into the memory.

        Raises:
            InputError: not even one.
        """
        if each > self._memory:
            raise InputError(
                f"{what} takes about {size(each)} and memory= allows {size(self._memory)}: "
                "allow more, or take fewer samples or parameters (params=)"
            )
        return self._memory // max(each, 1)


def axes(part: Any) -> Any:
    """What ``vmap`` goes over in a batch."""
    return tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, part)


def mapped(function: Any, in_dims: Any, *given: Any) -> Any:
    """``vmap`` of a function.

    Raises:
        CaptureError: the network does something that cannot be vectorised.
    """
    try:
        return vmap(function, in_dims=in_dims)(*given)
    except UNSUPPORTED as error:
        if isinstance(error, InputError) or out_of_memory(error):
            raise
        raise CaptureError(
            f"the network cannot run with many weights at a time under torch.vmap ({str(error).splitlines()[0]}): "
            "replace what reads values or writes in place in its forward pass"
        ) from error


def moved(w: Weights, gradient: Weights, lr: float) -> Weights:
    """w - lr · gradient."""
    return {name: value - lr * gradient[name] for name, value in w.items()}


def dot(one: Weights, other: Weights) -> Tensor:
    """⟨one_b, other_b⟩ ``[b]`` of gradients ``[b, *shape]``, or of these with one gradient ``[*shape]``."""
    total: Tensor | None = None
    for name, part in one.items():
        row = (part * other[name]).flatten(1).sum(1)
        total = row if total is None else total + row
    assert total is not None
    return total


def _refuse_noise(model: TangentModel) -> None:
    """Training-mode layers whose effect on gradient descent the derivation does not cover."""
    for name, module in model.module.named_modules():
        if not module.training:
            continue
        rate = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(rate, float) and rate > 0:
            raise InputError(
                f"{name!r} has dropout in training mode: the effective Gram matrix is of deterministic gradient "
                "descent; call eval() on the module to train without it"
            )
        if isinstance(module, _BatchNorm) and module.track_running_stats and model.batch_norm == "eval":
            raise InputError(
                f"{name!r} is a batch norm in training mode, where samples have no gradients of their own: call "
                "eval() on the module to use its running statistics, or wrap it with batch_norm='frozen'"
            )
