"""Training problems whose parameters carry an axis of runs: what stochastic simulations step on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from genkernel.errors import InputError
from genkernel.paths.losses import LossFunction, loss_model
from genkernel.tangent import batches
from genkernel.tangent.model import TangentModel, as_tangent_model

# θ [P], samples (a pytree with a leading axis b) → losses [b]
Losses = Callable[[Tensor, Any], Tensor]


class Problem:
    """The mean over n samples of a loss ℓ_i(θ), for R parameter vectors at once.

    Args:
        losses: ``losses(theta [P], samples) -> [b]``, per-sample losses as ``torch.func`` can batch and differentiate
            them.
        data: the n samples: a pytree of tensors with a leading axis.
        parameters: P.

    Raises:
        InputError: P is not positive, or the data has no samples.
    """

    def __init__(self, losses: Losses, data: Any, parameters: int):
        if parameters < 1:
            raise InputError(f"parameters={parameters}: a problem needs at least one")
        self.losses, self.data, self.parameters = losses, data, parameters
        self.samples = batches.size(data)

    def loss(self, theta: Tensor) -> Tensor:
        """L = the mean loss ``[R]`` at ``theta [R, P]``."""
        return vmap(lambda t: self.losses(t, self.data).mean())(theta)

    def gradient(self, theta: Tensor, *, weights: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Σ_i w_i ∇ℓ_i at ``theta [R, P]``: one backward pass, no per-sample gradients.

        Args:
            weights: ``[R, n]``; ∇L without them.
            index: the samples of each run's batch ``[R, B]``, for the mean gradient of the batch instead.

        Returns:
            ``[R, P]``.
        """
        if index is not None:
            return vmap(grad(lambda t, i: self.losses(t, batches.take(self.data, i)).mean()))(theta, index)
        if weights is None:
            return vmap(grad(lambda t: self.losses(t, self.data).mean()))(theta)
        return vmap(grad(lambda t, w: (w * self.losses(t, self.data)).sum()))(theta, weights)

    def gradient_scatter(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """∇L and Σ_i (∇ℓ_i − ∇L)², entry by entry, both ``[R, P]``. Holds per-sample gradients ``[R, n, P]``."""
        rows = torch.arange(self.samples)

        def one(t: Tensor, i: Tensor) -> Tensor:
            return self.losses(t, batches.take(self.data, i[None])).squeeze(0)

        every = vmap(vmap(grad(one), (None, 0)), (0, None))(theta, rows.to(theta.device))
        mean = every.mean(1)
        return mean, (every - mean[:, None]).square().sum(1)

    def hessian_product(self, theta: Tensor, vectors: Tensor) -> Tensor:
        """∇²L v per run ``[R, P]``, forward over reverse."""

        def loss(t: Tensor) -> Tensor:
            return self.losses(t, self.data).mean()

        def one(t: Tensor, v: Tensor) -> Tensor:
            product: Tensor = jvp(grad(loss), (t,), (v,))[1]
            return product

        return vmap(one)(theta, vectors)


class LinearRegression(Problem):
    """ℓ_i(θ) = ½ (x_i·θ − y_i)², everything in closed form.

    Args:
        x: inputs ``[n, P]``.
        y: targets ``[n]``.

    Raises:
        InputError: shapes do not fit.
    """

    def __init__(self, x: Tensor, y: Tensor):
        if x.dim() != 2 or y.shape != x.shape[:1]:
            raise InputError(
                f"a linear regression takes inputs [n, P] and targets [n], not {tuple(x.shape)} and {tuple(y.shape)}"
            )
        self.x, self.y = x.detach().double(), y.detach().double()
        super().__init__(_half_squares, (self.x, self.y), x.shape[1])

    def loss(self, theta: Tensor) -> Tensor:
        return 0.5 * self._residuals(theta).square().mean(1)

    def gradient(self, theta: Tensor, *, weights: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        if index is None:
            residuals = self._residuals(theta)
            return (residuals / self.samples if weights is None else residuals * weights) @ self.x
        x = self.x[index]  # [R, B, P]
        residuals = (x * theta[:, None]).sum(2) - self.y[index]
        return (x * residuals[:, :, None]).mean(1)

    def gradient_scatter(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        residuals = self._residuals(theta)
        mean = residuals @ self.x / self.samples
        return mean, (residuals.square() @ self.x.square() - self.samples * mean.square()).clamp_min(0)

    def hessian_product(self, theta: Tensor, vectors: Tensor) -> Tensor:
        return vectors @ self.x.T @ self.x / self.samples

    def _residuals(self, theta: Tensor) -> Tensor:
        return theta @ self.x.T - self.y


def _half_squares(theta: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
    x, y = pair
    return 0.5 * (x @ theta - y).square()


def model_problem(model: TangentModel | nn.Module, loss_fn: LossFunction, data: Any) -> tuple[Problem, Tensor]:
    """Training a network as a Problem in float64, on a copy of it in evaluation mode.

    Args:
        model: a TangentModel (its selected parameters train) or a module.
        loss_fn: ``loss_fn(module, batch) -> Tensor[n]``, per-sample losses.
        data: the training samples: a pytree of tensors with a leading axis.

    Returns:
        The problem, and the present weights θ ``[P]``, flattened in the model's order of parameters.

    Raises:
        InputError: batch norm is in training mode, where a sample's loss depends on the others of its batch.
    """
    model = as_tangent_model(model)
    if model.batch_norm == "train":
        raise InputError(
            "batch norm in training mode has no per-sample losses: wrap the model with batch_norm='eval' or 'frozen'"
        )
    with model.evaluating():
        tensors = {name: tensor.detach().clone() for name, tensor in model.tensors(torch.float64).items()}
    private = loss_model(model.module, loss_fn, model.parameter_names)
    private = TangentModel(copy.deepcopy(model.module).eval(), private.call, set(model.parameter_names).__contains__)
    shapes = {name: tensors[name].shape for name in model.parameter_names}

    def losses(theta: Tensor, batch: Any) -> Tensor:
        return private.run({**tensors, **unflattened(theta, shapes)}, batch)

    theta = torch.cat([tensors[name].reshape(-1) for name in shapes])
    return Problem(losses, batches.move(data, model.device, torch.float64), theta.numel()), theta


def unflattened(theta: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Parameters by name out of a vector ``[P]``."""
    parts = theta.split([shape.numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
