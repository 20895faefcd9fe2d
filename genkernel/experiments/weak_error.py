"""How far stochastic differential equations are from the optimizers they model, and what noise and kinks do to a path.

Four studies: orders of weak approximation in means and variances; the remainder of Adam's path formula; batch sizes
from one θ_0; networks and losses with kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.experiments.adam_remainder import remainder
from genkernel.experiments.batch_size_sweep import QUANTITIES, Sweep, sweep
from genkernel.experiments.nonsmooth_paths import walk
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.paths.stochastic.gradient_noise import noise_scale
from genkernel.paths.stochastic.iid_batches import batch_indices
from genkernel.paths.stochastic.moments import Readout
from genkernel.paths.stochastic.problems import LinearRegression
from genkernel.paths.stochastic.sde import SGD, SGDM, Adam, Optimizer, RMSprop, simulate_discrete
from genkernel.paths.stochastic.weak_error import WeakError, fit_slope, weak_error
from genkernel.plots import stochastic

Array = NDArray[np.float64]

SAMPLES, PARAMETERS, BATCH, HORIZON = 6, 3, 2, 2.0
ETAS = (0.2, 0.1, 0.05, 0.025, 0.0125)
ZETAS = (0.0, 0.3, 0.6, 0.9)


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


def regression(seed: int) -> tuple[LinearRegression, Tensor, Tensor]:
    """A noisy linear regression with largest Hessian eigenvalue 1, θ_0 and a query."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(SAMPLES, PARAMETERS)
    x = x / torch.linalg.eigvalsh(x.T @ x / SAMPLES)[-1].sqrt()
    y = x @ normal(PARAMETERS) + 0.5 * normal(SAMPLES)
    return LinearRegression(x, y), normal(PARAMETERS), normal(PARAMETERS)


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

    lines = {name: many[0].slope_mean for name, many in sampled.items()}
    plain = control["SGD, Monte Carlo"][0].slope_mean
    within = {name: [0.9 <= _octave(e) <= 1.1 for e in found[name]] for name in ("SGD", "SGDM")}
    outcome.claims += [
        Claim(
            "The equation of SGD, and that of SGDM, is of weak order 1 (Guo, He & Morel, Thms 3.4, 3.5)",
            "; ".join(f"{name}: slopes {_span(found[name])}" for name in within),
            _verdict([all(each) for each in within.values()]),
        ),
        Claim(
            "With the drift −∇(L + (η/4)‖∇L‖²) it is of weak order 2",
            f"slopes {_span(found['SGD, modified drift'])}",
            _verdict([_octave(e) >= 1.9 for e in found["SGD, modified drift"]]),
        ),
        Claim(
            "A first-order slope on means certifies the diffusion term",
            f"gradient flow without noise has slopes {_span(found['SGD, gradient flow'])} as well, and misses "
            f"{found['SGD, gradient flow'][0].relative_variance.min():.0%} of the variance; the SDE misses "
            f"{found['SGD'][0].relative_variance[0]:.0%} → {found['SGD'][0].relative_variance[-1]:.1%}",
            "no" if found["SGD, gradient flow"][0].slope_mean.value > 0.8 else "yes",
        ),
        Claim(
            "The equations of RMSprop and Adam are of weak order 1 in means (Thms 3.6, 3.7)",
            "; ".join(f"{name}: {_slope(line.value, line.stderr)}" for name, line in lines.items())
            + f"; SGD by the same route {_slope(plain.value, plain.stderr)}",
            _verdict([abs(line.value - 1) <= max(0.15, 2 * line.stderr) for line in lines.values()]),
        ),
        _variance_claim(outcome, sampled, quick, seed),
    ]  # fmt: skip


def _variance_claim(outcome: Outcome, sampled: dict[str, list[WeakError]], quick: bool, seed: int) -> Claim:
    """Whether adaptive equations get the leading variance, and what they lack if they do not."""
    rows = []
    for eta in (0.025,) if quick else (0.025, 0.0125):
        for name, optimizer in (
            ("RMSprop", RMSprop(rho=1.0, eps=1e-2, v0=1.0)),
            ("Adam, uncorrected", Adam(rho1=2.0, rho2=1.0, eps=1e-2, v0=1.0, bias_correction=False)),
        ):
            rows.append((name, eta, *_with_noise_of_second_moments(optimizer, eta, 4_000 if quick else 12_000, seed)))
    outcome.tables.append(
        Table(
            "Relative error of Var g: V as in the theorems, and V with the noise of its own",
            ("optimizer", "η", "dV without noise", "dV with noise", "s.e."),
            rows,
        )
    )
    outcome.numbers["second_moment_noise"] = [
        dict(zip(("optimizer", "eta", "without", "with", "stderr"), row, strict=True)) for row in rows
    ]
    falls = [many[0].relative_variance[-1] < 0.5 * many[0].relative_variance[0] for many in sampled.values()]
    said = "; ".join(
        f"{name}: {many[0].relative_variance[0]:.0%} → {many[0].relative_variance[-1]:.0%}"
        for name, many in sampled.items()
    )
    return Claim(
        "The equations of RMSprop and Adam give the variance to leading order, as that of SGD does",
        f"relative error of Var g as η falls: {said}. At ρ fixed, V fluctuates by O(√η) like θ itself, and dV has no "
        f"noise: with it the error at η = {rows[-1][1]:g} is "
        + ", ".join(f"{row[3]:.1%} ({row[0]})" for row in rows if row[1] == rows[-1][1]),
        _verdict(falls),
    )


def _with_noise_of_second_moments(
    optimizer: RMSprop | Adam, eta: float, runs: int, seed: int
) -> tuple[float, float, float]:
    """The relative error of Var g with dV as it is and with √η (g_B² − E g²) added, and their standard error.

    Noise increments are drawn as gradients of random batches: they have the joint covariance of (g, g²).
    """
    problem, theta0, query = regression(seed)
    readout, substeps = Readout(query), 8
    given: dict[str, Any] = {"eta": eta, "steps": round(HORIZON / eta), "batch_size": BATCH}
    seeds = np.arange(runs) + (seed << 40)
    truth = simulate_discrete(problem, theta0, optimizer, seeds=seeds, observe=readout, **given)
    scale, dt = noise_scale(SAMPLES, BATCH), eta / substeps
    diffusion = math.sqrt(eta * dt)
    errors = []
    for noisy in (False, True):
        theta, m = theta0.expand(runs, -1), torch.zeros(runs, PARAMETERS, dtype=torch.float64)
        v = torch.full_like(m, optimizer.v0)
        spread = [0.0]
        for k in range(given["steps"] * substeps):
            mean, scatter = problem.gradient_scatter(theta)
            second = mean.square() + scale * scatter
            drawn = batch_indices(seeds + (1 << 36), k, population=SAMPLES, batch_size=BATCH)
            g = problem.gradient(theta, index=torch.from_numpy(drawn))
            force, around = dt * mean + diffusion * (g - mean), diffusion * (g.square() - second) if noisy else 0.0
            if isinstance(optimizer, RMSprop):
                theta = theta - force / (v.sqrt() + optimizer.eps)
                v = v + optimizer.rho * (dt * (second - v) + around)
            else:
                m = m + optimizer.rho1 * (force - dt * m)
                v = v + optimizer.rho2 * (dt * (second - v) + around)
            v = v.clamp_min(1e-6)  # a Gaussian V may leave its range where the batch average cannot
            if isinstance(optimizer, Adam):
                theta = theta - dt * m / (v.sqrt() + optimizer.eps)
            if (k + 1) % substeps == 0:
                spread.append(float(readout(theta).var()))
        errors.append(float(np.abs(np.array(spread) - truth.variance).max() / truth.variance.max()))
    at = int(truth.variance.argmax())
    return errors[0], errors[1], float(math.sqrt(2) * truth.variance_stderr[at] / truth.variance[at])


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
    curves: dict[float, Array] = {}
    slopes, last = {}, {}
    for corrected in (False, True):
        for zeta in ZETAS:
            found = [remainder(eta, zeta, corrected=corrected) for eta in etas]
            errors = np.array([one.equation for one in found])
            slope = fit_slope(etas, errors).value
            octave = fit_slope(etas[-2:], errors[-2:]).value
            iteration = fit_slope(etas, np.array([one.iteration for one in found])).value
            share = errors[-1] / found[-1].limit
            table.rows.append((zeta, corrected, errors[0], errors[-1], slope, octave, iteration, share))
            outcome.numbers.setdefault("adam_remainder", []).append({
                "zeta": zeta, "bias_correction": corrected, "etas": etas, "equation": errors.tolist(),
                "iteration": [one.iteration for one in found], "slope": slope, "last_octave": octave,
            })  # fmt: skip
            if not corrected:
                curves[zeta], slopes[zeta], last[zeta] = errors, slope, octave
    outcome.tables.append(table)
    outcome.figures["adam_remainder"] = stochastic.remainder_orders(
        np.array(etas), curves, {}, "exact moments on a linear equation · σ = 1 · T = 2"
    )
    outcome.claims.append(
        Claim(
            "Adam's path formula leaves more than O(η) when ρ₁ = η^(−ζ), as the weaker bound of its proof allows "
            "(Guo, He & Morel, Thm 3.7)",
            "slopes at ζ = " + ", ".join(f"{z:g}: {s:.2f} (last octave {last[z]:.2f})" for z, s in slopes.items())
            + "; without bias correction it stays below the leading omitted term (η/2)∫tr(PΣP∇²f)dt, which it "
            "approaches as ρ₁ grows: slopes below 1 are that passage",
            "no" if all(s > 0.85 for s in slopes.values()) and all(
                bool((errors <= 1.001 * np.array(etas) * 2.0).all()) for errors in curves.values()
            ) else "undecided",
        )
    )  # fmt: skip


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
    ratios = found.distances["kernel"].mean(1) / found.distances["weights"].mean(1)
    beside = float(np.max(found.distances["kernel"].mean(1)) / found.other_starts["kernel"].mean())
    outcome.claims.append(
        Claim(
            "Noise changes the weights, not the mechanism: tangent kernels of small batches move less than weights",
            f"kernel distance / weight distance {ratios.min():.2f} – {ratios.max():.2f} over batch sizes; both grow "
            f"alike, and the largest kernel distance is {beside:.0%} of that of another θ₀ (alignment "
            f"{found.alignment.mean(1).min():.4f} against {found.other_alignment.mean():.4f})",
            "yes" if (ratios < 0.5).all() else "partly" if (ratios < 0.8).all() else "no",
        )
    )


# --------------------------------------------------------------------- kinks


def _kinks(outcome: Outcome, quick: bool, seed: int) -> None:
    etas, horizon = ((0.1, 0.05, 0.025), 5.0) if quick else ((0.1, 0.05, 0.025, 0.0125), 15.0)
    seeds = range(seed, seed + (4 if quick else 8))
    cases = [("tanh", 1, "squared"), ("softplus", 1, "squared"), ("tanh", 2, "squared"), ("ReLU", 1, "squared"),
             ("ReLU", 2, "squared"), ("tanh", 1, "Huber"), ("tanh", 1, "absolute"), ("ReLU", 1, "Huber"),
             ("ReLU", 1, "absolute")]  # fmt: skip
    every = {case: [walk(*case, eta=eta, horizon=horizon, seeds=seeds) for eta in etas] for case in cases}
    slopes = {case: fit_slope(etas, np.array([w.relative_gap for w in walks])).value for case, walks in every.items()}
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
        {name: (every[name, 1, "squared"][-1].crossings, every[name, 1, "squared"][-1].gaps) for name in shown},
        {"dtype": "float64"},
        f"MLP 2-24-1, gradient descent, η · steps = {horizon:g}, {len(seeds)} initialisations",
    )
    smooth = {case: s for case, s in slopes.items() if case[0] != "ReLU"}
    kinked = {case: s for case, s in slopes.items() if case[0] == "ReLU"}
    relu = every["ReLU", 1, "squared"][-1]
    outcome.claims += [
        Claim(
            "ReLU networks fall to first order because units change sign inside a step",
            f"slopes {min(kinked.values()):.2f} – {max(kinked.values()):.2f}; steps in which a unit changed sign hold "
            f"{relu.crossed_share:.1%} of Σ|gap| on {(relu.crossings > 0).mean():.2%} of steps × points; without a "
            f"change the median gap is {_median(relu.gaps[relu.crossings == 0]):.0e}, with one "
            f"{_median(relu.gaps[relu.crossings > 0]):.0e}",
            _verdict([s < 1.7 for s in kinked.values()] + [relu.crossed_share > 0.95]),
        ),
        Claim(
            "The order of the gap depends on f, not on the loss: kinks of L1 and Huber losses cost nothing",
            "smooth f: " + ", ".join(f"{c[0]} {c[1]} hidden, {c[2]} {s:.2f}" for c, s in smooth.items()) + "; ReLU: "
            + ", ".join(f"{c[1]} hidden, {c[2]} {s:.2f}" for c, s in kinked.items()),
            _verdict([s > 1.7 for s in smooth.values()] + [s < 1.7 for s in kinked.values()]),
        ),
    ]  # fmt: skip


# --------------------------------------------------------------------- words and plain numbers


def _verdict(parts: list[Any]) -> str:
    return "yes" if all(parts) else "partly" if any(parts) else "no"


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
