"""The rules of the verdict."""

from __future__ import annotations

import math

import pytest

from genkernel.gan import rules
from genkernel.gan.indicators import INDICATORS
from genkernel.gan.rules import COUNTING, VIEWS, judge, judge_values, kind_of, reference_ranges
from tests.gan.fake_result import collapsed_result, planar_result

KINDS = ["points", "images"]


def values(kind: str, **levels: str) -> dict[str, float]:
    """Values that say what they are told, for the indicators that count; by view."""
    known = reference_ranges()[kind]["indicators"]
    found = {}
    for name, view in COUNTING.items():
        (low, high), alarm, worse = known[name]["healthy"], known[name]["alarm"], INDICATORS[name].worse
        edge = high if worse > 0 else low
        found[name] = {
            "ok": (low + high) / 2,
            "watch": (edge + alarm) / 2,
            "collapsing": alarm + worse * 0.01 * (abs(alarm) + 1e-3),
            "missing": math.nan,
        }[levels.get(view, "ok")]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_study_has_a_range_and_a_threshold_for_whatever_counts(kind: str) -> None:
    known = reference_ranges()[kind]
    for name in COUNTING:
        low, high = known["indicators"][name]["healthy"]
        alarm = known["indicators"][name]["alarm"]
        assert low < high
        assert alarm >= high if INDICATORS[name].worse > 0 else alarm <= low
    assert "healthy and" in known["source"]


def has_room(kind: str) -> bool:
    """Whether there are values between the healthy range and the threshold."""
    known = reference_ranges()[kind]["indicators"]
    ends = [(known[n]["healthy"][INDICATORS[n].worse > 0], known[n]["alarm"]) for n in COUNTING]
    return not any(math.isclose(end, alarm) for end, alarm in ends)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("levels", "label"),
    [
        ({}, "ok"),
        ({"kernel": "collapsing"}, "watch"),
        ({"coverage": "collapsing"}, "watch"),
        ({"kernel": "watch"}, "watch"),
        ({"kernel": "collapsing", "coverage": "collapsing"}, "collapsing"),
        ({"kernel": "watch", "coverage": "collapsing"}, "collapsing"),
        ({"kernel": "watch", "coverage": "watch"}, "watch"),
        ({"coverage": "missing"}, "unknown"),
        ({"kernel": "collapsing", "coverage": "missing"}, "unknown"),
        ({"kernel": "missing", "coverage": "collapsing"}, "unknown"),
        ({"kernel": "missing", "coverage": "missing"}, "unknown"),
    ],
)
def test_two_views_make_a_verdict(kind: str, levels: dict[str, str], label: str) -> None:
    if "watch" in levels.values() and not has_room(kind):
        pytest.skip("the threshold is at the end of the healthy range: there is nothing between them")
    found = judge_values(values(kind, **levels), kind)
    assert found.label == label
    assert found.reasons


def test_what_is_better_than_any_healthy_run_is_ok() -> None:
    assert judge_values({**values("points"), "recall": 1.0, "kernel_mean": 0.0}, "points").label == "ok"


def test_what_was_not_given_is_named() -> None:
    found = judge_values({"kernel_mean": 0.1}, "points", lack=["real samples or known modes"])
    assert found.label == "unknown"
    assert "give real samples or known modes" in found.reasons[0]


def test_samples_of_another_kind_have_no_ranges() -> None:
    assert kind_of([2]) == "points" and kind_of([3, 64, 64]) == "images"
    assert kind_of([100]) is None and kind_of([8, 8]) is None
    found = judge_values(values("points"), None)
    assert found.label == "unknown" and "no ranges" in found.reasons[0]


def test_half_of_the_modes_missing_is_a_collapse_whatever_the_kernel_says() -> None:
    result = collapsed_result()
    assert result.coverage.modes is not None and result.coverage.modes.covered <= 4
    found = judge(result)
    assert found.label == "collapsing" and "share of the modes covered" in found.reasons[0]
    assert [e.name for e in found.evidence] == [*INDICATORS, "modes_covered"]


def test_every_indicator_is_evidence_and_only_some_count() -> None:
    found = judge(planar_result())
    counting = {e.name for e in found.evidence if e.counts}
    assert counting == {*COUNTING, "modes_covered"}
    assert set(COUNTING.values()) == set(VIEWS)
    assert all(e.source for e in found.evidence)


def test_the_ranges_are_those_of_the_package() -> None:
    rules.reference_ranges.cache_clear()
    assert set(rules.reference_ranges()) == set(KINDS)
