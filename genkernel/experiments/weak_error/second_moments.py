"""The variance that adaptive equations lack: V as in the theorems, and V with the noise of its own.

At rates ρ held fixed, v fluctuates by O(√η), as θ does, and these fluctuations are correlated with the gradient noise.
The equation of the theorems has dV = ρ (∇L² + diag Σ − V) dt without noise. Here ρ √η d(g_B² − E g_B²) is added, and
both are compared with the iteration.

With bias correction V/ι₂ begins as 0/0: in the first steps a Gaussian V is negative as often as not, and what comes out
depends on where it is held. There both equations can be handed the iteration's own states after a while.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.paths.stochastic.gradient_noise import noise_scale
from genkernel.paths.stochastic.iid_batches import batch_indices
from genkernel.paths.stochastic.moments import Readout
from genkernel.paths.stochastic.problems import Problem
from genkernel.paths.stochastic.sde import Adam, RMSprop, simulate_discrete

FLOOR = 1e-6  # where V/ι₂ is held: a Gaussian V may leave its range, the average of squares cannot
SUBSTEPS = 8


@dataclass(frozen=True)
class VarianceError:
    """Relative errors of Var g at one learning rate: max_k |Var g(θ_k) − Var g(Θ_kη)| over the largest variance.

    Attributes:
        without, with_noise: of dV as in the theorems, and with noise of its own.
        stderr: of either, from the number of runs.
        held: share of entries of V that were held at the floor, with noise.
    """

    without: float
    with_noise: float
    stderr: float
    held: float


def variance_error(
    problem: Problem,
    theta0: Tensor,
    optimizer: RMSprop | Adam,
    readout: Readout,
    *,
    eta: float,
    horizon: float,
    batch_size: int,
    runs: int,
    seed: int = 0,
    begin: float = 0.0,
    floor: float = FLOOR,
) -> VarianceError:
    """Compare both equations with the iteration.

    Noise increments are drawn as gradients of random batches: they have the joint covariance of (g, g²).

    Args:
        problem, theta0, optimizer, batch_size: as for :func:`genkernel.paths.stochastic.sde.simulate_discrete`.
        readout: g.
        eta, horizon: learning rate, which divides the horizon T.
        runs: R, of the iteration and of either equation.
        seed: of the batches; the iteration and the equations draw other ones.
        begin: time at which the equations take over from an iteration of their own.
        floor: the least V/ι₂.

    Raises:
        InputError: times do not fit, or the simulation refuses.
        NonFiniteError: the iteration diverges.
    """
    steps, handed = round(horizon / eta), round(begin / eta)
    if not 0 <= handed < steps:
        raise InputError(f"begin={begin:g} lies in [0, {horizon:g})")
    seeds = np.arange(runs) + (seed << 40)
    truth = simulate_discrete(
        problem, theta0, optimizer, seeds=seeds, observe=readout, eta=eta, steps=steps, batch_size=batch_size
    )
    scale, dt = noise_scale(problem.samples, batch_size), eta / SUBSTEPS
    diffusion = math.sqrt(eta * dt)

    def drawn(theta: Tensor, stream: int, k: int) -> Tensor:
        own = seeds + (stream << 36)
        index = batch_indices(own, k, population=problem.samples, batch_size=batch_size)
        return problem.gradient(theta, index=torch.from_numpy(index))

    def spread(noisy: bool) -> tuple[np.ndarray, float]:
        """Var g ``[steps − handed + 1]``, and the share that was held."""
        state = _State(optimizer, theta0.expand(runs, -1), floor)
        for k in range(handed):
            g = drawn(state.theta, 1, k)
            state.move(eta, eta * g, eta * (g.square() - state.v), (k + 1) * eta, iterated=True)
        found, held = [float(readout(state.theta).var())], 0.0
        for k in range(handed * SUBSTEPS, steps * SUBSTEPS):
            mean, scatter = problem.gradient_scatter(state.theta)
            second = mean.square() + scale * scatter  # E g² of a batch
            g = drawn(state.theta, 2, k)
            square = dt * (second - state.v)
            if noisy:
                square = square + diffusion * (g.square() - second)
            held += state.move(dt, dt * mean + diffusion * (g - mean), square, (k + 1) * dt)
            if (k + 1) % SUBSTEPS == 0:
                found.append(float(readout(state.theta).var()))
        return np.array(found), held / ((steps - handed) * SUBSTEPS)

    most, at = float(truth.variance.max()), int(truth.variance.argmax())
    (plain, _), (noisy, held) = spread(False), spread(True)
    without, with_noise = (float(np.abs(one - truth.variance[handed:]).max() / most) for one in (plain, noisy))
    return VarianceError(without, with_noise, float(math.sqrt(2) * truth.variance_stderr[at] / most), held)


class _State:
    """θ, m and v of R runs, each ``[R, P]``."""

    def __init__(self, optimizer: RMSprop | Adam, theta: Tensor, floor: float):
        self.optimizer, self.theta, self.floor = optimizer, theta, floor
        self.m, self.v = torch.zeros_like(theta), torch.full_like(theta, optimizer.v0)

    def move(self, dt: float, force: Tensor, square: Tensor, t: float, *, iterated: bool = False) -> float:
        """One step to time t.

        Args:
            dt: its length.
            force: ∇L dt with its noise ``[R, P]``.
            square: (E g² − V) dt with its noise ``[R, P]``.
            iterated: as the iteration takes it, with the v of its end; Euler's scheme takes that of its beginning.

        Returns:
            The share of entries of V that had to be held.
        """
        o, before = self.optimizer, self.v
        if isinstance(o, RMSprop):
            held = self._square(o.rho * square, 1.0)
            self.theta = self.theta - force / ((self.v if iterated else before).sqrt() + o.eps)
            return held
        iota1 = iota2 = 1.0
        if o.bias_correction:
            iota1, iota2 = (
                1 - (1 - rate * dt) ** (t / dt) if iterated else -math.expm1(-rate * t) for rate in (o.rho1, o.rho2)
            )
        self.m = self.m + o.rho1 * (force - dt * self.m)
        held = self._square(o.rho2 * square, iota2)
        self.theta = self.theta - dt / iota1 * self.m / ((self.v / iota2).sqrt() + o.eps)
        return held

    def _square(self, change: Tensor, iota: float) -> float:
        v = self.v + change
        self.v = v.clamp_min(self.floor * iota)
        return float((self.v > v).double().mean())
