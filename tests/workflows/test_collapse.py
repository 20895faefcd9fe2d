"""From a generator to a report on mode collapse: what is passed on, what is said, what is refused."""

from __future__ import annotations

import json
import math
import sys
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
    assert any("16 real samples 2 from a tensor, as they are" in sentence for sentence in said)
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
    assert "parameter uses captured and compared with autograd" in page and "16 real samples 2 from a tensor" in page
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
    ],
)
def test_wrong_arguments(calls: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        gk.collapse(**({"model": named()[0], "out": tmp_path / "a" / "b"} | change))
    assert "\n" not in str(caught.value) and not calls and list(tmp_path.iterdir()) == []


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
        ({"model": planar_networks()[0]}, "given in memory"),
    ):
        if words is not None:
            with pytest.raises(InputError, match=f"cannot be resumed.*{words}"):
                gk.collapse(**{**asked, **change})
    assert len(calls) == 1


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
