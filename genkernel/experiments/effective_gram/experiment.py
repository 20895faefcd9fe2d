"""Test losses predicted by the effective Gram matrix, and what they are.

Yang and Chaudhari (*An Effective Gram Matrix Characterizes Generalization in Deep Networks*, 2025) say that the test
loss can be predicted as train loss + r(0)ᵀ K r(0), and that the first residual r(0) lies in the subspace of K with the
smallest eigenvalues. Here on small data sets and networks trained by full-batch gradient descent, several training sets
and initialisations each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from genkernel.experiments.effective_gram.measures import QUICK, Case, Setting, cases, many_draws, measure
from genkernel.experiments.effective_gram.outcome import outcome
from genkernel.experiments.outcome import Outcome


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """How well train loss + r(0)ᵀ K r(0) predicts test losses, and where the residual lies.

    Args:
        data: a folder with ``mnist.npz`` and ``fashion-mnist.npz`` (arrays ``x_train``, ``y_train``). Without it the
            images are the digits of scikit-learn alone.
        setting: sizes.

    Raises:
        MissingError: the folder lacks a data set.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    todo = cases(setting, None if data is None else Path(data), seed, quick)
    with tqdm(todo, disable=not progress, desc="effective-gram") as bar:
        measured = [measure(case, setting, seed) for case in _named(todo, bar)]
    over_draws = [many_draws(case, setting, seed) for case in _for_draws(todo)]
    settings = asdict(setting) | {"data": data is not None, "seed": seed, "quick": quick}
    return outcome(measured, over_draws, setting, settings, seed)


def _for_draws(found: list[Case]) -> list[Case]:
    """One generated data set, and the most images with the network that is cheapest to train many times."""
    generated = next(case for case in found if case.task.most is None and case.kind == "tanh")
    images = [case for case in found if case.task.most is not None and case.kind == "linear"]
    return [generated, max(images, key=lambda case: case.task.most or 0)]


def _named(todo: list[Case], bar: Any) -> Iterator[Case]:
    for case in todo:
        bar.set_postfix_str(case.name)
        yield case
        bar.update()
