"""Mode counts, neighbours, diversity and Fréchet distances, against counts by hand and brute force."""

from __future__ import annotations

import copy
import math
import random
import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from genkernel.errors import InputError, MissingError, NonFiniteError
from genkernel.gan.coverage import class_coverage, diversity, frechet_distance, mode_coverage, neighbours


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MODES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
SAMPLES = torch.tensor(
    [[0.1, 0.0], [-0.29, 0.0], [0.31, 0.0], [4.0, 0.2], [0.0, 2.5], [9.0, 9.0], [0.0, -0.3]], dtype=torch.float64
)


def test_modes_by_hand() -> None:
    found = mode_coverage(SAMPLES, MODES, 0.1)
    np.testing.assert_array_equal(found.counts, [3, 1, 0])
    np.testing.assert_array_equal(found.occupancy, [0.75, 0.25, 0])
    assert (found.covered, found.modes, found.samples, found.at_least) == (2, 3, 7, 1)
    assert found.high_quality == 4 / 7
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found.entropy_number == pytest.approx(math.exp(entropy), rel=1e-14)
    assert found.kl == pytest.approx(math.log(3) - entropy, rel=1e-14)
    middle = [(0.75 + 1 / 3) / 2, (0.25 + 1 / 3) / 2, 1 / 6]
    js = sum(p * math.log(p / m) for p, m in zip([0.75, 0.25], middle, strict=False)) / 2
    js += sum(math.log(1 / 3 / m) / 3 for m in middle) / 2
    assert found.js == pytest.approx(js, rel=1e-13)
    assert "3 standard deviations" in found.rule


def test_what_is_asked_of_a_mode_can_be_stated() -> None:
    np.testing.assert_array_equal(mode_coverage(SAMPLES, MODES, 0.1, sigmas=3.2).counts, [4, 1, 0])
    assert mode_coverage(SAMPLES, MODES, 0.1, at_least=2).covered == 1
    each = mode_coverage(SAMPLES, MODES, torch.tensor([0.1, 0.01, 0.6]))
    np.testing.assert_array_equal(each.counts, [3, 0, 1])
    weighted = mode_coverage(SAMPLES, MODES, 0.1, weights=[6, 2, 4])
    assert weighted.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(1.5), rel=1e-14)


def test_even_occupancy_has_no_divergence_and_none_has_no_number() -> None:
    even = mode_coverage(MODES.repeat(7, 1), MODES, 0.1)
    assert even.entropy_number == pytest.approx(3, rel=1e-14)
    assert even.kl == pytest.approx(0, abs=1e-15) and even.js == pytest.approx(0, abs=1e-15)
    none = mode_coverage(MODES + 9, MODES, 0.1)
    assert none.covered == 0 and none.high_quality == 0 and none.entropy_number == 0
    assert math.isnan(none.kl) and math.isnan(none.js) and np.isnan(none.occupancy).all()


def test_images_and_modes_of_any_shape() -> None:
    found = mode_coverage(normal(9, 8).reshape(9, 2, 2, 2), normal(3, 8, seed=1).reshape(3, 2, 2, 2), 1.0)
    flat = mode_coverage(normal(9, 8), normal(3, 8, seed=1), 1.0)
    np.testing.assert_array_equal(found.counts, flat.counts)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"std": 0.0}, "std is one positive number"),
        ({"std": torch.ones(2)}, "std is one positive number, or 3"),
        ({"std": 0.1, "sigmas": -1.0}, "sigmas is a positive number"),
        ({"std": 0.1, "at_least": 0}, "at_least is a whole number"),
        ({"std": 0.1, "weights": [1, 1]}, "compared with 3 positive weights"),
        ({"std": 0.1, "weights": [1, 1, 0]}, "compared with 3 positive weights"),
    ],
)
def test_modes_that_cannot_be_counted(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        mode_coverage(SAMPLES, MODES, **options)  # type: ignore[arg-type]


def test_samples_of_another_kind_than_the_modes() -> None:
    with pytest.raises(InputError, match="samples have 3 dimensions, the modes 2"):
        mode_coverage(torch.zeros(4, 3), MODES, 0.1)
    with pytest.raises(NonFiniteError, match="generated samples hold NaN or infinity, first in row 1"):
        mode_coverage(torch.tensor([[0.0, 0.0], [math.nan, 0.0]]), MODES, 0.1)


# --------------------------------------------------------------------------------- classes


def test_classes_by_hand() -> None:
    logits = (
        torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.2, 0.2, 0.6], [0.05, 0.0, 0.95]]).clamp_min(1e-9).log()
    )
    images = torch.arange(4.0)[:, None, None]
    by_image = lambda x: logits[x.flatten().long()]  # noqa: E731
    found = class_coverage(images, by_image, batch_size=3)
    np.testing.assert_array_equal(found.counts, [1, 0, 2])
    assert found.covered == 2 and found.high_quality == 0.75
    strict = class_coverage(images, by_image, threshold=0.92)
    np.testing.assert_array_equal(strict.counts, [0, 0, 1])
    every = class_coverage(images, by_image, threshold=0.0, at_least=2, weights=[2, 1, 1])
    np.testing.assert_array_equal(every.counts, [2, 0, 2])
    assert every.covered == 2 and every.kl == pytest.approx(0.5 * math.log(2), rel=1e-14)


class Classifier(nn.Module):
    """It draws random numbers, counts its calls and changes its mode-dependent state, as some do."""

    def __init__(self, fails: bool = False):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
        self.fails = fails
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        torch.rand(3), np.random.rand(), random.random()
        if self.fails:
            raise ValueError("no")
        return self.layers(x.flatten(1))


@pytest.mark.parametrize("fails", [False, True])
def test_a_classifier_is_left_as_it_was(fails: bool) -> None:
    torch.manual_seed(0)
    net = Classifier(fails).train()
    net.layers[2].eval()
    images = torch.randn(10, 2, 3)
    expected = None if fails else copy.deepcopy(net).eval()(images).argmax(1).bincount(minlength=4)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    states = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    if expected is None:
        with pytest.raises(ValueError, match="no"):
            class_coverage(images, net)
    else:
        np.testing.assert_array_equal(class_coverage(images, net, threshold=0).counts, expected)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes and net.seen == []
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    np.testing.assert_equal(np.random.get_state(legacy=False), states[1])


@pytest.mark.parametrize(
    ("classifier", "says"),
    [
        (lambda x: x.flatten(1)[:, :1], "at least two classes"),
        (lambda x: x.flatten(1).argmax(1), "at least two classes"),
        (lambda x: x.flatten(1)[:-1], r"answers 4 samples with \[4, f\]"),
    ],
)
def test_classifiers_that_are_none(classifier, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=says):
        class_coverage(torch.rand(4, 2, 2), classifier)


def test_classes_that_cannot_be_counted() -> None:
    with pytest.raises(NonFiniteError):
        class_coverage(torch.rand(4, 2), lambda x: x / 0)
    with pytest.raises(InputError, match="a probability below 1"):
        class_coverage(torch.rand(4, 2), lambda x: x, threshold=1.0)
    with pytest.raises(InputError, match="at least one image"):
        class_coverage(torch.rand(0, 2), lambda x: x)


# ------------------------------------------------------------------------------ neighbours


def test_neighbours_are_those_of_brute_force(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("prdc")
    real, generated, k = normal(40, 3), 0.7 * normal(30, 3, seed=1) + 0.5, 3
    found = neighbours(real, generated, k)
    assert capsys.readouterr().out == ""

    def radius(points: Tensor, i: int) -> float:
        return sorted(float((points[i] - q).norm()) for q in points)[k]  # the first is the point itself

    def inside(points: Tensor, other: Tensor) -> list[list[bool]]:
        return [[float((p - x).norm()) < radius(points, i) for x in other] for i, p in enumerate(points)]

    of_real, of_generated = np.array(inside(real, generated)), np.array(inside(generated, real))
    assert found.precision == of_real.any(0).mean() and found.recall == of_generated.any(0).mean()
    assert found.density == pytest.approx(of_real.sum(0).mean() / k, rel=1e-14)
    assert found.coverage == of_real.any(1).mean()
    assert (found.k, found.real, found.generated) == (3, 40, 30)


def test_a_collapsed_generator_is_precise_and_covers_little() -> None:
    pytest.importorskip("prdc")
    real = normal(60, 2)
    found = neighbours(real, 0.01 * normal(60, 2, seed=1))
    assert found.precision == 1 and found.recall < 0.1 and found.coverage < 0.3
    same = neighbours(real, real + 1e-9)
    assert same.precision == same.recall == same.coverage == 1


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prdc", None)
    with pytest.raises(MissingError, match="pip install prdc"):
        neighbours(normal(10, 2), normal(10, 2, seed=1))


def test_neighbours_that_cannot_be_found() -> None:
    with pytest.raises(InputError, match="at least 7 of the generated samples are needed, not 6"):
        neighbours(normal(10, 2), normal(6, 2))
    with pytest.raises(InputError, match="at least 7 of the real samples are needed, not 1"):
        neighbours(normal(1, 2), normal(10, 2))
    with pytest.raises(InputError, match="the real samples have 3 dimensions, the generated samples have 2"):
        neighbours(normal(10, 3), normal(10, 2))
    with pytest.raises(InputError, match="k is a whole number"):
        neighbours(normal(10, 2), normal(10, 2), k=0)


# ------------------------------------------------------------------------- plain baselines


def test_diversity_is_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = normal(13, 4), 2 * normal(9, 4, seed=1)
    pairs = [float((generated[i] - generated[j]).norm()) for i in range(13) for j in range(i)]
    monkeypatch.setattr("genkernel.gan.coverage._ENTRIES", 30)  # a few rows at a time
    alone = diversity(generated)
    assert alone.distance == pytest.approx(np.mean(pairs), rel=1e-13)
    assert math.isnan(alone.real) and math.isnan(alone.relative)
    found = diversity(generated, real)
    assert found.real == pytest.approx(float(torch.pdist(real).mean()), rel=1e-12)
    assert found.relative == pytest.approx(found.distance / found.real, rel=1e-14)


def test_samples_that_nearly_coincide_keep_their_distance() -> None:
    points = torch.tensor([[1e6, 0.0], [1e6 + 1e-6, 0.0]], dtype=torch.float64)
    assert diversity(points).distance == pytest.approx(float(points[1, 0] - points[0, 0]), rel=1e-12)
    assert diversity(torch.ones(3, 2), normal(5, 2)).relative == 0
    assert math.isnan(diversity(normal(5, 2), torch.ones(3, 2)).relative)


def test_frechet_distance_against_the_square_root_of_a_matrix() -> None:
    one, other = normal(200, 4) @ normal(4, 4, seed=2), normal(150, 4, seed=1) + 0.5
    a, b = (torch.cov(x.T).numpy() for x in (one, other))
    root = sqrtm(a @ b).real
    expected = float((one.mean(0) - other.mean(0)).square().sum()) + np.trace(a + b - 2 * root)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_commuting_covariances_has_a_closed_form() -> None:
    x = normal(50, 3)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).mT)  # unit covariance
    stretch, shift = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([1.0, 0.0, -2.0])
    expected = float(shift.square().sum() + (stretch - 1).square().sum())
    assert frechet_distance(x * stretch + shift, x) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_with_fewer_samples_than_features() -> None:
    x, axis = normal(6, 20), torch.zeros(20, dtype=torch.float64)
    axis[3] = 2
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12 * float(x.square().sum()))
    assert frechet_distance(x + axis, x) == pytest.approx(4, rel=1e-12)
    assert frechet_distance(3 * x - 3 * x.mean(0), x - x.mean(0)) == pytest.approx(4 * float(x.var(0).sum()), rel=1e-12)


@pytest.mark.parametrize("measure", [diversity, frechet_distance])
def test_baselines_refuse_what_has_no_spread(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="at least 2 of the generated samples are needed, not 1"):
        measure(normal(1, 2), normal(4, 2))
    with pytest.raises(InputError, match="dimensions, the real samples have 3"):
        measure(normal(4, 2), normal(4, 3))
    with pytest.raises(NonFiniteError, match="the real samples hold NaN or infinity, first in row 2"):
        measure(normal(4, 2), torch.tensor([[0.0, 0], [1, 1], [math.nan, 0]]))
    with pytest.raises(InputError, match=r"the generated samples are a tensor \[n, f\], not \(4,\)"):
        measure(torch.rand(4), normal(4, 2))


def test_errors_of_diversity_and_recall_are_those_over_draws() -> None:
    draw = torch.Generator().manual_seed(0)
    found = [diversity(torch.randn(60, 2, generator=draw), torch.randn(60, 2, generator=draw)) for _ in range(200)]
    spread = float(np.std([f.relative for f in found]))
    assert np.mean([f.relative_stderr for f in found]) == pytest.approx(spread, rel=0.2)
