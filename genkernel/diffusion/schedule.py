"""Noise schedules: x_t = α(t) x₀ + σ(t) ε, and what the network is asked for at time t.

    log-SNR(t) = log(α(t)² / σ(t)²)

is the common axis of every schedule here, in float64, from our own formulas. A schedule is two
functions log α²(t) and log σ²(t); everything else follows from them, so that a zero terminal
SNR is simply log α² = −∞.

``t`` is the time that training draws. It is also what the network is given, except where a
model's convention differs (score networks take σ itself, Flux takes t/1000):
``network_time(t)``. Networks that see scaled inputs (EDM's c_in) have ``input_scale(t)``.

Sources: Ho et al. 2020 (DDPM), Song et al. 2021 (score SDE), Karras et al. 2022 (EDM),
Salimans & Ho 2022 (v), Lipman et al. 2023 and Liu et al. 2023 (flow matching), Lin et al. 2024
(zero terminal SNR).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError

Function = Callable[[Tensor], Tensor]
Powers = Callable[[Tensor], tuple[Tensor, Tensor]]

#: what the raw output of the network estimates, given x₀ and ε
PREDICTION_TYPES = {
    "epsilon": "the noise ε",
    "sample": "the clean sample x₀",
    "v_prediction": "v = α ε − σ x₀ (for unit data variance and α² + σ² = 1)",
    "flow": "the velocity ε − x₀",
    "data_flow": "the velocity towards the data, x₀ − ε",
    "score": "the score −ε / σ",
    "edm": "EDM's raw network F, with denoised = c_skip x + c_out F (minus v, for scaled inputs)",
}


@dataclass(frozen=True)
class NoiseSchedule:
    """Marginals, time convention and prediction type of a diffusion model.

    Attributes:
        name: where it comes from, for reports.
        prediction_type: one of ``PREDICTION_TYPES``.
        time_range: first and last training time.
        discrete: times are integers.
        span: number of training timesteps (discrete) or length of ``time_range``.
        sigma_data: the standard deviation of the data that EDM's scalings assume.
        data_range: the range of pixel values the schedule's models are trained on, if it says.
        notes: what a reader of the results should know.
    """

    name: str
    prediction_type: str
    time_range: tuple[float, float]
    discrete: bool
    span: float
    powers: Powers = field(repr=False)  # t -> (log α², log σ²)
    sigma_data: float = 1.0
    scale_input: Function | None = field(default=None, repr=False)
    to_network: Function | None = field(default=None, repr=False)
    data_range: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise InputError(f"prediction_type is {_either(PREDICTION_TYPES)}, not {self.prediction_type!r}")
        low, high = self.time_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"time_range has to be an increasing pair of finite times, not {self.time_range}")

    # ----------------------------------------------------------------------- marginals

    def alpha(self, t: Any) -> Tensor:
        """Signal amplitude α(t), float64, shaped like ``t``."""
        return torch.exp(0.5 * self.powers(_times(t))[0])

    def sigma(self, t: Any) -> Tensor:
        """Noise amplitude σ(t), float64, shaped like ``t``."""
        return torch.exp(0.5 * self.powers(_times(t))[1])

    def log_snr(self, t: Any) -> Tensor:
        """log(α²/σ²), float64, shaped like ``t``; ±∞ where there is no noise or no signal."""
        signal, noise = self.powers(_times(t))
        return signal - noise

    def input_scale(self, t: Any) -> Tensor:
        """c_in(t): the network sees ``input_scale(t) · x_t``."""
        t = _times(t)
        return torch.ones_like(t) if self.scale_input is None else self.scale_input(t)

    def network_time(self, t: Any) -> Tensor:
        """The time the network is given at training time ``t``; integers when discrete."""
        t = _times(t)
        mapped = t if self.to_network is None else self.to_network(t)
        return mapped.round().long() if self.discrete and self.to_network is None else mapped

    # ------------------------------------------------------------------ prediction types

    def target_coefficients(self, t: Any) -> tuple[Tensor, Tensor]:
        """``(a, b)`` with raw target = a x₀ + b ε at time ``t``, float64 (THEORY §6).

        For ``v_prediction`` x₀ and x_t are taken in units of ``sigma_data`` and rescaled to unit
        variance, which is Salimans & Ho's definition for variance-preserving schedules and minus
        EDM's raw network otherwise.
        """
        t = _times(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        match self.prediction_type:
            case "epsilon":
                return zero, one
            case "sample":
                return one, zero
            case "flow":
                return -one, one
            case "data_flow":
                return one, -one
            case "score":
                return zero, -1 / sigma
        # v: the derivative of the unit-variance point (α', σ') on the circle
        radius = torch.sqrt((self.sigma_data * alpha) ** 2 + sigma**2)
        a, b = -sigma / (radius * self.sigma_data), self.sigma_data * alpha / radius
        return (a, b) if self.prediction_type == "v_prediction" else (-a, -b)

    def error_ratio(self, t: Any) -> Tensor:
        """r_raw / r_ε: the error of the raw output per unit error of the implied ε, at given x_t.

        Its square turns an ε-loss weight into a weight of the raw loss: 1/α for v and flow,
        −σ/α for x₀ (THEORY §6). Infinite where x_t holds no signal.
        """
        a, b = self.target_coefficients(t)
        return torch.where(a == 0, b, b - a * self.sigma(t) / self.alpha(t))

    # --------------------------------------------------------------------------- times

    def check(self, t: Any) -> Tensor:
        """``t`` as float64.

        Raises:
            InputError: outside ``time_range``, not finite, or not an integer when discrete.
        """
        t = _times(t)
        low, high = self.time_range
        slack = 0.0 if self.discrete else 1e-6 * (high - low)
        bad = ~((t >= low - slack) & (t <= high + slack))
        if bad.any():
            value = float(t[bad].flatten()[0]) if t.dim() else float(t)
            raise InputError(f"timestep {value:g} is out of range: {self.name} has times {low:g} to {high:g}")
        if self.discrete and not torch.equal(t, t.round()):
            broken = float(t[t != t.round()][0]) if t.dim() else float(t)
            raise InputError(f"timestep {broken:g} is not an integer: {self.name} has timesteps {low:g} to {high:g}")
        return t

    def levels(self, n: int, log_snr_range: tuple[float, float] | None = None) -> Tensor:
        """``n`` times spread evenly over ``time_range``, strictly increasing.

        Times without noise or without signal (log-SNR = ±∞) are left out: a discrete schedule
        drops those steps, a continuous one stays a thousandth of its range away from them.

        Args:
            n: how many.
            log_snr_range: keep to times whose log-SNR lies within (low, high).

        Returns:
            Tensor: ``[n]``, int64 when discrete, else float64.

        Raises:
            InputError: the range holds fewer than ``n`` times.
        """
        if n < 1:
            raise InputError(f"at least one noise level is needed, not {n}")
        if log_snr_range is not None and not log_snr_range[0] < log_snr_range[1]:
            raise InputError(f"log_snr_range has to be an increasing pair, not {log_snr_range}")
        times = self._grid()
        snr = self.log_snr(times)
        keep = torch.isfinite(snr)
        if log_snr_range is not None:
            keep &= (snr >= log_snr_range[0]) & (snr <= log_snr_range[1])
        times = times[keep]
        wanted = "" if log_snr_range is None else f" with log-SNR in {log_snr_range[0]:g} to {log_snr_range[1]:g}"
        if len(times) < (n if self.discrete else min(n, 2)):
            raise InputError(f"{self.name} has {len(times)} timesteps{wanted}, which is fewer than the {n} asked for")
        if n == 1:
            middle = times[len(times) // 2][None]
            return middle.long() if self.discrete else middle
        if not self.discrete:
            return torch.linspace(float(times[0]), float(times[-1]), n, dtype=torch.float64)
        index = torch.floor(torch.linspace(0, len(times) - 1, n, dtype=torch.float64) + 0.5).long()
        return times[index].long()

    def log_snr_range(self) -> tuple[float, float]:
        """Lowest and highest finite log-SNR."""
        times = self._grid()
        snr = self.log_snr(times)
        snr = snr[torch.isfinite(snr)]
        return float(snr.min()), float(snr.max())

    def _grid(self) -> Tensor:
        """Every time of a discrete schedule, a thousand steps of a continuous one; both ends included."""
        low, high = self.time_range
        if self.discrete:
            return torch.arange(round(low), round(high) + 1, dtype=torch.float64)
        return torch.linspace(low, high, 1001, dtype=torch.float64)

    def describe(self) -> dict[str, Any]:
        """The explicit fields, JSON-ready."""
        low, high = self.log_snr_range()
        return {
            "name": self.name,
            "prediction_type": self.prediction_type,
            "time_range": list(self.time_range),
            "discrete": self.discrete,
            "log_snr_range": [low, high],
            "sigma_data": self.sigma_data,
            "notes": list(self.notes),
        }

    # -------------------------------------------------------------------- constructors

    @classmethod
    def from_scheduler(cls, scheduler: Any, prediction_type: str | None = None) -> NoiseSchedule:
        """The schedule a diffusers scheduler was trained with, whatever its family.

        Args:
            scheduler: the scheduler; it is only read.
            prediction_type: instead of the one in its configuration.

        Raises:
            InputError: not a scheduler, or of a family without Gaussian marginals.
        """
        from genkernel.diffusion.diffusers_schedulers import read_scheduler

        return read_scheduler(scheduler, prediction_type)

    @classmethod
    def from_alphas_cumprod(
        cls,
        alphas_cumprod: Any,
        prediction_type: str = "epsilon",
        *,
        name: str = "table of ᾱ",
        notes: tuple[str, ...] = (),
    ) -> NoiseSchedule:
        """Discrete variance-preserving schedule, α(t)² = ᾱ_t, from its table ``[T]``.

        Raises:
            InputError: the table is not one-dimensional or leaves [0, 1].
        """
        table = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64)
        if table.dim() != 1 or len(table) < 2 or not bool(((table >= 0) & (table <= 1)).all()):
            raise InputError("alphas_cumprod has to be a list of at least two numbers between 0 and 1")
        signal, noise = torch.log(table), torch.log1p(-table)

        def powers(t: Tensor) -> tuple[Tensor, Tensor]:
            index = t.round().long().clamp(0, len(table) - 1)
            return signal[index], noise[index]

        return cls(name, prediction_type, (0, len(table) - 1), True, len(table), powers, notes=notes)

    @classmethod
    def vp(
        cls,
        timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        prediction_type: str = "epsilon",
    ) -> NoiseSchedule:
        """DDPM's discrete schedule with integer times 0 … timesteps − 1.

        Args:
            beta_schedule: ``"linear"`` in β, ``"scaled_linear"`` in √β (latent diffusion), or
                ``"cosine"`` (Nichol & Dhariwal 2021; the betas are then not used).
        """
        if beta_schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        elif beta_schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
        elif beta_schedule == "cosine":
            grid = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
            bar = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        else:
            raise InputError(f"beta_schedule is 'linear', 'scaled_linear' or 'cosine', not {beta_schedule!r}")
        name = f"DDPM, {beta_schedule} schedule, {timesteps} steps"
        return cls.from_alphas_cumprod(torch.cumprod(1 - betas, 0), prediction_type, name=name)

    @classmethod
    def vp_sde(
        cls, beta_min: float = 0.1, beta_max: float = 20.0, prediction_type: str = "epsilon", eps: float = 1e-5
    ) -> NoiseSchedule:
        """Song et al.'s continuous VP-SDE: log α² = −½ t² (β_max − β_min) − t β_min, t in [eps, 1]."""

        def powers(t: Tensor) -> tuple[Tensor, Tensor]:
            signal = -0.5 * t**2 * (beta_max - beta_min) - t * beta_min
            return signal, torch.log(-torch.expm1(signal))

        return cls("VP-SDE", prediction_type, (eps, 1.0), False, 1.0 - eps, powers)

    @classmethod
    def ve(cls, sigma_min: float = 0.01, sigma_max: float = 50.0, prediction_type: str = "score") -> NoiseSchedule:
        """Variance-exploding: α = 1, σ = σ_min (σ_max/σ_min)^t for t in [0, 1]; the network is given σ."""
        if not 0 < sigma_min < sigma_max:
            raise InputError(f"a VE schedule needs 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
        low, ratio = math.log(sigma_min), math.log(sigma_max / sigma_min)

        def powers(t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(t), 2 * (low + ratio * t)

        def to_network(t: Tensor) -> Tensor:
            return torch.exp(low + ratio * t)

        notes = ("the network is given σ; levels are spread evenly in log σ",)
        return cls("VE-SDE", prediction_type, (0.0, 1.0), False, 1.0, powers, to_network=to_network, notes=notes)

    @classmethod
    def edm(
        cls,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        prediction_type: str = "edm",
        *,
        time_factor: float = 0.25,
        name: str = "EDM",
        notes: tuple[str, ...] = (),
    ) -> NoiseSchedule:
        """Karras et al.'s schedule: α = 1, network time c_noise = ¼ log σ, c_in = 1/√(σ² + σ_data²).

        The kernel is that of the raw network F (denoised = c_skip x + c_out F), and the default
        prediction type is F's own target.
        """
        if not 0 < sigma_min < sigma_max:
            raise InputError(f"an EDM schedule needs 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}")
        low, high = time_factor * math.log(sigma_min), time_factor * math.log(sigma_max)

        def powers(t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(t), 2 * t / time_factor

        def scale_input(t: Tensor) -> Tensor:
            return 1 / torch.sqrt(torch.exp(2 * t / time_factor) + sigma_data**2)

        return cls(
            name, prediction_type, (low, high), False, high - low, powers,
            sigma_data=sigma_data, scale_input=scale_input, notes=notes,
        )  # fmt: skip

    @classmethod
    def flow(
        cls, time_max: float = 1000.0, prediction_type: str = "flow", *, name: str = "flow matching",
        notes: tuple[str, ...] = (),
    ) -> NoiseSchedule:  # fmt: skip
        """Rectified flow: α = 1 − t/time_max, σ = t/time_max; diffusers' transformers take t in [0, 1000].

        A timestep shift changes how often training draws a time, not what the time means, so
        it does not appear here.
        """

        def powers(t: Tensor) -> tuple[Tensor, Tensor]:
            u = (t / time_max).clamp(0, 1)
            return 2 * torch.log1p(-u), 2 * torch.log(u)

        return cls(name, prediction_type, (0.0, float(time_max)), False, float(time_max), powers, notes=notes)

    @classmethod
    def from_functions(
        cls,
        alpha: Function,
        sigma: Function,
        time_range: tuple[float, float],
        prediction_type: str = "epsilon",
        *,
        discrete: bool = False,
        name: str = "user-given schedule",
    ) -> NoiseSchedule:
        """Any marginals: α and σ map float64 times to amplitudes ≥ 0."""

        def powers(t: Tensor) -> tuple[Tensor, Tensor]:
            return 2 * torch.log(alpha(t).double()), 2 * torch.log(sigma(t).double())

        low, high = time_range
        return cls(name, prediction_type, time_range, discrete, high - low + discrete, powers)


def _times(t: Any) -> Tensor:
    # on the CPU: some devices have no float64, and these are a few numbers per batch
    return torch.as_tensor(t).detach().to("cpu", torch.float64)


def _either(names: Any) -> str:
    quoted = [repr(name) for name in names]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"
