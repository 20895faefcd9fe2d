"""Tangent kernels of a smooth and of a broken function: are inputs on two sides of a jump far apart in gradient space?

Section 5.1 of Guo, He, Morel (figure 2, first half): a two-layer tanh network learns two functions of one variable with
Adam, and the normalised kernel of its inputs is looked at afterwards. Targets, interval, width, learning rate and
number of steps did not survive in the text. Ours: sin x and two square waves of its period on [-π, π], 100 hidden units
of PyTorch's initialisation, 200 inputs, 5,000 full-batch steps at 5e-3. One wave jumps at 0 and the other one at ±π/2,
in the middle of the first one's plateaus, so that each place is measured with a jump and without one. Beside the
trained networks stand the untrained ones and those that learned sin x, from the same starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genkernel.experiments.outcome import Outcome
from genkernel.experiments.regression_kernels.found import Reading
from genkernel.experiments.regression_kernels.outcome import UNTRAINED, report
from genkernel.experiments.regression_kernels.task import (
    END,
    PLACES,
    QUICK,
    TARGETS,
    Setting,
    across,
    inputs,
    learn,
    networks,
    predictions,
    similarities,
)

Array = NDArray[np.float64]

CENTRES = 241  # at which similarity over a small distance is followed


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """Similarity of close inputs, of networks that learned a smooth function and waves with jumps.

    Args:
        quick: fewer and smaller networks.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    x = inputs(setting.points)
    starts = networks(setting.width, range(seed, seed + setting.seeds))
    found = {UNTRAINED: read(starts, None, setting)}
    for name in tqdm(TARGETS, disable=not progress, desc="regression-kernels"):
        found[name] = read(learn(starts, x, TARGETS[name](x), setting.steps, setting.rate), name, setting)
    outcome = Outcome("regression-kernels", asdict(setting) | {"quick": quick, "seed": seed, "end": END})
    report(outcome, found, setting, seed)
    return outcome


def read(nets: Sequence[nn.Module], target: str | None, setting: Setting) -> Reading:
    """Everything that is measured of some networks."""
    x = inputs(setting.points)
    outputs = torch.stack([predictions(net, x) for net in nets])
    errors = torch.full((len(nets),), torch.nan) if target is None else (outputs - TARGETS[target](x)).square().mean(1)
    centres = torch.linspace(-END + setting.near / 2, END - setting.near / 2, CENTRES, dtype=torch.float64)
    around = {}
    for wave, places in PLACES.items():
        at = torch.tensor(places, dtype=torch.float64).repeat_interleave(len(setting.distances))
        apart = torch.tensor(setting.distances, dtype=torch.float64).repeat(len(places))
        values = torch.stack([across(net, at, apart) for net in nets])
        around[wave] = values.reshape(len(nets), len(places), -1).mean(1).numpy()
    return Reading(
        errors=errors.numpy(),
        outputs=outputs.numpy(),
        matrix=similarities(nets[0], x).numpy(),
        centres=centres.numpy(),
        profile=torch.stack([across(net, centres, setting.near) for net in nets]).numpy(),
        around=around,
    )
