"""The house rules, checked on every figure: all of it on the canvas, fixed ranges, units, footer, no side effects."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from genkernel.diffusion.results import DiffusionResult, LayerLocality
from genkernel.errors import InputError
from genkernel.plots import (
    compare,
    diffusion_figures,
    embedding_cosines,
    embedding_interpolation,
    interference_map,
    layer_bars,
    stage_choice,
    to_bytes,
    weighting_change,
)
from genkernel.plots.names import kernels
from tests.diffusion.fake_result import fake_result

NAMES = list(diffusion_figures(fake_result()))


@functools.cache
def ordinary() -> DiffusionResult:
    return fake_result()


@functools.cache
def drawn(name: str) -> Figure:
    return diffusion_figures(ordinary())[name]()


def continuous() -> DiffusionResult:
    """Flow matching: time in 0 … 1, long names, many layers, negative cosines, missing values."""
    result = fake_result(13)
    levels = result.levels
    levels.timesteps = levels.timesteps / 1000 + 1e-3
    levels.span, levels.window_timesteps, levels.discrete = 1.0, 0.05, False
    result.meta["model"] = "a-model-with-quite-a-long-name/that-somebody-gave-it-on-a-hub-transformer-2d"
    result.layers = [
        LayerLocality(f"transformer_blocks.{i}.attention.processor.to_out.linear_projection.{i}", 0.02, 10**6, 0.1, 0.5)
        for i in range(50)
    ]
    result.locality.matrix[0, 5] = -0.3
    result.locality.half_width_timesteps = [None] * 13
    result.locality.by_timestep.half_width = None
    result.locality.by_timestep.stderr[:] = np.nan
    result.loss_stderr[:] = np.nan
    assert result.weighting is not None
    for change in result.weighting.predicted_change.values():
        change[::2] = np.nan
    return result


def without_errors() -> DiffusionResult:
    """Three levels and two images: nothing has a standard error, and no index may exist."""
    with np.errstate(invalid="ignore"):  # the window holds all three levels
        result = fake_result(3)
    for kernel in [*kernels(result).values(), result.unnormalized]:
        kernel.stderr = np.full_like(kernel.stderr, np.nan)
        kernel.index_stderr = kernel.index_low = kernel.index_high = kernel.centred_index_stderr = np.nan
        for profile in (kernel.by_timestep, kernel.by_log_snr):
            profile.stderr = np.full_like(profile.stderr, np.nan)
            profile.floor_stderr = np.nan
    result.unnormalized.index = np.nan
    result.loss_stderr = np.full_like(result.loss_stderr, np.nan)
    assert result.interference and result.weighting and result.interpolation and result.stages
    result.interference.stderr = np.full_like(result.interference.stderr, np.nan)
    result.interference.conflicting = []
    result.weighting.stderr = {name: np.full_like(v, np.nan) for name, v in result.weighting.stderr.items()}
    result.interpolation.stderr = np.full_like(result.interpolation.stderr, np.nan)
    result.interpolation.swapped_stderr = np.full_like(result.interpolation.swapped_stderr, np.nan)
    result.stages.margin_stderr = {k: np.nan for k in result.stages.margin_stderr}
    for layer in result.layers:
        layer.index_stderr = np.nan
    result.embedding_spearman = (0.8, np.nan)
    return result


@pytest.mark.parametrize("make", [ordinary, continuous, without_errors])
@pytest.mark.parametrize("name", NAMES)
def test_everything_is_on_the_canvas_and_nothing_warns(name: str, make: Callable[[], DiffusionResult]) -> None:
    result = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = diffusion_figures(result)[name]()
        figure.canvas.draw()
        box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    margin = 0.03  # inches
    assert box.x0 > -margin and box.y0 > -margin and box.x1 < width + margin and box.y1 < height + margin, box


@pytest.mark.parametrize("name", NAMES)
def test_footer_says_how_it_was_made(name: str) -> None:
    figure = drawn(name)
    footer = " ".join(text.get_text() for text in figure.texts)
    for words in ("n = 8 images", "8 probes", "seed 0", "float32"):
        assert words in footer


@pytest.mark.parametrize("name", NAMES)
def test_axes_are_labelled(name: str) -> None:
    figure = drawn(name)
    filled = [axes for axes in figure.axes if axes.has_data() and axes.axison]
    assert filled
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes)
    assert any(axes.get_xlabel() for axes in filled)
    assert any(axes.get_ylabel() or axes.get_yticklabels() for axes in filled)
    assert any(unit in labels for unit in ("timestep", "nats", "index", "cosine", "%"))


def image_limits(figure: Figure) -> set[tuple[float, float]]:
    images = [image for axes in figure.axes for image in axes.images if axes.get_label() != "<colorbar>"]
    return {image.get_clim() for image in images}


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("kernel", (0, 1)),
        ("control_maps", (0, 1)),
        ("stages", (0, 1)),
        ("embedding", (-1, 1)),
        ("interpolation", (-1, 1)),
        ("interference", (-1, 1)),
        ("interference_preconditioned", (-1, 1)),
    ],
)
def test_cosines_have_fixed_ranges(name: str, limits: tuple[float, float]) -> None:
    result = fake_result()
    result.locality.matrix *= 0.2  # a small kernel does not stretch its colours
    assert image_limits(diffusion_figures(result)[name]()) == {limits}


def test_nothing_global_is_touched() -> None:
    before = dict(matplotlib.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    to_bytes(diffusion_figures(fake_result())["kernel"](), "png")
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_result_gives_the_same_bytes(kind: str) -> None:
    first, second = (to_bytes(diffusion_figures(fake_result())["controls"](), kind) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert first.startswith(b"\x89PNG" if kind == "png" else b"<?xml")


def test_png_is_160_dots_per_inch_of_a_narrow_figure() -> None:
    with Image.open(BytesIO(to_bytes(diffusion_figures(fake_result())["kernel"](), "png"))) as image:
        assert image.width == round(5.4 * 160)
        assert round(image.info["dpi"][0]) == 160


def test_levels_are_drawn_with_clean_images_at_the_lower_left() -> None:
    figure = diffusion_figures(fake_result())["kernel"]()
    axes = figure.axes[0]
    assert axes.get_xlim() == (-0.5, 11.5) and axes.get_ylim() == (-0.5, 11.5)
    assert axes.images[0].origin == "lower"


def test_conflicting_pairs_are_marked_on_both_sides_of_the_diagonal() -> None:
    result = fake_result()
    assert result.interference is not None
    axes = interference_map(result).axes[0]
    marked = {tuple(np.round(point).astype(int)) for point in np.asarray(axes.collections[0].get_offsets())}
    pairs = {(a, b) for a, b, _, _ in result.interference.conflicting}
    assert marked == pairs | {(b, a) for a, b in pairs}


def test_layers_beyond_the_top_are_summed_not_dropped() -> None:
    result = continuous()
    figure = layer_bars(result, top=15)
    left = figure.axes[0]
    assert [label.get_text() for label in left.get_yticklabels()][-1] == "35 other layers"
    assert sum(bar.get_width() for bar in left.patches) == pytest.approx(100)


def test_only_figures_that_can_be_filled_are_offered() -> None:
    result = fake_result(controls=False)
    result.embedding_cosine = result.time_mlp_cosine = result.interference = result.weighting = result.stages = None
    result.layers = []
    assert list(diffusion_figures(result)) == ["kernel", "profile", "controls", "levels", "loss"]
    for draw in (embedding_cosines, embedding_interpolation, interference_map, layer_bars, stage_choice):
        with pytest.raises(InputError, match="this result has no"):
            draw(result)
    with pytest.raises(InputError, match="no what-if weighting"):
        weighting_change(result)


def test_kernels_come_in_reading_order_and_without_the_diagonal_control() -> None:
    assert list(kernels(fake_result())) == [
        "different_images",
        "same_image_same_noise",
        "same_image_other_noise",
        "embedding_only",
        "input_only",
        "shuffled_levels",
        "untrained",
    ]


@pytest.mark.parametrize("draw", ["compare_indices", "compare_profiles", "compare_half_widths", "compare_map"])
def test_comparisons_fit_their_canvas(draw: str) -> None:
    names = ("a-run-with-a-rather-long-name-of-its-own", "b")
    figure = getattr(compare, draw)(fake_result(), fake_result(), names)
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.03 and box.y0 > -0.03 and box.x1 < width + 0.03 and box.y1 < height + 0.03


def test_maps_of_different_levels_are_not_subtracted() -> None:
    with pytest.raises(InputError, match="different noise levels"):
        compare.compare_map(fake_result(12), fake_result(13))


def test_every_weighting_has_a_panel_on_the_common_scale() -> None:
    result = fake_result(9)
    assert result.weighting is not None
    result.weighting.predicted_change["P2"] = 5 * result.weighting.predicted_change["P2"]
    from genkernel.plots.interference import weighting_change

    panels = weighting_change(result).axes[1:]
    assert len(panels) == len(result.weighting.schemes) and len({panel.get_ylim() for panel in panels}) == 1
    low, high = panels[0].get_ylim()
    assert all(low <= v.min() and v.max() <= high for v in result.weighting.predicted_change.values())
