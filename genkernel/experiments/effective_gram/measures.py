"""Trainings and leave-one-out trainings of the study of effective Gram matrices, and what is predicted from which.

* consistency: the contraction factor c̄ comes from leave-one-out trainings of the run itself. The form is then their
  gap once more, and train loss + form is leave-one-out cross-validation;
* prediction: c̄ comes from elsewhere (:data:`SOURCES`), while ε̄ and the train loss are the run's own. Beside it stand
  the train loss alone, leaving out five samples, and the gap that other data sets have, which needs no form at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.errors import MissingError
from genkernel.experiments.effective_gram import tasks

if TYPE_CHECKING:
    from genkernel.spectra import LeaveOneOut, ResidualAlignment

Array = NDArray[np.float64]

OWN, HALF, DATA, POOLED, SEED, WIDTH = (
    "the same trainings", "the other half of the samples", "another data set", "all other data sets, pooled",
    "another seed", "half the width",
)  # fmt: skip
SOURCES = (OWN, HALF, DATA, POOLED, SEED, WIDTH)
TRAIN, FEW, OTHERS = "train loss alone", "leave-one-out on five samples", "the mean gap of the other data sets"
COUNT_FEW, RESAMPLES_FEW = 5, 200


@dataclass(frozen=True)
class Case:
    """One data set, network and size of the training set.

    Attributes:
        left_out: how many samples, drawn at random, trainings are made without (None: all).
        draws: training sets.
    """

    task: tasks.Task
    kind: str
    width: int
    n: int
    left_out: int | None
    draws: int

    @property
    def name(self) -> str:
        return f"{self.task.name}, {self.kind}, n = {self.n}"


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the data.

    Attributes:
        steps: N.
        rate: η relative to n over the largest eigenvalue of the first kernel.
        times: shares of the steps at which losses are compared; the last is 1.
        draws: training sets per case; seeds: initialisations of each.
        narrow, shuffled: how many of the training sets are repeated with half the width, and with shuffled targets.
        few: how many samples are left out where there are more than ``n``.
        held_out: samples that test losses are measured on; held_out_digits: of the digits.
        sizes: further sizes of the training set, for one network.
        many: training sets for the correlation over draws.
    """

    steps: int = 250
    rate: float = 0.25
    times: tuple[float, ...] = (0.1, 0.3, 1.0)
    draws: int = 5
    seeds: int = 2
    narrow: int = 2
    shuffled: int = 2
    n: int = 100
    n_sine: int = 24
    width: int = 32
    width_sine: int = 16
    channels: int = 8
    few: int = 60
    held_out: int = 2000
    held_out_digits: int = 600
    sizes: tuple[int, ...] = (50, 200)
    many: int = 40
    resamples: int = 1000


QUICK = Setting(
    steps=60, draws=3, narrow=1, shuffled=1, n=40, width=16, channels=4, held_out=500, sizes=(),
    many=8, resamples=200,
)  # fmt: skip


@dataclass
class Measured:
    """Everything that was trained for one case.

    Attributes:
        runs: by (training set, seed); narrow: by training set, half the width.
        alignment: of r(0) with K after every one of the ``times``, by training set, all from the first seed's
            initialisation: replicates are training sets, and r(0) differs by their samples alone; shuffled: at the end,
            by training set.
        quadratic, propagator: r(0)ᵀ K r(0) with own c̄ at the end, and the propagator's error, by training set.
    """

    case: Case
    lr: float
    runs: dict[tuple[int, int], LeaveOneOut] = field(default_factory=dict)
    narrow: dict[int, LeaveOneOut] = field(default_factory=dict)
    alignment: dict[int, list[ResidualAlignment]] = field(default_factory=dict)
    shuffled: dict[int, ResidualAlignment] = field(default_factory=dict)
    quadratic: dict[int, float] = field(default_factory=dict)
    propagator: dict[int, float] = field(default_factory=dict)


def cases(setting: Setting, folder: Path | None, seed: int, quick: bool) -> list[Case]:
    """Data sets × networks, and two more sizes of the training set.

    Raises:
        MissingError: the folder lacks a data set.
    """
    s = setting
    widths = {"linear": 1, "tanh": s.width, "ReLU": s.width, "CNN": s.channels}

    def of(task: tasks.Task, kinds: tuple[str, ...], n: int = s.n) -> list[Case]:
        return [Case(task, kind, widths[kind], n, s.few if n > s.n else None, s.draws) for kind in kinds]

    sine, digits = tasks.sine(seed, s.held_out), tasks.digits(seed, s.held_out_digits)
    found = [
        Case(sine, kind, s.width_sine, s.n_sine, None, s.draws)
        for kind in (("tanh",) if quick else ("linear", "tanh", "ReLU"))
    ]
    if folder is None:
        found += of(digits, ("linear", "tanh") if quick else ("linear", "tanh", "ReLU", "CNN"))
        return found
    if not folder.is_dir():
        raise MissingError(f"there is no folder {str(folder)!r} with mnist.npz and fashion-mnist.npz")
    mnist, fashion = folder / "mnist.npz", folder / "fashion-mnist.npz"
    two = tasks.two_classes("MNIST, 4 or 9", mnist, (4, 9), seed, s.held_out)
    clothes = tasks.two_classes("Fashion, pullover or shirt", fashion, (2, 6), seed, s.held_out)
    if quick:
        return [*found, *of(two, ("linear", "tanh")), *of(clothes, ("CNN",))]
    four = tasks.one_hot("MNIST, 0 to 3", mnist, (0, 1, 2, 3), seed, s.held_out)
    found += of(digits, ("linear", "tanh"))
    for task in (two, clothes):
        found += of(task, ("linear", "tanh", "ReLU", "CNN"))
    found += of(four, ("linear", "tanh"))
    for n in s.sizes:
        found += of(two, ("tanh",), n)
    return found


def measure(case: Case, setting: Setting, seed: int) -> Measured:
    """All trainings of one case."""
    from genkernel.spectra import effective_gram_matrix, residual_alignment

    first = case.task.draw(case.n, 0)
    lr = tasks.rate(tasks.network(case.kind, case.task, case.width, seed), first.x, setting.rate)
    found = Measured(case, lr)
    marks = [max(1, round(share * setting.steps)) for share in setting.times]
    for draw in range(case.draws):
        split = case.task.draw(case.n, draw)
        for init in range(setting.seeds):
            found.runs[draw, init] = trained(case, split, case.width, seed + init, lr, setting, draw)
        own = found.runs[draw, 0]
        options: dict[str, Any] = {"lr": lr, "steps": setting.steps}
        net = tasks.network(case.kind, case.task, case.width, seed)
        gram = effective_gram_matrix(
            net, split.x, split.y, contraction=own.contraction, snapshots=marks, **options
        )  # the same training once more, with the matrix
        found.alignment[draw] = [residual_alignment(gram, step=mark) for mark in marks]
        found.quadratic[draw], found.propagator[draw] = gram.quadratic, gram.propagator_error
        if draw < setting.narrow and case.kind != "linear":
            found.narrow[draw] = trained(case, split, case.width // 2, seed, lr, setting, draw)
        if draw < setting.shuffled:
            mixed = split.shuffled(seed + draw)
            theirs = trained(case, mixed, case.width, seed, lr, setting, draw)
            gram = effective_gram_matrix(net, mixed.x, mixed.y, contraction=theirs.contraction, **options)
            found.shuffled[draw] = residual_alignment(gram)
    return found


def trained(
    case: Case, split: tasks.Split, width: int, init: int, lr: float, setting: Setting, draw: int
) -> LeaveOneOut:
    """Trainings of one network on one training set."""
    from genkernel.spectra import leave_one_out_gap

    left_out = None
    if case.left_out is not None and case.left_out < case.n:
        order = torch.randperm(case.n, generator=torch.Generator().manual_seed(draw))
        left_out = order[: case.left_out].sort().values
    return leave_one_out_gap(
        tasks.network(case.kind, case.task, width, init), split.x, split.y, lr=lr, steps=setting.steps,
        left_out=left_out, held_out=(split.x_test, split.y_test),
    )  # fmt: skip


@dataclass(frozen=True)
class OverDraws:
    """Predicted and actual gaps of single training sets at the end ``[R]``, every one with its own initialisation.

    Attributes:
        predicted: r(0)ᵀ K r(0) with own c̄.
        actual: test loss less train loss.
        test: test loss.
    """

    case: Case
    predicted: Array
    actual: Array
    test: Array


def many_draws(case: Case, setting: Setting, seed: int) -> OverDraws:
    """r(0)ᵀ K r(0) (own c̄) and test loss less train loss of many training sets."""
    first = case.task.draw(case.n, 0)
    lr = tasks.rate(tasks.network(case.kind, case.task, case.width, seed), first.x, setting.rate)
    rows = []
    count = setting.many if case.task.most is None else min(setting.many, case.task.most // case.n)
    for draw in range(count):
        runs = trained(case, case.task.draw(case.n, draw), case.width, seed + draw, lr, setting, draw)
        assert runs.test_losses is not None
        train, test = float(runs.train_losses[-1]), float(runs.test_losses[-1])
        rows.append((float(runs.predicted_gap()[-1]), test - train, test))
    return OverDraws(case, *np.array(rows).T)


def predictions(measured: Measured) -> dict[str, dict[tuple[int, int], tuple[Array, Array]]]:
    """source of c̄ → run → (predicted gap, gap it is of), by step ``[N + 1]`` each.

    With the other half of the left-out samples the gap is that of the half that c̄ is not of, and there are two.
    """
    from genkernel.spectra import pooled_contraction

    found: dict[str, dict[tuple[int, int], tuple[Array, Array]]] = {name: {} for name in SOURCES}
    draws = sorted({draw for draw, _ in measured.runs})
    seeds = sorted({init for _, init in measured.runs})

    def put(source: str, key: tuple[int, int], contraction: Any, gap: Any) -> None:
        predicted = measured.runs[key].predicted_gap(contraction)
        found[source][key] = (predicted.numpy(), gap.numpy())

    for (draw, init), run in measured.runs.items():
        key = (draw, init)
        put(OWN, key, None, run.gap)
        order = torch.randperm(len(run.left_out), generator=torch.Generator().manual_seed(draw))
        one, other = (run.among(run.left_out[half]) for half in order.tensor_split(2))
        put(HALF, key, one.contraction, other.gap)
        if len(draws) > 1:
            put(DATA, key, measured.runs[draws[(draws.index(draw) + 1) % len(draws)], init].contraction, run.gap)
            rest = [r for (d, i), r in measured.runs.items() if d != draw and i == init]
            put(POOLED, key, pooled_contraction(rest), run.gap)
        if len(seeds) > 1:
            put(SEED, key, measured.runs[draw, seeds[(seeds.index(init) + 1) % len(seeds)]].contraction, run.gap)
        if init == 0 and draw in measured.narrow:
            put(WIDTH, key, measured.narrow[draw].contraction, run.gap)
    return {source: rows for source, rows in found.items() if rows}


def gap_of_others(measured: Measured) -> dict[tuple[int, int], tuple[float, float]]:
    """run → (mean leave-one-out gap of the other training sets with the same seed, its own), at the end."""
    found = {}
    for (draw, init), run in measured.runs.items():
        rest = [float(r.gap[-1]) for (d, i), r in measured.runs.items() if d != draw and i == init]
        if rest:
            found[draw, init] = (float(np.mean(rest)), float(run.gap[-1]))
    return found


def few_left_out(run: LeaveOneOut, seed: int) -> float:
    """The median relative error of the gap at the end from five of the trainings, over draws of these five."""
    last, gap = run.excess[:, -1], float(run.gap[-1])
    draw = torch.Generator().manual_seed(seed)
    guesses = [last[torch.randperm(len(last), generator=draw)[:COUNT_FEW]].mean() for _ in range(RESAMPLES_FEW)]
    return float((torch.stack(guesses) - gap).abs().median()) / abs(gap)
