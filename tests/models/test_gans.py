"""The reference GANs: networks, losses, recipes, and a trainer whose runs can be taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError, OutputError
from genkernel.models.coverage import Coverage
from genkernel.models.gan_losses import LOSSES, r1
from genkernel.models.gan_training import draw_samples, train_gan
from genkernel.models.gans import (
    RECIPES,
    DCGANDiscriminator,
    DCGANGenerator,
    GANRecipe,
    MLPDiscriminator,
    MLPGenerator,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"width": 8, "depth": 2}
TINY = GANRecipe("ring", SMALL, SMALL, r1=0.1, d_steps=2, batch=16, steps=6, decay=0.5)
PIXELS = GANRecipe("mnist", {"width": 4, "latent": 3, "size": 8}, {"width": 4, "size": 8}, batch=4, steps=4, ema=0.5)
FILES = {"G.safetensors", "D.safetensors", "history.json", "training.json"}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def weights(folder: Path) -> dict[str, Tensor]:
    return {f"{side}.{name}": t for side in "GD" for name, t in load_file(folder / f"{side}.safetensors").items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(Exception):
    """Stands for the power going out."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the training stop with :class:`Killed` in the ``step``-th step of any of its optimizers."""
    taken = iter(range(step))
    real = torch.optim.Adam.step

    def stepping(self: torch.optim.Adam, *args: object, **kwargs: object) -> object:
        if next(taken, None) is None:
            raise Killed
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", stepping)


# ------------------------------------------------------------------------------ networks


@pytest.mark.parametrize(
    ("generator", "discriminator", "sample"),
    [
        (MLPGenerator(), MLPDiscriminator(), (2,)),
        (MLPGenerator(5, 7, 9, 1, "tanh"), MLPDiscriminator(7, 9, 1, "softplus"), (7,)),
        (DCGANGenerator(), DCGANDiscriminator(), (1, 32, 32)),
        (DCGANGenerator(3, 28, 10, 4), DCGANDiscriminator(3, 28, 4, batch_norm=False), (3, 28, 28)),
        (DCGANGenerator(1, 8, 2, 2), DCGANDiscriminator(1, 8, 2), (1, 8, 8)),
    ],
)
def test_shapes(generator: nn.Module, discriminator: nn.Module, sample: tuple[int, ...]) -> None:
    made = generator(torch.randn(3, *generator.latent_shape))
    assert made.shape == (3, *sample) and discriminator(made).shape == (3, 1)


def test_sizes() -> None:
    def count(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    assert count(DCGANGenerator(channels=3, size=64, latent=100, width=64)) == 3_576_704
    assert count(DCGANGenerator()) == 295_872 and count(DCGANDiscriminator()) == 166_784


def test_images_lie_between_their_limits() -> None:
    made = DCGANGenerator(size=8, width=4)(100 * torch.randn(4, 64, 1, 1))
    assert float(made.abs().max()) <= 1


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
def test_smooth_perceptrons_have_no_kinks(activation: str) -> None:
    """Central differences of a smooth function converge with the square of the step, across any point."""
    torch.manual_seed(0)
    network = MLPGenerator(1, 1, 16, 2, activation).double()
    x = torch.linspace(-2, 2, 101, dtype=torch.float64)[:, None].requires_grad_(True)
    (slope,) = torch.autograd.grad(network(x).sum(), x)
    errors = []
    for h in (2e-2, 1e-2):
        errors.append(float(((network(x + h) - network(x - h)) / (2 * h) - slope).abs().max()))
    assert 3.9 < errors[0] / errors[1] < 4.1


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: MLPGenerator(activation="sine"), "activation is one of relu, leaky-relu, softplus, tanh, not 'sine'"),
        (lambda: MLPDiscriminator(depth=0), "depth must be at least 1"),
        (lambda: DCGANGenerator(size=30), "4, 5, 6 or 7 times a power of two, such as 32, not 30"),
        (lambda: DCGANGenerator(size=4), "not 4"),
        (lambda: DCGANDiscriminator(channels=0), "channels must be at least 1"),
    ],
)
def test_networks_that_cannot_be_built(build: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build()


# -------------------------------------------------------------------------------- losses


def test_losses_of_both_sides_are_those_of_the_papers() -> None:
    real, fake = torch.randn(2, 64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    D, G = real.sigmoid(), fake.sigmoid()
    cross_entropy = -(D.log() + (1 - G).log()).mean()
    expected = {
        "non-saturating": (cross_entropy, -G.log().mean()),
        "minimax": (cross_entropy, (1 - G).log().mean()),
        "kl": (cross_entropy, -fake.mean()),
        "hinge": ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(), -fake.mean()),
        "wgan": (fake.mean() - real.mean(), -fake.mean()),
        "lsgan": (((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2, ((fake - 1) ** 2).mean() / 2),
    }
    assert LOSSES.keys() == expected.keys()
    for name, loss in LOSSES.items():
        torch.testing.assert_close((loss.of_discriminator(real, fake), loss.of_generator(fake)), expected[name])


@pytest.mark.parametrize("name", ["non-saturating", "minimax", "kl"])
def test_best_logit_of_the_cross_entropy_is_the_log_ratio(name: str) -> None:
    """At one point with densities p_d and p_g, the discriminator's loss is least at l = log p_d − log p_g."""
    p_d, p_g = 0.7, 0.2
    logit = torch.tensor(p_d / p_g, dtype=torch.float64).log().requires_grad_(True)
    zero = torch.tensor([float("inf")], dtype=torch.float64)  # adds nothing on the other side
    loss = p_d * LOSSES[name].of_discriminator(logit[None], -zero) + p_g * LOSSES[name].of_discriminator(
        zero, logit[None]
    )
    (slope,) = torch.autograd.grad(loss, logit)
    assert abs(float(slope)) < 1e-15


def test_penalty_of_a_linear_critic_is_half_its_squared_slope() -> None:
    w = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    penalty = r1((x @ w)[:, None], x)
    (slope,) = torch.autograd.grad(penalty, w)
    assert float(penalty) == pytest.approx(12.5, abs=1e-14) and slope.tolist() == pytest.approx([3.0, 4.0], abs=1e-14)


# ------------------------------------------------------------------------------- recipes


def test_every_data_set_has_a_healthy_and_a_collapsing_recipe_with_the_same_networks() -> None:
    for data, recipes in RECIPES.items():
        assert {"healthy", "collapsing"} <= recipes.keys() and {r.data for r in recipes.values()} == {data}
        assert len({json.dumps([r.generator, r.discriminator]) for r in recipes.values()}) == 1
        for recipe in recipes.values():
            generator, discriminator = recipe.build()
            assert discriminator(generator(torch.randn(2, *generator.latent_shape))).shape == (2, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "moons"}, "data is one of ring, grid"),
        ({"loss": "vanilla"}, "the loss is one of non-saturating"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"d_steps": 0}, "d_steps must be at least 1"),
        ({"g_lr": 0.0}, "g_lr must be a positive number"),
        ({"d_lr": float("nan")}, "d_lr must be a positive number"),
        ({"betas": (0.5, 1.0)}, "betas are two numbers"),
        ({"decay": 1.5}, "decay is the last part"),
        ({"ema": 1.0}, "ema is a number"),
        ({"r1": -1.0}, "r1 must be 0"),
        ({"loss": "wgan", "r1": 0.0}, "give r1 > 0"),
        ({"seed": -1}, "a seed is a whole number"),
    ],
)
def test_recipe_that_cannot_be_followed(change: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(TINY, **change)


def test_arguments_that_a_network_does_not_take() -> None:
    with pytest.raises(InputError, match="MLPDiscriminator takes inputs, width, depth, activation, not 'latent'"):
        GANRecipe("ring", discriminator={"latent": 3}).build()


# ------------------------------------------------------------------------------- trainer


def test_saved_folder_says_how_to_build_its_networks(tmp_path: Path) -> None:
    generator, discriminator = train_gan(TINY, tmp_path, watch=4, progress=False)
    assert {p.name for p in tmp_path.iterdir()} == FILES
    assert not generator.training and not discriminator.training
    record = json.loads((tmp_path / "training.json").read_text())
    recipe = record["recipe"]
    assert GANRecipe(**{**recipe, "betas": tuple(recipe["betas"])}) == TINY
    for side, network in (("generator", generator), ("discriminator", discriminator)):
        module, kind = record[side]["factory"].split(":")
        assert (module, kind) == ("genkernel.models.gans", type(network).__name__)
        again = type(network)(**record[side]["arguments"])
        again.load_state_dict(load_file(tmp_path / f"{side[0].upper()}.safetensors"))
        assert same(again.state_dict(), network.state_dict())
        assert record["parameters"][side] == sum(p.numel() for p in network.parameters())
    assert Coverage(**record["coverage"]).samples == 10_000
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in rows] == [4, 6]
    assert rows[-1]["coverage"]["of"] == 8 and rows[-1]["variance"] > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss: str, tmp_path: Path) -> None:
    torch.manual_seed(TINY.seed)
    start = TINY.build()[0]
    generator, _ = train_gan(replace(TINY, loss=loss), tmp_path, progress=False)
    assert not same(start.state_dict(), generator.state_dict())


def test_a_step_is_what_torch_would_do_by_hand(tmp_path: Path) -> None:
    """One step of the recipe without anything but Adam, written out."""
    recipe = GANRecipe("ring", SMALL, SMALL, batch=8, steps=1, g_lr=1e-2, d_lr=2e-2)
    trained, judge = train_gan(recipe, tmp_path, progress=False)
    from genkernel.models.mixtures import ring

    torch.manual_seed(0)
    generator, discriminator = recipe.build()
    draw = torch.Generator().manual_seed(0)
    real = ring().draw(8, draw)
    fake = generator(torch.randn(8, 2, generator=draw))
    bce = nn.functional.binary_cross_entropy_with_logits
    steps = [torch.optim.Adam(n.parameters(), lr, (0.5, 0.999)) for n, lr in ((generator, 1e-2), (discriminator, 2e-2))]
    judged = discriminator(real), discriminator(fake.detach())
    (bce(judged[0], torch.ones(8, 1)) + bce(judged[1], torch.zeros(8, 1))).backward()
    steps[1].step()
    generator.zero_grad()
    bce(discriminator(generator(torch.randn(8, 2, generator=draw))), torch.ones(8, 1)).backward()
    steps[0].step()
    for mine, theirs in ((trained, generator), (judge, discriminator)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_training_leaves_the_global_rng_and_the_threads_alone(images: Tensor, tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train_gan(PIXELS, tmp_path / "a", images, progress=False)
    with pytest.raises(NonFiniteError):
        train_gan(replace(TINY, g_lr=1e30, d_lr=1e30), tmp_path / "b", progress=False)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


@pytest.mark.parametrize("kind", ["points", "images"])
def test_resumed_run_has_the_same_bits(
    kind: str, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data = (TINY, None) if kind == "points" else (PIXELS, images)
    options = {"watch": 3, "snapshots": 2, "progress": False}
    train_gan(recipe, tmp_path / "whole", data, **options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, (recipe.d_steps + 1) * 3)
        train_gan(recipe, tmp_path / "cut", data, save_every=2, **options)
    assert (tmp_path / "cut" / "training.pt").exists() and not (tmp_path / "cut" / "G.safetensors").exists()
    train_gan(recipe, tmp_path / "cut", data, save_every=2, **options)
    assert not (tmp_path / "cut" / "training.pt").exists()
    names = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    assert len(names) == 4 + 2 * (recipe.steps // 2 + 1)
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_finished_run_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_gan(TINY, tmp_path, progress=False)
    before = weights(tmp_path)
    die_at(monkeypatch, 0)
    generator, discriminator = train_gan(TINY, tmp_path, progress=False)
    again = {
        f"{side}.{k}": v for side, n in (("G", generator), ("D", discriminator)) for k, v in n.state_dict().items()
    }
    assert same(again, before) and not generator.training


@pytest.mark.parametrize("finished", [True, False])
def test_folder_of_another_run_is_refused(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    if finished:
        train_gan(PIXELS, tmp_path, images, progress=False)
    else:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, 6)
            train_gan(PIXELS, tmp_path, images, save_every=2, progress=False)
    with pytest.raises(InputError, match="another recipe"):
        train_gan(replace(PIXELS, g_lr=1e-5), tmp_path, images, progress=False)
    with pytest.raises(InputError, match="other data"):
        train_gan(PIXELS, tmp_path, 1 - images, progress=False)
    with pytest.raises(InputError, match="snapshots=0, not 2"):
        train_gan(PIXELS, tmp_path, images, snapshots=2, progress=False)


def test_snapshots_are_the_weights_on_the_way(tmp_path: Path) -> None:
    train_gan(TINY, tmp_path, snapshots=3, progress=False)
    names = sorted(p.name for p in (tmp_path / "snapshots").iterdir())
    assert names == [f"{step:06d}.{side}.safetensors" for step in (0, 3, 6) for side in "DG"]
    torch.manual_seed(TINY.seed)
    first = TINY.build()[0].state_dict()
    assert same(load_file(tmp_path / "snapshots" / "000000.G.safetensors"), first)
    last = load_file(tmp_path / "snapshots" / "000006.D.safetensors")
    assert same(last, load_file(tmp_path / "D.safetensors"))


def test_saved_generator_is_the_average(images: Tensor, tmp_path: Path) -> None:
    """With a decay of ½ the average after the steps 1 … 4 is written out from the snapshots."""
    train_gan(PIXELS, tmp_path, images, snapshots=1, progress=False)
    taken = [load_file(tmp_path / "snapshots" / f"{k:06d}.G.safetensors") for k in range(5)]
    found = load_file(tmp_path / "G.safetensors")
    for name, value in found.items():
        if value.is_floating_point():
            want = taken[0][name].double()
            for weights_then in taken[1:]:
                want = 0.5 * want + 0.5 * weights_then[name].double()
            torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(value, taken[-1][name])


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_gan(replace(TINY, seed=seed), tmp_path / name, progress=False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_stacked_digits_have_three_independent_channels(tmp_path: Path) -> None:
    recipe = replace(PIXELS, data="stacked-mnist")
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 1, 8, 8)
    generator, _ = train_gan(recipe, tmp_path, images, progress=False)
    assert draw_samples(generator, 3).shape == (3, 3, 8, 8)
    from genkernel.models.gan_training import _source

    drawn = _source(recipe, images).draw(500, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 3, 8, 8) and float(drawn.min()) == -1 and float(drawn.max()) == 1
    levels = {tuple(x) for x in drawn[:, :, 0, 0].tolist()}
    assert len(levels) > 100  # of 125 triples


def test_data_that_do_not_fit(images: Tensor, tmp_path: Path) -> None:
    for recipe, data, says in (
        (PIXELS, None, "needs images"),
        (TINY, images, "leave the images out"),
        (PIXELS, images[0], "the images have shape"),
        (PIXELS, images[:0], "the images have shape"),
        (PIXELS, images.expand(-1, 3, -1, -1), "the images have shape"),
        (PIXELS, images[..., :6, :6], "makes samples 1×8×8, and the data are 1×6×6"),
        (replace(PIXELS, discriminator={"size": 16}), images, "cannot judge samples 1×8×8"),
    ):
        with pytest.raises(InputError, match=says):
            train_gan(recipe, tmp_path / "out", data, progress=False)
    assert not (tmp_path / "out").exists()


def test_steps_that_make_no_sense(tmp_path: Path) -> None:
    for options in ({"watch": 0}, {"save_every": 0}, {"snapshots": -1}):
        with pytest.raises(InputError, match="at least 1 step"):
            train_gan(TINY, tmp_path / "out", progress=False, **options)


@pytest.mark.parametrize("steps", [1, 6])
def test_divergence_saves_nothing(steps: int, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="diverged"):
        train_gan(replace(TINY, g_lr=1e30, d_lr=1e30, steps=steps), tmp_path, progress=False)
    assert not FILES & {p.name for p in tmp_path.iterdir()}


def test_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        train_gan(TINY, tmp_path / "file" / "out", progress=False)


def test_samples_are_reproducible_and_leave_the_generator_as_it_was() -> None:
    generator = DCGANGenerator(size=8, width=2, latent=3).train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    first = draw_samples(generator, 5, seed=1)
    assert torch.equal(first, draw_samples(generator, 5, seed=1)) and not torch.equal(first, draw_samples(generator, 5))
    assert generator.training and same(before, generator.state_dict())


def test_images_without_a_classifier_have_no_coverage(images: Tensor, tmp_path: Path) -> None:
    train_gan(PIXELS, tmp_path, images, progress=False)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["coverage"] is None and record["images"] == 12 and record["variance"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "healthy"), [("healthy", True), ("collapsing", False)])
def test_ring_is_covered_or_collapses(name: str, healthy: bool, tmp_path: Path) -> None:
    train_gan(replace(RECIPES["ring"][name], seed=11), tmp_path, progress=False)
    found = Coverage(**json.loads((tmp_path / "training.json").read_text())["coverage"])
    assert (found.modes == 8 and found.share > 0.8) if healthy else found.modes <= 4
