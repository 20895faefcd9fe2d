"""Noise schedules against the schedulers that trained with them, and against the formulas."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from genkernel.diffusion import NoiseSchedule
from genkernel.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.randn(6, 2, 4, 4, generator=GENERATOR)
NOISE = torch.randn(6, 2, 4, 4, generator=GENERATOR)

# families with a table of ᾱ, in which add_noise is variance preserving or keeps x/α
TABLES = [
    "DDPMScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "UnCLIPScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
]
# kept, and divided by √(1 + σ²) before the network sees it
KEEPS_SIGMA_SPACE = ("Euler", "LMS", "Heun", "KDPM2")


def scheduler(name: str, **config):
    cls = getattr(diffusers, name, None)
    if cls is None:
        pytest.skip(f"this diffusers has no {name}")
    return cls(**config)


def mix(schedule: NoiseSchedule, t: torch.Tensor) -> torch.Tensor:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return (alpha[:, None, None, None] * X0 + sigma[:, None, None, None] * NOISE).float()


@pytest.mark.parametrize("name", TABLES)
def test_marginals_of_table_families_are_what_add_noise_makes(name):
    sampler = scheduler(name)
    schedule = NoiseSchedule.from_scheduler(sampler)
    assert schedule.discrete and schedule.time_range == (0, 999) and schedule.span == 1000
    t = torch.tensor([0, 1, 17, 500, 998, 999])
    if (
        name in ("DDPMScheduler", "PNDMScheduler")
        or hasattr(sampler, "final_alpha_cumprod")
        or "sigmas" not in vars(sampler)
    ):
        made = sampler.add_noise(X0, NOISE, t)
    else:  # samplers that look a time up in their own grid
        sampler.set_timesteps(1000)
        grid = sampler.timesteps.unique()
        grid = grid[grid == grid.round()]
        t = grid[torch.linspace(0, len(grid) - 1, 6).long()]
        made = torch.cat([sampler.add_noise(X0[i : i + 1], NOISE[i : i + 1], t[i : i + 1]) for i in range(6)])
    if name.startswith(KEEPS_SIGMA_SPACE):
        made = made * schedule.alpha(t).float()[:, None, None, None]
    torch.testing.assert_close(mix(schedule, t), made, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"])
def test_the_scaled_input_of_sigma_space_samplers_is_variance_preserving(name):
    sampler = scheduler(name)
    sampler.set_timesteps(1000)
    schedule = NoiseSchedule.from_scheduler(sampler)
    t = torch.tensor([500.0])
    noisy = sampler.add_noise(X0[:1], NOISE[:1], t)
    seen = sampler.scale_model_input(noisy, t[0])
    a, s = schedule.alpha(500), schedule.sigma(500)
    torch.testing.assert_close(seen, (a * X0[:1] + s * NOISE[:1]).float(), rtol=1e-5, atol=1e-5)
    assert float(a**2 + s**2) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_log_snr_falls_strictly_whatever_the_sampler_does(beta_schedule, spacing):
    sampler = scheduler("DDIMScheduler", beta_schedule=beta_schedule, timestep_spacing=spacing)
    sampler.set_timesteps(10)
    snr = NoiseSchedule.from_scheduler(sampler).log_snr(torch.arange(1000))
    assert snr.dtype == torch.float64
    assert bool((snr[1:] < snr[:-1]).all())


def test_the_first_steps_have_float64_log_snr():
    # 1 − ᾱ₀ = 1e-4 exactly, which the float32 table has to three digits only
    schedule = NoiseSchedule.from_scheduler(scheduler("DDPMScheduler"))
    assert float(schedule.log_snr(0)) == pytest.approx(math.log((1 - 1e-4) / 1e-4), rel=1e-7)
    own = NoiseSchedule.vp()
    t = torch.arange(1000)
    torch.testing.assert_close(own.log_snr(t), schedule.log_snr(t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler", "DDPMScheduler"]
)
def test_zero_terminal_snr_is_minus_infinity_and_left_out_of_the_levels(name):
    schedule = NoiseSchedule.from_scheduler(
        scheduler(name, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    )
    assert float(schedule.log_snr(999)) == -math.inf
    assert float(schedule.alpha(999)) == 0 and float(schedule.sigma(999)) == 1
    levels = schedule.levels(24)
    assert levels[0] == 0 and levels[-1] == 998
    assert torch.isfinite(schedule.log_snr(levels)).all()


def test_cogvideox_shifts_the_snr_and_can_end_at_zero():
    plain = NoiseSchedule.from_scheduler(scheduler("CogVideoXDDIMScheduler", snr_shift_scale=1.0))
    shifted = NoiseSchedule.from_scheduler(scheduler("CogVideoXDDIMScheduler", snr_shift_scale=3.0))
    t = torch.arange(1000)
    torch.testing.assert_close(shifted.log_snr(t), plain.log_snr(t) - math.log(3), rtol=1e-9, atol=1e-9)
    ended = scheduler("CogVideoXDDIMScheduler", rescale_betas_zero_snr=True)
    schedule = NoiseSchedule.from_scheduler(ended)
    assert float(schedule.log_snr(999)) == -math.inf
    torch.testing.assert_close(mix(schedule, t[:6]), ended.add_noise(X0, NOISE, t[:6]), rtol=1e-4, atol=1e-4)


def test_a_table_written_by_hand_is_taken_as_it_is():
    sampler = scheduler("DDPMScheduler", num_train_timesteps=50)
    sampler.alphas_cumprod = torch.linspace(0.99, 0.01, 50)
    schedule = NoiseSchedule.from_scheduler(sampler)
    torch.testing.assert_close(
        schedule.alpha(torch.arange(50)) ** 2, sampler.alphas_cumprod.double(), rtol=1e-6, atol=0
    )
    assert "as it is" in schedule.notes[0]


def test_the_scheduler_is_only_read():
    sampler = scheduler("EulerDiscreteScheduler")
    sampler.set_timesteps(7)
    before = (sampler.timesteps.clone(), sampler.sigmas.clone(), sampler.step_index, dict(sampler.config))
    NoiseSchedule.from_scheduler(sampler).levels(5)
    assert torch.equal(before[0], sampler.timesteps) and torch.equal(before[1], sampler.sigmas)
    assert before[2:] == (sampler.step_index, dict(sampler.config))


# ------------------------------------------------------------------ other families


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_time_is_a_thousand_sigma_whatever_the_shift(name, shift):
    sampler = scheduler(name, shift=shift)
    schedule = NoiseSchedule.from_scheduler(sampler)
    assert schedule.prediction_type == "flow" and not schedule.discrete and schedule.time_range == (0.0, 1000.0)
    t = sampler.timesteps[[0, 1, 100, 500, 900, 999]]
    if name == "FlowMatchEulerDiscreteScheduler":  # the other's scale_noise takes no tensor of times
        torch.testing.assert_close(mix(schedule, t), sampler.scale_noise(X0, t, NOISE), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(schedule.sigma(t).float(), sampler.sigmas[[0, 1, 100, 500, 900, 999]])


def test_solvers_with_flow_sigmas_are_flow_matching():
    sampler = scheduler("UniPCMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction")
    schedule = NoiseSchedule.from_scheduler(sampler)
    sampler.set_timesteps(10)
    assert schedule.prediction_type == "flow"
    torch.testing.assert_close(schedule.sigma(sampler.timesteps).float(), sampler.sigmas[:-1], rtol=0, atol=1.1e-3)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_preconditioning(name, kind):
    sampler = scheduler(name, prediction_type=kind)
    sampler.set_timesteps(6)
    schedule = NoiseSchedule.from_scheduler(sampler)
    sigmas, t = sampler.sigmas[:6], sampler.timesteps.double()
    torch.testing.assert_close(schedule.sigma(t).float(), sigmas, rtol=1e-4, atol=1e-6)
    noisy = mix(schedule, t)
    scaled = sampler.precondition_inputs(noisy, sigmas[:, None, None, None])
    torch.testing.assert_close(
        (schedule.input_scale(t)[:, None, None, None] * noisy).float(), scaled, rtol=1e-4, atol=1e-5
    )
    # a raw network that answers exactly the target denoises exactly
    a, b = schedule.target_coefficients(t)
    raw = (a[:, None, None, None] * X0 + b[:, None, None, None] * NOISE).float()
    denoised = sampler.precondition_outputs(noisy, raw, sigmas[:, None, None, None])
    torch.testing.assert_close(denoised, X0, rtol=1e-2, atol=2e-3)  # c_out is 80 at the first level


def test_stable_audio_time_is_an_arc_tangent():
    class CosineDPMSolverMultistepScheduler:  # importing the real one needs torchsde
        config = {"sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}  # noqa: RUF012

    schedule = NoiseSchedule.from_scheduler(CosineDPMSolverMultistepScheduler())
    sigmas = torch.logspace(math.log10(0.3), math.log10(500), 9, dtype=torch.float64)
    t = torch.atan(sigmas) / math.pi * 2  # its precondition_noise
    torch.testing.assert_close(schedule.sigma(t), sigmas)
    torch.testing.assert_close(schedule.input_scale(t), 1 / torch.sqrt(sigmas**2 + 1))
    # its precondition_outputs, for v: denoised = c_skip x + c_out F with c_out = −σ/√(σ² + 1)
    a, b = schedule.target_coefficients(t)
    x = 0.7 + sigmas * -1.1
    denoised = x / (sigmas**2 + 1) - sigmas / torch.sqrt(sigmas**2 + 1) * (a * 0.7 + b * -1.1)
    torch.testing.assert_close(denoised, torch.full_like(t, 0.7))


def test_consistency_models_take_250_log_sigma():
    sampler = scheduler("CMStochasticIterativeScheduler")
    schedule = NoiseSchedule.from_scheduler(sampler)
    t = sampler.timesteps.double()
    torch.testing.assert_close(schedule.sigma(t), sampler.sigmas.double(), rtol=1e-6, atol=0)
    assert schedule.time_range == pytest.approx((250 * math.log(0.002), 250 * math.log(80)))
    assert schedule.notes


def test_continuous_euler_is_variance_preserving_in_a_quarter_log_sigma():
    sampler = scheduler(
        "EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction",
        sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True,
    )  # fmt: skip
    schedule = NoiseSchedule.from_scheduler(sampler)
    sampler.set_timesteps(25)
    t = sampler.timesteps.double()
    ratio = schedule.sigma(t) / schedule.alpha(t)
    torch.testing.assert_close(ratio.float(), sampler.sigmas[:-1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(25, dtype=torch.float64))


def test_variance_exploding_networks_are_told_sigma():
    sampler = scheduler("ScoreSdeVeScheduler", num_train_timesteps=100, sigma_min=0.01, sigma_max=50.0)
    schedule = NoiseSchedule.from_scheduler(sampler)
    t = sampler.timesteps.double()
    torch.testing.assert_close(schedule.sigma(t), sampler.sigmas.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(schedule.network_time(t), schedule.sigma(t))
    u = torch.linspace(0, 1, 100, dtype=torch.float64)
    steps = torch.tensor([0, 3, 50, 99, 98, 7])
    torch.testing.assert_close(mix(schedule, u[steps]), sampler.add_noise(X0, NOISE, steps), rtol=1e-4, atol=1e-3)
    assert schedule.data_range == (0.0, 1.0) and schedule.prediction_type == "score"
    assert float(schedule.log_snr(0.5)) == pytest.approx(-math.log(0.01 * 50.0))


def test_the_legacy_score_schedulers_by_their_configuration():
    class KarrasVeScheduler:
        config = {"sigma_min": 0.02, "sigma_max": 100.0}  # noqa: RUF012

    class ScoreSdeVpScheduler:
        config = {"num_train_timesteps": 2000, "beta_min": 0.1, "beta_max": 20.0, "sampling_eps": 1e-3}  # noqa: RUF012

    karras = NoiseSchedule.from_scheduler(KarrasVeScheduler())
    assert float(karras.sigma(1.0)) == pytest.approx(50.0) and karras.data_range == (0.0, 1.0)
    vp = NoiseSchedule.from_scheduler(ScoreSdeVpScheduler())
    t = 0.4
    mean = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
    assert float(vp.alpha(t)) == pytest.approx(math.exp(mean))
    assert float(vp.sigma(t)) == pytest.approx(math.sqrt(1 - math.exp(2 * mean)))
    assert float(vp.network_time(t)) == pytest.approx(1999 * t)


def test_ipndm_wuerstchen_and_trigflow():
    ipndm = scheduler("IPNDMScheduler", num_train_timesteps=10)
    schedule = NoiseSchedule.from_scheduler(ipndm)
    torch.testing.assert_close(schedule.sigma(ipndm.timesteps).float(), ipndm.betas[:-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(schedule.alpha(ipndm.timesteps).float(), ipndm.alphas[:-1], rtol=1e-4, atol=1e-4)
    wuerstchen = scheduler("DDPMWuerstchenScheduler", scaler=1.5)
    t = torch.linspace(0, 1, 6)
    torch.testing.assert_close(
        mix(NoiseSchedule.from_scheduler(wuerstchen), t), wuerstchen.add_noise(X0, NOISE, t), rtol=1e-4, atol=1e-4
    )
    trig = NoiseSchedule.from_scheduler(scheduler("SCMScheduler", sigma_data=0.5))
    u = torch.tensor([0.3, 1.2], dtype=torch.float64)
    torch.testing.assert_close(trig.alpha(u), torch.cos(u))
    torch.testing.assert_close(trig.sigma(u), 0.5 * torch.sin(u))
    # its step: x₀ = cos s · x − sin s · (σ_data F)
    a, b = trig.target_coefficients(u)
    x = trig.alpha(u) * 0.7 + trig.sigma(u) * -1.1
    torch.testing.assert_close(torch.cos(u) * x - torch.sin(u) * 0.5 * (a * 0.7 + b * -1.1), torch.full_like(u, 0.7))


def test_every_scheduler_of_this_diffusers_is_read_or_refused_in_one_sentence():
    read, refused = [], []
    for name in sorted(n for n in dir(diffusers) if n.endswith("Scheduler")):
        cls = getattr(diffusers, name)
        if "dummy" in cls.__module__:
            continue  # needs a back end that is not installed
        try:
            sampler = cls()
        except Exception:
            continue  # needs arguments
        try:
            schedule = NoiseSchedule.from_scheduler(sampler)
        except InputError as error:
            assert "\n" not in str(error)
            refused.append(name)
            continue
        read.append(name)
        levels = schedule.levels(9)
        snr = schedule.log_snr(levels)
        assert torch.isfinite(snr).all() and bool((levels[1:] > levels[:-1]).all()), name
        assert bool((snr[1:] <= snr[:-1]).all()) or bool((snr[1:] >= snr[:-1]).all()), name
        a, b = schedule.target_coefficients(levels)
        assert torch.isfinite(a).all() and torch.isfinite(b).all(), name
    assert len(read) >= 25
    assert not {"DDPMScheduler", "DDIMScheduler", "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"} & set(refused)


def test_discrete_tokens_are_refused():
    with pytest.raises(InputError, match="discrete tokens"):
        NoiseSchedule.from_scheduler(scheduler("VQDiffusionScheduler", num_vec_classes=8))


# --------------------------------------------------------------- prediction types


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow", "data_flow", "score", "edm"])
def test_prediction_types_carry_the_same_noise_estimate(kind):
    """THEORY §6: with ε̂ fixed, the error of the raw output is error_ratio times that of ε̂."""
    schedule = NoiseSchedule.flow(1.0, kind) if "flow" in kind else NoiseSchedule.vp(prediction_type=kind)
    t = schedule.levels(7)[1:-1]
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x0, noise, guess = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_t = alpha * x0 + sigma * noise
    a, b = schedule.target_coefficients(t)
    implied = (x_t - sigma * guess) / alpha  # the x₀ that goes with another ε
    error = (a * implied + b * guess) - (a * x0 + b * noise)
    torch.testing.assert_close(error, schedule.error_ratio(t) * (guess - noise), rtol=1e-12, atol=1e-12)
    known = {"v_prediction": 1 / alpha, "edm": -1 / alpha, "sample": -sigma / alpha, "flow": 1 / alpha}
    if kind in known:
        torch.testing.assert_close(schedule.error_ratio(t), known[kind], rtol=1e-12, atol=0)


def test_v_is_salimans_and_hos():
    sampler = scheduler("DDPMScheduler", prediction_type="v_prediction")
    schedule = NoiseSchedule.from_scheduler(sampler)
    t = torch.tensor([0, 5, 100, 500, 900, 999])
    a, b = schedule.target_coefficients(t)
    mine = (a[:, None, None, None] * X0 + b[:, None, None, None] * NOISE).float()
    torch.testing.assert_close(mine, sampler.get_velocity(X0, NOISE, t), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------- times


def test_levels_are_strictly_increasing_and_reach_both_ends():
    schedule = NoiseSchedule.vp()
    for n in (1, 2, 3, 24, 667, 999, 1000):
        levels = schedule.levels(n)
        assert levels.dtype == torch.int64 and len(levels) == n and bool((levels[1:] > levels[:-1]).all())
    assert schedule.levels(24)[0] == 0 and schedule.levels(24)[-1] == 999
    flow = NoiseSchedule.flow().levels(24)
    assert float(flow[0]) == 1.0 and float(flow[-1]) == 999.0
    within = schedule.levels(10, log_snr_range=(-2, 2))
    snr = schedule.log_snr(within)
    assert float(snr.max()) <= 2 and float(snr.min()) >= -2


def test_the_network_is_told_integers_when_the_schedule_is_discrete():
    schedule = NoiseSchedule.vp()
    assert schedule.network_time([3.0, 4.0]).dtype == torch.int64
    assert NoiseSchedule.flow().network_time([3.5]).item() == 3.5


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda: NoiseSchedule.vp().check([5, 1000]), "timestep 1000 is out of range.*0 to 999"),
        (lambda: NoiseSchedule.vp().check(-1), "out of range"),
        (lambda: NoiseSchedule.vp().check(float("nan")), "out of range"),
        (lambda: NoiseSchedule.vp().check([1.5]), "not an integer"),
        (lambda: NoiseSchedule.vp(10).levels(11), "10 timesteps.*fewer than the 11"),
        (lambda: NoiseSchedule.vp().levels(0), "at least one"),
        (lambda: NoiseSchedule.vp(prediction_type="noise"), "prediction_type is 'epsilon'"),
        (lambda: NoiseSchedule.vp(beta_schedule="quadratic"), "beta_schedule"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.5, 2.0]), "between 0 and 1"),
        (lambda: NoiseSchedule.from_scheduler(object()), "NoiseSchedule.vp"),
        (lambda: NoiseSchedule.from_scheduler(diffusers.DDPMScheduler), "the class DDPMScheduler"),
    ],
)
def test_mistakes_get_one_sentence(broken, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        broken()
    assert "\n" not in str(caught.value)


def test_an_unknown_scheduler_is_told_what_to_pass_instead():
    class OddScheduler:
        config = {"num_train_timesteps": 10}  # noqa: RUF012

    with pytest.raises(InputError, match=r"OddScheduler.*schedule=NoiseSchedule\.vp"):
        NoiseSchedule.from_scheduler(OddScheduler())


def test_functions_of_the_user_make_a_schedule():
    schedule = NoiseSchedule.from_functions(lambda t: torch.cos(t), lambda t: torch.sin(t), (0.0, 1.5))
    assert float(schedule.log_snr(0.7)) == pytest.approx(2 * math.log(math.cos(0.7) / math.sin(0.7)))
    assert float(schedule.levels(3)[0]) == pytest.approx(0.0015)  # no noise at 0
