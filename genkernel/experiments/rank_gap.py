"""The rank gap: what new samples need that training samples never showed, on a line and on digits.

Section 5.4 of Guo, He, Morel: f = Σ_j a_j relu(x + b_j) with five units is trained on [-1, 1] and tested on [-2, 2].
A unit whose threshold -b_j is beyond the training interval has no gradient there: two directions, a_j and b_j, are in
the features of test points alone. Their target did not survive in the text; ours are three, one of which drives
thresholds out of the interval. Then digits: a tanh network learns nine classes of small MNIST images, and meets
held-out digits, the class that was left out, and Fashion-MNIST.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.plots import style

Array = NDArray[np.float64]

UNITS, RATE, WITHIN, BEYOND = 5, 0.1, 1.0, 2.0
TRAINED, TESTED = 100, 200  # points of the two intervals
THRESHOLDS = {"all inside": (-0.9, -0.5, 0.0, 0.3, 0.7), "one at 1.5": (-0.9, -0.5, 0.0, 0.3, 1.5)}
INSIDE, DEAD = THRESHOLDS
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "cos 2x": lambda x: (2 * x).cos(),
    "three ReLUs": lambda x: 0.6 * (x + 0.8).relu() - 0.9 * (x + 0.1).relu() + 0.7 * (x - 0.4).relu(),
    "x²": lambda x: x.square(),
}
HELD, LEFT, FOREIGN = "held-out digits", "class left out", "Fashion-MNIST"
SETS = (HELD, LEFT, FOREIGN)
SURE = 2.0  # standard errors on both sides of a mean


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the images.

    Attributes:
        seeds: of the heights a_j, for each target and regime.
        steps: of gradient descent on the line, at which gaps are measured.
        size: of the images.
        width: of the hidden layer, at least as many as outputs.
        few, many: training images: fewer rows than parameters, and more.
        new: images of each other set.
        image_seeds: trainings on images.
        image_steps: of Adam, at which gaps are measured.
    """

    seeds: int = 20
    steps: tuple[int, ...] = (0, 10, 30, 100, 300, 1000, 5000)
    size: int = 10
    width: int = 10
    few: int = 60
    many: int = 400
    new: int = 40
    image_seeds: int = 5
    image_steps: tuple[int, ...] = (0, 30, 100, 300)


QUICK = Setting(
    seeds=6, steps=(0, 10, 100, 1000), size=7, few=30, many=150, new=15, image_seeds=2, image_steps=(0, 100)
)  # fmt: skip


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Rank gaps of five ReLUs and of networks on digits, over training.

    Args:
        data: a folder with ``mnist.npz`` and ``fashion-mnist.npz``; without it nothing is said about images.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold them.
    """
    from tqdm.auto import tqdm

    from genkernel.experiments.shrunk_images import require

    if data is not None:
        require(data, "mnist", "fashion-mnist")
    setting = setting or (QUICK if quick else Setting())
    outcome = Outcome(
        "rank-gap", asdict(setting) | {"quick": quick, "seed": seed, "rate": RATE, "data": data is not None}
    )
    counts = (setting.few, setting.many)
    trainings = [(n, seed + k) for n in counts for k in range(setting.image_seeds)] if data is not None else []
    with tqdm(total=len(TARGETS) + len(trainings), disable=not progress, desc="rank-gap") as bar:
        lines = {}
        for name in TARGETS:
            lines[name] = {regime: descend(name, regime, setting, seed) for regime in THRESHOLDS}
            bar.update()
        _on_the_line(outcome, lines, setting, seed)
        images = []
        for n, one in trainings:
            images.append(digits(data or "", n, setting, one))
            bar.update()
    _on_images(outcome, images, setting, seed)
    return outcome


# -------------------------------------------------------------------------------- on the line


@dataclass(frozen=True)
class Descent:
    """Trainings of five ReLUs from several heights, and their gaps.

    Attributes:
        steps: at which things were measured ``[t]``.
        heights, biases: a and b ``[t, seeds, 5]``.
        trained, tested: mean squared errors ``[t, seeds]``; ``silenced``: tested with the last unit left out.
        gaps: ``[t, seeds]``; ``ranks`` of the training features, ``stable``, ``held``: how much of the last unit's two
            coordinates the new directions hold, 0 to 2.
        moved: the largest |b_5 - b_5(0)| of all steps ``[seeds]``.
    """

    steps: tuple[int, ...]
    heights: Tensor
    biases: Tensor
    trained: Array
    tested: Array
    silenced: Array
    gaps: Array
    ranks: Array
    stable: Array
    held: Array
    moved: Array


def features(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Tangent features in (a, b) of Σ_j a_j relu(x + b_j) ``[n, 2m]``; the derivative of relu at its kink is 0."""
    z = x[:, None] + b
    return torch.cat([z.relu(), a * (z > 0)], 1)


def outputs(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """f at x for several networks ``[seeds, n]``."""
    return ((x[None, :, None] + b[:, None]).relu() * a[:, None]).sum(2)


def intervals() -> tuple[Tensor, Tensor]:
    """Training and test points."""
    return tuple(torch.linspace(-end, end, n, dtype=torch.float64) for end, n in ((WITHIN, TRAINED), (BEYOND, TESTED)))  # type: ignore[return-value]


def descend(target: str, regime: str, setting: Setting, seed: int) -> Descent:
    """Full-batch gradient descent on half the mean squared error, from several heights at once."""
    from genkernel.spectra import tangent_rank_gap

    x, new = intervals()
    y, answers = TARGETS[target](x), TARGETS[target](new)
    draw = torch.Generator().manual_seed(seed)
    a = 0.5 * torch.randn(setting.seeds, UNITS, generator=draw, dtype=torch.float64)
    b = -torch.tensor(THRESHOLDS[regime], dtype=torch.float64).expand(setting.seeds, -1)
    first, moved = b[:, -1].clone(), torch.zeros(setting.seeds, dtype=torch.float64)
    rows: list[list[Any]] = []
    for step in range(setting.steps[-1] + 1):
        if step in setting.steps:
            found = [tangent_rank_gap(features(x, p, q), features(new, p, q)) for p, q in zip(a, b, strict=True)]
            silent = a.clone()
            silent[:, -1] = 0
            errors = [
                (outputs(at, w, b) - to).square().mean(1)
                for at, w, to in ((x, a, y), (new, a, answers), (new, silent, answers))
            ]
            held = [
                0.0 if g.directions is None else float(g.coordinates[[UNITS - 1, 2 * UNITS - 1]].sum()) for g in found
            ]
            rows.append([
                a.clone(), b.clone(), *errors, [g.gap for g in found], [g.trained.value for g in found],
                [g.stable for g in found], held,
            ])  # fmt: skip
        z = x[None, :, None] + b[:, None]
        r = ((z.relu() * a[:, None]).sum(2) - y) / len(x)
        slope_a = (z.relu() * r[:, :, None]).sum(1)
        slope_b = ((z > 0) * a[:, None] * r[:, :, None]).sum(1)
        a, b = a - RATE * slope_a, b - RATE * slope_b
        moved = torch.maximum(moved, (b[:, -1] - first).abs())
    heights, biases, *others = zip(*rows, strict=True)
    trained, tested, silenced, gaps, ranks, stable, held_by = (
        np.stack([np.asarray(v, dtype=np.float64) for v in c]) for c in others
    )
    return Descent(
        setting.steps, torch.stack(heights), torch.stack(biases), trained, tested, silenced, gaps, ranks, stable,
        held_by, moved.numpy(),
    )  # fmt: skip


@dataclass(frozen=True)
class Detail:
    """One network at the end, for the figure.

    Attributes:
        trained, mixed: singular values of the features of training points, and with test points, relative to the
            largest of the mixture.
        tolerance: likewise.
        line, distance: x and d(x).
    """

    trained: Array
    mixed: Array
    tolerance: float
    line: Array
    distance: Array


def detail(d: Descent) -> Detail:
    """The first start's network."""
    from genkernel.spectra import projection_distance, tangent_rank_gap

    a, b = d.heights[-1, 0], d.biases[-1, 0]
    x, new = (features(points, a, b) for points in intervals())
    gap = tangent_rank_gap(x, new)
    top = float(gap.mixed.singular_values[0])
    line = torch.linspace(-BEYOND, BEYOND, 801, dtype=torch.float64)
    return Detail(
        trained=gap.trained.singular_values.numpy() / top,
        mixed=gap.mixed.singular_values.numpy() / top,
        tolerance=gap.tolerance / top,
        line=line.numpy(),
        distance=projection_distance(x, features(line, a, b)).numpy(),
    )


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean over the runs and its standard error (nan for one run)."""
    v = np.asarray(values, dtype=np.float64)
    return float(v.mean()), float(v.std(ddof=1) / math.sqrt(len(v))) if len(v) > 1 else math.nan


def around(values: Any) -> tuple[float, float]:
    """Two standard errors on both sides of the mean."""
    mean, error = mean_and_error(values)
    return mean - SURE * error, mean + SURE * error


def _on_the_line(outcome: Outcome, lines: dict[str, dict[str, Descent]], setting: Setting, seed: int) -> None:
    from genkernel.plots.rank_gap import line_gaps

    table = Table(
        f"Five ReLUs, {setting.seeds} starts per row; errors are means ± standard errors",
        ("target", "thresholds", "gap at the start", "gap at the end (starts)", "gap was 0 throughout", "stable",
         "train MSE", "test MSE", "test MSE without the last unit", "largest move of b_5"),
        [],
    )  # fmt: skip
    for target, regimes in lines.items():
        for regime, d in regimes.items():
            ends = ", ".join(f"{int(g)} ({int((d.gaps[-1] == g).sum())})" for g in np.unique(d.gaps[-1]))
            starts = ", ".join(str(int(g)) for g in np.unique(d.gaps[0]))
            silent = pair(d.silenced[-1]) if regime == DEAD else None
            table.rows.append((
                target, regime, starts, ends, f"{int((d.gaps == 0).all(0).sum())} of {setting.seeds}",
                f"{d.stable.mean():.0%}", pair(d.trained[-1]), pair(d.tested[-1]), silent, float(d.moved.max()),
            ))  # fmt: skip
    outcome.tables.append(table)
    outcome.numbers["line"] = {
        target: {
            regime: {
                "steps": list(d.steps), "gaps": d.gaps.tolist(), "ranks": d.ranks.tolist(),
                "stable": d.stable.tolist(), "held": d.held.tolist(), "moved": d.moved.tolist(),
                "train_mse": d.trained.tolist(), "test_mse": d.tested.tolist(), "silenced_mse": d.silenced.tolist(),
                "thresholds": (-d.biases).tolist(),
            }
            for regime, d in regimes.items()
        }
        for target, regimes in lines.items()
    }  # fmt: skip
    outcome.claims += _line_claims(lines, setting)
    details = {regime: detail(d) for regime, d in next(iter(lines.values())).items()}
    outcome.figures["rank-gap"] = line_gaps(lines, details, setting.seeds, {"seed": seed, "dtype": "float64"})


def pair(values: Any) -> str:
    """A mean and its standard error, in words."""
    return style.pair(*mean_and_error([v for v in values if not math.isnan(v)] or [math.nan]))


def above(*intervals: tuple[float, float]) -> str:
    """Whether some differences are above zero, each within two standard errors of its mean.

    Returns:
        "yes" if all are, "partly" if some are, "no" if none is and some are below zero, "undecided" otherwise.
    """
    up, down = [low > 0 for low, _ in intervals], [high < 0 for _, high in intervals]
    if not intervals or any(end != end for ends in intervals for end in ends):
        return "undecided"
    return "yes" if all(up) else "partly" if any(up) else "no" if any(down) else "undecided"


def _line_claims(lines: dict[str, dict[str, Descent]], setting: Setting) -> list[Claim]:
    dead, inside = ([regimes[name] for regimes in lines.values()] for name in (DEAD, INSIDE))
    runs = len(lines) * setting.seeds
    moved = max(float(d.moved.max()) for d in dead)
    held = min(float(d.held.min()) for d in dead)
    least, most = min(int(d.gaps.min()) for d in dead), max(int(d.gaps.max()) for d in dead)
    started = [bool((d.gaps[0] == 0).all()) for d in inside]
    kept = {name: int((regimes[INSIDE].gaps == 0).all(0).sum()) for name, regimes in lines.items()}
    shares = [d.stable.mean() for regimes in lines.values() for d in regimes.values()]
    rise = {name: regimes[DEAD].tested[-1] - regimes[INSIDE].tested[-1] for name, regimes in lines.items()}
    owed = {name: regimes[DEAD].tested[-1] - regimes[DEAD].silenced[-1] for name, regimes in lines.items()}
    return [
        Claim(
            "a threshold outside of the training interval is a gap of two, in a_5 and b_5, throughout the training, "
            "and the bias never moves (Guo, He, Morel, section 5.4)",
            f"in {runs} runs the gap is {least} at least (and {most} at most, where other thresholds leave as well); "
            f"the two coordinates hold at least {held:.6f} of 2; the largest move of b_5 is {moved:g}",
            verdict([least >= 2, held > 2 - 1e-6, moved == 0]),
        ),
        Claim(
            "with all thresholds inside there is no gap throughout the training (same section)",
            "at the start: none" + ("" if all(started) else " in part of the runs") + "; throughout: "
            + ", ".join(f"{k} of {setting.seeds} runs on {name}" for name, k in kept.items())
            + ": training moves thresholds out, so a gap belongs to the weights at one step and not to the start",
            verdict([all(started), *(k == setting.seeds for k in kept.values())]),
        ),
        Claim(
            f"gaps do not hang on the tolerance (the same at 1/100 and 100 times it, {len(setting.steps)} steps of all "
            "runs)",
            f"{min(shares):.0%} to {max(shares):.0%} of the gaps of a target and regime",
            verdict(share == 1 for share in shares),
        ),
        Claim(
            "the test loss is higher with the threshold outside (same section)",
            "difference of the test MSE, same starts: "
            + ", ".join(f"{pair(each)} on {name}" for name, each in rise.items()),
            above(*(around(each) for each in rise.values())),
        ),
        Claim(
            "it is higher because of what the untrained unit says (ours: the rise is gone without that unit)",
            "test MSE with the unit minus without: "
            + ", ".join(f"{pair(each)} on {name}" for name, each in owed.items()),
            above(*(around(each) for each in owed.values())),
        ),
    ]  # fmt: skip


# ---------------------------------------------------------------------------------- on images


@dataclass(frozen=True)
class Digits:
    """One training on nine classes of digits, and what other images add.

    Attributes:
        seed, count: of the training and its images.
        rows, parameters: of the training features.
        steps: at which things were measured.
        ranks: of the training features ``[t]``.
        gaps: set → ``[t]``; ``vacuous`` and ``stable`` likewise.
        distances: set → d of every image at the end ``[new]``.
        areas: set → AUROC of d at the end against held-out digits, and of two scores of pixels.
        first: share of the gap's directions in the first layer's weights, by set, at the end; nan where there are none.
        unlit: the same in weights of pixels that are zero in all training images.
        accuracy: on training images and on held-out digits of the nine classes.
    """

    seed: int
    count: int
    rows: int
    parameters: int
    steps: tuple[int, ...]
    ranks: list[int]
    gaps: dict[str, list[int]]
    vacuous: dict[str, list[bool]]
    stable: dict[str, list[bool]]
    distances: dict[str, list[float]]
    areas: dict[str, dict[str, float]]
    first: dict[str, float]
    unlit: dict[str, float]
    accuracy: tuple[float, float]


SCORES = ("projection distance", "pixels: projection distance", "pixels: nearest neighbour")


def network(inputs: int, width: int, classes: int, seed: int) -> nn.Sequential:
    """A tanh network with one hidden layer, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes)).double()


def digits(folder: str | Path, count: int, setting: Setting, seed: int) -> Digits:
    """Train on digits without one class, and measure gaps of other images on the way.

    The class left out is ``seed`` modulo ten; the others are numbered anew.
    """
    from genkernel.experiments.shrunk_images import shrunk
    from genkernel.spectra import auroc, projection_distance, tangent_rank_gap
    from genkernel.tangent import tangent_features

    out = seed % 10
    kept = tuple(c for c in range(10) if c != out)
    size = setting.size
    x, y = shrunk(folder, "mnist", size, count, split="train", seed=seed, classes=kept)
    held, truth = shrunk(folder, "mnist", size, setting.new, split="test", seed=seed, classes=kept)
    new = {
        HELD: held,
        LEFT: shrunk(folder, "mnist", size, setting.new, split="test", seed=seed, classes=(out,))[0],
        FOREIGN: shrunk(folder, "fashion-mnist", size, setting.new, split="test", seed=seed)[0],
    }
    y, truth = y - (y > out).long(), truth - (truth > out).long()
    net = network(x.shape[1], setting.width, len(kept), seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    gaps: dict[str, list[Any]] = {name: [] for name in SETS}
    J = tangent_features(net, x)
    for step in range(setting.image_steps[-1] + 1):
        if step in setting.image_steps:
            J = tangent_features(net, x)
            for name, images in new.items():
                gaps[name].append(tangent_rank_gap(J, tangent_features(net, images)))
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        if step < setting.image_steps[-1]:
            optimizer.step()
    scores: dict[str, dict[str, Array]] = {name: {} for name in SCORES}
    for name, images in new.items():
        own = tangent_features(net, images)
        sizes = own.square().sum(2)
        d = projection_distance(J, own)
        scores[SCORES[0]][name] = ((d.square() * sizes).sum(1) / sizes.sum(1)).sqrt().numpy()
        scores[SCORES[1]][name] = projection_distance(x, images).numpy()
        scores[SCORES[2]][name] = torch.cdist(images, x).min(1).values.numpy()
    last = {name: found[-1] for name, found in gaps.items()}
    weights = setting.width * x.shape[1]  # of the first layer, which come first
    dark = (x.max(0).values == 0).expand(setting.width, -1).reshape(-1)

    def share(name: str, chosen: Tensor | slice) -> float:
        gap = last[name]
        return (
            math.nan
            if gap.directions is None or not gap.gap
            else float(gap.coordinates[:weights][chosen].sum()) / gap.gap
        )

    with torch.no_grad():
        accuracy = tuple(float((net(at).argmax(1) == to).double().mean()) for at, to in ((x, y), (held, truth)))
    return Digits(
        seed=seed,
        count=count,
        rows=J.shape[0] * J.shape[1],
        parameters=J.shape[2],
        steps=setting.image_steps,
        ranks=[gap.trained.value for gap in gaps[HELD]],
        gaps={name: [gap.gap for gap in found] for name, found in gaps.items()},
        vacuous={name: [gap.vacuous for gap in found] for name, found in gaps.items()},
        stable={name: [gap.stable for gap in found] for name, found in gaps.items()},
        distances={name: values.tolist() for name, values in scores[SCORES[0]].items()},
        areas={
            name: {score: auroc(by[HELD], by[name], resamples=0).value for score, by in scores.items()}
            for name in (LEFT, FOREIGN)
        },
        first={name: share(name, slice(None)) for name in SETS},
        unlit={name: share(name, dark) for name in SETS},
        accuracy=accuracy,  # type: ignore[arg-type]
    )


def _on_images(outcome: Outcome, found: list[Digits], setting: Setting, seed: int) -> None:
    from genkernel.plots.rank_gap import image_gaps

    outcome.numbers["images"] = [asdict(one) for one in found]
    outcome.claims += _image_claims(found, setting)
    if not found:
        return
    groups = {n: [one for one in found if one.count == n] for n in (setting.few, setting.many)}
    table = Table(
        f"{setting.new} new images each ({setting.new * 9} rows), at the end, mean ± standard error over "
        f"{setting.image_seeds} trainings (each without another class)",
        ("training rows / parameters", "rank of the training features", "new images", "gap", "vacuous", "stable",
         "gap in weights of pixels never lit", "mean projection distance", "AUROC against held-out digits",
         "AUROC, pixels: projection distance", "AUROC, pixels: nearest neighbour"),
        [],
    )  # fmt: skip
    for many in groups.values():
        for name in SETS:
            areas = [
                None if name == HELD else pair([one.areas[name][score] for one in many]) for score in SCORES
            ]  # fmt: skip
            unlit = [one.unlit[name] for one in many if not math.isnan(one.unlit[name])]
            table.rows.append((
                f"{many[0].rows} / {many[0].parameters}", pair([one.ranks[-1] for one in many]), name,
                pair([one.gaps[name][-1] for one in many]),
                f"{sum(one.vacuous[name][-1] for one in many)} of {len(many)}",
                f"{sum(one.stable[name][-1] for one in many)} of {len(many)}",
                f"{np.mean(unlit):.0%}" if unlit else None,
                pair([np.mean(one.distances[name]) for one in many]), *areas,
            ))  # fmt: skip
    outcome.tables.append(table)
    outcome.figures["rank-gap-images"] = image_gaps(found, setting.new * 9, {"seed": seed, "dtype": "float64"})


def _image_claims(found: list[Digits], setting: Setting) -> list[Claim]:
    few, many = ([one for one in found if one.count == n] for n in (setting.few, setting.many))

    def gaps(group: list[Digits]) -> str:
        return ", ".join(f"{pair([one.gaps[name][-1] for one in group])} of {name}" for name in SETS)

    def more(name: str) -> tuple[float, float]:
        return around([one.gaps[name][-1] - one.gaps[HELD][-1] for one in many])

    def area(group: list[Digits], name: str, score: str) -> list[float]:
        return [one.areas[name][score] for one in group]

    def better(group: list[Digits], name: str) -> list[float]:
        own, *pixels = (np.array(area(group, name, score)) for score in SCORES)
        return list(own - np.maximum(*pixels))

    both = [(group, name) for group in (few, many) for name in (LEFT, FOREIGN)]

    def each(of: Callable[[list[Digits], str], list[float]]) -> str:
        return ", ".join(f"{pair(of(group, name))} ({name}, {group[0].rows} rows)" for group, name in both)

    def own(group: list[Digits], name: str) -> list[float]:
        return area(group, name, SCORES[0])

    texts = (
        "with fewer training rows than parameters the gap is vacuous: held-out digits raise the rank as well (THEORY "
        "§5)",
        "with more rows than parameters the gap tells the class left out, and Fashion-MNIST, from held-out digits "
        "(after Guo, He, Morel, section 5.4)",
        "such a gap is the dead unit again: it lives in first-layer weights of pixels that no training image lit",
        "the projection distance tells both from held-out digits, also where the gap is vacuous (AUROC above 0.5)",
        "it tells more than the pixels do (AUROC above that of the better of two scores of pixels)",
    )
    if not found:
        missing = "not measured: data= names a folder with mnist.npz and fashion-mnist.npz"
        return [Claim(text, missing, "undecided") for text in texts]
    independent = [one.vacuous[HELD][-1] for one in few]
    unlit, first = ([getattr(one, what)[FOREIGN] for one in many] for what in ("unlit", "first"))
    measured = (
        f"{few[0].rows} rows, {few[0].parameters} parameters, {setting.new * 9} new rows: gap {gaps(few)}; the "
        f"training rows were linearly independent in {sum(independent)} of {len(few)} trainings",
        f"{many[0].rows} rows, {many[0].parameters} parameters: gap {gaps(many)}",
        f"share of Fashion-MNIST's gap in them: {pair(unlit)}, in all weights of the first layer: {pair(first)} (where "
        "there is a gap)",
        each(own),
        each(better),
    )
    holds = (
        verdict(independent),
        above(more(LEFT), more(FOREIGN)),
        _most(unlit),
        above(*(around([a - 0.5 for a in own(group, name)]) for group, name in both)),
        above(*(around(better(group, name)) for group, name in both)),
    )
    return [Claim(*one) for one in zip(texts, measured, holds, strict=True)]


def _most(shares: list[float]) -> str:
    """ "yes" where all of it is there but for rounding, "partly" where more than half is, else "no"."""
    known = [share for share in shares if not math.isnan(share)]
    if not known:
        return "undecided"
    return "yes" if min(known) > 0.99 else "partly" if float(np.mean(known)) > 0.5 else "no"
