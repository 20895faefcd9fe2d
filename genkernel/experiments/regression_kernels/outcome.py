"""Tables and claims of the study of kernels of functions of one variable."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.regression_kernels.found import Reading
from genkernel.experiments.regression_kernels.task import AT_SIDES, AT_ZERO, OTHER, SMOOTH, TARGETS, Setting, inputs
from genkernel.experiments.replicates import above, around, is_above, is_below, pair

Array = NDArray[np.float64]

UNTRAINED = "untrained"
HIGH, FAR = 0.9, 0.5  # cosines from which on inputs are similar, and below which they are far apart
WAVES = (AT_ZERO, AT_SIDES)


def report(outcome: Outcome, found: Mapping[str, Reading], setting: Setting, seed: int) -> None:
    """Add tables, claims, figures and numbers.

    Args:
        found: ``"untrained"`` and the targets.
    """
    from genkernel.plots.regression_kernels import similarity_matrices, similarity_profiles

    near, far = _near(setting), len(setting.distances) - 1
    outcome.tables += [
        Table(
            f"Cosine of tangent features of two inputs around one place, {setting.near:g} (near) and "
            f"{setting.distances[far]:g} (far) apart; means of {setting.seeds} starts ± standard errors",
            ("network", "MSE", "at 0, near", "at 0, far", "at ±π/2, near", "at ±π/2, far", "least anywhere, near"),
            [
                (
                    name,
                    None if np.isnan(one.errors).any() else pair(one.errors),
                    *(pair(one.around[wave][:, k]) for wave in WAVES for k in (near, far)),
                    pair(one.profile.min(1)),
                )
                for name, one in found.items()
            ],
        )
    ]
    outcome.claims += claims(found, setting)
    x = inputs(setting.points).numpy()
    meta = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"}
    aims = {name: target(inputs(setting.points)).numpy() for name, target in TARGETS.items()}
    outcome.figures["regression-kernels"] = similarity_matrices(
        x,
        aims,
        {name: one.outputs for name, one in found.items()},
        {name: one.matrix for name, one in found.items()},
        meta,
    )
    outcome.figures["regression-kernels-profiles"] = similarity_profiles(
        found[SMOOTH].centres,
        {name: one.profile for name, one in found.items()},
        setting.distances,
        {name: one.around for name, one in found.items()},
        setting.near,
        meta,
    )
    outcome.numbers |= {
        "distances": list(setting.distances),
        "places": found[SMOOTH].centres.tolist(),
        "networks": {
            name: {
                "mse": one.errors.tolist(),
                "profile": one.profile.mean(0).tolist(),
                "least": one.profile.min(1).tolist(),
                "around": {wave: values.tolist() for wave, values in one.around.items()},
            }
            for name, one in found.items()
        },
    }


def claims(found: Mapping[str, Reading], setting: Setting) -> list[Claim]:
    """What similarities say; differences are of the same starts, with 95 % intervals over them."""
    near, far = _near(setting), len(setting.distances) - 1

    def cosine(network: str, place: str, k: int = near) -> Array:
        return found[network].around[place][:, k]

    least = found[SMOOTH].profile.min(1)
    jump = {wave: cosine(wave, wave) for wave in WAVES}
    plateau = {wave: cosine(wave, OTHER[wave]) for wave in WAVES}
    drop = {wave: plateau[wave] - jump[wave] for wave in WAVES}
    moved = {wave: cosine(OTHER[wave], wave) - jump[wave] for wave in WAVES}
    learned = {wave: cosine(UNTRAINED, wave) - jump[wave] for wave in WAVES}
    farther = {wave: cosine(wave, OTHER[wave], far) - jump[wave] for wave in WAVES}
    apart, wide = f"{setting.near:g}", f"{setting.distances[far]:g}"
    return [
        Claim(
            f"for the smooth target nearby inputs have a high gradient similarity (Guo, He, Morel, section 5.1: {HIGH} "
            f"or more between any two inputs {apart} apart)",
            f"the least similar two have {pair(least)}; untrained {pair(found[UNTRAINED].profile.min(1))}",
            above(around(least), level=HIGH),
        ),
        Claim(
            "for the square wave inputs on two sides of a jump are less similar than inputs as close on a plateau "
            "(same section)",
            "; ".join(f"{name}: across {pair(jump[name])}, plateau {pair(plateau[name])}" for name in WAVES),
            above(*(around(values) for values in drop.values())),
        ),
        Claim(
            "they are far apart in gradient space (same section: the cosine across the jump is below "
            f"{FAR}, and below that of inputs {wide} apart on one plateau)",
            "; ".join(
                f"{name}: across {pair(jump[name])}, {wide} apart on a plateau {pair(cosine(name, OTHER[name], far))}"
                for name in WAVES
            ),
            _far(jump, farther),
        ),
        Claim(
            "it is the jump and not the place: the network that learned the other wave has no such drop there (ours)",
            "cosine at the same place without a jump: "
            + "; ".join(f"{pair(cosine(OTHER[wave], wave))}, more by {pair(moved[wave])} ({wave})" for wave in WAVES),
            above(*(around(values) for values in moved.values())),
        ),
        Claim(
            "it is learned: inputs on the two sides were more similar in the untrained network (ours)",
            "untrained minus trained: " + "; ".join(f"{pair(learned[wave])} ({wave})" for wave in WAVES),
            above(*(around(values) for values in learned.values())),
        ),
    ]


def _far(jump: Mapping[str, Array], farther: Mapping[str, Array]) -> str:
    """Every wave has two parts: below :data:`FAR`, and below inputs far apart on a plateau."""
    return verdict(
        part
        for wave, values in jump.items()
        for part in (is_below(around(values), FAR), is_above(around(farther[wave])))
    )


def _near(setting: Setting) -> int:
    """Which of the distances is the small one."""
    return int(np.argmin(np.abs(np.asarray(setting.distances) - setting.near)))
