"""Class structure of kernels: the numbers of a trained network beside their controls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.classifier import Classifier
from genkernel.classifier.reading import read
from genkernel.classifier.similarity import analyze
from genkernel.errors import InputError
from genkernel.spectra.alignment import cka
from genkernel.spectra.class_blocks import class_blocks
from genkernel.tangent import TangentModel, exact_trace, kernel
from genkernel.tangent.fresh import reinitialised
from tests.classifier.toys import blobs, mlp, trained


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained(mlp().double(), *(part.double() if part.is_floating_point() else part for part in blobs()))


def test_numbers_are_those_of_the_trace_kernel_and_its_controls(net: nn.Module) -> None:
    x, y = blobs(60, seed=1)
    x = x.double()
    clf = Classifier(net, names=["a", "b", "c"])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found, K = analyze(clf, x, y.numpy(), progress=lambda *_: None)
    expected = kernel(TangentModel(net), x, cotangents=exact_trace())
    torch.testing.assert_close(K.values, expected.values)
    assert found.names == ["a", "b", "c"]
    assert found.answers.accuracy == pytest.approx(float((net(x).argmax(1) == y).double().mean()))
    assert found.answers.loss == pytest.approx(float(nn.functional.cross_entropy(net(x), y)))
    assert ((found.answers.margins > 0) == (found.answers.predictions == y.numpy())).all()
    assert set(found.structures) == {"trained", "untrained", "without last layer", "permuted labels", "inputs"}
    assert sum(found.share_by_layer.values()) == pytest.approx(1.0)
    assert list(found.cka_by_layer) == list(K.layers) == list(found.share_by_layer)
    # what training does, and what chance is
    assert found.trained.cka > found.structures["untrained"].cka
    assert abs(found.structures["permuted labels"].cka) < 0.15 < found.trained.cka
    assert found.trained.contrast > found.structures["untrained"].contrast
    assert abs(found.structures["permuted labels"].contrast) < 4 * (found.structures["permuted labels"].contrast_stderr)
    separable = found.trained.separation
    assert separable is not None and separable.held_out > 0.8 > 0.6 > separable.chance
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_single_logit_and_few_samples_of_a_class() -> None:
    x, y = blobs(30, classes=2)
    net = trained(mlp(1), x, y)
    found, K = analyze(Classifier(net), x, y.numpy(), controls=False)
    assert (
        found.names == ["class 0", "class 1"] and list(found.structures) == ["trained"] and found.answers.accuracy > 0.9
    )
    assert K.values.shape == (30, 30)
    rare = np.array([0] * 18 + [1] * 3)
    found, _ = analyze(Classifier(net), x[:21], rare, controls=False)
    assert found.trained.separation is None and math.isfinite(found.trained.cka)
    assert "smallest class has 3 samples, and cross-validation takes 4" in " ".join(read(found))


@pytest.mark.parametrize(
    ("each", "k", "folds"), [(2, 1, None), (3, 2, None), (4, 3, 2), (6, 5, 4), (7, 6, 5), (20, 10, 5)]
)
def test_neighbours_and_folds_have_room_in_the_smallest_class(each: int, k: int, folds: int | None) -> None:
    x, y = blobs(3 * each, spread=0.01)
    found, _ = analyze(Classifier(trained(mlp(), *blobs())), x, y.numpy(), controls=False)
    assert (found.k, found.meta["folds"]) == (k, folds) and found.trained.neighbours == 1.0
    assert (found.trained.separation is None) == (folds is None)
    assert any(f"neighbours: {k} of each sample" in note for note in found.notes) == (k < 10)
    assert any(f"separability: {folds} folds" in note for note in found.notes) == (folds in (2, 4))


def test_one_sample_of_a_class() -> None:
    x, _ = blobs(6)
    with pytest.raises(InputError, match=r"6 samples are of 6 classes.*at least two samples of a class"):
        analyze(Classifier(mlp(6)), x, np.arange(6))
    found, _ = analyze(Classifier(mlp(5)), x, np.array([0, 1, 2, 3, 4, 0]))
    assert math.isnan(found.trained.contrast_stderr) and "nan" not in " ".join(read(found))


def test_a_kernel_that_knows_no_samples() -> None:
    x, y = blobs(30)
    dead = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    nn.init.constant_(dead[0].bias, -100.0)
    with pytest.raises(InputError, match=r"tangent kernel is zero.*ReLU"):
        analyze(Classifier(dead), x, y.numpy())
    blank = mlp()
    for parameter in blank.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(InputError, match=r"tangent kernel is one constant.*all zero"):
        analyze(Classifier(blank), x, y.numpy())


def test_controls_that_know_no_samples_are_said_to() -> None:
    x, y = blobs(30)
    blank = mlp()
    for parameter in blank.parameters():
        nn.init.zeros_(parameter)
    found, _ = analyze(Classifier(mlp()), x, y.numpy(), controls=False, checkpoints={"start": blank})
    assert found.course[0].structure.separation is None and math.isnan(found.course[0].structure.cka)
    assert "checkpoint start: the kernel is zero, or one constant: nothing can be separated by it" in found.notes
    shifted = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))  # knows samples that are zero from their biases alone
    with torch.no_grad():
        black = torch.zeros(30, 2)
        black[:, 0] = torch.linspace(0, 1e-30, 30)  # squares of it are zero
    with pytest.raises(InputError, match="samples that are all the same"):
        analyze(Classifier(shifted), black, y.numpy())


def test_one_direction_has_no_plane() -> None:
    x = torch.linspace(1, 2, 12)[:, None]
    found, _ = analyze(Classifier(nn.Linear(1, 1, bias=False)), x, np.arange(12) // 6)
    assert not found.plane.any() and any("same way" in note for note in found.notes)


@pytest.mark.parametrize(
    ("last", "said"),
    [(nn.Softmax(1), "softmax"), (nn.LogSoftmax(1), "log-softmax"), (nn.Sigmoid(), "sigmoid"), (None, "")],
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_outputs_that_are_no_logits(last: nn.Module | None, said: str, outputs: int) -> None:
    x, y = blobs(24, classes=2)
    net = mlp(outputs) if last is None else nn.Sequential(mlp(outputs), last)
    if outputs == 1 and said.endswith("softmax"):
        return  # of one number
    found, _ = analyze(Classifier(net), x, y.numpy(), controls=False)
    first = read(found)[0]
    assert ("not like logits" in first) == bool(said) and said in first
    assert ("class 1 wherever it is positive" in first) == (outputs == 1 and bool(said))


def test_what_cannot_be_compared(net: nn.Module) -> None:
    x, y = blobs(12)
    clf = Classifier(net)
    with pytest.raises(InputError, match="3 classes"):
        analyze(clf, x.double(), y.numpy() + 1)
    with pytest.raises(InputError, match="two of them"):
        analyze(clf, x.double(), np.zeros(12, dtype=np.int64))


def test_a_network_without_a_last_layer_of_its_own() -> None:
    x, y = blobs(24)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3), nn.LogSoftmax(1))
    found, _ = analyze(Classifier(net), x, y.numpy(), folds=2)
    assert "without last layer" not in found.structures and any("no layer's own" in note for note in found.notes)


def test_the_course_over_checkpoints(net: nn.Module) -> None:
    x, y = blobs(45, seed=4)
    x = x.double()
    start = mlp().double()
    half = {name: (value + start.state_dict()[name]) / 2 for name, value in net.state_dict().items()}
    found, K = analyze(
        Classifier(net), x, y.numpy(), controls=False, checkpoints={"start": start, "half": half, "end": net}
    )
    assert [one.name for one in found.course] == ["start", "half", "end"]
    first, _, last = found.course
    early = kernel(TangentModel(start), x, cotangents=exact_trace())
    assert first.structure.cka == pytest.approx(cka(early, y)) and first.alike == pytest.approx(cka(early, K))
    assert last.alike == pytest.approx(1.0) and last.accuracy == found.answers.accuracy > first.accuracy
    assert last.structure.contrast == pytest.approx(found.trained.contrast) and first.alike < last.alike


def test_the_untrained_network_has_no_statistics_of_the_trained_one() -> None:
    x, y = blobs(30)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    net[1].running_var.fill_(1e4)
    net[1].running_mean.fill_(5.0)
    found, _ = analyze(Classifier(net), x, y.numpy())
    fresh, _ = reinitialised(net, 0)
    expected = class_blocks(kernel(TangentModel(fresh), x, cotangents=exact_trace()), y)
    assert found.structures["untrained"].within == pytest.approx(expected.within)
