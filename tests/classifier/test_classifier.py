"""The wrapper: any form of answers, normalisation, the last layer, and errors that say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genkernel.classifier import Classifier
from genkernel.classifier.logits import cross_entropies, margins, predicted
from genkernel.errors import InputError, NonFiniteError
from tests.classifier.toys import mlp


class Answers(nn.Module):
    """Gives logits in one of the forms that classifiers have."""

    def __init__(self, form: str):
        super().__init__()
        self.net, self.form = mlp(1 if form in ("single", "flat") else 3), form

    def forward(self, x: Tensor) -> Any:
        out = self.net(x)
        forms = {"tuple": (out, 2 * out), "mapping": {"logits": out, "features": x}, "flat": out.reshape(-1)}
        return forms.get(self.form, out)


@pytest.mark.parametrize("form", ["plain", "tuple", "mapping", "single", "flat"])
def test_logits_of_any_form(form: str) -> None:
    net, x = Answers(form), torch.randn(300, 2)
    clf = Classifier(net)
    logits = clf.logits(x)
    assert logits.dtype == torch.float64 and logits.shape == (300, 1 if form in ("single", "flat") else 3)
    torch.testing.assert_close(logits, net.net(x).detach().double())
    assert set(clf.head(x)) == {"net.4.weight", "net.4.bias"}
    assert clf.parameters == sum(p.numel() for p in net.parameters()) and "Answers" in repr(clf)


def test_train_mode_is_put_back_and_dropout_does_not_show() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    clf, x = Classifier(net), torch.randn(20, 2)
    assert torch.equal(clf.logits(x), clf.logits(x)) and net.training and net[1].training
    assert any("train mode" in note for note in clf.notes)


def test_a_network_whose_last_layer_is_followed_by_something_has_no_head() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.LogSoftmax(1))
    assert Classifier(net).head(torch.randn(3, 2)) == []


def test_normalization_by_channel() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    clf = Classifier(net, mean=[0.5, 0.25], std=[0.5, 0.25], sample_shape=(2, 4, 4))
    images = torch.rand(5, 2, 4, 4)
    done = clf.prepare(images)
    torch.testing.assert_close(done[:, 0], (images[:, 0] - 0.5) / 0.5)
    torch.testing.assert_close(done[:, 1], (images[:, 1] - 0.25) / 0.25)
    assert torch.equal(Classifier(net).prepare(images), images)
    with pytest.raises(InputError, match="2 channels"):
        clf.prepare(torch.rand(5, 3, 4, 4))
    assert clf.describe()["mean"] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": 0.5}, "come together"),
        ({"mean": [0.5], "std": [0.0]}, "positive"),
        ({"mean": [0.5], "std": [1.0, 1.0]}, "as many"),
        ({"mean": "grey", "std": 1.0}, "numbers"),
        ({"batch_norm": "train"}, "'eval' or 'frozen'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Classifier(mlp(), **options)


def test_what_is_no_classifier() -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        Classifier(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"logits \[n, C\]"):
        Classifier(nn.Conv2d(1, 2, 1)).logits(torch.rand(3, 1, 4, 4))
    with pytest.raises(InputError, match="2"):
        Classifier(mlp()).logits(torch.rand(3, 5))
    broken = mlp()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        Classifier(broken)
    with pytest.raises(NonFiniteError, match="1 of 3"):
        Classifier(mlp()).logits(torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [1.0, 1.0]]))
    with pytest.raises(InputError, match="4 classes and 2 names"):
        Classifier(mlp(), names=["a", "b"]).class_names(4)


def test_predictions_margins_and_losses() -> None:
    logits = torch.tensor([[2.0, -1.0, 1.0], [0.0, 3.0, 1.0]])
    y = torch.tensor([0, 2])
    assert predicted(logits).tolist() == [0, 1]
    assert margins(logits, y).tolist() == [1.0, -2.0]
    torch.testing.assert_close(cross_entropies(logits, y), nn.functional.cross_entropy(logits, y, reduction="none"))
    single, sides = torch.tensor([[2.0], [-1.0]]), torch.tensor([0, 1])
    both = torch.cat([torch.zeros_like(single), single], 1)  # class 0 has the logit 0
    assert predicted(single).tolist() == [1, 0]
    torch.testing.assert_close(margins(single, sides), margins(both, sides))
    torch.testing.assert_close(cross_entropies(single, sides), cross_entropies(both, sides))
