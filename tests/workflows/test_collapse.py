"""From a generator to a report on mode collapse: what is passed on, what is said, what is refused."""

from __future__ import annotations

import copy
import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import (
    InputError,
    MissingError,
    NonFiniteError,
    OutputError,
    UnsafeCheckpointError,
    ZeroGradientError,
)
from genkernel.gan import Discriminator, Generator
from genkernel.gan.clusters import Clusters
from genkernel.gan.verdict import Evidence, Verdict
from genkernel.runs import kernels_of, pack
from tests.gan.fake_result import RING, STD, Critic, Images, planar_networks, planar_result
from tests.gan.folders import ring_folder

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL: dict[str, Any] = {"latents": 16, "jacobians": 4, "fresh": 4, "probes": 2, "check": False}


@pytest.fixture
def plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without figures, which take longer than all the rest."""
    monkeypatch.setattr("genkernel.plots.gan_figures", lambda result: {})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, plain_page: None) -> list[dict[str, Any]]:
    """The analysis replaced by a made-up result; what it was asked for."""
    asked: list[dict[str, Any]] = []

    def analyze(generator: Any, discriminator: Any, **kwargs: Any) -> tuple[Any, None]:
        asked.append({"generator": generator, "discriminator": discriminator, **kwargs})
        return planar_result(), None

    monkeypatch.setattr("genkernel.gan.analysis.analyze", analyze)
    return asked


def named(seed: int = 0) -> tuple[Generator, nn.Module]:
    """Planar networks that know where their weights come from."""
    generator, discriminator = planar_networks()
    generator.checkpoint = {"name": "runs/tiny", "sha256": str(seed)}
    return generator, discriminator.module


class Pictures(nn.Module):
    """8×8 images of one channel, with whatever comes last."""

    def __init__(self, last: nn.Module | None = None, channels: int = 1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Linear(5, channels * 64)
        self.last, self.channels = last or nn.Identity(), channels

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.net(z)).view(-1, self.channels, 8, 8)


def given(labels: Any, assign: Any = None) -> Clusters:
    """Two clusters with whatever labels."""
    return Clusters(labels, ["a", "b"], "by hand", assign)


def conditional() -> Discriminator:
    class Judge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed = nn.Linear(2, 3), nn.Embedding(3, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.net(x) * self.embed(y)).sum(1, keepdim=True)

    return Discriminator(Judge(), (2,), classes=3)


class Line(nn.Module):
    """Samples that do not depend on the latent."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.ones(2))

    def forward(self, z: Tensor) -> Tensor:
        return self.place + 0 * z


# ------------------------------------------------------------------------ the real thing


def test_the_whole_walk(tmp_path: Path) -> None:
    generator, discriminator = named()
    before = {k: v.clone() for net in (generator.module, discriminator) for k, v in net.state_dict().items()}
    state, said = torch.random.get_rng_state(), list[str]()
    report = gk.collapse(
        generator, discriminator=discriminator, modes=RING, mode_std=STD, real=RING.repeat(4, 1), loss="wgan",
        out=tmp_path / "run", say=said.append, **{**SMALL, "check": True},
    )  # fmt: skip
    after = {k: v for net in (generator.module, discriminator) for k, v in net.state_dict().items()}
    assert all(torch.equal(before[k], v) for k, v in after.items()) and generator.discriminator is None
    assert torch.equal(state, torch.random.get_rng_state())
    assert any("16 real samples of 2 values from a tensor, as they are" in sentence for sentence in said)
    summary = report.summary()
    assert summary["kind"] == "gan" and summary["verdict"] == report.verdict in ("ok", "watch", "collapsing", "unknown")
    assert len(summary["amplification"]["matrix"]) == 8 and summary["coverage"]["modes"]["samples"] == 16
    assert report.kernel is not None and report.kernel.shape == (16, 16)
    back = gk.open_run(tmp_path / "run")
    assert isinstance(back, gk.GanReport) and pack(back.result) == pack(report.result)
    assert back.verdict == report.verdict and len(back.evidence) == len(report.evidence)
    assert back.kernel is not None and np.array_equal(np.asarray(back.kernel), np.asarray(report.kernel))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["arguments"]["latents"] == 16 and record["timings"]["kernel"] > 0
    assert record["checkpoint"]["sha256"] == "0" and record["checkpoint"]["discriminator"]["sha256"] is None
    assert len(record["data"]["sha256"]) == 64 and "sha256 of its weights" in record["arguments"]["discriminator"]
    assert (tmp_path / "run" / "figures" / "amplification.png").is_file()
    page = (tmp_path / "run" / "index.html").read_text()
    assert "parameter uses captured and compared with autograd" in page and "16 real samples of 2 values from a" in page
    assert repr(back).startswith("GanReport(verdict ")


def test_the_same_seed_gives_the_same_numbers_whatever_the_memory(plain_page: None) -> None:
    generator, discriminator = named()
    a, b, c = (
        gk.collapse(generator, discriminator=discriminator, clusters=2, **{**SMALL, **more})
        for more in ({}, {"memory": "300MiB"}, {"seed": 1})
    )
    assert a.summary()["amplification"] == b.summary()["amplification"] != c.summary()["amplification"]
    np.testing.assert_allclose(a.result.kernel.normalized, b.result.kernel.normalized, rtol=1e-9)


def test_large_arrays_lie_beside_the_numbers(tmp_path: Path, plain_page: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkernel.workflows.arrays.LARGE", 200)
    report = gk.collapse(Pictures(), latent_shape=5, clusters=2, out=tmp_path / "run", **SMALL)
    with np.load(tmp_path / "run" / "arrays.npz") as arrays:
        assert {"kernel.normalized", "kernel.stderr"} <= set(arrays.files)
    assert report.result.kernel.normalized.shape == (16, 16)
    assert pack(gk.open_run(tmp_path / "run").result) == pack(report.result)
    (tmp_path / "run" / "arrays.npz").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be read as the arrays"):
        gk.open_run(tmp_path / "run")


def test_a_generator_alone_gives_a_report(tmp_path: Path) -> None:
    report = gk.collapse(Pictures(), latent_shape=5, clusters=2, out=tmp_path / "run", **SMALL)
    assert report.result.transport is None and any("no discriminator was given" in s for s in report.result.missing)
    page = (tmp_path / "run" / "index.html").read_text()
    assert "What is missing" in page and "No discriminator was given" in page and "no discriminator" in page


def test_labels_that_come_with_real_samples_try_the_classifier(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    points, labels = RING.repeat(3, 1), torch.arange(8).repeat(3)
    np.savez(tmp_path / "x.npz", x=points.numpy(), y=labels.numpy())
    gk.collapse(named()[0], real=tmp_path / "x.npz", classifier=lambda x: x @ RING.to(x).T, **SMALL)
    gk.collapse(named()[0], real=tmp_path / "x.npz", **SMALL)
    kept = calls[0]["real_labels"]
    assert torch.equal(RING.double()[kept], calls[0]["real"].double()) and calls[1]["real_labels"] is None


def test_a_constant_discriminator_is_left_out_of_the_drive_and_of_the_verdict(tmp_path: Path, plain_page: None) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias + 0 * x.sum(1, keepdim=True)

    generator, _ = named()
    report = gk.collapse(generator, discriminator=Constant().double(), clusters=2, out=tmp_path / "run", **SMALL)
    assert report.result.transport is None
    assert any("zero everywhere: the discriminator is constant" in s for s in report.result.missing)
    assert report.verdict == gk.collapse(generator, clusters=2, **SMALL).verdict
    assert "the discriminator is constant" in (tmp_path / "run" / "index.html").read_text()


def test_a_generator_that_ignores_its_latent_gives_a_report_that_says_so(tmp_path: Path) -> None:
    _, discriminator = named()
    report = gk.collapse(
        Line().double(), latent_shape=2, discriminator=discriminator, out=tmp_path / "run", real=RING, **SMALL
    )
    assert report.result.clusters.names == ["all"]
    assert any("one cluster only: the generator ignores its latent" in s for s in report.result.missing)
    assert "the generator ignores its latent" in (tmp_path / "run" / "index.html").read_text()
    known = gk.collapse(Line().double(), latent_shape=2, modes=RING, mode_std=STD, **SMALL)
    assert np.count_nonzero(known.result.clusters.occupancy) == 1


# ------------------------------------------------------------------------ a folder that says it all


def test_a_training_folder_needs_nothing_else(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    folder, said = ring_folder(tmp_path / "ring"), list[str]()
    report = gk.collapse(folder, say=said.append, latents=40, seed=3)
    (asked,) = calls
    assert asked["generator"].name == "ring" and asked["discriminator"].sample_shape == (2,)
    assert asked["loss"] == "hinge" and asked["modes"].shape == (8, 2) and asked["mode_std"] == 0.05
    assert asked["real"].shape == (40, 2) and float(asked["real"].norm(dim=1).mean()) == pytest.approx(2, abs=0.1)
    assert any("trained on ring with the hinge loss" in s for s in said)
    assert any("40 real samples drawn from the ring" in s for s in said)
    checkpoint = report.provenance.checkpoint
    assert len(checkpoint["sha256"]) == len(checkpoint["discriminator"]["sha256"]) == 64
    again = gk.load(folder)
    assert isinstance(again, Generator) and isinstance(again.discriminator, Discriminator)
    gk.collapse(folder, loss="kl", modes=RING, mode_std=STD, real=RING)
    assert calls[1]["loss"] == "kl" and torch.equal(calls[1]["modes"], RING) and torch.equal(calls[1]["real"], RING)


def test_snapshots_of_a_training_know_their_folder(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = ring_folder(tmp_path / "ring", snapshot=True)
    for path in (folder / "snapshots" / "000500.G.safetensors", folder / "G.safetensors"):
        gk.collapse(path)
        assert calls[-1]["loss"] == "hinge" and calls[-1]["discriminator"] is not None
    assert calls[0]["generator"].name == "ring, 000500.G"


@pytest.mark.parametrize(
    "factory",
    ["builtins:print", "os:system", "genkernel.models.gan_training:train_gan", "genkernel.models.gans:write_atomic",
     "genkernel.models.mnist_classifier:load_file", "genkernel.modelsx:Evil", "evil:Generator"],
)  # fmt: skip
def test_a_training_record_cannot_name_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = ring_folder(tmp_path / "ring", generator={"factory": factory, "arguments": {"width": 16}})
    with pytest.raises(InputError, match="which is no network of genkernel"):
        gk.collapse(folder)
    assert "evil" not in sys.modules
    gen = gk.load(folder, factory="genkernel.models.gans:MLPGenerator")
    assert gen.parameters > 0 and gen.discriminator is not None


def test_a_folder_of_an_unfinished_training(tmp_path: Path) -> None:
    folder = ring_folder(tmp_path / "ring")
    (folder / "G.safetensors").unlink()
    with pytest.raises(MissingError, match=r"holds no G\.safetensors: the training that it is of has not finished"):
        gk.collapse(folder)


def test_a_gan_is_no_diffusion_model(tmp_path: Path) -> None:
    folder = ring_folder(tmp_path / "ring")
    with pytest.raises(InputError, match="holds a GAN, not a diffusion model"):
        gk.locality(folder, torch.rand(4, 1, 4, 4))


# ------------------------------------------------------------------------ real images


@pytest.mark.parametrize(
    ("last", "options", "low", "words"),
    [
        (nn.Tanh(), {}, -1.0, r"brought to \[-1, 1\], the range of the generator's last tanh"),
        (nn.Sigmoid(), {}, 0.0, r"brought to \[0, 1\], the range of the generator's last sigmoid"),
        (nn.Hardtanh(), {}, -1.0, r"the range of the generated values, which run from -1 to 1"),
        (nn.Hardtanh(0, 1), {}, 0.0, r"the range of the generated values, which run from 0 to 1"),
        (nn.Identity(), {"real_range": (-2, 3)}, -2.0, r"brought to \[-2, 3\], as asked"),
    ],
)
def test_real_images_are_brought_to_what_the_generator_makes_and_it_is_said(
    calls: list[dict[str, Any]], last: nn.Module, options: dict[str, Any], low: float, words: str
) -> None:
    said: list[str] = []
    images = torch.zeros(20, 3, 12, 12)
    images[:, :, 6:] = 1
    report = gk.collapse(Pictures(last), latent_shape=5, real=images, say=said.append, latents=16, **options)
    real = calls[0]["real"]
    assert real.shape == (16, 1, 8, 8)
    assert float(real.min()) == low and float(real.max()) == {-1.0: 1.0, 0.0: 1.0, -2.0: 3.0}[low]
    sentence = next(s for s in said if "real images" in s)
    assert __import__("re").search(words, sentence) and "colour to luma" in sentence and "→ 8×8" in sentence
    assert report.provenance.data["conversions"]


def test_an_unclear_range_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"the generated values run from .* pass real_range=\(black, white\)"):
        gk.collapse(Pictures(), latent_shape=5, real=torch.rand(20, 1, 8, 8))


def test_labels_of_real_images_come_along(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((12, 8, 8)).astype(np.float32), np.arange(12) % 4
    np.savez(tmp_path / "x.npz", x=x, y=y)
    gk.collapse(Images(), classes=4, latent_shape=6, discriminator=Critic(), real=tmp_path / "x.npz", loss="hinge")
    assert calls[0]["real_labels"].tolist() == y.tolist() and calls[0]["discriminator"].classes == 4
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(12))  # those of another data set
    gk.collapse(Images(), classes=4, latent_shape=6, real=tmp_path / "x.npz")
    assert calls[1]["real_labels"] is None


@pytest.mark.parametrize("kind", ["array", "npz", "folder", "images"])
def test_given_labels_stay_with_their_real_samples(calls: list[dict[str, Any]], tmp_path: Path, kind: str) -> None:
    """More samples than are used: label k belongs to the sample of value k/100."""
    labels = torch.arange(100)
    values = labels[:, None, None].expand(-1, 8, 8).to(torch.uint8)
    real: Any = values.numpy()
    if kind == "npz":
        np.savez(tmp_path / "x.npz", x=real, y=np.zeros(100, dtype=int))
        real = tmp_path / "x.npz"
    elif kind == "folder":
        from PIL import Image

        for k, picture in enumerate(real):
            Image.fromarray(picture).save(tmp_path / f"{k:03d}.png")
        real = tmp_path
    elif kind == "images":
        real = gk.load_images(real)
    asked: dict[str, Any] = {"latent_shape": 5, "latents": 16, "real_range": (0, 255), "seed": 3}
    gk.collapse(Pictures(), real=real, real_labels=labels.tolist(), **asked)
    found = calls[0]["real_labels"]
    assert len(found) == 16 and torch.equal(calls[0]["real"][:, 0, 0, 0].round().long(), found)
    with pytest.raises(InputError, match=r"real_labels are whole numbers .*: there are 16 for 100 real samples"):
        gk.collapse(Pictures(), real=real, real_labels=labels[:16], **asked)


def test_given_labels_stay_with_their_points(calls: list[dict[str, Any]]) -> None:
    labels = np.arange(50)
    real = torch.stack([torch.from_numpy(labels), torch.zeros(50)], 1).float()
    reports = [gk.collapse(named()[0], latents=16, real=real, real_labels=y) for y in (labels, labels[::-1].copy())]
    assert torch.equal(calls[0]["real"][:, 0].long(), calls[0]["real_labels"]) and len(calls[0]["real"]) == 16
    recorded = [report.provenance.arguments["real_labels"] for report in reports]
    assert recorded[0] != recorded[1] and recorded[0].startswith("16 (sha256 ")


@pytest.mark.parametrize("kind", ["csv", "npy", "npz"])
def test_points_from_files(calls: list[dict[str, Any]], tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"points.{kind}"
    points = RING.numpy().astype(np.float64)
    if kind == "csv":
        path.write_text("x,y\n" + "\n".join(f"{a},{b}" for a, b in points) + "\n")
    elif kind == "npy":
        np.save(path, points)
    else:
        np.savez(path, points=points)
    gk.collapse(named()[0], modes=path, mode_std=0.1, real=path)
    for name in ("modes", "real"):
        np.testing.assert_allclose(calls[0][name].numpy(), points, atol=1e-6)


def test_a_shipped_classifier_by_its_name(calls: list[dict[str, Any]]) -> None:
    class Digits(Pictures):
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z).repeat(1, 1, 4, 4)

    for last, scale in ((nn.Tanh(), 1), (nn.Sigmoid(), 2)):
        gk.collapse(Digits(last), latent_shape=5, classifier="mnist-classifier", latents=8)
        x = torch.rand(3, 1, 32, 32)
        from genkernel import assets
        from genkernel.models.mnist_classifier import load_classifier

        plain = load_classifier(assets.path("mnist-classifier"))
        assert torch.allclose(calls[-1]["classifier"](x), plain(scale * x - (scale - 1)))


# ------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latents": 7}, "latents has to be a whole number of at least 8"),
        ({"jacobians": 0}, "jacobians has to be a whole number of at least 1"),
        ({"fresh": -1}, "fresh has to be a whole number of at least 0"),
        ({"seed": -1}, "seed has to be a whole number from 0"),
        ({"memory": "lots"}, "not an amount of memory"),
        ({"dtype": "int8"}, "dtype is one of float32"),
        ({"device": "meta"}, "is never moved"),
        ({"loss": "l2"}, "the generator's loss is one of non-saturating"),
        ({"labels": "one-hot"}, "labels= holds the classes of the latents"),
        ({"precondition": {}, "optimizer_state": {}}, "give either precondition= or optimizer_state="),
        ({"truncation": 0.5}, "truncation cannot be changed on a finished Generator"),
        ({"discriminator": nn.Linear(3, 1)}, "cannot judge samples 2 as the generator makes them"),
        ({"discriminator": 3}, "a discriminator is a module or a file of weights, not int"),
        ({"real": torch.rand(9, 3)}, "the real samples have shape 3, the generated ones 2"),
        ({"real": torch.rand(1, 2)}, "at least 2 real samples"),
        ({"real_range": (0, 1)}, "real_range= is the range that real images are brought to"),
        ({"real": RING, "real_range": (0, 1)}, "real_range= belongs to images"),
        ({"modes": torch.rand(4, 3)}, r"modes have shape \[M, 2\]"),
        ({"mode_std": 0.1}, "give modes= as well"),
        ({"classifier": 3}, "a classifier is a function"),
        ({"classifier": nn.Linear(5, 2)}, "the classifier cannot be run on samples 2"),
        ({"features": lambda x: x @ torch.rand(5, 5)}, "features cannot be run on samples 2"),
        ({"model": 3}, "collapse takes a generator, a network or a path, not int"),
        ({"model": nn.Linear(2, 2), "latent_shape": 3}, "cannot be run on latents of shape 3"),
        ({"model": nn.Linear(2, 2), "scheduler": 1}, "'scheduler' is no option of a generator"),
        ({"model": Images(), "latent_shape": 6}, r"a conditional network needs classes="),
        ({"device": "foo"}, "device 'foo' cannot be used here"),
        ({"device": 1.5}, "device is a name such as 'cpu'"),
        ({"dtype": [1]}, r"dtype is one of float32, .* not \[1\]"),
        ({"game": 5}, "game is True, False, or a mapping with its options, not 5"),
        ({"game": None}, "game is True, False, or a mapping with its options, not None"),
        ({"game": {"r2": 1}}, "'r2' is no option of the game: there are discriminator_loss, r1, rates"),
        ({"game": {"loss": "wgan"}}, "'loss' is no option of the game"),
        ({"game": {"real_labels": [1]}}, "'real_labels' is no option of the game"),
        ({"game": {"rates": 3}}, "rates of the game are two positive numbers"),
        ({"game": {"rates": (1, "b")}}, "rates of the game are two positive numbers"),
        ({"game": {"rates": (1, 0)}}, "rates of the game are two positive numbers"),
        ({"game": {"r1": "a"}}, "r1 of the game is a penalty from 0 on, not 'a'"),
        ({"game": {"r1": math.nan}}, "r1 of the game is a penalty from 0 on, not nan"),
        ({"game": {"discriminator_loss": torch.neg}}, "discriminator_loss of the game is two functions"),
        ({"game": {"discriminator_loss": (torch.neg, torch.sum)}}, r"entry by entry: it gave \(\) for shape \(2,\)"),
        ({"clusters": 2.5}, "clusters is 'auto', a number of clusters, or Clusters, not 2.5"),
        ({"clusters": None}, "clusters is 'auto', a number of clusters, or Clusters, not None"),
        ({"clusters": "two"}, "clusters is 'auto'"),
        ({"clusters": 0}, "clusters is 'auto'"),
        ({"clusters": True}, "clusters is 'auto'"),
        ({"clusters": 17}, "16 latents cannot be put into 17 clusters"),
        ({"clusters": given([0, 2] * 8)}, "labels of clusters reach 2, and there are names for 2 clusters"),
        ({"clusters": given([0, -1] * 8)}, "labels of clusters are whole numbers from 0 on.*: the smallest is -1"),
        ({"clusters": given(torch.zeros(16))}, r"labels of clusters are .* not float32 of shape \(16,\)"),
        ({"clusters": given(np.zeros(15, dtype=int))}, "labels of clusters are .*: there are 15 for 16 latents"),
        ({"clusters": given(None)}, "labels of clusters are .* not None"),
        ({"clusters": Clusters(np.zeros(16, dtype=int), 3, "by hand")}, "names of clusters are a list of words, not 3"),
        (
            {"clusters": given([0] * 16, lambda x: x / 0.0), "real": RING},
            r"clusters that assign gives are .* not float32 of shape \(2, 2\)",
        ),
        ({"clusters": given([0] * 16, lambda x: x.no()), "real": RING}, "assign of clusters cannot be run on real"),
        (
            {"clusters": given([0] * 16, lambda x: [0, 2]), "real": RING},
            "assign of clusters answers 2, and",
        ),
        ({"labels": [0] * 16}, "labels= were given, but the generator is not conditional"),
        ({"real_labels": ["a"] * 8, "real": RING}, "real_labels are whole numbers .* not \\['a', 'a'"),
        ({"real_labels": "abc", "real": RING}, "real_labels are whole numbers .* not 'abc'"),
        ({"real_labels": [], "real": RING}, r"real_labels are whole numbers .* not \[\]"),
        ({"real_labels": [0.5] * 8, "real": RING}, r"real_labels are whole numbers .* not float32 of shape \(8,\)"),
        ({"real_labels": [0, 1]}, "real_labels= are the classes of real samples: give those with real="),
        ({"modes": RING, "mode_std": "a"}, "mode_std is .* a positive number, or 8, one for each, not 'a'"),
        ({"modes": RING, "mode_std": math.nan}, "mode_std is .* not nan"),
        ({"modes": RING, "mode_std": -0.1}, "mode_std is .* not -0.1"),
        ({"modes": RING, "mode_std": [0.1, 0.2]}, r"mode_std is .* not \[0.1, 0.2\]"),
        ({"loss": lambda logit: 1 / 0}, "the generator's loss cannot be run on two logits: ZeroDivisionError"),
        ({"loss": lambda logit: logit.sum()}, r"a loss is a function of the logit, entry by entry: it gave \(\)"),
        ({"loss": lambda logit: torch.ones(2)}, "the loss does not depend on the logit"),
        (
            {"discriminator": Discriminator(nn.Linear(3, 1), (3,))},
            "the generator makes samples 2, the discriminator takes 3",
        ),
        ({"discriminator": conditional()}, "the discriminator is conditional, the generator is not"),
        (
            {"discriminator": nn.Linear(2, 1).double(), "precondition": {"no": torch.ones(1)}},
            "the preconditioner names 'no', which is not among the selected parameters",
        ),
        ({"discriminator": nn.Linear(2, 1).double(), "optimizer_state": 3}, "a preconditioner is .* not int"),
    ],
)
def test_wrong_arguments(calls: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        gk.collapse(**({"model": named()[0], "latents": 16, "out": tmp_path / "a" / "b"} | change))
    assert "\n" not in str(caught.value) and not calls and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ["a"] * 16}, r"labels are whole numbers .* not \['a'"),
        ({"labels": [0] * 15}, "labels are whole numbers .*: there are 15 for 16 latents"),
        ({"labels": [4] * 16}, r"labels lie in 0 … 3, the classes of the generator: the largest is 4"),
        ({"real": torch.rand(9, 1, 8, 8), "real_labels": [4] * 9}, "real_labels lie in 0 … 3"),
        ({"classes": 5}, "the generator has 5 classes, the discriminator 4"),
    ],
)
def test_wrong_labels_of_conditional_networks(calls: list[dict[str, Any]], change: dict[str, Any], words: str) -> None:
    if change.get("classes") == 5:
        network: nn.Module = Images()
        network.embed = nn.Embedding(5, 6)
        change = {**change, "discriminator": Discriminator(Critic(), (1, 8, 8), classes=4)}
    else:
        network = Images()
    with pytest.raises(InputError, match=words):
        gk.collapse(**({"model": network, "latent_shape": 6, "classes": 4, "latents": 16} | change))
    assert not calls


def test_a_loss_that_is_not_finite() -> None:
    with pytest.raises(NonFiniteError, match="the generator's loss is NaN or infinite"):
        gk.collapse(named()[0], loss=lambda logit: logit.sqrt())


def test_arguments_that_are_brought_to_what_the_analysis_takes(calls: list[dict[str, Any]]) -> None:
    own = given([0, 1] * 8)
    for labels in (own.labels, torch.tensor(own.labels), np.array(own.labels, dtype=np.uint8)):
        gk.collapse(named()[0], latents=16, clusters=given(labels), modes=RING, mode_std=[0.1] * 8)
        asked = calls[-1]["clusters"].labels
        assert isinstance(asked, np.ndarray) and asked.dtype == np.int64 and asked.tolist() == own.labels
        assert calls[-1]["mode_std"].tolist() == [0.1] * 8
    assert own.labels == [0, 1] * 8
    game = {"r1": 0.2, "rates": [1, 0.5], "discriminator_loss": (torch.neg, torch.abs)}
    gk.collapse(named()[0], latents=16, clusters=np.int64(3), game=game, mode_std=np.float64(0.1), modes=RING)
    assert calls[-1]["clusters"] == 3 and calls[-1]["game"] == game and calls[-1]["mode_std"] == 0.1


def test_what_is_given_is_left_as_it_was(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 3)).double().train() for _ in range(2)]
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]

    def noisy(logit: Tensor) -> Tensor:
        random.random(), np.random.rand(), torch.rand(1)
        return -logit

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    monkeypatch.setattr("genkernel.gan.analysis.analyze", lambda *a, **k: (random.random(), torch.rand(1)) and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gk.collapse(named()[0], classifier=networks[0], features=networks[1], loss=noisy)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.random.get_rng_state(), states[2])
    for network, state in zip(networks, before, strict=True):
        assert all(m.training for m in network.modules())
        assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())


def test_a_path_leaves_the_random_numbers_alone(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = ring_folder(tmp_path / "ring")
    state = torch.random.get_rng_state()
    gk.collapse(folder)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "nothing/here.pt"}, MissingError, "no checkpoint at"),
        ({"factory": "nothing:here"}, InputError, "cannot be imported"),
        ({"factory": "genkernel.models.gans:DCGANGenerator"}, InputError, "do not fit"),
        ({"factory": None}, InputError, "pass factory='module:Class'"),
        ({"discriminator": "no.pt"}, MissingError, "no checkpoint at 'no.pt'"),
        ({"real": "no.csv"}, MissingError, "there are no real samples at 'no.csv'"),
        ({"real": "no/images"}, MissingError, "no images at"),
        ({"real": "ragged.csv"}, InputError, "cannot be read as real samples.* rows differ"),
        ({"real": "semicolons.csv"}, InputError, "separated by semicolons, and have to be by commas"),
        ({"real": "words.csv"}, InputError, "numbers separated by commas, not 'a,b'"),
        ({"latents": 200_000}, InputError, r"memory='8GiB' allows|GiB allow that are free.*: at most \d+ latents fit"),
        ({"discriminator_key": "d"}, InputError, "discriminator_key= names an entry of the discriminator's file"),
        ({"real": "nan.csv"}, NonFiniteError, "hold NaN or infinity"),
        ({"modes": "no.npz"}, MissingError, "there are no modes at"),
        ({"modes": "two.npz"}, InputError, r"has arrays \['a', 'b'\]"),
        ({"classifier": "no/classifier"}, MissingError, "there is no classifier at"),
        ({"classifier": "."}, MissingError, "holds no classifier"),
        ({"optimizer_state": "no.pt"}, MissingError, "there is no optimizer state"),
        ({"optimizer_state": "unsafe.pt"}, UnsafeCheckpointError, "--trust-pickle"),
    ],
)
def test_wrong_files(
    calls: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ring_folder(Path("ring"))
    Path("ring/G.safetensors").rename("G.safetensors")
    Path("ragged.csv").write_text("1,2\n3\n")
    Path("nan.csv").write_text("1,2\nnan,3\n")
    Path("semicolons.csv").write_text("x;y\n1;2\n3;4\n")
    Path("words.csv").write_text("x,y\na,b\n")
    np.savez("two.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    torch.save({"optimizer": Path}, "unsafe.pt")
    asked = {
        "model": "G.safetensors", "factory": "genkernel.models.gans:MLPGenerator", "factory_args": {"width": 16}
    } | change  # fmt: skip
    with pytest.raises(error, match=words) as caught:
        gk.collapse(out="run", **asked)
    assert "\n" not in str(caught.value) and not calls and not Path("run").exists()


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    generator, _ = planar_networks()
    with torch.no_grad():
        generator.module[0].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"0\.weight"):
        gk.collapse(generator.module, latent_shape=2, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_real_images_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the images have 2 channels where 1 are wanted"):
        gk.collapse(Pictures(nn.Tanh()), latent_shape=5, real=torch.rand(9, 2, 8, 8), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_dead_generator(tmp_path: Path) -> None:
    dead = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for p in dead.parameters():
            p.zero_()
    frozen = dead.requires_grad_(False)
    frozen[0].weight.requires_grad_(True)  # behind dead units
    with pytest.raises(ZeroGradientError, match="gradients are all zero"):
        gk.collapse(frozen, latent_shape=2, out=tmp_path / "run", clusters=1, modes=RING, **{**SMALL, "probes": 1})
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        gk.collapse(named()[0], out=tmp_path / "file" / "run")
    with pytest.raises(InputError, match="is not empty and holds no genkernel run"):
        gk.collapse(named()[0], out=tmp_path)
    assert not calls


# ------------------------------------------------------------------------ resume


def test_a_run_in_memory_is_used_again_with_the_same_weights(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    generator, discriminator = (network.module for network in planar_networks())
    asked = {"latent_shape": 2, "discriminator": discriminator, "out": tmp_path, "resume": True}
    gk.collapse(generator, **asked)
    assert gk.collapse(copy.deepcopy(generator), **asked).reused and len(calls) == 1
    with torch.no_grad():
        next(generator.parameters())[0] += 1e-3
    with pytest.raises(InputError, match=r"cannot be resumed.*generator_weights was"):
        gk.collapse(generator, **asked)


def test_a_finished_run_is_used_again(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    generator, discriminator = named()
    asked = {"model": generator, "discriminator": discriminator, "out": tmp_path, "resume": True}
    said = list[str]()
    first = gk.collapse(**asked, say=said.append)
    second = gk.collapse(**asked, memory="1GiB", say=said.append)
    assert len(calls) == 1 and second.reused and not first.reused and second.summary() == first.summary()
    assert any("used again" in s for s in said)
    changed = planar_networks(3.0)
    for change, words in (
        ({"probes": 4}, "probes was 8, now 4"),
        ({"discriminator": changed[1].module.float().double().requires_grad_(False)}, None),
        ({"discriminator": nn.Linear(2, 1).double()}, "discriminator was .* now Linear"),
        ({"real": RING}, "the images have changed"),
        ({"modes": RING}, "modes was unset, now 8×2"),
        ({"model": named(1)[0]}, "the checkpoint has changed"),
    ):
        if words is not None:
            with pytest.raises(InputError, match=f"cannot be resumed.*{words}"):
                gk.collapse(**{**asked, **change})
    assert len(calls) == 1


ASKED: dict[str, Any] = {"latents": 16, "resume": True, "loss": "hinge"}


def softer(logit: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-logit)


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({"key": "g"}, {"key": "g_ema"}, "generator_weights was .*, now .*; the generator now answers"),
        (
            {"factory_args": {"width": 16, "activation": "relu"}},
            {"factory_args": {"width": 16, "activation": "tanh"}},
            "another one: the generator now answers the same latents in another way",
        ),
        ({"classifier": lambda x: x}, {"classifier": lambda x: -x}, "another one: the classifier now answers"),
        ({"features": lambda x: x}, {"features": lambda x: 1.01 * x}, "another one: the function of features now"),
        ({"loss": lambda logit: -logit}, {"loss": lambda logit: -1.1 * logit}, "another one: the loss now answers"),
        ({"loss": softer}, {"loss": lambda logit: -logit}, "loss was softer, now <lambda>"),
        ({"discriminator": "plain"}, {"discriminator": "logit"}, "discriminator_output was probability, now logit"),
        ({"optimizer_state": "a"}, {"optimizer_state": "b"}, r"preconditioner was state, param_groups \(sha256 "),
        ({"precondition": "a"}, {"precondition": "b"}, r"preconditioner was Preconditioner \(sha256 .*, now "),
        ({"real_labels": [0, 1] * 4}, {"real_labels": [1, 0] * 4}, r"real_labels was 8 \(sha256 .*, now 8 "),
        ({"clusters": given([0, 1] * 8)}, {"clusters": given([1, 0] * 8)}, "clusters was 2 clusters of 16 latents"),
        ({"inputs": {"scale": torch.ones(1)}}, {"inputs": {"scale": torch.zeros(1)}}, "inputs was scale .* answers"),
        ({"params": "layers.0.*"}, {"params": "layers.2.*"}, "parameter_names was"),
        (
            {"game": {"discriminator_loss": (softer, softer)}}, {"game": {"discriminator_loss": (softer, torch.neg)}},
            "game was",
        ),
        (
            {"game": {"discriminator_loss": (softer, lambda x: x)}},
            {"game": {"discriminator_loss": (softer, lambda x: 2 * x)}},
            "another one: the discriminator_loss of generated samples now answers",
        ),
    ],
)  # fmt: skip
def test_a_run_with_something_else_is_not_used_again(
    calls: list[dict[str, Any]], tmp_path: Path, first: dict[str, Any], then: dict[str, Any], words: str
) -> None:
    """The same with the same is; and with another, it is said which."""
    states = networks_in(tmp_path)
    asked = {"model": tmp_path / "G.pt", "key": "g", "real": RING, "out": tmp_path / "run", **ASKED}
    asked |= {"factory": "genkernel.models.gans:MLPGenerator", "factory_args": {"width": 16}}
    if "inputs" in first:
        asked |= {"call": lambda module, batch: module(batch["z"]) * (1 + batch["scale"][:, None])}

    def options(given: dict[str, Any]) -> dict[str, Any]:
        given = dict(given)
        if "discriminator" in given:
            judge = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
            judge.load_state_dict(states["D"])
            output = "logit" if given["discriminator"] == "logit" else None
            given["discriminator"] = Discriminator(judge, (2,), output=output)
        if "optimizer_state" in given:
            given["optimizer_state"] = states[given["optimizer_state"]]
        if "precondition" in given:
            given["precondition"] = gk.Preconditioner.diagonal(
                {name: value.square() for name, value in states["g" + given["precondition"]].items()}
            )
        return asked | given

    gk.collapse(**options(first))
    assert gk.collapse(**options(first)).reused and len(calls) == 1
    with pytest.raises(InputError, match=f"cannot be resumed.*{words}"):
        gk.collapse(**options(then))
    assert len(calls) == 1


def test_entries_of_one_file_are_told_apart(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    judges = [nn.Linear(2, 1).state_dict() for _ in range(2)]
    torch.save({"d": judges[0], "d_old": judges[1]}, tmp_path / "D.pt")
    (tmp_path / "judges.py").write_text("from torch import nn\ndef Judge(): return nn.Linear(2, 1)\n")
    generator = planar_networks()[0].module.float()
    asked = {"discriminator": tmp_path / "D.pt", "discriminator_factory": "judges:Judge", "latent_shape": 2, **ASKED}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        gk.collapse(generator, **asked, discriminator_key="d", out=tmp_path / "run")
        assert gk.collapse(generator, **asked, discriminator_key="d", out=tmp_path / "run").reused
        with pytest.raises(InputError, match=r"discriminator was D \(sha256 of its weights .*, now D \(sha256"):
            gk.collapse(generator, **asked, discriminator_key="d_old", out=tmp_path / "run")
        assert calls[0]["discriminator"].module.weight.equal(judges[0]["weight"])


def networks_in(folder: Path) -> dict[str, dict[str, Any]]:
    """A file with two generators, and states of optimizers and of a discriminator."""
    from genkernel.models.gans import MLPGenerator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = [MLPGenerator(width=16) for _ in range(2)]
        judge = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    states = {"D": judge.state_dict(), "ga": networks[0].state_dict(), "gb": networks[1].state_dict()}
    torch.save({"g": states["ga"], "g_ema": states["gb"]}, folder / "G.pt")
    for name, factor in (("a", 1.0), ("b", 2.0)):
        optimizer = torch.optim.Adam(networks[0].parameters())
        for p in networks[0].parameters():
            p.grad = torch.full_like(p, factor)
        before = {k: v.clone() for k, v in networks[0].state_dict().items()}
        optimizer.step()
        networks[0].load_state_dict(before)
        states[name] = optimizer.state_dict()
    return states


def test_last_bits_do_not_make_another_run(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    """As those that another number of threads moves."""
    generator, discriminator = named()
    noise = {"size": 0.0}

    class Shaken(nn.Module):
        def __init__(self, module: nn.Module):
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x) * (1 + noise["size"])

    shaken = Generator(Shaken(generator.module), (2,), checkpoint=generator.checkpoint)
    asked: dict[str, Any] = {
        "model": shaken, "discriminator": Discriminator(Shaken(discriminator), (2,)), "out": tmp_path, **ASKED,
        **{name: lambda x: -x * (1 + noise["size"]) for name in ("classifier", "features", "loss")},
    }  # fmt: skip
    gk.collapse(**asked)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for noise["size"] in (1e-5, -1e-5):
            assert gk.collapse(**asked).reused
        noise["size"] = 0.02
        with pytest.raises(InputError, match=r"the generator now.*the discriminator now.*the loss now"):
            gk.collapse(**asked)
    finally:
        torch.set_num_threads(threads)
    assert len(calls) == 1


def test_functions_that_draw_random_numbers_can_be_resumed(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    asked = {"model": named()[0], "features": lambda x: x @ torch.randn(2, 3).to(x), "out": tmp_path, **ASKED}
    gk.collapse(**asked)
    torch.rand(3)
    assert gk.collapse(**asked).reused


def test_runs_that_recorded_no_answers_are_not_used_again(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    asked = {"model": named()[0], "out": tmp_path, **ASKED}
    gk.collapse(**asked)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["checkpoint"]["answers"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="what its networks answer was not recorded"):
        gk.collapse(**asked)


def test_infinite_numbers_are_read_back(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = planar_result()
    evidence = Evidence("condition", "c", "geometry", math.inf, (-math.inf, 9.0), math.nan, 1, "watch", True, "here")
    monkeypatch.setattr(
        "genkernel.gan.analysis.analyze",
        lambda *a, **k: (replace(result, verdict=Verdict("watch", [], [evidence])), None),
    )
    gk.collapse(named()[0], out=tmp_path)
    found = gk.open_run(tmp_path, "gan").evidence[0]
    assert found.value == math.inf and found.healthy == (-math.inf, 9.0) and math.isnan(found.alarm)
    assert json.loads((tmp_path / "summary.json").read_text())["evidence"][0]["value"] is None


def test_a_stopped_run_keeps_its_kernel(tmp_path: Path, plain_page: None) -> None:
    generator, discriminator = named()
    asked: dict[str, Any] = {"model": generator, "discriminator": discriminator, "clusters": 2, "resume": True, **SMALL}
    out, said = tmp_path / "run", list[str]()

    def stop(stage: str, done: int, count: int) -> None:
        if stage == "drive":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        gk.collapse(**asked, out=out, progress=stop)
    assert "finished kernels are kept" in caught.value.__notes__[0]
    parts = {p: p.stat().st_mtime_ns for p in kernels_of(out).rglob("tasks/[!.]*")}
    assert parts
    with pytest.raises(InputError, match="seed was 0, now 1"):
        gk.collapse(**asked, out=out, seed=1)
    seen: dict[Path, int] = {}

    def look(stage: str, done: int, count: int) -> None:
        seen.update({p: p.stat().st_mtime_ns for p in kernels_of(out).rglob("tasks/[!.]*")})

    report = gk.collapse(**asked, out=out, progress=look, say=said.append)
    assert parts.items() <= seen.items() and any("finished kernels there: 1" in s for s in said)
    plain = gk.collapse(**{**asked, "resume": False})
    assert np.array_equal(plain.result.kernel.normalized, report.result.kernel.normalized)
    assert not kernels_of(out).exists()


def test_an_interrupted_analysis_leaves_nothing(tmp_path: Path) -> None:
    def stop(stage: str, done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gk.collapse(named()[0], out=tmp_path / "a" / "b", progress=stop, **SMALL)
    assert list(tmp_path.iterdir()) == []
