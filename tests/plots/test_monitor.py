"""Figures of monitors' logs: which there are; gaps, long runs, names that nobody knows, and alerts in them."""

from __future__ import annotations

import numpy as np
import pytest

from genkernel.monitor import Alert, Axis, Header, Reading, Trace
from genkernel.plots import to_bytes
from genkernel.plots.monitor import drawings, monitor_figures
from genkernel.plots.monitor_course import LONGEST, arrays_along, course, entries, relation, step_words, topics
from genkernel.plots.monitor_matrices import matrix_range, moments
from genkernel.plots.monitor_places import DECADES, relative_movement, unusual
from tests.plots import monitor_logs as logs


def test_figures_are_those_whose_numbers_are_there() -> None:
    assert list(monitor_figures(logs.denoiser(3))) == [
        "loss", "loss_by_level", "gradient", "gradient_cosine", "gradient_by_level", "kernel", "kernel_level",
        "time_by_level", "weights_moved", "weights_size", "health",
    ]  # fmt: skip
    assert list(monitor_figures(logs.gan(3))) == [
        "kernel_cluster", "samples", "samples_by_cluster", "discriminator", "transport_amplification",
        "transport_by_cluster", "driving_against_occupancy", "jacobian", "jacobian_by_singular_value", "weights_moved",
    ]  # fmt: skip
    assert list(monitor_figures(logs.classifier(3))) == [
        "loss", "loss_by_class", "kernel_class", "kernel_samples", "kernel_by_sample",
    ]  # fmt: skip
    assert monitor_figures(logs.denoiser(0)) == {}


@pytest.mark.parametrize("trace", [logs.gan(2), logs.classifier(1), logs.unknown(2)], ids=lambda t: t.header.kind)
def test_every_figure_draws_even_of_a_single_reading(trace: Trace) -> None:
    for draw in monitor_figures(trace).values():
        draw().draw_without_rendering()


def test_names_of_others_have_figures_and_files_of_their_own() -> None:
    found = {one.name: one for one in drawings(logs.unknown())}
    assert list(found) == ["other", "new", "attention_pairs", "attention_by_head"]
    assert found["other"].about == ("plain", "new_thing") and found["new"].about == ("new/thing",)
    trace = logs.unknown()
    assert arrays_along(trace, 1) == ["attention/entropy"]  # of an unknown axis, or of another shape: left out
    trace.header.arrays["a b"] = trace.header.arrays["a_b"] = ["head", "place"]
    trace.last.arrays.update({"a b": np.ones((3, 2)), "a_b": np.ones((3, 2))})
    assert {"a_b", "a_b_2"} <= set(monitor_figures(trace))


def test_gaps_stay_gaps_and_lonely_readings_are_seen() -> None:
    values = entries(logs.denoiser(4), "gradient/noise_scale")
    assert np.isnan(values[1, 1]) and np.isfinite(values[1, 0])
    (axes,) = monitor_figures(logs.denoiser())["gradient"]().axes[:1]
    assert np.isnan(axes.lines[0].get_ydata()[2])  # type: ignore[index]  # infinite: no point, and no infinite axis
    assert np.isfinite(axes.get_ylim()).all()


def test_long_runs_are_drawn_in_blocks_that_keep_their_extremes() -> None:
    trace = logs.denoiser(3 * LONGEST + 1)
    shown = course(trace)
    assert shown.each == 4 and len(shown.steps) <= LONGEST and len(shown.edges) == len(shown.steps) + 1
    spike = np.zeros(len(trace))
    spike[777] = 5.0
    middle, low, high = shown.reduce(spike)
    assert middle.max() == 0 and low.max() == 0 and high.max() == 5
    assert np.isnan(shown.reduce(np.full(len(trace), np.nan))[0]).all()
    assert "1,201 readings, in blocks of 4" in shown.note and course(logs.denoiser(3)).note == "3 readings"


def test_a_parameter_that_changes_its_pace_is_among_those_shown() -> None:
    trace = logs.denoiser()
    relative = relative_movement(entries(trace, "weights/moved"))
    assert relative[-1, 7] == pytest.approx(2.0) and relative[1, 7] == 0 and np.isnan(relative[0]).all()
    still = entries(trace, "weights/moved")
    still[:, 3] = 0
    assert relative_movement(still)[-1, 3] == -DECADES
    assert 7 in unusual(relative, 2) and len(unusual(relative, 2)) == 2 and unusual(relative[:, :2], 2) == [0, 1]


def test_ranges_of_matrices_are_fixed_where_they_are_cosines() -> None:
    cosines = np.array([[1.0, -0.1], [0.2, 0.9]])
    norm, _, extend = matrix_range("kernel/level", cosines)
    assert (norm.vmin, norm.vmax, extend) == (0, 1, "min")
    assert matrix_range("kernel/class", cosines - 0.5)[0].vmin == -1
    assert matrix_range("gradient/cosine", cosines)[0].vmin == -1
    assert matrix_range("transport/amplification", np.array([1e-9, 1.0]))[2] == "min"
    values = np.full((9, 2, 2), np.nan)
    values[[0, 2, 3, 8]] = 1
    assert moments(values, 3) == [0, 3, 8] and moments(values) == [0, 2, 3, 8]


def test_alerts_are_on_the_series_that_they_are_about() -> None:
    trace = logs.denoiser()
    spike, mine = trace.alerts
    assert relation(spike, "loss/level", trace) == "about" and relation(spike, "kernel/level", trace) == "no"
    assert relation(mine, "loss/mean", trace) == "perhaps"
    known = Alert("told time", "", 10, 0, ["t = 0"], "level")
    assert relation(known, "time/ratio", trace) == "about" and relation(known, "loss/level", trace) == "no"
    figure = monitor_figures(trace)["loss_by_level"]()
    left, right = figure.axes[:2]
    assert [patch.get_x() for patch in left.patches] == [30] and left.patches[0].get_width() == 20  # type: ignore[attr-defined]
    frames = [patch for patch in right.patches if patch.get_y() == 1.5]  # type: ignore[attr-defined]
    assert len(frames) == 2  # t = 600 is the third level, framed twice for contrast
    trace.alerts.clear()
    assert not monitor_figures(trace)["loss_by_level"]().axes[0].patches


def test_the_same_log_gives_the_same_bytes() -> None:
    for name in ("loss_by_level", "kernel_level"):
        one, two = (monitor_figures(logs.denoiser(4))[name]() for _ in range(2))
        assert to_bytes(one, "svg") == to_bytes(two, "svg")


def test_odd_traces() -> None:
    header = Header("flow", {"head": Axis("head", ["a"])}, {"x/one": ["head"]})
    blown = [Reading(k, 0.0, 0.0, {"y": (-1.0) ** k * 10.0**k}, {"x/one": np.array([np.nan])}) for k in range(9)]
    trace = Trace(header, blown)
    found = monitor_figures(trace)
    assert list(found) == ["other"]
    figure = found["other"]()
    assert figure.axes[0].get_yscale() == "symlog"
    assert topics(logs.denoiser(1))[-1] == "health"
    assert [step_words(step) for step in (400, 25_000, 1_500_000)] == ["400", "25k", "1.5M"]
