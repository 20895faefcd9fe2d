"""The gradient that the optimizer saw against the sum over groups: at most one number lies between them.

Loss scaling, the mean over accumulated micro-batches and clipping by the global norm all multiply the whole gradient
by one number, which is measured here instead of being asked for. Clipping by value is elementwise; it is recognised
because it gives exactly what clamping gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
COARSE = 5e-2  # where anything runs in 16 bits


@dataclass(frozen=True)
class Agreement:
    """How ``.grad`` follows from the groups.

    Attributes:
        factor: the number, or one per coordinate ``[P]`` with clipping by value.
        error: ‖grad - factor · sum‖ / ‖grad‖.
    """

    factor: float | Tensor
    error: float


def compare(grad: Tensor, total: Tensor, allowed: float) -> Agreement:
    """What lies between the optimizer's gradient and Σ of the groups, both ``[P]``.

    Args:
        allowed: the error up to which one number is enough (:func:`tolerance`).
    """
    size = float(grad.norm())
    if size == 0:
        return Agreement(0.0, 0.0)
    square = float(total @ total)
    if not square:
        return Agreement(0.0, 1.0)
    factor = float(grad @ total) / square
    error = float(torch.add(grad, total, alpha=-factor).norm()) / size
    if error <= allowed:
        return Agreement(factor, error)
    clamped = _by_value(grad, total)
    return clamped if clamped.error < error else Agreement(factor, error)


def tolerance(dtype: torch.dtype) -> float:
    """The relative error of a gradient that rounding explains, for parameters of a dtype."""
    return TOLERANCE.get(dtype, COARSE)


def _by_value(grad: Tensor, total: Tensor) -> Agreement:
    """grad = clamp(s · total, ±limit) with the limit at the largest entry."""
    limit = float(grad.abs().max())
    at_limit = grad.abs() >= limit * (1 - 1e-6)
    inside = ~at_limit & (total != 0)
    if bool(inside.any()):
        free, own = grad[inside].double(), total[inside].double()
        expected = (total.double() * (float(free @ own) / float(own.square().sum()))).clamp(-limit, limit)
    else:  # every coordinate was clipped
        expected = total.double().sign() * limit
    error = float((grad.double() - expected).norm()) / float(grad.double().norm())
    ratio = torch.where(total != 0, expected / torch.where(total != 0, total, 1).double(), 0.0)
    return Agreement(ratio.to(grad.dtype), error)
