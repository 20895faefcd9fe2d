"""Domingos' formula, measured: ball against sphere, full-batch gradient descent, several widths and step sizes.

Section 5.1 of Courtois et al., *Can neural networks extrapolate?*: a three-layer GELU network separates a ball from a
sphere around it, and the sum over kernels along the training is compared with the network. The radii, the number of
samples and the width of the paper did not survive in its text; ours are a ball of radius 0.5 and a sphere of radius 1
in the plane, 60 samples, widths 8 to 128. The rates stay below the edge of stability of the widest network (2/λ with
the largest eigenvalue λ of the loss's Hessian): beyond it no expansion in η means anything.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.slopes import below_halfway, has_order, slope

RULES = ("left", "trapezoid", "midpoint", "gauss4")
RATES = (0.05, 0.025, 0.0125, 0.00625)
SAMPLES, QUERIES, HORIZON = 60, 40, 6.0
EXACT = 1e-11  # of the change of the outputs: rounding of some hundred steps in float64, with a wide margin


def ball_and_sphere(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points of a disk of radius 0.5 (label -1) and of the unit circle (label 1), ``[n, 2]`` and ``[n, 1]``."""
    draw = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(n, generator=draw, dtype=torch.float64)
    inside = torch.arange(n) % 2 == 0
    radius = torch.where(inside, 0.5 * torch.rand(n, generator=draw, dtype=torch.float64).sqrt(), 1.0)
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return points, torch.where(inside, -1.0, 1.0).double()[:, None]


def network(width: int, activation: type[nn.Module], seed: int, inputs: int = 2) -> nn.Sequential:
    """Three layers with one output (Courtois et al., section 5.1), float64, initialised from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 1)]
        return nn.Sequential(*layers).double()


def gap(width: int, rate: float, rule: str, seed: int, activation: type[nn.Module] = nn.GELU) -> dict[str, float]:
    """One training: the gap of the formula on fresh points, relative to the change of the outputs; the accuracy."""
    from genkernel.paths import record

    x, y = ball_and_sphere(SAMPLES, seed)
    queries, answers = ball_and_sphere(QUERIES, seed + 1000)
    net = network(width, activation, seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)

    def losses(module: nn.Module, batch: Any) -> Tensor:
        return (module(batch[0]) - batch[1]).square().sum(1)

    with record(net, optimizer, losses, queries=queries, rule=rule, windows=1, verbose=False) as path:
        for _ in range(round(HORIZON / rate)):
            path.batch((x, y))
            optimizer.zero_grad()
            losses(net, (x, y)).mean().backward()
            optimizer.step()
    parts = path.contributions()
    size = float((parts.final - parts.initial).norm())
    accuracy = float((parts.final.sign() == answers).double().mean())
    return {"gap": float(parts.gap.norm()) / size, "accuracy": accuracy}


def run(*, quick: bool = False, seed: int = 0, progress: bool = True) -> Outcome:
    """How far the left-point formula and exact ones are from the network, over step sizes, widths and activations."""
    from tqdm import tqdm

    from genkernel.plots.quadrature import gaps_over_rates

    widths = (16, 64) if quick else (8, 32, 128)
    rates = RATES[:3] if quick else RATES
    cases: list[tuple[str, int, type[nn.Module]]] = [(f"GELU, width {w}", w, nn.GELU) for w in widths]
    cases.append((f"ReLU, width {widths[1]}", widths[1], nn.ReLU))
    found: dict[str, dict[str, list[float]]] = {}
    accuracy: dict[str, float] = {}
    todo = [(title, w, a, rule) for title, w, a in cases for rule in RULES]
    for title, width, activation, rule in tqdm(todo, disable=not progress, desc="domingos"):
        rows = [gap(width, rate, rule, seed, activation) for rate in rates]
        found.setdefault(title, {})[rule] = [row["gap"] for row in rows]
        accuracy[title] = rows[-1]["accuracy"]
    slopes = {title: {rule: slope(rates, gaps) for rule, gaps in curves.items()} for title, curves in found.items()}
    smooth = [title for title, _, a in cases if a is nn.GELU]
    kinked = cases[-1][0]
    left = [slopes[title]["left"] for title in smooth]
    second = [slopes[title][rule] for title in smooth for rule in ("trapezoid", "midpoint")]
    exact = [found[title]["gauss4"][-1] for title in smooth]
    worst = max(found[title]["left"][0] for title in smooth)
    relu = {rule: slopes[kinked][rule] for rule in RULES[1:]}  # the left rule is of first order anyway
    beside = cases[1][0]  # of the same width
    claims = [
        Claim(
            "the formula with the kernel at the start of every step misses the network by O(η) (Courtois et al., "
            "theorems 2 and 3)",
            f"slopes {min(left):.2f} to {max(left):.2f} in η; at η = {rates[0]} it misses up to {worst:.1%} of the "
            "change",
            verdict(has_order(s, 1) for s in left),
        ),
        Claim(
            "second order for the trapezoid and the midpoint at the same cost (ours)",
            f"slopes {min(second):.2f} to {max(second):.2f}",
            verdict(has_order(s, 2) for s in second),
        ),
        Claim(
            "the line integral is exact: Gauss-Legendre with four nodes closes the sum (ours)",
            f"largest gap at η = {rates[-1]}: {max(exact):.0e} of the change",
            verdict(gap < EXACT for gap in exact),
        ),
        Claim(
            "with ReLU the theorems hold piecewise only (smoothness is assumed): better rules are of first order too",
            "slopes "
            + ", ".join(f"{rule} {s:.2f}" for rule, s in relu.items())
            + f"; with four nodes the gap at η = {rates[-1]} is {found[kinked]['gauss4'][-1]:.0e} of the change, with "
            f"GELU of the same width {found[beside]['gauss4'][-1]:.0e}",
            verdict(below_halfway(s) for s in relu.values()),
        ),
    ]
    table = Table(
        f"Gap relative to the change of the outputs on {QUERIES} fresh points, horizon η × steps = {HORIZON:g}",
        ("network", "rule", *(f"η = {rate}" for rate in rates), "slope"),
        [(title, rule, *gaps, slopes[title][rule]) for title, curves in found.items() for rule, gaps in curves.items()],
    )
    settings = {
        "samples": SAMPLES, "queries": QUERIES, "horizon": HORIZON, "widths": list(widths), "rates": list(rates),
        "seed": seed, "quick": quick,
    }  # fmt: skip
    meta = {"seed": seed, "n": SAMPLES, "dtype": "float64"}
    return Outcome(
        name="domingos",
        settings=settings,
        claims=claims,
        tables=[table],
        figures={"domingos": gaps_over_rates(found, rates, slopes, meta, columns=2)},
        numbers={"gaps": found, "slopes": slopes, "accuracy": accuracy, "rates": list(rates)},
    )
