"""The whole analysis on tiny denoisers: consistency, honesty, refusals, and THEORY §6's toy."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.diffusion import reading
from genkernel.diffusion.analysis import analyze
from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.results import Contrast
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import InputError, NonFiniteError, ZeroGradientError
from tests.diffusion.fake_result import fake_result
from tests.diffusion.tiny import Sinusoid, tiny_denoiser, tiny_images

FAST = {"levels": 6, "samples": 5, "probes": 3, "bootstrap": 30}


@pytest.fixture(scope="module")
def case():
    den = tiny_denoiser()
    before = {name: p.detach().clone() for name, p in den.module.named_parameters()}
    state = torch.get_rng_state()
    told = []
    result, kernel = analyze(den, tiny_images(5), progress=lambda *stage: told.append(stage), **FAST)
    assert torch.equal(state, torch.get_rng_state())
    assert den.module.training
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in den.module.named_parameters())
    return den, result, kernel, told


def test_everything_is_there_and_consistent(case):
    _, result, kernel, told = case
    assert kernel.values.shape == (30, 30) and result.locality.matrix.shape == (6, 6)
    assert set(result.controls) == {
        "same_image_same_noise", "same_image_other_noise", "other_image_same_level", "embedding_only", "input_only",
        "shuffled_levels", "untrained",
    }  # fmt: skip
    assert set(result.contrasts) == {
        reading.TRAINED, reading.MAIN_EMBEDDING, reading.MAIN_INPUT, reading.MAIN_SHUFFLED, reading.EMBEDDING_INPUT,
    }  # fmt: skip
    cosines = kernel.normalized().values.numpy().reshape(6, 5, 6, 5)
    off = ~np.eye(5, dtype=bool)
    by_hand = np.array([[cosines[a, :, b][off].mean() for b in range(6)] for a in range(6)])
    assert np.allclose(result.locality.matrix, by_hand, rtol=1e-9)
    raw = kernel.values.numpy().reshape(6, 5, 6, 5)
    assert result.unnormalized.matrix[1, 4] == pytest.approx(raw[1, :, 4][off].mean())
    assert result.meta["images"] == 5 and result.meta["control_images"] == 5 and result.meta["probes"] == 3
    assert [stage for stage, _, _ in told] == list(result.meta["seconds"])
    assert [done for _, done, _ in told] == list(range(len(told))) and {total for *_, total in told} == {len(told)}
    assert len(result.meta["reading"]) >= 8
    json.dumps(result.to_summary(), allow_nan=False)
    assert result.weighting is not None and len(result.weighting.rows) == 18


def test_loss_per_level_is_the_plain_mean(case):
    den, result, *_ = case
    from genkernel.diffusion.pairs import grid

    pairs = grid(den, tiny_images(5), result.levels.timesteps, 0)
    loss = den.losses(pairs.x0, pairs.noise, pairs.t).view(6, 5)
    assert np.allclose(result.loss_mean, loss.mean(1)) and np.allclose(result.loss_stderr, loss.std(1) / math.sqrt(5))


def test_one_proof_serves_all_kernels_of_a_model_over_like_inputs(case, monkeypatch):
    from genkernel.diffusion import analysis

    _, expected, *_ = case
    proved, made = [], analysis.GradientPass

    def counted(model, batch, dtype):
        proved.append((model, sorted(batch)))
        return made(model, batch, dtype)

    monkeypatch.setattr(analysis, "GradientPass", counted)
    den = tiny_denoiser()
    shared, _ = analyze(den, tiny_images(5), progress=False, **FAST)
    # over (x, t), over (x, t, embedding) and with targets; and one of the untrained network
    assert len(proved) == 4 and sum(model is den.tangent for model, _ in proved) == 3
    monkeypatch.setattr(analysis._Kernels, "_proof", lambda *_: None)
    apart, _ = analyze(tiny_denoiser(), tiny_images(5), progress=False, **FAST)
    for found in (shared, apart):
        assert found.controls.keys() == expected.controls.keys()
        for name, control in expected.controls.items():
            if name != "other_image_same_level":
                assert np.allclose(found.controls[name].matrix, control.matrix, rtol=1e-9, atol=1e-12)
        assert np.allclose(found.interference.matrix, expected.interference.matrix, rtol=1e-9, atol=1e-12)


def test_a_subset_of_levels_gives_the_same_entries(case):
    den, result, *_ = case
    subset = result.levels.timesteps[[1, 3, 4]]
    again, _ = analyze(den, tiny_images(5), controls=False, progress=False, **{**FAST, "levels": subset[::-1].tolist()})
    assert np.array_equal(again.levels.timesteps, subset)
    assert np.allclose(again.locality.matrix, result.locality.matrix[np.ix_([1, 3, 4], [1, 3, 4])], rtol=1e-9)
    assert again.interference is not None and result.interference is not None
    part = result.interference.inner_products[np.ix_([1, 3, 4], [1, 3, 4])]
    assert np.allclose(again.interference.inner_products, part, rtol=1e-9, atol=1e-12)
    assert again.contrasts == {} and again.interpolation is None


def test_fewer_control_images_are_compared_over_the_shared_ones():
    result, _ = analyze(tiny_denoiser(), tiny_images(6), control_images=4, progress=False, **{**FAST, "samples": 6})
    assert result.controls["embedding_only"].images == 4 and result.locality.images == 6
    assert all(math.isfinite(each.stderr) for each in result.contrasts.values())


def test_few_images_give_numbers_without_errors_and_say_so():
    result, _ = analyze(tiny_denoiser(), tiny_images(2), progress=False, **FAST)
    assert math.isfinite(result.locality.index) and math.isnan(result.locality.index_stderr)
    assert any("too few" in note for note in result.meta["notes"])
    assert any("all of them" in note for note in result.meta["notes"])
    assert any("too few images" in sentence for sentence in result.meta["reading"])
    json.dumps(result.to_summary(), allow_nan=False)


def test_one_probe_is_said_to_leave_its_error_out():
    options = {**FAST, "probes": 1}
    result, _ = analyze(tiny_denoiser(), tiny_images(5), controls=False, progress=False, **options)
    assert any("with one probe" in note for note in result.meta["notes"])
    assert "± at least" in result.meta["reading"][0] and "one probe" in result.meta["reading"][1]


def test_optimizer_state_adds_the_preconditioned_interference():
    den = tiny_denoiser()
    optimizer = torch.optim.Adam(den.module.parameters())
    den.module(torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.tensor([1, 2, 3])).square().sum().backward()
    optimizer.step()
    result, _ = analyze(
        den, tiny_images(5), controls=False, optimizer_state=optimizer.state_dict(), progress=False, **FAST
    )
    found = result.interference.preconditioned
    assert found is not None and "Adam" in found.preconditioner
    assert not np.allclose(found.matrix, result.interference.matrix)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_other_prediction_types(kind):
    result, _ = analyze(tiny_denoiser(kind), tiny_images(4), controls=False, progress=False, **FAST)
    assert result.meta["prediction_type"] == kind and np.isfinite(result.weighting.predicted_change["P2"]).all()


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu():
    on_cpu, _ = analyze(tiny_denoiser(), tiny_images(5), progress=False, **FAST)
    cpu = tiny_denoiser()
    den = Denoiser(cpu.module.cuda(), cpu.schedule, (1, 4, 4), embedding="embedding", time_mlp="time_mlp")
    on_gpu, kernel = analyze(den, tiny_images(5), progress=False, **FAST)
    assert kernel.meta["device"].startswith("cuda")
    for name in ("locality", "unnormalized"):
        a, b = getattr(on_cpu, name).matrix, getattr(on_gpu, name).matrix
        assert np.abs(a - b).max() < 1e-6 * np.abs(a).max()  # inputs are float32 on both
    for name, control in on_cpu.controls.items():
        if hasattr(control, "index") and name != "untrained":  # drawn on the device it lives on
            assert control.index == pytest.approx(on_gpu.controls[name].index, abs=1e-5)
    assert np.allclose(on_cpu.interference.matrix, on_gpu.interference.matrix, atol=1e-5)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"levels": 2}, "at least 3"),
        ({"levels": [10, 20]}, "at least 3"),
        ({"levels": [10, 20, 1000]}, "out of range"),
        ({"levels": [10, 20, 20]}, "different"),
        ({"levels": [10, 20, 20.5]}, "integer"),
        ({"levels": "many"}, "list of timesteps"),
        ({"samples": 1}, "samples"),
        ({"probes": 0}, "probes"),
        ({"seed": -1}, "seed"),
        ({"weights": {"mine": [1.0]}}, "mine"),
        ({"optimizer_state": {"state": {}, "param_groups": []}}, "optimizer"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(options, match):
    with pytest.raises(InputError, match=match):
        analyze(tiny_denoiser(), tiny_images(5), progress=False, **{**FAST, **options})


def test_bad_images_are_refused():
    with pytest.raises(InputError, match="at least 2"):
        analyze(tiny_denoiser(), tiny_images(1), progress=False, **FAST)
    with pytest.raises(InputError, match="images"):
        analyze(tiny_denoiser(), torch.zeros(5, 3, 4, 4), progress=False, **FAST)
    broken = tiny_images(5)
    broken[2, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        analyze(tiny_denoiser(), broken, progress=False, **FAST)


def test_a_dead_model_is_refused():
    den = tiny_denoiser()
    with torch.no_grad():
        for parameter in den.module.parameters():
            parameter.zero_()
    den.module.outer.bias.requires_grad_(False)
    dead = Denoiser(den.module, den.schedule, (1, 4, 4), params="inner*")
    with pytest.raises(ZeroGradientError):
        analyze(dead, tiny_images(5), progress=False, **FAST)


def test_a_perfect_model_has_a_kernel_but_no_interference():
    class Perfect(nn.Module):
        """Answers x₀ = 0 for images that are all mid-grey."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.scale * x

    den = Denoiser(Perfect(), NoiseSchedule.vp(prediction_type="sample"), (1, 4, 4))
    result, _ = analyze(den, torch.full((4, 1, 4, 4), 0.5), untrained=False, progress=False, **FAST)
    assert result.interference is None and result.weighting is None
    assert any("exactly zero" in note for note in result.meta["notes"])
    assert any("no timestep embedding" in note for note in result.meta["notes"])


# ------------------------------------------------------------------ reading


def test_the_reading_never_claims_what_the_intervals_do_not_show():
    result = fake_result(12)
    embedding, inputs = result.controls["embedding_only"], result.controls["input_only"]

    def carrier(low_embedding, low_input, contrast=(0.0, -1.0, 1.0)):
        for kernel, low in ((embedding, low_embedding), (inputs, low_input)):
            kernel.index_low, kernel.index_high = low, low + 0.1
        result.contrasts[reading.EMBEDDING_INPUT] = Contrast("", contrast[0], 0.1, contrast[1], contrast[2])
        return next(s for s in reading.read(result) if s.startswith("With the input held fixed"))

    more, less = (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1)
    assert "carried by the timestep embedding" in carrier(0.1, -0.05, more)
    assert "carried by the input" in carrier(-0.05, 0.1, less)
    for low_embedding, low_input in ((0.1, -0.05), (-0.05, 0.1)):
        assert "whether they differ is undecided" in carrier(low_embedding, low_input)
    assert "undecided" in carrier(-0.05, -0.05)
    assert "which carries more is undecided" in carrier(0.1, 0.1)
    assert "the embedding more" in carrier(0.1, 0.1, more)
    assert "the input more" in carrier(0.1, 0.1, less)
    assert "too few probes or images" in carrier(math.nan, 0.1)
    result.locality.index_low = -0.01
    assert "no established locality" in carrier(0.1, -0.05)
    assert "undecided, the interval includes zero" in reading.read(result)[0]

    def headline(low=0.05, **contrasts):
        result.locality.index_low, result.locality.index_high = low, low + 0.1
        result.contrasts = {
            getattr(reading, name): Contrast("", sum(ends) / 2, 0.1, *ends) for name, ends in contrasts.items()
        }
        return reading.read(result)[0]

    up, open_ = (0.1, 0.2), (-0.1, 0.2)
    assert "interval 0.050 to 0.150" in headline() and "is local in" not in headline()
    assert "is local in" in headline(MAIN_SHUFFLED=up) and "shuffled levels by +0.150" in headline(MAIN_SHUFFLED=up)
    assert "is local in" not in headline(MAIN_SHUFFLED=open_, TRAINED=open_)
    assert "not established to be higher than that of an untrained" in headline(MAIN_SHUFFLED=up, TRAINED=open_)
    result.locality.index_bias = 0.01
    assert "undecided, noise alone shifts" in headline(MAIN_SHUFFLED=up)
    result.locality.index_bias = math.nan
    assert "too few probes or images for an interval" in headline(math.nan, MAIN_SHUFFLED=up)
    result.locality.index_stderr_probes = math.nan
    assert "± at least" in headline() and any("one probe cannot show" in s for s in reading.read(result))
    rows, index = result.locality.index_rows, result.locality.index
    result.locality.index_rows = np.array([0.9] + [0.02] * 11)
    result.locality.index = float(result.locality.index_rows.mean())
    said = headline(MAIN_SHUFFLED=up)
    assert "most of it comes from one level, t = 0; without its row it is 0.020" in said and "is local in" not in said
    result.locality.index_rows, result.locality.index = rows, index

    def stages(**changes):
        result.stages = dataclasses.replace(result.stages, **changes)
        return reading.read(result)[-1]

    assert "3 stages (so many in 70% of the resamples)" in stages()
    assert "t = 0 is a stage of a single level" in stages(labels=np.array([0] + [1] * 5 + [2] * 6))
    assert "number of stages is undecided" in stages(decided=False)
    assert "too few" in stages(chosen_in_bootstrap={})

    def training(low, high):
        result.contrasts[reading.TRAINED] = Contrast(reading.TRAINED, (low + high) / 2, 0.1, low, high)
        return next(s for s in reading.read(result) if s.startswith("An untrained"))

    assert "is more local" in training(0.01, 0.2)
    assert "is less local" in training(-0.2, -0.01)
    assert "undecided" in training(-0.1, 0.1)


def test_shuffled_levels_are_read_beside_the_true_ones():
    result = fake_result(12)
    shuffled = result.controls["shuffled_levels"]

    def said(low: float, high: float, lost: tuple[float, float] | None) -> str:
        shuffled.index_low, shuffled.index_high = low, high
        if lost is None:
            result.contrasts.pop(reading.MAIN_SHUFFLED, None)
        else:
            result.contrasts[reading.MAIN_SHUFFLED] = Contrast("", sum(lost) / 2, 0.1, *lost)
        return next(s for s in reading.read(result) if s.startswith("When every image is told its levels"))

    above = (0.1, 0.2)
    assert "some locality in the input's own level is left" in said(*above, above)
    assert "some locality in the input's own level is left" in said(*above, None)
    assert "as local in the input's own level as with the true ones, as far as" in said(*above, (-0.1, 0.1))
    assert "more local in the input's own level than with the true ones" in said(*above, (-0.3, -0.1))
    assert "none is left that these samples could show" in said(-0.1, 0.1, above)
    assert "avoids equal levels" in said(-0.2, -0.1, above)


# ------------------------------------------------------------------ THEORY §6's check


class Toy(nn.Module):
    """A 2-D denoiser with a sinusoidal embedding, two hidden layers."""

    def __init__(self, width: int = 48, dim: int = 32):
        super().__init__()
        self.embedding = Sinusoid(dim)
        self.first = nn.Linear(2 + dim, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = torch.cat([x.flatten(1), self.embedding(t).to(x.dtype)], 1)
        return self.last(torch.tanh(self.second(torch.tanh(self.first(h))))).view_as(x)


def test_the_two_dimensional_toy_is_local_through_its_embedding(one_thread):
    """Profiles as in THEORY §6: decay for different inputs and for the embedding alone, none for the input alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Toy()
        schedule = NoiseSchedule.vp()
        points = torch.randint(0, 8, (512,)) * (2 * math.pi / 8)
        x0 = torch.stack([points.cos(), points.sin()], 1) + 0.05 * torch.randn(512, 2)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(400):
            i, t = torch.randint(0, 512, (128,)), torch.randint(0, 1000, (128,))
            noise = torch.randn(128, 2)
            x = schedule.alpha(t).float()[:, None] * x0[i] + schedule.sigma(t).float()[:, None] * noise
            optimizer.zero_grad()
            (net(x, t) - noise).square().mean().backward()
            optimizer.step()
    den = Denoiser(net, schedule, (2, 1, 1), data_range=(-1.0, 1.0), embedding="embedding")
    images = ((x0 + 1) / 2)[:16, :, None, None]
    result, _ = analyze(
        den, images, levels=10, samples=16, probes=4, control_images=16, progress=False, dtype=torch.float64
    )
    embedding, inputs, shuffled = (result.controls[n] for n in ("embedding_only", "input_only", "shuffled_levels"))
    assert result.locality.index_low > 0.05
    assert embedding.index_low > 0.05
    # what the input alone carries is a small part, and shuffling removes nearly all
    assert result.contrasts[reading.EMBEDDING_INPUT].low > 0
    assert inputs.index < 0.3 * embedding.index and shuffled.index < 0.3 * embedding.index
    for kernel in (result.locality, embedding):
        profile = kernel.by_timestep
        assert profile.mean[0] > profile.mean[1] + 0.1 and profile.mean[1] > profile.mean[4]
        assert profile.half_width is not None and profile.half_width < 250
    assert np.ptp(inputs.by_timestep.mean) < 0.25


def test_a_network_of_zeros_is_dead_although_its_output_bias_has_a_gradient() -> None:
    den, images = tiny_denoiser(), tiny_images(4)
    for parameter in den.module.parameters():
        parameter.data.zero_()
    with pytest.raises(ZeroGradientError, match="passes nothing on"):
        analyze(den, images, levels=3, samples=4, probes=2, controls=False)
