"""Filling segments of a line: a network that could do it perfectly, and whether training finds it.

Section 6.1 of Courtois et al., *Can neural networks extrapolate?*. The cumulative sum modulo 2 fills segments between
nonzero coordinates, and a small network with shared weights computes it exactly. The paper trains this structure from
random weights, from the exact ones with noise, with a wider convolution and with more convolutions in between, on
sequences with a given number of nonzero coordinates, and tests it on others.

The figure with the structure, the lengths, the numbers of nonzero coordinates, the noise and the training are lost in
the text; the structure is rebuilt from its description (:mod:`genkernel.experiments.line_filling.task`), the rest ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from torch import nn

from genkernel.experiments.line_filling import task
from genkernel.experiments.line_filling.found import Trained
from genkernel.experiments.line_filling.outcome import BETWEEN, OTHERS, RANDOM, SHAPE, WIDE, report
from genkernel.experiments.line_filling.setting import QUICK, Setting
from genkernel.experiments.outcome import Outcome

STRUCTURES = (SHAPE, WIDE, BETWEEN, *OTHERS)
NON_LINEAR: dict[str, Callable[[], nn.Module]] = {OTHERS[0]: nn.GELU, OTHERS[1]: task.Absolute}


def cases(setting: Setting) -> list[tuple[str, str | float, int, int]]:
    """(structure, start, length, ones) of all trainings."""
    found: list[tuple[str, str | float, int, int]] = []
    for length in setting.sizes:
        found += [(SHAPE, RANDOM, length, k) for k in numbers(setting, length)]
    for noise in setting.noises:
        found.append((SHAPE, noise, setting.detailed, numbers(setting, setting.detailed)[-1]))
    for structure in OTHERS:
        for length in setting.other_sizes:
            found += [(structure, RANDOM, length, k) for k in numbers(setting, length)]
    for length in setting.wide_sizes:
        found += [(WIDE, RANDOM, length, k) for k in numbers(setting, length)]
    found += [(BETWEEN, RANDOM, setting.detailed, k) for k in numbers(setting, setting.detailed)]
    return found


def numbers(setting: Setting, length: int) -> list[int]:
    """Of nonzero coordinates in training sequences."""
    return sorted({max(1, round(part * length)) for part in setting.ones})


def trained(setting: Setting, structure: str, start: str | float, length: int, ones: int, seed: int) -> Trained:
    """Train all replicates of one case and test them: weights and sequences are the case's own."""
    weights, sequences, tests = seeds(structure, start, length, ones, seed)
    net = started(setting, structure, start, weights)
    task.train(net, length, ones, setting.steps, setting.batch, setting.rate, sequences)
    squares, wrong = task.errors(net, length, setting.tested, tests)
    parameters = sum(p[0].numel() for p in net.parameters())
    return Trained(structure, start, length, ones, parameters, squares, wrong)


def started(setting: Setting, structure: str, start: str | float, seed: int) -> task.Filler:
    """All replicates of one case before training."""
    if isinstance(start, float):
        return task.exact(setting.replicates, start, seed)
    shapes = {WIDE: task.Structure(reach=3), BETWEEN: task.Structure(between=setting.channels)}
    shape = shapes.get(structure, task.Structure())
    return task.Filler(setting.replicates, shape, seed, NON_LINEAR.get(structure, nn.ReLU)())


def seeds(structure: str, start: str | float, length: int, ones: int, seed: int) -> list[int]:
    """Of weights, of training sequences and of test sequences: other ones for every case."""
    noise = round(1e6 * start) + 1 if isinstance(start, float) else 0
    case = np.random.SeedSequence([seed, STRUCTURES.index(structure), noise, length, ones])
    return [int(s) for s in case.generate_state(3, np.uint64) >> np.uint64(1)]


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """The exact network verified, and trainings of its structure and of others.

    Args:
        quick: short sequences, few replicates.
        seed: of weights and sequences.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    kinds: dict[str, nn.Module] = {"|x|": task.Absolute(), "ReLU": nn.ReLU(), "GELU": nn.GELU()}
    exact = {
        name: [task.largest_error(task.exact(activation=kind), n) for n in setting.verified]
        for name, kind in kinds.items()
    }
    found = [
        trained(setting, structure, start, length, ones, seed)
        for structure, start, length, ones in tqdm(cases(setting), disable=not progress, desc="line-filling")
    ]
    outcome = Outcome("line-filling", asdict(setting) | {"quick": quick, "seed": seed})
    report(outcome, setting, exact, found, seed)
    return outcome
