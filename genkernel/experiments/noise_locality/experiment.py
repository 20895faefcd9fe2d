"""Locality in noise level: is a denoiser's kernel local, is its learning, and is that the embedding's doing?

Section 4.1 of Guo, He, Morel: the kernel depends on the timestep through the positional encoding alone, close encodings
make it large, and so the prediction at a noise level is shaped by nearby levels. They show no experiment; all settings
are ours. Small denoisers of points in the plane and of 8×8 digits are trained with two noise schedules and two
embeddings, and, as controls, without any information on the time in the embedding, with an embedding whose blocks of
timesteps are exchanged, with inputs whose scale does not show the level, and with neither cue. Learning rates are
chosen beforehand. Three indices are held side by side: of the cosine kernel, of the kernel itself, and of what was
learned from where (contributions along the whole training, gross and net).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from genkernel.experiments.noise_locality.outcome import Run, outcome_of
from genkernel.experiments.noise_locality.setting import DIGITS, DOMAINS, POINTS, QUICK, VARIANTS, Setting
from genkernel.experiments.noise_locality.training import best, chosen_rates
from genkernel.experiments.outcome import Outcome


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Three indices of locality in noise level, and what they owe to the embedding and to training.

    Args:
        data: a folder with ``mnist.npz``; without it nothing is said about digits.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold it.
    """
    from tqdm import tqdm

    from genkernel.experiments.shrunk_images import require

    if data is not None:
        require(data, "mnist")
    setting = setting or (QUICK if quick else Setting())
    domains = DOMAINS if data is not None else (POINTS,)
    tried = {domain: chosen_rates(domain, setting, seed, data) for domain in domains}
    todo = [
        (domain, variant, seed + k)
        for domain in domains
        for k in range(setting.of(domain).seeds)
        for variant in VARIANTS[domain]
    ]
    runs = []
    for domain, variant, one in tqdm(todo, disable=not progress, desc="noise-locality"):
        runs.append(Run.of(domain, variant, setting, one, data, best(tried[domain][variant.optimizer])))
    settings = asdict(setting) | {"quick": quick, "seed": seed, "data": DIGITS in domains}
    return outcome_of(runs, tried, setting, settings)
