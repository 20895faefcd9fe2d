"""Linear separability in tangent space: what counts is held out, and has its controls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import genkernel as gk
from genkernel.errors import InputError
from genkernel.spectra import tangent_linear_separability, without_layers
from genkernel.spectra.separability import PENALTIES, centred_kernel, fitted, is_hard

pytestmark = pytest.mark.usefixtures("one_thread")


FEW = (0.1, 1.0, 10.0, 100.0)


def clouds(n: int = 60, d: int = 4, apart: float = 4.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    x = torch.randn(n, d, generator=draw, dtype=torch.float64)
    x[:, 0] += apart * labels
    return x, labels


def test_classes_that_are_apart_are_found_held_out() -> None:
    x, labels = clouds()
    found = tangent_linear_separability(x @ x.T, labels)
    assert found.held_out > 0.93 and found.in_sample >= found.held_out and found.chance == 0.5
    assert len(found.per_fold) == 5 and len(found.chosen) == 5 and found.converged
    assert found.stderr == pytest.approx((found.held_out * (1 - found.held_out) / 60) ** 0.5)


def test_the_standard_error_is_of_all_held_out_samples() -> None:
    """√(p (1 - p) / n): a half of it with four times the samples, and some of them are wrong."""
    for n in (40, 160):
        x, labels = clouds(n, apart=1.0)
        found = tangent_linear_separability(x @ x.T, labels, C=1.0)
        assert 0.55 < found.held_out < 0.95
        assert found.stderr**2 * n == pytest.approx(found.held_out * (1 - found.held_out))


def test_anything_is_separable_in_sample_with_more_features_than_samples() -> None:
    x, _ = clouds(60, 300, 0.0)
    labels = torch.randint(2, (60,), generator=torch.Generator().manual_seed(3))
    found = tangent_linear_separability(x @ x.T, labels)
    assert found.in_sample_hard == 1 and abs(found.held_out - found.chance) < 0.25


def test_the_size_of_the_kernel_and_the_names_of_classes_do_not_matter() -> None:
    x, labels = clouds(40, apart=1.5)
    one, other = (
        tangent_linear_separability(scale * x @ x.T, names, folds=3, C=FEW)
        for scale, names in ((1.0, labels), (1e8, 7 - 3 * labels))
    )
    assert one.held_out == other.held_out and one.chosen == other.chosen
    fixed = tangent_linear_separability(x @ x.T, labels, C=10.0)
    assert fixed.chosen == (10.0,) * 5 and fixed.in_sample == fixed.in_sample_hard


def test_a_constant_added_to_the_kernel_changes_nothing() -> None:
    """c 11ᵀ is a feature that all samples share: the intercept takes it up, and C has to mean what it did."""
    x, labels = clouds(40, apart=1.5)
    K = x @ x.T
    one = tangent_linear_separability(K, labels, folds=3, C=FEW)
    assert tangent_linear_separability(K + 1e3, labels, folds=3, C=FEW) == one
    assert tangent_linear_separability(3 * K + 500.0, labels, folds=3, C=FEW) == one


def test_a_kernel_is_centred_and_has_mean_diagonal_one() -> None:
    x, _ = clouds(30)
    x = x + 5
    own = x - x.mean(0)
    expected = own @ own.T / (own.square().sum() / 30)
    assert centred_kernel((x @ x.T).numpy()) == pytest.approx(expected.numpy(), abs=1e-12)


def test_hard_machines_have_the_largest_margin_and_do_not_hang_on_c() -> None:
    x, labels = clouds(40, apart=9.0)
    K, y = centred_kernel((x @ x.T).numpy()), labels.numpy()
    soft, hard, harder = (fitted(K, y, c, tolerance=1e-8) for c in (1e-2, 1e5, 1e6))
    assert not is_hard(soft) and is_hard(hard) and is_hard(harder)
    signs, values = 2 * y - 1, hard.decision_function(K)
    assert (signs * values).min() == pytest.approx(1, abs=1e-6)
    assert harder.decision_function(K) == pytest.approx(values, abs=1e-6)


def test_choices_at_an_end_of_the_list_are_said() -> None:
    """Rings that a nearly constant kernel tells apart in directions which have little of it: they need a large C."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    turn = 2 * torch.pi * torch.rand(80, generator=draw, dtype=torch.float64)
    x = (1 + 0.5 * labels)[:, None] * torch.stack([turn.cos(), turn.sin()], 1)
    K = (1 + 1e-2 * x @ x.T).square()
    short = tangent_linear_separability(K, labels, C=(0.1, 1.0, 10.0))
    assert short.at_edge == 5 and short.chosen == (10.0,) * 5 and short.held_out < 0.9
    long = tangent_linear_separability(K, labels)
    assert long.at_edge == 0 and long.held_out == 1 and min(long.chosen) > 10
    easy, y = clouds(60, apart=9.0)
    found = tangent_linear_separability(easy @ easy.T, y)  # all are right with any C: nothing lies beyond
    assert found.at_edge == 0 and found.held_out == 1
    assert tangent_linear_separability(easy @ easy.T, y, C=1.0).at_edge == 0


def test_penalties_that_the_solver_is_not_done_with_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.spectra import separability

    monkeypatch.setattr(separability, "_ITERATIONS_EACH", 2_000)
    x, _ = clouds(60, 3, 0.0)
    labels = torch.randint(2, (60,), generator=torch.Generator().manual_seed(3))
    found = tangent_linear_separability(x @ x.T, labels)
    assert max(found.chosen) < PENALTIES[-1] and 0.5 < found.in_sample_hard < 1


def test_folds_that_choose_the_penalty_are_shuffled() -> None:
    """In the order of places, a fold of neighbours asks for what no other sample has, and chooses another penalty."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.svm import SVC

    x = torch.arange(120).double()[:, None] / 4
    labels = (torch.arange(120) // 6) % 2  # stripes
    K = torch.exp(-torch.cdist(x, x).square())
    values, y = centred_kernel(K.numpy()), labels.numpy()
    outer = list(StratifiedKFold(5, shuffle=True, random_state=0).split(values, y))

    def chosen(inner: StratifiedKFold) -> list[float]:
        searches = [GridSearchCV(SVC(kernel="precomputed"), {"C": list(PENALTIES)}, cv=inner) for _ in outer]
        return [
            search.fit(values[rest][:, rest], y[rest]).best_params_["C"]
            for search, (rest, _) in zip(searches, outer, strict=True)
        ]

    shuffled = chosen(StratifiedKFold(5, shuffle=True, random_state=0))
    assert chosen(StratifiedKFold(5)) != shuffled
    assert list(tangent_linear_separability(K, labels).chosen) == shuffled


def test_more_than_two_classes() -> None:
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    x = 4 * torch.eye(3, dtype=torch.float64)[labels] + torch.randn(60, 3, generator=draw, dtype=torch.float64)
    found = tangent_linear_separability(x @ x.T, labels, C=(1.0, 10.0))
    assert found.held_out > 0.8 and found.chance == pytest.approx(1 / 3)


def test_a_layer_can_be_taken_away() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = gk.TangentModel(net, params="0.*")
    for cotangents in (gk.exact_trace(), gk.blocks()):
        K = gk.kernel(net, x, cotangents=cotangents, progress=False)
        alone = gk.kernel(first, x, cotangents=cotangents, progress=False)
        found = without_layers(K, "2")
        assert torch.allclose(found.values, alone.values) and torch.allclose(found.norms_x, alone.norms_x)
        assert list(found.layers) == ["0"] and found.meta["without_layers"] == ["2"] and found.symmetric
        assert found.norms_x.shape == K.norms_x.shape
    assert torch.equal(without_layers(K).values, sum(K.layers.values()))
    with pytest.raises(
        InputError, match=r"no layer '3'; it has 0, 2 \(weights that layers share count once, under the first"
    ):
        without_layers(K, "3")
    with pytest.raises(InputError, match="no layer is left"):
        without_layers(K, "0", "2")
    with pytest.raises(InputError, match="x against x"):
        without_layers(gk.kernel(net, x, x[:2], cotangents=gk.exact_trace(), progress=False), "2")


@pytest.mark.parametrize(
    ("kernel", "labels", "options", "words"),
    [
        (torch.eye(20) * torch.nan, torch.arange(20) % 2, {}, "NaN"),
        (torch.eye(20), torch.arange(20) % 10, {}, "of the smallest"),
        (torch.eye(20), torch.arange(20) % 10, {"C": 1.0}, "5 folds need as many samples of every class"),
        (torch.eye(20), torch.tensor([0] * 14 + [1] * 6), {}, "to choose C"),
        (torch.eye(20), torch.arange(20) % 2, {"C": "1"}, "C is positive"),
        (torch.eye(20), torch.arange(20) % 2, {"C": [1.0, None]}, "C is positive"),
        (torch.eye(20), torch.arange(20) % 2, {"folds": 1}, "at least 2"),
        (torch.eye(20), torch.arange(20) % 2, {"folds": 2.5}, "whole number"),
        (torch.eye(20), torch.arange(20) % 2, {"C": 0.0}, "C is positive"),
        (torch.eye(20), torch.arange(20) % 2, {"C": ()}, "C is positive"),
        (torch.eye(20), torch.arange(20) % 2, {"C": float("nan")}, "C is positive"),
        (torch.zeros(20, 20), torch.arange(20) % 2, {}, "zero"),
        (torch.full((20, 20), 0.7), torch.arange(20) % 2, {}, "one constant"),
        (torch.eye(20), torch.zeros(20), {}, "one class"),
        (torch.eye(20), torch.arange(19) % 2, {}, "one per sample"),
    ],
)
def test_bad_input_is_said(kernel: Tensor, labels: Tensor, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tangent_linear_separability(kernel, labels, **options)


def test_penalties_are_numbers_of_any_type_and_as_many_samples_as_folds_suffice_for_one() -> None:
    x, labels = clouds(20)
    one = tangent_linear_separability(x @ x.T, labels, C=np.float32(1), folds=10)
    assert one == tangent_linear_separability(x @ x.T, labels, C=[1], folds=10) and one.chosen == (1.0,) * 10
