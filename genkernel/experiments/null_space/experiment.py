"""Where the residual of a finished training lies: Theorem 3.8 of Guo, He, Morel, on training sets and populations.

At stationarity of the squared loss Jᵀr ≈ 0, so on the training set the theorem is the stationarity condition itself:

    1 - E_null(τ) ≤ ρ_K / τ²                         the modes with σ > τ σ_1 hold at most that share of the residual

Its proof takes the drift of the training, which is over the training set, for the operator of the population. So three
studies: one training set, to stationarity; fresh samples in every step beside finite sets that are used again, with the
residual on the population; and a network on digits with more parameters than training samples.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from genkernel.experiments.null_space.digits import digits
from genkernel.experiments.null_space.line import SAMPLES, on_population, to_stationarity
from genkernel.experiments.null_space.outcome import on_digits, on_one_set, on_populations
from genkernel.experiments.null_space.setting import QUICK, TAUS, Setting
from genkernel.experiments.outcome import Outcome


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Energies of residuals in null spaces.

    Args:
        data: a folder with ``mnist.npz``; without it nothing is said about images.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold it.
    """
    from tqdm import tqdm

    from genkernel.experiments.shrunk_images import require

    if data is not None:
        require(data, "mnist")
    setting = setting or (QUICK if quick else Setting())
    outcome = Outcome("null-space", asdict(setting) | {"quick": quick, "seed": seed, "data": data is not None})
    cases: list[int | None] = [*setting.sizes, None]
    digit_cases: list[tuple[int | None, int]] = []
    if data is not None:
        digit_cases = [(n, k) for n in (*setting.images, None) for k in range(setting.image_seeds)]
    with tqdm(total=2 + len(cases) + len(digit_cases), disable=not progress, desc="null-space") as bar:
        course = to_stationarity(setting, seed)
        bar.update()
        found = []
        for n in cases:
            found.append(on_population(n, setting, seed))
            bar.update()
        fitted = on_population(None, setting, seed, rough=0.0)
        bar.update()
        images = []
        for n, k in digit_cases:
            images.append(digits(data or "", n, setting, seed + k, bounded=n is None and k == 0))
            bar.update()
    on_one_set(outcome, course, setting)
    on_populations(outcome, found, fitted, setting)
    on_digits(outcome, images, setting)
    from genkernel.plots.null_space import null_curves

    meta = {"seed": seed, "dtype": "float64"}
    outcome.figures["null-space"] = null_curves(TAUS, course, found, images, SAMPLES, meta)
    return outcome
