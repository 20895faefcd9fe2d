"""Tables and claims of the study of rank gaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.rank_gap.images import FOREIGN, HELD, LEFT, SCORES, SETS, Digits
from genkernel.experiments.rank_gap.line import BEYOND, DEAD, INSIDE, THRESHOLDS, WITHIN, Descent, activity, detail
from genkernel.experiments.rank_gap.setting import Setting
from genkernel.experiments.replicates import above, around, pair


def on_the_line(outcome: Outcome, lines: dict[str, dict[str, Descent]], setting: Setting, seed: int) -> None:
    """Add what five ReLUs did: target → regime → trainings."""
    from genkernel.plots.rank_gap import activations, line_gaps

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
    outcome.claims += line_claims(lines, setting)
    details = {regime: detail(d) for regime, d in next(iter(lines.values())).items()}
    meta = {"seed": seed, "dtype": "float64"}
    outcome.figures["rank-gap"] = line_gaps(lines, details, setting.seeds, meta)
    outcome.figures["rank-gap-activations"] = activations(
        {target: {regime: -d.biases[-1].numpy() for regime, d in regimes.items()} for target, regimes in lines.items()},
        THRESHOLDS, (WITHIN, BEYOND), meta,
    )  # fmt: skip


def line_claims(lines: dict[str, dict[str, Descent]], setting: Setting) -> list[Claim]:
    """What the gaps and errors on the line say; differences are of the same starts, with 95 % intervals."""
    dead, inside = ([regimes[name] for regimes in lines.values()] for name in (DEAD, INSIDE))
    runs = len(lines) * setting.seeds
    moved = max(float(d.moved.max()) for d in dead)
    held = min(float(d.held.min()) for d in dead)
    least, most = min(int(d.gaps.min()) for d in dead), max(int(d.gaps.max()) for d in dead)
    started = sum(int((d.gaps[0] == 0).sum()) for d in inside)
    kept = {name: (regimes[INSIDE].gaps == 0).all(0) for name, regimes in lines.items()}
    stable = np.concatenate([d.stable.ravel() for regimes in lines.values() for d in regimes.values()])
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
            f"at the start: in {started} of {runs} runs; throughout: "
            + ", ".join(f"{int(k.sum())} of {setting.seeds} runs on {name}" for name, k in kept.items()),
            verdict(bool(one) for k in kept.values() for one in k),
        ),
        Claim(
            "gaps do not hang on the tolerance (the same at 1/100 and 100 times it)",
            f"{int(stable.sum())} of {len(stable)} gaps ({2 * runs} runs at {len(setting.steps)} steps)",
            verdict(bool(one) for one in stable),
        ),
        Claim(
            "the test loss is higher with the threshold outside (same section)",
            "difference of the test MSE, same starts: "
            + ", ".join(f"{pair(each)} on {name}" for name, each in rise.items()),
            above(*(around(each) for each in rise.values())),
        ),
        Claim(
            "it is higher because of what the untrained unit says (ours: where it is higher, the rise is gone without "
            "that unit)",
            "test MSE with the unit minus without: "
            + ", ".join(f"{pair(each)} on {name}" for name, each in owed.items())
            + "; without it minus all inside: "
            + ", ".join(f"{pair(rise[name] - owed[name])} on {name}" for name in rise),
            _owed_to_the_unit(rise, owed),
        ),
        *activity_claims(lines),
    ]  # fmt: skip


def activity_claims(lines: dict[str, dict[str, Descent]]) -> list[Claim]:
    """Which units training points and test points activate at the end."""
    inside = [(activity(regimes[INSIDE])[0], regimes[INSIDE].gaps[-1]) for regimes in lines.values()]
    dead = [activity(regimes[DEAD]) for regimes in lines.values()]
    used = np.concatenate([(trained > 0).all(1) for trained, _ in inside])
    whole = np.concatenate([(trained == 1).any(1) for trained, _ in inside])
    gaps = np.concatenate([gap for _, gap in inside])
    silent = np.concatenate([trained[:, -1] == 0 for trained, _ in dead])
    woken = np.concatenate([tested[:, -1] > 0 for _, tested in dead])
    return [
        Claim(
            "at convergence with all thresholds inside every unit is activated by training points, so that test points "
            "trigger no tangent direction that was not trained (same section, figure 8)",
            f"every unit is active at some training point in {int(used.sum())} of {len(used)} runs; in "
            f"{int((used & (gaps > 0)).sum())} of these there is a gap all the same, and in "
            f"{int((used & (gaps > 0) & whole).sum())} of those a unit that is active at all training points, whose "
            "threshold only test points show",
            verdict([bool(used.all()), bool((gaps[used] == 0).all())]),
        ),
        Claim(
            "with one outside this unit is active at no training point at convergence and turns on at test points "
            "(same section, figure 8)",
            f"silent on the training points in {int(silent.sum())} of {len(silent)} runs, active at test points in "
            f"{int(woken.sum())}",
            verdict([bool(silent.all()), bool(woken.all())]),
        ),
    ]


def _owed_to_the_unit(rise: dict[str, Any], owed: dict[str, Any]) -> str:
    """Where the loss rises: is that the unit's part of it ("yes"), not its part ("no"), both, or cannot be told."""
    found = set()
    for name, each in rise.items():
        if around(each)[0] > 0:
            unit, rest = (around(one)[0] > 0 for one in (owed[name], each - owed[name]))
            found.add("partly" if unit and rest else "yes" if unit else "no" if rest else "undecided")
    if not found or "undecided" in found:
        return "undecided"
    return found.pop() if len(found) == 1 else "partly"


def on_images(outcome: Outcome, found: list[Digits], setting: Setting, seed: int) -> None:
    """Add what trainings on digits did; without any, claims that are undecided."""
    from genkernel.plots.rank_gap import image_gaps

    outcome.numbers["images"] = [asdict(one) for one in found]
    outcome.claims += image_claims(found, setting)
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


def image_claims(found: list[Digits], setting: Setting) -> list[Claim]:
    """What gaps and scores of images say; replicates are trainings, each without another class."""
    few, many = ([one for one in found if one.count == n] for n in (setting.few, setting.many))

    def gaps(group: list[Digits]) -> str:
        return ", ".join(f"{pair([one.gaps[name][-1] for one in group])} of {name}" for name in SETS)

    # a gap that changes with the tolerance is no finding: such trainings do not count
    settled = {name: [one for one in many if one.stable[name][-1]] for name in (LEFT, FOREIGN)}

    def more(name: str) -> tuple[float, float]:
        return around([one.gaps[name][-1] - one.gaps[HELD][-1] for one in settled[name]])

    def area(group: list[Digits], name: str, score: str) -> list[float]:
        return [one.areas[name][score] for one in group]

    def better(group: list[Digits], name: str) -> list[float]:
        own, *pixels = (np.array(area(group, name, score)) for score in SCORES)
        return list(own - max(pixels, key=np.mean))

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
        "it tells more than the pixels do (AUROC above that of the score of pixels that is the better one in the mean)",
    )
    if not found:
        missing = "not measured: data= names a folder with mnist.npz and fashion-mnist.npz"
        return [Claim(text, missing, "undecided") for text in texts]
    independent = [one.vacuous[HELD][-1] for one in few]
    unlit, first = ([getattr(one, what)[FOREIGN] for one in many] for what in ("unlit", "first"))
    measured = (
        f"{few[0].rows} rows, {few[0].parameters} parameters, {setting.new * 9} new rows: gap {gaps(few)}; the "
        f"training rows were linearly independent in {sum(independent)} of {len(few)} trainings",
        f"{many[0].rows} rows, {many[0].parameters} parameters: gap {gaps(many)}; the same at 1/100 and "
        f"100 times the tolerance in {len(settled[LEFT])} and {len(settled[FOREIGN])} of {len(many)} trainings",
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
