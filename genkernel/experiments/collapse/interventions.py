"""Does the transport of the dominant cluster cause the collapse? (Remark 4.1)

A correlation cannot say. Here every step of the generator is changed: the part of the update that the latents of one
cluster drive is taken out, and the rest is scaled to the length that the whole update had. Taken out is the cluster
whose transport is largest, or, for comparison, a random other one, or as many random latents as the largest has. If
collapse is amplification of the dominant cluster's signal, the first delays it and the others do less.

All arms share the optimizer: the whole gradient's second moments, no momentum, so that what is taken out of one step
does not come back with the next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from genkernel.errors import InputError
from genkernel.experiments.collapse.runs import held, made_of, quietly, recipes
from genkernel.gan import measures
from genkernel.models.gan_losses import LOSSES, r1
from genkernel.models.gan_training import draw_samples
from genkernel.models.gans import GANRecipe
from genkernel.models.mixtures import MIXTURES, Mixture
from genkernel.runs import json_ready, write_atomic

ARMS = ("none", "dominant", "random cluster", "random latents")
FAULT = {"r1": 0.0, "d_steps": 1, "g_lr": 1e-2, "d_lr": 2e-4}  # of the "late" start: modes go within some 200 steps
_DECAY, _FLOOR = 0.999, 1e-8  # of the second moments
Vector = dict[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """One run under one arm.

    Attributes:
        data: ``"ring"`` or ``"grid"``.
        start: ``"onset"`` for the collapsing recipe from its first step on, ``"late"`` for a generator that was
            trained with the healthy recipe until the fault (and the intervention) sets in.
        arm: one of :data:`ARMS`.
        seed: of everything; the arms of a seed share their initialisation, latents and batches.
        steps: with the intervention.
    """

    data: str
    start: str
    arm: str
    seed: int
    steps: int = 400

    @property
    def name(self) -> str:
        return f"{self.data}-{self.start}-{self.arm.replace(' ', '-')}-{self.seed}"


def run_trial(trial: Trial, folder: str | Path, every: int = 20, warm: int = 1500) -> dict[str, Any]:
    """One trial, kept in ``folder/NAME.json`` and read from there when it exists.

    Args:
        every: steps between two rows.
        warm: healthy steps before a ``"late"`` start.

    Returns:
        dict: the trial, ``rows`` with the step, the modes held, ``cells`` (effective number of nearest modes),
        ``raw_coherence`` and ``driving`` (dominance of the clusters' transport) of the last update, and ``changed``,
        the share of the steps in which there was something to take out.
    """
    if trial.arm not in ARMS or trial.start not in ("onset", "late"):
        raise InputError(f"an arm is one of {', '.join(ARMS)}, and a start is onset or late, not {trial}")
    path = Path(folder) / f"{trial.name}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["steps"] != trial.steps:
            raise InputError(f"{path} holds a trial of {kept['steps']} steps, not of {trial.steps}")
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    known, mixture = recipes(trial.data), MIXTURES[trial.data]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        generator, discriminator = known["healthy"].build()
    pair = _Pair(generator, discriminator, mixture, trial.seed)
    if trial.start == "late":
        calm = replace(known["healthy"], decay=0.0)
        for step in range(warm):
            pair.step(calm, step, None)
        recipe, first = replace(calm, **FAULT), warm
    else:
        recipe, first = known["collapsing"], 0
    rows: list[dict[str, Any]] = [{"step": 0, **held(draw_samples(generator, 2048, 1), mixture)}]
    changed = 0.0
    for step in range(first, first + trial.steps):
        seen = pair.step(recipe, step, trial.arm)
        changed += seen["changed"]
        done = step + 1 - first
        if done % every == 0:
            read = {k: v for k, v in seen.items() if k != "changed"}
            rows.append({"step": done, **held(draw_samples(generator, 2048, 1), mixture), **read})
    found = json_ready({**asdict(trial), "rows": rows, "changed": changed / trial.steps})
    write_atomic(path, json.dumps(found) + "\n")
    return found


def run_trials(
    trials: list[Trial], folder: str | Path, workers: int = 1, progress: Callable[[Trial, int, int], None] | None = None
) -> list[dict[str, Any]]:
    """:func:`run_trial` for many, each on one thread."""
    found = []
    with torch.multiprocessing.get_context("spawn").Pool(workers, initializer=quietly) as pool:
        for number, result in enumerate(pool.imap(_ran, [(trial, str(folder)) for trial in trials]), 1):
            found.append(result)
            if progress is not None:
                progress(trials[number - 1], number, len(trials))
    return found


def _ran(given: tuple[Trial, str]) -> dict[str, Any]:
    return run_trial(*given)


def lasted(run: dict[str, Any]) -> int:
    """Steps until the cells occupied stay at half of their number at the start or fewer; all steps if they never do."""
    rows = run["rows"]
    for k, row in enumerate(rows):
        if all(later["cells"] <= 0.5 * rows[0]["cells"] for later in rows[k : k + 3]):
            return int(row["step"])
    return int(rows[-1]["step"])


def mean_cells(run: dict[str, Any]) -> float:
    """Effective number of nearest modes, the mean over the rows, as a share of the modes."""
    rows = run["rows"][1:]
    return sum(row["cells"] / row["modes"] for row in rows) / len(rows)


def compare(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every arm against none, and the dominant cluster against a random one: paired over seeds.

    Returns:
        list: per data set, start and pair of arms, the medians of :func:`mean_cells` and :func:`lasted` in both, the
        number of seeds in which the first arm kept more cells, the two-sided p-value of Wilcoxon's signed-rank test
        on the differences, and the same by Holm's method for all pairs of that data set and start.
    """
    from scipy.stats import wilcoxon

    found: list[dict[str, Any]] = []
    by_key = {(t["data"], t["start"], t["arm"], t["seed"]): t for t in trials}
    pairs = [(arm, "none") for arm in ARMS[1:]] + [("dominant", other) for other in ARMS[2:]]
    for data, start in dict.fromkeys((t["data"], t["start"]) for t in trials):
        first = len(found)
        for one, other in pairs:
            seeds = [s for d, b, arm, s in by_key if (d, b, arm) == (data, start, one)]
            seeds = [s for s in seeds if (data, start, other, s) in by_key]
            if not seeds:
                continue
            sides = [[by_key[data, start, arm, s] for s in seeds] for arm in (one, other)]
            cells = [np.array([mean_cells(t) for t in side]) for side in sides]
            difference = cells[0] - cells[1]
            found.append({
                "data": data, "start": start, "arm": one, "against": other, "seeds": len(seeds),
                "cells": [float(np.median(c)) for c in cells],
                "steps": [float(np.median([lasted(t) for t in side])) for side in sides],
                "wins": int((difference > 0).sum()),
                "p": float(wilcoxon(difference).pvalue) if difference.any() else 1.0,
            })  # fmt: skip
        for row, p in zip(found[first:], _holm([row["p"] for row in found[first:]]), strict=True):
            row["p_holm"] = p
    return found


def _holm(p: list[float]) -> list[float]:
    """p-values for which the smallest being below a level has that level as its chance under all null hypotheses."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate([(len(p) - k) * p[i] for k, i in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(raised, 1.0)
    return [float(v) for v in found]


class _Pair:
    """A generator and a discriminator, and one step of both."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, mixture: Mixture, seed: int):
        self._generator, self._discriminator, self._mixture, self._seed = generator, discriminator, mixture, seed
        self._weights = dict(generator.named_parameters())
        self._moments = {name: torch.zeros_like(w) for name, w in self._weights.items()}
        self._count = 0
        self._judge_optimizer: torch.optim.Adam | None = None

    def step(self, recipe: GANRecipe, step: int, arm: str | None) -> dict[str, float]:
        """One step, and what was seen in it; without an arm nothing is looked at.

        The intervention's choices are drawn apart from the training's.
        """
        draw = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        loss = LOSSES[recipe.loss]
        for _ in range(recipe.d_steps):
            real = self._mixture.draw(recipe.batch, draw)
            with torch.no_grad():
                fake = self._generator(self._latents(recipe, draw))
            judged = self._discriminator(real.requires_grad_(bool(recipe.r1)))
            total = loss.of_discriminator(judged, self._discriminator(fake))
            if recipe.r1:
                total = total + recipe.r1 * r1(judged, real)
            self._descend(recipe, total)
        z = self._latents(recipe, draw)
        choose = torch.Generator().manual_seed(self._seed * 1_000_003 + step + 2**40)
        return self._generate(recipe, z, arm, choose)

    def _latents(self, recipe: GANRecipe, draw: torch.Generator) -> Tensor:
        return torch.randn(recipe.batch, *made_of(self._generator), generator=draw)

    def _descend(self, recipe: GANRecipe, loss: Tensor) -> None:
        if self._judge_optimizer is None:
            self._judge_optimizer = torch.optim.Adam(self._discriminator.parameters(), betas=recipe.betas)
        for group in self._judge_optimizer.param_groups:
            group["lr"], group["betas"] = recipe.d_lr, recipe.betas
        self._judge_optimizer.zero_grad()
        loss.backward()
        self._judge_optimizer.step()

    def _generate(self, recipe: GANRecipe, z: Tensor, arm: str | None, choose: torch.Generator) -> dict[str, float]:
        x = self._generator(z)
        at = x.detach().requires_grad_(True)
        # the loss is a mean over the batch, so that δ/n is what the samples send back
        (sent,) = torch.autograd.grad(LOSSES[recipe.loss].of_generator(self._discriminator(at)), at)
        if arm is None:
            whole = self._pull(x, sent)
            scale = self._scale(whole, recipe)
            step = {name: scale[name] * g for name, g in whole.items()}
            self._move(step, step)
            return {}
        cell = torch.cdist(at.detach(), self._mixture.modes).argmin(1)
        present = cell.unique().tolist()
        parts = [self._pull(x, torch.where((cell == c)[:, None], sent, 0.0)) for c in present]
        whole = {name: torch.stack([part[name] for part in parts]).sum(0) for name in self._weights}
        scale = self._scale(whole, recipe)
        mass = self._transported(z, [{name: scale[name] * part[name] for name in part} for part in parts])
        largest = int(mass.argmax())
        every = np.zeros(len(self._mixture.modes))  # clusters without samples drive nothing
        every[present] = mass.double().numpy()
        kept, changed = whole, False
        if arm != "none" and len(present) > 1:
            kept, changed = self._without(arm, whole, parts, largest, x, sent, cell == present[largest], choose), True
        self._move({name: scale[name] * g for name, g in kept.items()}, {n: scale[n] * g for n, g in whole.items()})
        return {
            "changed": float(changed),
            "driving": measures.dominance(every),
            "raw_coherence": measures.signed_coherence(-sent),
        }

    def _without(
        self,
        arm: str,
        whole: Vector,
        parts: list[Vector],
        largest: int,
        x: Tensor,
        sent: Tensor,
        mine: Tensor,
        choose: torch.Generator,
    ) -> Vector:
        if arm == "random latents":
            out = torch.randperm(len(x), generator=choose)[: int(mine.sum())]
            part = self._pull(x, sent * torch.zeros(len(x), 1).index_fill(0, out, 1.0))
        elif arm == "dominant":
            part = parts[largest]
        else:
            others = [k for k in range(len(parts)) if k != largest]
            part = parts[others[int(torch.randint(len(others), (), generator=choose))]]
        return {name: whole[name] - part[name] for name in whole}

    def _pull(self, x: Tensor, w: Tensor) -> Vector:
        found = torch.autograd.grad(x, list(self._weights.values()), w, retain_graph=True)
        return dict(zip(self._weights, found, strict=True))

    def _scale(self, gradient: Vector, recipe: GANRecipe) -> Vector:
        """η P of Adam without momentum, its moments brought up to date."""
        self._count += 1
        for name, g in gradient.items():
            self._moments[name].mul_(_DECAY).addcmul_(g, g, value=1 - _DECAY)
        correction = 1 - _DECAY**self._count
        return {name: recipe.g_lr / ((v / correction).sqrt() + _FLOOR) for name, v in self._moments.items()}

    def _transported(self, z: Tensor, steps: list[Vector]) -> Tensor:
        """Σ_z ‖U_c(z)‖ for every cluster's step."""
        weights = {name: w.detach() for name, w in self._weights.items()}

        def moved(step: Vector) -> Tensor:
            return jvp(lambda w: functional_call(self._generator, w, (z,)), (weights,), (step,))[1]

        together = {name: torch.stack([step[name] for step in steps]) for name in weights}
        with torch.no_grad():
            return vmap(moved)(together).flatten(2).norm(dim=2).sum(1)

    @torch.no_grad()
    def _move(self, step: Vector, like: Vector) -> None:
        """A step of the length that another one has."""
        size, wanted = _norm(step), _norm(like)
        for name, weight in self._weights.items():
            weight.sub_(step[name], alpha=wanted / size if size else 0.0)


def _norm(u: Vector) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in u.values()))
