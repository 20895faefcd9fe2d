"""Learning rates to choose from, and the search for the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # half decades


def lowest(rates: Sequence[float], first: float, value: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The rate of a rising list at which a value with one minimum is lowest, and all values that were needed."""
    found = {first: value(first)}
    for step in (1, -1):
        at = rates.index(first) + step
        while 0 <= at < len(rates):
            found[rates[at]] = value(rates[at])
            if found[rates[at]] >= found[rates[at - step]]:
                break
            at += step
    return min(found, key=lambda rate: found[rate]), dict(sorted(found.items()))
