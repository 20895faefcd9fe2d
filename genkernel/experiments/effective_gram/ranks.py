"""Whether train loss + form orders cases by their test loss, with intervals over tasks.

Cases of one task (networks, sizes of the training set) share its samples and its held-out set, so that they are no
independent draws: the bootstrap draws tasks with replacement and takes all of their cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.effective_gram.measures import DATA, OWN, POOLED, TRAIN
from genkernel.experiments.rank_agreement import agreement, mean_spearman

Array = NDArray[np.float64]

FEWEST = 3  # tasks for an interval


def ranks(rows: Sequence[dict[str, Any]], seed: int, resamples: int) -> dict[str, Any]:
    """Rank correlation over cases of what is said with the test loss, averaged over the times.

    Args:
        rows: one per case: ``task`` and ``losses`` (name → mean by time, with ``"test"``).
        seed, resamples: of the bootstrap over tasks.

    Returns:
        name of what is said → the numbers of an :class:`Agreement` whose interval is over tasks, ``tasks``, and
        ``more``, ``more_low``, ``more_high``: by how much it ranks better than the train loss (paired).
    """
    actual = np.array([one["losses"]["test"]["mean"] for one in rows])
    tasks = [one["task"] for one in rows]
    said = {
        name: np.array([one["losses"][name]["mean"] for one in rows])
        for name in (OWN, DATA, POOLED, TRAIN)
        if all(name in one["losses"] for one in rows)
    }
    found: dict[str, Any] = {}
    for name, values in said.items():

        def one(index: NDArray[np.int64], values: Array = values) -> float:
            return mean_spearman(values[index], actual[index])

        def more(index: NDArray[np.int64], values: Array = values) -> float:
            return one(index, values) - one(index, said[TRAIN])

        whole, low, high = over_tasks(one, tasks, seed, resamples)
        found[name] = agreement(values, actual, resamples=0).numbers()
        found[name] |= {"spearman": whole, "low": low, "high": high, "tasks": len(set(tasks))}
        if name != TRAIN:
            ends = over_tasks(more, tasks, seed, resamples, size=2.0)
            found[name] |= dict(zip(("more", "more_low", "more_high"), ends, strict=True))
    return found


def over_tasks(
    statistic: Callable[[NDArray[np.int64]], float],
    tasks: Sequence[str],
    seed: int,
    resamples: int,
    size: float = 1.0,
) -> tuple[float, float, float]:
    """A statistic of all cases, and 95 % of the basic bootstrap over tasks within ±size.

    Args:
        statistic: of the numbers of the cases that are drawn, some of them several times.
        tasks: of every case.
        seed, resamples: of the bootstrap. No interval (NaN) without resamples, or of fewer than three tasks.
    """
    whole = statistic(np.arange(len(tasks)))
    names = list(dict.fromkeys(tasks))
    if len(names) < FEWEST or not resamples or not np.isfinite(whole):
        return whole, float("nan"), float("nan")
    members = [np.flatnonzero([task == name for task in tasks]) for name in names]
    draw = np.random.default_rng(seed)
    drawn = (draw.integers(len(names), size=len(names)) for _ in range(resamples))
    found = np.array([statistic(np.concatenate([members[k] for k in each])) for each in drawn])
    low, high = np.percentile(found[np.isfinite(found)], [2.5, 97.5])
    return whole, float(max(2 * whole - high, -size)), float(min(2 * whole - low, size))
