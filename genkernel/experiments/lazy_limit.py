"""How fast do networks become kernel machines as they get wider?

Networks in NTK parametrisation with two hidden layers, trained by plain full-batch gradient descent from one random
state per seed. Four numbers of every training: how far the tangent kernel moves; how far the outputs on fresh points
end from those of training with the kernel frozen at its start (Courtois et al., remark 3.9; THEORY §5); how far the
first kernel is from that of infinite width; and how far the outputs end from those with that kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.equivalence import Measured, equivalent, pooled, student
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.experiments.slopes import slope
from genkernel.plots.style import pair
from genkernel.spectra import FrozenKernel, infinite_width_ntk, kernel_drift, ntk_mlp

Array = NDArray[np.float64]

WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
WIDE = 512  # from here on slopes are fitted once more: narrow networks may be in no limit
ACTIVATIONS = {"relu": 2.0, "tanh": 2.25}  # with σ_w²
BIAS = 0.1  # σ_b²
INPUTS, SAMPLES, QUERIES, DEPTH = 8, 24, 24, 2
STEPS = 150
RATE = 0.5  # of the inverse of the largest eigenvalue of K / n, for infinite width

QUANTITIES = {
    "drift": "‖K_T - K_0‖ / ‖K_0‖",
    "frozen": "‖f - f_frozen‖ / ‖f_frozen - f_0‖, kernel of the network at its start",
    "start": "‖K_0 - Θ‖ / ‖Θ‖",
    "infinite": "‖f - f_frozen‖ / ‖f_frozen - f_0‖, kernel of infinite width",
}
APART = 0.25  # a slope nearer than this to a half power is that power: halfway to the next
QUARTER = 0.125  # the same for quarters
SLACK = 0.1  # fits go over few octaves
UNBIASED = 0.02  # of the limit: half of what single networks of the widest kind are off


@dataclass(frozen=True)
class Run:
    """One training: the four numbers, the first kernel ``[n + q, n + q]``, and the share of the loss that is left."""

    numbers: dict[str, float]
    kernel: Tensor
    left: float


@dataclass(frozen=True)
class Rate:
    """A slope in the width: mean over seeds, its standard error, and how many seeds."""

    value: float
    stderr: float
    count: int

    @property
    def ends(self) -> tuple[float, float]:
        """The 95 % interval by Student's t; NaN for one seed."""
        half = student(self.count) * self.stderr
        return self.value - half, self.value + half

    def is_power(self, power: float, apart: float = APART) -> bool | None:
        """Whether its interval is within ``apart`` of that power; None where it leaves that open."""
        low, high = self.ends
        if power - apart < low and high < power + apart:
            return True
        return False if high < power - apart or low > power + apart else None

    def at_most(self, power: float) -> bool | None:
        """Whether it falls at least that fast, up to ``SLACK``; None where its interval leaves that open."""
        low, high = self.ends
        if high < power + SLACK:
            return True
        return False if low > power + SLACK else None


def task(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training points on the sphere of radius √d ``[n, d]``, targets ``[n, 1]`` of mean square 1, fresh points."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES + QUERIES, INPUTS, generator=draw, dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(INPUTS)
    y = x[:, :1] * x[:, 1:2] + x[:, 2:3]
    y = y / y[:SAMPLES].square().mean().sqrt()
    return x[:SAMPLES], y[:SAMPLES], x[SAMPLES:]


def trained(width: int, activation: str, seed: int, steps: int | None = None) -> Run:
    """Train one network and compare it with its frozen kernels."""
    from genkernel.tangent import kernel, total

    steps = STEPS if steps is None else steps
    x, y, queries = task(0)  # one task: what differs between seeds is the network
    points = torch.cat([x, queries])
    options: dict[str, Any] = {
        "depth": DEPTH, "activation": activation, "weight_variance": ACTIVATIONS[activation], "bias_variance": BIAS,
    }  # fmt: skip
    limit = infinite_width_ntk(points, **options)
    n = len(x)
    rate = RATE * n / float(torch.linalg.eigvalsh(limit[:n, :n])[-1])
    net = ntk_mlp(INPUTS, width, seed=1000 * seed + width, **options)

    def kernel_now() -> Tensor:
        return kernel(net, points.float(), cotangents=total(), memory="1GiB", progress=False).values

    def outputs() -> Tensor:
        with torch.no_grad():
            found: Tensor = net(points.float())
        return found.double()

    before, start = kernel_now(), outputs()
    descend(net, x.float(), y.float(), rate, steps)
    after, end = kernel_now(), outputs()
    numbers = {"drift": kernel_drift(before, after), "start": kernel_drift(limit, before)}
    for name, frozen in (("frozen", before), ("infinite", limit)):
        line = FrozenKernel(frozen[:n, :n], y, start[:n]).after(
            steps, rate=rate, cross=frozen[n:, :n], initial=start[n:]
        )
        numbers[name] = float((end[n:] - line).norm() / (line - start[n:]).norm())
    left = float((end[:n] - y).square().sum() / (start[:n] - y).square().sum())
    return Run(numbers, before, left)


def descend(net: nn.Module, x: Tensor, y: Tensor, rate: float, steps: int) -> None:
    """Plain gradient descent on (1/2n) Σ ‖f - y‖², in place."""
    parameters = list(net.parameters())
    for _ in range(steps):
        loss = (net(x) - y).square().sum() / (2 * len(x))
        with torch.no_grad():
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.sub_(g, alpha=rate)


def run(*, quick: bool = False, seed: int = 0, progress: bool = True) -> Outcome:
    """Drift of the kernel and distance from frozen kernels, over widths, activations and seeds."""
    from tqdm import tqdm

    from genkernel.plots.lazy_limit import over_widths

    widths = WIDTHS[:5] if quick else WIDTHS
    seeds = 3 if quick else 6
    runs: dict[tuple[str, int], list[Run]] = {}
    todo = [(a, w, s) for a in ACTIVATIONS for w in widths for s in range(seeds)]
    for activation, width, one in tqdm(todo, disable=not progress, desc="lazy-limit"):
        runs.setdefault((activation, width), []).append(trained(width, activation, 100 * seed + one))
    values = {
        a: {q: np.array([[r.numbers[q] for r in runs[a, w]] for w in widths]) for q in QUANTITIES} for a in ACTIVATIONS
    }  # [widths, seeds]
    rates = {a: {q: rate_of(widths, rows) for q, rows in each.items()} for a, each in values.items()}
    wide = [k for k, w in enumerate(widths) if w >= WIDE]
    late = {
        a: {q: rate_of([widths[k] for k in wide], rows[wide]) for q, rows in each.items()} for a, each in values.items()
    }
    biases = {a: _bias(runs[a, widths[-1]], a) for a in ACTIVATIONS}
    left = max(r.left for each in runs.values() for r in each)
    settings = {
        "quick": quick, "seed": seed, "seeds": seeds, "widths": list(widths), "depth": DEPTH, "inputs": INPUTS,
        "samples": SAMPLES, "queries": QUERIES, "steps": STEPS, "rate": f"{RATE} n / λ_max of the infinite width",
        "weight variances": dict(ACTIVATIONS), "bias variance": BIAS, "dtype": "float32",
        "largest share of the loss that is left": left,
    }  # fmt: skip
    return Outcome(
        name="lazy-limit",
        settings=settings,
        claims=_claims(rates, late, biases),
        tables=_tables(widths, values, rates, late),
        figures={
            "lazy-limit": over_widths(
                widths, values, {a: {q: r.value for q, r in each.items()} for a, each in rates.items()},
                {"seed": seed, "dtype": "float32"},
                f"{DEPTH} hidden layers, {SAMPLES} training and {QUERIES} fresh points, {STEPS} steps · {seeds} seeds, "
                "bars: 2 s.e.",
            )
        },
        numbers={
            "widths": list(widths),
            "values": {a: {q: rows.tolist() for q, rows in each.items()} for a, each in values.items()},
            "slopes": {a: {q: [r.value, r.stderr] for q, r in each.items()} for a, each in rates.items()},
            "slopes of wide ones": {a: {q: [r.value, r.stderr] for q, r in each.items()} for a, each in late.items()},
            "bias of the widest": {a: [float(b.mean), float(b.stderr)] for a, b in biases.items()},
        },
    )  # fmt: skip


def rate_of(widths: Any, rows: Array) -> Rate:
    """Slope of log value over log width of every seed ``[widths, seeds]``, mean and standard error."""
    if len(widths) < 2:
        return Rate(math.nan, math.nan, rows.shape[1])
    each = np.array([slope(widths, column) for column in rows.T])
    found = Measured.of(each)
    return Rate(float(found.mean), float(found.stderr), found.count)


def _bias(runs: list[Run], activation: str) -> Measured:
    """First kernels minus the limit, along the limit and relative to it, over seeds."""
    x, _, queries = task(0)
    limit = infinite_width_ntk(
        torch.cat([x, queries]), depth=DEPTH, activation=activation, weight_variance=ACTIVATIONS[activation],
        bias_variance=BIAS,
    )  # fmt: skip
    return Measured.of([float((r.kernel * limit).sum() / limit.square().sum()) - 1 for r in runs])


def _claims(
    rates: dict[str, dict[str, Rate]], late: dict[str, dict[str, Rate]], biases: dict[str, Measured]
) -> list[Claim]:
    def said(quantity: str) -> str:
        return "; ".join(
            f"{_name(a)}: slope {pair(rates[a][quantity].value, rates[a][quantity].stderr)}"
            + (
                f" ({pair(late[a][quantity].value, late[a][quantity].stderr)} from width {WIDE})"
                if not math.isnan(late[a][quantity].value)
                else ""
            )
            for a in rates
        )

    kinked = [a for a in rates if a == "relu"]
    smooth = [a for a in rates if a != "relu"]
    return [
        Claim(
            "the kernel stops to move as the width grows, at least as fast as 1/√width (Jacot et al.; Courtois et al., "
            "remark 3.9)",
            f"relative drift over a training: {said('drift')}",
            pooled([_decided(rates[a]["drift"].at_most(-0.5)) for a in rates]),
        ),
        Claim(
            "and the outputs become those of training with the frozen kernel, at least as fast as 1/√width",
            f"relative distance on fresh points: {said('frozen')}",
            pooled([_decided(rates[a]["frozen"].at_most(-0.5)) for a in rates]),
        ),
        Claim(
            "1/√width is the rate of both, and not a bound alone",
            _slopes(rates, list(rates)),
            pooled([_decided(rates[a][q].is_power(-0.5)) for a in rates for q in ("drift", "frozen")]),
        ),
        Claim(
            "with a smooth activation both fall like 1/width (Dyer and Gur-Ari, 2020: leading order of the change)",
            _slopes(rates, smooth),
            pooled([_decided(rates[a][q].is_power(-1.0)) for a in smooth for q in ("drift", "frozen")]),
        ),
        Claim(
            "with ReLU both fall like width^(-3/4): about √width units cross their kink, each with a change of random "
            "sign (our estimate)",
            _slopes(rates, kinked),
            pooled([_decided(rates[a][q].is_power(-0.75, QUARTER)) for a in kinked for q in ("drift", "frozen")]),
        ),
        Claim(
            f"the kernel at initialisation is in the mean that of infinite width (within {UNBIASED:.0%}, along it), "
            "and fluctuates around it like 1/√width",
            f"distance: {said('start')}; mean of the widest networks off by "
            + ", ".join(f"{float(b.mean):+.2%} ± {float(b.half):.2%} ({_name(a)})" for a, b in biases.items())
            + " (95 % intervals)",
            pooled(
                [*(_decided(rates[a]["start"].is_power(-0.5)) for a in rates), *(_unbiased(b) for b in biases.values())]
            ),
        ),
        Claim(
            "with the kernel of infinite width in the place of the network's own the outputs are off by 1/√width: what "
            "separates finite networks from it is their first kernel, not training",
            f"relative distance on fresh points: {said('infinite')}",
            pooled([_decided(rates[a]["infinite"].is_power(-0.5)) for a in rates]),
        ),
    ]


def _slopes(rates: dict[str, dict[str, Rate]], activations: list[str]) -> str:
    return "; ".join(
        f"{_name(a)}: drift {pair(rates[a]['drift'].value, rates[a]['drift'].stderr)}, outputs "
        f"{pair(rates[a]['frozen'].value, rates[a]['frozen'].stderr)}"
        for a in activations
    )


def _tables(
    widths: tuple[int, ...],
    values: dict[str, dict[str, Array]],
    rates: dict[str, dict[str, Rate]],
    late: dict[str, dict[str, Rate]],
) -> list[Table]:
    def entry(row: Array) -> str:
        return pair(float(row.mean()), float(row.std(ddof=1) / len(row) ** 0.5))

    return [
        Table(
            f"{_name(a)}: mean ± standard error over seeds",
            ("quantity", *(f"width {w}" for w in widths), "slope", f"slope from {WIDE}"),
            [
                (
                    QUANTITIES[q], *(entry(row) for row in rows), pair(rates[a][q].value, rates[a][q].stderr),
                    pair(late[a][q].value, late[a][q].stderr),
                )
                for q, rows in each.items()
            ],
        )
        for a, each in values.items()
    ]  # fmt: skip


def _decided(part: bool | None) -> str:
    return "undecided" if part is None else "yes" if part else "no"


def _unbiased(bias: Measured) -> str:
    return equivalent(float(bias.mean), float(bias.half), UNBIASED)


def _name(activation: str) -> str:
    return {"relu": "ReLU"}.get(activation, activation)
