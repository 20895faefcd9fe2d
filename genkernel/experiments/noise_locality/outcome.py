"""Claims, tables and figures of the study of locality in noise level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.noise_locality.measures import MOMENTS, Kernels, Learning, all_kernels, learning
from genkernel.experiments.noise_locality.setting import (
    CASES,
    DOMAINS,
    EXCHANGED,
    PLAIN_STEPS,
    POINTS,
    RESCALED,
    SINUSOIDAL,
    UNAWARE,
    UNTOLD,
    VARIANTS,
    Setting,
    Variant,
)
from genkernel.experiments.noise_locality.training import best
from genkernel.experiments.outcome import Claim, Outcome, Table, adds_up, verdict
from genkernel.experiments.replicates import above, around, below, is_above, is_within, pair

Array = NDArray[np.float64]
Values = dict[str, Array]  # case → values over seeds

LOCAL = 0.1  # an index below it is no locality to speak of, as in the study of the shipped denoiser
SAME = 0.05  # indices nearer to each other than this count as the same
START, END, WHOLE = 0, 2, 3  # moments of kernels, stretches of contributions


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        kernels: at the start, in the middle and at the end.
        learning: around these, and over the whole training.
        before, after: mean loss on held-out samples.
        gap: of the contributions, relative to the largest change.
    """

    domain: str
    variant: Variant
    seed: int
    kernels: list[Kernels]
    learning: list[Learning]
    before: float
    after: float
    gap: float

    @classmethod
    def of(
        cls, domain: str, variant: Variant, setting: Setting, seed: int, data: str | Path | None, rate: float
    ) -> Run:
        """Train, record and measure."""
        from genkernel.experiments.noise_locality.training import samples, train

        sizes = setting.of(domain)
        trained = train(domain, variant, setting, seed, data, rate)
        held_out = samples(domain, setting, seed, data)[1][: sizes.images]
        found = all_kernels(trained, held_out, probes=sizes.probes, seed=seed)
        gap = trained.parts.gap_rel
        return cls(domain, variant, seed, found, learning(trained), trained.before, trained.after, gap)


class Group:
    """The runs of one domain, by variant, in the order of their seeds."""

    def __init__(self, runs: list[Run], domain: str):
        self.domain = domain
        self.of = {v: [run for run in runs if run.domain == domain and run.variant == v] for v in VARIANTS[domain]}
        self.measured = any(self.of.values())

    def kernel(self, variant: Variant, name: str, moment: int = END) -> Array:
        """A number of the kernel over seeds."""
        return np.array([getattr(run.kernels[moment], name) for run in self.of[variant]])

    def learned(self, variant: Variant, name: str, stretch: int = WHOLE) -> Array:
        """A number of the contributions over seeds."""
        return np.array([getattr(run.learning[stretch], name) for run in self.of[variant]])

    @property
    def count(self) -> int:
        """Trainings."""
        return sum(map(len, self.of.values()))

    def ranked(self) -> float:
        """Spearman's correlation over trainings of the kernel's index and that of gross contributions, at the end."""
        from scipy.stats import spearmanr

        kernel, gross = (
            np.concatenate([of(v, name, END) for v in self.of])
            for of, name in ((self.kernel, "cosine"), (self.learned, "gross"))
        )
        return float(spearmanr(kernel, gross).statistic)

    def cases(self, of: Callable[[Variant], Array]) -> Values:
        """Of the networks that are told their level as usual."""
        return {v.name: of(v) for v in CASES}


# ------------------------------------------------------------------------------- verdicts


def over(*groups: Values, level: float = 0.0) -> str:
    """The verdict on all means being above a level."""
    return above(*(around(each) for group in groups for each in group.values()), level=level)


def same(values: Values, margin: float = SAME) -> str:
    """The verdict on all differences being within a margin."""
    return verdict(is_within(around(each), margin) for each in values.values())


# --------------------------------------------------------------------------------- claims


def words(values: Mapping[str, Array]) -> str:
    """Means ± standard errors by case."""
    return "; ".join(f"{name} {pair(each)}" for name, each in values.items())


def claims_of(group: Group) -> list[Claim]:
    """What one domain says; without runs, that it was not measured."""
    found: list[Claim] = []

    def say(text: str, values: Callable[[], tuple[str, str]]) -> None:
        missing = "not measured: data= names a folder with mnist.npz", "undecided"
        measured, holds = values() if group.measured else missing
        found.append(Claim(f"{group.domain}: {text}", measured, holds))

    def cosine(moment: int = END) -> Values:
        return group.cases(lambda v: group.kernel(v, "cosine", moment))

    def raw() -> Values:
        return group.cases(lambda v: group.kernel(v, "raw"))

    def gross(stretch: int = WHOLE) -> Values:
        return group.cases(lambda v: group.learned(v, "gross", stretch))

    def net() -> Values:
        return group.cases(lambda v: group.learned(v, "net"))

    def less(one: Values, other: Values) -> Values:
        return {name: one[name] - other[name] for name in one}

    def without(of: Callable[[Variant], Array]) -> Values:
        return {v.name: of(v) - of(UNTOLD[v.schedule]) for v in CASES}

    def untold(of: Callable[[Variant], Array]) -> Values:
        return {v.schedule: of(v) for v in UNTOLD.values()}

    say(
        "the trained kernel is local in noise level (Guo, He, Morel, section 4.1; index of the cosine kernel above "
        f"{LOCAL})",
        lambda: (f"{words(cosine())}. Unnormalised: {words(raw())}", over(cosine(), level=LOCAL)),
    )
    say(
        "a level is learned from nearby levels (same section; contributions over the whole training, gross as well as "
        f"net, index above {LOCAL})",
        lambda: (f"gross: {words(gross())}. Net: {words(net())}", over(gross(), net(), level=LOCAL)),
    )
    say(
        f"how local the cosine kernel is says how local learning is (gross index within {SAME} of the kernel's, both "
        "at the end)",
        lambda: (
            f"gross of the last tenth minus kernel: {words(less(gross(END), cosine()))}. Over all "
            f"{group.count} trainings, however they were told, the two have a rank correlation of {group.ranked():.2f}",
            same(less(gross(END), cosine())),
        ),
    )
    say(
        "the kernel is local through the embedding (same section; index with the embedding alone varied minus index "
        f"with the input alone varied, and the former above {LOCAL})",
        lambda: (
            words(less(*_controls(group)))
            + f". Embedding only: {words(_controls(group)[0])}. Input only: {words(_controls(group)[1])}",
            verdict(
                [is_above(around(each)) for each in less(*_controls(group)).values()]
                + [is_above(around(each), LOCAL) for each in _controls(group)[0].values()]
            ),
        ),
    )
    say(
        "without the time in the embedding, trained kernels are less local (noise-unconditional network; told minus "
        "constant embedding)",
        lambda: (
            words(without(lambda v: group.kernel(v, "cosine")))
            + f". Constant embedding: {words(untold(lambda v: group.kernel(v, 'cosine')))}",
            over(without(lambda v: group.kernel(v, "cosine"))),
        ),
    )
    say(
        "… and so is learning (gross contributions, whole training)",
        lambda: (
            words(without(lambda v: group.learned(v, "gross")))
            + f". Constant embedding: {words(untold(lambda v: group.learned(v, 'gross')))}",
            over(without(lambda v: group.learned(v, "gross"))),
        ),
    )
    say(
        "locality follows the embedding where this exchanges blocks of timesteps (retrained; index in the order that "
        "is told minus index in the true one, of the kernel and of gross contributions)",
        lambda: _exchanged(group),
    )
    say(
        f"it is not the scale of the input (retrained with inputs of one scale at all levels; index within {SAME})",
        lambda: _rescaled(group),
    )
    if UNAWARE in group.of:
        say(
            "with neither the time in the embedding nor the scale of the input, nothing is local (retrained; indices "
            f"below {LOCAL})",
            lambda: _unaware(group),
        )
    say(
        "training makes the kernel local (cosine index at the end minus that before training)",
        lambda: (words(less(cosine(), cosine(START))), over(less(cosine(), cosine(START)))),
    )
    say(
        "… and learning (gross index of the last tenth minus that of the first)",
        lambda: (words(less(gross(END), gross(START))), over(less(gross(END), gross(START)))),
    )
    ranks = {name: (lambda v, n=name: group.kernel(v, n)) for name in ("rank_raw", "rank_told", "rank_lag")}
    say(
        "the nearer two encodings, the larger the kernel (same section; Spearman's correlation over pairs of levels, "
        "trained)",
        lambda: (
            words(group.cases(ranks["rank_raw"]))
            + f". Before training: {words(group.cases(lambda v: group.kernel(v, 'rank_raw', START)))}",
            over(group.cases(ranks["rank_raw"])),
        ),
    )
    say(
        "… and they say more than the distance in time alone (difference of correlations)",
        lambda: (
            words(less(group.cases(ranks["rank_raw"]), group.cases(ranks["rank_lag"]))),
            over(less(group.cases(ranks["rank_raw"]), group.cases(ranks["rank_lag"]))),
        ),
    )
    say(
        "what the time MLP makes of the encodings says more than the distance in time alone (difference of "
        "correlations)",
        lambda: (
            words(less(group.cases(ranks["rank_told"]), group.cases(ranks["rank_lag"])))
            + f". After the MLP: {words(group.cases(ranks['rank_told']))}",
            over(less(group.cases(ranks["rank_told"]), group.cases(ranks["rank_lag"]))),
        ),
    )
    if group.domain == POINTS:
        say(
            "with SGD, the optimizer of Cor. 4.1, learning is as local as with Adam (each at its own learning rate; "
            f"gross, whole training, within {SAME})",
            lambda: _with_sgd(group),
        )
    gaps = [run.gap for runs in group.of.values() for run in runs]
    say(
        "changes of predictions are the sum of what the levels did to them (Cor. 4.1; gap at most 1 %, partly: 5 %)",
        lambda: (
            f"largest gap of {len(gaps)} trainings {max(gaps):.2%}, median {np.median(gaps):.2%}",
            adds_up(max(gaps)),
        ),
    )
    return found


def _controls(group: Group) -> tuple[Values, Values]:
    """Embedding only and input only, at the end."""
    return (
        group.cases(lambda v: group.kernel(v, "embedding_only")),
        group.cases(lambda v: group.kernel(v, "input_only")),
    )


def _exchanged(group: Group) -> tuple[str, str]:
    pairs = {
        "kernel": group.kernel(EXCHANGED, "told") - group.kernel(EXCHANGED, "cosine"),
        "gross contributions": group.learned(EXCHANGED, "told") - group.learned(EXCHANGED, "gross"),
    }
    start = group.kernel(EXCHANGED, "told", START) - group.kernel(EXCHANGED, "cosine", START)
    orders = (
        f"kernel {pair(group.kernel(EXCHANGED, 'told'))} told, {pair(group.kernel(EXCHANGED, 'cosine'))} true; "
        f"contributions {pair(group.learned(EXCHANGED, 'told'))} told, "
        f"{pair(group.learned(EXCHANGED, 'gross'))} true, of the last tenth "
        f"{pair(group.learned(EXCHANGED, 'told', END))} and {pair(group.learned(EXCHANGED, 'gross', END))}"
    )
    return f"{words(pairs)}; kernel before training {pair(start)}. {orders}", over(pairs)


def _rescaled(group: Group) -> tuple[str, str]:
    plain = Variant(SINUSOIDAL, RESCALED.schedule)
    differences = {
        "kernel": group.kernel(RESCALED, "cosine") - group.kernel(plain, "cosine"),
        "gross contributions": group.learned(RESCALED, "gross") - group.learned(plain, "gross"),
    }
    return f"rescaled minus not: {words(differences)}", same(differences)


def _unaware(group: Group) -> tuple[str, str]:
    found = {
        "kernel": group.kernel(UNAWARE, "cosine"),
        "gross contributions": group.learned(UNAWARE, "gross"),
        "net contributions": group.learned(UNAWARE, "net"),
    }
    scaled = UNTOLD[UNAWARE.schedule]
    more = {
        "kernel": group.kernel(scaled, "cosine") - found["kernel"],
        "gross contributions": group.learned(scaled, "gross") - found["gross contributions"],
    }
    return (
        f"{words(found)}. With the scale of the input, still without the time: more by {words(more)}",
        below(*map(around, found.values()), level=LOCAL),
    )


def _with_sgd(group: Group) -> tuple[str, str]:
    plain = Variant(SINUSOIDAL, PLAIN_STEPS.schedule)
    difference = {"difference": group.learned(PLAIN_STEPS, "gross") - group.learned(plain, "gross")}
    sgd, adam = ([pair(group.learned(v, "gross", k)) for k in (WHOLE, START, END)] for v in (PLAIN_STEPS, plain))
    return (
        f"{words(difference)}: SGD {sgd[0]} (first tenth {sgd[1]}, last {sgd[2]}), Adam {adam[0]} (first tenth "
        f"{adam[1]}, last {adam[2]}); kernel with SGD {pair(group.kernel(PLAIN_STEPS, 'cosine'))}, with Adam "
        f"{pair(group.kernel(plain, 'cosine'))}",
        same(difference),
    )


# -------------------------------------------------------------------------------- outcome


def outcome_of(
    runs: list[Run], tried: dict[str, dict[str, dict[float, float]]], setting: Setting, settings: dict[str, Any]
) -> Outcome:
    """Everything that the runs say.

    Args:
        tried: domain → optimizer → losses by learning rate.
    """
    groups = [Group(runs, domain) for domain in DOMAINS]
    outcome = Outcome("noise-locality", settings)
    for group in groups:
        outcome.claims += claims_of(group)
        if group.measured:
            outcome.tables += _tables(group)
    outcome.tables.append(
        Table(
            "Learning rates: training loss at the end of every rate that was tried, on draws of their own",
            ("training", "chosen", "losses"),
            [
                (
                    f"{domain}, {name}",
                    best(by_rate),
                    "; ".join(f"{rate:g}: {loss:.4g}" for rate, loss in by_rate.items()),
                )
                for domain, of in tried.items()
                for name, by_rate in of.items()
            ],
        )
    )
    outcome.figures = _figures([group for group in groups if group.measured], setting, settings)
    outcome.numbers = {
        group.domain: {
            v.name: [
                {
                    "seed": one.seed,
                    "before": one.before,
                    "after": one.after,
                    "gap": one.gap,
                    "kernels": {m: _plain(k) for m, k in zip(MOMENTS, one.kernels, strict=True)},
                    "learning": {m: _plain(k) for m, k in zip((*MOMENTS, "whole"), one.learning, strict=True)},
                    "cosine_kernel_at_the_end": one.kernels[END].matrix.round(4).tolist(),
                    "gross_shares_over_all_steps": one.learning[WHOLE].matrices["gross"].round(4).tolist(),
                }
                for one in found
            ]
            for v, found in group.of.items()
        }
        for group in groups
        if group.measured
    } | {"rates": {domain: {name: _rates(losses) for name, losses in of.items()} for domain, of in tried.items()}}
    return outcome


def _rates(losses: dict[float, float]) -> dict[str, Any]:
    return {"chosen": best(losses), "losses": {f"{rate:g}": loss for rate, loss in losses.items()}}


def _plain(found: Kernels | Learning) -> dict[str, float]:
    return {name: value for name, value in vars(found).items() if isinstance(value, float)}


def _tables(group: Group) -> list[Table]:
    means = f"mean ± standard error over {len(group.of[CASES[0]])} trainings"
    sides = Table(
        f"{group.domain}: three indices side by side ({means}; contributions over the first, middle and last tenth of "
        "the steps and over all; the last column takes loud levels for local ones, see the page)",
        (
            "training",
            "when",
            "cosine kernel",
            "kernel",
            "contributions, gross",
            "contributions, net",
            "gross, against the mass of samples",
        ),
        [],
    )
    for v in group.of:
        for k, when in enumerate((*MOMENTS, "whole")):
            kernel = (pair(group.kernel(v, name, k)) if k < WHOLE else None for name in ("cosine", "raw"))
            learned = (pair(group.learned(v, name, k)) for name in ("gross", "net", "by_mass"))
            sides.rows.append((v.name, when, *kernel, *learned))
    controls = Table(
        f"{group.domain}: index of the cosine kernel and its controls, correlations with encodings ({means})",
        ("training", "when", "kernel", "embedding only", "input only", "shuffled levels", "order told",
         "Spearman, encoding", "Spearman, after the MLP", "Spearman, −|Δt|", "held-out loss"),
        [],
    )  # fmt: skip
    names = ("cosine", "embedding_only", "input_only", "shuffled", "told", "rank_raw", "rank_told", "rank_lag")
    for v, found in group.of.items():
        for k in (START, END):
            values = [
                None if np.isnan(group.kernel(v, name, k)).all() else pair(group.kernel(v, name, k)) for name in names
            ]
            if v != EXCHANGED:
                values[names.index("told")] = None
            loss = pair([one.after if k == END else one.before for one in found])
            controls.rows.append((v.name, MOMENTS[k], *values, loss))
    return [sides, controls]


def _figures(groups: list[Group], setting: Setting, settings: dict[str, Any]) -> dict[str, Any]:
    from genkernel.plots import noise_locality as plots

    meta = {"seed": settings["seed"]}
    sides = {
        group.domain: {
            v.name: {
                "cosine kernel": [group.kernel(v, "cosine", k) for k in range(3)],
                "kernel": [group.kernel(v, "raw", k) for k in range(3)],
                "contributions, gross": [group.learned(v, "gross", k) for k in range(3)],
                "contributions, net": [group.learned(v, "net", k) for k in range(3)],
            }
            for v in CASES
        }
        for group in groups
    }
    plain = Variant(SINUSOIDAL, "linear")
    rows = {
        group.domain: {
            "trained": _both(group, plain),
            "before training": (group.kernel(plain, "cosine", START), None),
            "embedding only": (group.kernel(plain, "embedding_only"), None),
            "input only": (group.kernel(plain, "input_only"), None),
            "shuffled levels": (group.kernel(plain, "shuffled"), None),
            "exchanged blocks, true order": _both(group, EXCHANGED),
            "exchanged blocks, order told": (group.kernel(EXCHANGED, "told"), group.learned(EXCHANGED, "told")),
            "inputs rescaled": _both(group, RESCALED),
            "constant embedding": _both(group, UNTOLD["linear"]),
            "constant embedding, inputs rescaled": _both(group, UNAWARE),
            "SGD in the place of Adam": _both(group, PLAIN_STEPS),
        }
        for group in groups
    }
    maps = {
        group.domain: {
            "kernel, before": _mean([run.kernels[START].matrix for run in group.of[plain]]),
            "kernel, trained": _mean([run.kernels[END].matrix for run in group.of[plain]]),
            "learned, gross": _mean([run.learning[WHOLE].matrices["gross"] for run in group.of[plain]]),
            "learned, net": _mean([run.learning[WHOLE].matrices["net"] for run in group.of[plain]]),
        }
        for group in groups
    }
    lags = {
        group.domain: {
            name: np.array([run.kernels[END].lags[name] for run in group.of[plain]])
            for name in group.of[plain][0].kernels[END].lags
        }
        for group in groups
    }
    counts = " and ".join(f"{setting.of(group.domain).seeds} ({group.domain})" for group in groups)
    return {
        "noise-locality": plots.side_by_side(sides, LOCAL, meta, f"mean and 95 % over {counts} trainings"),
        "noise-locality-controls": plots.controls(rows, meta, f"mean and 95 % over {counts} trainings"),
        "noise-locality-maps": plots.maps(maps, meta, f"means over {counts} trainings"),
        "noise-locality-lags": plots.lags(lags, setting.timesteps, meta, f"mean and 95 % over {counts} trainings"),
    }


def _both(group: Group, variant: Variant) -> tuple[Array | None, Array | None]:
    if variant not in group.of:
        return None, None
    return group.kernel(variant, "cosine"), group.learned(variant, "gross")


def _mean(matrices: list[Array]) -> Array:
    mean: Array = np.mean(matrices, axis=0)
    return mean
