"""How well do contributions predict what happens when data are taken away? Measured by training again without them.

A small classifier trains on mini-batches, with Adam and with SGD and momentum, from one initialisation and in several
orders of the batches. Every run is taped and replayed, which gives the contribution of every sample to the loss and
the margin of every held-out query. The truth is made by training again, hundreds of times
(:mod:`genkernel.experiments.retraining.groups`): without each of the random groups and classes, with a group counting a
tenth less, and on random halves of the groups (the linear datamodelling score of Park et al., 2023). Beside
contributions stand TracIn-CP (Pruthi et al., 2020), the gradient products of the last weights, damped influence
functions, TRAK's formula and chance.

A contribution is conditional on the path and on the preconditioner that all samples made together (THEORY §3.2): the
theory does not say that it is the effect of a deletion, and this is how far it is from one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from genkernel.experiments.outcome import Outcome
from genkernel.experiments.retraining.groups import batch_orders
from genkernel.experiments.retraining.outcome import ATTAINABLE, claims, compare, shown, tables
from genkernel.experiments.retraining.predictions import (
    DAMPING,
    LESS,
    OURS,
    TRUTHS,
    forecast,
    predictions,
    truth,
)
from genkernel.experiments.retraining.task import OPTIMISATIONS, QUICK, Setting, image_task, network, synthetic_task


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    images: Any = None,
    setting: Setting | None = None,
) -> Outcome:
    """Contributions and other attributions against hundreds of trainings without some of the data.

    Args:
        images: labelled images (as :func:`genkernel.load_images` takes them) in the place of made-up data.
        setting: sizes; those of ``quick`` or the full ones by default.
    """
    from tqdm import tqdm

    from genkernel.plots.prediction import retraining_bars, retraining_scatter

    setting = setting or (QUICK if quick else Setting())
    task = synthetic_task(setting, seed) if images is None else image_task(images, setting, seed)
    net = network(task, setting.width, seed)
    results: dict[str, Any] = {}
    clouds: dict[str, Any] = {}
    gaps: list[float] = []
    accuracy: dict[str, float] = {}
    total = 2 * sum(setting.steps) * len(OPTIMISATIONS) * setting.orders
    with tqdm(total=total, disable=not progress, desc="retraining") as bar:
        for steps in setting.steps:
            orders = [
                batch_orders(setting.samples, setting.batch, steps, 1000 * seed + s) for s in range(setting.orders)
            ]
            for kind, optimisation in OPTIMISATIONS.items():
                name = f"{kind}, {steps} steps"
                runs = predictions(task, net, orders, optimisation, setting, seed, bar.update)
                actual = truth(task, net, orders, optimisation, setting, seed, bar.update)
                gaps += [one.gap for one in runs]
                accuracy[name] = actual.accuracy
                results[name] = compare(runs, actual, setting, seed)
                clouds[name] = {
                    change: (
                        np.mean([forecast(one, OURS, change, actual.halves) for one in runs], 0)[..., 1],
                        actual.effects[change].mean(0)[..., 1],
                    )
                    for change in TRUTHS
                }
    trainings = len(results) * setting.orders * (1 + 2 * setting.groups + task.classes + setting.subsets)
    lengths = {
        f"{steps} steps": {kind: results[f"{kind}, {steps} steps"] for kind in OPTIMISATIONS} for steps in setting.steps
    }
    meta = {"seed": seed, "dtype": "float64"}
    shape = f"{setting.samples} samples, {setting.groups} groups, {setting.orders} batch orders"
    return Outcome(
        name="retraining",
        settings=asdict(setting)
        | {
            "data": task.source, "optimisations": {k: asdict(v) for k, v in OPTIMISATIONS.items()}, "less": LESS,
            "damping": DAMPING, "seed": seed, "quick": quick, "trainings": trainings,
            "trak": "its formula with a random projection, not its library",
            "parameters": sum(p.numel() for p in net.parameters()),
        },
        claims=claims(results, max(gaps), setting),
        tables=tables(results, setting),
        figures={
            "retraining_scatter": retraining_scatter(clouds, TRUTHS, results, OURS, meta, shape),
            "retraining_bars": retraining_bars(lengths, TRUTHS, shown(results), OURS, ATTAINABLE, meta, shape),
        },
        numbers={"agreement": results, "gaps": gaps, "accuracy": accuracy},
    )  # fmt: skip
