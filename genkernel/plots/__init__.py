"""Figures: one function each, taking a result and returning a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from genkernel.plots.amplification import amplification_matrix
from genkernel.plots.controls import control_summary
from genkernel.plots.embedding import embedding_cosines, embedding_interpolation
from genkernel.plots.group_maps import cluster_map, level_indices, level_map
from genkernel.plots.interference import interference_map, stage_choice, weighting_change
from genkernel.plots.latent_jacobian import singular_value_fan
from genkernel.plots.latent_kernel import kernel_spectrum, latent_kernel_map
from genkernel.plots.layers import layer_bars
from genkernel.plots.loss import loss_per_level
from genkernel.plots.maps import control_maps, kernel_map
from genkernel.plots.occupancy import cluster_occupancy
from genkernel.plots.one_step import one_step_error
from genkernel.plots.paths import (
    contribution_heat_map,
    layer_map,
    path_figures,
    path_over_time,
    shares,
    stage_map,
    waterfall,
)
from genkernel.plots.profiles import control_profiles, level_locality, locality_profile
from genkernel.plots.scores import score_field
from genkernel.plots.sheet import sample_sheet
from genkernel.plots.style import to_bytes
from genkernel.plots.transport import transport_field

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult
    from genkernel.gan.results import GanResult

__all__ = [
    "amplification_matrix",
    "cluster_map",
    "cluster_occupancy",
    "contribution_heat_map",
    "control_maps",
    "control_profiles",
    "control_summary",
    "diffusion_figures",
    "embedding_cosines",
    "embedding_interpolation",
    "gan_figures",
    "interference_map",
    "kernel_map",
    "kernel_spectrum",
    "latent_kernel_map",
    "layer_bars",
    "layer_map",
    "level_indices",
    "level_locality",
    "level_map",
    "locality_profile",
    "loss_per_level",
    "one_step_error",
    "path_figures",
    "path_over_time",
    "sample_sheet",
    "score_field",
    "shares",
    "singular_value_fan",
    "stage_choice",
    "stage_map",
    "to_bytes",
    "transport_field",
    "waterfall",
    "weighting_change",
]


def diffusion_figures(result: DiffusionResult) -> dict[str, Callable[[], Figure]]:
    """The figures that this result can fill, by file name, in reading order; each is drawn when called."""
    interference = result.interference
    draw: dict[str, Callable[[], Figure] | None] = {
        "kernel": lambda: kernel_map(result),
        "profile": lambda: locality_profile(result),
        "controls": lambda: control_summary(result),
        "control_profiles": (lambda: control_profiles(result)) if result.controls else None,
        "control_maps": (lambda: control_maps(result)) if result.controls else None,
        "embedding": (lambda: embedding_cosines(result))
        if result.embedding_cosine is not None or result.time_mlp_cosine is not None
        else None,
        "interpolation": (lambda: embedding_interpolation(result)) if result.interpolation else None,
        "levels": lambda: level_locality(result),
        "layers": (lambda: layer_bars(result)) if result.layers else None,
        "interference": (lambda: interference_map(result)) if interference else None,
        "interference_preconditioned": (lambda: interference_map(result, preconditioned=True))
        if interference and interference.preconditioned
        else None,
        "weighting": (lambda: weighting_change(result)) if result.weighting else None,
        "stages": (lambda: stage_choice(result)) if result.stages else None,
        "loss": lambda: loss_per_level(result),
    }
    return {name: function for name, function in draw.items() if function is not None}


def gan_figures(result: GanResult) -> dict[str, Callable[[], Figure]]:
    """The figures that this result can fill, by file name, in reading order; each is drawn when called."""
    moved = result.transport is not None
    draw: dict[str, Callable[[], Figure] | None] = {
        "samples": (lambda: sample_sheet(result)) if result.sheet is not None else None,
        "kernel": lambda: latent_kernel_map(result),
        "spectrum": lambda: singular_value_fan(result),
        "amplification": (lambda: amplification_matrix(result)) if moved else None,
        "transport": (lambda: transport_field(result))
        if moved and result.points is not None and result.point_updates is not None
        else None,
        "score": (lambda: score_field(result))
        if result.score is not None and result.score.fields is not None and result.points is not None
        else None,
        "occupancy": lambda: cluster_occupancy(result),
        "one_step": (lambda: one_step_error(result)) if result.one_step else None,
        "kernel_spectrum": lambda: kernel_spectrum(result),
    }
    return {name: function for name, function in draw.items() if function is not None}
