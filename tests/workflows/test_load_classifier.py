"""Classifiers from torchvision's names, recorded folders, the user's own classes, and networks in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import genkernel as gk
from genkernel.classifier import Classifier
from genkernel.errors import InputError, MissingError, UnsafeCheckpointError
from tests.classifier.toys import mlp

TOY = "tests.classifier.toys:mlp"


def test_the_shipped_classifier_reads_digits() -> None:
    clf = gk.load("mnist-classifier")
    assert isinstance(clf, gk.Classifier) and clf.sample_shape == (1, 32, 32) and clf.class_names(10)[3] == "3"
    found = gk.load_images(Path(gk.__file__).parents[1] / "assets" / "mnist-16.npz", size=32, limit=200)
    said = clf.logits(clf.prepare(found.images)).argmax(1)
    assert found.labels is not None and float((said == found.labels).double().mean()) > 0.9
    assert clf.checkpoint["sha256"] and clf.head(clf.prepare(found.images[:2]))


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "googlenet"])
def test_networks_of_torchvision_with_a_file(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    for classes in (1000, 7):
        net = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
        save_file(net.state_dict(), tmp_path / "w.safetensors")
        before = torch.get_rng_state()
        clf = gk.load(f"torchvision:{name}", weights=tmp_path / "w.safetensors")
        assert torch.equal(torch.get_rng_state(), before)
        assert clf.sample_shape == (3, 224, 224) and clf.name == name and clf.names is None
        x = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(clf.logits(clf.prepare(x)), net.eval()(clf.prepare(x)).detach().double())
    torch.save(net.state_dict(), tmp_path / "w.pth")
    assert gk.load(f"torchvision:{name}", weights=str(tmp_path / "w.pth")).logits(x).shape == (2, 7)


def test_a_file_that_torchvision_publishes_is_known_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = torchvision.models.squeezenet1_1(weights=None)
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    given = {"weights": tmp_path / "mine.pth"}
    assert gk.load("torchvision:squeezenet1_1", **given).names is None
    start = Path(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url).stem.rpartition("-")[2]
    monkeypatch.setattr("genkernel.checkpoints.sha256", lambda file: start + "0" * (64 - len(start)))
    assert gk.load("torchvision:squeezenet1_1", **given).class_names(1000)[0] == "tench"
    assert gk.load("torchvision:squeezenet1_1", names=["a", "b"], **given).names == ["a", "b"]


def test_torchvision_s_own_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingError, match="--download"):
        gk.load("torchvision:squeezenet1_1")
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    net = torchvision.models.squeezenet1_1(weights=None)
    torch.save(net.state_dict(), tmp_path / "hub" / "checkpoints" / Path(url).name)
    clf = gk.load("torchvision:squeezenet1_1")
    assert clf.class_names(1000)[0] == "tench" and clf.normalization is not None
    assert clf.checkpoint["name"] == "torchvision:squeezenet1_1"


def test_a_class_of_the_user_and_its_weights(tmp_path: Path) -> None:
    net = mlp(4, seed=3)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    clf = gk.load(
        tmp_path / "net.safetensors", kind="classifier", factory=TOY, factory_args={"classes": 4}, names="abcd"
    )
    x = torch.randn(5, 2)
    torch.testing.assert_close(clf.logits(x), net(x).detach().double())
    assert clf.names == ["a", "b", "c", "d"] and clf.name == "net"


def test_a_record_calls_only_networks_of_ours(tmp_path: Path) -> None:
    save_file(mlp().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "training.json").write_text(json.dumps({"factory": TOY, "names": ["x", "y", "z"]}))
    with pytest.raises(InputError, match="no network of genkernel"):
        gk.load(tmp_path)
    assert gk.load(tmp_path, factory=TOY).names == ["x", "y", "z"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingError, match=r"no model\.safetensors"):
        gk.load(tmp_path, factory=TOY)


def test_networks_in_memory() -> None:
    net = mlp()
    clf = gk.wrap(net, kind="classifier", names=["a", "b", "c"], mean=0.5, std=2.0, sample_shape=(2,))
    assert isinstance(clf, Classifier) and clf.sample_shape == (2,) and clf.normalization is not None
    net.pretrained_cfg = {"mean": (0.1,), "std": (0.2,), "input_size": (2,)}  # as timm's networks have it
    found = gk.wrap(net, kind="classifier").describe()
    assert (found["mean"], found["std"], found["sample_shape"]) == ([0.1], [0.2], [2])


@pytest.mark.parametrize(
    ("path", "options", "error", "said"),
    [
        ("torchvision:resnet81", {}, InputError, "is 'resnet18' or"),
        ("torchvision:resnet18", {"latent_shape": 3}, InputError, "no option of a classifier"),
        ("torchvision:resnet18", {"scheduler": "x"}, InputError, "option of diffusion models"),
        ("torchvision:resnet18", {"weights": "nowhere.pth"}, MissingError, "nowhere"),
        ("mnist-classifier", {"weights": "x.pth"}, InputError, "networks of torchvision"),
        ("mnist-classifier", {"kind": "diffusion"}, InputError, "is a classifier"),
    ],
)
def test_what_cannot_be_loaded(path: str, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        gk.load(path, **options)


def test_weights_that_do_not_fit_and_pickles(tmp_path: Path) -> None:
    save_file(mlp().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="does not hold weights of torchvision:resnet18"):
        gk.load("torchvision:resnet18", weights=tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="factory"):
        gk.load(tmp_path / "w.safetensors", kind="classifier")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(UnsafeCheckpointError):
        gk.load("torchvision:resnet18", weights=tmp_path / "whole.pth")
    with pytest.raises(InputError, match="option of diffusion models"):
        gk.wrap(mlp(), kind="classifier", scheduler="x")
    with pytest.raises(InputError, match="'classifier'"):
        gk.wrap(mlp(), kind="regressor")


def test_somebody_else_s_record_is_none_of_ours(tmp_path: Path) -> None:
    from genkernel.workflows.load_classifier import is_classifier_folder

    for content in ("not JSON", "[]", '{"factory": 3}'):
        (tmp_path / "training.json").write_text(content)
        assert not is_classifier_folder(tmp_path)
