"""Figures of paths: nothing sticks out or warns, whatever the sizes; bars, lines and colours are the numbers."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from genkernel.errors import InputError
from genkernel.paths import PathDecomposition
from genkernel.paths.sources import RESERVED
from genkernel.plots import path_axes
from genkernel.plots.path_axes import exact, gap_words, percent, short_names, signed_scale, spread, with_sign, wrap
from genkernel.plots.paths import (
    LAYERS,
    contribution_heat_map,
    layer_map,
    path_figures,
    path_over_time,
    shares,
    stage_map,
    waterfall,
)
from tests.paths.fake_parts import fake_parts, unmoved_parts


@functools.cache
def ordinary() -> PathDecomposition:
    return fake_parts()


@functools.cache
def large() -> PathDecomposition:
    """32 groups with long names, everything that is not data, 64 windows, more layers than a map has columns."""
    names = [f"class {i}: a long name for one group of training samples, number {i}" for i in range(32)]
    return fake_parts(32, 64, LAYERS + 3, 4, (10,), RESERVED, names=names)


def single() -> PathDecomposition:
    return fake_parts(windows=1, queries=1, outputs=(), others=())


def uneven() -> PathDecomposition:
    return fake_parts(2, 6, 3, 2, (2, 2), edges=[0, 1, 10, 100, 1000, 3000, 10_000], others=("buffers",))


def silent() -> PathDecomposition:
    """Outputs changed, and no source had a part in it."""
    parts = fake_parts(layers=2)
    parts.net.zero_()
    parts.gross.zero_()
    return parts


def crowded() -> PathDecomposition:
    return fake_parts(90, 2, 1, 1, (1,), gap=0.4)


CASES = {"large": large, "single": single, "uneven": uneven, "crowded": crowded}
EVERY = [
    (case, name)
    for case, make in CASES.items()
    for name in path_figures(make())
    if name != "contributions_mean" and (case != "crowded" or name in ("waterfall", "shares"))
]


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.xaxis.label)]
    found += [axes.get_title(loc="left") for axes in figure.axes]
    found += [text.get_text() for text in figure.texts]
    return " ".join([figure.get_suptitle(), *found])


def within(figure: Figure, margin: float = 0.03) -> bool:
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return box.x0 > -margin and box.y0 > -margin and box.x1 < width + margin and box.y1 < height + margin


@pytest.mark.parametrize(("case", "name"), EVERY)
def test_everything_is_on_the_canvas_with_units_and_a_footer_and_nothing_warns(case: str, name: str) -> None:
    parts = CASES[case]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = path_figures(parts)[name]()
        assert within(figure)
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes)
    assert any(unit in labels for unit in ("(units of f)", "(%)"))
    footer = figure.texts[-1].get_text()
    assert all(word in footer for word in ("Adam", f"{parts.edges[-1]:,} steps", "trapezoid rule", "float32"))
    # a waterfall says the gap of its query, relative to that query's change
    assert ("of the largest change" in footer) == (name != "waterfall")


def test_a_long_footer_is_smaller_and_not_longer_than_the_figure() -> None:
    assert within(shares(fake_parts(queries=100, steps=1_000_000, optimizer="DistributedOptimizer")))


def test_only_figures_that_can_be_filled_are_offered() -> None:
    assert list(path_figures(single())) == ["waterfall", "contributions", "shares"]
    assert list(path_figures(ordinary(), [0, 2])) == [
        "waterfall", "over_time", "contributions", "waterfall_2", "over_time_2", "contributions_2",
        "contributions_mean", "shares",
    ]  # fmt: skip
    assert "layers" in path_figures(uneven())
    assert list(path_figures(unmoved_parts())) == [] and list(path_figures(silent())) == ["waterfall", "over_time"]
    with pytest.raises(InputError, match="all contributions are zero"):
        shares(unmoved_parts())
    with pytest.raises(InputError, match="layers=True"):
        layer_map(ordinary())


def test_queries_and_directions_that_are_not_there() -> None:
    for draw in (waterfall, path_over_time):
        with pytest.raises(InputError, match="3 queries: query is 0 to 2"):
            draw(ordinary(), 3)
        with pytest.raises(InputError, match="query 1 has not changed"):
            draw(unmoved_parts(), 1)
    with pytest.raises(InputError, match="no query changed"):
        contribution_heat_map(unmoved_parts())
    with pytest.raises(InputError, match="4 outputs"):
        contribution_heat_map(ordinary(), 4)
    with pytest.raises(InputError, match="'mean', not 'all'"):
        contribution_heat_map(ordinary(), None, "all")  # type: ignore[arg-type]


# ------------------------------------------------------------------------ source × time


def test_the_map_has_symmetric_limits_and_the_cells_of_the_decomposition() -> None:
    parts = ordinary()
    figure = contribution_heat_map(parts, 1, 2)
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "training step")
    mesh = axes.collections[0]
    low, high = mesh.get_clim()
    assert low == -high and mesh.get_cmap().name == path_axes.SIGNED
    np.testing.assert_allclose(np.asarray(mesh.get_array()), parts.along(1)[:, :, 2].numpy().T)
    assert axes.get_xlim() == (0, 400)
    assert [label.get_text() for label in axes.get_yticklabels()][-2:] == ["weight decay", "rounding"]
    right = next(axes for axes in figure.axes if axes.get_xlabel() == "net")
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], parts.along(1)[:, :, 2].sum(0).numpy())


def test_colours_cut_nothing_off_and_say_when_they_are_logarithmic() -> None:
    cells = np.linspace(-1, 1, 99).reshape(3, 33)
    scale, said = signed_scale(cells, [True] * 3)
    assert (scale.vmin, scale.vmax, said) == (-1, 1, "")
    cells[0, 0] = 80
    scale, said = signed_scale(cells, [True] * 3)
    assert (scale.vmin, scale.vmax) == (-80, 80) and "linear up to ±0.80, logarithmic from there to ±80" in said
    parts = fake_parts(windows=32)
    parts.net[0] *= 100
    figure = contribution_heat_map(parts)
    assert within(figure) and "logarithmic" in texts(figure)
    assert signed_scale(np.zeros((2, 2)), [True, False])[0].vmax == 1


def test_what_is_not_data_is_grey() -> None:
    from matplotlib.colors import to_hex

    from genkernel.plots.style import BLUE, GREY, VERMILION

    figure = contribution_heat_map(ordinary())
    right = next(axes for axes in figure.axes if axes.get_xlabel() == "net")
    colors = [to_hex(bar.get_facecolor()) for bar in right.patches]
    assert set(colors[:-2]) == {BLUE, VERMILION} and colors[-2:] == [GREY, GREY]


def test_one_window_has_no_map_over_time_and_says_so() -> None:
    figure = contribution_heat_map(single())
    assert not any(axes.collections and axes.get_xlabel() == "training step" for axes in figure.axes)
    assert "no map over time" in texts(figure)
    assert "one window" in texts(path_over_time(single()))


def test_growing_windows_have_a_logarithmic_axis_with_ticks_at_their_edges() -> None:
    figure = contribution_heat_map(uneven(), 0, 0)
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "training step")
    assert axes.get_xscale() == "function"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10", "100", "1,000", "3,000", "10,000"]


# ----------------------------------------------------------------------------- waterfall


@pytest.mark.parametrize("direction", [None, 1])
def test_bars_lead_from_the_start_to_the_end(direction: int | None) -> None:
    parts = ordinary()
    axes = waterfall(parts, 0, direction, top=3).axes[0]
    bars = axes.patches
    start, end = path_axes.outputs_along(parts, 0, direction)[[0, -1]]
    assert bars[0].get_x() == pytest.approx(start)
    for before, after in pairwise(bars):
        assert after.get_x() == pytest.approx(before.get_x() + before.get_width())
    assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(end)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[4] == "3 others" and names[-4:] == ["weight decay", "rounding", "gap", "after training"]
    assert names[0] == "before training" and names[1].startswith("group ")


def test_the_gap_is_on_the_label() -> None:
    parts = fake_parts(gap=0.004, queries=1)
    said = waterfall(parts).axes[0].get_title(loc="left")
    assert said.endswith(f"; {gap_words(parts.gap_abs, parts.gap_rel, 'it')}") and "0.40 % of it" in said


def test_a_falling_scalar_is_drawn_as_it_is_and_what_made_it_fall_is_blue() -> None:
    from matplotlib.colors import to_hex

    from genkernel.plots.style import BLUE

    parts = fake_parts(3, 4, outputs=(1,), queries=1, others=())
    if float(parts.final - parts.initial) > 0:
        parts = replace(parts, net=-parts.net, outputs=-parts.outputs)
    axes = waterfall(parts).axes[0]
    assert axes.get_xlabel() == "output f(x) (units of f)"
    first = axes.patches[0]
    assert first.get_x() == pytest.approx(float(parts.initial)) and first.get_width() < 0
    assert to_hex(first.get_facecolor()) == BLUE
    assert to_hex(waterfall(parts, 0, 0).axes[0].patches[0].get_facecolor()) != BLUE  # of output 0, it is lowered


# --------------------------------------------------------------------------- over time


def test_lines_sum_to_f_up_to_the_gap() -> None:
    parts = ordinary()
    figure = path_over_time(parts, 1, 2, top=3)
    axes, lower = figure.axes[:2]
    whole = [line for line in axes.lines if len(line.get_xdata()) == len(parts.edges)]
    *sources, moved, total = [np.asarray(line.get_ydata()) for line in whole]
    np.testing.assert_allclose(sum(sources), total, atol=1e-12)
    np.testing.assert_allclose(moved, (parts.outputs - parts.outputs[0])[:, 1, 2].numpy(), atol=1e-12)
    gap = np.asarray(lower.lines[1].get_ydata())
    np.testing.assert_allclose(gap, moved - total, atol=1e-12)
    assert len(sources) == 3 + 1 + 2 and "3 others" in texts(figure) and "f itself" in texts(figure)


# ------------------------------------------------------------------------ shares, layers


def test_shares_are_percentages_of_all_sources() -> None:
    figure = shares(ordinary())
    net, gross, signed = (sum(bar.get_width() for bar in axes.patches) for axes in figure.axes[:3])
    assert net == pytest.approx(100) and gross == pytest.approx(100)
    assert signed == pytest.approx(100, abs=0.2)  # up to the gap
    assert figure.axes[3].get_xlim() == (-0.03, 1.03)


def test_many_small_groups_are_one_row_that_does_not_press_the_others() -> None:
    axes = shares(crowded()).axes[0]
    assert "59 others" in [label.get_text() for label in axes.get_yticklabels()]
    assert axes.get_xlim()[1] < 10 and "→" in " ".join(text.get_text() for text in axes.texts)


def test_small_layers_are_summed_not_dropped() -> None:
    parts = large()
    figure = layer_map(parts, 0, 0)
    upper, axes = figure.axes[:2]
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "4 other layers"
    assert sum(bar.get_height() for bar in upper.patches) == pytest.approx(float(parts.along(0)[:, :, 0].sum()))
    limit = exact(axes.collections[0].get_clim()[1], 2)
    assert f"colours end at ±{limit}: 4 other layers go to ±" in texts(figure)


def test_buffers_that_did_nothing_are_no_layer() -> None:
    def columns() -> list[str]:
        return [label.get_text() for label in layer_map(parts, 0, 0).axes[1].get_xticklabels()]

    parts = fake_parts(layers=3)
    parts.layers[-1] = "buffers"
    assert len(columns()) == 3 and columns()[-1] == "buffers"
    parts.net[:, :, -1] = 0
    assert len(columns()) == 2 and "buffers" not in columns()
    parts.net[:, :, 0], parts.layers[0] = 0, "head"  # a layer that is zero is still one
    assert columns()[0] == "head"
    parts = fake_parts(layers=2)
    parts.net[:, :, -1], parts.layers[-1] = 0, "buffers"
    assert "layers" not in path_figures(parts)


def test_shares_of_a_change_that_there_is_not_are_said_to_be_none() -> None:
    parts = fake_parts()
    parts.outputs[:] = parts.outputs[0]
    assert "f did not\nchange" in texts(shares(parts))


# --------------------------------------------------------------------------- stage maps

T, E = np.linspace(10, 990, 7), np.linspace(0, 1000, 6)
SIZES = np.exp(-np.abs(T[:, None] - (E[1:] + E[:-1]) / 2) / 150)


def snr(t: np.ndarray) -> np.ndarray:
    return 8 - 0.018 * t


def draw_stages(matrix: np.ndarray, **further: object) -> Figure:
    options = {"log_snr": snr(T), "edges_log_snr": snr(E), "note": "Adam · 400 steps", **further}
    return stage_map(matrix, T, E, label="gross contribution (units of ε)", title="Who teaches whom?", **options)  # type: ignore[arg-type]


def test_a_stage_map_has_both_coordinates_on_both_axes() -> None:
    figure = draw_stages(SIZES)
    assert within(figure)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training timestep t′", "queried timestep t")
    assert axes.collections[0].get_clim() == (0, SIZES.max())
    others = [child for child in axes.child_axes]
    assert len(others) == 2 and {other.get_xlabel() + other.get_ylabel() for other in others} == {"log-SNR = ln(α²/σ²)"}
    np.testing.assert_allclose(np.asarray(axes.collections[0].get_array()), SIZES)
    diagonal = axes.lines[0]
    np.testing.assert_allclose(np.interp(diagonal.get_xdata(), np.arange(6), E), T)
    assert "Adam · 400 steps" in texts(figure)


def test_a_stack_has_a_panel_per_window_on_one_scale_and_signs_are_symmetric() -> None:
    stack = np.stack([SIZES, 0.5 * SIZES - 0.2, 0.2 * SIZES])
    figure = draw_stages(stack, windows=("early", "middle", "late"))
    assert within(figure)
    panels = figure.axes[:3]
    limits = {panel.collections[0].get_clim() for panel in panels}
    assert limits == {(-1 * np.abs(stack).max(), np.abs(stack).max())}
    assert [panel.texts[0].get_text() for panel in panels] == ["early", "middle", "late"]
    assert within(draw_stages(np.stack([SIZES] * 4), windows=list("abcd"), log_snr=None, edges_log_snr=None))


@pytest.mark.parametrize(
    ("matrix", "further", "words"),
    [
        (SIZES.T, {}, "T timesteps and B \\+ 1 edges"),
        (SIZES * np.nan, {}, "finite entries"),
        (-SIZES, {"signed": False}, "no negative entries"),
        (SIZES[None].repeat(2, 0), {}, "needs windows="),
        (SIZES[None], {"windows": ("a", "b")}, "2 names of windows for 1 maps"),
        (SIZES, {"log_snr": snr(T)[1:]}, "log_snr has 6 values for 7 levels"),
    ],
)
def test_stage_maps_that_do_not_fit_are_refused(matrix: np.ndarray, further: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw_stages(matrix, **further)


def test_levels_of_a_stage_map_rise() -> None:
    with pytest.raises(InputError, match="rise"):
        stage_map(SIZES, T[::-1], E, label="x", title="x")


# ------------------------------------------------------------------------------- words


def test_numbers_in_words() -> None:
    assert [with_sign(v) for v in (1.234, -0.5, 0, 1.2e-4, float("nan"))] == [
        "+1.23", "−0.500", "0", "+1.20e−4", "n/a"
    ]  # fmt: skip
    assert [exact(v, 2) for v in (0.09999, 123.4, 1e6)] == ["0.10", "120", "1.0e6"]
    assert [percent(v) for v in (0.384, -0.042, 0.0003, 1e-9, float("nan"))] == [
        "38 %", "−4.2 %", "0.030 %", "< 0.001 %", "n/a"
    ]  # fmt: skip
    assert gap_words(1.2e-4, 3e-4) == "gap 1.2e−4, 0.030 % of the largest change"
    assert gap_words(0.0, float("nan")) == "gap 0"


def test_long_names_can_be_told_apart() -> None:
    assert short_names(["short", "a" * 60])[0] == "short" and len(short_names(["a" * 60])[0]) == path_axes.NAME
    start, end = "a rather long label that starts like the others, ", ", and ends like these: with_under_score"
    found = short_names([f"{start}{what}{end}" for what in ("cats", "dogs", "c" * 70, "c" * 71)])
    assert "cats" in found[0] and "dogs" in found[1]
    assert len(set(found)) == 4 and max(map(len, found)) <= path_axes.NAME + 4
    assert wrap("short") == "short"
    assert wrap("a rather long label_with_under_score") == "a rather long label_\nwith_under_score"
    for name in (*found, "x" * path_axes.NAME):
        lines = wrap(name).split("\n")
        assert len(lines) <= 2 and max(map(len, lines)) <= path_axes.LINE


def test_labels_are_apart_in_order_and_near_their_lines() -> None:
    places = spread([0.0, 0.01, 5.0, 0.02], 0.5, -1, 6)
    assert places[2] == 5.0 and np.argsort(places).tolist() == [0, 1, 3, 2]
    assert np.diff(sorted(places)).min() >= 0.5 - 1e-12
    assert spread([], 1, 0, 1) == [] and max(spread([0.5] * 9, 1, 0, 1)) <= 1


def test_a_direction_means_the_same_for_outputs_and_contributions() -> None:
    parts = ordinary()
    u = torch.randn(4, generator=torch.Generator().manual_seed(0))
    for direction in (None, 2, u):
        path = path_axes.outputs_along(parts, 1, direction)
        moved = path_axes.along(parts, 1, direction).sum()
        assert path[-1] - path[0] == pytest.approx(moved * 1.001, rel=1e-6)  # the gap is 0.1 %
