"""Controls of networks whose dependence on time and input is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.diffusion.controls import Controls, mid_level, other_image_same_level, permutations
from genkernel.diffusion.denoiser import Denoiser
from genkernel.diffusion.embedding import cosine_matrix, embedding_cosines, interpolate, rank_correlation
from genkernel.diffusion.layers import layer_locality, parameters_per_layer
from genkernel.diffusion.locality import contrast, default_window
from genkernel.diffusion.pairs import grid
from genkernel.diffusion.results import Levels
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.tangent import exact_trace, kernel, probes
from tests.diffusion.fake_result import fake_kernel, fake_levels
from tests.diffusion.tiny import Sinusoid, tiny_denoiser, tiny_images


def levels_of(den: Denoiser, count: int) -> Levels:
    t = den.schedule.levels(count).double()
    return Levels(
        t.numpy(),
        den.schedule.log_snr(t).numpy(),
        den.schedule.alpha(t).numpy(),
        den.schedule.sigma(t).numpy(),
        1000.0,
        default_window(t.numpy(), 1000),
        True,
    )


def controls_of(den: Denoiser, count: int = 8, images: int = 5) -> Controls:
    def compute(batch, other=None):
        return kernel(den.tangent, batch, other, cotangents=probes(4), by=None, progress=False)

    return Controls(den, tiny_images(images), levels_of(den, count), compute, seed=0, bootstrap=40)


class OnlyTime(nn.Module):
    """Its output does not depend on the input, and its features localise in time."""

    def __init__(self):
        super().__init__()
        self.embedding = Sinusoid(8)
        self.read = nn.Linear(20, 16, bias=False).double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        centres = torch.linspace(0, 999, 20, dtype=torch.float64)
        features = torch.exp(-(((t[:, None].double() - centres) / 80) ** 2))
        return self.read(features).view_as(x) + 0 * x + 0 * self.embedding(t).sum()


def test_without_time_in_the_network_embedding_only_is_flat_and_the_rest_is_the_main_kernel():
    given = controls_of(tiny_denoiser(timed=False))
    main = given.main_kernel("main")
    embedding = given.embedding_only()
    assert np.ptp(embedding.matrix) < 1e-10
    assert embedding.index == pytest.approx(0, abs=1e-10)
    assert np.allclose(given.input_only().matrix, main.matrix, rtol=1e-9)
    assert np.allclose(given.shuffled_levels().matrix, main.matrix, rtol=1e-9)
    assert contrast("main minus input only", main, given.input_only()).stderr < 1e-9


def test_without_the_input_in_the_network_input_only_is_flat_and_shuffling_removes_locality():
    net = OnlyTime()
    den = Denoiser(net, NoiseSchedule.vp(), (1, 4, 4))
    given = controls_of(den, count=12, images=8)
    main = given.main_kernel("main")
    assert main.index > 0.3
    assert np.allclose(given.embedding_only().matrix, main.matrix, rtol=1e-9)
    flat = given.input_only()
    assert np.ptp(flat.matrix) < 1e-9 and flat.index == pytest.approx(0, abs=1e-9)
    assert flat.half_width_timesteps == [None] * 12
    shuffled = given.shuffled_levels()
    assert abs(shuffled.index) < max(3 * shuffled.index_stderr, 0.1)
    # including lag zero: equal levels of different images share nothing any more
    off = ~np.eye(12, dtype=bool)
    assert np.diagonal(shuffled.matrix).mean() - shuffled.matrix[off].mean() < 0.25 * (
        np.diagonal(main.matrix).mean() - main.matrix[off].mean()
    )
    assert np.allclose(given.same_image_same_noise().matrix, given.same_image_other_noise().matrix, rtol=1e-9)


def test_same_image_controls_pair_the_right_samples():
    den = tiny_denoiser()
    given = controls_of(den, count=4, images=3)
    same, other = given.same_image_same_noise(), given.same_image_other_noise()
    assert np.allclose(np.diagonal(same.matrix), 1)
    assert (np.diagonal(other.matrix) < 1).all()
    # by hand for levels 1 and 2 of the independent-noise control
    times = given.levels.timesteps
    first, second = grid(den, given.images, times, 0), grid(den, given.images, times, 0, draw=1)
    expected = []
    for a, b in ((1, 2), (2, 1)):
        for i in range(3):
            x = den.batch(first.x_t[[3 * a + i]], first.t[[3 * a + i]])
            y = den.batch(second.x_t[[3 * b + i]], second.t[[3 * b + i]])
            expected.append(float(kernel(den.tangent, x, y, cotangents=probes(4), progress=False).normalized().values))
    assert other.matrix[1, 2] == pytest.approx(np.mean(expected), rel=1e-8)


def test_embedding_only_holds_the_input_and_its_scaling():
    den = tiny_denoiser()
    given = controls_of(den, count=5, images=3)
    assert given.mid == mid_level(given.levels)
    seen = []
    given.compute = lambda batch, other=None: (
        seen.append(batch) or kernel(den.tangent, batch, cotangents=probes(2), progress=False)
    )
    given.embedding_only()
    x, t = seen[0]["x"].view(5, 3, -1), seen[0]["t"].view(5, 3)
    assert torch.equal(x, x[:1].expand_as(x)) and t[:, 0].tolist() == given.levels.timesteps.tolist()
    given.input_only()
    assert torch.unique(seen[1]["t"]).tolist() == [given.levels.timesteps[given.mid]]
    given.shuffled_levels()
    told = seen[2]["t"].view(5, 3)
    assert all(sorted(told[:, i].tolist()) == given.levels.timesteps.tolist() for i in range(3))
    assert not torch.equal(told[:, 0], told[:, 1]) or not torch.equal(told[:, 1], told[:, 2])


def test_permutations_belong_to_seed_and_image():
    few, many = permutations(6, 3, seed=1), permutations(6, 8, seed=1)
    assert np.array_equal(few, many[:3]) and not np.array_equal(few, permutations(6, 3, seed=2))
    assert all(sorted(row) == list(range(6)) for row in many.tolist())


def test_other_image_same_level_is_the_diagonal():
    given = controls_of(tiny_denoiser(), count=4)
    main = given.main_kernel("main")
    found = other_image_same_level(main, given.levels)
    assert np.array_equal(found.mean, np.diagonal(main.matrix)) and found.average == pytest.approx(found.mean.mean())
    assert 0 < found.average_stderr < 1
    assert np.isnan(other_image_same_level(fake_kernel(fake_levels(6)), fake_levels(6)).average_stderr)


# ------------------------------------------------------------------ embedding


def test_embedding_cosines_are_those_of_the_modules():
    den = tiny_denoiser()
    t = np.array([0.0, 300, 999])
    raw, processed = embedding_cosines(den, t)
    e = den.module.embedding(torch.tensor(t)).double()
    assert np.allclose(raw, cosine_matrix(e), rtol=1e-6) and np.allclose(np.diagonal(raw), 1)
    assert np.allclose(processed, cosine_matrix(den.module.time_mlp(e)), rtol=1e-5)


def test_rank_correlation():
    levels = fake_levels(8)
    given = fake_kernel(levels)
    assert rank_correlation(given.matrix, given)[0] == pytest.approx(1)
    assert rank_correlation(-given.matrix, given)[0] == pytest.approx(-1)
    assert np.isnan(rank_correlation(np.ones((8, 8)), given)[0])


def test_interpolation_ends_are_the_levels_themselves():
    den = tiny_denoiser()
    levels = levels_of(den, 5)
    images = tiny_images(4)

    def compute(batch):
        return kernel(den.tangent, batch, cotangents=exact_trace(), by=None, progress=False)

    found = interpolate(den, images, levels, 1, 3, compute, seed=0, bootstrap=20)
    assert found.matrix.shape == (5, 5) and found.weights.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.matrix[0, 4] == pytest.approx(found.swapped[0, 1])
    # untouched ends against the plain kernel of (x_1, t_1) and (x_3, t_3)
    pairs = grid(den, images, levels.timesteps[[1, 3]], 0)
    plain = compute(pairs.batch(den)).normalized().values.numpy().reshape(2, 4, 2, 4)
    off = ~np.eye(4, dtype=bool)
    assert found.swapped[0, 0] == pytest.approx(plain[0, :, 0][off].mean(), rel=1e-6)
    assert found.swapped[0, 3] == pytest.approx(plain[0, :, 1][off].mean(), rel=1e-6)
    # x of level 1 told level 3 by its embedding is x of level 1 told level 3 by its time
    told = pairs.t.clone()
    told[:4] = levels.timesteps[3]
    crossed = compute(pairs.batch(den, told)).normalized().values.numpy().reshape(2, 4, 2, 4)
    assert found.swapped[1, 3] == pytest.approx(crossed[0, :, 1][off].mean(), rel=1e-6)


# ------------------------------------------------------------------ layers


def test_layer_shares_add_up_and_indices_are_those_of_each_layer():
    den = tiny_denoiser()
    levels = levels_of(den, 6)
    pairs = grid(den, tiny_images(5), levels.timesteps, 0)
    whole = kernel(den.tangent, pairs.batch(den), cotangents=probes(4), by="layer", progress=False)
    counts = parameters_per_layer(den.tangent)
    found = layer_locality(whole.layers, pairs.level_of, pairs.image_of, levels, parameters=counts, bootstrap=30)
    assert sum(layer.share for layer in found) == pytest.approx(1, rel=1e-12)
    assert sum(layer.parameters for layer in found) == den.parameters
    assert {layer.name for layer in found} == set(whole.layers)
    outer = next(layer for layer in found if layer.name == "outer")
    share = float(torch.trace(whole.layers["outer"]) / torch.trace(whole.values))
    assert outer.share == pytest.approx(share) and outer.parameters == 12 * 16 + 16
    zero = layer_locality({"a": whole.values, "b": 0 * whole.values}, pairs.level_of, pairs.image_of, levels)
    assert zero[1].share == 0 and np.isnan(zero[1].index)
