"""Numbers as text, and ticks where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from genkernel.plots.style import level_ticks, nice_ticks, number, pair


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.4123, 0.0213, "0.412 ± 0.021"),
        (0.4123, 0.05, "0.41 ± 0.05"),
        (-0.0001, 0.015, "0.000 ± 0.015"),
        (-0.25, 0.1, "−0.25 ± 0.10"),
        (123.4, 12.0, "123 ± 12"),
        (0.5, 0.0, "0.5"),
        (0.5, float("nan"), "0.5"),
        (float("nan"), 0.1, "n/a"),
        (3.0, None, "3"),
    ],
)
def test_a_value_has_the_digits_its_error_deserves(value: float, stderr: float | None, text: str) -> None:
    assert pair(value, stderr) == text


def test_numbers_have_a_true_minus_sign() -> None:
    assert number(-2.50) == "−2.5"


def test_nice_ticks_stay_inside() -> None:
    ticks = nice_ticks(0, 999, 5)
    assert ticks.min() >= 0 and ticks.max() <= 999 and len(ticks) >= 3


def test_ticks_of_a_falling_coordinate_fall_on_its_levels() -> None:
    log_snr = np.array([9.0, 5.0, 0.0, -5.0, -10.0])
    at, names = level_ticks(log_snr, np.arange(5.0))
    assert dict(zip(names, at, strict=True))["0"] == pytest.approx(2.0)
    assert dict(zip(names, at, strict=True))["−5"] == pytest.approx(3.0)
    assert "10" not in names  # no level is that clean


def test_last_of_a_thousand_timesteps_is_labelled_1000() -> None:
    _, names = level_ticks(np.linspace(0, 999, 12), np.arange(12.0))
    assert names[-1] == "1000"


def test_crowded_ticks_are_thinned_out() -> None:
    steep = np.concatenate([[10.0, 8.0, 6.0, 4.0], np.linspace(3, 2.9, 30)])
    at, _ = level_ticks(steep, np.arange(34.0), count=10)
    assert (np.diff(at) >= 0.07 * 33).all()
