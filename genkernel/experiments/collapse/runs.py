"""The runs of the collapse study: GANs trained with many recipes and seeds, and every indicator along the way.

A run is trained with copies of its weights at equal distances, and each copy is analysed on the same latents. What is
kept of a copy is one row: the modes it holds, the losses since the row before, and every indicator.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError
from genkernel.experiments.collapse.study import SETTINGS
from genkernel.models.coverage import count_modes
from genkernel.models.gans import RECIPES, GANRecipe
from genkernel.models.mixtures import MIXTURES
from genkernel.runs import json_ready, write_atomic

if TYPE_CHECKING:
    from genkernel.models.mixtures import Mixture

HELD = 6.0  # standard deviations from a mode within which a sample holds it; good samples are within 3
SAMPLES = 2048  # behind the counts
REAL = 1024  # real samples that the generated ones are compared with
JACOBIANS = 64
LATENTS, IMAGES = (SETTINGS[kind]["latents"] for kind in ("points", "images"))  # as many real images


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        data, recipe, seed: what is trained.
        role: ``"calibrate"`` for runs that thresholds are chosen on, ``"report"`` for those that are reported,
            ``"validate"`` for those that were trained when the rules of the verdict stood, and ``"transfer"`` for
            those with other networks or data than any of these.
    """

    data: str
    recipe: str
    seed: int
    role: str

    @property
    def name(self) -> str:
        return f"{self.data}-{self.recipe}-{self.seed}"


def recipes(data: str) -> dict[str, GANRecipe]:
    """The recipes of the study on one data set, by name: those of :data:`genkernel.models.gans.RECIPES` and more.

    The further ones have other losses (on the ring alone: a run on the grid takes twice as long) and faults that are
    planted in the middle of healthy runs (``late-…``), so that there is coverage to be lost.
    """
    if data == "mnist":
        return _digits()
    known = RECIPES[data]
    healthy, weak = known["healthy"], known["collapsing"]
    steady = replace(healthy, decay=0.0)
    free = {"r1": 0.0, "d_steps": 1}
    losses = ("hinge", "lsgan") if data == "ring" else ()
    return {
        **known,
        **{loss: replace(healthy, loss=loss) for loss in losses},
        **{f"weak-{loss}": replace(weak, loss=loss) for loss in losses},
        "late-free": replace(steady, later=free),
        "late-sudden": replace(steady, later={**free, "g_lr": 4e-2}),
        "late-drift": replace(steady, later={**free, "g_lr": 4e-2, "d_lr": 2e-4}, later_from=0.4, later_over=0.5),
        "late-fast": replace(steady, later={**free, "g_lr": 4e-2}, later_from=0.4, later_over=0.5),
    }


def _digits() -> dict[str, GANRecipe]:
    """A small DCGAN, so that many can be trained on a CPU."""
    network: dict[str, Any] = {"generator": {"latent": 16, "width": 16}, "discriminator": {"width": 16}}
    healthy = GANRecipe("mnist", batch=64, steps=1000, g_lr=1e-3, d_lr=1e-3, decay=0.5, **network)
    return {
        "healthy": healthy,
        "hinge": replace(healthy, loss="hinge"),
        "weak": replace(healthy, d_lr=2e-5, decay=0.0),
        "fast-generator": replace(healthy, g_lr=1e-2, d_lr=2e-4, decay=0.0),
        "late-weak": replace(healthy, decay=0.0, later={"g_lr": 1e-2, "d_lr": 5e-5}),
    }


def other_networks(data: str) -> dict[str, GANRecipe]:
    """Recipes whose networks, latents or data are not those of the study: do its thresholds carry over to them?"""
    if data in MIXTURES:
        healthy, weak = RECIPES[data]["healthy"], RECIPES[data]["collapsing"]
        networks: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
            "wide": ({"width": 192, "latent": 16}, {"width": 192}),
            "deep": ({"depth": 5, "latent": 4}, {"depth": 4}),
            "smooth": ({"activation": "softplus", "latent": 8}, {"activation": "softplus"}),
        }
        # wider and deeper networks need smaller steps
        rates = {"wide": 0.25, "deep": 0.5, "smooth": 1.0}
    else:
        healthy, weak = _digits()["healthy"], _digits()["weak"]
        networks = {
            "wide": ({"latent": 64, "width": 24}, {"width": 24}),
            "plain": ({"latent": 100, "width": 16}, {"width": 16, "batch_norm": False}),
        }
        rates = {"wide": 0.4, "plain": 0.4}
    return {
        f"{name}-{words}": replace(
            recipe, generator=g, discriminator=d, g_lr=rates[name] * recipe.g_lr, d_lr=rates[name] * recipe.d_lr
        )
        for name, (g, d) in networks.items()
        for words, recipe in (("healthy", healthy), ("collapsing", weak))
    }


def transfer_jobs(data: Iterable[str], seeds: Iterable[int]) -> list[Job]:
    """Every recipe of :func:`other_networks` with every seed."""
    data = list(data)
    return [Job(d, recipe, seed, "transfer") for seed in seeds for d in data for recipe in other_networks(d)]


def validation_jobs(data: Iterable[str], seeds: Iterable[int]) -> list[Job]:
    """Every recipe of the study with further seeds."""
    data = list(data)
    return [Job(d, recipe, seed, "validate") for seed in seeds for d in data for recipe in recipes(d)]


def jobs(data: Iterable[str], calibrate: Iterable[int], report: Iterable[int]) -> list[Job]:
    """Every recipe with every seed: all recipes with one seed of each role, then with the next."""
    sides = [[(seed, "calibrate") for seed in calibrate], [(seed, "report") for seed in report]]
    seeds = [pair for pairs in itertools.zip_longest(*sides) for pair in pairs if pair is not None]
    if len({seed for seed, _ in seeds}) < len(seeds):
        raise InputError("a seed is used to calibrate or to report, not for both")
    data = list(data)
    return [Job(d, recipe, seed, role) for seed, role in seeds for d in data for recipe in recipes(d)]


def measure(
    job: Job,
    folder: str | Path,
    every: int | None = None,
    images: str | Path | None = None,
    classifier: str | Path | None = None,
) -> dict[str, Any]:
    """Train one run, analyse its copies, and keep the rows in ``folder/NAME.json``; read them where they are.

    Args:
        every: steps between two copies: 100, or 250 for images, whose analysis takes longer; 500 of points where
            the verdict at the end is all that is asked (``"validate"``, ``"transfer"``).
        images: where the images are, for runs on them.
        classifier: folder of the classifier that counts their modes; the shipped one, of digits, by default.

    Returns:
        dict: the job, its recipe, ``diverged`` (a sentence, or None), and ``rows``.

    Raises:
        InputError: the file there is of another run.
    """
    if every is None:  # what carries over is asked at the end alone
        every = 250 if job.data not in MIXTURES else 100 if job.role in ("calibrate", "report") else 500
    path = Path(folder) / f"{job.name}.json"
    known_recipes = other_networks(job.data) if job.role == "transfer" else recipes(job.data)
    recipe = replace(known_recipes[job.recipe], seed=job.seed)
    found: dict[str, Any] = {**asdict(job), "recipe_values": asdict(recipe), "diverged": None, "rows": []}
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        asked = json.loads(json.dumps(json_ready(found)))
        if any(kept.get(name) != asked[name] for name in asked if name not in ("diverged", "rows")):
            raise InputError(f"{path} holds another run: another role, or other values of its recipe")
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    known = None if recipe.planar else _read_images(images)
    with tempfile.TemporaryDirectory() as temporary:
        from genkernel.models.gan_training import train_gan

        out = Path(temporary)
        try:
            train_gan(recipe, out, known, watch=every, snapshots=every, save_every=recipe.steps, progress=False)
            history = json.loads((out / "history.json").read_text(encoding="utf-8"))
        except NonFiniteError as error:
            found["diverged"], history = str(error), []
        losses = {row["step"]: (row["d_loss"], row["g_loss"]) for row in history}
        for step, generator, discriminator in _copies(recipe, out):
            d_loss, g_loss = losses.get(step, (None, None))
            try:
                loss = recipe.at(step).loss
                if known is None:
                    row = planar_row(generator, discriminator, MIXTURES[job.data](), loss)
                else:
                    row = image_row(generator, discriminator, known, loss, classifier)
            except NonFiniteError as error:
                found["diverged"] = str(error)
                break
            found["rows"].append({"step": step, "d_loss": d_loss, "g_loss": g_loss, **row})
    found = json_ready(found)  # what is not finite becomes None
    write_atomic(path, json.dumps(found) + "\n")
    return found


def planar_row(generator: nn.Module, discriminator: nn.Module, mixture: Mixture, loss: str) -> dict[str, Any]:
    """The modes that a generator of points holds, and every indicator."""
    from genkernel.gan import Discriminator, Generator
    from genkernel.gan.analysis import analyze
    from genkernel.gan.indicators import indicators
    from genkernel.models.gan_training import draw_samples

    made = draw_samples(generator, SAMPLES, seed=1)
    real = mixture.draw(REAL, torch.Generator().manual_seed(2))
    wrapped = Generator(generator, latent_shape=made_of(generator))
    result, _ = analyze(
        wrapped,
        Discriminator(discriminator, wrapped.output_shape),
        loss=loss,
        latents=LATENTS,
        jacobians=JACOBIANS,
        real=real,
        modes=mixture.modes,
        mode_std=mixture.std,
        check=False,
    )
    return {**held(made, mixture), "indicators": indicators(result)}


def image_row(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    loss: str,
    classifier_folder: str | Path | None = None,
) -> dict[str, Any]:
    """The classes that a generator of images holds, and every indicator; k-means clusters, as for any images.

    Args:
        images: real ones ``[n, 1, size, size]`` in [0, 1].
        classifier_folder: see :func:`measure`.
    """
    from genkernel import assets
    from genkernel.gan import Discriminator, Generator
    from genkernel.gan.analysis import analyze
    from genkernel.gan.indicators import indicators
    from genkernel.models.gan_training import draw_samples
    from genkernel.models.mnist_classifier import digit_coverage, load_classifier

    classifier = load_classifier(classifier_folder or assets.path("mnist-classifier"))
    made = draw_samples(generator, SAMPLES, seed=1)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(2))[:IMAGES]
    wrapped = Generator(generator, latent_shape=made_of(generator))
    result, _ = analyze(
        wrapped,
        Discriminator(discriminator, wrapped.output_shape),
        loss=loss,
        latents=IMAGES,
        jacobians=32,
        probes=4,
        real=images[chosen] * 2 - 1,
        check=False,
    )
    with torch.no_grad():
        found = classifier(made).argmax(1)
    counted, cells = digit_coverage(classifier)(made), count_modes(found, torch.ones_like(found, dtype=torch.bool), 10)
    return {
        "modes": counted.of,
        "held": counted.modes,
        "held_share": counted.share,
        "good": counted.modes,
        "good_share": counted.share,
        "cells": cells.effective,
        "indicators": indicators(result),
    }


def _read_images(images: str | Path | None) -> Tensor:
    from genkernel.data import load_images

    if images is None:
        raise InputError("runs on images need them: say where MNIST, or another set of 10 classes, is")
    return load_images(images, size=32, channels=1, split="train").images


def made_of(generator: nn.Module) -> tuple[int, ...]:
    """Shape of one latent of a reference generator."""
    shape = generator.latent_shape
    assert isinstance(shape, tuple)
    return shape


def held(samples: Tensor, mixture: Mixture) -> dict[str, Any]:
    """Which modes samples reach.

    Returns:
        dict: ``held`` modes (a tenth of the fair share within :data:`HELD` standard deviations), ``good`` modes and
        ``good_share`` (within 3), and ``cells``, the effective number of nearest modes, near or not.
    """
    distance, nearest = torch.cdist(samples.double(), mixture.modes.double()).min(1)
    of = len(mixture.modes)
    near = count_modes(nearest, distance <= HELD * mixture.std, of)
    good = mixture.coverage(samples)
    cells = count_modes(nearest, torch.ones_like(nearest, dtype=torch.bool), of)
    return {
        "modes": of,
        "held": near.modes,
        "held_share": near.share,
        "good": good.modes,
        "good_share": good.share,
        "cells": cells.effective,
    }


def measure_all(
    todo: list[Job],
    folder: str | Path,
    workers: int = 1,
    progress: Callable[[Job, int, int], None] | None = None,
    images: str | Path | None = None,
    classifier: str | Path | None = None,
) -> list[dict[str, Any]]:
    """:func:`measure` for many runs, each on one thread; those that are there already are read."""
    found = []
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=quietly) as pool:
        given = [(job, str(folder), images, classifier) for job in todo]
        for number, result in enumerate(pool.imap(_measured, given), 1):
            found.append(result)
            if progress is not None:
                progress(todo[number - 1], number, len(todo))
    return found


def _measured(given: tuple[Job, str, str | Path | None, str | Path | None]) -> dict[str, Any]:
    job, folder, images, classifier = given
    return measure(job, folder, images=images, classifier=classifier)


def quietly() -> None:
    """One thread for each run, and no word of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def _copies(recipe: GANRecipe, out: Path) -> Iterator[tuple[int, nn.Module, nn.Module]]:
    """Generator and discriminator at every step that was kept, in evaluation mode."""
    from safetensors.torch import load_file

    generator, discriminator = recipe.build()
    for path in sorted((out / "snapshots").glob("*.G.safetensors")):
        generator.load_state_dict(load_file(path))
        discriminator.load_state_dict(load_file(path.with_name(path.name.replace(".G.", ".D."))))
        yield int(path.name.split(".")[0]), generator.eval(), discriminator.eval()
