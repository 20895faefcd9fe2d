"""``analyze``: every diffusion analysis of one denoiser on one set of images.

The expensive parts are kernels; everything else is read off them. In order: the main kernel over
levels × images, the kernels of the controls (over the first ``control_images`` images), those of the
untrained network and of the interpolated embedding, and the loss-gradient kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_structure

from genkernel.diffusion import reading
from genkernel.diffusion.controls import Controls, other_image_same_level
from genkernel.diffusion.embedding import embedding_cosines, interpolate, rank_correlation
from genkernel.diffusion.interference import interference, optimizer_preconditioner
from genkernel.diffusion.layers import layer_locality, parameters_per_layer
from genkernel.diffusion.locality import contrast, default_window, level_kernel
from genkernel.diffusion.pairs import Grid, grid
from genkernel.diffusion.resampling import FEWEST_IMAGES, Estimate
from genkernel.diffusion.results import (
    Contrast,
    DiffusionResult,
    Interference,
    Interpolation,
    LevelKernel,
    Levels,
    SameLevel,
)
from genkernel.diffusion.stages import find_stages
from genkernel.diffusion.weighting import schemes, weighting
from genkernel.errors import InputError, ZeroGradientError
from genkernel.tangent import Kernel, TangentModel, kernel
from genkernel.tangent import probes as random_cotangents
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.passes import GradientPass, guarded
from genkernel.tangent.precision import parse_dtype

if TYPE_CHECKING:
    from genkernel.diffusion.denoiser import Denoiser

Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]  # stage, number of stages done, number of stages

FEWEST_LEVELS = 3
CONTROL_IMAGES = 8

STAGES = (
    "loss", "kernel", "locality", "layers", "stages", "embedding", "same_image_same_noise", "same_image_other_noise",
    "embedding_only", "input_only", "shuffled_levels", "untrained", "interpolation", "interference", "weighting",
)  # fmt: skip
_OF_CONTROLS = frozenset(STAGES[6:13])


def analyze(
    den: Denoiser,
    images: Tensor,
    *,
    levels: int | Sequence[float] = 24,
    samples: int = 16,
    probes: int = 8,
    seed: int = 0,
    controls: bool = True,
    untrained: bool = True,
    control_images: int = CONTROL_IMAGES,
    optimizer_state: Any = None,
    weights: Mapping[str, Any] | None = None,
    samplers: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
    store: str | Path | None = None,
    distributed: bool | None = None,
    progress: Progress | bool | None = None,
    bootstrap: int = 200,
) -> tuple[DiffusionResult, Kernel]:
    """How local in noise level a denoiser's kernel is, what carries that, and which levels interfere.

    Args:
        den: the denoiser.
        images: ``[n, C, H, W]`` in [0, 1]; the first ``samples`` are used (all, with a note, if there
            are fewer).
        levels: how many noise levels, spread evenly over the schedule, or their timesteps; at least 3.
        samples: number of images; at least 2, and at least 4 for standard errors.
        probes: random cotangents of the trace kernel; with one there is no probe error.
        seed: of the noise, the probes, the resampling and the untrained network.
        controls: compute the controls, each over the first ``control_images`` images.
        untrained: among them the freshly initialised network.
        optimizer_state: a torch optimizer, its ``state_dict()`` or parameter name → diagonal of P; adds
            the interference in the optimizer's metric.
        weights, samplers: further loss weights and timestep samplers for the what-if table: name → array
            over the levels or callable of ``(t, log_snr)``.
        dtype: of activations and gradients; the model's own by default. Sums are in float64.
        memory: bound for the engine.
        store: a folder that keeps finished kernels, one folder for each, so that an analysis that was
            killed goes on where it was.
        distributed: share the kernels with the other ranks of ``torch.distributed`` or torchrun, which
            make the same call and get the same result: None when there are any, False never.
        progress: called with (stage, stages done, number of stages) before each stage; or True/False for
            the engine's own bars.
        bootstrap: replicates over images.

    Returns:
        The result, and the main kernel over every image at every level (level-major order, with layers).

    Raises:
        InputError: levels out of range or fewer than three, fewer than two images, wrong shapes.
        ZeroGradientError: no parameter has any influence on the output, or only a constant of it has.
        NonFiniteError, BatchCouplingError, RandomOutputError, CaptureError: from the engine.
    """
    watch = _Watch(progress, [s for s in STAGES if _wanted(s, controls, untrained)])
    notes = list(den.notes)
    _check_counts(
        samples=(samples, 2), probes=(probes, 1), bootstrap=(bootstrap, 2), control_images=(control_images, 2)
    )
    images = _first_images(images, samples, notes)
    count = images.shape[0]
    where = _levels(den, levels)
    given = schemes(den.schedule, where, weights, samplers)  # before the long part: a typing error should not cost it
    if len(given) < 3 + len(weights or {}) + len(samplers or {}):
        notes.append("min-SNR and P2 weights are left out: they do not exist at a level without noise")
    diagonal, metric = None, "none"
    if optimizer_state is not None:
        diagonal, metric = optimizer_preconditioner(den.module, list(den.tangent.parameter_names), optimizer_state)
    if count < FEWEST_IMAGES:
        notes.append(f"{count} images are too few for standard errors: give at least {FEWEST_IMAGES}")

    if probes == 1:
        notes.append("with one probe the probes' part of the errors is unknown: every error is at least what is stated")

    kernels = _Kernels(watch, dtype, memory, store, distributed)

    def compute(model: Denoiser, batch: Any, other: Any = None, by: str | None = None) -> Kernel:
        draw = random_cotangents(probes, seed=seed)  # the same for every kernel, so that they can be compared
        return kernels(model, batch, other, cotangents=draw, by=by)

    pairs = grid(den, images, where.timesteps, seed)
    with watch("loss"):
        loss = _losses(den, pairs)
    with watch("kernel"):
        main = compute(den, pairs.batch(den), by="layer")
    _check_alive(main, notes)

    index = pairs.level_of, pairs.image_of
    with watch("locality"):
        normalized = level_kernel(
            Estimate(main, normalize=True), *index, where, bootstrap=bootstrap, seed=seed,
            description="different images, independent noise",
        )  # fmt: skip
        raw = level_kernel(
            Estimate(main, normalize=False), *index, where, bootstrap=bootstrap, seed=seed,
            description="different images, independent noise; not normalised",
        )  # fmt: skip
    with watch("layers"):
        layers = layer_locality(
            main.layers, *index, where, parameters=parameters_per_layer(den.tangent), bootstrap=bootstrap, seed=seed
        )
    with watch("stages"):
        stages = find_stages(normalized, where)
    with watch("embedding"):
        raw_cosine, mlp_cosine = embedding_cosines(den, where.timesteps)
        if raw_cosine is None:
            notes.append("no timestep embedding was found, so its cosine and its interpolation are left out")

    found: dict[str, LevelKernel | SameLevel] = {"other_image_same_level": other_image_same_level(normalized, where)}
    contrasts: dict[str, Contrast] = {}
    interpolation = None
    if controls:
        fewer = min(control_images, count)
        made = _controls(den, images[:fewer], where, compute, watch, notes, seed, bootstrap, untrained)
        found.update(made)
        few = pairs.image_of < fewer
        same = Estimate(main, normalize=True, rows=np.flatnonzero(few), columns=np.flatnonzero(few))
        reference = level_kernel(same, pairs.level_of[few], pairs.image_of[few], where, bootstrap=bootstrap, seed=seed)
        contrasts = _contrasts(reference, made)
        if raw_cosine is not None:
            with watch("interpolation"):
                interpolation = _interpolation(den, images[:fewer], where, compute, seed, bootstrap)

    with watch("interference"):
        conflict = _interference(den, pairs, kernels, diagonal, metric, notes, bootstrap, seed)
    table = None
    if conflict is not None:
        with watch("weighting"):
            table = weighting(conflict, where, loss.mean(1), given)

    assert main.coverage is not None
    result = DiffusionResult(
        levels=where,
        loss_mean=loss.mean(1),
        loss_stderr=loss.std(1, ddof=1) / np.sqrt(count),
        locality=normalized,
        unnormalized=raw,
        layers=layers,
        controls=found,
        embedding_cosine=raw_cosine,
        time_mlp_cosine=mlp_cosine,
        interpolation=interpolation,
        interference=conflict,
        weighting=table,
        stages=stages,
        contrasts=contrasts,
        embedding_spearman=None if raw_cosine is None else rank_correlation(raw_cosine, normalized),
        time_mlp_spearman=None if mlp_cosine is None else rank_correlation(mlp_cosine, normalized),
        meta={
            "images": count,
            "control_images": min(control_images, count) if controls else 0,
            "probes": probes,
            "seed": seed,
            "bootstrap": bootstrap,
            "dtype": main.meta["dtype"],
            "device": main.meta["device"],
            "model": den.name,
            "class": type(den.module).__name__,
            "parameters": den.parameters,
            "schedule": den.schedule.name,
            "prediction_type": den.schedule.prediction_type,
            "notes": notes,
            "coverage": main.coverage.summary(),
            "seconds": watch.seconds,
        },
    )
    result.meta["reading"] = reading.read(result)
    return result, main


# -------------------------------------------------------------------------- inputs


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"{name} has to be a whole number of at least {least}, not {value!r}")


def _first_images(images: Tensor, samples: int, notes: list[str]) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() < 2:
        raise InputError("images has to be a tensor [n, C, H, W] with values in [0, 1]")
    available = images.shape[0]
    if available < 2:
        raise InputError(f"the analysis compares different images: give at least 2, not {available}")
    if available < samples:
        notes.append(f"{samples} images were asked for and {available} given: all of them are used")
    return images[:samples]


def _levels(den: Denoiser, levels: int | Sequence[float]) -> Levels:
    """The evaluated levels with their coordinates and the window of the locality index."""
    schedule = den.schedule
    if isinstance(levels, (int, np.integer)) and not isinstance(levels, bool):
        if levels < FEWEST_LEVELS:
            raise InputError(f"at least {FEWEST_LEVELS} noise levels are needed, not {levels}")
        t = schedule.levels(int(levels)).to(torch.float64)
    else:
        try:
            t = schedule.check(torch.as_tensor(np.asarray(levels, dtype=np.float64)))
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"levels is a number of levels or a list of timesteps, not {levels!r}") from None
        if t.dim() != 1 or len(t) < FEWEST_LEVELS:
            raise InputError(f"at least {FEWEST_LEVELS} noise levels are needed, not {t.numel()}")
        t = torch.sort(t).values
        if len(torch.unique(t)) < len(t):
            raise InputError("the timesteps of the noise levels have to be different from each other")
    times = t.numpy()
    span = float(schedule.span)
    return Levels(
        timesteps=times,
        log_snr=schedule.log_snr(t).numpy(),
        alpha=schedule.alpha(t).numpy(),
        sigma=schedule.sigma(t).numpy(),
        span=span,
        window_timesteps=default_window(times, span),
        discrete=schedule.discrete,
    )


# ------------------------------------------------------------------------ the parts


def _losses(den: Denoiser, pairs: Grid) -> Array:
    """Unweighted loss of every image at every level, ``[L, n]``, one level at a time to bound memory."""
    rows = []
    for level in range(pairs.levels):
        at = torch.from_numpy(np.flatnonzero(pairs.level_of == level))
        here = at.to(pairs.x0.device)
        rows.append(den.losses(pairs.x0[here], pairs.noise[here], pairs.t[at], rows=pairs.rows[at]).numpy())
    return np.array(rows, dtype=np.float64)


def _check_alive(main: Kernel, notes: list[str]) -> None:
    dead = int((main.norms_x <= 0).sum())
    if dead == len(main.norms_x):
        raise ZeroGradientError(
            "every gradient of the model is exactly zero, so there is no kernel: no selected parameter moves the output"
        )
    alive = [name for name, values in main.layers.items() if values.any()]
    first = float(main.values[0, 0])
    if len(alive) == 1 and len(main.layers) > 1 and bool(((main.values - first).abs() <= 1e-9 * abs(first)).all()):
        raise ZeroGradientError(
            f"only {alive[0]!r} has any gradient, and the same one for every sample: the network passes nothing on "
            "(its weights are zero, or its units dead)"
        )
    if dead:
        notes.append(f"{dead} of {len(main.norms_x)} samples have a gradient of exactly zero; their cosines count as 0")


def _controls(
    den: Denoiser,
    images: Tensor,
    levels: Levels,
    compute: Callable[..., Kernel],
    watch: _Watch,
    notes: list[str],
    seed: int,
    bootstrap: int,
    untrained: bool,
) -> dict[str, LevelKernel]:
    def on(model: Denoiser) -> Controls:
        return Controls(
            model,
            images,
            levels,
            lambda batch, other=None: compute(model, batch, other),
            seed=seed,
            bootstrap=bootstrap,
        )

    given = on(den)
    found: dict[str, LevelKernel] = {}
    for name in ("same_image_same_noise", "same_image_other_noise", "embedding_only", "input_only", "shuffled_levels"):
        with watch(name):
            found[name] = getattr(given, name)()
    if untrained:
        with watch("untrained"):
            fresh = den.untrained(seed)
            notes += [f"untrained network: {note}" for note in fresh.notes if note not in notes]
            kernel_of_fresh = on(fresh).main_kernel("different images, independent noise; freshly initialised network")
            if kernel_of_fresh.matrix.any():
                found["untrained"] = kernel_of_fresh
            else:
                notes.append("untrained network: its gradients are all zero, so it has no kernel to compare with")
    return found


def _contrasts(main: LevelKernel, controls: Mapping[str, LevelKernel]) -> dict[str, Contrast]:
    """Paired differences of indices; ``main`` is the main kernel over the controls' images."""
    pairs = {
        reading.TRAINED: (main, controls.get("untrained")),
        reading.MAIN_EMBEDDING: (main, controls.get("embedding_only")),
        reading.MAIN_INPUT: (main, controls.get("input_only")),
        reading.MAIN_SHUFFLED: (main, controls.get("shuffled_levels")),
        reading.EMBEDDING_INPUT: (controls.get("embedding_only"), controls.get("input_only")),
    }
    return {name: contrast(name, a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}


def _interpolation(
    den: Denoiser, images: Tensor, levels: Levels, compute: Callable[..., Kernel], seed: int, bootstrap: int
) -> Interpolation:
    """Between the levels a quarter and three quarters of the way through the evaluated ones."""
    last = len(levels.timesteps) - 1
    return interpolate(
        den,
        images,
        levels,
        last // 4,
        last - last // 4,
        lambda batch: compute(den, batch),
        seed=seed,
        bootstrap=bootstrap,
    )


def _interference(
    den: Denoiser,
    pairs: Grid,
    kernels: _Kernels,
    diagonal: Mapping[str, Tensor] | None,
    metric: str,
    notes: list[str],
    bootstrap: int,
    seed: int,
) -> Interference | None:
    batch = pairs.loss_batch(den)

    def of(precondition: Mapping[str, Tensor] | None, label: str) -> Interference:
        suffix = "" if precondition is None else "_preconditioned"
        gradients = kernels(
            den, batch, suffix=suffix, cotangents=den.loss_cotangent(), precondition=precondition, by=None
        )
        return interference(
            gradients, pairs.level_of, pairs.image_of, preconditioner=label, bootstrap=bootstrap, seed=seed
        )

    try:
        found = of(None, "none")
    except ZeroGradientError as error:
        notes.append(str(error))
        return None
    if diagonal is not None:
        found.preconditioned = of(diagonal, metric)
    return found


# -------------------------------------------------------------------------- kernels


class _Kernels:
    """Every kernel of one analysis: computed alike, and kept in a folder named after its stage.

    The analysis changes no model, so one proof serves all kernels of a model over inputs of the same
    structure; the engine proves again whatever does not fit it.
    """

    def __init__(
        self,
        watch: _Watch,
        dtype: torch.dtype | str | None,
        memory: str | int,
        store: str | Path | None,
        distributed: bool | None,
    ):
        self._watch = watch
        self._dtype = parse_dtype(dtype)
        self._options: dict[str, Any] = {
            "dtype": self._dtype,
            "memory": memory,
            "distributed": distributed,
            "progress": watch.bars,
        }
        self._store = None if store is None else Path(store)
        self._proofs: dict[tuple[TangentModel, str], Coverage] = {}

    def __call__(self, model: Denoiser, batch: Any, other: Any = None, *, suffix: str = "", **options: Any) -> Kernel:
        store = None if self._store is None else self._store / f"{self._watch.stage}{suffix}"
        coverage = self._proof(model.tangent, batch)
        return kernel(model.tangent, batch, other, store=store, coverage=coverage, **options, **self._options)

    def _proof(self, model: TangentModel, batch: Any) -> Coverage:
        key = model, str(tree_structure(batch))
        if key not in self._proofs:
            with guarded(model):
                self._proofs[key] = GradientPass(model, batch, self._dtype).coverage
        return self._proofs[key]


# ------------------------------------------------------------------------- progress


def _wanted(stage: str, controls: bool, untrained: bool) -> bool:
    return (controls or stage not in _OF_CONTROLS) and (untrained or stage != "untrained")


class _Watch:
    """Announces stages and measures them."""

    def __init__(self, progress: Progress | bool | None, stages: list[str]):
        self._report = progress if callable(progress) else None
        self._stages = stages
        self._done = 0
        self.stage = ""
        self.seconds: dict[str, float] = {}
        #: what the engine is told: its own bars stay hidden under a callback
        self.bars: bool | None = False if self._report is not None else progress  # type: ignore[assignment]

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.stage = stage
        if self._report is not None:
            self._report(stage, self._done, len(self._stages))
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)
        self._done += 1
