"""How far stochastic differential equations are from the optimizers they model, and what noise and kinks do to a path.

Four studies: orders of weak approximation in means and variances; the remainder of Adam's path formula; batch sizes
from one θ_0; networks and losses with kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.slopes import below_halfway, slope
from genkernel.experiments.weak_error.adam_remainder import Remainder, remainder
from genkernel.experiments.weak_error.batch_sizes import QUANTITIES, Sweep, sweep
from genkernel.experiments.weak_error.nonsmooth import Walk, walk
from genkernel.experiments.weak_error.second_moments import FLOOR, VarianceError, variance_error
from genkernel.paths.stochastic.moments import Readout
from genkernel.paths.stochastic.problems import LinearRegression
from genkernel.paths.stochastic.sde import SGD, SGDM, Adam, Optimizer, RMSprop
from genkernel.paths.stochastic.weak_error import WeakError, fit_slope, weak_error
from genkernel.plots import stochastic

Array = NDArray[np.float64]
Case = tuple[str, int, str]  # activation, hidden layers, loss

SAMPLES, PARAMETERS, BATCH, HORIZON = 6, 3, 2, 2.0
ETAS = (0.2, 0.1, 0.05, 0.025, 0.0125)
ZETAS = (0.0, 0.3, 0.6, 0.9)

FIRST = (0.9, 1.1)  # slopes of the last octave of order 1: errors are exact, and terms of the next order are left
SECOND = 1.9  # from here on a slope of the last octave is of order 2
SAMPLED = 0.15  # by which a Monte Carlo slope may be off 1 whatever its standard error: Euler's scheme is in it
FALLS = 0.5  # a relative error of order η falls to a 16th over the learning rates, to a quarter over the quick ones
MISSED = 0.5  # of the variance: more than half of it is not there
ABOVE = 1.001  # times a bound: rounding of integrals
HALF, ALIKE = 0.5, (0.8, 1.25)  # one distance as a share of another: clearly smaller, about the same
OWNED = 0.95  # of Σ|gap|: nearly all of it
HANDED = 0.5  # time at which equations take over from Adam with bias correction


def run(*, quick: bool = False, seed: int = 0, progress: bool = True) -> Outcome:
    """Run the four studies.

    Args:
        quick: fewer runs, learning rates and seeds: under a minute on two cores.
        seed: of problems, batches, noise and networks.
        progress: show a progress bar.
    """
    from tqdm import tqdm

    etas = ETAS[:3] if quick else ETAS
    runs = 8_000 if quick else 40_000
    outcome = Outcome(
        "weak-error",
        {
            "quick": quick,
            "seed": seed,
            "regression": f"n = {SAMPLES}, {PARAMETERS} parameters, batches of {BATCH} without replacement, "
            "largest Hessian eigenvalue 1",
            "observable": "(x_q·θ)²",
            "horizon": HORIZON,
            "etas": list(etas),
            "Monte Carlo runs": runs,
            "Euler steps per eta": 8,
            "problems": 2 if quick else 5,
        },
    )
    sections: list[Callable[[], None]] = [
        lambda: _orders(outcome, quick, seed, etas, runs),
        lambda: _adam_remainder(outcome, quick),
        lambda: _batch_sizes(outcome, quick, seed),
        lambda: _kinks(outcome, quick, seed),
    ]
    for section in tqdm(sections, desc="weak error", disable=not progress):
        section()
    return outcome


def regression(
    seed: int = 0, *, samples: int = SAMPLES, parameters: int = PARAMETERS
) -> tuple[LinearRegression, Tensor, Tensor]:
    """A noisy linear regression with largest Hessian eigenvalue 1, θ_0 ``[P]`` and a query ``[P]``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(samples, parameters)
    x = x / torch.linalg.eigvalsh(x.T @ x / samples)[-1].sqrt()
    y = x @ normal(parameters) + 0.5 * normal(samples)
    return LinearRegression(x, y), normal(parameters), normal(parameters)


# --------------------------------------------------------------------- orders of approximation


def _orders(outcome: Outcome, quick: bool, seed: int, etas: tuple[float, ...], runs: int) -> None:
    models: list[tuple[str, Optimizer, str]] = [
        ("SGD", SGD(), "sde"),
        ("SGD, modified drift", SGD(), "modified"),
        ("SGD, gradient flow", SGD(), "flow"),
        ("SGDM", SGDM(mu=2.0), "sde"),
    ]
    exact = {
        name: [_error(optimizer, model, etas, seed + k) for k in range(2 if quick else 5)]
        for name, optimizer, model in models
    }
    adaptive: list[tuple[str, Optimizer]] = [
        ("RMSprop", RMSprop(rho=1.0, eps=1e-2, v0=1.0)),
        ("Adam", Adam(rho1=2.0, rho2=1.0, eps=1e-2)),
        ("Adam, uncorrected", Adam(rho1=2.0, rho2=1.0, eps=1e-2, v0=1.0, bias_correction=False)),
    ]
    sampled = {name: [_error(optimizer, "sde", etas, seed, runs)] for name, optimizer in adaptive}
    # the same equation by the other route: what Monte Carlo and Euler's scheme add
    control = {"SGD, Monte Carlo": [_error(SGD(), "sde", etas, seed, runs)]}
    found = exact | control | sampled
    drawn = [replace(many[0], optimizer=name) for name, many in found.items() if name not in control]

    table = Table(
        "Weak error of E g and relative error of Var g, g = (x_q·θ)²",
        ("model", "route", f"mean, η = {etas[0]:g}", f"mean, η = {etas[-1]:g}", "slope", "slope of the last octave",
         "over problems", f"variance, η = {etas[0]:g}", f"variance, η = {etas[-1]:g}", "slope of variance"),
        [],
    )  # fmt: skip
    for name, many in found.items():
        one, octaves = many[0], [_octave(each) for each in many]
        span = f"{min(octaves):.2f} – {max(octaves):.2f}" if len(octaves) > 1 else None
        table.rows.append((
            name, one.route, one.mean[0], one.mean[-1], _slope(one.slope_mean.value, one.slope_mean.stderr),
            octaves[0], span, f"{one.relative_variance[0]:.1%}", f"{one.relative_variance[-1]:.1%}",
            _slope(one.slope_variance.value, one.slope_variance.stderr),
        ))  # fmt: skip
    outcome.tables.append(table)
    outcome.numbers["weak_error"] = {name: [_plain(one) for one in many] for name, many in found.items()}
    outcome.figures["weak_error"] = stochastic.weak_errors(drawn, {"seed": seed, "dtype": "float64"})

    within = {
        name: [FIRST[0] <= _octave(one) <= FIRST[1] for one in found[name]] for name in ("SGD", "SGDM")
    }  # fmt: skip
    outcome.claims += [
        Claim(
            "The equation of SGD, and that of SGDM, is of weak order 1 (Guo, He & Morel, Thms 3.4, 3.5)",
            "; ".join(f"{name}: slopes {_span(found[name])}" for name in within),
            verdict(all(each) for each in within.values()),
        ),
        Claim(
            "With the drift −∇(L + (η/4)‖∇L‖²) it is of weak order 2",
            f"slopes {_span(found['SGD, modified drift'])}",
            verdict(_octave(one) >= SECOND for one in found["SGD, modified drift"]),
        ),
        _diffusion_claim(found["SGD, gradient flow"], found["SGD"]),
        _means_claim({name: many[0] for name, many in sampled.items()}, control["SGD, Monte Carlo"][0]),
        _variance_claim(outcome, sampled, quick, seed),
    ]


def _diffusion_claim(flow: list[WeakError], sde: list[WeakError]) -> Claim:
    """It certifies nothing if an equation without diffusion has the slope and lacks the variance."""
    slopes = [_octave(one) for one in flow]
    missed = min(float(one.relative_variance.min()) for one in flow)
    holds = "undecided"
    if all(value >= FIRST[0] for value in slopes) and missed > MISSED:
        holds = "no"
    elif all(value < FIRST[0] for value in slopes):
        holds = "yes"
    return Claim(
        "A first-order slope on means certifies the diffusion term",
        f"gradient flow without noise has slopes {_span(flow)} and misses at least {missed:.0%} of the variance; the "
        f"SDE has {_span(sde)} and misses {sde[0].relative_variance[0]:.0%} → {sde[0].relative_variance[-1]:.1%}",
        holds,
    )


@dataclass(frozen=True)
class Growth:
    """A line through error/η over log₂(1/η).

    Attributes:
        ratios: error/η ``[E]``.
        value, stderr: what it grows by when η is halved; 0 for an error of order η, and a constant for η log(1/η).
    """

    ratios: Array
    value: float
    stderr: float


def growth(etas: Sequence[float] | Array, errors: Array, stderr: Array) -> Growth:
    """Fit it with weights by the standard errors, all of which are positive ``[E]``."""
    eta = np.asarray(etas, dtype=np.float64)
    ratios, weights = errors / eta, np.square(eta / stderr)
    x = -np.log2(eta)
    x = x - np.average(x, weights=weights)
    size = float(np.sum(weights * x**2))
    return Growth(ratios, float(np.sum(weights * x * ratios) / size), size**-0.5)


def _means_claim(adaptive: dict[str, WeakError], plain: WeakError) -> Claim:
    parts, words = [], []
    for name, one in adaptive.items():
        line, grown = one.slope_mean, growth(one.etas, one.mean, one.mean_stderr)
        first = abs(line.value - 1) <= max(SAMPLED, 2 * line.stderr)
        parts.append(None if math.isnan(line.value) else first)
        listed = ", ".join(f"{ratio:.1f}" for ratio in grown.ratios)
        words.append(
            f"{name}: slope {_slope(line.value, line.stderr)}, error/η {listed} as η falls "
            f"({grown.value:+.2f} ± {grown.stderr:.2f} per halving)"
            + (
                ", as η log(1/η) would grow, or an order below 1: these η do not tell which"
                if grown.value > 2 * grown.stderr and not first
                else ""
            )
        )
    again = growth(plain.etas, plain.mean, plain.mean_stderr)
    return Claim(
        "The equations of RMSprop and Adam are of weak order 1 in means (Thms 3.6, 3.7)",
        "; ".join(words) + f"; SGD by the same route: {_slope(plain.slope_mean.value, plain.slope_mean.stderr)} "
        f"({again.value:+.2f} ± {again.stderr:.2f})",
        verdict(parts),
    )


def _variance_claim(outcome: Outcome, sampled: dict[str, list[WeakError]], quick: bool, seed: int) -> Claim:
    """Whether adaptive equations get the leading variance, and what they lack if they do not."""
    etas = (0.025,) if quick else (0.025, 0.0125)
    problem, theta0, query = regression(seed)
    given: dict[str, Any] = {
        "horizon": HORIZON, "batch_size": BATCH, "runs": 4_000 if quick else 12_000, "seed": seed,
    }  # fmt: skip
    corrected = Adam(rho1=2.0, rho2=1.0, eps=1e-2)
    cases: tuple[tuple[str, RMSprop | Adam, float], ...] = (
        ("RMSprop", RMSprop(rho=1.0, eps=1e-2, v0=1.0), 0.0),
        ("Adam, uncorrected", Adam(rho1=2.0, rho2=1.0, eps=1e-2, v0=1.0, bias_correction=False), 0.0),
        (f"Adam, from t = {HANDED:g}", corrected, HANDED),
    )
    found = {
        name: [
            variance_error(problem, theta0, optimizer, Readout(query), eta=eta, begin=begin, **given) for eta in etas
        ]
        for name, optimizer, begin in cases
    }
    floors = (FLOOR, 1e4 * FLOOR)
    start = [
        variance_error(problem, theta0, corrected, Readout(query), eta=etas[0], floor=floor, **given)
        for floor in floors
    ]
    rows = [(name, eta, one) for name, many in found.items() for eta, one in zip(etas, many, strict=True)]
    rows += [(f"Adam, V/ι₂ ≥ {floor:.0e}", etas[0], one) for floor, one in zip(floors, start, strict=True)]
    outcome.tables.append(
        Table(
            "Relative error of Var g: V as in the theorems, and V with the noise of its own",
            ("optimizer", "η", "dV without noise", "dV with noise", "s.e.", "share of V held at its floor"),
            [(name, eta, one.without, one.with_noise, one.stderr, one.held) for name, eta, one in rows],
        )
    )
    outcome.numbers["second_moment_noise"] = [
        {"optimizer": name, "eta": eta, "without": one.without, "with": one.with_noise, "stderr": one.stderr,
         "held": one.held}
        for name, eta, one in rows
    ]  # fmt: skip
    errors = {name: many[0].relative_variance for name, many in sampled.items()}
    said = "; ".join(f"{name}: {of[0]:.0%} → {of[-1]:.0%}" for name, of in errors.items())
    return Claim(
        "The equations of RMSprop and Adam give the variance to leading order, as that of SGD does",
        f"relative error of Var g as η falls: {said}. At ρ fixed v fluctuates by O(√η), as θ does, and dV has no "
        "noise. With it (without → with): "
        + "; ".join(f"{name} {_repaired(etas, many)}" for name, many in found.items())
        + f". With bias correction V/ι₂ begins as 0/0, so there both take over from the iteration at t = {HANDED:g}; "
        f"from t = 0 on the error with noise is {start[0].with_noise:,.1f} or {start[1].with_noise:,.1f} times the "
        f"variance where V/ι₂ is held above {floors[0]:.0e} or {floors[1]:.0e}",
        verdict(bool(of[-1] < FALLS * of[0]) for of in errors.values()),
    )


def _repaired(etas: Sequence[float], many: list[VarianceError]) -> str:
    """What noise in V does at every learning rate, and whether what is left falls with it."""
    text = ", ".join(
        f"{one.without:.1%} → {one.with_noise:.1%} ± {one.stderr:.1%} at η = {eta:g}"
        for eta, one in zip(etas, many, strict=True)
    )
    first, last = many[0], many[-1]
    around = 2 * math.hypot(first.stderr, last.stderr)
    if last.with_noise <= 2 * last.stderr:
        return f"{text} (nothing resolved is left)"
    if len(many) < 2:
        return f"{text} (one η: whether the rest falls is open)"
    falls = first.with_noise - last.with_noise > around
    return f"{text} (the rest falls)" if falls else f"{text} (that the rest falls is not shown)"


def _error(optimizer: Optimizer, model: Any, etas: tuple[float, ...], seed: int, runs: int | None = None) -> WeakError:
    problem, theta0, query = regression(seed)
    return weak_error(
        problem, theta0, optimizer, Readout(query), etas=etas, horizon=HORIZON, batch_size=BATCH, model=model,
        runs=runs, seed=seed,
    )  # fmt: skip


# --------------------------------------------------------------------- the remainder of Adam


def _adam_remainder(outcome: Outcome, quick: bool) -> None:
    etas = [0.1 / 2**k for k in range(4 if quick else 7)]
    table = Table(
        "adam-remainder: what the path formula of Adam omits, f = θ², ρ₁ = η^(−ζ)",
        ("ζ", "bias correction", f"remainder, η = {etas[0]:g}", f"remainder, η = {etas[-1]:g}", "slope",
         "slope of the last octave", "slope, iteration in the formula", "remainder / leading term"),
        [],
    )  # fmt: skip
    every: dict[tuple[bool, float], list[Remainder]] = {}
    orders: dict[tuple[bool, float], float] = {}
    for corrected in (False, True):
        for zeta in ZETAS:
            found = every[corrected, zeta] = [remainder(eta, zeta, corrected=corrected) for eta in etas]
            errors, iterations = [one.equation for one in found], [one.iteration for one in found]
            orders[corrected, zeta], octave = slope(etas, errors), slope(etas[-2:], errors[-2:])
            table.rows.append((
                zeta, corrected, errors[0], errors[-1], orders[corrected, zeta], octave, slope(etas, iterations),
                errors[-1] / found[-1].limit,
            ))  # fmt: skip
            outcome.numbers.setdefault("adam_remainder", []).append({
                "zeta": zeta, "bias_correction": corrected, "etas": etas, "equation": errors,
                "iteration": iterations, "slope": orders[corrected, zeta], "last_octave": octave,
                "limit": [one.limit for one in found],
            })  # fmt: skip
    outcome.tables.append(table)
    shown = {zeta: every[False, zeta] for zeta in ZETAS}
    outcome.figures["adam_remainder"] = stochastic.remainder_orders(
        np.array(etas),
        {zeta: np.array([one.equation for one in found]) for zeta, found in shown.items()},
        np.array([one.limit for one in shown[ZETAS[0]]]),
        {zeta: orders[False, zeta] for zeta in ZETAS},
        {},
        "exact moments on a linear equation · σ = 1 · T = 2",
    )
    outcome.claims.append(_remainder_claim(etas, every, orders))


def _remainder_claim(
    etas: list[float], every: dict[tuple[bool, float], list[Remainder]], orders: dict[tuple[bool, float], float]
) -> Claim:
    """No: every remainder stays within a multiple of η; yes: one outgrows it at the smallest η; or neither is seen.

    The multiple is the leading omitted term, and where a remainder is above it, what it was at the η before.
    """
    shares = {case: [one.equation / one.limit for one in found] for case, found in every.items()}
    bounded = [share[-1] <= ABOVE * max(1.0, share[-2]) for share in shares.values()]
    octaves = {case: slope(etas[-2:], [one.equation for one in found[-2:]]) for case, found in every.items()}
    outgrows = [
        share[-1] > ABOVE * max(1.0, share[-2]) and octaves[case] < FIRST[0] for case, share in shares.items()
    ]  # fmt: skip
    words = []
    for corrected, name in ((False, "without bias correction"), (True, "with it")):
        cases = [case for case in every if case[0] == corrected]
        listed = ", ".join(
            f"{zeta:g}: {orders[corrected, zeta]:.2f} (last octave {octaves[corrected, zeta]:.2f})" for _, zeta in cases
        )
        first, last = ([shares[case][k] for case in cases] for k in (0, -1))
        words.append(
            f"{name} slopes at ζ = {listed}, from {min(first):.2f} – {max(first):.2f} to {min(last):.2f} – "
            f"{max(last):.2f} of the leading omitted term (η/2)∫tr(PΣP∇²f)dt as η falls"
        )
    return Claim(
        "Adam's path formula leaves more than O(η) when ρ₁ = η^(−ζ), as the weaker bound of its proof allows "
        "(Guo, He & Morel, Thm 3.7)",
        "; ".join(words),
        "yes" if any(outgrows) else "no" if all(bounded) else "undecided",
    )


# --------------------------------------------------------------------- batch sizes


def _batch_sizes(outcome: Outcome, quick: bool, seed: int) -> None:
    found = sweep(quick=quick, seed=seed)
    table = Table(
        f"Final state against full batches (n = {found.samples}), in units of what training moved: mean ± sd",
        ("batch size", "weights", "tangent kernel", "predictions", "centred kernel alignment", "training loss"),
        [],
    )
    for row, size in enumerate(found.sizes):
        table.rows.append((
            size, *(_pair(found.distances[name][row]) for name in QUANTITIES), float(found.alignment[row].mean()),
            float(found.losses[row].mean()),
        ))  # fmt: skip
    table.rows.append((
        "other θ₀, full", *(_pair(found.other_starts[name]) for name in QUANTITIES),
        float(found.other_alignment.mean()), None,
    ))  # fmt: skip
    outcome.tables.append(table)
    outcome.numbers["batch_size"] = _plain_sweep(found)
    outcome.figures["batch_size"] = stochastic.batch_size_distances(
        found.sizes,
        found.distances,
        found.other_starts,
        {"seed": seed, "dtype": "float64"},
        f"tanh network 2-32-1 · η = {found.eta:g} · {found.steps} steps · {found.alignment.shape[1]} batch orders",
    )
    outcome.claims.append(_mechanism_claim(found))


def _mechanism_claim(found: Sweep) -> Claim:
    """The mechanism is the kernel and what is predicted: it stays if both move clearly less than something else."""
    far = {name: found.distances[name].mean(1) for name in QUANTITIES}
    others = {name: float(found.other_starts[name].mean()) for name in QUANTITIES}
    ratios = far["kernel"] / far["weights"]
    smallest = found.sizes[-1]
    alike = ALIKE[0] <= ratios.min() and ratios.max() <= ALIKE[1]
    return Claim(
        "Noise changes the weights, not the mechanism: tangent kernels of small batches move less than half as far as "
        "weights, and predictions less than to those of another θ₀",
        f"kernel distance / weight distance {ratios.min():.2f} – {ratios.max():.2f} over batch sizes"
        f"{' (both move alike)' if alike else ''}; at batches of {smallest} the kernel is "
        f"{far['kernel'][-1] / others['kernel']:.0%} as far from that of full batches as another θ₀'s is (alignment "
        f"{found.alignment.mean(1)[-1]:.4f} against {found.other_alignment.mean():.4f}), the predictions "
        f"{far['predictions'][-1] / others['predictions']:.1f} times as far ({far['predictions'][-1]:.3f} against "
        f"{others['predictions']:.3f} of what training moved; training loss {found.losses[-1].mean():.2g} against "
        f"{found.full_loss:.2g})",
        verdict([bool((ratios < HALF).all()), bool((far["predictions"] < others["predictions"]).all())]),
    )


# --------------------------------------------------------------------- kinks


def _kinks(outcome: Outcome, quick: bool, seed: int) -> None:
    etas, horizon = ((0.1, 0.05, 0.025), 5.0) if quick else ((0.1, 0.05, 0.025, 0.0125), 15.0)
    seeds = range(seed, seed + (4 if quick else 8))
    cases = [("tanh", 1, "squared"), ("softplus", 1, "squared"), ("tanh", 2, "squared"), ("ReLU", 1, "squared"),
             ("ReLU", 2, "squared"), ("tanh", 1, "Huber"), ("tanh", 1, "absolute"), ("ReLU", 1, "Huber"),
             ("ReLU", 1, "absolute")]  # fmt: skip
    every = {case: [walk(*case, eta=eta, horizon=horizon, seeds=seeds) for eta in etas] for case in cases}
    slopes = {case: slope(etas, [w.relative_gap for w in walks]) for case, walks in every.items()}
    table = Table(
        "Gap of the trapezoid rule over a path, relative to the change of f",
        ("network", "loss", f"gap, η = {etas[0]:g}", f"gap, η = {etas[-1]:g}", "slope", "sign changes per step",
         "share of steps × points crossed", "their share of Σ|gap|", "median |gap| crossed", "not crossed"),
        [],
    )  # fmt: skip
    for (activation, hidden, loss), walks in every.items():
        last = walks[-1]
        crossed = last.crossings > 0
        table.rows.append((
            f"{activation}, {hidden} hidden", loss, walks[0].relative_gap, last.relative_gap,
            slopes[activation, hidden, loss], float(last.crossings.sum(2).mean()), float(crossed.mean()),
            last.crossed_share, _median(last.gaps[crossed]), _median(last.gaps[~crossed]),
        ))  # fmt: skip
    outcome.tables.append(table)
    keys = ("activation", "hidden", "loss")
    outcome.numbers["kinks"] = [
        dict(zip(keys, case, strict=True)) | {
            "etas": list(etas), "relative_gap": [w.relative_gap for w in walks], "slope": slopes[case],
            "crossed_share": [w.crossed_share for w in walks],
            "crossings_per_step": [float(w.crossings.sum(2).mean()) for w in walks],
        }
        for case, walks in every.items()
    ]  # fmt: skip
    shown = ("ReLU", "tanh")
    outcome.figures["kinks"] = stochastic.kink_gaps(
        np.array(etas),
        {f"{c[0]}, {c[2]}": np.array([w.relative_gap for w in walks]) for c, walks in every.items() if c[1] == 1},
        {f"{c[0]}, {c[2]}": value for c, value in slopes.items() if c[1] == 1},
        {name: (every[name, 1, "squared"][-1].crossings, every[name, 1, "squared"][-1].gaps) for name in shown},
        {"dtype": "float64"},
        f"MLP 2-24-1, gradient descent, η · steps = {horizon:g}, {len(seeds)} initialisations",
    )
    outcome.claims += [_sign_change_claim(every, slopes), _loss_claim(every, slopes, etas[-1])]


def _sign_change_claim(every: dict[Case, list[Walk]], slopes: dict[Case, float]) -> Claim:
    """With one hidden layer all of the gap is where a sign changes, by theorem; with two it could be elsewhere."""
    relu, tanh = (every[activation, 2, "squared"][-1] for activation in ("ReLU", "tanh"))
    kinked = [value for case, value in slopes.items() if case[0] == "ReLU"]
    share = (relu.crossings > 0).mean()
    return Claim(
        "ReLU networks fall to first order because units change sign inside a step",
        f"slopes {min(kinked):.2f} – {max(kinked):.2f}; with two hidden layers, steps in which a unit changed sign "
        f"hold {relu.crossed_share:.1%} of Σ|gap| on {share:.2%} of steps × points (with tanh {tanh.crossed_share:.1%} "
        f"on {(tanh.crossings > 0).mean():.2%}); without a change the median gap is "
        f"{_median(relu.gaps[relu.crossings == 0]):.0e}, with one {_median(relu.gaps[relu.crossings > 0]):.0e}",
        verdict([*(below_halfway(value) for value in kinked), relu.crossed_share > OWNED]),
    )


def _loss_claim(every: dict[Case, list[Walk]], slopes: dict[Case, float], eta: float) -> Claim:
    """The order is that of f; the size is not."""
    sizes = []
    for activation in ("tanh", "ReLU"):
        gaps = {loss: every[activation, 1, loss][-1].relative_gap for loss in ("squared", "Huber", "absolute")}
        sizes += [f"{activation}, {loss} {gaps[loss] / gaps['squared']:.2g} times" for loss in ("Huber", "absolute")]
    listed = ", ".join(f"{c[0]} {c[1]} hidden, {c[2]} {s:.2f}" for c, s in slopes.items())
    return Claim(
        "The order of the gap depends on f, not on the loss: kinks of L1 and Huber losses do not lower it",
        f"{listed}; the size depends on the loss too: at η = {eta:g}, relative to the "
        f"squared loss and one hidden layer, {', '.join(sizes)}",
        verdict(_as_f(case[0], value) for case, value in slopes.items()),
    )


def _as_f(activation: str, value: float) -> bool | None:
    """Whether an order is that of a network of this activation."""
    low = below_halfway(value)
    return None if low is None else low == (activation == "ReLU")


# --------------------------------------------------------------------- words and plain numbers


def _slope(value: float, stderr: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}" + (f" ± {stderr:.2f}" if stderr else "")


def _octave(one: WeakError) -> float:
    """The slope between the two smallest learning rates."""
    return fit_slope(one.etas[-2:], one.mean[-2:], one.mean_stderr[-2:]).value


def _span(many: list[WeakError]) -> str:
    slopes, octaves = [one.slope_mean.value for one in many], [_octave(one) for one in many]
    return (
        f"{min(slopes):.2f} – {max(slopes):.2f} over {len(many)} problems (last octave {min(octaves):.2f} – "
        f"{max(octaves):.2f})"
    )


def _pair(values: Array) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def _median(gaps: Array) -> float:
    return float(np.median(np.abs(gaps))) if gaps.size else math.nan


def _plain(one: WeakError) -> dict[str, Any]:
    return {
        "model": one.model,
        "route": one.route,
        "etas": one.etas.tolist(),
        "mean": one.mean.tolist(),
        "mean_stderr": one.mean_stderr.tolist(),
        "relative_variance": one.relative_variance.tolist(),
        "relative_variance_stderr": one.relative_variance_stderr.tolist(),
        "slope_mean": one.slope_mean.value,
        "slope_mean_stderr": one.slope_mean.stderr,
        "slope_variance": one.slope_variance.value,
        "runs": one.runs,
    }


def _plain_sweep(found: Sweep) -> dict[str, Any]:
    return {
        "sizes": list(found.sizes),
        "distances": {name: values.tolist() for name, values in found.distances.items()},
        "other_starts": {name: values.tolist() for name, values in found.other_starts.items()},
        "alignment": found.alignment.tolist(),
        "other_alignment": found.other_alignment.tolist(),
        "initial_alignment": found.initial_alignment,
        "losses": found.losses.tolist(),
        "full_loss": found.full_loss,
    }
