"""``gk.load`` for GANs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import genkernel as gk
from genkernel.errors import InputError, MissingError, NonFiniteError
from genkernel.gan import Discriminator, Generator
from genkernel.workflows.load_gan import training_of
from tests.gan.folders import ring_folder

CODE = """
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self, size=6, classes=0):
        super().__init__()
        self.embed = nn.Embedding(classes, size) if classes else None
        self.net = nn.Sequential(nn.ConvTranspose2d(size, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3))
    def forward(self, z, y=None):
        return self.net(z if self.embed is None else z * self.embed(y)[:, :, None, None])

class Discriminator(nn.Module):
    def __init__(self, classes=0):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LeakyReLU(0.2))
        self.head = nn.Linear(3, 1)
        self.embed = nn.Embedding(classes, 3) if classes else None
    def forward(self, x, *y):
        h = self.net(x)
        return self.head(h if self.embed is None else h * self.embed(*y))

Judge = Discriminator
"""


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ganmodels.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    import ganmodels  # type: ignore[import-not-found]

    torch.manual_seed(0)
    for name, net in (
        ("G", ganmodels.Generator()), ("D", ganmodels.Discriminator()),
        ("CG", ganmodels.Generator(classes=3)), ("CD", ganmodels.Discriminator(classes=3)),
    ):  # fmt: skip
        save_file({key: value.clone() for key, value in net.state_dict().items()}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_a_generator_with_its_discriminator(saved: Path) -> None:
    gen = gk.load(saved / "G.safetensors", factory="ganmodels:Generator", discriminator=saved / "D.safetensors")
    assert isinstance(gen, Generator) and isinstance(gen.discriminator, Discriminator)
    assert gen.latent_shape == (6, 1, 1) and gen.output_shape == (1, 2, 2)
    assert gen.name == "G" and gen.discriminator.name == "D" and len(gen.checkpoint["sha256"]) == 64
    assert gen.discriminator.logits(gen.images(gen.draw(5))).shape == (5,)


def test_a_generator_alone(saved: Path) -> None:
    for options in ({"latent_shape": (6, 1, 1)}, {"kind": "gan"}):
        gen = gk.load(saved / "G.safetensors", factory="ganmodels:Generator", **options)
        assert isinstance(gen, Generator) and gen.discriminator is None


def test_conditional_ones_and_other_ways_to_give_a_discriminator(saved: Path) -> None:
    import ganmodels  # type: ignore[import-not-found]

    gen = gk.load(
        saved / "CG.safetensors", factory="ganmodels:Generator", factory_args={"classes": 3}, classes=3,
        discriminator=saved / "CD.safetensors", discriminator_factory="ganmodels:Judge",
        discriminator_args={"classes": 3},
    )  # fmt: skip
    assert gen.classes == 3 and gen.discriminator.classes == 3
    for given in (ganmodels.Discriminator(), Discriminator(ganmodels.Discriminator(), (1, 2, 2))):
        gen = gk.load(saved / "G.safetensors", factory="ganmodels:Generator", discriminator=given)
        assert gen.discriminator.classes is None


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"factory": None, "kind": "gan"}, InputError, "pass factory='module:Class'"),
        ({"latent_size": 6}, InputError, "'latent_size' is no option of a generator"),
        ({"latent_shape": 7}, InputError, "cannot be run on latents of shape 7"),
        ({"discriminator": "nowhere.safetensors"}, MissingError, "nowhere"),
        ({"latent_shape": 6, "scheduler": "there"}, InputError, "scheduler= belongs to diffusion models"),
        ({"discriminator": nn.Conv2d(3, 1, 2)}, InputError, "cannot judge samples 1×2×2"),
        ({"kind": "diffusion", "latent_shape": 6}, InputError, "'latent_shape' is no option of a diffusion model"),
    ],
)
def test_mistakes(saved: Path, options: dict, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        gk.load(saved / "G.safetensors", **{"factory": "ganmodels:Generator", **options})
    assert "\n" not in str(caught.value)


def test_wrapped_modules(saved: Path) -> None:
    import ganmodels  # type: ignore[import-not-found]

    g, d = ganmodels.Generator(), ganmodels.Discriminator()
    gen = gk.wrap(g, latent_shape=(6, 1, 1), discriminator=d, name="mine")
    assert gen.module is g and gen.discriminator.module is d and gen.name == "mine"
    cond = gk.wrap(ganmodels.Generator(classes=3), classes=3, discriminator=ganmodels.Discriminator(classes=3))
    assert cond.latent_shape == (6, 1, 1) and cond.discriminator.classes == 3
    with pytest.raises(InputError, match="scheduler= belongs to diffusion models"):
        gk.wrap(g, scheduler="there", latent_shape=6)
    with pytest.raises(InputError, match="'latent' is no option of a generator"):
        gk.wrap(g, latent=6)


def test_snapshots_say_when_they_were_taken(tmp_path: Path) -> None:
    recipe = {"data": "ring", "loss": "non-saturating", "later": {"loss": "hinge"}, "ema": 0.9, "steps": 60}
    folder = ring_folder(tmp_path / "ring", snapshot=True, recipe=recipe)
    early = folder / "snapshots" / "000020.G.safetensors"
    for name in "GD":
        (early.parent / f"000500.{name}.safetensors").rename(early.parent / f"000020.{name}.safetensors")
    gen = gk.load(early)  # without kind=
    assert isinstance(gen, Generator) and gen.discriminator is not None
    assert gen.notes[1] == "trained on ring with the non-saturating loss for 20 steps"
    assert gen.checkpoint["loss"] == "non-saturating" and not any("running average" in note for note in gen.notes)
    for path in (folder, folder / "G.safetensors"):
        gen = gk.load(path)
        assert gen.notes[1] == "trained on ring with the hinge loss" and gen.checkpoint["loss"] == "hinge"
        assert "the weights are the running average of the trained generator" in gen.notes
    for step, loss in ((29, "non-saturating"), (30, "hinge"), (60, "hinge")):
        training = training_of(early.rename(early.with_name(f"{step:06d}.G.safetensors")))
        early = training.generator
        assert training.step == step and training.facts()["loss"] == loss


def test_recipes_of_another_version(tmp_path: Path) -> None:
    recipe = {"data": "spiral", "loss": "non-saturating", "later": {"loss": "hinge"}, "new": 1}
    folder = ring_folder(tmp_path / "ring", snapshot=True, recipe=recipe)
    assert training_of(folder).facts() == {"data": "spiral", "loss": "hinge"}
    assert training_of(folder / "snapshots" / "000500.G.safetensors").facts() == {"data": "spiral"}
    folder = ring_folder(tmp_path / "none", recipe=None)
    assert training_of(folder).facts() == {} and training_of(folder).notes() == []


def test_broken_weights(saved: Path) -> None:
    import ganmodels  # type: ignore[import-not-found]

    state = {key: value.clone() for key, value in ganmodels.Generator().state_dict().items()}
    state["net.0.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, saved / "G.safetensors")
    with pytest.raises(NonFiniteError, match=r"net\.0\.weight"):
        gk.load(saved / "G.safetensors", factory="ganmodels:Generator", kind="gan")


def test_both_networks_in_one_file(saved: Path) -> None:
    import ganmodels  # type: ignore[import-not-found]

    g, d = ganmodels.Generator(), ganmodels.Discriminator()
    torch.save({"g": g.state_dict(), "d": d.state_dict(), "d2": d.state_dict(), "step": 3}, saved / "both.pt")
    asked = {"factory": "ganmodels:Generator", "key": "g", "discriminator": saved / "both.pt"}
    gen = gk.load(saved / "both.pt", **asked, discriminator_key="d")
    assert torch.equal(gen.discriminator.module.head.weight, d.head.weight)
    assert gen.checkpoint["discriminator"]["key"] == "d" and gen.checkpoint["discriminator"]["sha256"]
    with pytest.raises(InputError, match="say which with discriminator_key="):
        gk.load(saved / "both.pt", **asked)
    with pytest.raises(InputError, match="give that file with discriminator="):
        gk.load(saved / "both.pt", **{**asked, "discriminator": d}, discriminator_key="d")


def test_broken_weights_of_a_discriminator_are_its_own(saved: Path) -> None:
    import ganmodels  # type: ignore[import-not-found]

    state = {key: value.clone() for key, value in ganmodels.Discriminator().state_dict().items()}
    state["head.weight"][0, 0] = float("nan")
    save_file(state, saved / "D.safetensors")
    with pytest.raises(NonFiniteError, match=r"discriminator.*head\.weight"):
        gk.load(saved / "G.safetensors", factory="ganmodels:Generator", discriminator=saved / "D.safetensors")
