"""What training does to the alignment of the tangent kernel with the labels, and how much of it means something.

Points of a disk against points of the circle around it (Guo, He & Morel, §5.1; Courtois et al., §5.1), a three-layer
tanh network, squared and logistic loss, several draws of points and weights. Beside the trained kernel stand its
controls: the untrained network, the kernel without the last layer, permuted labels, points that the network never saw,
and classifiers on the points themselves (THEORY §8). The radii of the papers did not survive in their texts; ours are
0.9 and 1, which leaves the nearest points of the other class closer than most of the own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.domingos import network
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.plane_points import disk_and_circle

Array = NDArray[np.float64]

LAST = "4"  # the last layer of the network
FRESH = "fresh points"  # those that no network was trained on
LOSSES = ("squared", "logistic")
RATE = 5e-3
MEASURES = ("KTA", "CKA biased", "CKA unbiased", "neighbours, kernel", "neighbours, Euclidean")
SEPARATION = ("held out", "in-sample", "in-sample, largest C")
MATTERS = 0.02  # a mean difference that is surely below it is none, where accuracies, agreements and CKA are concerned
ALL, FAR = 0.95, 0.75  # in-sample accuracies of permuted labels that show nothing to be evidence, or that do not
PERFECT = 0.99  # held-out accuracy from which classes count as separable: one of 150 points on the wrong side


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        samples: points, half of them on the circle.
        radius: of the disk; the circle's is 1.
        width: of both hidden layers.
        steps: of full-batch Adam.
        permuted_steps: the same, on permuted labels, which take longer.
        seeds: draws of points and weights.
        neighbours: k.
        moments: steps at which the kernel is looked at.
        folds: of cross-validation.
        draws: of independent features, for what the biased CKA makes of them.
    """

    samples: int = 150
    radius: float = 0.9
    width: int = 64
    steps: int = 1500
    permuted_steps: int = 6000
    seeds: int = 10
    neighbours: int = 10
    moments: tuple[int, ...] = (0, 3, 10, 30, 60, 100, 200, 300, 600, 1000, 1500)
    folds: int = 5
    draws: int = 20


QUICK = Setting(width=32, steps=600, permuted_steps=2000, seeds=2, moments=(0, 10, 30, 100, 300, 600), draws=8)


def trained(
    x: Tensor,
    y: Tensor,
    loss: str,
    width: int,
    steps: int,
    seed: int,
    look: Callable[[int, nn.Module], Any] | None = None,
) -> tuple[nn.Module, float, float]:
    """A network after full-batch Adam, its loss and accuracy on these points.

    Args:
        look: called with the number of steps done and the network, from 0 on.
    """
    net = network(width, nn.Tanh, seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for step in range(steps + 1):
        if look is not None:
            look(step, net)
        out = net(x)[:, 0]
        value = _loss(out, y, loss)
        if step < steps:
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return net, float(value.detach()), float(((out > 0) == y.bool()).double().mean())


def measures(net: nn.Module, x: Tensor, y: Tensor, k: int) -> dict[str, float]:
    """Alignment of the kernel of these points with these labels."""
    from genkernel.spectra import cka, kernel_target_alignment, knn_label_agreement

    K = _kernel(net, x).values
    signs = 2.0 * y.double() - 1
    near = knn_label_agreement(K, y, k, points=x)
    assert near.kernel is not None and near.euclidean is not None
    values = (
        kernel_target_alignment(K, torch.outer(signs, signs)),
        cka(K, y, unbiased=False),
        cka(K, y),
        near.kernel.value,
        near.euclidean.value,
    )
    return dict(zip(MEASURES, values, strict=True))


def separation(kernel: Any, y: Tensor, seed: int, folds: int = 5) -> dict[str, float]:
    """Accuracies of a linear SVM in the space of a kernel."""
    from genkernel.spectra import tangent_linear_separability

    found = tangent_linear_separability(kernel, y, seed=seed, folds=folds)
    return dict(zip(SEPARATION, (found.held_out, found.in_sample, found.in_sample_hard), strict=True))


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """Alignment, neighbours and separability before and after training, with their controls.

    Args:
        quick: two seeds of a smaller network: under a minute.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    rows = [_one(setting, seed + s) for s in tqdm(range(setting.seeds), disable=not progress, desc="alignment")]
    independent = _independent(setting.samples, setting.draws, seed)
    return _outcome(setting, rows, independent, quick, seed)


# ------------------------------------------------------------------------------------- one seed


def _kernel(net: nn.Module, x: Tensor) -> Any:
    import genkernel as gk

    return gk.kernel(net, x, cotangents=gk.total(), dtype="float64", progress=False, distributed=False)


def _loss(out: Tensor, y: Tensor, loss: str) -> Tensor:
    if loss == "logistic":
        return F.binary_cross_entropy_with_logits(out, y.double())
    return (out - (2 * y - 1)).square().mean()


def _rbf(x: Tensor) -> Tensor:
    gamma = 1 / float(2 * x.var(0, correction=0).mean())  # as scikit-learn's "scale"
    return torch.exp(-gamma * torch.cdist(x, x).square())


def _one(setting: Setting, seed: int) -> dict[str, Any]:
    """Everything that is measured with one draw of points and weights."""
    from genkernel.spectra import embed, without_layers

    x, y = disk_and_circle(setting.samples, setting.radius, seed)
    fresh, fresh_y = disk_and_circle(setting.samples, setting.radius, seed + 100_000)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    permuted = y[order]
    start = network(setting.width, nn.Tanh, seed)
    before = _kernel(start, x)
    separated = {
        "untrained": separation(before, y, seed, setting.folds),
        "untrained, without last layer": separation(without_layers(before, LAST), y, seed, setting.folds),
        "untrained, permuted labels": separation(before, permuted, seed, setting.folds),
        f"untrained, {FRESH}": separation(_kernel(start, fresh), fresh_y, seed, setting.folds),
        "points, linear": separation(x @ x.T, y, seed, setting.folds),
        "points, RBF": separation(_rbf(x), y, seed, setting.folds),
        f"points, RBF, {FRESH}": separation(_rbf(fresh), fresh_y, seed, setting.folds),
    }
    aligned = {"untrained": measures(start, x, y, setting.neighbours)}
    found: dict[str, Any] = {"aligned": aligned, "separated": separated, "course": {}, "fit": {}, "permuted": {}}
    found["plane"] = {"untrained": embed(before)}
    for loss in LOSSES:
        course: list[dict[str, float]] = []

        def look(step: int, net: nn.Module, loss: str = loss, course: list[dict[str, float]] = course) -> None:
            if step in setting.moments:
                with torch.no_grad():
                    value = float(_loss(net(x)[:, 0], y, loss))
                course.append(measures(net, x, y, setting.neighbours) | {"loss": value})

        net, value, accuracy = trained(x, y, loss, setting.width, setting.steps, seed, look)
        after = _kernel(net, x)
        with torch.no_grad():
            test = float(((net(fresh)[:, 0] > 0) == fresh_y.bool()).double().mean())
        found["fit"][loss] = {"loss": value, "accuracy": accuracy, "test accuracy": test}
        found["course"][loss] = course
        found["plane"][loss] = embed(after)
        aligned[f"{loss} loss"] = measures(net, x, y, setting.neighbours)
        aligned[f"{loss} loss, {FRESH}"] = measures(net, fresh, fresh_y, setting.neighbours)
        separated[f"{loss} loss"] = separation(after, y, seed, setting.folds)
        separated[f"{loss} loss, without last layer"] = separation(without_layers(after, LAST), y, seed, setting.folds)
        unseen = _kernel(net, fresh)
        separated[f"{loss} loss, {FRESH}"] = separation(unseen, fresh_y, seed, setting.folds)
        separated[f"{loss} loss, {FRESH}, without last layer"] = separation(
            without_layers(unseen, LAST), fresh_y, seed, setting.folds
        )
        net, value, accuracy = trained(x, permuted, loss, setting.width, setting.permuted_steps, seed)
        found["permuted"][loss] = {"loss": value, "accuracy": accuracy}
        separated[f"{loss} loss, permuted labels"] = separation(_kernel(net, x), permuted, seed, setting.folds)
    found["labels"] = y
    return found


def _independent(n: int, draws: int, seed: int) -> dict[str, list[float]]:
    """CKA of independent Gaussian features of twice as many dimensions as samples."""
    from genkernel.spectra import cka

    draw = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {"biased": [], "unbiased": []}
    for _ in range(draws):
        one, other = (torch.randn(n, 2 * n, generator=draw, dtype=torch.float64) for _ in range(2))
        found["biased"].append(cka(one @ one.T, other @ other.T, unbiased=False))
        found["unbiased"].append(cka(one @ one.T, other @ other.T))
    return found


# ------------------------------------------------------------------------------------- results


def interval(values: Sequence[float] | Array) -> tuple[float, float, float]:
    """Mean, and 95 % of it by Student's t over seeds (NaN with one)."""
    from scipy.stats import t

    v = np.asarray(values, dtype=np.float64)
    mean = float(v.mean())
    if len(v) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5)
    return mean, mean - half, mean + half


def _said(values: Sequence[float] | Array) -> str:
    mean, low, high = interval(values)
    return f"{mean:.3f} [{max(low, -1.0):.3f}, {min(high, 1.0):.3f}]"  # nothing here goes beyond 1


def _outcome(
    setting: Setting, rows: list[dict[str, Any]], independent: dict[str, list[float]], quick: bool, seed: int
) -> Outcome:
    from genkernel.plots.alignment import alignment
    from genkernel.plots.tangent_embedding import tangent_planes

    aligned = _gathered(rows, "aligned")
    separated = _gathered(rows, "separated")
    course = {
        loss: {name: np.array([[m[name] for m in row["course"][loss]] for row in rows]) for name in (*MEASURES, "loss")}
        for loss in LOSSES
    }
    fit = _gathered(rows, "fit")
    permuted = _gathered(rows, "permuted")
    chance = _chance(setting.samples)
    tables = [
        Table(
            f"Alignment of the kernel with the labels, {setting.seeds} seeds: mean and 95 % (Student's t); chance of "
            f"neighbours {chance:.3f}",
            ("kernel of", *MEASURES),
            [(name, *(_said(values[m]) for m in MEASURES)) for name, values in aligned.items()],
        ),
        Table(
            "Accuracy of a linear SVM in the space of a kernel (folds hold out from the SVM; from the network only "
            "fresh points are held out)",
            ("kernel of", *SEPARATION),
            [(name, *(_said(values[m]) for m in SEPARATION)) for name, values in separated.items()],
        ),
        Table(
            "The networks",
            ("loss", "value", "accuracy", "accuracy on fresh points", "accuracy on permuted labels"),
            [
                (loss, *(float(fit[loss][m].mean()) for m in ("loss", "accuracy", "test accuracy")),
                 float(permuted[loss]["accuracy"].mean()))
                for loss in LOSSES
            ],
        ),
        Table(
            f"CKA of independent features, {2 * setting.samples} dimensions, {setting.samples} samples",
            ("estimate", "mean and 95 %"),
            [(name, _said(values)) for name, values in independent.items()],
        ),
    ]  # fmt: skip
    meta = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"}
    figures = {
        "alignment": alignment(setting.moments, course, separated, chance, meta | {"images": None}, setting.samples),
        "alignment-planes": tangent_planes(
            {_title(name): plane for name, plane in rows[0]["plane"].items()},
            rows[0]["labels"],
            ("disk", "circle"),
            {"seed": seed, "dtype": "float64"},
        ),
    }
    numbers = {
        "aligned": _plain(aligned),
        "separated": _plain(separated),
        "fit": _plain(fit),
        "permuted": _plain(permuted),
        "course": {"moments": list(setting.moments)} | _plain(course),
        "independent": independent,
        "chance": chance,
    }
    return Outcome(
        name="alignment",
        settings=asdict(setting) | {"seed": seed, "quick": quick, "rate": RATE, "losses": LOSSES},
        claims=_claims(aligned, separated, course, setting.moments, independent, chance),
        tables=tables,
        figures=figures,
        numbers=numbers,
    )


def _claims(
    aligned: dict[str, dict[str, Array]],
    separated: dict[str, dict[str, Array]],
    course: dict[str, dict[str, Array]],
    moments: Sequence[int],
    independent: dict[str, list[float]],
    chance: float,
) -> list[Claim]:
    start = aligned["untrained"]
    end = {loss: aligned[f"{loss} loss"] for loss in LOSSES}
    rise = {loss: end[loss]["CKA unbiased"] - start["CKA unbiased"] for loss in LOSSES}
    unseen = {loss: aligned[f"{loss} loss, {FRESH}"] for loss in LOSSES}
    gain, gain_seen = (
        {loss: where[loss]["neighbours, kernel"] - where[loss]["neighbours, Euclidean"] for loss in LOSSES}
        for where in (unseen, end)
    )
    gain_before = start["neighbours, kernel"] - start["neighbours, Euclidean"]

    def held(name: str) -> Array:
        return separated[name]["held out"]

    fresh, seen = (
        {loss: held(f"{loss} loss, {FRESH}") for loss in LOSSES},
        {loss: held(f"{loss} loss") for loss in LOSSES},
    )
    untrained, rbf = held(f"untrained, {FRESH}"), held(f"points, RBF, {FRESH}")
    last = {loss: fresh[loss] - held(f"{loss} loss, {FRESH}, without last layer") for loss in LOSSES}
    last_seen = {loss: seen[loss] - held(f"{loss} loss, without last layer") for loss in LOSSES}
    random_before = separated["untrained, permuted labels"]["in-sample, largest C"]
    random_after = {loss: separated[f"{loss} loss, permuted labels"] for loss in LOSSES}
    tracks = {loss: _tracking(course[loss]["CKA unbiased"], course[loss]["loss"]) for loss in LOSSES}
    clock = np.log1p(np.asarray(moments, dtype=np.float64))
    clocks = {
        loss: _tracking(np.broadcast_to(clock, course[loss]["loss"].shape), course[loss]["loss"]) for loss in LOSSES
    }
    closer = {loss: tracks[loss] - clocks[loss] for loss in LOSSES}
    biased, unbiased = interval(independent["biased"]), interval(independent["unbiased"])
    return [
        Claim(
            "training aligns the kernel with the labels for either loss: the unbiased CKA rises (Guo, He & Morel, §5)",
            f"from {_said(start['CKA unbiased'])} by {_by_loss(rise)}; on fresh points it is "
            + _by_loss({loss: values["CKA unbiased"] for loss, values in unseen.items()}),
            larger(rise),
        ),
        Claim(
            "CKA follows the loss: where the loss falls more between two moments CKA rises more, and more so than the "
            "logarithm of the number of steps does (rank correlations of differences, per seed)",
            f"CKA {_by_loss(tracks)}; logarithm of steps {_by_loss(clocks)}; one minus the other {_by_loss(closer)}",
            larger(closer),
        ),
        Claim(
            "after training the neighbours by the kernel share the label more often than Euclidean ones, on fresh "
            "points (§5.1)",
            f"gain {_by_loss(gain)}; on points trained on {_by_loss(gain_seen)}; untrained {_said(gain_before)}; "
            f"chance is {chance:.3f}",
            larger(gain),
        ),
        Claim(
            f"the classes are linearly separable in the trained tangent space, held out of it and of the training "
            f"({PERFECT:.0%} and more; Courtois et al., §5.1; Guo, He & Morel, §5.2)",
            f"fresh points {_by_loss(fresh)}; points trained on, whose labels are in the kernel, {_by_loss(seen)}",
            _reaches(fresh),
        ),
        Claim(
            "that is the work of training: the untrained network's tangent space separates less, on the same "
            "fresh points",
            f"trained minus untrained {_by_loss({loss: v - untrained for loss, v in fresh.items()})}; untrained "
            f"{_said(untrained)}; points trained on "
            + _by_loss({loss: v - held("untrained") for loss, v in seen.items()}),
            larger({loss: v - untrained for loss, v in fresh.items()}),
        ),
        Claim(
            "the tangent space separates fresh points better than an RBF machine on them (isotropic case of §5.2)",
            f"difference {_by_loss({loss: v - rbf for loss, v in fresh.items()})}; RBF {_said(rbf)}; linear "
            f"{_said(held('points, linear'))}; points trained on "
            + _by_loss({loss: v - held("points, RBF") for loss, v in seen.items()}),
            larger({loss: v - rbf for loss, v in fresh.items()}),
        ),
        Claim(
            "it hangs on the last layer, in whose span the output lies by construction (Courtois et al., §4.2)",
            f"with it minus without, fresh points {_by_loss(last)}; points trained on {_by_loss(last_seen)}",
            larger(last),
        ),
        Claim(
            "accuracy in-sample is evidence of structure: networks trained on permuted labels do not get it",
            f"largest C: untrained {_said(random_before)}, trained on them "
            + _by_loss({loss: values["in-sample, largest C"] for loss, values in random_after.items()})
            + "; held out "
            + _by_loss({loss: values["held out"] for loss, values in random_after.items()}),
            _no_evidence({loss: values["in-sample, largest C"] for loss, values in random_after.items()}),
        ),
        Claim(
            "the biased CKA of independent features is near 0, as the unbiased one is",
            f"biased {biased[0]:.3f} [{biased[1]:.3f}, {biased[2]:.3f}], unbiased {unbiased[0]:.4f} "
            f"[{unbiased[1]:.4f}, {unbiased[2]:.4f}]",
            _near_zero(biased),
        ),
    ]


def larger(differences: dict[str, Array]) -> str:
    """Whether differences over seeds are above zero.

    A loss says no where the whole interval is below :data:`MATTERS`, yes where it is above zero otherwise, and nothing
    else; where one says nothing the answer is "undecided".
    """
    parts: list[bool | None] = []
    for values in differences.values():
        _, low, high = interval(values)
        parts.append(False if high < MATTERS else True if low > 0 else None)
    return verdict(parts)


def _reaches(held: dict[str, Array], level: float = PERFECT) -> str:
    """Whether mean accuracies are ``level`` or more: by the whole interval over seeds, for every loss."""
    parts: list[bool | None] = []
    for values in held.values():
        _, low, high = interval(values)
        parts.append(True if low >= level else False if high < level else None)
    return verdict(parts)


def _no_evidence(in_sample: dict[str, Array]) -> str:
    """ "no" where permuted labels are separated in-sample, nearly all of them, "yes" where they are far from it."""
    ends = [interval(values)[1:] for values in in_sample.values()]
    if any(math.isnan(end) for pair in ends for end in pair):
        return "undecided"
    if all(low > ALL for low, _ in ends):
        return "no"
    return "yes" if all(high < FAR for _, high in ends) else "partly"


def _near_zero(found: tuple[float, float, float]) -> str:
    """Whether a mean is surely within :data:`MATTERS` of zero, or surely not."""
    _, low, high = found
    return verdict([True if low > -MATTERS and high < MATTERS else False if low > MATTERS or high < -MATTERS else None])


def _tracking(values: Array, loss: Array) -> Array:
    """Spearman's correlation of the rises of values with the falls of the loss ``[seeds]``, from ``[seeds, moments]``.

    Of differences between moments: the values themselves correlate with the loss as soon as both go one way. NaN where
    there are fewer than three differences, or all are the same.
    """
    import warnings

    from scipy.stats import ConstantInputWarning, spearmanr

    rises, falls = np.diff(values, axis=1), -np.diff(loss, axis=1)
    if rises.shape[1] < 3:
        return np.full(len(rises), math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return np.array([spearmanr(a, b).statistic for a, b in zip(rises, falls, strict=True)])


def _by_loss(values: dict[str, Array]) -> str:
    return ", ".join(f"{_said(each)} ({loss})" for loss, each in values.items())


def _gathered(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Array]]:
    """name → measure → values over seeds."""
    return {
        name: {m: np.array([row[key][name][m] for row in rows]) for m in values}
        for name, values in rows[0][key].items()
    }


def _plain(values: dict[str, dict[str, Array]]) -> dict[str, Any]:
    return {name: {m: v.tolist() for m, v in inner.items()} for name, inner in values.items()}


def _chance(samples: int) -> float:
    counts = np.array([samples - samples // 2, samples // 2])
    return float((counts * (counts - 1)).sum() / (samples * (samples - 1)))


def _title(name: str) -> str:
    return name if name == "untrained" else f"{name} loss"
