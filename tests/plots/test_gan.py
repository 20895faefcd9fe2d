"""GAN figures: what is drawn is what the result says, all of it on the canvas, on fixed ranges, with a footer."""

from __future__ import annotations

import copy
import functools
import json
import math
import warnings
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.quiver import Quiver, QuiverKey

from genkernel.errors import InputError
from genkernel.gan.results import GanResult
from genkernel.plots import (
    amplification_matrix,
    gan_figures,
    gan_style,
    one_step_error,
    plane,
    sample_sheet,
    score_field,
    singular_value_fan,
    style,
    to_bytes,
    transport_field,
)
from genkernel.runs.codec import pack, unpack
from tests.gan.fake_result import (
    LATENTS,
    alone_result,
    collapsed_result,
    image_result,
    many_result,
    planar_result,
)

PLANAR = ["kernel", "spectrum", "amplification", "transport", "score", "occupancy", "one_step", "kernel_spectrum"]
NAMES = ["samples", *PLANAR]


def awkward() -> GanResult:
    """Long names, a class of each kind of trouble, and numbers that do not exist."""
    result = copy.deepcopy(image_result())
    result.clusters.names = ["T-shirt/top", "a pair of trousers", "x", "ankle boot with laces"]
    result.meta["generator"]["name"] = "a-generator-with-quite-a-long-name/that-somebody-gave-it-on-a-hub"
    result.meta["preconditioner"] = "given"
    jacobian = result.jacobian
    jacobian.singular_values[:, -1] = 0.0
    jacobian.rank[:] = jacobian.singular_values.shape[1] - 1
    jacobian.condition_number[:] = math.inf
    jacobian.singular_values[:3], jacobian.rank[:3], jacobian.log_volume[:3] = 0.0, 0, -math.inf
    result.kernel.effective_rank_stderr = result.kernel.mean_off_diagonal_stderr = math.nan
    assert result.transport is not None
    result.transport.axial_coherence = math.nan
    result.transport.fresh_share = None
    first, second = result.one_step
    first.errors[:], first.ratios[:], first.movement[:] = math.nan, math.nan, 0.0
    second.errors[-1], second.ratios[-1] = 0.0, math.inf
    return result


def one_cluster() -> GanResult:
    """All latents in one cluster, of a single latent dimension that the samples ignore."""
    result = copy.deepcopy(alone_result())
    result.clusters.names, result.clusters.occupancy, result.clusters.by = ["all"], np.ones(1), "one cluster"
    result.clusters.labels = np.zeros(LATENTS, dtype=np.int64)
    result.kernel.by_cluster = result.kernel.by_cluster[:1, :1]
    jacobian = result.jacobian
    jacobian.singular_values = np.zeros((len(jacobian.latents), 1))
    jacobian.condition_number, jacobian.log_volume = (np.full(len(jacobian.latents), v) for v in (math.inf, -math.inf))
    jacobian.rank = np.zeros(len(jacobian.latents), dtype=np.int64)
    return result


def recognised() -> GanResult:
    """A classifier that sees other classes than those that were asked for, one of them empty."""
    result = copy.deepcopy(image_result())
    assert result.per_cluster is not None
    result.per_cluster.recognised = np.array([0.5, 0.2, 0.3, 0.0])
    result.clusters.occupancy = np.array([0.4, 0.3, 0.3, 0.0])
    return result


RESULTS: dict[str, Callable[[], GanResult]] = {
    "planar": planar_result,
    "collapsed": collapsed_result,
    "many": many_result,
    "images": image_result,
    "alone": alone_result,
    "awkward": awkward,
    "one cluster": one_cluster,
    "recognised": recognised,
}
CASES = [
    (make, name)
    for make, missing in {
        "planar": ("samples",),
        "collapsed": ("samples", "one_step"),
        "many": ("samples", "one_step", "score"),
        "images": ("transport", "score"),
        "alone": ("samples", "amplification", "transport", "score", "one_step"),
        "awkward": ("transport", "score"),
        "one cluster": ("samples", "amplification", "transport", "score", "one_step"),
        "recognised": ("transport", "score"),
    }.items()
    for name in NAMES
    if name not in missing
]


@functools.cache
def drawn(make: str, name: str) -> Figure:
    return gan_figures(RESULTS[make]())[name]()


def words(figure: Figure) -> str:
    """Everything that is written on a figure."""
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    labels = [axes.get_xlabel() + " " + axes.get_ylabel() + " " + axes.get_title(loc="left") for axes in figure.axes]
    return "\n".join([text.get_text() for text in texts] + labels)


def bars(axes: Axes) -> np.ndarray:
    return np.array([[bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()] for bar in axes.patches])


# ------------------------------------------------------------------------------- every figure


def test_figures_come_in_reading_order_and_only_those_that_can_be_filled() -> None:
    assert list(gan_figures(planar_result())) == PLANAR
    assert list(gan_figures(image_result())) == [name for name in NAMES if name not in ("transport", "score")]
    assert list(gan_figures(many_result())) == [name for name in PLANAR if name not in ("one_step", "score")]
    assert list(gan_figures(alone_result())) == ["kernel", "spectrum", "occupancy", "kernel_spectrum"]
    for draw in (amplification_matrix, one_step_error, transport_field, score_field, sample_sheet):
        with pytest.raises(InputError, match="this result has no"):
            draw(alone_result())


@pytest.mark.parametrize(("make", "name"), CASES)
def test_everything_is_on_the_canvas_and_nothing_warns(make: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = drawn(make, name)
        figure.canvas.draw()
        box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    margin = 0.03  # inches
    assert box.x0 > -margin and box.y0 > -margin and box.x1 < width + margin and box.y1 < height + margin, box


@pytest.mark.parametrize("name", PLANAR)
def test_footer_says_how_it_was_made(name: str) -> None:
    footer = words(drawn("planar", name))
    latents = {"spectrum": "n = 16 latents", "one_step": "n = 48 latents"}.get(name, "n = 48 latents")
    how = {"kernel": "exact trace", "kernel_spectrum": "exact trace", "spectrum": "exact σ"}.get(name, "no probes")
    for part in ("ring MLP", latents, how, "seed 0", "float64"):
        assert part in footer
    if name.startswith("kernel"):
        assert "3 probes" in words(drawn("images", name))
    if name in ("amplification", "transport", "score", "occupancy"):
        assert "non-saturating loss" in footer


@pytest.mark.parametrize("name", PLANAR)
def test_axes_are_labelled_with_what_they_measure(name: str) -> None:
    figure = drawn("planar", name)
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes)
    what = {
        "kernel": "cosine of tangent features",
        "spectrum": "log-volume Σ ln σ\n(nats)",
        "amplification": "per unit of learning rate",
        "transport": "x₁",
        "score": "cosine between ∇l and s",
        "occupancy": "share (%)",
        "one_step": "step size η",
        "kernel_spectrum": "eigenvalue λ / Σλ",
    }
    assert what[name] in labels


def test_the_result_and_the_settings_of_the_user_stay_as_they_are() -> None:
    before, result = dict(matplotlib.rcParams), planar_result()
    summary = copy.deepcopy(result.to_summary())
    points = result.points.copy()  # type: ignore[union-attr]
    for name in ("transport", "score"):
        pictures = [to_bytes(gan_figures(result)[name](), "png") for _ in range(2)]
        assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before and result.to_summary() == summary
    np.testing.assert_array_equal(result.points, points)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        ("awkward", "spectrum"),
        ("one cluster", "spectrum"),
        ("images", "kernel"),
        ("planar", "score"),
        ("planar", "occupancy"),
    ],
)
def test_a_result_that_was_written_and_read_draws_the_same(make: str, name: str) -> None:
    result = RESULTS[make]()
    read = unpack(GanResult, json.loads(json.dumps(pack(result))))  # infinity is null in between
    assert to_bytes(gan_figures(read)[name](), "png") == to_bytes(gan_figures(result)[name](), "png")


# ---------------------------------------------------------------------------------- the kernel


def test_kernel_is_ordered_by_cluster_with_a_strip_as_long_as_each_has_latents() -> None:
    result = planar_result()
    axes, strip, between, _ = drawn("planar", "kernel").axes
    order = np.argsort(result.clusters.labels, kind="stable")
    np.testing.assert_array_equal(axes.images[0].get_array(), result.kernel.normalized[order][:, order])
    sizes = np.bincount(result.clusters.labels, minlength=8)
    np.testing.assert_array_equal(bars(strip)[:, 3], sizes)
    inner = np.cumsum(sizes)[:-1]
    across = {float(np.asarray(line.get_xdata())[0]) for line in axes.lines}
    assert set(np.unique(inner[(inner > 0) & (inner < LATENTS)])) <= across
    np.testing.assert_array_equal(between.images[0].get_array().filled(np.nan), result.kernel.by_cluster)
    named = {label.get_text(): at for label, at in zip(strip.get_yticklabels(), strip.get_yticks(), strict=True)}
    assert all(sizes[int(name)] > 0 for name in named)
    for name, at in named.items():
        assert at == np.cumsum(sizes)[int(name)] - sizes[int(name)] / 2


def test_cosines_have_one_fixed_range() -> None:
    result = copy.deepcopy(planar_result())
    result.kernel.normalized *= 0.1  # a small kernel does not stretch its colours
    result.kernel.by_cluster *= 0.1
    images = [image for axes in gan_figures(result)["kernel"]().axes for image in axes.images]
    assert len(images) == 2 and {image.get_clim() for image in images} == {(-1, 1)}
    assert {image.get_cmap().name for image in images} == {style.DIVERGING}


def test_eigenvalues_are_shares_with_the_effective_rank_and_what_rounding_hides() -> None:
    result = copy.deepcopy(planar_result())
    values = result.kernel.eigenvalues = np.array([*np.linspace(9, 1, 20), *np.full(5, 1e-17), -1e-15])
    figure = gan_figures(result)["kernel_spectrum"]()
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values[:20] / values.sum())
    assert [1 / 26] * 2 in [list(np.asarray(line.get_ydata())) for line in axes.lines]
    assert [result.kernel.effective_rank] * 2 in [list(np.asarray(line.get_xdata())) for line in axes.lines]
    assert "6 within rounding" in words(figure)


def test_an_effective_rank_from_probes_has_its_error() -> None:
    kernel = image_result().kernel
    assert kernel.effective_rank_stderr > 0
    assert f"{style.pair(kernel.effective_rank, kernel.effective_rank_stderr)} of 24" in words(
        drawn("images", "kernel_spectrum")
    )


# --------------------------------------------------------------------------- latent Jacobians


def test_fan_has_the_median_over_latents_and_those_of_clusters() -> None:
    result = planar_result()
    values, labels = result.jacobian.singular_values, result.clusters.labels[result.jacobian.latents]
    fan = drawn("planar", "spectrum").axes[0]
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in fan.lines]
    np.testing.assert_allclose(lines[-1], np.median(values, axis=0))
    for line, c in zip(lines, np.unique(labels), strict=False):
        np.testing.assert_allclose(line, np.median(values[labels == c], axis=0))
    assert fan.get_yscale() == "log"


def test_clusters_have_their_medians_and_every_latent_a_dot() -> None:
    result = planar_result()
    _, upper, lower = drawn("planar", "spectrum").axes
    for axes, name in ((upper, "condition_number"), (lower, "log_volume")):
        dots, medians = axes.collections
        np.testing.assert_allclose(np.sort(dots.get_offsets()[:, 1]), np.sort(getattr(result.jacobian, name)))
        expected = getattr(result.jacobian_by_cluster, name)
        heights = [path.vertices[0, 1] for path in medians.get_paths()]
        np.testing.assert_allclose(heights, expected[np.isfinite(expected)])


def test_infinite_condition_numbers_are_counted_on_the_edge() -> None:
    result = copy.deepcopy(planar_result())
    labels = result.clusters.labels[result.jacobian.latents]
    first = labels[0]
    result.jacobian.condition_number[labels == first], result.jacobian.rank[labels == first] = math.inf, 1
    upper = gan_figures(result)["spectrum"]().axes[1]
    marks = [line for line in upper.lines if line.get_marker() == "^"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in marks] == [first]
    assert f"∞ ×{(labels == first).sum()}" in [text.get_text() for text in upper.texts]


@pytest.mark.parametrize(("smallest", "marked"), [(1e-3, False), (1e-16, True)])
def test_noise_of_the_run_is_marked_where_singular_values_come_near_it(smallest: float, marked: bool) -> None:
    result = copy.deepcopy(planar_result())
    result.jacobian.singular_values[:] = [1.0, smallest]
    figure = singular_value_fan(result)
    fan = figure.axes[0]
    noise = np.finfo(np.float64).eps * math.sqrt(2)
    at = [float(np.asarray(line.get_ydata())[0]) for line in fan.lines if line.get_linestyle() == "--"]
    assert at == pytest.approx([noise] if marked else [])
    assert ("far below, at $3" in words(figure)) is not marked and "noise of float64" in words(figure)
    assert fan.get_ylim()[0] <= smallest


# ------------------------------------------------------------------------------ amplification


def test_rows_drive_and_columns_receive() -> None:
    result = planar_result()
    moved = result.transport
    assert moved is not None
    figure = drawn("planar", "amplification")
    axes, _, upper, right = figure.axes
    drives = result.clusters.occupancy > 0
    shown = axes.images[0].get_array().filled(np.nan)
    np.testing.assert_array_equal(shown[drives], moved.matrix[drives])
    assert np.isnan(shown[~drives]).all() and axes.images[0].get_clim() == (0, np.nanmax(moved.matrix))
    np.testing.assert_allclose(bars(upper)[:, 3], 100 * result.clusters.occupancy)
    np.testing.assert_allclose(bars(right)[:, 2], 100 * moved.share)
    ticks = [path.vertices[0, 0] for path in right.collections[0].get_paths()]
    np.testing.assert_allclose(ticks, 100 * result.clusters.occupancy[drives])
    assert "driving mode" in axes.get_ylabel() and "receiving mode" in axes.get_xlabel()
    assert axes.yaxis_inverted() and right.yaxis_inverted()  # the first driver on top of both


def test_the_scalars_stand_beside_the_matrix() -> None:
    moved = planar_result().transport
    assert moved is not None
    written = [text.get_text() for text in drawn("planar", "amplification").texts]
    expected = {
        "effective number of\ndriving clusters": f"{moved.effective_clusters:.3g} of 8",
        "driving dominance": f"{moved.driving_dominance:.2f}",
        "occupancy dominance": f"{moved.occupancy_dominance:.2f}",
        "axial coherence\nof updates": f"{moved.axial_coherence:.2f}",
        "the same of isotropic\ndirections (null)": f"{moved.axial_null:.2f}",
    }
    for name, value in expected.items():
        assert written[written.index(name) + 1] == value


def test_few_entries_far_beyond_the_others_do_not_darken_a_large_matrix() -> None:
    result = copy.deepcopy(many_result())
    moved = result.transport
    assert moved is not None
    moved.matrix[:] = np.where(np.isnan(moved.matrix), np.nan, 1.0)
    c = int(np.argmax(result.clusters.occupancy))
    moved.matrix[c, c] = 50.0
    (image,) = amplification_matrix(result).axes[0].images
    assert image.get_clim() == (0, 1.0) and image.colorbar.extend == "max"
    (image,) = drawn("planar", "amplification").axes[0].images
    assert image.colorbar.extend == "neither"


# ---------------------------------------------------------------------------------- transport


def fields(figure: Figure) -> list[tuple[Axes, Quiver]]:
    return [(axes, part) for axes in figure.axes for part in axes.collections if isinstance(part, Quiver)]


def test_arrows_are_the_updates_by_all_and_by_the_strongest_drivers() -> None:
    result = planar_result()
    moved, points, updates = result.transport, result.points, result.point_updates
    assert moved is not None and points is not None and updates is not None
    (main, total), *small = fields(drawn("planar", "transport"))
    np.testing.assert_allclose(np.stack([total.U, total.V], 1), updates.sum(0))
    np.testing.assert_array_equal(total.XY, points)
    drivers = np.argsort(-moved.share, kind="stable")[: len(small)]
    assert len(small) == min(8, (moved.share > 0).sum())
    for (axes, arrows), c in zip(small, drivers, strict=True):
        np.testing.assert_allclose(np.stack([arrows.U, arrows.V], 1), updates[c])
        assert axes.get_title(loc="left") == f"mode {c}  {gan_style.percent(moved.share[c])}"
        coloured = [
            part.get_offsets()
            for part in axes.collections
            if not isinstance(part, Quiver) and tuple(part.get_facecolor()[0][:3]) == to_rgba(gan_style.color(c))[:3]
        ]
        np.testing.assert_array_equal(np.concatenate(coloured), points[result.clusters.labels == c])
    assert {axes.get_aspect() for axes, _ in fields(drawn("planar", "transport"))} == {1.0}
    assert {(axes.get_xlim(), axes.get_ylim()) for axes, _ in small} == {(main.get_xlim(), main.get_ylim())}


def test_arrows_of_all_small_panels_have_one_scale_and_keys_say_how_long_they_are() -> None:
    figure = drawn("planar", "transport")
    (main, total), *small = fields(figure)
    assert len({arrows.scale for _, arrows in small}) == 1
    keys = [part for axes in figure.axes for part in axes.artists if isinstance(part, QuiverKey)]
    assert [key.Q for key in keys] == [total, small[0][1]]
    for key, by in zip(keys, ("all", "one"), strict=True):
        assert key.label == f"‖U‖ = {gan_style.power(key.U)} by {by}"
    for axes, arrows in ((main, total), small[0]):  # a long arrow is 13 % of its panel
        width = axes.get_xlim()[1] - axes.get_xlim()[0]
        lengths = np.hypot(arrows.U, arrows.V) / arrows.scale / width
        assert 0 < np.quantile(lengths, 0.95) <= 0.14 and lengths.max() < 0.3


def test_at_most_eight_drivers_are_drawn_and_other_names_are_counted() -> None:
    figure = drawn("many", "transport")
    assert len(fields(figure)) == 9
    assert "and 88 others" in words(figure)


def marked(axes: Axes) -> np.ndarray:
    """The places of known modes on axes."""
    (crosses,) = [line for line in axes.lines if line.get_marker() == "+"]
    return np.asarray(crosses.get_xydata())


@pytest.mark.parametrize("name", ["transport", "score", "occupancy"])
def test_known_modes_are_drawn_in_their_places_with_their_widths(name: str) -> None:
    result = collapsed_result()  # whose samples lie beside one mode only
    assert result.modes is not None and result.mode_std is not None
    figure = drawn("collapsed", name)
    maps = {"transport": figure.axes, "score": figure.axes[:4], "occupancy": figure.axes[1:]}[name]
    for axes in maps:
        np.testing.assert_array_equal(marked(axes), result.modes)
        circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
        assert [circle.get_radius() for circle in circles] == pytest.approx(plane.NEAR * result.mode_std)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert ((result.modes > [left, bottom]) & (result.modes < [right, top])).all()


def test_modes_of_unknown_width_have_no_circles_and_others_are_not_drawn() -> None:
    axes = drawn("many", "transport").axes[0]
    assert len(marked(axes)) == 100 and not [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert len(drawn("alone", "occupancy").axes) == 1


# ------------------------------------------------------------------------------------ scores


def test_arrows_are_attraction_repulsion_their_sum_and_the_drive() -> None:
    result = planar_result()
    found, points = result.score, result.points
    assert found is not None and found.fields is not None and points is not None
    figure = drawn("planar", "score")
    first, second, both, shown = [arrows for _, arrows in fields(figure)]
    attraction, repulsion = found.fields.attraction, found.fields.repulsion
    assert first.scale == second.scale == both.scale
    for arrows, vectors in ((first, attraction), (second, -repulsion), (both, attraction - repulsion)):
        drawn_lengths, lengths = np.hypot(arrows.U, arrows.V), np.linalg.norm(vectors, axis=1)
        cosines = (arrows.U * vectors[:, 0] + arrows.V * vectors[:, 1]) / (drawn_lengths * lengths)
        np.testing.assert_allclose(cosines, 1, atol=1e-9)
        longest = drawn_lengths.max()
        np.testing.assert_allclose(drawn_lengths, np.minimum(lengths, max(longest, 0)), rtol=1e-9)
        np.testing.assert_array_equal(arrows.XY, points)
    np.testing.assert_array_equal(shown.get_array(), found.per_sample)
    assert shown.get_clim() == (-1, 1)
    (key, other) = [part for axes in figure.axes for part in axes.artists if isinstance(part, QuiverKey)]
    assert key.label.startswith("‖s‖ = ") and other.label.startswith("‖δ‖ = ")


def test_cosines_stand_beside_what_is_attainable() -> None:
    found = planar_result().score
    assert found is not None
    figure = drawn("planar", "score")
    axes = figure.axes[4]
    assert bars(axes)[:, 3].sum() == pytest.approx(100) and axes.get_xlim() == (-1, 1)
    assert [float(np.asarray(line.get_xdata())[0]) for line in axes.lines] == [found.cosine, found.attainable]
    assert f"attainable {style.pair(found.attainable, found.attainable_std)}" in words(figure)
    assert "no score difference" not in words(figure)


def test_a_critic_is_said_to_show_no_score_difference() -> None:
    result = copy.deepcopy(planar_result())
    assert result.score is not None
    result.score.density_ratio = False
    assert "∇l is no score difference" in words(score_field(result))
    result.score.per_sample[:], result.score.cosine = np.nan, math.nan
    figure = score_field(result)
    figure.canvas.draw()
    assert "no cosine" in words(figure)


# --------------------------------------------------------------------------------- occupancy


def test_occupancy_has_the_shares_of_drive_and_crosses_at_empty_modes() -> None:
    result = collapsed_result()
    moved, occupancy = result.transport, result.clusters.occupancy
    assert moved is not None and moved.fresh_share is not None
    empty = np.flatnonzero(occupancy == 0)
    assert len(empty) >= 4
    figure = drawn("collapsed", "occupancy")
    axes = figure.axes[0]
    np.testing.assert_allclose(bars(axes)[:, 3], 100 * occupancy)
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["empty mode"].get_xdata(), empty)
    for label, share in (("share of drive", moved.share), ("on fresh latents", moved.fresh_share)):
        np.testing.assert_array_equal(lines[label].get_xdata(), np.flatnonzero(occupancy))
        np.testing.assert_allclose(lines[label].get_ydata(), 100 * share[occupancy > 0])
    assert f"{len(empty)} of 8 empty: missing modes" in words(figure)
    counted = result.coverage.modes
    assert counted is not None and f"counted: {counted.covered} of 8 covered" in words(figure)


def test_what_a_classifier_recognises_stands_beside_what_was_asked_for() -> None:
    result = recognised()
    assert result.per_cluster is not None
    lines = {line.get_label(): line for line in drawn("recognised", "occupancy").axes[0].lines}
    np.testing.assert_allclose(lines["recognised"].get_ydata(), 100 * result.per_cluster.recognised)
    assert "recognised" not in {line.get_label() for line in drawn("images", "occupancy").axes[0].lines}


def test_modes_in_the_plane_have_discs_of_the_area_of_their_occupancy() -> None:
    result = collapsed_result()
    occupancy, modes = result.clusters.occupancy, result.modes
    assert modes is not None
    _, plan = drawn("collapsed", "occupancy").axes
    _, discs = plan.collections
    np.testing.assert_allclose(discs.get_offsets(), modes[occupancy > 0])
    np.testing.assert_allclose(discs.get_sizes() / discs.get_sizes().sum(), occupancy[occupancy > 0])
    (crosses,) = [line for line in plan.lines if line.get_marker() == "x"]
    np.testing.assert_array_equal(np.asarray(crosses.get_xydata()), modes[occupancy == 0])


def test_occupancy_alone_without_a_discriminator() -> None:
    figure = drawn("alone", "occupancy")
    assert {line.get_label() for line in figure.axes[0].lines} == {"equal shares"}
    assert "k-means, 3 clusters" in words(figure) and "drive" not in words(figure)


# ---------------------------------------------------------------------------------- one step


def test_the_sheet_has_a_row_of_images_for_each_cluster() -> None:
    result = image_result()
    assert result.sheet is not None
    pictures = [image.get_array() for image in drawn("images", "samples").axes[0].images]
    assert len(pictures) == sum(result.sheet.counts) == LATENTS / 2
    ticks = [text.get_text() for text in drawn("recognised", "samples").axes[0].get_yticklabels()]
    assert ticks[0].startswith("0") and ticks[0].endswith("40 %")


def test_errors_of_every_optimizer_stand_beside_a_line_of_slope_one() -> None:
    result = planar_result()
    figure = drawn("planar", "one_step")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["SGD", "Adam"]
    for axes, step in zip(figure.axes, result.one_step, strict=True):
        guide, errors = axes.lines
        np.testing.assert_array_equal(errors.get_xdata(), step.etas)
        np.testing.assert_array_equal(errors.get_ydata(), step.errors)
        slope = np.polyfit(np.log(guide.get_xdata()), np.log(guide.get_ydata()), 1)[0]
        assert slope == pytest.approx(1) and np.asarray(guide.get_ydata())[0] == pytest.approx(step.errors[0])
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert ", ".join(f"{ratio:.1f}" for ratio in step.ratios) in axes.texts[0].get_text()


def test_buffers_are_a_horizontal_line_against_the_movement_of_a_step() -> None:
    figure = drawn("images", "one_step")
    assert len(figure.axes) == 4 and "dashed: buffers alone" in words(figure)
    for axes, step in zip(figure.axes[2:], image_result().one_step, strict=True):
        movement, buffers = axes.lines
        np.testing.assert_array_equal(movement.get_ydata(), step.movement)
        assert list(np.asarray(buffers.get_ydata())) == [step.buffers] * 2
    assert len(drawn("planar", "one_step").axes) == 2


# ------------------------------------------------------------------------------- house rules


def test_names_lose_the_word_that_they_share() -> None:
    assert gan_style.short_names(planar_result()) == ([str(k) for k in range(8)], "mode")
    names, word = gan_style.short_names(awkward())
    assert names == ["T-shirt…", "a pair …", "x", "ankle b…"] and word == "cluster"
    assert gan_style.kind(image_result(), plural=True) == "classes"


def test_labels_that_are_close_give_way_to_the_weightier() -> None:
    assert gan_style.apart([0, 1, 2, 10], [1, 5, 2, 0], 1.5) == [1]
    assert gan_style.apart([0, 1, 2, 10], [3, 1, 2, 1], 1.5) == [0, 2, 3]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.0004, "< 0.1 %"), (0.0213, "2.1 %"), (0.0999, "10 %"), (1.0, "100 %"), (math.nan, "n/a")],
)
def test_shares_have_two_digits(share: float, text: str) -> None:
    assert gan_style.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.002, "0.002"), (500, "500"), (2e-5, r"$2\times10^{-5}$"), (1e-7, "$10^{-7}$")]
)
def test_numbers_of_logarithmic_axes(value: float, text: str) -> None:
    assert gan_style.power(value) == text


@pytest.mark.parametrize(
    ("limits", "ticks"),
    [
        ((0.9, 25), [1, 2, 5, 10, 20]),
        ((0.9, 150), [1, 3, 10, 30, 100]),
        ((2.3, 2.9), [2.3, 2.9]),
    ],
)
def test_short_logarithmic_axes_have_ticks_that_can_be_read(limits: tuple[float, float], ticks: list[float]) -> None:
    axes = Figure().subplots()
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    gan_style.log_ticks(axes, "y")
    assert list(axes.get_yticks()) == pytest.approx(ticks)
    assert [label.get_text() for label in axes.get_yticklabels()] == [style.number(tick) for tick in ticks]
