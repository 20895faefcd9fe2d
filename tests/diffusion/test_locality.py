"""Locality statistics give back what was put into synthetic kernels (THEORY §6)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genkernel.diffusion.locality import (
    LagBins,
    bandwidth,
    contrast,
    crossing,
    default_window,
    level_kernel,
    locality_index,
    row_profile_operator,
    window_mask,
)
from genkernel.diffusion.resampling import Estimate, as_grid, bootstrap_weights, interval, level_means
from genkernel.diffusion.results import Contrast, Levels
from genkernel.errors import InputError
from genkernel.tangent import Kernel
from tests.diffusion.fake_result import fake_levels


def even_levels(count: int = 24) -> Levels:
    """Evenly spaced in time, log-SNR linear in time."""
    t = np.linspace(0.0, 1.0, count)
    snr = 6.0 - 12.0 * t
    alpha = np.sqrt(1 / (1 + np.exp(-snr)))
    return Levels(t, snr, alpha, np.sqrt(1 - alpha**2), 1.0, default_window(t, 1.0), False)


def grid_index(levels: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(levels), images), np.tile(np.arange(images), levels)


def features(levels: Levels, images: int, width: float, shared: float, rng: np.random.Generator) -> np.ndarray:
    """Features whose expected kernel between images at different levels is exp(-|Δ|/width) ⊗ shared + noise.

    Rows are samples in level-major order; the common part of level a is a Gaussian process over levels.
    """
    size = len(levels.timesteps)
    distance = np.abs(levels.timesteps[:, None] - levels.timesteps[None])
    root = np.linalg.cholesky(np.exp(-distance / width) + 1e-9 * np.eye(size))
    level_part = root @ np.eye(size)  # [L, L]: rows with the wanted Gram matrix
    own = rng.normal(0, shared, (size, images, 40)) + rng.normal(0, shared, (1, images, 40))
    return np.concatenate([np.repeat(level_part[:, None], images, 1), own], -1).reshape(size * images, -1)


# ------------------------------------------------------------------ index


def test_index_is_zero_for_flat_and_one_for_diagonal_kernels():
    levels = even_levels()
    mask = window_mask(levels.timesteps, levels.window_timesteps)
    assert locality_index(np.ones((24, 24)), mask) == pytest.approx(0, abs=1e-14)
    assert locality_index(np.eye(24), mask) == pytest.approx(1, abs=1e-14)
    assert locality_index(1 - mask.astype(float), mask) < 0
    assert math.isnan(locality_index(np.zeros((24, 24)), mask))
    assert locality_index(-np.ones((24, 24)) + 2 * np.eye(24), mask) == pytest.approx(1)  # max(., 0)


def test_index_by_hand():
    """Three levels, window of the nearest neighbour, rows written out."""
    t = np.array([0.0, 1.0, 5.0])
    window = default_window(t, 10.0)
    assert window == 1.0  # the nearest level, since 5 % of 10 is less
    mask = window_mask(t, window)
    assert mask.tolist() == [[True, True, False], [True, True, False], [False, True, True]]  # row 2: its nearest level
    matrix = np.array([[4.0, 2, 2], [2, 4, 2], [1, 1, 2]])
    rows = [((6 / 8) - 2 / 3) / (1 / 3), ((6 / 8) - 2 / 3) / (1 / 3), ((3 / 4) - 2 / 3) / (1 / 3)]
    assert locality_index(matrix, mask) == pytest.approx(np.mean(rows), rel=1e-13)


@pytest.mark.parametrize("count", [3, 8, 16, 20, 24, 48, 100])
def test_window_gives_every_level_of_an_even_grid_its_neighbours(count):
    t = np.floor(np.linspace(0, 999, count) + 0.5)
    window = default_window(t, 1000)
    spacing = np.diff(t).max()
    assert window == max(50.0, spacing)
    mask = window_mask(t, window)
    assert mask[0].sum() == 1 + np.sum(t[1:] <= window)
    assert np.array_equal(mask, np.abs(t[:, None] - t[None]) <= window)


def test_a_window_over_every_level_leaves_rows_undefined():
    t = np.array([0.0, 0.5, 1.0])
    mask = window_mask(t, default_window(t, 1.0))
    assert mask[1].all()
    assert locality_index(np.eye(3), mask) == pytest.approx(1.0)  # from the two rows that are defined


# ------------------------------------------------------------------ profiles and half-widths


@pytest.mark.parametrize(("width", "floor"), [(0.1, 0.2), (0.2, 0.0), (0.05, 0.5)])
def test_profile_gives_back_half_width_floor_and_bandwidth(width, floor):
    levels = even_levels(101)
    distance = np.abs(levels.timesteps[:, None] - levels.timesteps[None])
    matrix = floor + (0.8 - floor) * np.maximum(1 - distance / (2 * width), 0)  # triangular: half width = width
    bins = LagBins.of(levels.timesteps, "timesteps", 100)
    mean = bins.means(matrix)
    assert bins.floors(mean) == pytest.approx(floor, abs=1e-12)
    assert crossing(bins.lag, mean, floor) == pytest.approx(width, rel=1e-9)
    steps = 2 * width / 0.01  # of the triangle: Σ k (1 - k/m) / Σ (1 - k/m) = (m - 1) / 3
    assert bandwidth(bins.lag, mean, floor) == pytest.approx(0.01 * (steps - 1) / 3, rel=1e-9)
    snr = LagBins.of(levels.log_snr, "log_snr", 100)
    assert crossing(snr.lag, snr.means(matrix), floor) == pytest.approx(12 * width, rel=1e-9)


def test_row_profiles_are_two_sided_and_exact_on_both_axes():
    levels = fake_levels(24)
    matrix = 0.3 + 0.5 * np.maximum(1 - np.abs(levels.log_snr[:, None] - levels.log_snr[None]) / 8, 0)
    for row in (0, 7, 23):
        lags, operator = row_profile_operator(levels.log_snr, row)
        assert operator.sum(1) == pytest.approx(np.ones(len(lags)))
        assert lags[0] == 0 and (operator @ matrix[row])[0] == pytest.approx(matrix[row, row])
    # one side higher than the other: the profile is their mean
    t = np.arange(5.0)
    lags, operator = row_profile_operator(t, 2)
    assert lags.tolist() == [0, 1, 2]
    assert (operator @ np.array([1.0, 2, 9, 4, 5])).tolist() == [9, 3, 3]
    # an infinite coordinate takes no part
    lags, operator = row_profile_operator(np.array([np.inf, 2.0, 1.0, 0.0]), 1)
    assert lags.tolist() == [0, 1, 2] and not operator[:, 0].any()


def test_sparse_bins_are_dropped():
    levels = even_levels(10)
    assert len(LagBins.of(levels.timesteps, "timesteps", 240).lag) == 10
    dropped = LagBins.of(levels.timesteps, "timesteps", 10)  # 10 sample pairs per pair of levels
    assert dropped.pairs.min() >= 30 and len(dropped.lag) == 8
    assert dropped.pairs.tolist() == [50, *(10 * np.arange(9, 2, -1)).tolist()]


def test_level_kernel_reads_off_half_widths_and_none():
    levels = even_levels(24)
    level_of, image_of = grid_index(24, 8)
    rng = np.random.default_rng(0)
    phi = features(levels, 8, 0.15, 0.02, rng)
    found = level_kernel(Estimate(phi @ phi.T, normalize=True), level_of, image_of, levels)
    assert found.floor == pytest.approx(np.exp(-np.linspace(18, 23, 6) / 23 / 0.15).mean(), abs=0.02)
    expected = 0.15 * np.log(2)
    assert found.by_timestep.half_width == pytest.approx(expected, rel=0.1)
    assert found.half_width_timesteps[12] == pytest.approx(expected, rel=0.15)
    assert found.half_width_log_snr[12] == pytest.approx(12 * expected, rel=0.15)
    assert not found.signed and found.images == 8
    flat = level_kernel(Estimate(np.ones((192, 192)) + rng.normal(0, 0.1, (192, 192)), normalize=False),
                        level_of, image_of, levels)  # fmt: skip
    assert flat.by_timestep.half_width is None and sum(w is None for w in flat.half_width_timesteps) > 15
    assert abs(flat.index) < 3 * flat.index_stderr + 0.01


# ------------------------------------------------------------------ means, bootstrap, jackknife


def test_level_means_exclude_pairs_of_the_same_image_with_and_without_weights():
    rng = np.random.default_rng(1)
    blocks = rng.normal(size=(3, 5, 3, 5))
    blocks = (blocks + blocks.transpose(2, 3, 0, 1)) / 2
    weights = bootstrap_weights(5, 4, seed=3)
    found = level_means(blocks, np.vstack([np.ones(5), weights]))
    for row, weight in zip(found, np.vstack([np.ones(5), weights]), strict=True):
        for a in range(3):
            for b in range(3):
                pairs = [(weight[i] * weight[j], blocks[a, i, b, j]) for i in range(5) for j in range(5) if i != j]
                expected = sum(w * v for w, v in pairs) / sum(w for w, _ in pairs)
                assert row[a, b] == pytest.approx(expected, rel=1e-12)
    assert np.allclose(found[0], level_means(blocks), rtol=1e-13)
    same = level_means(blocks, pairs="same")
    assert same[0, 1] == pytest.approx(np.mean([blocks[0, i, 1, i] + blocks[1, i, 0, i] for i in range(5)]) / 2)


def test_order_of_samples_does_not_matter_and_broken_grids_are_refused():
    rng = np.random.default_rng(2)
    level_of, image_of = grid_index(3, 4)
    values = rng.normal(size=(12, 12))
    order = rng.permutation(12)
    shuffled = as_grid(values[np.ix_(order, order)], level_of[order], image_of[order])
    assert np.array_equal(shuffled, as_grid(values, level_of, image_of))
    with pytest.raises(InputError):
        as_grid(values[:11, :11], level_of[:11], image_of[:11])


def test_bootstrap_interval_covers_the_population_index():
    """Images drawn afresh: the 95 % interval covers the population's index about as often as it says."""
    levels = even_levels(8)
    mask = window_mask(levels.timesteps, levels.window_timesteps)
    rng = np.random.default_rng(3)
    level_of, image_of = grid_index(8, 12)
    distance = np.abs(levels.timesteps[:, None] - levels.timesteps[None])

    def sample(images: int) -> np.ndarray:
        """Each image scales and sharpens its level features in its own way."""
        gain = rng.lognormal(0, 0.5, images)
        common = np.linalg.cholesky(np.exp(-distance / 0.3) + 1e-9 * np.eye(8))
        phi = np.concatenate([gain[None, :, None] * common[:, None, :], np.ones((8, images, 1))], -1)
        phi = np.concatenate([phi, rng.normal(0, 0.3, (8, images, 20))], -1)
        return phi.reshape(8 * images, -1)

    many = sample(1500)
    unit = (many / np.linalg.norm(many, axis=1, keepdims=True)).reshape(8, 1500, -1)
    total = unit.sum(1)
    population = (total @ total.T - np.einsum("aid,bid->ab", unit, unit)) / (1500 * 1499)
    truth = float(locality_index(population, mask))
    covered, ratio = 0, []
    for trial in range(120):
        phi = sample(12)
        estimate = Estimate(phi @ phi.T, normalize=True)
        found = level_kernel(estimate, level_of, image_of, levels, bootstrap=100, seed=trial)
        covered += found.index_low <= truth <= found.index_high
        ratio.append((found.index, found.index_stderr))
    index, stderr = np.array(ratio).T
    assert 0.88 <= covered / 120 <= 1.0
    assert np.sqrt((stderr**2).mean()) == pytest.approx(index.std(ddof=1), rel=0.3)


class ProbeKernel:
    """The engine's Kernel for features phi [n, outputs, parameters] and Rademacher probes."""

    def __init__(self, phi: np.ndarray, probes: int, rng: np.random.Generator):
        v = rng.integers(0, 2, (probes, phi.shape[1])) * 2.0 - 1
        g = np.einsum("qo,nop->qnp", v, phi)
        self.per_probe = np.einsum("qnp,qmp->qnm", g, g)
        self.values = self.per_probe.mean(0)
        self.norms_x = self.norms_y = np.diagonal(self.values)
        self.per_probe_norms_x = self.per_probe_norms_y = np.einsum("qnn->qn", self.per_probe)


def test_probe_bias_is_removed_and_the_probe_error_is_right():
    rng = np.random.default_rng(4)
    levels = even_levels(6)
    level_of, image_of = grid_index(6, 4)
    phi = rng.normal(size=(24, 12, 30)) + 1.5 * rng.normal(size=(1, 12, 30))
    phi *= np.linspace(0.2, 2, 12)[None, :, None]
    trace = np.einsum("nop,mop->nm", phi, phi)
    exact = level_kernel(Estimate(trace, normalize=True), level_of, image_of, levels)
    plain, corrected, errors = [], [], []
    for _ in range(60):
        kernel = ProbeKernel(phi, 6, rng)
        found = level_kernel(Estimate(kernel, normalize=True), level_of, image_of, levels, bootstrap=5)
        corrected.append(found.matrix[0, 3])
        errors.append(found.stderr_probes[0, 3])
        biased = Estimate(kernel.values, normalize=True).values  # taken as exact: nothing is corrected
        plain.append(level_means(as_grid(biased, level_of, image_of))[0, 3])
    bias = abs(np.mean(corrected) - exact.matrix[0, 3])
    assert bias < abs(np.mean(plain) - exact.matrix[0, 3]) or bias < 2 * np.std(corrected) / np.sqrt(60)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(corrected, ddof=1), rel=0.4)


def test_a_gradient_of_zero_gives_cosine_zero():
    assert Estimate(np.array([[1.0, 0], [0, 0]]), normalize=True).values.tolist() == [[1, 0], [0, 0]]


def test_cosines_are_those_of_the_kernel():
    phi = np.random.default_rng(7).normal(size=(24, 12, 30))
    made = ProbeKernel(phi, 5, np.random.default_rng(8))
    kernel = Kernel(**{name: torch.tensor(values) for name, values in vars(made).items()}).normalized()
    found = Estimate(made, normalize=True)
    assert np.abs(found.values.clip(-1, 1) - kernel.values.numpy()).max() < 1e-15
    few, other = np.array([0, 3, 7]), np.array([2, 5])
    part = Estimate(made, normalize=True, rows=few, columns=other)
    assert np.array_equal(part.values, found.values[np.ix_(few, other)])
    assert np.array_equal(part.without(4), found.without(4)[np.ix_(few, other)])


# ------------------------------------------------------------------ comparisons


def test_paired_contrast_is_sharper_than_the_unpaired_one():
    rng = np.random.default_rng(5)
    levels = even_levels(8)
    level_of, image_of = grid_index(8, 10)
    distance = np.abs(levels.timesteps[:, None] - levels.timesteps[None])
    root = np.linalg.cholesky(np.exp(-distance / 0.3) + 1e-9 * np.eye(8))
    gain = rng.lognormal(0, 0.8, 10)  # differs between images, common to both kernels

    def kernel(sharpness: float):
        phi = np.concatenate(
            [sharpness * gain[None, :, None] * root[:, None, :], np.ones((8, 10, 1)), rng.normal(0, 0.05, (8, 10, 20))],
            -1,
        ).reshape(80, -1)
        return level_kernel(Estimate(phi @ phi.T, normalize=True), level_of, image_of, levels)

    first, second = kernel(1.05), kernel(0.95)
    found = contrast("first minus second", first, second)
    assert found.difference == first.index - second.index
    assert found.stderr < 0.7 * math.hypot(first.index_stderr, second.index_stderr)
    assert found.low < found.difference < found.high
    assert contrast("with itself", first, first).stderr == 0
    fewer = level_kernel(
        Estimate(np.ones((40, 40)), normalize=True), *grid_index(8, 5), levels
    )  # fmt: skip
    with pytest.raises(InputError):
        contrast("other images", first, fewer)


def test_few_images_have_no_error_bar_and_one_image_no_pairs():
    levels = even_levels(6)
    two = level_kernel(Estimate(np.eye(12) + 1, normalize=True), *grid_index(6, 2), levels)
    assert math.isnan(two.index_stderr) and math.isnan(two.index_low) and np.isnan(two.stderr).all()
    with pytest.raises(InputError):
        level_kernel(Estimate(np.eye(6) + 1, normalize=True), *grid_index(6, 1), levels)


# ------------------------------------------------------------------ bias and intervals


def test_the_interval_is_centred_on_the_corrected_index():
    """Entries near zero whose noise max(M, 0) counts as mass: the truth lies above the index."""
    levels = even_levels(24)
    where = grid_index(24, 12)
    truth = np.exp(-np.abs(levels.timesteps[:, None] - levels.timesteps[None]) / 0.05)
    mask = window_mask(levels.timesteps, levels.window_timesteps)
    wanted, covered, plain = float(locality_index(truth, mask)), 0, 0
    rounds = 20
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        root = np.linalg.cholesky(truth + 1e-9 * np.eye(24))
        own = rng.normal(0, 0.25, (24, 12, 60))
        phi = np.concatenate([np.repeat(root[:, None], 12, 1), own], -1).reshape(24 * 12, -1)
        found = level_kernel(Estimate(phi @ phi.T, normalize=False), *where, levels, seed=seed)
        assert found.index_bias == pytest.approx(found.index_bootstrap.mean() - found.index)
        assert (found.index_low + found.index_high) / 2 == pytest.approx(found.index - found.index_bias)
        covered += found.index_low <= wanted <= found.index_high
        half = (found.index_high - found.index_low) / 2
        plain += abs(found.index - wanted) <= half
    assert covered > plain and covered >= 0.75 * rounds


def test_an_interval_that_leaves_the_range_is_cut_or_not_given():
    assert interval(0.9, 0.1, math.nan, 16, 0, limit=1.0)[1] == 1.0
    assert all(math.isnan(v) for v in interval(0.5, 0.1, 0.3, 16, 2, limit=1.0))
    assert interval(0.5, 0.1, 0.3, 16, 2)[1] > 1


def test_a_difference_smaller_than_its_bias_is_undecided():
    assert Contrast("a", 0.3, 0.1, 0.1, 0.5, bias=0.01).decided == 1
    assert Contrast("a", 0.3, 0.1, 0.1, 0.5, bias=-0.06).decided == 0


def test_a_floor_says_which_lags_it_averages():
    levels = even_levels(24)
    found = level_kernel(Estimate(np.ones((24 * 8, 24 * 8)), normalize=False), *grid_index(24, 8), levels)
    profile = found.by_timestep
    far = profile.lag >= profile.floor_from
    assert far.sum() == 6 and profile.floor == pytest.approx(profile.mean[far].mean())
