"""What a diffusion analysis returns: numbers only, float64, with the names of ``summary.json``.

Arrays over noise levels have length L and follow ``Levels.timesteps``; matrices are [L, L] with
rows and columns in the same order. A value that does not exist (an undefined half-width, a
statistic without a standard error) is ``None`` or NaN here and ``null`` in the summary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.runs import json_ready

SCHEMA_VERSION = 1

Array = NDArray[np.float64]


@dataclass
class Profile:
    """Mean kernel against the distance of two noise levels, in bins of equal width.

    Bin 0 holds the pairs at distance zero (same level, different images); bin k > 0 the distances
    nearest to k bin widths. Bins with too few pairs are left out.
    """

    lag: Array  # [B] mean distance of the pairs in the bin
    mean: Array  # [B]
    stderr: Array  # [B] over images, and over probes where there are some
    pairs: NDArray[np.int64]  # [B] number of sample pairs behind the mean
    unit: str  # "timesteps" or "log_snr"
    floor: float  # mean of the quarter of the bins with the largest lags
    half_width: float | None  # lag where the profile has fallen half way to the floor; None: no decay
    floor_stderr: float = math.nan
    bandwidth: float | None = None  # sum(lag w) / sum(w), w = max(mean - floor, 0)
    floor_from: float = math.nan  # smallest lag that the floor averages; it reaches to the last one


@dataclass
class LevelKernel:
    """The L×L level kernel of one experiment and what is read off it.

    ``index`` is the locality index of ``max(matrix, 0)`` (0: no locality, 1: all mass inside the
    window, may be negative); ``stderr`` and ``index_stderr`` combine the bootstrap over images
    with the jackknife over probes in quadrature.
    """

    matrix: Array  # [L, L]
    stderr: Array  # [L, L]
    index: float
    index_stderr: float
    floor: float  # far-lag floor of the timestep profile
    by_timestep: Profile
    by_log_snr: Profile
    half_width_timesteps: list[float | None]  # [L]
    half_width_log_snr: list[float | None]  # [L]
    signed: bool  # some entry lies below zero by two standard errors
    description: str = ""  # which samples are paired, in one sentence
    images: int = 0
    stderr_images: Array | None = None  # [L, L] bootstrap over images
    stderr_probes: Array | None = None  # [L, L] jackknife over probes; None: no probes or one
    index_stderr_images: float = math.nan
    index_stderr_probes: float = math.nan
    index_low: float = math.nan  # 95 % interval, centred on index - index_bias; NaN: none
    index_high: float = math.nan
    index_bias: float = math.nan  # what noise adds to the index, from the bootstrap; ``index`` keeps it
    index_rows: Array | None = None  # [L] the index of each row; NaN where the row has no mass
    centred_index: float = math.nan  # index of max(matrix - floor, 0)
    centred_index_stderr: float = math.nan
    # replicates kept so that two kernels over the same images and probes can be compared in pairs
    matrix_bootstrap: Array | None = field(default=None, repr=False)  # [bootstrap, L, L]
    matrix_jackknife: Array | None = field(default=None, repr=False)  # [probes, L, L]
    index_bootstrap: Array | None = field(default=None, repr=False)  # [bootstrap]
    index_jackknife: Array | None = field(default=None, repr=False)  # [probes]

    @property
    def centred(self) -> Array:
        """The matrix with its far-lag floor subtracted, [L, L]."""
        return self.matrix - self.floor


@dataclass
class SameLevel:
    """Control "another image at the same level": the diagonal of the i ≠ j kernel, per level."""

    timesteps: Array  # [L]
    mean: Array  # [L]
    stderr: Array  # [L]
    average: float = math.nan
    average_stderr: float = math.nan


@dataclass
class Contrast:
    """Difference of two locality indices over the same images, resampled together."""

    name: str
    difference: float
    stderr: float
    low: float  # 95 % interval, centred on difference - bias; NaN: none
    high: float
    bias: float = math.nan  # of the difference, from the bootstrap

    @property
    def decided(self) -> int:
        """+1 or -1 when the interval excludes zero, else 0, as when the bias exceeds half a standard error."""
        if abs(self.bias) > self.stderr / 2:
            return 0
        return int(self.low > 0) - int(self.high < 0)


@dataclass
class Levels:
    """The evaluated noise levels, [L] each, in increasing time."""

    timesteps: Array
    log_snr: Array
    alpha: Array
    sigma: Array
    span: float  # number of training timesteps, or the length of the time range
    window_timesteps: float  # |Δt| that counts as local in the locality index
    discrete: bool


@dataclass
class LayerLocality:
    """One layer's part of the kernel."""

    name: str
    share: float  # of the kernel's trace
    parameters: int
    index: float
    index_stderr: float  # bootstrap over images


@dataclass
class Interference:
    """Inner products of the mean loss gradients of the levels.

    A gradient step of size η on level b changes the loss at level t by -η <∇L_t, P ∇L_b> to first
    order, so a positive cosine means that training on b lowers the loss at t.
    """

    matrix: Array  # [L, L] cos(∇L_t, ∇L_b) of the mean gradients over the evaluated samples; diagonal 1
    stderr: Array  # [L, L] bootstrap over images
    conflicting: list[tuple[int, int, float, float]]  # (a, b, cosine, stderr), a < b, below 0 by two stderr
    inner_products: Array  # [L, L] over pairs of different images: unbiased for the expected gradients
    preconditioned: Interference | None  # the same with the optimizer's diagonal P
    level_gradient_norm: Array  # [L] norm of the mean gradient over the evaluated samples
    inner_products_stderr: Array | None = None  # [L, L]
    matrix_disjoint: Array | None = None  # [L, L] cosine from different images only; NaN where undefined
    stderr_disjoint: Array | None = None
    expected_false_conflicts: float = math.nan  # conflicts expected by chance if every cosine were 0
    preconditioner: str = "none"
    inner_products_plugin: Array | None = None  # [L, L] of the mean gradients over the evaluated samples
    # leave-one-image-out inner products [n, L, L], for errors of anything derived from them
    inner_products_jackknife: Array | None = field(default=None, repr=False)
    inner_products_plugin_jackknife: Array | None = field(default=None, repr=False)


@dataclass
class WeightingRow:
    """One line of the what-if table: scheme × level."""

    scheme: str
    timestep: float
    log_snr: float
    weight: float
    loss: float
    change: float  # step of the same gradient norm as uniform weighting's, learning rate 1
    change_stderr: float
    change_equal_lr: float  # step of the same learning rate (1)
    change_equal_lr_stderr: float


@dataclass
class Weighting:
    """First-order change of every level's loss for one step under other loss weights or samplers."""

    schemes: dict[str, Array]  # weights [L] on the raw-output loss
    predicted_change: dict[str, Array]  # [L] equal total gradient norm
    stderr: dict[str, Array]
    predicted_change_equal_lr: dict[str, Array] = field(default_factory=dict)
    stderr_equal_lr: dict[str, Array] = field(default_factory=dict)
    rows: list[WeightingRow] = field(default_factory=list)
    gradient_norm: dict[str, float] = field(default_factory=dict)  # of the total gradient of the evaluated samples
    definition: str = ""

    COLUMNS = tuple(f.name for f in dataclasses.fields(WeightingRow))

    def to_csv(self) -> str:
        """The table as comma-separated text with a header line."""
        lines = [",".join(self.COLUMNS)]
        for row in self.rows:
            quoted = '"' + row.scheme.replace('"', '""') + '"'
            cells = [quoted if "," in row.scheme or '"' in row.scheme else row.scheme]
            cells += ["" if math.isnan(v) else repr(float(v)) for v in dataclasses.astuple(row)[1:]]
            lines.append(",".join(cells))
        return "\n".join(lines) + "\n"


@dataclass
class Stages:
    """Contiguous groups of noise levels that the kernel sees as alike."""

    labels: NDArray[np.int64]  # [L] 0 … k-1
    boundaries: list[float]  # k-1 timesteps, half way between the neighbouring levels
    k: int
    criterion: str
    scores: dict[int, float]  # criterion per number of stages
    boundaries_log_snr: list[float] = field(default_factory=list)
    # [k-1] share of bootstraps that choose k and have a boundary there or at a neighbouring level
    stability: list[float] = field(default_factory=list)
    null_scores: dict[int, float] = field(default_factory=dict)  # the same for a kernel without stages
    margin_stderr: dict[int, float] = field(default_factory=dict)  # of score - null score when there are no stages
    chosen_in_bootstrap: dict[int, float] = field(default_factory=dict)  # share of bootstraps that choose k
    decided: bool = True  # most bootstraps choose k


@dataclass
class Interpolation:
    """Kernel over (x_t, e): the input held at a level, the timestep embedding moved between two.

    ``matrix`` [S, S] is the mean cosine over pairs of different images between the inputs of level
    ``from_level`` conditioned on (1-λ) e_from + λ e_to, for each λ in ``weights``. ``swapped`` holds
    the four combinations of inputs and embeddings of the two levels, in the order ``swap_labels``.
    """

    from_level: float  # timesteps
    to_level: float
    weights: Array  # [S]
    matrix: Array  # [S, S]
    stderr: Array
    swap_labels: list[str]
    swapped: Array  # [4, 4]
    swapped_stderr: Array


@dataclass
class DiffusionResult:
    """Everything :func:`genkernel.diffusion.analysis.analyze` found."""

    levels: Levels
    loss_mean: Array  # [L]
    loss_stderr: Array  # [L] over images
    locality: LevelKernel
    unnormalized: LevelKernel
    layers: list[LayerLocality]
    controls: dict[str, LevelKernel | SameLevel]
    embedding_cosine: Array | None
    time_mlp_cosine: Array | None
    interpolation: Interpolation | None
    interference: Interference | None
    weighting: Weighting | None
    stages: Stages | None
    meta: dict[str, Any] = field(default_factory=dict)
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    # Spearman correlation of each embedding cosine with the kernel over pairs of levels: (value, stderr)
    embedding_spearman: tuple[float, float] | None = None
    time_mlp_spearman: tuple[float, float] | None = None

    def to_summary(self) -> dict[str, Any]:
        """The machine-readable summary, JSON-ready (NaN and infinity become None)."""
        loc, raw = self.locality, self.unnormalized
        summary = {
            "schema_version": SCHEMA_VERSION,
            "kind": "diffusion",
            "levels": {
                "timesteps": self.levels.timesteps,
                "log_snr": self.levels.log_snr,
                "alpha": self.levels.alpha,
                "sigma": self.levels.sigma,
                "span": self.levels.span,
                "discrete": self.levels.discrete,
            },
            "loss_per_level": self.loss_mean,
            "loss_per_level_stderr": self.loss_stderr,
            "locality": {
                "index": loc.index,
                "index_stderr": loc.index_stderr,
                "index_interval": _interval(loc),
                "index_bias": loc.index_bias,
                "index_rows": loc.index_rows,
                "index_unnormalized": raw.index,
                "index_unnormalized_stderr": raw.index_stderr,
                "index_centred": loc.centred_index,
                "index_centred_stderr": loc.centred_index_stderr,
                "window_timesteps": self.levels.window_timesteps,
                "floor": loc.floor,
                "floor_lags": _floor_lags(loc.by_timestep),
                "half_width_timesteps": loc.half_width_timesteps,
                "half_width_log_snr": loc.half_width_log_snr,
                "normalized_kernel": loc.matrix,
                "stderr": loc.stderr,
                "stderr_images": loc.stderr_images,
                "stderr_probes": loc.stderr_probes,
                "unnormalized_kernel": raw.matrix,
                "unnormalized_stderr": raw.stderr,
                "profile_timesteps": loc.by_timestep,
                "profile_log_snr": loc.by_log_snr,
            },
            "controls": {
                **{name: _control_summary(control) for name, control in self.controls.items()},
                "embedding_cosine": self.embedding_cosine,
                "time_mlp_cosine": self.time_mlp_cosine,
                "embedding_spearman": self.embedding_spearman,
                "time_mlp_spearman": self.time_mlp_spearman,
                "contrasts": self.contrasts,
                "interpolation": self.interpolation,
            },
            "interference": _interference_summary(self.interference, self.levels),
            "weighting": None
            if self.weighting is None
            else {
                "definition": self.weighting.definition,
                "schemes": self.weighting.schemes,
                "predicted_change": self.weighting.predicted_change,
                "stderr": self.weighting.stderr,
                "predicted_change_equal_lr": self.weighting.predicted_change_equal_lr,
                "stderr_equal_lr": self.weighting.stderr_equal_lr,
                "gradient_norm": self.weighting.gradient_norm,
            },
            "stages": None if self.stages is None else self.stages,
            "layers": {
                "share": {layer.name: layer.share for layer in self.layers},
                "index": {layer.name: layer.index for layer in self.layers},
                "index_stderr": {layer.name: layer.index_stderr for layer in self.layers},
                "parameters": {layer.name: layer.parameters for layer in self.layers},
            },
            "meta": self.meta,
        }
        return json_ready(summary)


def _interval(kernel: LevelKernel) -> list[float] | None:
    return None if math.isnan(kernel.index_low) else [kernel.index_low, kernel.index_high]


def _floor_lags(profile: Profile) -> list[float]:
    """First and last lag that the floor averages: floors over other lags are not to be compared."""
    return [profile.floor_from, float(profile.lag[-1])]


def _control_summary(control: LevelKernel | SameLevel) -> Any:
    if not isinstance(control, LevelKernel):
        return control
    return {
        "index": control.index,
        "index_stderr": control.index_stderr,
        "index_interval": _interval(control),
        "index_bias": control.index_bias,
        "floor": control.floor,
        "floor_lags": _floor_lags(control.by_timestep),
        "images": control.images,
        "description": control.description,
        "normalized_kernel": control.matrix,
        "stderr": control.stderr,
        "half_width_timesteps": control.half_width_timesteps,
        "half_width_log_snr": control.half_width_log_snr,
        "profile_timesteps": control.by_timestep,
        "profile_log_snr": control.by_log_snr,
    }


def _interference_summary(found: Interference | None, levels: Levels) -> Any:
    if found is None:
        return None
    return {
        "matrix": found.matrix,
        "stderr": found.stderr,
        "matrix_disjoint": found.matrix_disjoint,
        "stderr_disjoint": found.stderr_disjoint,
        "inner_products": found.inner_products,
        "inner_products_stderr": found.inner_products_stderr,
        "inner_products_plugin": found.inner_products_plugin,
        "level_gradient_norm": found.level_gradient_norm,
        "conflicting_pairs": [
            {
                "levels": [a, b],
                "timesteps": [levels.timesteps[a], levels.timesteps[b]],
                "cosine": value,
                "stderr": stderr,
            }
            for a, b, value, stderr in found.conflicting
        ],
        "expected_false_conflicts": found.expected_false_conflicts,
        "preconditioner": found.preconditioner,
        "preconditioned": _interference_summary(found.preconditioned, levels),
    }
