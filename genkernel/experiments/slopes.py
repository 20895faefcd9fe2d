"""Orders of convergence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def slope(rates: Sequence[float], errors: Sequence[float]) -> float:
    """Least-squares slope of log error over log rate; NaN where an error is zero or not finite."""
    x, y = np.asarray(rates, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if not np.isfinite(y).all() or (y <= 0).any():
        return float("nan")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
