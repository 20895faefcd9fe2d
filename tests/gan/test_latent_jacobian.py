"""Latent Jacobians against dense ones, and what is read off them against known values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError
from genkernel.gan import Generator, latent_jacobian
from genkernel.gan.latent_jacobian import latent_spectra, metric, path_length, summarise
from tests.gan.generators import GENERATORS, Case, Net, PixelNorm, named
from tests.tangent.compare import relative_error
from tests.tangent.snapshot import Snapshot


def true_jacobian(gen: Generator, batch: dict[str, Any]) -> Tensor:
    """``[n, O, d]`` by ``torch.autograd.functional.jacobian`` of each latent alone."""
    rows = []
    for i in range(len(batch["z"])):
        one = {k: v[i : i + 1] if isinstance(v, Tensor) else v for k, v in batch.items()}
        one = {k: [t[i : i + 1] for t in v] if isinstance(v, list) else v for k, v in one.items()}

        def at(z: Tensor, one: dict[str, Any] = one) -> Tensor:
            return gen.tangent.call(gen.module, {**one, "z": z})

        rows.append(torch.autograd.functional.jacobian(at, one["z"]).reshape(-1, one["z"].numel()))
    return torch.stack(rows)


def linear(A: Tensor) -> Generator:
    layer = nn.Linear(A.shape[1], A.shape[0], bias=False, dtype=A.dtype)
    layer.weight.data.copy_(A)
    return Generator(nn.Sequential(layer))


def with_spectrum(rows: int, columns: int, values: list[float], seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    k = len(values)
    U, V = (
        torch.linalg.qr(torch.randn(size, k, generator=draw, dtype=torch.float64)).Q for size in (rows, columns)
    )  # fmt: skip
    return U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V.T


# ---------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("case", GENERATORS, ids=repr)
def test_singular_values_are_those_of_the_dense_jacobian(case: Case) -> None:
    module = case.module()
    gen = Generator(module, **case.options)
    batch = gen.draw(3, seed=2)
    before = Snapshot(module, batch)
    spectra = latent_spectra(gen, batch)
    G = metric(gen, batch)
    before.check()
    J = true_jacobian(gen, batch)
    assert spectra.exact and spectra.latents.tolist() == [0, 1, 2]
    np.testing.assert_allclose(spectra.singular_values, torch.linalg.svdvals(J).numpy(), rtol=1e-10, atol=1e-12)
    assert relative_error(G, J.mT @ J) < 1e-10
    assert spectra.method == ("backward" if J.shape[1] < J.shape[2] else "forward")


def test_a_direction_without_effect_is_seen() -> None:
    """Pixel norm of the latent: its length does not matter, up to the 1e-8 that keeps the root from zero."""
    torch.manual_seed(0)
    gen = Generator(nn.Sequential(PixelNorm(), nn.Linear(4, 6)))
    spectra = latent_spectra(gen, gen.draw(4))
    assert (spectra.rank == 3).all() and np.isinf(spectra.condition_number).all()
    exact = latent_spectra(gen, gen.draw(4), dtype="float64")
    assert (
        (exact.rank == 4).all() and (exact.condition_number > 1e7).all() and np.isfinite(exact.condition_number).all()
    )
    np.testing.assert_allclose(spectra.effective_rank, exact.effective_rank, rtol=1e-4)


def test_some_latents_and_the_largest_values() -> None:
    case = named(GENERATORS, "dcgan")
    gen = Generator(case.module())
    batch = gen.draw(7)
    every, some = latent_spectra(gen, batch), latent_spectra(gen, batch, [5, 0, 3], top=2)
    np.testing.assert_allclose(some.singular_values, every.singular_values[[5, 0, 3], :2], rtol=1e-12)
    assert not some.exact and some.latents.tolist() == [5, 0, 3]
    assert latent_spectra(gen, batch, torch.tensor([1]), top=5).exact
    small = latent_spectra(gen, batch, memory=1)  # one latent at a time
    np.testing.assert_allclose(small.singular_values, every.singular_values, rtol=1e-12)


@pytest.mark.parametrize("shape", [(320, 300), (300, 320)])
def test_the_largest_by_random_projection(shape: tuple[int, int]) -> None:
    """Exact to rounding where the rest is small; a few percent where it falls off slowly."""
    steep = linear(with_spectrum(*shape, [2.0**-k for k in range(40)]))
    batch = steep.draw(3)
    found = latent_spectra(steep, batch, top=10)
    assert not found.exact and found.singular_values.shape == (3, 10)
    np.testing.assert_allclose(found.singular_values, np.tile(2.0 ** -np.arange(10), (3, 1)), rtol=1e-6)
    slow = [1 / math.sqrt(k + 1) for k in range(300)]
    found = latent_spectra(linear(with_spectrum(*shape, slow)), batch if shape[1] == 300 else steep.draw(3))
    assert found.singular_values.shape == (3, 64)
    ratio = found.singular_values / np.array(slow[:64])
    assert (ratio <= 1 + 1e-9).all() and (ratio[:, :10] > 0.97).all() and (ratio > 0.75).all()
    all_of_them = latent_spectra(steep, batch, [0], top=300)
    assert all_of_them.exact and all_of_them.singular_values.shape == (1, 300)


def test_a_projection_of_a_curved_generator() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(260, 20), nn.Tanh(), nn.Linear(20, 270)).double()
    gen = Generator(net)
    batch = gen.draw(4)
    exact = torch.linalg.svdvals(true_jacobian(gen, batch)).numpy()
    found = latent_spectra(gen, batch, top=16)  # of a matrix of rank 20, within the width of the projection
    np.testing.assert_allclose(found.singular_values, exact[:, :16], rtol=1e-10)
    one = latent_spectra(gen, batch, [2], top=16)
    np.testing.assert_allclose(one.singular_values[0], found.singular_values[2], rtol=1e-12)
    again = latent_spectra(gen, batch, top=16, memory=1)
    np.testing.assert_allclose(again.singular_values, found.singular_values, rtol=1e-12)


def test_more_latent_than_output_dimensions_need_no_projection() -> None:
    torch.manual_seed(0)
    gen = Generator(nn.Sequential(nn.Linear(400, 9), nn.Tanh()).double())
    spectra = latent_spectra(gen, gen.draw(2))
    assert spectra.exact and spectra.singular_values.shape == (2, 9) and spectra.method == "backward"


# --------------------------------------------------------------------------------- known values


def test_numbers_of_a_known_matrix() -> None:
    gen = linear(with_spectrum(7, 4, [8.0, 4.0, 2.0, 1.0]))
    spectra = latent_spectra(gen, gen.draw(2))
    np.testing.assert_allclose(spectra.singular_values, [[8, 4, 2, 1]] * 2, rtol=1e-12)
    np.testing.assert_allclose(spectra.condition_number, 8, rtol=1e-12)
    np.testing.assert_allclose(spectra.log_volume, 6 * math.log(2), rtol=1e-12)
    p = np.array([64, 16, 4, 1]) / 85
    np.testing.assert_allclose(spectra.effective_rank, math.exp(-(p * np.log(p)).sum()), rtol=1e-12)
    assert spectra.rank.tolist() == [4, 4]


def test_numbers_of_equal_of_one_and_of_no_singular_values() -> None:
    values = np.array([[3.0, 3.0, 3.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [5.0, 1e-9, 1e-20]])
    found = summarise(values, True, 1e-8, np.arange(4))
    np.testing.assert_allclose(found.effective_rank, [3, 1, 0, 1], atol=1e-12)
    assert found.condition_number.tolist() == [1, math.inf, math.inf, math.inf]
    noise = math.log(1e-8)
    expected = [3 * math.log(3), 3 * math.log(2) + 2 * noise, -math.inf, 3 * math.log(5) + 2 * noise]
    np.testing.assert_allclose(found.log_volume, expected)
    assert found.rank.tolist() == [3, 1, 0, 1]


def test_scaling_a_generator_moves_its_volume_alone() -> None:
    A = with_spectrum(6, 3, [3.0, 2.0, 0.5])
    one, ten = (latent_spectra(linear(c * A), linear(A).draw(1)) for c in (1, 10))
    np.testing.assert_allclose(ten.log_volume - one.log_volume, 3 * math.log(10))
    np.testing.assert_allclose(ten.condition_number, one.condition_number)
    np.testing.assert_allclose(ten.effective_rank, one.effective_rank)


def test_medians_by_cluster() -> None:
    values = np.array([[4.0, 1.0], [2.0, 2.0], [6.0, 1.0], [1.0, 0.0]])
    spectra = summarise(values, True, 1e-8, np.array([0, 2, 3, 5]))
    found = spectra.by_cluster(np.array([0, 9, 1, 0, 9, 1]), 4)
    np.testing.assert_allclose(found["condition_number"], [5, math.inf, math.nan, math.nan])
    np.testing.assert_allclose(found["log_volume"][:2], [math.log(24) / 2, math.log(4e-8) / 2])
    assert set(found) == {"log_volume", "condition_number", "effective_rank"}
    with pytest.raises(InputError, match="latent 5 has no cluster: there are 5 labels"):
        spectra.by_cluster(np.zeros(5, dtype=np.int64), 1)


# ---------------------------------------------------------------------------------- path lengths


def ends(gen: Generator, a: Tensor, b: Tensor, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return gen.batch(a, **options), gen.batch(b, **options)


def test_a_path_through_a_linear_generator() -> None:
    A = with_spectrum(7, 4, [3.0, 2.0, 1.0, 0.1])
    gen = linear(A)
    a, b = gen.draw(45)["z"], gen.draw(45, seed=1)["z"]
    found = path_length(gen, *ends(gen, a, b))
    torch.testing.assert_close(found, ((b - a) @ A.T).norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(path_length(gen, *ends(gen, a, b), points=2), found, rtol=1e-12, atol=0)


def test_a_path_along_a_circle_and_along_a_parabola() -> None:
    circle = Net(
        lambda net, z: net.r * torch.cat([z.cos(), z.sin()], 1), r=nn.Parameter(torch.tensor(2.5)), latent_dim=1
    )
    gen = Generator(circle.double())
    a, b = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[3.0], [0.5]]).double()
    found = path_length(gen, *ends(gen, a, b))
    torch.testing.assert_close(found, torch.tensor([7.5, 1.25], dtype=torch.float64), rtol=1e-12, atol=0)
    growing = Generator(Net(lambda net, z: net.r * z.exp(), r=nn.Parameter(torch.ones(1)), latent_dim=1).double())
    z0, z1 = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    gaps = [float(path_length(growing, *ends(growing, z0, z1), points=p)) - (math.e - 1) for p in (5, 9, 17)]
    assert gaps[0] / gaps[1] == pytest.approx(4, abs=0.1) and gaps[1] / gaps[2] == pytest.approx(4, abs=0.05)


def test_a_path_is_followed_in_the_space_that_is_analysed_and_within_a_class() -> None:
    case = named(GENERATORS, "stylegan_w_conditional")
    gen = Generator(case.module(), **case.options)
    start, end = gen.draw(2, labels=[0, 1]), gen.draw(2, seed=1, labels=[3, 1])
    lengths = path_length(gen, start, end, points=65)
    images = gen.images({**start, "z": torch.stack([start["z"] + s * (end["z"] - start["z"]) for s in (0.0, 1.0)])[0]})
    assert (lengths >= (gen.images(end) - images).flatten(1).norm(dim=1)).all()  # no shorter than the straight line
    embedded = named(GENERATORS, "embedded_labels")
    other = Generator(embedded.module(), **embedded.options)
    with pytest.raises(InputError, match="stays within a class"):
        path_length(other, other.draw(2, labels=[0, 1]), other.draw(2, labels=[0, 2]))
    assert (path_length(other, other.draw(2), other.draw(2, seed=1)) > 0).all()


def test_ends_that_do_not_fit() -> None:
    gen = linear(torch.eye(3, dtype=torch.float64))
    with pytest.raises(InputError, match="a path needs at least two points, not 1"):
        path_length(gen, gen.draw(2), gen.draw(2), points=1)
    with pytest.raises(InputError, match="a path leads from 2 latents to as many others"):
        path_length(gen, gen.draw(2), gen.draw(3))


# ----------------------------------------------------------------------------------- refusals


def test_what_there_is_not() -> None:
    gen = linear(with_spectrum(5, 3, [1.0, 1.0, 1.0]))
    batch = gen.draw(4)
    for wrong, message in (([], "at least one"), ([0.5], "positions in the batch"), ([True, False], "not bool"),
                           ([4], "lie in 0 … 3, these reach from 4 to 4"), ([-1], "reach from -1")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            latent_spectra(gen, batch, wrong)
    for top in (0, 4):
        with pytest.raises(InputError, match=f"there are 3 singular values, so top lies in 1 … 3, not at {top}"):
            latent_spectra(gen, batch, top=top)


def test_a_latent_where_the_slope_is_infinite_is_named() -> None:
    gen = Generator(Net(lambda net, z: (net.r * z).abs().sqrt(), r=nn.Parameter(torch.ones(1)), latent_dim=2).double())
    batch = gen.draw(4)
    batch["z"][2] = 0
    with pytest.raises(NonFiniteError, match="NaN or infinite for sample 2"):
        latent_spectra(gen, batch)


def test_the_jacobian_itself_is_at_hand() -> None:
    gen = linear(with_spectrum(5, 3, [3.0, 2.0, 1.0]))
    J = latent_jacobian.latent_jacobian(gen, gen.draw(4), dtype="float64")
    assert J.input_shape == (3,) and J.output_shape == (5,) and J.method == "forward"
