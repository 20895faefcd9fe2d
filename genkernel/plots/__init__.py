"""Figures: one function each, taking a result and returning a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from genkernel.plots.controls import control_summary
from genkernel.plots.embedding import embedding_cosines, embedding_interpolation
from genkernel.plots.interference import interference_map, stage_choice, weighting_change
from genkernel.plots.layers import layer_bars
from genkernel.plots.loss import loss_per_level
from genkernel.plots.maps import control_maps, kernel_map
from genkernel.plots.profiles import control_profiles, level_locality, locality_profile
from genkernel.plots.style import to_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult

__all__ = [
    "control_maps",
    "control_profiles",
    "control_summary",
    "diffusion_figures",
    "embedding_cosines",
    "embedding_interpolation",
    "interference_map",
    "kernel_map",
    "layer_bars",
    "level_locality",
    "locality_profile",
    "loss_per_level",
    "stage_choice",
    "to_bytes",
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
