"""Every scheduler family of diffusers, read as the noise schedule its models were trained with.

A scheduler is a *sampler*: how many steps it takes, how it spaces them (``timestep_spacing``,
Karras or exponential sigmas, timestep shifts) and in which scaling it keeps its state is
irrelevant here. What counts is which marginals x_t the network saw, and which time it was told.
Euler, LMS, Heun and KDPM2 keep x_t/α_t and divide by √(1 + σ²) before calling the network, which
is the variance-preserving x_t again, so they are read as such.

Only configuration and tables are read; the scheduler is never stepped or changed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import InputError

_PREDICTION_NAMES = {"flow_prediction": "flow", "trigflow": "v_prediction"}
_HINT = "pass schedule=NoiseSchedule.vp(...), .flow(...), .edm(...) or .from_functions(...) instead"

# families without Gaussian marginals of one sample, or whose network is not a denoiser
_REFUSED = {
    "VQDiffusionScheduler": "diffuses discrete tokens, which have no log-SNR",
    "AmusedScheduler": "masks discrete tokens, which have no log-SNR",
    "BlockRefinementScheduler": "refines discrete tokens, which have no log-SNR",
    "EntropyBoundScheduler": "unmasks discrete tokens, which have no log-SNR",
    "DiscreteDDIMScheduler": "diffuses discrete tokens, which have no log-SNR",
    "ConsistencyDecoderScheduler": "decodes latents conditionally in one or two steps",
    "PiflowScheduler": "follows a network-free policy between network calls, so x_t alone is not the network's input",
    "HeliosScheduler": "changes resolution between its stages",
    "HeliosDMDScheduler": "changes resolution between its stages",
    "RFD4ProteinaScheduler": "runs one schedule per modality",
}
_FLOW = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "FlowMapEulerDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
)


def read_scheduler(scheduler: Any, prediction_type: str | None = None) -> NoiseSchedule:
    """The :class:`NoiseSchedule` behind a diffusers scheduler (or one that looks like it).

    Raises:
        InputError: the family is unknown, or has no Gaussian marginals.
    """
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    name = names[0]
    config = {} if isinstance(scheduler, type) else dict(getattr(scheduler, "config", None) or {})
    for refused, reason in _REFUSED.items():
        if refused in names:
            raise InputError(f"{name} {reason}, so its models have no noise-level kernel here")
    if isinstance(scheduler, type) or not (config or hasattr(scheduler, "alphas_cumprod")):
        raise InputError(f"scheduler has to be a diffusers scheduler, not {_kind(scheduler)}; {_HINT}")
    stated = config.get("prediction_type")
    kind = prediction_type or _PREDICTION_NAMES.get(str(stated), stated)

    if any(n in names for n in _FLOW) or config.get("use_flow_sigmas"):
        return _flow(name, config, kind)
    if "EDMEulerScheduler" in names or "EDMDPMSolverMultistepScheduler" in names:
        # diffusers says "epsilon" where F's target has EDM's sign, and "v_prediction" for the opposite one
        raw = "edm" if kind is None or kind == "epsilon" else kind
        return NoiseSchedule.edm(config["sigma_min"], config["sigma_max"], config["sigma_data"], raw, name=name)
    if "CosineDPMSolverMultistepScheduler" in names:
        return _cosine_edm(name, config, "edm" if kind == "epsilon" else kind or "v_prediction")
    if "CMStochasticIterativeScheduler" in names:
        note = (
            "a consistency network is trained to agree with itself along a trajectory: the loss here is that of the "
            "EDM network with the same preconditioning, as a reference"
        )
        return NoiseSchedule.edm(
            config["sigma_min"], config["sigma_max"], config["sigma_data"], prediction_type or "edm",
            time_factor=250.0, name=name, notes=(note,),
        )  # fmt: skip
    if "SCMScheduler" in names:
        return _trigflow(name, config, kind or "v_prediction")
    if "ScoreSdeVeScheduler" in names:
        return _variance_exploding(name, config["sigma_min"], config["sigma_max"], prediction_type or "score")
    if "KarrasVeScheduler" in names:
        # its pipeline calls the network on (x + 1)/2 with σ/2: x_t for data in [0, 1] at half the noise
        return _variance_exploding(name, config["sigma_min"] / 2, config["sigma_max"] / 2, prediction_type or "score")
    if "ScoreSdeVpScheduler" in names:
        return _vp_sde(name, config, prediction_type or "epsilon")
    if "IPNDMScheduler" in names and config.get("trained_betas") is None:
        return _quarter_circle(name, prediction_type or "epsilon")
    if "DDPMWuerstchenScheduler" in names:
        return _wuerstchen(name, config, prediction_type or "epsilon")
    if "MiniMaxH3Scheduler" in names:
        return _minimax(name, prediction_type or "data_flow")
    table = getattr(scheduler, "alphas_cumprod", None)
    if isinstance(table, Tensor) and table.dim() == 1:
        return _table(scheduler, name, config, kind or "epsilon")
    raise InputError(f"{name} is a scheduler whose noise schedule is not known here; {_HINT}")


# ---------------------------------------------------------------------------- families


def _table(scheduler: Any, name: str, config: dict[str, Any], kind: str) -> NoiseSchedule:
    """ᾱ families: DDPM, DDIM, PNDM, DPM-Solver, UniPC, DEIS, Euler, LMS, Heun, KDPM2, LCM, TCD, …"""
    stated = scheduler.alphas_cumprod.detach().to("cpu", torch.float64)
    bar = _alphas_cumprod(scheduler, config)
    notes: tuple[str, ...] = ()
    if bar is None or bar.shape != stated.shape or not torch.allclose(bar, stated, rtol=0, atol=2e-5):
        # a table somebody put there by hand: it is what add_noise uses, so it is what training saw
        bar, notes = stated.clamp(0, 1), ("the scheduler's own ᾱ table is used as it is (float32)",)
    schedule = NoiseSchedule.from_alphas_cumprod(bar, kind, name=name, notes=notes)
    snr = schedule.log_snr(torch.arange(len(bar)))
    if bool((snr[1:] > snr[:-1]).any()):
        note = "the log-SNR of this schedule is not monotone in the timestep"
        schedule = NoiseSchedule.from_alphas_cumprod(bar, kind, name=name, notes=(*notes, note))
    if config.get("timestep_type") == "continuous" and kind == "v_prediction":
        return _continuous_euler(name, config, bar, kind)
    return schedule


def _alphas_cumprod(scheduler: Any, config: dict[str, Any]) -> Tensor | None:
    """ᾱ recomputed in float64: 1 − ᾱ of the float32 table has three digits at the first timesteps."""
    betas = getattr(scheduler, "betas", None)
    if not isinstance(betas, Tensor) or betas.dim() != 1:
        return None
    bar = torch.cumprod(1 - betas.detach().to("cpu", torch.float64), 0)
    if (shift := config.get("snr_shift_scale")) is not None:  # CogVideoX: the SNR divided by `shift`
        bar = bar / (shift + (1 - shift) * bar)
        if config.get("rescale_betas_zero_snr"):  # Lin et al. 2024, algorithm 1
            root = bar.sqrt()
            bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    elif config.get("rescale_betas_zero_snr"):
        bar[-1] = 0.0  # some schedulers write 2⁻²⁴ here to keep their σ finite
    return bar.clamp(0, 1)


def _continuous_euler(name: str, config: dict[str, Any], bar: Tensor, kind: str) -> NoiseSchedule:
    """EulerDiscrete with continuous time (Stable Video Diffusion): network time ¼ log σ, σ = √((1−ᾱ)/ᾱ)."""
    sigmas = torch.sqrt((1 - bar) / bar)
    low = config.get("sigma_min") or float(sigmas[0])
    high = config.get("sigma_max") or float(sigmas[torch.isfinite(sigmas)][-1])
    ends = (0.25 * math.log(low), 0.25 * math.log(high))

    def powers(t: Tensor) -> tuple[Tensor, Tensor]:  # α² = 1/(1 + σ²), σ'² = σ²/(1 + σ²)
        return -torch.nn.functional.softplus(8 * t), -torch.nn.functional.softplus(-8 * t)

    return NoiseSchedule(name, kind, ends, False, ends[1] - ends[0], powers)


def _flow(name: str, config: dict[str, Any], kind: str | None) -> NoiseSchedule:
    if config.get("invert_sigmas"):
        raise InputError(f"{name} with invert_sigmas=True counts time backwards, which is not read here; {_HINT}")
    shift = config.get("shift", config.get("flow_shift", 1.0)) or 1.0
    notes: tuple[str, ...] = ()
    if shift != 1:
        notes = (f"sampling shifts its times by {shift:g}; if training did too, it drew noisy times more often",)
    return NoiseSchedule.flow(float(config.get("num_train_timesteps", 1000)), kind or "flow", name=name, notes=notes)


def _cosine_edm(name: str, config: dict[str, Any], kind: str) -> NoiseSchedule:
    """EDM scalings with network time 2/π · arctan σ (Stable Audio)."""
    data = float(config["sigma_data"])
    low, high = (2 / math.pi * math.atan(config[key]) for key in ("sigma_min", "sigma_max"))

    def powers(t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), 2 * torch.log(torch.tan(t * math.pi / 2))

    def scale_input(t: Tensor) -> Tensor:
        return 1 / torch.sqrt(torch.tan(t * math.pi / 2) ** 2 + data**2)

    return NoiseSchedule(name, kind, (low, high), False, high - low, powers, sigma_data=data, scale_input=scale_input)


def _trigflow(name: str, config: dict[str, Any], kind: str) -> NoiseSchedule:
    """TrigFlow (Lu & Song 2024): x_t = cos t · x₀ + sin t · z, both of standard deviation σ_data, t in [0, π/2]."""
    data = float(config.get("sigma_data", 0.5))

    def powers(t: Tensor) -> tuple[Tensor, Tensor]:
        cosine = torch.where(t >= math.pi / 2, 0.0, torch.cos(t))  # cos(π/2) is not 0 in floating point
        return 2 * torch.log(cosine), 2 * torch.log(data * torch.sin(t))

    def scale_input(t: Tensor) -> Tensor:
        return torch.full_like(t, 1 / data)

    note = "a consistency network distilled for TrigFlow: the loss here is that of the diffusion model it came from"
    return NoiseSchedule(
        name, kind, (0.0, math.pi / 2), False, math.pi / 2, powers,
        sigma_data=data, scale_input=scale_input, notes=(note,),
    )  # fmt: skip


def _variance_exploding(name: str, sigma_min: float, sigma_max: float, kind: str) -> NoiseSchedule:
    base = NoiseSchedule.ve(sigma_min, sigma_max, kind)
    return replace(base, name=name, data_range=(0.0, 1.0))  # the score-SDE models are trained on [0, 1]


def _vp_sde(name: str, config: dict[str, Any], kind: str) -> NoiseSchedule:
    steps = float(config.get("num_train_timesteps", 2000)) - 1
    base = NoiseSchedule.vp_sde(config["beta_min"], config["beta_max"], kind, config.get("sampling_eps", 1e-3))
    note = f"the network is given {steps:g} t"
    return replace(base, name=name, to_network=lambda t: steps * t, notes=(note,))


def _quarter_circle(name: str, kind: str) -> NoiseSchedule:
    """IPNDM (Dance Diffusion): α = cos(πt/2), σ = sin(πt/2), t in [0, 1]."""

    def powers(t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t * math.pi / 2
        cosine = torch.where(t >= 1, 0.0, torch.cos(angle))  # cos(π/2) is not 0 in floating point
        return 2 * torch.log(cosine), 2 * torch.log(torch.sin(angle))

    return NoiseSchedule(name, kind, (0.0, 1.0), False, 1.0, powers)


def _wuerstchen(name: str, config: dict[str, Any], kind: str) -> NoiseSchedule:
    """ᾱ = cos²((t + s)/(1 + s) · π/2)/cos²(s/(1 + s) · π/2), clamped to [1e-4, 1 − 1e-4], t in [0, 1]."""
    scaler, offset = float(config.get("scaler", 1.0)), float(config.get("s", 0.008))
    first = math.cos(offset / (1 + offset) * math.pi / 2) ** 2

    def powers(t: Tensor) -> tuple[Tensor, Tensor]:
        if scaler > 1:
            t = 1 - (1 - t) ** scaler
        elif scaler < 1:
            t = t**scaler
        bar = (torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2 / first).clamp(1e-4, 1 - 1e-4)
        return torch.log(bar), torch.log1p(-bar)

    return NoiseSchedule(name, kind, (0.0, 1.0), False, 1.0, powers)


def _minimax(name: str, kind: str) -> NoiseSchedule:
    """Rectified flow that counts time towards the data: σ = 1 − t, t in [0, 1]."""

    def powers(t: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * torch.log(t), 2 * torch.log1p(-t)

    return NoiseSchedule(name, kind, (0.0, 1.0), False, 1.0, powers, notes=("time 1 is the clean sample",))


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
