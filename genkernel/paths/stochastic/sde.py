"""Optimizers and the stochastic differential equations that model them, over many runs at once.

With time t = kη, batch covariance Σ, and rates ρ = (1 − β)/η held fixed as η → 0 (Guo, He & Morel,
Thms 3.4–3.7; Li, Tai & E 2017 for the modified drift; Malladi et al. 2022 for the adaptive ones):

    SGD       dΘ = −∇L dt + √η Σ^{1/2} dW                     modified drift: −∇(L + (η/4)‖∇L‖²)
    SGDM      dΘ = −M dt,   dM = μ (∇L − M) dt + μ √η Σ^{1/2} dW
    RMSprop   dΘ = −P (∇L dt + √η Σ^{1/2} dW),   dV = ρ (∇L² + diag Σ − V) dt,   P = 1/(√V + ε)
    Adam      dΘ = −(√ι₂/ι₁) P M dt, dM as SGDM with ρ₁, dV as RMSprop with ρ₂, ι = 1 − e^{−ρt},
              P = 1/(√V + ε√ι₂); without bias correction both ι are 1

The iterations follow ``torch.optim``, momentum as an exponential average: m ← βm + (1 − β)g.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError, NonFiniteError
from genkernel.paths.stochastic.gradient_noise import noise_scale
from genkernel.paths.stochastic.iid_batches import batch_indices, check_batch
from genkernel.paths.stochastic.problems import Problem

Observable = Callable[[Tensor], Tensor]  # θ [R, P] → [R, *o]
Drift = Literal["first", "modified"]

# Runs that are stepped together: the noise of a run depends on its place among them, so this is no option.
_BLOCK = 16_384


@dataclass(frozen=True)
class SGD:
    """θ ← θ − ηg."""

    name = "SGD"

    def rates(self) -> tuple[float, ...]:
        return ()


@dataclass(frozen=True)
class SGDM:
    """m ← βm + (1 − β)g, θ ← θ − ηm with β = 1 − μη; m starts at 0."""

    mu: float
    name = "SGDM"

    def rates(self) -> tuple[float, ...]:
        return (self.mu,)


@dataclass(frozen=True)
class RMSprop:
    """v ← αv + (1 − α)g², θ ← θ − ηg/(√v + ε) with α = 1 − ρη; v starts at ``v0``."""

    rho: float
    eps: float = 1e-8
    v0: float = 0.0
    name = "RMSprop"

    def rates(self) -> tuple[float, ...]:
        return (self.rho,)


@dataclass(frozen=True)
class Adam:
    """Adam with β₁ = 1 − ρ₁η, β₂ = 1 − ρ₂η; m starts at 0, v at ``v0`` (0 with bias correction)."""

    rho1: float
    rho2: float
    eps: float = 1e-8
    v0: float = 0.0
    bias_correction: bool = True
    name = "Adam"

    def rates(self) -> tuple[float, ...]:
        return self.rho1, self.rho2


Optimizer = SGD | SGDM | RMSprop | Adam


@dataclass(frozen=True)
class Simulation:
    """Observables over R runs.

    Attributes:
        times: kη of the steps that were looked at ``[K]``.
        mean, variance: over the runs ``[K, *o]``, the variance (R − 1)-normalised.
        mean_stderr, variance_stderr: their standard errors ``[K, *o]``.
        runs: R.
        final: θ at the last step ``[R, P]``.
        values: the observable of every run ``[K, R, *o]``, where asked for.
    """

    times: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    mean_stderr: NDArray[np.float64]
    variance_stderr: NDArray[np.float64]
    runs: int
    final: Tensor
    values: NDArray[np.float64] | None = None


def simulate_discrete(
    problem: Problem,
    theta0: Tensor,
    optimizer: Optimizer,
    *,
    eta: float,
    steps: int,
    batch_size: int,
    seeds: Sequence[int] | NDArray[np.integer],
    observe: Observable | None = None,
    at: Sequence[int] | None = None,
    replacement: bool = False,
    keep: bool = False,
) -> Simulation:
    """An optimizer on R runs with batches that are independent from step to step.

    Args:
        problem: what is minimised.
        theta0: where all runs begin ``[P]``, or each of them ``[R, P]``.
        optimizer: :class:`SGD`, :class:`SGDM`, :class:`RMSprop` or :class:`Adam`.
        eta: the learning rate η.
        steps: number of steps.
        batch_size, replacement: how a batch is drawn.
        seeds: one per run ``[R]``; the batches of a run are those of ``IIDBatchSampler(seed=…)``.
        observe: ``θ [r, P] → [r, *o]``; θ itself by default.
        at: the steps to look at, 0 … ``steps``; all of them by default.
        keep: also return the observable of every run.

    Raises:
        InputError: shapes, sizes or rates do not fit.
        NonFiniteError: the iteration diverges.
    """
    seeds = np.asarray(seeds, dtype=np.int64)
    starts = _starts(problem, theta0, optimizer, eta, steps, len(seeds))
    check_batch(problem.samples, batch_size, replacement)

    def walk(theta: Tensor, first: int) -> Iterator[Tensor]:
        own = seeds[first : first + len(theta)]
        step = _discrete_step(problem, optimizer, eta, theta)
        for k in range(steps):
            drawn = batch_indices(own, k, population=problem.samples, batch_size=batch_size, replacement=replacement)
            theta = step(theta, problem.gradient(theta, index=torch.from_numpy(drawn).to(theta.device)), k)
            yield theta

    return _observed(walk, starts, eta, steps, observe, at, keep)


def simulate_sde(
    problem: Problem,
    theta0: Tensor,
    optimizer: Optimizer,
    *,
    eta: float,
    steps: int,
    batch_size: int,
    runs: int,
    seed: int = 0,
    observe: Observable | None = None,
    at: Sequence[int] | None = None,
    replacement: bool = False,
    drift: Drift = "first",
    noise: bool = True,
    substeps: int = 8,
    keep: bool = False,
) -> Simulation:
    """The stochastic differential equation of an optimizer on R runs, by Euler and Maruyama.

    The noise Σ^{1/2}ξ of a step is a weighted sum of per-sample gradients with normal weights, so that drift and
    noise together are one backward pass. The scheme's own error in means is O(η/substeps): a fixed part of a
    first-order weak error, and larger than a second-order one (the modified drift needs substeps ~ 1/η).

    Args:
        problem, theta0, optimizer, eta, observe, at, keep: as for :func:`simulate_discrete`.
        steps: the horizon is steps · η.
        batch_size, replacement: of the batches whose noise is modelled.
        runs: R.
        seed: of the noise.
        drift: ``"first"``, or for SGD ``"modified"``: −∇(L + (η/4)‖∇L‖²), which makes it second order.
        noise: False for the ordinary differential equation (gradient flow); Σ stays in the second moments of adaptive
            optimizers.
        substeps: Euler steps per η.

    Raises:
        InputError: shapes, sizes or rates do not fit, a drift that the optimizer does not have, or second moments
            that start at 0 without bias correction.
        NonFiniteError: the simulation diverges.
    """
    if drift not in ("first", "modified"):
        raise InputError(f"drift is 'first' or 'modified', not {drift!r}")
    if drift == "modified" and not isinstance(optimizer, SGD):
        raise InputError(
            f"the modified drift is that of SGD, and there is none for {optimizer.name}: use drift='first'"
        )
    if substeps < 1:
        raise InputError(f"substeps={substeps}: there is at least one Euler step per η")
    if isinstance(optimizer, RMSprop | Adam) and optimizer.v0 == 0 and not getattr(optimizer, "bias_correction", False):
        raise InputError(
            f"v0=0: V starts at 0, where the preconditioner of {optimizer.name} is 1/eps and its equation is stiff "
            "beyond use: give v0, for instance the mean square of a batch gradient at theta0"
        )
    starts = _starts(problem, theta0, optimizer, eta, steps, runs)
    scale = noise_scale(problem.samples, batch_size, replacement=replacement)

    def walk(theta: Tensor, first: int) -> Iterator[Tensor]:
        generator = torch.Generator(theta.device).manual_seed(_key(seed, first // _BLOCK))
        normal = _Normal(problem.samples, math.sqrt(scale) if noise else 0.0, generator)
        step = _sde_step(problem, optimizer, eta, eta / substeps, scale, drift, normal, theta)
        for k in range(steps * substeps):
            theta = step(theta, k)
            if (k + 1) % substeps == 0:
                yield theta

    return _observed(walk, starts, eta, steps, observe, at, keep)


# ------------------------------------------------------------------------------- one step


def _discrete_step(
    problem: Problem, optimizer: Optimizer, eta: float, theta: Tensor
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """(θ, g, k) → θ after step k, with buffers of its own."""
    m, v = torch.zeros_like(theta), torch.full_like(theta, getattr(optimizer, "v0", 0.0))

    def step(theta: Tensor, g: Tensor, k: int) -> Tensor:
        if isinstance(optimizer, SGD):
            return theta - eta * g
        if isinstance(optimizer, SGDM):
            m.lerp_(g, optimizer.mu * eta)
            return theta - eta * m
        if isinstance(optimizer, RMSprop):
            v.lerp_(g.square(), optimizer.rho * eta)
            return theta - eta * g / (v.sqrt() + optimizer.eps)
        m.lerp_(g, optimizer.rho1 * eta)
        v.lerp_(g.square(), optimizer.rho2 * eta)
        first = second = 1.0
        if optimizer.bias_correction:
            first = 1 - (1 - optimizer.rho1 * eta) ** (k + 1)
            second = 1 - (1 - optimizer.rho2 * eta) ** (k + 1)
        return theta - eta / first * m / ((v / second).sqrt() + optimizer.eps)

    return step


class _Normal:
    """Weights whose sum over per-sample gradients is distributed as Σ^{1/2}ξ."""

    def __init__(self, samples: int, scale: float, generator: torch.Generator):
        self.samples, self.scale, self.generator = samples, scale, generator

    def __call__(self, theta: Tensor) -> Tensor | float:
        if self.scale == 0:
            return 0.0
        shape = (len(theta), self.samples)
        z = torch.randn(shape, generator=self.generator, dtype=theta.dtype, device=theta.device)
        return self.scale * (z - z.mean(1, keepdim=True))  # centring z centres the gradients


def _sde_step(
    problem: Problem,
    optimizer: Optimizer,
    eta: float,
    dt: float,
    scale: float,
    drift: Drift,
    normal: _Normal,
    theta: Tensor,
) -> Callable[[Tensor, int], Tensor]:
    """(θ, k) → θ after Euler step k, with processes M and V of its own."""
    m, v = torch.zeros_like(theta), torch.full_like(theta, getattr(optimizer, "v0", 0.0))
    diffusion = math.sqrt(eta * dt)

    def forced(theta: Tensor) -> Tensor:
        """∇L dt + √η Σ^{1/2} dW."""
        weights = dt / problem.samples + diffusion * normal(theta)
        if not isinstance(weights, Tensor):
            return dt * problem.gradient(theta)
        return problem.gradient(theta, weights=weights)

    def step(theta: Tensor, k: int) -> Tensor:
        if isinstance(optimizer, SGD):
            moved = theta - forced(theta)
            if drift == "modified":
                moved -= 0.5 * eta * dt * problem.hessian_product(theta, problem.gradient(theta))
            return moved
        if isinstance(optimizer, SGDM):
            force = forced(theta)
            moved = theta - dt * m
            m.mul_(1 - optimizer.mu * dt).add_(force, alpha=optimizer.mu)
            return moved
        force = forced(theta)
        mean, scatter = problem.gradient_scatter(theta)
        second = mean.square_().add_(scatter, alpha=scale)  # E g² of a batch
        if isinstance(optimizer, RMSprop):
            moved = theta - force / (v.sqrt() + optimizer.eps)
            v.lerp_(second, optimizer.rho * dt)
            return moved
        m.mul_(1 - optimizer.rho1 * dt).add_(force, alpha=optimizer.rho1)
        v.lerp_(second, optimizer.rho2 * dt)
        # at the end of the step: at t = 0 the correction of a process that starts at zero is 0/0
        iota1 = iota2 = 1.0
        if optimizer.bias_correction:
            # of the Euler scheme itself, which makes its averages weights that sum to one
            iota1 = 1 - (1 - optimizer.rho1 * dt) ** (k + 1)
            iota2 = 1 - (1 - optimizer.rho2 * dt) ** (k + 1)
        return theta - dt / iota1 * m / ((v / iota2).sqrt() + optimizer.eps)

    return step


# ------------------------------------------------------------------------------- observables


def _observed(
    walk: Callable[[Tensor, int], Iterator[Tensor]],
    starts: Tensor,
    eta: float,
    steps: int,
    observe: Observable | None,
    at: Sequence[int] | None,
    keep: bool,
) -> Simulation:
    looked = sorted(set(range(steps + 1) if at is None else at))
    if not looked or looked[0] < 0 or looked[-1] > steps:
        raise InputError(f"at={list(at or [])}: name steps between 0 and steps={steps}")
    places = {k: row for row, k in enumerate(looked)}
    sums, kept, final = _PowerSums(), [], []
    with torch.no_grad():
        for first in range(0, len(starts), _BLOCK):
            theta = starts[first : first + _BLOCK].clone()
            values: list[Tensor] = []
            stages = walk(theta, first)
            for k in range(steps + 1):
                theta = theta if k == 0 else next(stages)
                if k in places:
                    values.append(_seen(observe, theta, k))
            block = torch.stack(values)  # [K, r, *o]
            sums.add(block)
            final.append(theta)
            if keep:
                kept.append(block)
    mean, variance, mean_stderr, variance_stderr = (part.cpu().numpy() for part in sums.moments())
    return Simulation(
        times=eta * np.array(looked, dtype=np.float64),
        mean=mean,
        variance=variance,
        mean_stderr=mean_stderr,
        variance_stderr=variance_stderr,
        runs=len(starts),
        final=torch.cat(final),
        values=torch.cat(kept, 1).cpu().numpy() if keep else None,
    )


def _seen(observe: Observable | None, theta: Tensor, k: int) -> Tensor:
    seen = theta.clone() if observe is None else observe(theta).double()
    if seen.dim() == 0 or len(seen) != len(theta):
        raise InputError(
            f"observe returned shape {tuple(seen.shape)} for {len(theta)} runs: its first axis has to be the runs"
        )
    if not torch.isfinite(seen).all():
        raise NonFiniteError(f"the simulation diverged: NaN or infinity at step {k}; take a smaller eta")
    return seen


class _PowerSums:
    """Mean and variance over blocks of runs, with their standard errors."""

    def __init__(self) -> None:
        self.count = 0
        self.origin: Tensor | None = None
        self.sums: list[Tensor] = []

    def add(self, block: Tensor) -> None:
        """Another block ``[K, r, *o]``."""
        if self.origin is None:
            self.origin = block.mean(1)  # powers about a value near the mean do not cancel
            self.sums = [torch.zeros_like(self.origin) for _ in range(4)]
        away = block - self.origin[:, None]
        power = torch.ones_like(away)
        for total in self.sums:
            power *= away
            total += power.sum(1)
        self.count += block.shape[1]

    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, variance, and the standard errors of both, each ``[K, *o]``."""
        assert self.origin is not None
        n = self.count
        m1, m2, m3, m4 = (total / n for total in self.sums)
        second = (m2 - m1**2).clamp_min(0)
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        variance = second * (n / (n - 1) if n > 1 else math.nan)
        spread = ((fourth - second**2 * (n - 3) / max(n - 1, 1)) / n).clamp_min(0).sqrt()
        return self.origin + m1, variance, (variance / n).sqrt(), spread


def _starts(problem: Problem, theta0: Tensor, optimizer: Optimizer, eta: float, steps: int, runs: int) -> Tensor:
    """θ_0 of every run ``[R, P]``, after everything has been checked."""
    if runs < 1:
        raise InputError("there has to be at least one run")
    if steps < 1:
        raise InputError(f"steps={steps}: there has to be at least one step")
    if not eta > 0:
        raise InputError(f"eta={eta}: a learning rate is positive")
    for rate in optimizer.rates():
        if not 0 < rate * eta <= 1:
            raise InputError(
                f"a rate of {rate:g} at eta={eta:g} makes β = 1 − rate · eta = {1 - rate * eta:g}: choose rates "
                f"between 0 and 1/eta = {1 / eta:g}"
            )
    if isinstance(optimizer, Adam) and optimizer.bias_correction and optimizer.v0 != 0:
        raise InputError(f"v0={optimizer.v0:g}: bias correction is for second moments that start at 0")
    theta0 = theta0.detach().double()
    if theta0.shape not in ((problem.parameters,), (runs, problem.parameters)):
        raise InputError(
            f"theta0 has shape {tuple(theta0.shape)}: the problem has {problem.parameters} parameters, so it takes "
            f"[{problem.parameters}] or, one row per run, [{runs}, {problem.parameters}]"
        )
    return theta0.expand(runs, problem.parameters)


def _key(seed: int, block: int) -> int:
    return int(
        np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, block]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
