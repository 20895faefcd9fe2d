"""Energy of residuals in null spaces: from features, from kernels, from operators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import NullEnergy, mercer_decomposition, null_space_energy

TAUS = tuple(10.0**-k for k in range(1, 7))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(outputs: int, width: int = 6) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, outputs)).double()


# ---------------------------------------------------------------------------- from features


def test_a_stationary_residual_is_in_the_null_space() -> None:
    J, r = random(60, 19), random(60, seed=1)
    start = null_space_energy(J, r)
    assert start.ranks is not None and (start.ranks[1:] == 19).all()
    assert start.random[1:].tolist() == pytest.approx([1 - 19 / 60] * 11)
    fitted = r - J @ torch.linalg.lstsq(J, r[:, None]).solution[:, 0]
    end = null_space_energy(J.view(30, 2, 19), 1e-3 * fitted.view(30, 2))
    assert 0.4 < float(start.energy[-1]) < 0.9 < float(end.energy[-1]) == pytest.approx(1)
    assert end.rayleigh < 1e-20 < 1e-3 < start.rayleigh and end.norm == pytest.approx(1e-3 * float(fitted.norm()))
    expected = float((J.T @ r).norm() / (torch.linalg.svdvals(J)[0] * r.norm()))
    assert start.stationarity == pytest.approx(expected) == start.rayleigh**0.5


def test_the_curve_is_that_of_its_definition() -> None:
    J, r = random(12, 7), random(12, seed=1)
    J[:, 3:] *= 1e-4
    found = null_space_energy(J, r, [0.6, 1e-2, 1e-8])
    U, sigma, _ = torch.linalg.svd(J, full_matrices=False)
    for tau, energy in zip(found.tolerances, found.energy, strict=True):
        kept = U[:, sigma > tau * sigma[0]]
        assert float((r - kept @ (kept.T @ r)).square().sum() / r.square().sum()) == pytest.approx(float(energy))
    assert float(found.energy[0]) > float(found.energy[1]) > float(found.energy[2])
    torch.testing.assert_close(null_space_energy(J, -3 * r, [0.6, 1e-2, 1e-8]).energy, found.energy)


def test_random_directions_have_the_energy_and_the_spread_that_are_said() -> None:
    J = random(30, 9)
    found = null_space_energy(J, random(30, seed=1), [1e-9])
    each = torch.cat([null_space_energy(J, random(30, seed=s), [1e-9]).energy for s in range(400)])
    assert float(each.mean()) == pytest.approx(float(found.random), abs=4 * float(found.random_spread) / 20)
    assert float(each.std()) == pytest.approx(float(found.random_spread), rel=0.15)
    assert float(found.random) == pytest.approx(1 - 9 / 30)


def test_stationarity_bounds_the_curve() -> None:
    for seed in range(5):
        J, r = random(15, 15, seed=seed) * torch.logspace(0, -5, 15, dtype=torch.float64), random(15, seed=seed + 9)
        found = null_space_energy(J, r)
        assert bool((1 - found.energy <= found.rayleigh / found.tolerances.square() + 1e-12).all())


def test_rows_within_the_parameters_have_no_null_space() -> None:
    found = null_space_energy(random(5, 9), random(5, seed=1))
    assert found.energy[-1] == 0 and "the null space is empty" in found.notes[0]
    assert not null_space_energy(random(9, 5), random(9, seed=1)).notes


def test_precisions_and_floors_are_said() -> None:
    J, r = random(20, 5), random(20, seed=1)
    assert null_space_energy(J.float(), r).floor == pytest.approx(20 * 2**-23)
    single = null_space_energy(J.float(), r)
    assert "float32" in single.notes[0] and "7 of 12 tolerances are below the noise floor" in single.notes[1]
    assert not null_space_energy(J, r).notes
    assert "below the noise floor" in null_space_energy(J, r, [1e-18]).notes[0]


# --------------------------------------------------------------- from kernels and operators


@pytest.mark.parametrize("outputs", [1, 2])
def test_features_kernel_and_operator_agree(outputs: int) -> None:
    net, x = network(outputs), torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    r = random(40, outputs, seed=3)
    exact = null_space_energy(gk.tangent_features(net, x), r, TAUS)
    K = gk.kernel(net, x, cotangents=gk.blocks(), dtype="float64", progress=False)
    from_kernel = null_space_energy(K, r, TAUS)
    above = exact.tolerances > from_kernel.floor
    torch.testing.assert_close(from_kernel.energy[above], exact.energy[above], atol=1e-6, rtol=0)
    assert from_kernel.floor > 1e4 * exact.floor and "squares of singular values" in from_kernel.notes[0]
    torch.testing.assert_close(null_space_energy(mercer_decomposition(K), r, TAUS).energy, from_kernel.energy)

    few = null_space_energy(gk.operator(net, x), r, TAUS, steps=6, probes=4)
    many = null_space_energy(gk.operator(net, x), r, TAUS, steps=60, probes=40)
    for found in (few, many):
        above = exact.tolerances > found.floor
        assert bool(
            (found.low - 1e-9 <= exact.energy)[above].all() and (exact.energy <= found.high + 1e-9)[above].all()
        )
        assert found.rayleigh == pytest.approx(exact.rayleigh, rel=1e-9) and found.norm == pytest.approx(exact.norm)
        assert found.ranks is None
    coarse = exact.tolerances > 1e-4
    torch.testing.assert_close(many.energy[coarse], exact.energy[coarse], atol=1e-6, rtol=0)
    error = (many.random - exact.random).abs()[coarse]
    assert bool((error <= 4 * many.random_stderr[coarse] + 1e-9).all()) and float(many.random_stderr.max()) > 0


def test_a_residual_that_misses_the_largest_mode_is_still_measured_against_it() -> None:
    net, x = network(1), torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    J = gk.tangent_features(net, x)[:, 0]
    U, sigma, _ = torch.linalg.svd(J, full_matrices=False)
    ratio = float(sigma[3] / sigma[0])
    for features in (J, gk.operator(net, x)):
        found = null_space_energy(features, U[:, 3], [1.001 * ratio, 0.999 * ratio])
        assert found.energy.tolist() == pytest.approx([1, 0], abs=1e-8)
        assert found.rayleigh == pytest.approx(ratio**2, rel=1e-6)


# ------------------------------------------------------------------------------- bad input


def test_bad_input_is_said() -> None:
    J = torch.eye(3, dtype=torch.float64)
    net, x = network(1), torch.ones(3, 1, dtype=torch.float64)
    operator = gk.operator(net, torch.linspace(0, 1, 3, dtype=torch.float64)[:, None])
    modes = mercer_decomposition(J)
    J = J[:, None]  # [3, 1, P]
    for residual, words in (
        (torch.zeros(3), "zero"),
        (torch.ones(4), "4 entries"),
        (torch.full((3,), math.nan), "NaN"),
    ):
        for features in (J, modes, operator):
            with pytest.raises(InputError, match=words):
                null_space_energy(features, residual)
    for taus in ([2.0], [], [0.0], [math.nan]):
        with pytest.raises(InputError, match="between 0 and 1"):
            null_space_energy(J, torch.ones(3), taus)
    with pytest.raises(InputError, match="nothing can be learned"):
        null_space_energy(0 * J, torch.ones(3))
    with pytest.raises(InputError, match="NaN"):
        null_space_energy(J * math.nan, torch.ones(3))
    with pytest.raises(InputError, match="all 3 modes"):
        null_space_energy(mercer_decomposition(J[:, 0], 2), torch.ones(3))
    with pytest.raises(InputError, match="2 or more steps"):
        null_space_energy(operator, torch.ones(3), steps=1)
    with pytest.raises(InputError, match="x against x"):
        null_space_energy(gk.kernel(net, x, 2 * x, progress=False), torch.ones(3))


def test_a_tie_at_the_largest_value_is_no_problem() -> None:
    found: NullEnergy = null_space_energy(torch.eye(4, dtype=torch.float64)[:, None], torch.ones(4), [0.5])
    assert found.energy.tolist() == [0] and found.rayleigh == pytest.approx(1)


def test_the_spread_over_directions_is_that_of_directions_and_no_matter_of_probes() -> None:
    """Random signs do not see the diagonal of U Uᵀ: theirs is another spread, of which the baseline's error is."""
    r, x = random(30, seed=1), random(30, 1, seed=2)
    operator = gk.operator(network(1, 9), x)
    exact = null_space_energy(gk.tangent_features(network(1, 9), x), r, [1e-3])
    errors = []
    for probes in (8, 64):
        found = null_space_energy(operator, r, [1e-3], steps=20, probes=probes)
        assert float(found.random_spread) == pytest.approx(float(exact.random_spread), rel=0.1)
        errors.append(float(found.random_stderr))
    assert 1.5 < errors[0] / errors[1] < 5  # √8
    assert not exact.random_stderr.any()


@pytest.mark.parametrize("rows", [3, 5])
def test_the_spread_of_few_rows_is_that_of_a_beta_distribution(rows: int) -> None:
    J = random(rows, 2)
    p = 1 - 2 / rows
    found = null_space_energy(J, random(rows, seed=1), [1e-9])
    assert float(found.random_spread) == pytest.approx((2 * p * (1 - p) / (rows + 2)) ** 0.5)
    z = random(rows, 20_000, seed=5)
    U = torch.linalg.qr(J)[0]
    outside = 1 - (U.T @ (z / z.norm(dim=0))).square().sum(0)
    assert float(found.random_spread) == pytest.approx(float(outside.std()), rel=0.03)


# --------------------------------------------------------------------- what fits what, and how large


def test_floors_are_roots_of_the_eigenvalues_floors() -> None:
    net, x = network(1), torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    r, eps = random(40, seed=3), 2.0**-52
    K = gk.kernel(net, x, dtype="float64", progress=False)
    assert null_space_energy(K, r).floor == pytest.approx((40 * eps) ** 0.5)
    assert null_space_energy(mercer_decomposition(K), r).floor == pytest.approx((40 * eps) ** 0.5)
    assert null_space_energy(gk.operator(net, x), r).floor == pytest.approx((40**0.5 * eps) ** 0.5, rel=1e-3)
    assert null_space_energy(gk.tangent_features(net, x), r).floor == pytest.approx(40 * eps)


@pytest.mark.parametrize("scale", [1e155, 1e-155, 1e300])
def test_residuals_of_any_size_have_a_direction(scale: float) -> None:
    net, x = network(1), torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    r = random(20, seed=3)
    K = gk.kernel(net, x, dtype="float64", progress=False)
    for source in (gk.tangent_features(net, x), K, gk.operator(net, x)):
        plain, found = null_space_energy(source, r, TAUS), null_space_energy(source, scale * r, TAUS)
        torch.testing.assert_close(found.energy, plain.energy, atol=1e-4, rtol=0)
        assert found.norm == pytest.approx(scale * plain.norm) and found.rayleigh == pytest.approx(plain.rayleigh)


def test_kernels_that_no_residual_belongs_to_are_refused() -> None:
    net, x, r = network(3), torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None], torch.ones(8)
    trace = gk.kernel(net, x, cotangents=gk.exact_trace(), dtype="float64", progress=False)
    for kernel in (
        trace,
        mercer_decomposition(trace),
        gk.kernel(net, x, cotangents=gk.probes(4), progress=False),
        gk.operator(net, x, cotangents=gk.exact_trace()),
        gk.operator(net, x, cotangents=gk.probes(1)),
    ):
        with pytest.raises(InputError, match=r"sum over the outputs .* gk\.blocks\(\)"):
            null_space_energy(kernel, r)
    with pytest.raises(InputError, match="normalised"):
        null_space_energy(gk.kernel(net, x, cotangents=gk.output(1), progress=False).normalized(), r)
    # of one output, a trace is the kernel; and one output's kernel has that output's residual
    one = network(1)
    expected = null_space_energy(gk.tangent_features(one, x), r, [1e-2])
    for cotangents in (gk.exact_trace(), gk.probes(2), gk.total()):
        K = gk.kernel(one, x, cotangents=cotangents, dtype="float64", progress=False)
        torch.testing.assert_close(null_space_energy(K, r, [1e-2]).energy, expected.energy)
        operator = gk.operator(one, x, cotangents=cotangents)
        torch.testing.assert_close(null_space_energy(operator, r, [1e-2]).energy, expected.energy)
    K = gk.kernel(net, x, cotangents=gk.output(1), dtype="float64", progress=False)
    expected = null_space_energy(gk.tangent_features(net, x)[:, 1], r, [1e-2])
    torch.testing.assert_close(null_space_energy(K, r, [1e-2]).energy, expected.energy)


def test_a_residual_has_a_row_for_every_sample_or_is_flat() -> None:
    net, x = network(3), torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None]
    r = random(8, 3, seed=2)
    J, K = gk.tangent_features(net, x), gk.kernel(net, x, cotangents=gk.blocks(), dtype="float64", progress=False)
    for source in (J, K, mercer_decomposition(K), gk.operator(net, x)):
        expected = null_space_energy(source, r, [1e-2])
        for same in (r.reshape(-1), r.reshape(8, 1, 3), r.numpy()):
            torch.testing.assert_close(null_space_energy(source, same, [1e-2]).energy, expected.energy)
        for wrong in (r.T, r[:, 0], r.reshape(4, 6), r.reshape(1, 24)):
            with pytest.raises(InputError, match=r"give \[8, 3\], or flat \[24\]"):
                null_space_energy(source, wrong, [1e-2])


def test_a_matrix_of_a_kernel_is_not_taken_for_features() -> None:
    J, r = random(6, 9), random(6, seed=1)
    for K in (J @ J.T, (J @ J.T).float()):
        with pytest.raises(InputError, match=r"mercer_decomposition\(K\)"):
            null_space_energy(K, r)
    null_space_energy((J @ J.T)[:, None], r)
    null_space_energy(random(6, 6), r)


def test_features_beyond_the_memory_are_refused_by_size() -> None:
    J, r = random(4, 2, 1000), random(4, 2, seed=1)
    with pytest.raises(InputError, match=r"\[4, 2, 1000\] need .* GiB .* memory='100KiB'"):
        null_space_energy(J, r, memory="100KiB")
    enough = 2 * J.numel() * 8 + 5 * 8 * 8**2
    whole = null_space_energy(J, r, memory=enough)
    torch.testing.assert_close(whole.energy, null_space_energy(J, r).energy)
    with pytest.raises(InputError, match="more than memory"):
        null_space_energy(J, r, memory=enough - 1)
    with pytest.raises(InputError, match="more than memory"):
        null_space_energy(J.float(), r, memory=enough)  # and a copy in float64
