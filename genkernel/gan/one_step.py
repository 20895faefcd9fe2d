"""Does the kernel predict what one real optimizer step does? (THEORY §7, Alg. 7A)

The network is copied, the loss of the latents is differentiated as in training, a torch optimizer makes its
step, and what the samples moved by is compared with η U. The difference falls linearly with the step size on
smooth networks (a kink of a ReLU that is crossed counts fully, so less steadily there).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from genkernel.errors import InputError
from genkernel.gan.generator import Generator
from genkernel.tangent import Preconditioner, TangentModel, batches, operator
from genkernel.tangent.jvp import Vector
from genkernel.tangent.passes import guarded

Array = NDArray[np.float64]

OPTIMIZERS = ("sgd", "adam")


@dataclass
class OneStep:
    """How far the first order is from real steps.

    Attributes:
        optimizer: ``"sgd"`` or ``"adam"``.
        latents: n, that the step was made of.
        etas: step sizes ``[k]``, each half of the one before.
        errors: ‖ΔG − η U‖ / ‖ΔG‖ ``[k]``.
        ratios: errors[i]/errors[i+1] ``[k - 1]``: 2 for a smooth network.
        movement: ‖ΔG‖/√n ``[k]``.
        buffers: what running statistics alone move the samples by in a step in train mode, ‖ΔG‖/√n: O(1) whatever
            the step size, and no part of U. NaN without batch normalisation.
    """

    optimizer: str
    latents: int
    etas: Array
    errors: Array
    ratios: Array
    movement: Array
    buffers: float


def one_step(
    generator: Generator,
    batch: dict[str, Any],
    drive: Tensor,
    *,
    optimizer: str = "sgd",
    eta: float | None = None,
    halvings: int = 4,
    warmup: int = 4,
    dtype: torch.dtype | str | None = torch.float64,
) -> OneStep:
    """Compare real steps of several sizes with the kernel's prediction.

    Args:
        batch: n latents; the loss is the mean over them.
        drive: δ ``[n, *out]`` there.
        optimizer: ``"sgd"``, or ``"adam"`` (β₁ = 0, β₂ = 0.999, with second moments from ``warmup`` gradients before).
        eta: the largest step size; by default the one that moves samples by about a twentieth of their spread.
        halvings: how often it is halved.
        warmup: with Adam, gradients of parts of the batch that its second moments have seen.
        dtype: of both sides; float64 by default, because small steps are lost in float32's rounding.

    Raises:
        InputError: an unknown optimizer, or a step size that is not positive.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(f"optimizer is 'sgd' or 'adam', not {optimizer!r}")
    if halvings < 1 or (eta is not None and not eta > 0):
        raise InputError("a check needs a positive step size and at least one halving")
    model = generator.tangent
    n = batches.size(batch)
    op = operator(model, batch, dtype=dtype, progress=False)
    gradient = op.vjp(drive / n)
    names = model.parameter_names
    before = model.state()

    def stepped(lr: float) -> tuple[Vector, Preconditioner | None]:
        """Weights after one real step, and the P it used."""
        weights = {name: before[name].to(op.dtype).clone().requires_grad_(True) for name in names}
        made: torch.optim.Optimizer
        if optimizer == "sgd":
            made = torch.optim.SGD([(name, weights[name]) for name in names], lr=lr)
        else:
            made = torch.optim.Adam([(name, weights[name]) for name in names], lr=0.0, betas=(0.0, 0.999))
            for part in range(warmup):
                rows = torch.arange(n) % warmup == part
                _set(weights, op.vjp(torch.where(_column(rows, drive), drive, 0) / max(1, int(rows.sum()))))
                made.step()
            made.param_groups[0]["lr"] = lr
        _set(weights, gradient)
        made.step()
        P = (
            Preconditioner.from_optimizer(made.state_dict(), model, kind="adam", learning_rates="exclude")
            if optimizer == "adam"
            else None
        )
        return {name: weights[name].detach() for name in names}, P

    _, P = stepped(0.0)
    direction = gradient
    if P is not None:
        rows = P.to(model.device, op.dtype).apply({name: g[None] for name, g in gradient.items()})
        direction = {name: row[0] for name, row in rows.items()}
    U = -op.jvp(direction)
    start = _outputs(model, batch, op.dtype)
    if eta is None:
        spread = float((start - start.mean(0)).double().norm())
        eta = 0.05 * (spread if spread > 0 else float(start.double().norm())) / max(float(U.double().norm()), 1e-300)
    etas = [eta / 2**k for k in range(halvings + 1)]
    errors, movement = [], []
    for lr in etas:
        weights, _ = stepped(lr)
        moved = _outputs(model.at(weights, strict=False), batch, op.dtype) - start
        size = float(moved.double().norm())
        errors.append(float((moved - lr * U).double().norm()) / size if size else math.nan)
        movement.append(size / math.sqrt(n))
    found = np.array(errors)
    return OneStep(
        optimizer=optimizer,
        latents=n,
        etas=np.array(etas),
        errors=found,
        ratios=found[:-1] / found[1:],
        movement=np.array(movement),
        buffers=_buffers(generator, batch),
    )


def _buffers(generator: Generator, batch: dict[str, Any]) -> float:
    """How far the running statistics of one forward pass in train mode move the samples."""
    if not any(isinstance(m, _BatchNorm) and m.track_running_stats for m in generator.module.modules()):
        return math.nan
    model = generator.tangent
    mine = copy.deepcopy(generator.module)
    with guarded(model), torch.no_grad():
        start = generator.images(batch)
        mine.train()
        model.call(mine, batches.move(batch, model.device, model.dtype))
    buffers = {name: b for name, b in mine.named_buffers()}
    end = model.at(buffers, strict=False).forward(batch)
    return float((end - start).double().norm()) / math.sqrt(len(start))


def _outputs(model: TangentModel, batch: dict[str, Any], dtype: torch.dtype) -> Tensor:
    with guarded(model), model.evaluating(), torch.no_grad():
        tensors = {name: t.detach() for name, t in model.tensors(dtype).items()}
        return model.run(tensors, batches.move(batch, model.device, dtype))


def _set(weights: Vector, gradient: Vector) -> None:
    for name, weight in weights.items():
        weight.grad = gradient[name].clone().to(weight)


def _column(rows: Tensor, like: Tensor) -> Tensor:
    return rows.to(like.device).reshape(-1, *[1] * (like.dim() - 1))
