"""How well do contributions predict what happens when data are taken away? Measured by training again without them.

A small classifier trains on mini-batches, with Adam and with SGD and momentum, from one initialisation and in several
orders of the batches. Every run is taped and replayed, which gives the contribution of every sample to the loss and
the margin of every held-out query. The truth is made by training again, hundreds of times
(:mod:`genkernel.experiments.group_retraining`): without each of the random groups and classes, with a group counting a
tenth less, and on random halves of the groups (the linear datamodelling score of Park et al., 2023). Beside
contributions stand TracIn-CP (Pruthi et al., 2020), the gradient products of the last weights, damped influence
functions, TRAK's formula and chance.

A contribution is conditional on the path and on the preconditioner that all samples made together (THEORY §3.2): the
theory does not say that it is the effect of a deletion, and this is how far it is from one.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.experiments.attribution_baselines import FinalWeights, trak
from genkernel.experiments.group_retraining import (
    Optimisation,
    batch_orders,
    half_subsets,
    left_out,
    loss_and_margin,
    outputs_of,
    retrain,
    sample_losses,
)
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.experiments.rank_agreement import Agreement, agreement, chance

Array = NDArray[np.float64]
Pair = tuple[Tensor, Tensor]

OUTPUTS = ("loss", "margin")
TRUTHS = {
    "groups": "without a random group",
    "classes": "without a class",
    "less": "a random group counts a tenth less",
    "halves": "on random halves of the groups (LDS)",
}
OURS, CEILING, TRAK = "contributions", "another batch order", "TRAK's formula"
LATER, EARLY = "… without the first 5 %", 0.05  # the share of the steps that is left out
LESS = 0.9
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
DAMPING = 0.1  # fixed before anything was measured; the grid stands in a table of its own


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the data."""

    samples: int = 960
    queries: int = 24
    groups: int = 24
    subsets: int = 96
    orders: int = 4
    steps: tuple[int, ...] = (60, 300)
    batch: int = 48
    width: int = 32
    checkpoints: int = 10
    resamples: int = 200

    def __post_init__(self) -> None:
        if self.orders < 2 or self.groups < 4 or self.samples < 10 * self.groups // 4:
            raise InputError("a comparison needs two or more batch orders, four or more groups, and samples for them")


QUICK = Setting(samples=240, queries=6, groups=16, subsets=32, orders=2, steps=(60,), batch=24, width=16, resamples=100)
OPTIMISATIONS = {"momentum": Optimisation("momentum", 0.03), "Adam": Optimisation("adam", 1e-2)}


@dataclass(frozen=True)
class Task:
    """Data of one comparison, float64.

    Attributes:
        data, queries: inputs and labels.
        classes: how many.
        group: the random group of every sample ``[n]``.
        source: in words.
    """

    data: Pair
    queries: Pair
    classes: int
    group: Tensor
    source: str

    @property
    def label(self) -> Tensor:
        return self.data[1]


def synthetic_task(setting: Setting, seed: int) -> Task:
    """Ten overlapping normal distributions in twenty dimensions, one label in twenty wrong."""
    draw = torch.Generator().manual_seed(seed)
    n = setting.samples + setting.queries
    label = torch.randint(10, (n,), generator=draw)
    centres = 0.75 * torch.randn(10, 20, generator=draw, dtype=torch.float64)
    x = centres[label] + torch.randn(n, 20, generator=draw, dtype=torch.float64)
    wrong = torch.rand(n, generator=draw) < 0.05
    wrong[setting.samples :] = False
    label = torch.where(wrong, torch.randint(10, (n,), generator=draw), label)
    return _task(x, label, setting, draw, "ten normal distributions in 20 dimensions, 5 % of the labels random")


def image_task(images: Any, setting: Setting, seed: int) -> Task:
    """Images with labels, shrunk to 7×7 and standardised.

    Raises:
        InputError: there are no labels, or too few images.
    """
    from genkernel.data import load_images

    n = setting.samples + setting.queries
    found = load_images(images, channels=1, size=28, limit=n, split="train", seed=seed)
    if found.labels is None or len(found) < n:
        raise InputError(f"retraining needs {n} labelled images, {found.describe()} does not have them")
    x = torch.nn.functional.avg_pool2d(found.images, 4).flatten(1).double()
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(n, generator=draw)
    x, label = x[mixed], found.labels[mixed].long()
    x = (x - x.mean(0)) / (x.std(0) + 0.1)
    return _task(x, label, setting, draw, f"{found.source}, 7×7 pixels")


def _task(x: Tensor, label: Tensor, setting: Setting, draw: torch.Generator, source: str) -> Task:
    n = setting.samples
    group = torch.randperm(n, generator=draw) % setting.groups
    return Task((x[:n], label[:n]), (x[n:], label[n:]), int(label.max()) + 1, group, source)


def network(task: Task, width: int, seed: int) -> nn.Module:
    """A tanh network with one hidden layer, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(task.data[0].shape[1], width), nn.Tanh(), nn.Linear(width, task.classes)]
        return nn.Sequential(*layers).double()


# ----------------------------------------------------------------------------- predictions


@dataclass
class Predicted:
    """What each method says that groups and classes added to the queries, by method.

    Attributes:
        groups: method → ``[G, m, 2]``.
        classes: method → ``[C, m, 2]``.
        gap: completeness gap of the contributions, relative.
    """

    groups: dict[str, Array]
    classes: dict[str, Array]
    gap: float


def predict(
    task: Task, net: nn.Module, order: list[Tensor], optimisation: Optimisation, setting: Setting
) -> tuple[Predicted, FinalWeights]:
    """One taped training, and what every method makes of it."""
    from genkernel.paths.replay import replay
    from genkernel.paths.tape import tape

    x, y = task.data
    module = copy.deepcopy(net)
    optimizer = optimisation.make(module)
    steps = len(order)
    kept = {round(steps * k / setting.checkpoints) for k in range(setting.checkpoints + 1)}
    checkpoints, states = [copy.deepcopy(module.state_dict())], []
    with tempfile.TemporaryDirectory() as folder:
        with tape(module, optimizer, folder, steps=steps) as run:
            for step, ids in enumerate(order, start=1):
                run.batch(ids)
                optimizer.zero_grad()
                sample_losses(module, (x[ids], y[ids])).mean().backward()
                optimizer.step()
                if step in kept:
                    checkpoints.append(copy.deepcopy(module.state_dict()))
                    states.append(copy.deepcopy(optimizer.state_dict()))
        found = replay(
            folder, module, lambda ids: (x[ids], y[ids]), sample_losses, queries=task.queries,
            query_call=loss_and_margin, progress=False,
        )  # fmt: skip
    predicted = Predicted({}, {}, found.contributions(lambda ids: np.zeros(len(ids), int)).gap_rel)
    for name, first in ((OURS, 0), (LATER, round(EARLY * steps))):
        by_sample = np.zeros((len(y), *found.values.shape[2:]))
        later = found.steps >= first
        np.add.at(by_sample, found.ids[later], found.values[later].sum(1))
        _add(predicted, name, task, by_sample)
    edges = sorted(kept)
    rate = optimisation.lr / (1 - optimisation.momentum) if optimisation.kind == "momentum" else optimisation.lr
    rates = [rate * (b - a) for a, b in pairwise(edges)]
    _add_cells(predicted, "TracIn-CP", task, module, checkpoints, rates)
    if optimisation.kind == "adam":
        _add_cells(predicted, "TracIn-CP with P", task, module, checkpoints, rates, states)
    _add_cells(predicted, "last weights", task, module, [checkpoints[-1]] * 2, [sum(rates)])
    final = FinalWeights(module, task.data, task.queries)
    for damping in DAMPINGS:
        _add(predicted, _influence(damping), task, final.influence(damping))
    return predicted, final


def _influence(damping: float) -> str:
    return "influence" if damping == DAMPING else f"influence, λ = {damping:g}"


def _add(predicted: Predicted, name: str, task: Task, by_sample: Array) -> None:
    """Sum values of samples ``[n, m, 2]`` into groups and classes."""
    for into, index in ((predicted.groups, task.group), (predicted.classes, task.label)):
        total = np.zeros((int(index.max()) + 1, *by_sample.shape[1:]))
        np.add.at(total, index.numpy(), by_sample)
        into[name] = total


def _add_cells(
    predicted: Predicted,
    name: str,
    task: Task,
    module: nn.Module,
    checkpoints: list[Any],
    rates: list[float],
    states: list[Any] | None = None,
) -> None:
    """The checkpoint approximation by cells of group and class, so that one pass serves both."""
    from genkernel.paths import checkpoint_path
    from genkernel.tangent import Preconditioner

    cell = task.group * task.classes + task.label
    parts = checkpoint_path(
        module, checkpoints, rates, task.data, sample_losses, queries=task.queries, query_call=loss_and_margin,
        groups=lambda ids, _: cell[ids], batch_size=len(cell),
        preconditioners=[Preconditioner.from_optimizer(s, module) for s in states] if states else None,
    )  # fmt: skip
    cells = np.array(parts.sources, dtype=int)
    values = parts.values.numpy()
    for into, index, count in (
        (predicted.groups, cells // task.classes, int(task.group.max()) + 1),
        (predicted.classes, cells % task.classes, task.classes),
    ):
        total = np.zeros((count, *values.shape[1:]))
        np.add.at(total, index, values)
        into[name] = total


# ---------------------------------------------------------------------------------- truth


@dataclass
class Truth:
    """What trainings with other weights came to, by kind of change.

    Attributes:
        effects: what the unit added ``[S, U, m, 2]`` for S batch orders; for halves the outputs themselves.
        halves: which groups are in ``[K, G]``.
        accuracy: of the whole training on the queries.
    """

    effects: dict[str, Array]
    halves: Array
    accuracy: float


def truth(
    task: Task, net: nn.Module, orders: list[list[Tensor]], optimisation: Optimisation, setting: Setting, seed: int,
    tick: Callable[[], object] = lambda: None,
) -> Truth:  # fmt: skip
    """Train again, in every order of the batches."""
    halves = half_subsets(setting.groups, setting.subsets, seed)
    weights = {
        "groups": left_out(task.group, setting.groups),
        "classes": left_out(task.label, task.classes),
        "less": left_out(task.group, setting.groups, LESS),
        "halves": halves[:, task.group].double(),
    }
    whole = torch.ones(1, len(task.label), dtype=torch.float64)
    found: dict[str, list[Array]] = {name: [] for name in weights}
    accuracy = []
    for order in orders:
        stacked = retrain(net, task.data, order, torch.cat([whole, *weights.values()]), optimisation, tick)
        outputs = outputs_of(net, stacked, task.queries).numpy()
        accuracy.append(float((outputs[0, :, 1] > 0).mean()))
        start = 1
        for name, rows in weights.items():
            part = outputs[start : start + len(rows)]
            start += len(rows)
            found[name].append(part if name == "halves" else (outputs[0] - part) / (1 - LESS if name == "less" else 1))
    effects = {name: np.stack(rows) for name, rows in found.items()}
    return Truth(effects, halves.numpy().astype(np.float64), float(np.mean(accuracy)))


def forecast(predicted: Predicted, method: str, kind: str, halves: Array) -> Array:
    """What a method says of every unit of a kind of change ``[U, m, 2]``."""
    if kind == "classes":
        return predicted.classes[method]
    if kind == "halves":
        return np.einsum("kg,gmo->kmo", halves, predicted.groups[method])
    return predicted.groups[method]


# ------------------------------------------------------------------------------------ run


def compare(runs: list[Predicted], actual: Truth, setting: Setting, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind of change → output (and the mean test loss) → method → agreement."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind in TRUTHS:
        effects = actual.effects[kind]
        mean = effects.mean(0)
        found[kind] = {name: {} for name in (*OUTPUTS, "mean loss")}
        for method in runs[0].groups:
            own = [forecast(run, method, kind, actual.halves) for run in runs]
            said = np.mean(own, 0)
            for o, output in enumerate(OUTPUTS):
                if np.isnan(said[..., o]).any():
                    continue
                row = agreement(said[..., o], mean[..., o], seed=seed, resamples=setting.resamples)
                alone = [
                    agreement(one[..., o], effect[..., o], resamples=0)
                    for one, effect in zip(own, effects, strict=True)
                ]
                one_run = {} if method == TRAK else {"one_run": _mean_spearman(alone)}  # TRAK's is of all runs
                found[kind][output][method] = row.numbers() | one_run
            row = agreement(said.mean(1)[:, :1], mean.mean(1)[:, :1], seed=seed, resamples=setting.resamples)
            found[kind]["mean loss"][method] = row.numbers()
        for o, output in enumerate((*OUTPUTS, "mean loss")):
            target = mean[..., o] if o < 2 else mean.mean(1)[:, :1]
            found[kind][output]["chance"] = chance(target, seed=seed, draws=max(10, setting.resamples // 2)).numbers()
            ceilings = []
            for s in range(len(effects)):
                others = np.delete(effects, s, 0).mean(0)
                a, b = (
                    (others, effects[s])
                    if o < 2
                    else (others.mean(1, keepdims=True), effects[s].mean(1, keepdims=True))
                )
                ceilings.append(agreement(a[..., o % 2], b[..., o % 2], resamples=0))
            found[kind][output][CEILING] = replace(
                ceilings[0],
                spearman=_mean_spearman(ceilings),
                pearson=float(np.mean([c.pearson for c in ceilings])),
                slope=float(np.mean([c.slope for c in ceilings])),
            ).numbers()
    return found


def _mean_spearman(found: list[Agreement]) -> float:
    return float(np.mean([one.spearman for one in found]))


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
    from tqdm.auto import tqdm

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
                runs = _predicted(task, net, orders, optimisation, setting, seed, bar.update)
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
            "trak": "its formula with a random projection, by ourselves; the library traker is not installed"
            if not _has_trak() else "its formula with a random projection, by ourselves",
            "parameters": sum(p.numel() for p in net.parameters()),
        },
        claims=_claims(results, max(gaps), trainings),
        tables=_tables(results, setting),
        figures={
            "retraining_scatter": retraining_scatter(clouds, TRUTHS, results, meta, shape),
            "retraining_bars": retraining_bars(lengths, TRUTHS, _shown(results), meta, shape),
        },
        numbers={"agreement": results, "gaps": gaps, "accuracy": accuracy},
    )  # fmt: skip


def _predicted(
    task: Task, net: nn.Module, orders: list[list[Tensor]], optimisation: Optimisation, setting: Setting, seed: int,
    tick: Callable[[int], object],
) -> list[Predicted]:  # fmt: skip
    """Every method's predictions from every order of the batches; TRAK's are of all runs together."""
    runs, factors, wrong = [], [], []
    for order in orders:
        one, final = predict(task, net, order, optimisation, setting)
        factors.append(final.trak_features(min(256, setting.samples // 3), seed))
        wrong.append(final.wrong_at_queries())
        runs.append(one)
        tick(len(order))
    together = trak(factors, np.mean(wrong, 0))
    for one in runs:
        _add(one, TRAK, task, together)
    return runs


def _has_trak() -> bool:
    from importlib.util import find_spec

    return find_spec("trak") is not None


def _shown(results: dict[str, Any]) -> list[str]:
    """Methods of the main figure and tables, in order."""
    names = [m for found in results.values() for m in found["groups"]["margin"]]
    wanted = (OURS, LATER, "TracIn-CP", "TracIn-CP with P", "last weights", "influence", _influence(1.0), TRAK)
    return [name for name in (*wanted, "chance", CEILING) if name in names]


def _tables(results: dict[str, Any], setting: Setting) -> list[Table]:
    rows: list[tuple[Any, ...]] = []
    aside: list[tuple[Any, ...]] = []
    for name, found in results.items():
        for kind in TRUTHS:
            for output in (*OUTPUTS, "mean loss"):
                for method, row in found[kind][output].items():
                    cells = (
                        name,
                        TRUTHS[kind],
                        output,
                        method,
                        row["spearman"],
                        row["low"],
                        row["high"],
                        row["pearson"],
                    )
                    (aside if "λ" in method else rows).append((*cells, row["slope"], row.get("one_run")))
    columns = (
        "optimizer", "change", "output", "prediction", "Spearman", "2.5 %", "97.5 %", "Pearson", "slope",
        "Spearman, one run",
    )  # fmt: skip
    return [
        Table(
            f"What was predicted against what trainings came to: mean over {setting.queries} queries of correlations "
            "over groups, classes or subsets; bootstrap over these; slope of actual on predicted; 'another batch "
            "order': one order's trainings against the mean of the others'",
            columns, rows,
        ),
        Table("Influence functions by damping λ, in units of the mean eigenvalue of Gauss-Newton", columns, aside),
    ]  # fmt: skip


def _claims(results: dict[str, Any], gap: float, trainings: int) -> list[Claim]:
    def row(name: str, kind: str, method: str, output: str = "margin") -> dict[str, Any]:
        found: dict[str, Any] = results[name][kind][output][method]
        return found

    def said(kind: str, method: str, only: str = "") -> str:
        return ", ".join(
            f"{one['spearman']:.2f} [{one['low']:.2f}, {one['high']:.2f}] ({name})"
            for name in results
            if name.startswith(only)
            for one in [row(name, kind, method)]
        )

    rivals = ("TracIn-CP", "last weights", TRAK)
    beaten = {
        (name, rival): row(name, "halves", OURS)["spearman"] - row(name, "halves", rival)["spearman"]
        for name in results
        for rival in rivals
    }
    influence = {n: row(n, "halves", OURS)["spearman"] - row(n, "halves", "influence")["spearman"] for n in results}
    best = {
        n: row(n, "halves", OURS)["spearman"] - max(row(n, "halves", _influence(d))["spearman"] for d in DAMPINGS)
        for n in results
    }
    slopes = {
        kind: ", ".join(f"{row(n, kind, OURS)['slope']:.2f} ({n})" for n in results)
        for kind in ("groups", "classes", "less")
    }
    spoilt = [
        row(n, "halves", LATER)["low"] > row(n, "halves", OURS)["spearman"] for n in results if n.startswith("Adam")
    ]
    ceilings = ", ".join(f"{row(n, 'groups', CEILING)['spearman']:.2f} ({n})" for n in results)
    share = {n: row(n, "groups", OURS)["spearman"] / row(n, "groups", CEILING)["spearman"] for n in results}
    apart = all(
        row(n, "groups", OURS)["high"] < row(n, "groups", CEILING)["spearman"]
        or abs(row(n, "groups", OURS)["slope"] - 1) > 0.2
        for n in results
    )
    claims = [
        Claim(
            "contributions of all samples add up to what the outputs changed by (replayed tapes)",
            f"largest gap {gap:.1e} of the change",
            "yes" if gap < 1e-2 else "no",
        ),
        Claim(
            "a contribution is conditional on the path and on the preconditioner, not the effect of a deletion "
            "(THEORY §3.2)",
            f"Spearman with what {trainings} trainings say of leaving a random group out: {said('groups', OURS)}; "
            f"what another batch order says of it: {ceilings}; slope of effects on contributions "
            f"{slopes['groups']}, of classes {slopes['classes']}, of small changes of weight {slopes['less']}",
            "yes" if apart else "partly",
        ),
        Claim(
            "contributions predict the deletion of a random group nonetheless, as far as another batch order does",
            "; ".join(f"{100 * value:.0f} % of its Spearman ({n})" for n, value in share.items()),
            "yes" if min(share.values()) > 0.95 else "partly" if min(share.values()) > 0.5 else "no",
        ),
        Claim(
            "contributions predict trainings on half of the groups (LDS) better than TracIn-CP, the last weights and "
            "TRAK's formula",
            f"LDS of margins: contributions {said('halves', OURS)}; "
            + "; ".join(f"{rival} {said('halves', rival)}" for rival in rivals),
            "yes" if min(beaten.values()) > 0 else "no" if max(beaten.values()) <= 0 else "partly",
        ),
        Claim(
            "… and better than damped influence functions of the last weights",
            f"influence (damping fixed at {DAMPING:g} mean eigenvalues): {said('halves', 'influence')}; best of "
            f"{len(DAMPINGS)} dampings "
            + ", ".join(
                f"{max(row(n, 'halves', _influence(d))['spearman'] for d in DAMPINGS):.2f} ({n})" for n in results
            ),
            "yes" if min(best.values()) > 0 else "partly" if max(influence.values()) > 0 else "no",
        ),
        Claim(
            "Adam's first steps, whose second moments are of a few batches alone, spoil the prediction (a conjecture "
            "of ours: P enlarges what cancels within a batch)",
            f"LDS of margins: {said('halves', OURS, 'Adam')}; with the first {EARLY:.0%} of the steps left out: "
            f"{said('halves', LATER, 'Adam')}",
            "yes" if all(spoilt) else "partly" if any(spoilt) else "no",
        ),
    ]
    lengths = [name for name in results if name.startswith("momentum")]
    if len(lengths) > 1:
        first, last = (
            [row(n.replace("momentum", kind), "halves", OURS) for kind in OPTIMISATIONS]
            for n in (lengths[0], lengths[-1])
        )
        claims.append(
            Claim(
                "the longer the training, the less contributions say of trainings on other data (ours)",
                f"LDS of margins: {said('halves', OURS)}",
                "yes"
                if all(b["high"] < a["low"] for a, b in zip(first, last, strict=True))
                else "partly"
                if any(b["high"] < a["low"] for a, b in zip(first, last, strict=True))
                else "no",
            )
        )
    return claims
