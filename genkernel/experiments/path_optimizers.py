"""Every supported optimizer: do the parts add up, at which order of the step size, and what does merging steps cost?

A small tanh network is trained on mini-batches with each configuration, with four groups of samples, at three learning
rates and a fixed horizon. Merging several steps into one chord keeps the sum but moves the split, which is shown with
the naive recording: completeness does not certify the split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.slopes import has_order, slope

RULES = ("left", "trapezoid", "gauss2", "gauss4")
SAMPLES, QUERIES, BATCH, STEPS = 40, 12, 8, 40
MERGED = (4, 10)
SAME_STEP = 1e-14  # of weights of order one, in float64
EXACT = 1e-11  # of the change of the outputs: rounding of all steps, and what four nodes miss at these rates
# when a sum is said to close while its parts move: parts move by a percent of the outputs' change or more, and a
# hundred times as far as the sum does
MOVED, TIMES = 0.01, 100

Make = Callable[[Any], torch.optim.Optimizer]


def configurations() -> dict[str, Make]:
    """Name → how the optimizer is made from parameters."""
    o = torch.optim
    return {
        "SGD": lambda p: o.SGD(p, lr=0.1),
        "SGD, decay": lambda p: o.SGD(p, lr=0.1, weight_decay=0.1),
        "momentum": lambda p: o.SGD(p, lr=0.05, momentum=0.8),
        "momentum, dampening, decay": lambda p: o.SGD(p, lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.1),
        "Nesterov": lambda p: o.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
        "SGD, maximize, decay": lambda p: o.SGD(p, lr=0.01, maximize=True, weight_decay=0.1),
        "RMSprop": lambda p: o.RMSprop(p, lr=0.002),
        "RMSprop, centered, decay": lambda p: o.RMSprop(p, lr=0.002, centered=True, weight_decay=0.1),
        "RMSprop, momentum": lambda p: o.RMSprop(p, lr=0.001, momentum=0.7),
        "Adam": lambda p: o.Adam(p, lr=0.01),
        "Adam, amsgrad, decay": lambda p: o.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1),
        "AdamW": lambda p: o.AdamW(p, lr=0.01, weight_decay=0.2),
        "AdamW, amsgrad": lambda p: o.AdamW(p, lr=0.01, weight_decay=0.2, amsgrad=True),
        "Adagrad": lambda p: o.Adagrad(p, lr=0.02, lr_decay=0.05),
    }


class _Task:
    """Data, network and batches, the same for every configuration."""

    def __init__(self, seed: int):
        draw = torch.Generator().manual_seed(seed)
        self.x = torch.randn(SAMPLES, 2, generator=draw, dtype=torch.float64)
        self.y = torch.stack([self.x.sin().sum(1), self.x.prod(1), self.x.square().sum(1).cos()], 1)
        self.label = torch.randint(4, (SAMPLES,), generator=draw)
        self.queries = torch.randn(QUERIES, 2, generator=draw, dtype=torch.float64)
        self.order = [torch.randperm(SAMPLES, generator=draw)[:BATCH] for _ in range(STEPS)]
        self._seed = seed

    def network(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            layers = [nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)]
            return nn.Sequential(*layers).double()

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[ids], self.y[ids]


def _losses(module: nn.Module, batch: Any) -> Tensor:
    return (module(batch[0]) - batch[1]).square().mean(1)


def _recorded(task: _Task, make: Make, rule: str, halvings: int) -> tuple[float, float]:
    """Relative gap, and the largest difference between a step and the sum of its parts."""
    from genkernel.paths import record

    net = task.network()
    optimizer = make(net.parameters())
    for group in optimizer.param_groups:
        group["lr"] /= 2**halvings
    with record(
        net,
        optimizer,
        _losses,
        groups=lambda ids, _: task.label[ids],
        queries=task.queries,
        rule=rule,
        windows=1,
        verbose=False,
    ) as path:
        for ids in task.order:
            for _ in range(2**halvings):
                path.batch(task.batch(ids), ids=ids)
                optimizer.zero_grad()
                _losses(net, task.batch(ids)).mean().backward()
                optimizer.step()
    parts = path.contributions()
    return parts.gap_rel, parts.meta["step_error"]


def merged_splits(task: _Task, make: Make) -> list[tuple[int, float, float]]:
    """(steps per chord, gap, largest change of a group's part), both relative to the change of the outputs."""
    from genkernel.paths.reference import NaiveRecording

    net = task.network()
    optimizer = make(net.parameters())
    naive = NaiveRecording(net, optimizer)
    for ids in task.order:
        gradients = naive.gradients(_losses, task.batch(ids), task.label[ids].tolist())
        begun = naive.begin()
        optimizer.zero_grad()
        _losses(net, task.batch(ids)).mean().backward()
        optimizer.step()
        naive.take(begun, gradients, 1.0, optimizer.param_groups[0]["lr"])

    def call(module: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = module(x)
        return out

    every = naive.contributions(call, task.queries)
    whole = torch.stack(list(every.values())).sum(0)
    size = float(whole.norm(dim=1).max())
    found = []
    for length in MERGED:
        chords = naive.contributions(call, task.queries, every=length)
        total = torch.stack(list(chords.values())).sum(0)
        moved = max(float((chords[a] - every[a]).norm(dim=1).max()) for a in every)
        found.append((length, float((total - whole).norm(dim=1).max()) / size, moved / size))
    return found


def certified(merged: list[tuple[int, float, float]]) -> str:
    """Does a small gap mean that the parts are right as well?

    ``"no"`` where a part moves far while the sum stays; ``"yes"`` where no part moves much farther than the sum;
    ``"undecided"`` where parts move farther, but not far.

    Args:
        merged: as :func:`merged_splits` returns it.
    """
    apart = [moved > TIMES * max(gap, EXACT) for _, gap, moved in merged]
    if any(far and moved > MOVED for far, (_, _, moved) in zip(apart, merged, strict=True)):
        return "no"
    return "undecided" if any(apart) or not merged else "yes"


def run(*, quick: bool = False, seed: int = 0, progress: bool = True) -> Outcome:
    """Step sums, completeness and orders for every configuration; what merging does to the split."""
    from tqdm import tqdm

    from genkernel.plots.quadrature import gaps_over_rates

    task = _Task(seed)
    chosen = configurations()
    if quick:
        chosen = {name: chosen[name] for name in ("SGD", "momentum, dampening, decay", "RMSprop", "Adam", "AdamW")}
    halvings = (0, 1) if quick else (0, 1, 2)
    gaps: dict[str, dict[str, list[float]]] = {}
    sums: dict[str, float] = {}
    for name, make in tqdm(chosen.items(), disable=not progress, desc="optimizers"):
        for rule in RULES:
            rows = [_recorded(task, make, rule, h) for h in halvings]
            gaps.setdefault(name, {})[rule] = [row[0] for row in rows]
            sums[name] = max([sums.get(name, 0.0), *(row[1] for row in rows)])
    rates = [0.5**h for h in halvings]
    slopes = {name: {rule: slope(rates, curve) for rule, curve in rules.items()} for name, rules in gaps.items()}
    merged = merged_splits(task, chosen["Adam"])
    plain = [name for name in chosen if name in ("SGD", "Adam", "AdamW")]
    exact = [rules["gauss4"][0] for rules in gaps.values()]
    left = [slopes[name]["left"] for name in plain]
    trapezoid = [slopes[name]["trapezoid"] for name in plain]
    claims = [
        Claim(
            "given the preconditioner, every step is the sum of the parts of its sources (ours)",
            f"largest difference of any step, {len(chosen)} configurations: {max(sums.values()):.1e}",
            verdict(worst < SAME_STEP for worst in sums.values()),
        ),
        Claim(
            "the outputs are the sum of the contributions, to rounding (ours)",
            f"largest gap with four Gauss-Legendre nodes: {max(exact):.1e} of the change",
            verdict(gap < EXACT for gap in exact),
        ),
        Claim(
            "the kernel formula has order 1 in η, the trapezoid order 2 (SGD, Adam, AdamW)",
            f"left {min(left):.2f} to {max(left):.2f}, trapezoid {min(trapezoid):.2f} to {max(trapezoid):.2f}",
            verdict([*(has_order(s, 1) for s in left), *(has_order(s, 2) for s in trapezoid)]),
        ),
        Claim(
            "completeness certifies the split into groups",
            "; ".join(f"merging {n} steps: gap {g:.0e}, a group moves by {m:.1%} of the change" for n, g, m in merged),
            certified(merged),
        ),
    ]
    tables = [
        Table(
            "Gap relative to the change of the outputs, by learning rate",
            ("configuration", "largest step difference", *(f"{rule}, η/{2**h}" for rule in RULES for h in halvings)),
            [(name, sums[name], *(g for rule in RULES for g in gaps[name][rule])) for name in chosen],
        ),
        Table(
            "Merging steps into chords (Adam, Gauss-Legendre 4), relative to the change of the outputs",
            ("steps per chord", "gap", "largest change of a group's part"),
            list(merged),
        ),
    ]
    return Outcome(
        name="optimizers",
        settings={"seed": seed, "quick": quick, "samples": SAMPLES, "queries": QUERIES, "batch": BATCH, "steps": STEPS},
        claims=claims,
        tables=tables,
        figures={
            "optimizers": gaps_over_rates(
                gaps, rates, slopes, {"seed": seed, "n": SAMPLES, "dtype": "float64"}, relative=True
            )
        },
        numbers={"gaps": gaps, "slopes": slopes, "step_differences": sums, "merged": [list(row) for row in merged]},
    )
