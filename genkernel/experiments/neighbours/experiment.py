"""Who is near in the tangent kernel while a network learns, with four optimizers.

Points of the unit circle against points of a disk inside (Guo, He & Morel, section 5.1 and appendix D, figures 1, 9 and
10): decision regions, the 100 nearest points of several anchors in Euclidean distance and by the normalised tangent
kernel, and K̃(x0, x) over training for a point x0 of the circle and points x of both classes. The text keeps neither
radii, number of points, network, loss, batches nor learning rates. Ours: radii 0.9 and 1, 400 points, the three-layer
GELU network of Courtois et al. (section 5.1), squared and logistic loss, batches of 32. Every optimizer has the rate,
in half decades, with the smallest training loss at the end on points of its own, for each loss; optimizers are compared
at equal steps and at equal training loss. SGD and SGD with momentum also run at one common rate, and SGD at that rate
divided by 1 - momentum.
"""

from __future__ import annotations

from dataclasses import asdict

from genkernel.experiments.learning_rates import RATES
from genkernel.experiments.neighbours.found import Found
from genkernel.experiments.neighbours.outcome import told
from genkernel.experiments.neighbours.setting import (
    MOMENTUM,
    OPTIMIZERS,
    QUICK,
    RADIUS,
    SAME_RATE,
    SGD,
    SGDM,
    Setting,
)
from genkernel.experiments.neighbours.training import Task, chosen_rate, course
from genkernel.experiments.outcome import Outcome


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """Neighbours and kernel values over training, for every loss and optimizer.

    Args:
        quick: two seeds, fewer points and steps.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    task = Task.drawn(setting.samples, tuple(seed + r for r in range(setting.seeds)))
    found = Found(task, setting, seed)
    matched = ((SGD, SAME_RATE), (SGDM, SAME_RATE), (SGD, SAME_RATE / (1 - MOMENTUM)))
    total = 2 * len(setting.losses) * len(OPTIMIZERS) + len(matched)
    with tqdm(total=total, disable=not progress, desc="neighbours") as bar:
        for loss in setting.losses:
            for optimizer in OPTIMIZERS:
                rate, tried = chosen_rate(optimizer, loss, setting, seed)
                found.tried[loss, optimizer] = tried
                bar.update()
                found.courses[loss, optimizer] = course(task, loss, optimizer, rate, setting, seed)
                bar.update()
        for optimizer, rate in matched:
            found.matched.append(course(task, setting.losses[0], optimizer, round(rate, 6), setting, seed))
            bar.update()
    settings = asdict(setting) | {
        "seed": seed, "quick": quick, "radius": RADIUS, "momentum": MOMENTUM, "same_rate": SAME_RATE,
        "rates": list(RATES),
    }  # fmt: skip
    return told(Outcome("neighbours", settings), found)
