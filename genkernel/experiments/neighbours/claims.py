"""Claims of the study of neighbours: decided by 95 % intervals over seeds, within seeds where things are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.neighbours.found import SHORT, Found, detours
from genkernel.experiments.neighbours.measures import at_level, mean_over_steps
from genkernel.experiments.neighbours.setting import (
    ADAM,
    ANCHORS,
    OPTIMIZERS,
    OTHER,
    PARTNERS,
    RMSPROP,
    SAME,
    SGD,
    SGDM,
)
from genkernel.experiments.neighbours.training import Course
from genkernel.experiments.outcome import Claim, verdict
from genkernel.experiments.replicates import above, around, is_within, pair

Array = NDArray[np.float64]

NEAR_ONE, NEAR_ZERO = 0.9, 0.1  # cosines that count as about 1, and as about 0
EARLY = 0.25  # of the steps: what is reached by then is reached quickly
MATTERS = 0.02  # a mean difference of cosines that is surely smaller than this is none


def claims(found: Found) -> list[Claim]:
    """In the order of the paper."""
    return [*_neighbourhoods(found), *_single_pairs(found), *_compared(found)]


def _neighbourhoods(found: Found) -> list[Claim]:
    k, chance = found.setting.neighbours, found.chance
    first = next(iter(found.courses.values()))
    euclidean, fresh = first.at_end["Euclidean"], first.at_end["Euclidean, fresh"]
    halfway = (1 + chance) / 2
    anchored = {name: [c.anchored[:, -1, a] for c in found.courses.values()] for a, name in enumerate(ANCHORS)}
    started = {name: first.anchored[:, 0, a] for a, name in enumerate(ANCHORS)}
    return [
        Claim(
            f"the {k} nearest points in Euclidean distance mix the classes (Guo, He & Morel, section 5.1): nearer to "
            "chance than to one class",
            f"share with the own label {pair(euclidean)}, chance {chance:.3f}",
            above(around(halfway - euclidean)),
        ),
        Claim(
            "neighbourhoods by the normalised kernel become homogeneous in label during training (section 5.1, "
            "figure 1)",
            f"untrained {pair(first.purity[:, 0])}; at the end " + found.by_loss(lambda c: c.purity[:, -1]),
            found.each(lambda c: c.purity[:, -1] - c.purity[:, 0]),
        ),
        Claim(
            "most neighbours of each anchor end up sharing its label (section 5.1): more than half",
            "least and most over losses and optimizers: "
            + ", ".join(f"{name} {_span(each)} (untrained {pair(started[name])})" for name, each in anchored.items()),
            above(*(around(v - 0.5) for values in anchored.values() for v in values)),
        ),
        Claim(
            "they are more homogeneous than Euclidean ones, on points that the network never saw (ours)",
            f"Euclidean {pair(fresh)}; kernel minus Euclidean "
            + found.by_loss(lambda c: c.at_end["fresh"] - c.at_end["Euclidean, fresh"]),
            found.each(lambda c: c.at_end["fresh"] - c.at_end["Euclidean, fresh"]),
        ),
        Claim(
            "that is no doing of the last layer alone: without its block they become more homogeneous as well (ours)",
            f"untrained {pair(first.at_end['untrained, without last layer'])}; rise "
            + found.by_loss(lambda c: c.at_end["without last layer"] - c.at_end["untrained, without last layer"]),
            found.each(lambda c: c.at_end["without last layer"] - c.at_end["untrained, without last layer"]),
        ),
    ]  # fmt: skip


def _single_pairs(found: Found) -> list[Claim]:
    moments = np.array(found.setting.moments)
    late = moments >= EARLY * moments[-1]
    names = list(PARTNERS)

    def least(c: Course, name: str) -> Array:
        return c.pairs[:, late, names.index(name)].min(1)

    def end(c: Course, name: str) -> Array:
        return c.pairs[:, -1, names.index(name)]

    def told_of(of: Callable[[Course, str], Array], those: Iterable[str]) -> str:
        return "; ".join(f"{name}: " + found.by_loss(lambda c, name=name: of(c, name)) for name in those)  # type: ignore[misc]

    courses = found.courses.values()
    negative = {name: sum(around(end(c, name))[1] < 0 for c in courses) for name in OTHER}
    return [
        Claim(
            "the point of the same class quickly comes to K̃ ≈ 1 and stays, for all optimizers (appendix D, figure 10): "
            f"above {NEAR_ONE} from a quarter of the steps on",
            "least value from then on: " + told_of(least, SAME),
            above(*(around(least(c, name) - NEAR_ONE) for name in SAME for c in courses)),
        ),
        Claim(
            "K̃ to points of the other class shrinks to zero or turns negative (appendix D, figure 10): at the end "
            f"below {NEAR_ZERO}",
            "at the end: " + told_of(end, OTHER) + "; surely negative: "
            + ", ".join(f"{name} in {count} of {len(found.courses)}" for name, count in negative.items()),
            above(*(around(NEAR_ZERO - end(c, name)) for name in OTHER for c in courses)),
        ),
    ]  # fmt: skip


def _compared(found: Found) -> list[Claim]:
    setting = found.setting

    def speed(c: Course) -> Array:
        return mean_over_steps(c.contrast, setting.moments)

    def ahead(one: str, other: str, of: Callable[[Course], Array]) -> list[Array]:
        return [of(found.courses[loss, one]) - of(found.courses[loss, other]) for loss in setting.losses]

    leads = [v for other in OPTIMIZERS if other != SGDM for v in ahead(SGDM, other, speed)]
    behind = [v for other in OPTIMIZERS if other != SGD for v in ahead(other, SGD, speed)]
    level = setting.levels[-1] if len(setting.levels) < 3 else setting.levels[2]

    def at_equal_loss(c: Course) -> Array:
        return at_level(c.loss, c.contrast, level * float(c.loss[:, 0].mean()))

    equal = [v for other in OPTIMIZERS if other != SGDM for v in ahead(SGDM, other, at_equal_loss)]
    transients = [v for one in (RMSPROP, ADAM) for other in (SGD, SGDM) for v in ahead(one, other, detours)]
    slow, momentum, fast = (speed(c) for c in found.matched)
    return [
        Claim(
            "SGD with momentum separates the classes fastest (appendix D): the largest contrast, mean over equal steps",
            "contrast, mean over steps: " + found.by_loss(speed) + "; momentum minus the best other: "
            + _best(found, SGDM, speed),
            above(*(around(v) for v in leads)),
        ),
        Claim(
            "SGD is the slowest (appendix D: 'slower reorganization'): the smallest contrast, mean over equal steps",
            "other minus SGD: "
            + "; ".join(
                f"{loss} loss: " + ", ".join(
                    f"{SHORT[o]} {pair(speed(found.courses[loss, o]) - speed(found.courses[loss, SGD]))}"
                    for o in OPTIMIZERS if o != SGD
                )
                for loss in setting.losses
            ),
            above(*(around(v) for v in behind)),
        ),
        Claim(
            f"SGD with momentum is ahead at equal training loss too ({level:g} of its start; ours)",
            "contrast there: " + found.by_loss(lambda c: _known(at_equal_loss(c))) + _missed(found, at_equal_loss),
            above(*(around(v[~np.isnan(v)]) for v in equal)),
        ),
        Claim(
            f"what momentum gains over SGD at the same rate is the rate over 1 - momentum (ours): SGD at that rate "
            f"separates as fast, within {MATTERS}",
            f"contrast over steps: SGD at {found.matched[0].rate:g} {pair(slow)}, with momentum {pair(momentum)}, "
            f"SGD at {found.matched[2].rate:g} {pair(fast)}; momentum minus the last {pair(momentum - fast)}",
            verdict([is_within(around(momentum - fast), MATTERS)]),
        ),
        Claim(
            "RMSprop and Adam show further non-monotone transients (appendix D): longer detours of K̃(x0, x) than SGD "
            "and SGD with momentum",
            "detours, mean of four points: " + found.by_loss(detours),
            above(*(around(v) for v in transients)),
        ),
    ]  # fmt: skip


def _known(values: Array) -> Array:
    return values if not np.isnan(values).all() else np.array([np.nan])


def _best(found: Found, one: str, of: Callable[[Course], Array]) -> str:
    said = []
    for loss in found.setting.losses:
        others = {o: of(found.courses[loss, o]) for o in OPTIMIZERS if o != one}
        best = max(others, key=lambda o: others[o].mean())
        said.append(f"{pair(of(found.courses[loss, one]) - others[best])} ({SHORT[best]}, {loss} loss)")
    return ", ".join(said)


def _span(values: list[Array]) -> str:
    means = [float(v.mean()) for v in values]
    return f"{min(means):.2f} to {max(means):.2f}"


def _missed(found: Found, at_equal_loss: Callable[[Course], Array]) -> str:
    """Trainings that did not come to the loss, which are left out."""
    short = {
        f"{SHORT[optimizer]}, {loss} loss": int(np.isnan(at_equal_loss(course)).sum())
        for (loss, optimizer), course in found.courses.items()
    }
    said = ", ".join(f"{count} with {name}" for name, count in short.items() if count)
    return f"; left out, as they never came there: {said}" if said else ""
