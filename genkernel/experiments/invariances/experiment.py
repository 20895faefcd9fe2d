"""Which symmetries of a network its tangent kernel inherits, exactly and after training, and where it does not.

Section 6 of Guo, He, Morel says that kernels can inherit translation invariance from convolutional networks or
selective attention from transformers; nothing was measured, and everything here is ours. If f_θ(Tx) = f_θ(x) for all
weights θ, then the gradients are the same, and K(Tx, x') = K(x, x') at any time of any training. If f_θ(Tx) = ρ(T)
f_θ(x) with an orthogonal ρ, then K(Tx, Tx') = ρ K(x, x') ρᵀ, and the trace kernel is the same only where both sides are
transformed. Networks of 8 × 8 pixels or ten tokens, in float64, meet cyclic shifts, permutations and reflections: those
that have the symmetry, and those that lose it to zero padding, strides, pooling, flattened pixels, positions, masks.

Every network also learns a task in which the symmetry was never seen (a pattern always at one place, tokens always in
order), and is asked about transformed samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.invariances.found import Averages, Deviation, Reading
from genkernel.experiments.invariances.networks import (
    CASES,
    CLASSES,
    DENSE,
    PERMUTATIONS,
    SHIFTS,
    Case,
    Map,
    build,
    every_shift,
    patterns,
    reflected,
    sets,
    shifted,
    transformations,
)
from genkernel.experiments.invariances.outcome import report
from genkernel.experiments.invariances.setting import QUICK, Setting
from genkernel.experiments.outcome import Outcome

Array = NDArray[np.float64]

RATE, BATCH = 1e-2, 32


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """Deviations of kernels from invariance, before and after training.

    Args:
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    found: dict[str, list[Reading]] = {name: [] for name in CASES}
    jobs = [(name, seed + k) for name in CASES for k in range(setting.seeds)]
    for name, one in tqdm(jobs, disable=not progress, desc="invariances"):
        found[name].append(measure(CASES[name], setting, one))
    outcome = Outcome("invariances", asdict(setting) | {"quick": quick, "seed": seed, "rate": RATE, "batch": BATCH})
    report(outcome, found, averages(setting, seed), setting, seed)
    return outcome


def measure(case: Case, setting: Setting, seed: int) -> Reading:
    """One network before and after it learns a task."""
    moves = transformations(case.symmetry, setting.moves, seed, case.step)
    x, y = task(case, setting.trained, seed, 3 * seed)
    test, test_y = task(case, setting.tested, seed, 3 * seed + 1)
    look, _ = task(case, setting.samples, seed, 3 * seed + 2)
    net = build(case, seed)
    before = deviation(net, look, moves)
    steps = setting.steps
    if case.augmented:
        group = every_shift() if case.symmetry == SHIFTS else [lambda images: images, reflected]
        x, y = torch.cat([move(x) for move in group]), y.repeat(len(group))
        steps = setting.augmented_steps
    learn(net, x, y, steps, seed)
    return Reading(
        before,
        deviation(net, look, moves),
        _right(net, test, test_y),
        float(np.mean([_right(net, move(test), test_y) for move in moves])),
    )


def task(case: Case, count: int, seed: int, numbers: int) -> tuple[Tensor, Tensor]:
    """Samples on which the symmetry of a case matters."""
    return sets(count, numbers) if case.symmetry == PERMUTATIONS else patterns(count, seed, numbers)


def learn(net: nn.Module, x: Tensor, y: Tensor, steps: int, seed: int) -> None:
    """Train a network in place, on the cross-entropy of its logits."""
    from genkernel.experiments.fitting import fit

    def objective(out: Tensor, to: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits(out), to)

    fit(net, x, y, objective, torch.optim.Adam(net.parameters(), lr=RATE), steps, batch=BATCH, seed=seed)


def logits(out: Tensor) -> Tensor:
    """Outputs ``[n, c]``; those of every pixel ``[n, c, h, w]`` are averaged."""
    return out.flatten(2).mean(2) if out.dim() > 2 else out


@torch.no_grad()
def _right(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((logits(net(x)).argmax(1) == y).double().mean())


def deviation(net: nn.Module, x: Tensor, moves: Sequence[Map]) -> Deviation:
    """How far the trace kernel of some samples is from invariant, from their tangent features in float64."""
    import genkernel as gk

    everything = torch.cat([x, *(move(x) for move in moves)])
    rows = gk.tangent_features(net, everything).flatten(1).split(len(x))
    with torch.no_grad():
        outputs = net(everything).flatten(1).split(len(x))
    kernel = rows[0] @ rows[0].T
    size = float(kernel.norm())
    return Deviation(
        max(float((moved @ rows[0].T - kernel).norm()) for moved in rows[1:]) / size,
        max(float((moved @ moved.T - kernel).norm()) for moved in rows[1:]) / size,
        max(float((moved - outputs[0]).norm()) for moved in outputs[1:]) / float(outputs[0].norm()),
    )


def averages(setting: Setting, seed: int) -> Averages:
    """Kernels of untrained fully connected networks in the mean over starts, under one shift.

    Weights that are independent and alike have the symmetry in distribution, although no network has it.
    """
    x, _ = patterns(setting.samples, seed, 3 * seed + 2)
    moved = shifted(2, 3)(x)
    most = max(setting.starts)
    one, both = [], []
    for replicate in range(setting.replicates):
        first = seed + 10_000 + replicate * most
        weights = [list(build(CASES[DENSE], first + k).parameters()) for k in range(most)]
        plain, left, twice = (
            dense_kernels(weights, a, b) for a, b in ((x, x), (moved, x), (moved, moved))
        )  # [starts, n, n]
        one.append([_distance(left[:k].mean(0), plain[:k].mean(0)) for k in setting.starts])
        both.append([_distance(twice[:k].mean(0), plain[:k].mean(0)) for k in setting.starts])
    return Averages(setting.starts, np.array(one), np.array(both))


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@torch.no_grad()
def dense_kernels(weights: Sequence[Sequence[Tensor]], x: Tensor, y: Tensor) -> Tensor:
    """Trace kernels ``[k, n, m]`` of networks with one tanh layer and :data:`CLASSES` outputs, written out.

    With hidden units h = tanh(W x + b): Σ_o ⟨∇f_o(x), ∇f_o(y)⟩ = O (h·h' + 1) + (x·y + 1) Σ_j ‖v_j‖² h_j'(x) h_j'(y).
    """
    first, bias, last, _ = (torch.stack(list(each)) for each in zip(*weights, strict=True))
    a, b = x.flatten(1), y.flatten(1)
    h, g = (torch.tanh(part @ first.transpose(1, 2) + bias[:, None]) for part in (a, b))  # [k, n, width]
    scale = last.square().sum(1)[:, None]
    slopes = ((1 - h.square()) * scale) @ (1 - g.square()).transpose(1, 2)
    return CLASSES * (h @ g.transpose(1, 2) + 1) + (a @ b.T + 1) * slopes
