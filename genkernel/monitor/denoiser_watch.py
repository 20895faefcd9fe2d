"""What is read of a diffusion model while it trains: losses, gradients and the kernel, noise level by noise level.

Every reading uses the same images, noises and levels (THEORY §6), so that two readings differ by the weights alone:

- **loss** per level, of the weights and of their average (``ema=``), and per class of images where ``groups=`` says;
- **gradients** of the loss per level: their size, how much those of different images have in common (0 where a level
  has been learned, as far as these images can tell), the noise scale tr Σ/‖G‖² (McCandlish et al. 2018), and which
  levels conflict;
- **kernel** between levels, normalised, of different images, with its locality index and how far it has drifted;
- **told time**: the time that the network has to be told for its loss to be smallest, which is the true one unless
  training tells it otherwise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.classifier.labels import Labels, class_indices
from genkernel.diffusion import Denoiser
from genkernel.diffusion.denoiser import sample_losses
from genkernel.diffusion.locality import default_window, locality_index, window_mask
from genkernel.diffusion.pairs import grid
from genkernel.diffusion.resampling import as_grid, level_means
from genkernel.errors import InputError, NonFiniteError
from genkernel.monitor.average import Average
from genkernel.monitor.classes import class_axis, mean_by_class
from genkernel.monitor.draws import time_axis
from genkernel.monitor.drift import drifts
from genkernel.monitor.headroom import Headroom
from genkernel.monitor.input_jacobians import InputJacobians
from genkernel.monitor.trace import Array, Axis, Trace
from genkernel.monitor.watch import Values
from genkernel.monitor.weights import WeightProbe
from genkernel.tangent import kernel, probes
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.fingerprint import fingerprint

RATIOS = (0.01, 0.1, 0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)  # told time over true time
CLEAR = 0.02  # share of the loss that another told time has to save to be called better
SCANNED = 4  # images at which told times are tried


class DenoiserWatch:
    """Reads a denoiser.

    Args:
        denoiser: the model with its schedule.
        images: ``[n, C, H, W]`` in [0, 1], as :meth:`Denoiser.prepare` takes them, not normalised for the training.
        levels: how many noise levels, or the timesteps themselves.
        images_per_level: of them, for gradients and the kernel, at least 3; losses use all images.
        probes: random cotangents of the kernel.
        ema: average of the weights: a module of the same parameters, something with ``shadow_params`` (diffusers'
            ``EMAModel``), or weights by name.
        groups: class of every image ``[n]``, for losses per class; its images should be conditioned on it.
        names: of the classes.
        seed: of noise and probes.
        memory: bound on what a reading holds beside the model; None for what the training leaves free.

    Raises:
        InputError: too few images, or something does not fit.
    """

    kind = "denoiser"

    def __init__(
        self,
        denoiser: Denoiser,
        images: Tensor,
        *,
        levels: int | Sequence[float] = 8,
        images_per_level: int = 4,
        probes: int = 2,
        ema: Any = None,
        groups: Any = None,
        names: Sequence[str] | None = None,
        seed: int = 0,
        memory: str | int | None = None,
    ):
        if images_per_level < 3 or len(images) < images_per_level:
            raise InputError(
                f"gradients are compared between images: a level needs at least 3 of them, and data= holds at least as "
                f"many, not {images_per_level} of {len(images)}"
            )
        self.denoiser = denoiser
        self.modules: list[nn.Module] = [denoiser.module]
        times = denoiser.schedule.levels(levels).tolist() if isinstance(levels, int) else [float(t) for t in levels]
        self.timesteps = np.array(times)
        self._all = grid(denoiser, images, times, seed)
        self._few = grid(denoiser, images[:images_per_level], times, seed)
        self._scan = grid(denoiser, images[:SCANNED], times, seed)
        self._probes, self._seed = probes, seed
        self._headroom = Headroom(memory)
        self._inputs = InputJacobians(lambda: self._headroom.bytes(denoiser.device))
        self._coverage: dict[str, Coverage] = {}
        self._weights = WeightProbe(lambda: denoiser.tangent.parameters)
        self._ema = None if ema is None else Average(ema, denoiser.tangent)
        self.modules += [] if self._ema is None else self._ema.modules
        self._classes = None if groups is None else class_indices(groups, len(images))
        labels = [f"t = {t:g}" for t in times]
        snr = [float(v) for v in denoiser.schedule.log_snr(torch.tensor(times, dtype=torch.float64))]
        schedule = denoiser.schedule
        self.axes = {
            "level": Axis("level", labels, times, "timestep"),
            "parameter": self._weights.axis,
            "time": time_axis(*schedule.time_range, schedule.discrete),
        }
        self.arrays = {
            "drawn/timesteps": ["time"],
            "loss/level": ["level"],
            "gradient/norm": ["level"],
            "gradient/agreement": ["level"],
            "gradient/noise_scale": ["level"],
            "gradient/cosine": ["level", "level"],
            "kernel/level": ["level", "level"],
            "time/ratio": ["level"],
            "time/gain": ["level"],
            "time/cost": ["level"],
            **{name: ["parameter"] for name in WeightProbe.ARRAYS},
        }
        if self._ema is not None:
            self.arrays["ema/loss_level"] = ["level"]
        if self._classes is not None:
            self.axes["class"] = class_axis(self._classes, names)
            self.arrays |= {name: ["class"] for name in ("drawn/classes", "loss/class", "gradient/class_agreement")}
            if denoiser.conditioning:
                self.arrays["conditioning/gain"] = ["class"]
                self._other_class = _of_another_class(self._classes)
        self.settings: dict[str, Any] = {
            "denoiser": denoiser.describe(), "images": len(images), "images_per_level": images_per_level,
            "probes": probes, "data": fingerprint((images.cpu(), self._classes)), "log_snr": snr,
            "ema": self._ema is not None,
        }  # fmt: skip
        self._mask = (
            window_mask(self.timesteps, default_window(times, denoiser.schedule.span)) if len(times) > 1 else None
        )

    def forget(self) -> None:
        """The training went back."""
        self._weights.forget()
        if self._ema is not None:
            self._ema.forget()

    def parts(self) -> dict[str, Callable[[], Values]]:
        own = cache(lambda: self._losses_of("losses", self.denoiser))  # two parts want them
        found: dict[str, Callable[[], Values]] = {"weights": self._weights.read, "loss": partial(self._losses, own)}
        if self._ema is not None:
            found["ema"] = self._averaged
        if self._classes is not None and self.denoiser.conditioning:
            found["conditioning"] = partial(self._swapped, own)
        return found | {"gradient": self._gradients, "kernel": self._kernel, "time": self._told}

    def derived(self, values: Values, before: Trace) -> Values:
        """How far the kernel between levels has moved since the first reading, and since the one before."""
        self._inputs.let_go()
        return drifts("kernel/level", values, before)

    # ------------------------------------------------------------------------ parts

    def _losses(self, own: Callable[[], Array]) -> Values:
        losses = own()
        found: dict[str, float | Array] = {"loss/mean": float(losses.mean()), "loss/level": losses.mean(1)}
        if self._classes is not None:
            found["loss/class"] = mean_by_class(losses.mean(0), self._classes, len(self.axes["class"]))
        return found

    def _swapped(self, own: Callable[[], Array]) -> Values:
        """What an image's own conditioning is worth: the share by which its loss grows with that of another class."""
        assert self._classes is not None
        mine = own().mean(0)
        other = self._losses_of("swapped", self.denoiser, torch.from_numpy(self._other_class))
        gain = (other.mean(0) - mine) / mine
        return {"conditioning/gain": mean_by_class(gain, self._classes, len(self.axes["class"]))}

    def _averaged(self) -> Values:
        assert self._ema is not None
        other = copy.copy(self.denoiser)
        other.tangent = self._ema.at()
        losses = self._losses_of("averaged", other)
        return {"ema/loss": float(losses.mean()), "ema/loss_level": losses.mean(1), **self._ema.read()}

    def _gradients(self) -> Values:
        """From the kernel of loss gradients: size, agreement between images, noise scale and conflicts."""
        found = self._run("loss", self._few.loss_batch(self.denoiser), self.denoiser.loss_cotangent())
        blocks = as_grid(found, self._few.level_of, self._few.image_of)  # [L, n, L, n]
        size, images = blocks.shape[:2]
        own = np.einsum("aiai->a", blocks) / images
        between = level_means(blocks)  # of different images: no gradient's own noise in it
        mean = np.diagonal(between)
        every = level_means(blocks, pairs="all")
        norms = np.sqrt(np.maximum(np.diagonal(every), 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = every / np.outer(norms, norms)
            scale = np.where(mean > 0, (own - mean) / mean, np.nan)
        found_values: dict[str, float | Array] = {
            "gradient/norm": norms,
            "gradient/agreement": mean / np.where(own > 0, own, np.nan),
            "gradient/noise_scale": scale,
            "gradient/cosine": cosine,
            "gradient/conflicts": float((cosine[np.triu_indices(size, 1)] < 0).mean()) if size > 1 else math.nan,
            "gradient/total": float(np.sqrt(max(float(every.mean()), 0.0))),
        }
        if self._classes is not None:
            found_values["gradient/class_agreement"] = self._by_class(blocks)
        return found_values

    def _by_class(self, blocks: Array) -> Array:
        """Share of the gradient that a class's images have in common, over levels ``[classes]``."""
        assert self._classes is not None
        of = self._classes[: blocks.shape[1]]
        found = np.full(len(self.axes["class"]), math.nan)
        per_image = np.einsum("aiaj->ij", blocks)
        for c in range(len(found)):
            rows = np.flatnonzero(of == c)
            if len(rows) > 1:
                mine = per_image[np.ix_(rows, rows)]
                own = float(np.trace(mine))
                found[c] = (mine.sum() - own) / ((len(rows) - 1) * own) if own > 0 else math.nan
        return found

    def _kernel(self) -> Values:
        values = self._run("kernel", self._few.batch(self.denoiser), probes(self._probes, self._seed), normalized=True)
        levels = level_means(as_grid(values, self._few.level_of, self._few.image_of))
        index = math.nan if self._mask is None else float(locality_index(levels, self._mask))
        return {"kernel/level": levels, "kernel/locality": index}

    def _told(self) -> Values:
        """What other told times do to the loss, by level.

        ``time/ratio``: told time over true time at which the loss is smallest, 1 where no time is clearly better than
        the true one; ``time/gain``: share of the loss that it saves; ``time/cost``: what the worst one adds, as a
        share, which is about 0 for a network that does not look at the time.
        """
        few, schedule = self._scan, self.denoiser.schedule
        first, last = schedule.time_range
        told = torch.cat([few.t * ratio for ratio in RATIOS])
        told = (told.round() if schedule.discrete else told).clamp(first, last)
        count = len(RATIOS)
        batch = self.denoiser.batch(
            torch.cat([few.x_t] * count), told, scale_t=few.t.repeat(count), rows=few.rows.repeat(count)
        )
        target = torch.cat([self.denoiser.target(few.x0, few.noise, few.t)] * count)
        losses = sample_losses(self._outputs("told", self.denoiser, batch), target)
        table = losses.reshape(count, few.levels, few.images).mean(2).numpy()  # [ratios, L]
        if not np.isfinite(table).all():
            raise NonFiniteError("outputs of the network at other times than its own are NaN or infinite")
        truth = table[RATIOS.index(1.0)]
        gain = 1 - table.min(0) / np.where(truth > 0, truth, np.inf)
        # where the curve is flat no time is better than the true one
        ratios = np.where(gain > CLEAR, np.array(RATIOS)[table.argmin(0)], 1.0)
        return {"time/ratio": ratios, "time/gain": gain, "time/cost": table.max(0) / np.maximum(truth, 1e-300) - 1}

    def _losses_of(self, name: str, denoiser: Denoiser, rows: Tensor | None = None) -> Array:
        """Losses of all images at all levels ``[L, n]``.

        Args:
            rows: whose conditioning each image takes ``[n]``; its own by default.
        """
        points = self._all
        rows = points.rows if rows is None else rows.repeat(points.levels)
        batch = denoiser.loss_batch(points.x0, points.noise, points.t, rows=rows)
        found = sample_losses(self._outputs(name, denoiser, batch), batch["target"])
        losses: Array = found.reshape(points.levels, points.images).numpy()
        bad = np.flatnonzero(~np.isfinite(losses).all(1))
        if len(bad):
            times = ", ".join(f"{self.timesteps[a]:g}" for a in bad)
            raise NonFiniteError(f"the loss is NaN or infinite at timesteps {times}")
        return losses

    def _outputs(self, name: str, denoiser: Denoiser, batch: dict[str, Any]) -> Tensor:
        return self._inputs.at(name, denoiser.tangent, batch, "x").outputs(require_finite=False)

    def _run(self, name: str, batch: Any, cotangents: Any, normalized: bool = False) -> Array:
        found = kernel(
            self.denoiser.tangent,
            batch,
            cotangents=cotangents,
            by=None,
            accumulate="float32",
            memory=self._headroom.bytes(self.denoiser.device),
            coverage=self._coverage.get(name),
            distributed=False,
            progress=False,
        )
        if found.coverage is not None:
            self._coverage[name] = found.coverage
        values = found.normalized().values if normalized else found.values
        return values.numpy()


def _of_another_class(labels: Labels) -> Labels:
    """For each image the nearest one after it, around the end, of another class; itself where there is none."""
    found = np.arange(len(labels))
    for i, label in enumerate(labels):
        later = np.roll(np.arange(len(labels)), -i)
        others = later[labels[later] != label]
        found[i] = others[0] if len(others) else i
    return found
