"""Tables, claims, figures and numbers of the study of ball and sphere, and of two sides of a line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.ball_sphere.ball import (
    HALF,
    HARD,
    MACHINES,
    MIDDLE,
    RBF,
    REST,
    TANGENT,
    UNTRAINED,
    Ball,
)
from genkernel.experiments.ball_sphere.line import HALF as LINE_HALF
from genkernel.experiments.ball_sphere.line import Line
from genkernel.experiments.ball_sphere.setting import Setting
from genkernel.experiments.ball_sphere.training import Descent
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.replicates import above, around, is_above, is_below, is_within, pair

Array = NDArray[np.float64]

NEAR = 0.1  # a boundary's mean radius this close to the middle is a trade-off between ball and sphere
ROUND = 0.05  # standard deviation of its radius over rays that is a circle's
MIXED = 0.95  # part of Euclidean neighbours with the label of x0, below which there is something to gain
SAME = 0.01  # of the square, on which two boundaries that match closely may differ
APART = "unlike the network"
CENTRE, AWAY = 0.2, 0.6  # distances from the middle of line and disk: up to the first is near, from the second on far


def told(outcome: Outcome, ball: Ball, line: Line, setting: Setting, seed: int) -> Outcome:
    """Add what was found."""
    outcome.tables += [_trainings(ball, line), _radii(ball, setting), _machines(ball), _penalties(ball, setting)]
    outcome.tables.append(_distances(line, setting))
    outcome.claims += [*_of_the_ball(ball, setting), *_of_the_line(line, setting)]
    _drawn(outcome, ball, line, setting, seed)
    outcome.numbers |= {
        "ball": {
            "training": _training(ball.descent), "fresh": ball.fresh.tolist(), "radius": ball.radius.tolist(),
            "spread": ball.spread.tolist(), "closed": ball.closed.tolist(), "shared": ball.shared.tolist(),
            "shared before": ball.shared_before.tolist(), "own": ball.own.tolist(),
            "own, Euclidean": ball.own_euclidean.tolist(),
            "machines": {name: {m: v.tolist() for m, v in each.items()} for name, each in ball.machines.items()},
            "softer machines": {name: {m: v.tolist() for m, v in each.items()} for name, each in ball.soft.items()},
        },
        "line": {
            "training": _training(line.descent), "fresh": line.fresh.tolist(),
            **{
                measure: {name: v.tolist() for name, v in getattr(line, measure).items()}
                for measure in ("own", "across", "along")
            },
            "lattice": [each.tolist() for each in line.lattice], "turn": _mean_map(line.metric),
            "turn before": _mean_map(line.metric_before),
            "tilt": {name: v.tolist() for name, v in _zones(line, line.tilt).items()},
            "turn across by zone": {name: v.tolist() for name, v in _zones(line, line.metric[:, 0]).items()},
        },
    }  # fmt: skip
    return outcome


def _training(d: Descent) -> dict[str, Any]:
    return {"moments": list(d.moments), "accuracy": d.accuracy.tolist(), "loss": d.loss.tolist()}


def _mean_map(values: Array) -> list[Any]:
    """Means over seeds ``[2, L, A]``, None outside of the disk."""
    return [[[None if v != v else v for v in row] for row in each] for each in values.mean(0).tolist()]


# ----------------------------------------------------------------------------------- tables


def _trainings(ball: Ball, line: Line) -> Table:
    return Table(
        "Full-batch gradient descent, mean ± standard error over seeds",
        ("task", "training loss", "accuracy", "all right from step", "accuracy on fresh points"),
        [
            (task, pair(d.loss), pair(d.accuracy[:, -1]), _all_right(d), pair(fresh))
            for task, d, fresh in (
                ("ball and sphere", ball.descent, ball.fresh),
                ("two sides of a line", line.descent, line.fresh),
            )
        ],
    )


def _all_right(d: Descent) -> int | None:
    """The first moment from which on every network is right on all of its points."""
    right = (d.accuracy == 1).all(0)
    return next(
        (m for m, rest in zip(d.moments, (right[t:].all() for t in range(len(right))), strict=True) if rest), None
    )


def _radii(ball: Ball, setting: Setting) -> Table:
    return Table(
        f"The {setting.neighbours} points nearest to x0 = r u by the normalised kernel and by distance (chance of a "
        f"common one {setting.neighbours / setting.samples:.2f})",
        ("r", "in common", "in common, untrained", "label of x0, kernel", "label of x0, Euclidean"),
        [
            (f"{r:g}", *(pair(v[:, j]) for v in (ball.shared, ball.shared_before, ball.own, ball.own_euclidean)))
            for j, r in enumerate(setting.radii)
        ],
    )  # fmt: skip


def _machines(ball: Ball) -> Table:
    return Table(
        f"Support vector machines with the largest margin (C = {HARD:.0e} for all; features divided by their root mean "
        "square, not normalised)",
        (
            "machine",
            "in-sample accuracy",
            "held-out accuracy",
            f"part of [-{HALF:g}, {HALF:g}]² unlike the network",
            "seeds in which no sample has the weight C",
        ),
        [
            (name, *(pair(each[m]) for m in ("in-sample", "held out", APART)), int(each["hard"].sum()))
            for name, each in ((name, ball.machines[name]) for name in MACHINES)
        ],
    )


def _penalties(ball: Ball, setting: Setting) -> Table:
    def entry(name: str, j: int) -> str:
        each = ball.soft[name]
        wrong = int((each["in-sample"][:, j] < 1).sum())
        return pair(each[APART][:, j]) + (f" (not all right in {wrong})" if wrong else "")

    return Table(
        "Part of the square unlike the network, for softer machines as well (in brackets: seeds in which they are not "
        "right on all of their points)",
        ("C", *MACHINES, "untrained minus trained"),
        [
            (f"{c:g}", *(entry(name, j) for name in MACHINES),
             pair((ball.soft[UNTRAINED][APART] - ball.soft[TANGENT][APART])[:, j]))
            for j, c in enumerate(setting.penalties)
        ],
    )  # fmt: skip


def _distances(line: Line, setting: Setting) -> Table:
    return Table(
        f"The {setting.neighbours} points nearest to x0 at a distance from the line: part on its side, and standard "
        "deviations across and along the line",
        ("distance", "own side: kernel", "untrained", "Euclidean", "across / along: kernel", "untrained", "Euclidean"),
        [
            (f"{s:g}", *(pair(line.own[name][:, j]) for name in line.own),
             *(f"{pair(line.across[name][:, j])} / {pair(line.along[name][:, j])}" for name in line.own))
            for j, s in enumerate(setting.distances)
        ],
    )  # fmt: skip


# ----------------------------------------------------------------------------------- claims


def _of_the_ball(ball: Ball, setting: Setting) -> list[Claim]:
    chance = setting.neighbours / setting.samples
    first = _all_right(ball.descent)
    apart = {name: each[APART] for name, each in ball.machines.items()}
    held = {name: each["held out"] for name, each in ball.machines.items()}
    inner = {name: each["in-sample"] for name, each in ball.machines.items()}
    soft = ball.soft[UNTRAINED][APART] - ball.soft[TANGENT][APART]
    common = [around(ball.shared[:, j]) for j in range(len(setting.radii))]

    def by_radius(values: Array) -> str:
        return ", ".join(f"{pair(values[:, j])} (r = {r:g})" for j, r in enumerate(setting.radii))

    def by_penalty(values: Array) -> str:
        return ", ".join(f"{pair(values[:, j])} (C = {c:g})" for j, c in enumerate(setting.penalties))

    return [
        Claim(
            "the network quickly classifies every point of ball and sphere (Courtois et al., section 5.1)",
            f"accuracy {pair(ball.descent.accuracy[:, -1])} at the end, on fresh points {pair(ball.fresh)}; all points "
            f"of all seeds are right from step {first} of {setting.steps} on",
            verdict(bool(a == 1) for a in ball.descent.accuracy[:, -1]),
        ),
        Claim(
            "the boundary is a circle between ball and sphere, a trade-off (section 5.1): its mean radius within "
            f"{NEAR:g} of {MIDDLE:g}, its standard deviation over directions below {ROUND:g}",
            f"radius {pair(ball.radius)}, standard deviation {pair(ball.spread)}; part of the rays that cross it once "
            f"{pair(ball.closed)}",
            verdict([is_within(around(ball.radius - MIDDLE), NEAR), is_below(around(ball.spread), ROUND)]),
        ),
        Claim(
            f"the {setting.neighbours} nearest by the normalised kernel are not the Euclidean ones, but similar "
            "(section 5.1): the common part is less than 1, and nearer to 1 than to chance",
            f"in common {by_radius(ball.shared)}; untrained {by_radius(ball.shared_before)}; chance {chance:.2f}",
            verdict([
                *(is_below(interval, 1.0) for interval in common),
                *(is_above(interval, (1 + chance) / 2) for interval in common),
            ]),
        ),
        Claim(
            f"more of them have the label of x0, where less than {MIXED:g} of the Euclidean ones do (ours)",
            f"kernel minus Euclidean {by_radius(ball.own - ball.own_euclidean)}; Euclidean "
            f"{by_radius(ball.own_euclidean)}",
            above(*(around((ball.own - ball.own_euclidean)[:, j]) for j in _mixed(ball.own_euclidean))),
        ),
        Claim(
            "a linear machine on the trained tangent features is right on all points and draws the network's boundary "
            f"(section 5.1, figure 3): with the largest margin, they differ on less than {SAME:g} of the square",
            f"in-sample {pair(inner[TANGENT])}, held out {pair(held[TANGENT])}; they differ on {pair(apart[TANGENT])}; "
            f"softer machines: {by_penalty(ball.soft[TANGENT][APART])}",
            verdict([bool((inner[TANGENT] == 1).all()), is_below(around(apart[TANGENT]), SAME)]),
        ),
        Claim(
            "on the features of the untrained network a machine with the largest margin is right on all points as "
            "well, and its boundary is farther from the network's (ours)",
            f"untrained: in-sample {pair(inner[UNTRAINED])}, held out {pair(held[UNTRAINED])}; untrained minus trained "
            f"{pair(apart[UNTRAINED] - apart[TANGENT])} of the square, for softer machines {by_penalty(soft)}; an RBF "
            f"machine on the points minus trained {pair(apart[RBF] - apart[TANGENT])}, held out {pair(held[RBF])}",
            verdict([bool((inner[UNTRAINED] == 1).all()), is_above(around(apart[UNTRAINED] - apart[TANGENT]))]),
        ),
        Claim(
            "separability hangs on the last layer, in whose span the output lies by construction (section 4.2): "
            "without its block, points are on the wrong side of a machine with the largest margin",
            f"without: in-sample {pair(inner[REST])}, held out {pair(held[REST])}; without minus with "
            f"{pair(apart[REST] - apart[TANGENT])} of the square unlike the network",
            above(around(1 - inner[REST])),
        ),
    ]  # fmt: skip


def _of_the_line(line: Line, setting: Setting) -> list[Claim]:
    def by_distance(values: Array) -> str:
        return ", ".join(f"{pair(values[:, j])} ({s:g})" for j, s in enumerate(setting.distances))

    def each(values: Array) -> str:
        return above(*(around(values[:, j]) for j in range(len(setting.distances))))

    own = line.own["kernel"]
    narrow = {name: np.log(line.along[name] / line.across[name]) for name in line.own}
    learned = narrow["kernel"] - narrow["untrained"]
    across, along = (_zones(line, line.metric[:, i]) for i in (0, 1))
    before = _zones(line, line.metric_before[:, 0])
    tilts = _zones(line, line.tilt)
    first = _all_right(line.descent)
    return [
        Claim(
            "the network classifies every point of two sides of a line (Courtois et al., section 5.2)",
            f"accuracy {pair(line.descent.accuracy[:, -1])}, on fresh points {pair(line.fresh)}; all points of all "
            f"seeds are right from step {first} of {setting.steps} on",
            verdict(bool(a == 1) for a in line.descent.accuracy[:, -1]),
        ),
        Claim(
            "most of the nearest neighbours by the kernel share the label (section 5.2)",
            f"by the distance of x0 to the line: {by_distance(own)}",
            each(own - 0.5),
        ),
        Claim(
            "that is a deformation that was learned: more of them do than of Euclidean ones, and than before training "
            f"(section 5.2), where less than {MIXED:g} of the Euclidean ones do",
            f"kernel minus Euclidean {by_distance(own - line.own['Euclidean'])}; minus untrained "
            f"{by_distance(own - line.own['untrained'])}; Euclidean {by_distance(line.own['Euclidean'])}",
            above(*(
                around((own - line.own[name])[:, j])
                for name in ("Euclidean", "untrained") for j in _mixed(line.own["Euclidean"])
            )),
        ),
        Claim(
            "the deformation follows the direction orthogonal to the line (section 5.2): neighbourhoods become "
            "narrower across it than along it, compared with the untrained kernel",
            f"logarithm of their length along over across, trained minus untrained: {by_distance(learned)}; minus "
            f"Euclidean {by_distance(narrow['kernel'] - narrow['Euclidean'])}; within {CENTRE:g} of the centre the "
            f"tangent feature turns fastest {pair(tilts['centre'])} degrees from the normal (45 by chance)",
            each(learned),
        ),
        Claim(
            "it is localised around the centre (section 5.2): the kernel turns across the line at most half as fast "
            f"{AWAY:g} and more from the line, and {AWAY:g} and more along it, as within {CENTRE:g} of the centre",
            f"radians per unit of length: centre {pair(across['centre'])} across and {pair(along['centre'])} along; "
            f"away from the line {pair(across['away'])} across; on the line towards its ends {pair(across['ends'])} "
            f"across; untrained {pair(before['centre'])}, {pair(before['away'])} and {pair(before['ends'])} across",
            above(*(around(across["centre"] / 2 - across[zone]) for zone in ("away", "ends"))),
        ),
    ]  # fmt: skip


def _zones(line: Line, values: Array) -> dict[str, Array]:
    """Means ``[R]`` of a map ``[R, L, A]`` near the centre, away from the line, and on the line towards its ends."""
    along, across = np.meshgrid(*(np.abs(each) for each in reversed(line.lattice)), indexing="ij")
    zones = {
        "centre": (along <= CENTRE) & (across <= CENTRE),
        "away": (along <= CENTRE) & (across >= AWAY),
        "ends": (along >= AWAY) & (across <= CENTRE),
    }
    return {name: np.nanmean(values[:, where], 1) for name, where in zones.items()}


def _mixed(euclidean: Array) -> list[int]:
    """Columns of ``[R, q]`` in which neighbours are of both classes: elsewhere nothing can be better."""
    return [j for j, share in enumerate(euclidean.mean(0)) if share < MIXED]


# ----------------------------------------------------------------------------------- figures


def _drawn(outcome: Outcome, ball: Ball, line: Line, setting: Setting, seed: int) -> None:
    from genkernel.plots import ball_sphere as plots

    meta = {"seed": seed, "dtype": "float64"}
    many = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"}
    x, labels = ball.descent.points[0].numpy(), ball.descent.labels[0].numpy()
    outcome.figures["ball-sphere-boundaries"] = plots.machines(
        ball.maps, x, labels, HALF,
        {name: float(each[APART][0]) for name, each in ball.machines.items()}, meta,
    )  # fmt: skip
    outcome.figures["ball-sphere-penalties"] = plots.penalties(
        setting.penalties, {name: ball.soft[name][APART] for name in MACHINES},
        {name: ball.machines[name][APART] for name in MACHINES}, SAME, many,
    )  # fmt: skip
    outcome.figures["ball-sphere-neighbours"] = plots.nearest(
        {f"r = {r:g}": r * ball.directions[0] for r in setting.radii},
        {"normalised kernel": ball.nearest, "Euclidean": ball.nearest_euclidean}, x, labels, ball.maps["network"], HALF,
        meta, f"x₀ = r u, its {setting.neighbours} nearest of {setting.samples}",
    )  # fmt: skip
    x, labels = line.descent.points[0].numpy(), line.descent.labels[0].numpy()
    outcome.figures["line-neighbours"] = plots.nearest(
        {f"distance {s:g}": s * line.normals[0] for s in setting.distances},
        {"normalised kernel": line.nearest, "Euclidean": line.nearest_euclidean}, x, labels, line.regions, LINE_HALF,
        meta, f"x₀ on the normal through the centre, its {setting.neighbours} nearest of {setting.samples}",
    )  # fmt: skip
    outcome.figures["line-deformation"] = plots.deformation(
        setting.distances, line.across, line.along, line.metric, line.metric_before, line.lattice, many
    )
