"""Tables and claims of the study of null spaces."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.null_space.digits import Digits
from genkernel.experiments.null_space.line import PARAMETERS, POLISHED, SAMPLES, Case, Reading
from genkernel.experiments.null_space.setting import FRESH, ONE_TAU, TAUS, TWO_TAUS, Setting
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.replicates import above, around, pair

Array = NDArray[np.float64]

REACHED = 1e-4  # ‖∇L‖ at which a network counts as stationary
EXACT = 1e-4  # the tolerance of THEORY's figure at stationarity
NEARLY = 0.99  # of the energy: all but rounding and what training has not yet come to


def at_tau(energy: Any, tau: float) -> Any:
    """E_null at one of the tolerances, of curves along the last axis."""
    return np.asarray(energy)[..., int(np.argmin(np.abs(np.log10(TAUS) - math.log10(tau))))]


def _plain(reading: Reading | None) -> Any:
    return None if reading is None else {name: value.tolist() for name, value in vars(reading).items()}


def on_one_set(outcome: Outcome, course: dict[str, Reading], setting: Setting) -> None:
    """Add residuals on one training set: step → reading."""
    first, descended, last = (course[str(one)] for one in (setting.steps[0], setting.steps[-1], POLISHED))
    table = Table(
        f"One training set: {SAMPLES} samples, {PARAMETERS} parameters, {setting.seeds} networks (mean ± standard "
        "error; geometric means of ‖∇L‖ and ρ_K)",
        ("step", "‖∇L‖", "ρ_K", "E_null(10⁻²)", "E_null(10⁻⁴)", "E_null(10⁻⁶)", "E_null at machine tolerance",
         "rank at machine tolerance, random residual"),
        [],
    )  # fmt: skip
    for step, one in course.items():
        rank = float(np.mean(one.ranks[:, -1]))
        table.rows.append((
            step, _geometric(one.gradient), _geometric(one.rayleigh),
            *(pair(at_tau(one.energy, t)) for t in (1e-2, 1e-4, 1e-6)), pair(one.machine),
            f"{rank:.4g}, {1 - rank / SAMPLES:.3f}",
        ))  # fmt: skip
    outcome.tables.append(table)
    outcome.numbers |= {"tolerances": list(TAUS), "one_set": {step: _plain(one) for step, one in course.items()}}
    excess = max(
        float(((1 - one.energy) - one.rayleigh[:, None] / np.square(TAUS)[None]).max()) for one in course.values()
    )
    there = last.gradient <= REACHED
    ends, machine = at_tau(last.energy, EXACT)[there], last.machine[there]
    outcome.claims += [
        Claim(
            "near stationarity the residual on the training set is in the null space (Guo, He, Morel, theorem 3.8)",
            f"{there.sum()} of {len(there)} networks come to ‖∇L‖ ≤ {REACHED:g}: at τ = {EXACT:g} their E_null is "
            f"above {NEARLY} in {int((ends > NEARLY).sum())}, {pair(ends)} in the mean, the least "
            f"{ends.min(initial=1):.4f}; of all {pair(at_tau(first.energy, EXACT))} at the "
            f"start and {pair(at_tau(descended.energy, EXACT))} after {setting.steps[-1]} steps (‖∇L‖ "
            f"{_geometric(descended.gradient):.0e})",
            verdict(end > NEARLY for end in ends),
        ),
        Claim(
            "it is so at machine tolerance as well: no mode above rounding is left",
            f"above {NEARLY} in {int((machine > NEARLY).sum())} of {len(machine)} of these networks: E_null "
            f"{pair(machine)}, the least {machine.min(initial=1):.3f}; a random residual has "
            f"{1 - float(np.mean(last.ranks[:, -1])) / SAMPLES:.3f}",
            verdict(end > NEARLY for end in machine),
        ),
        Claim(
            "on the training set that is the stationarity condition itself: 1 - E_null(τ) ≤ ρ_K/τ² (ours)",
            f"largest excess of the left side over all steps, networks and tolerances: {excess:.0e}",
            verdict([excess <= 1e-12]),
        ),
    ]


def _geometric(values: Any) -> float:
    return float(np.exp(np.log(np.maximum(np.asarray(values, dtype=np.float64), 1e-300)).mean()))


def on_populations(outcome: Outcome, found: list[Case], fitted: Case, setting: Setting) -> None:
    """Add residuals on the population: reused sets, then fresh samples; ``fitted`` is without the rough part."""
    table = Table(
        f"Residual on the population ({setting.population} fresh points) after {setting.passes} steps, {setting.seeds} "
        "networks (mean ± standard error; geometric means of √ρ_K)",
        ("training samples", "√ρ_K on them", "mean r² on them", "E (f - E[y|x])²", "√ρ_K on the population",
         "before the training", "E_null(10⁻¹)", "E_null(10⁻²)", "E_null(10⁻³)", "before: E_null(10⁻²)"),
        [],
    )  # fmt: skip
    for one in (*found, fitted):
        own = one.trained
        table.rows.append((
            one.name,
            None if own is None else _geometric(own.rayleigh) ** 0.5,
            None if own is None else pair(own.error),
            pair(one.after.error), _geometric(one.after.rayleigh) ** 0.5, _geometric(one.before.rayleigh) ** 0.5,
            *(pair(at_tau(one.after.energy, t)) for t in (1e-1, 1e-2, 1e-3)), pair(at_tau(one.before.energy, ONE_TAU)),
        ))  # fmt: skip
    outcome.tables.append(table)
    outcome.numbers["population"] = {
        one.name: {what: _plain(getattr(one, what)) for what in ("trained", "before", "after")}
        for one in (*found, fitted)
    }
    fresh, *reused = found[-1], *found[:-1]
    held = at_tau(fresh.after.energy, ONE_TAU)

    def share(case: Case) -> str:
        return ", ".join(
            f"{pair(at_tau(case.after.energy, tau))} at τ = {tau:g} ({pair(at_tau(case.before.energy, tau))} before)"
            for tau in TWO_TAUS
        )

    def there(case: Case) -> str:
        return above(*(around(at_tau(case.after.energy, tau) - NEARLY) for tau in TWO_TAUS))

    few = _trained(reused[0])
    outcome.claims += [
        Claim(
            "with fresh samples in every step the population residual is in the null space at the end (mean E_null "
            f"above {NEARLY} at τ = {TWO_TAUS[0]:g} and {TWO_TAUS[1]:g})",
            f"E_null {share(fresh)}, {pair(at_tau(fresh.after.energy, 1e-3))} at τ = 0.001; √ρ_K "
            f"{_geometric(fresh.before.rayleigh) ** 0.5:.1e} before, "
            f"{_geometric(fresh.after.rayleigh) ** 0.5:.1e} after",
            there(fresh),
        ),
        Claim(
            "so it is where the network fits its target (fresh samples, without the part that six units cannot learn)",
            f"E (f - E[y|x])² {pair(fitted.after.error)}; E_null {share(fitted)}; √ρ_K "
            f"{_geometric(fitted.after.rayleigh) ** 0.5:.1e} after",
            there(fitted),
        ),
        Claim(
            f"so it is with a set of {reused[0].name} samples that is used again until it is stationary there",
            f"E_null {share(reused[0])}; √ρ_K {_geometric(few.rayleigh) ** 0.5:.1e} on the training set, "
            f"{_geometric(reused[0].after.rayleigh) ** 0.5:.1e} on the population",
            there(reused[0]),
        ),
        Claim(
            f"reused sets leave less of the population residual in the null space (ours; E_null({ONE_TAU:g}) with "
            "fresh samples minus with reused ones)",
            ", ".join(f"{pair(held - at_tau(one.after.energy, ONE_TAU))} for {one.name}" for one in reused),
            above(*(around(held - at_tau(one.after.energy, ONE_TAU)) for one in reused)),
        ),
    ]


def _trained(case: Case) -> Reading:
    if case.trained is None:
        raise AssertionError("fresh samples have no training set")
    return case.trained


def on_digits(outcome: Outcome, found: list[Digits], setting: Setting) -> None:
    """Add trainings on digits; without any, claims that are undecided."""
    texts = (
        "a network with more parameters than training rows leaves a held-out residual in the null space of the "
        f"population (E_null({ONE_TAU:g}) above {NEARLY})",
        "training moves the held-out residual towards the null space at all (E_null at the end minus at the start)",
        "less so the fewer the images (fresh minus reused)",
        "products of the kernel alone bound the curve (ours; exact by SVD beside them, above the noise floor)",
    )
    outcome.numbers["images"] = [asdict(one) for one in found]
    if not found:
        missing = "not measured: data= names a folder with mnist.npz"
        outcome.claims += [Claim(text, missing, "undecided") for text in texts]
        return
    groups = {name: [one for one in found if one.name == name] for name in dict.fromkeys(one.name for one in found)}
    table = Table(
        f"Digits, squared loss, {found[0].parameters} parameters; residuals on {found[0].rows} held-out rows (mean ± "
        f"standard error over {setting.image_seeds} trainings; geometric means of √ρ_K; E_null at τ = {ONE_TAU:g})",
        ("training images", "rows", "‖r‖² on them", "√ρ_K on them", "‖r‖² held out", "√ρ_K held out", "before",
         "E_null held out", "before", "random residual", "with the training set"),
        [],
    )  # fmt: skip
    for name, many in groups.items():
        fresh = name == FRESH
        table.rows.append((
            name, None if fresh else 10 * int(name),
            None if fresh else pair([one.error[0] for one in many]),
            None if fresh else _geometric([one.stationarity for one in many]), pair([one.error[1] for one in many]),
            _geometric([one.rayleigh for one in many]) ** 0.5, _geometric([one.rayleigh_start for one in many]) ** 0.5,
            pair(_each(many, "energy")), pair(_each(many, "start")), pair(_each(many, "random")),
            None if fresh else pair(_each(many, "union")),
        ))  # fmt: skip
    outcome.tables.append(table)
    few = groups[str(min(setting.images))]
    held = _each(few, "energy")
    gains = {name: _each(many, "energy") - _each(many, "start") for name, many in groups.items()}
    fresh_energy = _each(groups[FRESH], "energy")
    less = {name: fresh_energy - _each(many, "energy") for name, many in groups.items() if name != FRESH}
    inside, resolved = _bounds(found)
    measured = (
        f"{few[0].name} images, {10 * int(few[0].name)} rows, {few[0].parameters} parameters: E_null "
        f"{pair(_each(few, 'start'))} before, {pair(held)} after, {pair(_each(few, 'random'))} for random residuals",
        ", ".join(f"{pair(gain)} ({name})" for name, gain in gains.items()),
        ", ".join(f"{pair(gap)} ({name})" for name, gap in less.items()),
        f"{sum(inside)} of {len(inside)} tolerances; at {resolved} the bounds are within 0.1 of one another "
        f"({setting.lanczos} steps)",
    )
    holds = (
        verdict(one > NEARLY for one in held),
        above(*(around(gain) for gain in gains.values())),
        above(*(around(gap) for gap in less.values())),
        verdict(inside),
    )
    outcome.claims += [Claim(*one) for one in zip(texts, measured, holds, strict=True)]


def _bounds(found: list[Digits]) -> tuple[list[bool], int]:
    """Whether matrix-free bounds hold the exact energy, per tolerance above their floor; how many are close."""
    inside, close = [], 0
    for one in found:
        if one.low is None or one.high is None or one.floor is None:
            continue
        for tau, low, exact, high in zip(TAUS, one.low, one.energy, one.high, strict=True):
            if tau > one.floor:
                inside.append(low - 1e-9 <= exact <= high + 1e-9)
                close += high - low <= 0.1
    return inside, close


def _each(many: list[Digits], what: str) -> Array:
    found: Array = np.array([at_tau(getattr(one, what), ONE_TAU) for one in many])
    return found
