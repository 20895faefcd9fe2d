"""Ranks and the rank gap: THEORY's figures, tolerances, sketches, and where a gap lives."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import novelty, numerical_rank, projection_distance, tangent_rank_gap

INSIDE = torch.tensor([0.9, 0.5, 0.0, -0.3, -0.7], dtype=torch.float64)
DEAD = torch.tensor([0.9, 0.5, 0.0, -0.3, -1.5], dtype=torch.float64)
HEIGHTS = torch.tensor([0.5, -0.3, 0.8, 0.2, 0.6], dtype=torch.float64)
TRAINED, NEW = (torch.linspace(-end, end, count, dtype=torch.float64) for end, count in ((1, 40), (2, 60)))


def relu_features(x: Tensor, thresholds: Tensor) -> Tensor:
    """Of f = Σ_j a_j relu(x + b_j) in (a, b) ``[n, 10]``."""
    z = x[:, None] + thresholds
    return torch.cat([z.relu(), HEIGHTS * (z > 0)], 1)


class Relus(nn.Module):
    """The same as a network."""

    def __init__(self, thresholds: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(HEIGHTS.clone()), nn.Parameter(thresholds.clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.b).relu() @ self.a[:, None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def falling(decades: int, rows: int = 40) -> Tensor:
    """Singular values 1, .1, .01, … in a random basis ``[rows, decades]``."""
    scales = torch.logspace(0, 1 - decades, decades, dtype=torch.float64)
    return torch.linalg.qr(random(rows, decades))[0] * scales


# ---------------------------------------------------------------------------------- ranks


def test_ranks_are_of_features_and_not_of_their_squares() -> None:
    phi = falling(12)
    found = numerical_rank(phi.reshape(20, 2, 12))
    assert found.value == 12 and not found.notes
    K = phi @ phi.T
    assert int((torch.linalg.eigvalsh(K) > 40 * 2.2e-16 * torch.linalg.eigvalsh(K)[-1]).sum()) in (7, 8)


def test_tolerances_that_cannot_be_trusted_are_named() -> None:
    phi = falling(6)
    large = numerical_rank(phi, 3e-3)
    assert large.value == 3 and "3 singular values" in large.notes[0] and "resolved" in large.notes[0]
    assert large.curve([0.5, 3e-3, 1e-9]).tolist() == [1, 3, 6]
    small = numerical_rank(phi @ torch.eye(6, 9, dtype=torch.float64), 1e-20)
    assert "below the noise floor" in small.notes[-1] and small.tolerance < small.floor
    exact = numerical_rank(torch.diag(torch.tensor([1.0, 0.5, 1e-17], dtype=torch.float64)), 1e-16)
    assert exact.value == 2 and exact.notes[-1].endswith("is below the noise floor, 7e-16")  # none between them
    rounding = numerical_rank(torch.diag(torch.tensor([1.0, 0.5, 3e-16], dtype=torch.float64)), 1e-16)
    assert rounding.value == 3 and "1 singular values between them count" in rounding.notes[-1]
    with pytest.raises(InputError, match="between 0 and 1"):
        numerical_rank(phi, 1.0)
    with pytest.raises(InputError, match="between 0 and 1"):
        large.curve([0.0])


def test_float32_features_have_a_larger_floor() -> None:
    single, double = numerical_rank(falling(12).float()), numerical_rank(falling(12))
    assert single.floor == pytest.approx(40 * torch.finfo(torch.float32).eps, rel=1e-3)
    assert single.floor / double.floor == pytest.approx(2**29, rel=1e-3)
    assert single.value < 8 and "float32" in single.notes[0] and "9e-15" in single.notes[0]
    mixed = tangent_rank_gap(falling(12), falling(12).float())
    assert mixed.mixed.floor == pytest.approx(80 * 2**-23 * float(mixed.mixed.singular_values[0]))


def test_zero_features_have_rank_zero_and_say_so() -> None:
    found = numerical_rank(torch.zeros(4, 3))
    assert found.value == 0 and "all features are zero" in found.notes[0]
    gap = tangent_rank_gap(torch.zeros(4, 3), torch.tensor([[0.0, 2.0, 0.0]] * 2))
    assert (gap.gap, gap.trained.value, gap.vacuous) == (1, 0, False)
    assert gap.coordinates.tolist() == [0, pytest.approx(1), 0]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.full((3, 2), math.nan), "NaN"),
        (torch.tensor([[1.0, math.inf]]), "infinite"),
        (torch.ones(3), "one row per sample"),
        (torch.ones(0, 3), "one row per sample"),
        (torch.ones(2, 2, dtype=torch.complex64), "complex"),
    ],
)
def test_bad_features_are_said(features: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        numerical_rank(features)
    with pytest.raises(InputError, match=words):
        tangent_rank_gap(torch.ones(2, 3), features)


# ----------------------------------------------------------------------------------- gaps


def test_a_unit_that_no_training_sample_reaches_is_a_gap_of_two() -> None:
    good = tangent_rank_gap(relu_features(TRAINED, INSIDE), relu_features(NEW, INSIDE))
    assert (good.gap, good.trained.value, good.stable, good.notes) == (0, 10, True, ())
    assert good.directions is not None and tuple(good.directions.shape) == (0, 10)
    dead = tangent_rank_gap(relu_features(TRAINED, DEAD), relu_features(NEW, DEAD))
    assert (dead.gap, dead.trained.value, dead.mixed.value) == (2, 8, 10)
    assert dead.stable and dead.by_factor == {1e-2: 2, 1.0: 2, 1e2: 2} and not dead.vacuous
    assert dead.curve([0.5, 1e-8]).tolist()[1] == 2


def test_a_gap_says_where_it_lives() -> None:
    net = Relus(DEAD)
    trained, new = (gk.tangent_features(net, x[:, None]) for x in (TRAINED, NEW))
    torch.testing.assert_close(trained[:, 0], relu_features(TRAINED, DEAD))
    gap = tangent_rank_gap(trained, new)
    assert [name for name, _ in gap.located(net)] == ["a[4]", "b[4]"]
    assert [share for _, share in gap.located(net)] == pytest.approx([1, 1])
    assert gap.by_parameter(net) == pytest.approx({"a": 1, "b": 1})
    with pytest.raises(InputError, match="6 selected parameters"):
        gap.located(nn.Linear(5, 1))


def test_directions_are_orthonormal_and_outside_of_the_span() -> None:
    turn = torch.linalg.qr(random(30, 30))[0]
    trained = random(20, 12) @ turn[:12]
    new = torch.cat([trained[:4], random(6, 5, seed=1) @ turn[12:17] + random(6, 12, seed=2) @ turn[:12]])
    gap = tangent_rank_gap(trained, new)
    assert gap.gap == 5 and gap.directions is not None
    torch.testing.assert_close(gap.directions @ gap.directions.T, torch.eye(5, dtype=torch.float64))
    assert float((gap.directions @ trained.T).abs().max()) < 1e-12
    torch.testing.assert_close(gap.directions @ turn[12:17].T @ turn[12:17], gap.directions)


def test_a_gap_that_hangs_on_the_tolerance_says_so() -> None:
    trained = torch.diag(torch.tensor([1.0, 1e-3, 0.0], dtype=torch.float64))
    new = torch.tensor([[0.0, 0.0, 3e-9]], dtype=torch.float64)
    found = tangent_rank_gap(trained, new, 1e-8)
    assert found.gap == 0 and found.by_factor[1e-2] == 1 and not found.stable
    assert any(note.startswith("tolerance-dependent, not a finding") for note in found.notes)


def test_a_change_below_the_floor_is_named_as_rounding() -> None:
    new = torch.tensor([[0.0, 0.0, 1e-17]], dtype=torch.float64)
    trained = torch.diag(torch.tensor([1.0, 1e-3, 0.0], dtype=torch.float64))
    found = tangent_rank_gap(trained, new)
    assert not found.stable and "rounding" in found.notes[-1]


def test_with_more_parameters_than_rows_a_gap_is_vacuous() -> None:
    gap = tangent_rank_gap(random(6, 40), random(5, 40, seed=1))
    assert gap.gap == 5 and gap.vacuous and gap.directions is None and "vacuous" in gap.notes[-1]
    with pytest.raises(InputError, match="no directions"):
        _ = gap.coordinates
    few = torch.eye(4, 5, dtype=torch.float64)[[0, 1, 2]]
    part = tangent_rank_gap(few, torch.eye(5, dtype=torch.float64)[1:4])
    assert part.gap == 1 and part.vacuous  # rows fewer than parameters: a fourth sample could have done the same
    repeated = tangent_rank_gap(random(6, 40), random(6, 40)[:3])
    assert repeated.gap == 0 and not repeated.vacuous


def padded(kind: str, J: Tensor) -> Tensor:
    more = {
        "plain": J[:0],
        "copy": J[:1],
        "copies": J,
        "copies to rounding": J * (1 + 1e-15),
        "multiple": 2 * J[:1],
        "no gradient": 0 * J[:1],
        "mostly without gradient": 0 * J.repeat(3, 1),
    }[kind]
    return torch.cat([J, more])


KINDS = ["plain", "copy", "copies", "copies to rounding", "multiple", "no gradient", "mostly without gradient"]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_dead_samples_do_not_make_a_finding_of_a_vacuous_gap(kind: str) -> None:
    gap = tangent_rank_gap(padded(kind, random(30, 200)), random(5, 200, seed=2))
    assert gap.gap == 5 and gap.vacuous and gap.directions is None and gap.alone > 0.9
    assert "vacuous" in gap.notes[-1] and "30 of 30" in gap.notes[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parameters", [200, 20])  # fewer rows than parameters, and more
def test_a_span_that_training_samples_fill_several_times_over_is_no_vacuous_one(kind: str, parameters: int) -> None:
    low = random(40, 8) @ random(8, parameters, seed=1)
    gap = tangent_rank_gap(padded(kind, low), random(5, parameters, seed=2))
    assert (gap.gap, gap.trained.value, gap.vacuous, gap.alone) == (5, 8, False, 0)
    assert gap.directions is not None and not any("vacuous" in note for note in gap.notes)


@pytest.mark.parametrize("parameters", [200, 20])
def test_some_samples_outside_of_the_others_are_counted_and_said(parameters: int) -> None:
    trained = torch.cat([random(40, 8) @ random(8, parameters, seed=1), random(4, parameters, seed=3)])
    gap = tangent_rank_gap(trained, random(5, parameters, seed=2))
    assert gap.gap == 5 and not gap.vacuous and gap.alone == pytest.approx(4 / 44)
    assert "4 of 44 training samples" in gap.notes[-1] and "9%" in gap.notes[-1]
    assert math.isnan(tangent_rank_gap(trained, trained[:2]).alone)


def test_samples_are_left_out_with_all_of_their_outputs() -> None:
    """Rows that sum to zero over outputs: every row is made up by its sample's others, and no sample by others."""
    J = random(10, 3, 200)
    J = J - J.mean(1, keepdim=True)
    for trained in (J, torch.cat([J, J[:2]])):
        gap = tangent_rank_gap(trained, random(2, 3, 200, seed=1))
        assert gap.trained.value == 20 and gap.vacuous and gap.alone == 1


def test_new_directions_are_outside_of_the_span_to_rounding_where_little_of_the_new_is() -> None:
    """One projection leaves rounding of the whole row in a rest that is 1e-9 of it."""
    turn = torch.linalg.qr(random(30, 30))[0]
    trained = random(20, 12) @ turn[:12]
    gap = tangent_rank_gap(trained, random(3, 12, seed=1) @ turn[:12] + 1e-9 * random(3, 2, seed=2) @ turn[12:14])
    assert gap.gap == 2 and gap.directions is not None
    assert float((gap.directions @ turn[:12].T).abs().max()) < 1e-12


def test_outputs_stacked_and_one_by_one() -> None:
    trained, new = torch.zeros(8, 2, 6, dtype=torch.float64), torch.zeros(5, 2, 6, dtype=torch.float64)
    trained[:, 0, :2], trained[:, 1, 2:4] = random(8, 2), random(8, 2, seed=1)
    new[:, 0, :3], new[:, 1, 1:4] = random(5, 3, seed=2), random(5, 3, seed=3)
    stacked = tangent_rank_gap(trained, new)
    alone = [tangent_rank_gap(trained[:, o], new[:, o]) for o in range(2)]
    assert stacked.gap == 0  # what is new to either output, the other has seen
    assert [one.gap for one in alone] == [1, 1]
    assert alone[0].coordinates.tolist() == pytest.approx([0, 0, 1, 0, 0, 0], abs=1e-12)


def test_ranks_do_not_hang_on_the_basis_or_the_order_of_samples() -> None:
    turn = torch.linalg.qr(random(10, 10))[0]
    trained, new = relu_features(TRAINED, DEAD), relu_features(NEW, DEAD)
    found = tangent_rank_gap((trained @ turn).flip(0), new[torch.randperm(60)] @ turn, 1e-10)
    assert (found.gap, found.trained.value) == (2, 8)
    d, same = projection_distance(trained, new), projection_distance(trained @ turn, new @ turn)
    torch.testing.assert_close(d, same, atol=1e-12, rtol=0)


def test_parameters_have_to_be_the_same() -> None:
    for measure in (tangent_rank_gap, projection_distance):
        with pytest.raises(InputError, match="do not mix"):
            measure(torch.ones(2, 3), torch.ones(2, 4))


# ------------------------------------------------------------------------ projection distance


def test_the_projection_distance_of_the_dead_unit() -> None:
    x = torch.tensor([-2.0, 0.0, 1.4, 1.6, 2.0], dtype=torch.float64)
    trained, new = relu_features(TRAINED, DEAD), relu_features(x, DEAD)
    d = projection_distance(trained, new)
    expected = new[:, [4, 9]].norm(dim=1) / new.norm(dim=1).clamp_min(1e-300)
    torch.testing.assert_close(d, expected, atol=1e-12, rtol=0)
    assert float(d[:3].max()) < 1e-12 < 0.1 < float(d[3])
    by_kernel = novelty(trained @ trained.T, new @ trained.T, new.square().sum(1)).projection_distance
    torch.testing.assert_close(by_kernel, d, atol=1e-6, rtol=0)


def test_projection_distance_has_the_shape_of_the_features() -> None:
    trained, new = random(4, 2, 30), random(3, 2, 30, seed=1)
    d = projection_distance(trained, new)
    assert tuple(d.shape) == (3, 2) and bool(((d > 0.5) & (d < 1)).all())
    assert float(projection_distance(trained, trained).max()) < 1e-12
    assert projection_distance(trained, torch.zeros(1, 2, 30)).tolist() == [[0, 0]]


def test_projection_distances_from_features_and_from_kernels() -> None:
    """They agree over all outputs and output by output; what the kernel loses are distances below √tolerance."""
    trained, new = random(5, 2, 30), random(4, 2, 30, seed=1)
    K, cross = (torch.einsum("nop,mqp->nmoq", one, trained) for one in (trained, new))
    own = new.square().sum(2)
    d = projection_distance(trained, new)
    over_outputs = ((d.square() * own).sum(1) / own.sum(1)).sqrt()
    torch.testing.assert_close(novelty(K, cross, own).projection_distance, over_outputs, atol=1e-9, rtol=0)
    each = novelty(K, cross, own, outputs="each").projection_distance
    alone = torch.stack([projection_distance(trained[:, o], new[:, o]) for o in range(2)], 1)
    torch.testing.assert_close(each, alone, atol=1e-9, rtol=0)
    assert float((each - d).min()) > 1e-3  # the span of one output's gradients is smaller
    near = torch.linalg.qr(random(12, 12))[0][:6]
    x = near[:1] + 1e-9 * near[5:]
    assert float(projection_distance(near[:5], x)) == pytest.approx(1e-9, rel=1e-4)
    lost = novelty(near[:5] @ near[:5].T, x @ near[:5].T, x.square().sum(1))
    assert abs(float(lost.projection_distance) - 1e-9) > 1e-10 and float(lost.projection_distance) < lost.tolerance**0.5


@pytest.mark.parametrize("size", [1e-170, 1e-155, 1e155, 1e170])
def test_projection_distances_and_gaps_have_no_unit(size: float) -> None:
    trained, new = random(5, 30), random(4, 30, seed=1)
    new[3] = trained[0]
    plain = projection_distance(trained, new)
    assert float(plain[:3].min()) > 0.5 and float(plain[3]) == 0
    for one, other in ((size, size), (size, 1.0), (1.0, size)):
        torch.testing.assert_close(projection_distance(one * trained, other * new), plain, atol=1e-12, rtol=0)
    assert tangent_rank_gap(size * trained, size * new).gap == 3


# -------------------------------------------------------------------------------- sketches


def test_ranks_near_the_size_of_a_sketch_are_refused() -> None:
    phi = random(40, 20)
    with pytest.raises(InputError, match="may be the sketch's"):
        numerical_rank(phi, cap=20)
    assert numerical_rank(phi[:10], cap=20).value == 10
    with pytest.raises(InputError, match="a rank of 9 is within 10 %"):  # at the boundary
        numerical_rank(phi[:9], cap=10)
    assert numerical_rank(phi[:8], cap=10).value == 8 and numerical_rank(phi[:17], cap=20).value == 17
    with pytest.raises(InputError, match="a rank of 18 is within 10 %"):
        numerical_rank(phi[:18], cap=20)


def test_sketches_know_their_cap() -> None:
    net = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 1)).double()
    x, other = random(12, 3), random(8, 3, seed=1)
    whole, more = (gk.sketch(net, batch, dim=64, cotangents=gk.output(0), progress=False) for batch in (x, other))
    found = numerical_rank(whole)
    assert found.value == 12 and "sketch" in found.notes[0]
    gap = tangent_rank_gap(whole, more)
    assert gap.gap == 8 and gap.vacuous and gap.directions is None
    first, second = (gk.sketch(net, batch, dim=16, cotangents=gk.output(0), progress=False) for batch in (x, other))
    assert numerical_rank(second).value == 8
    with pytest.raises(InputError, match="may be the sketch's"):
        tangent_rank_gap(second, first)
    with pytest.raises(InputError, match="leave cap out"):
        numerical_rank(whole, cap=3)
    with pytest.raises(InputError, match="a sketch mixes with a sketch"):
        tangent_rank_gap(whole, torch.ones(2, 64))
    with pytest.raises(InputError, match="cannot be compared"):
        tangent_rank_gap(whole, first)
    wider = gk.sketch(nn.Linear(3, 1).double(), x, dim=64, cotangents=gk.output(0), progress=False)
    with pytest.raises(InputError, match="different parameters do not mix"):
        tangent_rank_gap(whole, wider)


def test_sketches_of_probes_have_no_more_ranks_than_probes() -> None:
    net = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 4)).double()
    sketch = gk.sketch(net, random(10, 3), dim=512, cotangents=gk.probes(1, seed=0), progress=False)
    with pytest.raises(InputError, match="a rank of 10 is within 10 % of the sketch's size, 10"):
        numerical_rank(sketch)


def test_features_beyond_the_memory_are_refused_by_size() -> None:
    trained, new = random(4, 1000), random(3, 1000, seed=1)
    held = 8 * 1000
    for measure, copies in ((projection_distance, 2), (tangent_rank_gap, 3)):
        enough = copies * 7 * held + 5 * 8 * 7**2
        measure(trained, new, memory=enough)
        with pytest.raises(InputError, match=r"\[4, 1000\] and \[3, 1000\] need .* GiB .* more than memory="):
            measure(trained, new, memory=enough - 1)
        with pytest.raises(InputError, match="more than memory"):
            measure(trained.float(), new, memory=enough)  # and a copy in float64
        measure(trained.float(), new, memory=enough + 4 * held)
    with pytest.raises(InputError, match=r"\[4, 1000\] need"):
        numerical_rank(trained, memory="10KiB")


def test_nothing_is_copied_that_is_float64_already() -> None:
    from genkernel.spectra.ranks import rows_of

    features = random(3, 2, 5)
    assert rows_of(features).data_ptr() == features.data_ptr()
    before = features.clone()
    tangent_rank_gap(features, features[:1] + 1)
    projection_distance(features, features)
    assert torch.equal(features, before)


def test_features_of_any_layout_and_with_gradients() -> None:
    phi = random(6, 9)
    for given in (phi.numpy()[::-1], phi.numpy()[:, ::-1], phi.clone().requires_grad_()):
        assert numerical_rank(given).value == 6 and tangent_rank_gap(given, given).gap == 0
        assert float(projection_distance(given, given).max()) == 0


@pytest.mark.parametrize("more", [lambda A: 2 * A, lambda A: -A, lambda A: 1e-9 * A])
def test_multiples_of_training_rows_are_copies(more: Callable[[Tensor], Tensor]) -> None:
    draw = torch.Generator().manual_seed(0)
    A = torch.randn(20, 100, generator=draw, dtype=torch.float64)
    new = torch.randn(5, 100, generator=draw, dtype=torch.float64)
    found = tangent_rank_gap(torch.cat([A, more(A)]), new)
    assert found.vacuous and found.alone == 1.0


def test_small_samples_are_not_taken_for_copies_of_each_other() -> None:
    draw = torch.Generator().manual_seed(0)
    big = torch.randn(30, 3, generator=draw, dtype=torch.float64) @ torch.randn(
        3, 100, generator=draw, dtype=torch.float64
    )
    small = torch.randn(30, 100, generator=draw, dtype=torch.float64)
    new = torch.randn(5, 100, generator=draw, dtype=torch.float64)
    found = tangent_rank_gap(torch.cat([big, 1e-9 * small]), new)
    assert found.vacuous and found.alone == pytest.approx(0.5)
