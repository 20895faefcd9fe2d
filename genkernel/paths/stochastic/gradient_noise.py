"""The covariance of a mini-batch gradient, as a low-rank factor.

Σ is P × P; what is stored are n centred per-sample gradients, and products with Σ or with a square
root of it go through them. Σ^{1/2}ξ is drawn as √scale · G̃ᵀz with z ~ N(0, I_n), which has the same
distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError, RandomOutputError
from genkernel.paths.losses import LossFunction, loss_model
from genkernel.paths.stochastic.iid_batches import check_batch
from genkernel.tangent import batches
from genkernel.tangent.jvp import backward
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.restore import random_state_kept
from genkernel.tangent.sample_gradients import sample_gradients

_CHUNK = 64  # samples whose gradients are taken at once
_DENSE = 20_000  # parameters: 3 GB in float64


@dataclass(frozen=True)
class GradientNoise:
    """Σ = scale · G̃ᵀG̃, the covariance of the gradient of one mini-batch.

    Attributes:
        factor: G̃ ``[n, P]``, per-sample gradients minus their mean.
        scale: what the sampling of batches makes of the scatter G̃ᵀG̃.
        mean: the mean gradient ``[P]``.
        layout: parameter name → shape, in the order of the P columns.
        route: how the gradients were taken: ``"vmap"`` or ``"loop"``.
    """

    factor: Tensor
    scale: float
    mean: Tensor
    layout: dict[str, tuple[int, ...]] = field(default_factory=dict)
    route: str = "vmap"

    @property
    def parameters(self) -> int:
        return self.factor.shape[1]

    def apply(self, vectors: Tensor) -> Tensor:
        """Σv of a vector ``[P]`` or of several as rows ``[k, P]``; the same shape.

        Raises:
            InputError: the last axis is not P long.
        """
        if vectors.dim() not in (1, 2) or vectors.shape[-1] != self.parameters:
            raise InputError(
                f"Σ acts on vectors [{self.parameters}] or rows [k, {self.parameters}], not on {tuple(vectors.shape)}"
            )
        return self.scale * ((vectors.to(self.factor) @ self.factor.T) @ self.factor)

    def sample(self, z: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Σ^{1/2}ξ in distribution, ξ ~ N(0, I_P).

        Args:
            z: standard normal numbers ``[n]``, or ``[k, n]`` for k draws; drawn if there are none.
            generator: draws one z. The global generator is never used.

        Returns:
            ``[P]``, or ``[k, P]``.

        Raises:
            InputError: neither or both are given, or z has another shape.
        """
        count = self.factor.shape[0]
        if (z is None) == (generator is None):
            raise InputError("a draw needs either z, standard normal numbers [n] or [k, n], or a torch.Generator")
        if z is None:
            z = torch.randn(count, generator=generator, dtype=self.factor.dtype, device=self.factor.device)
        if z.dim() not in (1, 2) or z.shape[-1] != count:
            raise InputError(f"z has shape {tuple(z.shape)}: the {count} samples need [{count}] or [k, {count}]")
        return math.sqrt(self.scale) * (z.to(self.factor) @ self.factor)

    def diagonal(self) -> Tensor:
        """The variance of every entry of the gradient ``[P]``."""
        return self.scale * self.factor.square().sum(0)

    def trace(self) -> float:
        """The mean squared distance of a batch's gradient from the mean gradient."""
        return self.scale * float(self.factor.square().sum())

    def dense(self) -> Tensor:
        """Σ itself ``[P, P]``.

        Raises:
            InputError: it would not fit into memory.
        """
        if self.parameters > _DENSE:
            raise InputError(
                f"Σ of {self.parameters} parameters is a matrix of {8 * self.parameters**2 / 2**30:.0f} GiB: "
                "use apply, diagonal, trace or sample"
            )
        return self.scale * (self.factor.T @ self.factor)


def gradient_noise_covariance(
    model: TangentModel | nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    batch_size: int,
    population: float | None = None,
    replacement: bool = False,
) -> GradientNoise:
    """The covariance of the gradient of a uniformly drawn mini-batch of the mean loss.

    With S the (n − 1)-normalised covariance of the per-sample gradients, batches of B out of N samples have
    Σ = (1/B)(1 − B/N) S without replacement and Σ = (1/B)((N − 1)/N) S with replacement. From one batch both are
    estimated without bias: S of the batch stands for S of the population without replacement, and for
    ((N − 1)/N) S with replacement.

    Gradients are taken in float64 and evaluation mode, one sample at a time under ``vmap``. Where the loss does what
    ``vmap`` cannot follow (data-dependent branches, ``.item()``, custom autograd functions), they come from a loop of
    ``torch.autograd.grad``; ``route`` says which it was. Module, gradients and global generators are left as they are.

    Args:
        model: a TangentModel (its selected parameters count, at its weights) or a module.
        loss_fn: ``loss_fn(module, batch) -> Tensor[n]``, per-sample losses, the same for the same batch.
        batch: n ≥ 2 samples: all of the population, or one batch of it.
        batch_size: B, of the batches whose gradients are meant.
        population: N, when ``batch`` is one batch drawn the same way from N samples (``math.inf`` for fresh data);
            None when ``batch`` is the whole population.
        replacement: samples are drawn with replacement within a batch.

    Raises:
        InputError: sizes do not fit, the loss is not per sample, or batch norm is in training mode.
        RandomOutputError: the loss differs between two calls on the same batch.
        NonFiniteError: a gradient is NaN or infinite.
    """
    model = as_tangent_model(model)
    n = batches.size(batch)
    scale = noise_scale(n, batch_size, population=population, replacement=replacement)
    layout = {name: tuple(p.shape) for name, p in model.parameters.items()}
    gradients, route = per_sample_gradients(model, loss_fn, batch)
    mean = gradients.mean(0)
    return GradientNoise(gradients - mean, scale, mean, layout, route)


def noise_scale(n: int, batch_size: int, *, population: float | None = None, replacement: bool = False) -> float:
    """c in Σ = c Σ_i (g_i − ḡ)(g_i − ḡ)ᵀ over n samples. Arguments as for :func:`gradient_noise_covariance`.

    Raises:
        InputError: sizes do not fit.
    """
    whole = population is None
    size = n if population is None else population
    check_batch(size, batch_size, replacement)
    if n < 2:
        raise InputError("a covariance needs at least two samples, and there is one")
    if not replacement and n > size:
        raise InputError(f"population={population} is smaller than the {n} samples that were drawn from it")
    if replacement:
        return 1 / (batch_size * n) if whole else 1 / (batch_size * (n - 1))
    return (1 - batch_size / size) / (batch_size * (n - 1))


def per_sample_gradients(model: TangentModel, loss_fn: LossFunction, batch: Any) -> tuple[Tensor, str]:
    """∇ℓ_i ``[n, P]`` in float64, flattened in the model's order of parameters, and how they were taken.

    Raises:
        InputError, RandomOutputError, NonFiniteError: as for :func:`gradient_noise_covariance`.
    """
    if model.batch_norm == "train":
        raise InputError(
            "batch norm in training mode has no per-sample gradients: wrap the model with batch_norm='eval' or 'frozen'"
        )
    with _undisturbed(model):
        losses = loss_model(model.module, loss_fn, model.parameter_names)
        tensors = model.tensors(torch.float64)
        data = batches.move(batch, model.device, torch.float64)
        _check_losses(losses, tensors, data)

        def alone(one: Any) -> Tensor:
            with torch.enable_grad():
                loss = losses.run(tensors, one)
            found = backward(losses, tensors, loss, torch.ones(1))
            return torch.cat([g.reshape(-1) for g in found.values()])

        vectorised: bool | None = None
        rows = []
        for first in range(0, batches.size(data), _CHUNK):
            part = batches.take(data, slice(first, first + _CHUNK))
            gradients, vectorised = sample_gradients(losses, tensors, part, alone, vectorised)
            rows.append(gradients)
    found, route = torch.cat(rows), "vmap" if vectorised else "loop"
    if not torch.isfinite(found).all():
        row = int((~torch.isfinite(found)).any(1).nonzero()[0])
        raise NonFiniteError(f"the loss gradient of sample {row} holds NaN or infinity")
    return found, route


def _check_losses(losses: TangentModel, tensors: dict[str, Tensor], data: Any) -> None:
    with torch.no_grad():
        first, second = losses.run(tensors, data), losses.run(tensors, data)
    if not torch.equal(first, second) and not bool(first.isnan().any()):
        raise RandomOutputError(
            "loss_fn gives other losses when it is called again: draw noise, time steps and crops beforehand and put "
            "them into the batch"
        )


@contextmanager
def _undisturbed(model: TangentModel) -> Iterator[None]:
    """Evaluation mode, and every global generator as it was afterwards."""
    devices = [model.device] if model.device.type == "cuda" else []
    with random_state_kept(), torch.random.fork_rng(devices=devices), model.evaluating():
        yield
