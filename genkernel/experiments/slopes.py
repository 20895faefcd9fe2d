"""Orders of convergence, and what criteria come to in one word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from genkernel.paths.stochastic.weak_error import fit_slope

# How far a fitted slope may be from the order it is taken for. Fits go over few octaves from an η that is not small, so
# a tenth is too strict; half is where the next order begins.
WITHIN = 0.3
HALFWAY = 1.5  # between the first and the second order


def slope(rates: Sequence[float], errors: Sequence[float]) -> float:
    """Least-squares slope of log error over log rate; NaN where an error is zero or not finite."""
    y = np.asarray(errors, dtype=np.float64)
    if not np.isfinite(y).all() or (y <= 0).any():
        return float("nan")
    return fit_slope(rates, y).value


def has_order(value: float, order: int) -> bool | None:
    """Whether a slope is that of an order; None where there is no slope."""
    return None if np.isnan(value) else bool(abs(value - order) <= WITHIN)


def below_halfway(value: float) -> bool | None:
    """Whether a slope is nearer to the first order than to the second; None where there is no slope."""
    return None if np.isnan(value) else bool(value < HALFWAY)


def verdict(parts: Iterable[bool | None]) -> str:
    """``"yes"`` if every part of a statement holds, ``"no"`` if none does, ``"partly"`` between the two.

    ``"undecided"`` if a part was not measured (None), or there is none.
    """
    found = list(parts)
    if not found or any(part is None for part in found):
        return "undecided"
    return "yes" if all(found) else "partly" if any(found) else "no"
