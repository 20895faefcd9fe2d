"""The trainer of the reference GANs.

Latents and batches are keyed by (seed, step), so a resumed run draws exactly what an uninterrupted one would have
drawn, and ends with the same bits on the same machine and number of threads. The global random numbers and the number
of threads are left as they were.
"""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import trange

from genkernel.errors import InputError, NonFiniteError, OutputError
from genkernel.models.coverage import Coverage
from genkernel.models.gan_losses import LOSSES, r1
from genkernel.models.gans import GANRecipe
from genkernel.models.mixtures import MIXTURES
from genkernel.runs import data_sha256, versions, write_atomic
from genkernel.runs.atomic import explain

WATCHED = 2048  # samples behind every row of the history
FINAL = 10_000  # samples behind the coverage of the finished generator
_APART = 2**62  # keeps the seeds of the latents that are watched away from those of the steps
_CURE = "Lower the learning rates, or raise r1"

Measure = Callable[[Tensor], Coverage]


def train_gan(
    recipe: GANRecipe,
    out: str | Path,
    images: Tensor | None = None,
    *,
    coverage: Measure | None = None,
    watch: int = 100,
    snapshots: int = 0,
    save_every: int = 500,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[nn.Module, nn.Module]:
    """Train a generator and a discriminator, and save both as safetensors.

    ``out`` gets ``G.safetensors``, ``D.safetensors``, ``training.json`` (the recipe, how to build the networks again,
    versions, the final coverage) and ``history.json``: a list with one row per watched step, each with ``step``, the
    mean ``d_loss`` (with its penalty) and ``g_loss`` since the row before, the total ``variance`` of the samples, and
    their ``coverage``.

    Args:
        recipe: data, networks and optimisation.
        out: the folder; ``training.pt`` in it holds the state of an unfinished run, which a second call with the same
            recipe and data continues. A finished run is loaded, not trained again.
        images: ``[n, 1, size, size]`` in [0, 1], for recipes on images; they are scaled to [-1, 1], and stacked MNIST
            draws its three channels independently from them.
        coverage: counts the modes of generated samples ``[n, *sample]``; known for planar mixtures, and left out for
            images where it is not given.
        watch: generator steps between two rows of the history.
        snapshots: generator steps between two copies of all weights, ``snapshots/000500.G.safetensors`` and
            ``snapshots/000500.D.safetensors``, from the initial ones on; 0 for none.
        save_every: generator steps between two saved states.
        device: where to train.
        progress: show a progress bar.

    Returns:
        Generator (its running average where the recipe has one) and discriminator as saved, in eval mode.

    Raises:
        InputError: the images do not fit the recipe, or ``out`` holds another run.
        OutputError: ``out`` cannot be written to.
        NonFiniteError: a loss diverged; no finished networks are saved.
    """
    if watch < 1 or save_every < 1 or snapshots < 0:
        raise InputError("watch and save_every are at least 1 step, and snapshots 0 (none) or more")
    trainer = gan_training(recipe, images, device)
    generator, discriminator, source = trainer.generator, trainer.discriminator, trainer.source
    measure = coverage or source.coverage
    out = Path(out)
    run = _Run({"recipe": asdict(recipe), "watch": watch, "snapshots": snapshots}, source.sha256)
    if run.finished_in(out):
        return _loaded(generator, out / "G.safetensors"), _loaded(discriminator, out / "D.safetensors")
    try:
        (out / "snapshots" if snapshots else out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(explain(error, out)) from error

    log = _resume(out, run, trainer)
    if snapshots and not log.step:
        _snapshot(out, trainer, 0)
    bar = trange(log.step, recipe.steps, initial=log.step, total=recipe.steps, disable=not progress, desc="train")
    for step in bar:
        log.add(trainer.step(step))
        if log.step % watch == 0 or log.step == recipe.steps:
            log.close_row(trainer.samples(WATCHED), measure)
            bar.set_postfix_str(log.brief())
        if snapshots and log.step % snapshots == 0:
            _snapshot(out, trainer, log.step)
        if log.step % save_every == 0 and log.step < recipe.steps:
            _save_state(out, run, trainer, log)

    trainer.require_finite()
    final = trainer.samples(FINAL)
    record = {
        **_record(run),
        "images": len(images) if images is not None else None,
        **recipe.factories(),
        "parameters": {
            "generator": sum(p.numel() for p in generator.parameters()),
            "discriminator": sum(p.numel() for p in discriminator.parameters()),
        },
        "coverage": asdict(measure(final)) if measure else None,
        "variance": _variance(final),
        "versions": versions(),
    }
    write_atomic(out / "G.safetensors", _packed(trainer.average))
    write_atomic(out / "D.safetensors", _packed(discriminator))
    write_atomic(out / "history.json", json.dumps(log.rows, indent=1) + "\n")
    write_atomic(out / "training.json", json.dumps(record, indent=2) + "\n")
    (out / "training.pt").unlink(missing_ok=True)
    return trainer.average.eval(), discriminator.eval()


@torch.no_grad()
def draw_samples(generator: nn.Module, n: int, seed: int = 0) -> Tensor:
    """Samples ``[n, *sample]`` of one of the reference generators, in eval mode, on the CPU; reproducible by seed."""
    device, training = next(generator.parameters()).device, generator.training
    draw = torch.Generator().manual_seed(seed)
    generator.eval()
    try:
        parts = [
            generator(torch.randn(min(512, n - first), *_latent_shape(generator), generator=draw).to(device)).cpu()
            for first in range(0, n, 512)
        ]
    finally:
        generator.train(training)
    return torch.cat(parts)


# ------------------------------------------------------------------------------- the data


class _Source(Protocol):
    """Real samples, drawn with a generator of random numbers."""

    sha256: str
    coverage: Measure | None

    def draw(self, n: int, generator: torch.Generator) -> Tensor: ...


class _Planar:
    def __init__(self, name: str):
        self._mixture = MIXTURES[name]()
        self.sha256 = data_sha256(torch.cat([self._mixture.modes.flatten(), torch.tensor([self._mixture.std])]))
        self.coverage: Measure | None = self._mixture.coverage
        self.draw = self._mixture.draw


class _Images:
    """Grey images, or triples of them as the channels of one (stacked MNIST, Metz et al. 2017)."""

    coverage: Measure | None = None

    def __init__(self, images: Tensor, channels: int):
        self._images, self._channels = images, channels
        self.sha256 = data_sha256(images)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self._images), (n, self._channels), generator=generator)
        return self._images[chosen, 0].float() * 2 - 1


def _source(recipe: GANRecipe, images: Tensor | None) -> _Source:
    if recipe.planar:
        if images is not None:
            raise InputError(f"a recipe for the {recipe.data} draws its own samples: leave the images out")
        return _Planar(recipe.data)
    if images is None:
        raise InputError(f"a recipe for {recipe.data} needs images [n, 1, size, size] in [0, 1]")
    if images.dim() != 4 or images.shape[1] != 1 or not len(images):
        raise InputError(f"the images have shape [n, 1, size, size] with n ≥ 1, not {tuple(images.shape)}")
    return _Images(images, recipe.channels)


def gan_training(recipe: GANRecipe, images: Tensor | None = None, device: str = "cpu") -> GANTraining:
    """The networks of a recipe, freshly initialised, with what trains them: :func:`train_gan` step by step.

    Raises:
        InputError: the images do not fit the recipe.
    """
    source = _source(recipe, images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        generator, discriminator = (network.to(device) for network in recipe.build())
    _check_shapes(generator, discriminator, source)
    return GANTraining(recipe, source, generator, discriminator)


def _check_shapes(generator: nn.Module, discriminator: nn.Module, source: _Source) -> None:
    """Both networks speak of the samples that the source gives."""
    with torch.no_grad():
        device = next(generator.parameters()).device
        real = source.draw(2, torch.Generator().manual_seed(0)).to(device)
        made = copy.deepcopy(generator).eval()(torch.zeros(2, *_latent_shape(generator), device=device))
        if made.shape != real.shape:
            have, want = ("×".join(map(str, x.shape[1:])) for x in (made, real))
            raise InputError(f"the recipe's generator makes samples {have}, and the data are {want}")
        try:
            judged = tuple(copy.deepcopy(discriminator).eval()(real).shape)
        except RuntimeError:
            judged = ()
        if judged != (2, 1):
            want = "×".join(map(str, real.shape[1:]))
            raise InputError(f"the recipe's discriminator cannot judge samples {want}: give it the generator's size")


# --------------------------------------------------------------------------------- steps


class GANTraining:
    """Two networks, their optimizers, and one step of both.

    Attributes:
        average: the generator that is saved: a running average, or the trained one itself.
        before_generator_step: called with the latents of every generator step, before its forward pass.
    """

    before_generator_step: Callable[[Tensor], None] | None = None

    def __init__(self, recipe: GANRecipe, source: _Source, generator: nn.Module, discriminator: nn.Module):
        self._recipe, self.source = recipe, source
        self.generator, self.discriminator = generator.train(), discriminator.train()
        self.average = copy.deepcopy(generator) if recipe.ema else generator
        self._weights = list(generator.parameters()), list(discriminator.parameters())
        self._optimizers = [
            torch.optim.Adam(weights, lr=lr, betas=recipe.betas, fused=True)
            for weights, lr in zip(self._weights, (recipe.g_lr, recipe.d_lr), strict=True)
        ]

    @property
    def generator_optimizer(self) -> torch.optim.Optimizer:
        return self._optimizers[0]

    def parts(self) -> dict[str, Any]:
        """Everything that changes, by name."""
        found: dict[str, Any] = {"G": self.generator, "D": self.discriminator}
        found |= dict(zip(("G_optimizer", "D_optimizer"), self._optimizers, strict=True))
        return found | ({"average": self.average} if self._recipe.ema else {})

    def step(self, step: int) -> tuple[float, float]:
        """The losses of discriminator (the mean of its steps) and generator.

        Raises:
            NonFiniteError: one of them is NaN or infinite.
        """
        recipe, n = self._recipe.at(step), self._recipe.batch
        draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        self._set_rates(recipe, step)
        total = 0.0
        for _ in range(recipe.d_steps):
            real = self.source.draw(n, draw).to(self._weights[0][0])
            with torch.no_grad():
                fake = self.generator(self._latents(n, draw))
            judged = self.discriminator(real.requires_grad_(bool(recipe.r1)))
            loss = LOSSES[recipe.loss].of_discriminator(judged, self.discriminator(fake))
            if recipe.r1:
                loss = loss + recipe.r1 * r1(judged, real)
            total += self._descend(1, loss) / recipe.d_steps
        return total, self._generator_step(recipe, draw, step, total)

    def _generator_step(self, recipe: GANRecipe, draw: torch.Generator, step: int, d_loss: float) -> float:
        z = self._latents(recipe.batch, draw)
        if self.before_generator_step is not None:
            self.before_generator_step(z)
        judged = self.discriminator(self.generator(z))
        loss = LOSSES[recipe.loss].of_generator(judged)
        g_loss = self._descend(0, loss)
        if not math.isfinite(d_loss + g_loss):
            raise NonFiniteError(f"the training diverged: a loss is not finite in step {step + 1}. {_CURE}")
        if recipe.ema:
            self._update_average()
        return g_loss

    def require_finite(self) -> None:
        """The last step is followed by no loss that would show what it did to the weights."""
        for network in (self.average, self.discriminator):
            if not all(torch.isfinite(value).all() for value in self._state(network)):
                raise NonFiniteError(f"the training diverged: weights are not finite. {_CURE}")

    def _descend(self, side: int, loss: Tensor) -> float:
        """One step of one side's optimizer; the other side's weights get no gradients."""
        weights = self._weights[side]
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        self._optimizers[side].step()
        return float(loss.detach())

    def _set_rates(self, recipe: GANRecipe, step: int) -> None:
        left = (recipe.steps - step) / recipe.steps
        factor = min(1.0, left / recipe.decay) if recipe.decay else 1.0
        for optimizer, lr in zip(self._optimizers, (recipe.g_lr, recipe.d_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    @torch.no_grad()
    def _update_average(self) -> None:
        for mine, new in zip(self._state(self.average), self._state(self.generator), strict=True):
            if mine.is_floating_point():
                mine.lerp_(new, 1 - self._recipe.ema)
            else:
                mine.copy_(new)

    def samples(self, n: int) -> Tensor:
        """``[n, *sample]``, always of the same latents."""
        return draw_samples(self.average, n, _APART + self._recipe.seed)

    def _latents(self, n: int, draw: torch.Generator) -> Tensor:
        return torch.randn(n, *_latent_shape(self.generator), generator=draw).to(self._weights[0][0])

    @staticmethod
    def _state(network: nn.Module) -> list[Tensor]:
        return [*network.parameters(), *network.buffers()]


def _latent_shape(generator: nn.Module) -> tuple[int, ...]:
    shape = generator.latent_shape
    assert isinstance(shape, tuple)
    return shape


def _variance(samples: Tensor) -> float:
    """Total variance of samples, the sum over their entries."""
    return float(samples.double().flatten(1).var(0, unbiased=False).sum())


# --------------------------------------------------------------------------------- files


@dataclass
class _Log:
    """What has been watched so far.

    Attributes:
        step: generator steps done.
        rows: of ``history.json``.
        open: losses since the last row.
    """

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    open: list[tuple[float, float]] = field(default_factory=list)

    def add(self, losses: tuple[float, float]) -> None:
        self.step += 1
        self.open.append(losses)

    def close_row(self, samples: Tensor, measure: Measure | None) -> None:
        d_loss, g_loss = (sum(side) / len(self.open) for side in zip(*self.open, strict=True))
        row = {"step": self.step, "d_loss": d_loss, "g_loss": g_loss, "variance": _variance(samples)}
        self.rows.append({**row, "coverage": asdict(measure(samples)) if measure else None})
        self.open = []

    def brief(self) -> str:
        row = self.rows[-1]
        found = f"D {row['d_loss']:.3f}, G {row['g_loss']:.3f}"
        if row["coverage"]:
            found += f", {row['coverage']['modes']} modes, {row['coverage']['share']:.0%} good"
        return found


@dataclass(frozen=True)
class _Run:
    """What decides the files of a run: two are the same when both entries are."""

    identity: dict[str, Any]  # the recipe, and how often it is watched and copied
    data: str

    def check(self, path: Path, record: dict[str, Any]) -> None:
        """Refuse a folder that holds something else."""
        mine = json.loads(json.dumps(self.identity))
        if record["data_sha256"] != self.data:
            raise InputError(f"{path} belongs to a run on other data: finish that one, or choose another folder")
        for name, value in mine.items():
            if record[name] != value:
                what = "another recipe" if name == "recipe" else f"{name}={record[name]}, not {value}"
                raise InputError(f"{path} belongs to a run with {what}: finish that one, or choose another folder")

    def finished_in(self, out: Path) -> bool:
        path = out / "training.json"
        if not path.is_file() or (out / "training.pt").exists():
            return False
        self.check(path, json.loads(path.read_text(encoding="utf-8")))
        return True


def _packed(network: nn.Module) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})


def _loaded(network: nn.Module, path: Path) -> nn.Module:
    network.load_state_dict(load_file(path))
    return network.eval()


def _snapshot(out: Path, trainer: GANTraining, step: int) -> None:
    for name, network in (("G", trainer.generator), ("D", trainer.discriminator)):
        write_atomic(out / "snapshots" / f"{step:06d}.{name}.safetensors", _packed(network))


def _save_state(out: Path, run: _Run, trainer: GANTraining, log: _Log) -> None:
    state = {name: part.state_dict() for name, part in trainer.parts().items()}
    buffer = io.BytesIO()
    torch.save({"parts": state, "log": json.dumps(asdict(log)), "run": json.dumps(_record(run))}, buffer)
    write_atomic(out / "training.pt", buffer.getvalue())


def _resume(out: Path, run: _Run, trainer: GANTraining) -> _Log:
    path = out / "training.pt"
    if not path.exists():
        return _Log()
    state = torch.load(path, weights_only=True, map_location="cpu")
    run.check(path, json.loads(state["run"]))
    for name, part in trainer.parts().items():
        part.load_state_dict(state["parts"][name])
    log = json.loads(state["log"])
    return _Log(log["step"], log["rows"], [(d, g) for d, g in log["open"]])


def _record(run: _Run) -> dict[str, Any]:
    return {**run.identity, "data_sha256": run.data}
