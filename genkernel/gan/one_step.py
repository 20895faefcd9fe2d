"""Does the kernel predict what one real optimizer step does? (THEORY §7, Alg. 7A)

The network is copied, the loss of the latents is differentiated as in training, a torch optimizer makes its
step, and what the samples moved by is compared with η U. The difference falls linearly with the step size on
smooth networks (a kink of a ReLU that is crossed counts fully, so less steadily there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
            the step size, and no part of U. NaN without batch normalisation, and where its statistics are held.
    """

    optimizer: str
    latents: int
    etas: Array
    errors: Array
    ratios: Array
    movement: Array
    buffers: float


def one_step(
    generator: Generator, batch: dict[str, Any], drive: Tensor, *, optimizer: str = "sgd", **options: Any
) -> OneStep:
    """:func:`one_steps` with one optimizer."""
    return one_steps(generator, batch, drive, (optimizer,), **options)[0]


def one_steps(
    generator: Generator,
    batch: dict[str, Any],
    drive: Tensor,
    optimizers: Sequence[str] = OPTIMIZERS,
    *,
    eta: float | None = None,
    halvings: int = 4,
    warmup: int = 4,
    dtype: torch.dtype | str | None = torch.float64,
) -> list[OneStep]:
    """Compare real steps of several sizes with the kernel's prediction, for several optimizers.

    Args:
        batch: n latents; the loss is the mean over them.
        drive: δ ``[n, *out]`` there.
        optimizers: ``"sgd"``, or ``"adam"`` (β₁ = 0, β₂ = 0.999, with second moments from ``warmup`` gradients before).
        eta: the largest step size; by default the one that moves samples by about a twentieth of their spread (of their
            size, where they are all the same).
        halvings: how often it is halved.
        warmup: with Adam, gradients of parts of the batch that its second moments have seen.
        dtype: of both sides; float64 by default, because small steps are lost in float32's rounding.

    Raises:
        InputError: an unknown optimizer, or a step size that is not positive.
    """
    for optimizer in optimizers:
        if optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer is 'sgd' or 'adam', not {optimizer!r}")
    if halvings < 1 or (eta is not None and not eta > 0):
        raise InputError("a check needs a positive step size and at least one halving")
    model = generator.tangent
    n = batches.size(batch)
    op = operator(model, batch, dtype=dtype, progress=False)
    gradient = op.vjp(drive / n)
    start = _outputs(model, batch, op.dtype)
    # parts of the batch by themselves: latents without drive would only cost time
    rows = [torch.arange(part, n, warmup) for part in range(min(warmup, n))] if "adam" in optimizers else []
    seen = [
        operator(model, batches.take(batch, r), dtype=dtype, progress=False).vjp(drive[r.to(drive.device)] / len(r))
        for r in rows
    ]
    buffers = _buffers(generator, batch)
    found = []
    for optimizer in optimizers:
        step = _Step(model, op.dtype, optimizer, gradient, seen if optimizer == "adam" else [])
        U = -op.jvp(step.direction())
        largest = eta or 0.05 * _scale(start) / max(float(U.double().norm()), 1e-300)
        etas = [largest / 2**k for k in range(halvings + 1)]
        errors, movement = [], []
        for lr in etas:
            moved = _outputs(model, batch, op.dtype, step.weights(lr)) - start
            size = float(moved.double().norm())
            errors.append(float((moved - lr * U).double().norm()) / size if size else math.nan)
            movement.append(size / math.sqrt(n))
        values = np.array(errors)
        with np.errstate(divide="ignore", invalid="ignore"):  # a linear generator has no error at all
            ratios = values[:-1] / values[1:]
        found.append(
            OneStep(
                optimizer=optimizer,
                latents=n,
                etas=np.array(etas),
                errors=values,
                ratios=ratios,
                movement=np.array(movement),
                buffers=buffers,
            )
        )
    return found


class _Step:
    """A real step of a torch optimizer, of any size.

    Args:
        gradient: of the loss.
        seen: gradients of steps of size zero before it, which fill second moments.
    """

    def __init__(self, model: TangentModel, dtype: torch.dtype, kind: str, gradient: Vector, seen: list[Vector]):
        state = model.state()
        self._before = {name: state[name].to(dtype) for name in model.parameter_names}
        self._model, self._kind, self._gradient, self._seen = model, kind, gradient, seen

    def weights(self, lr: float) -> Vector:
        """After the step."""
        return {name: weight.detach() for name, weight in self._made(lr)[0].items()}

    def direction(self) -> Vector:
        """P g, with the P that the optimizer uses."""
        if self._kind == "sgd":
            return self._gradient
        state = self._made(0.0)[1].state_dict()
        P = Preconditioner.from_optimizer(state, self._model, kind="adam", learning_rates="exclude")
        some = next(iter(self._gradient.values()))
        rows = P.to(some.device, some.dtype).apply({name: g[None] for name, g in self._gradient.items()})
        return {name: row[0] for name, row in rows.items()}

    def _made(self, lr: float) -> tuple[Vector, torch.optim.Optimizer]:
        weights = {name: weight.clone().requires_grad_(True) for name, weight in self._before.items()}
        made: torch.optim.Optimizer
        if self._kind == "sgd":
            made = torch.optim.SGD(list(weights.items()), lr=lr)
        else:
            made = torch.optim.Adam(list(weights.items()), lr=0.0, betas=(0.0, 0.999))
        for gradient in self._seen:
            _set(weights, gradient)
            made.step()
        made.param_groups[0]["lr"] = lr
        _set(weights, self._gradient)
        made.step()
        return weights, made


def _scale(start: Tensor) -> float:
    """The spread of samples, or their size where they are the same, or 1 for each where that is zero as well."""
    spread, size = float((start - start.mean(0)).double().norm()), float(start.double().norm())
    return spread if spread > 1e-7 * size else size or math.sqrt(len(start))


def _buffers(generator: Generator, batch: dict[str, Any]) -> float:
    """How far running statistics of one forward pass in train mode move the samples; NaN where they are not used."""
    model = generator.tangent
    used = any(isinstance(m, _BatchNorm) and m.track_running_stats for m in generator.module.modules())
    if not used or model.batch_norm != "eval":
        return math.nan
    start = _outputs(model, batch, model.dtype)
    with guarded(model), torch.no_grad():
        tensors = {name: t.detach() for name, t in model.tensors().items()}  # whose buffers are copies
        inputs = batches.move(batch, model.device, model.dtype)
        with model.evaluating():
            for module in generator.module.modules():
                module.training = True  # assignment: some modules override train() with side effects
            model.run(tensors, inputs)
        with model.evaluating():
            end = model.run(tensors, inputs)
    return float((end - start).double().norm()) / math.sqrt(len(start))


def _outputs(model: TangentModel, batch: dict[str, Any], dtype: torch.dtype, weights: Vector | None = None) -> Tensor:
    """Samples, at other weights where they are given; statistics and other buffers are those of the model as it is."""
    with guarded(model), model.evaluating(), torch.no_grad():
        tensors = {name: t.detach() for name, t in model.tensors(dtype).items()} | (weights or {})
        return model.run(tensors, batches.move(batch, model.device, dtype))


def _set(weights: Vector, gradient: Vector) -> None:
    for name, weight in weights.items():
        weight.grad = gradient[name].clone().to(weight)
