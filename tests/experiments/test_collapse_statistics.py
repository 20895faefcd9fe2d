"""The statistics of the collapse study, on runs that are written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from genkernel.errors import InputError
from genkernel.experiments.collapse import statistics
from genkernel.experiments.collapse.study import evaluate, ranges, table


def run(
    held: list[float], values: list[float], *, seed: int = 0, role: str = "report", recipe: str = "a"
) -> dict[str, Any]:
    """A run on eight modes with one indicator; occupancy is what is not held."""
    rows = [
        {
            "step": 100 * k,
            "modes": 8,
            "held": 8 * h,
            "d_loss": None if k == 0 else 1.0,
            "g_loss": None if k == 0 else 1.0,
            "indicators": {"raw_coherence": v, "occupancy_dominance": 1 - h},
        }
        for k, (h, v) in enumerate(zip(held, values, strict=True))
    ]
    return {"data": "ring", "recipe": "a", "seed": seed, "role": role, "diverged": None, "rows": rows}


def healthy(level: float = 0.1, **more: Any) -> dict[str, Any]:
    wave = [level + 0.01 * (k % 5) for k in range(30)]
    return run([1.0] * 30, wave, **more)


def losing(at: int = 20, early: int = 3, **more: Any) -> dict[str, Any]:
    """Loses its modes at one copy; the indicator rises a few copies before."""
    held = [1.0] * at + [0.125] * (30 - at)
    return run(held, [0.1] * (at - early) + [0.8] * (30 - at + early), **more)


def collapsed(**more: Any) -> dict[str, Any]:
    return run([0.125] * 30, [0.8] * 30, **more)


def test_what_is_infinite_is_worst_and_not_left_out() -> None:
    """A generator whose ∂G/∂z is singular has an infinite condition number, which JSON holds as null."""
    runs = [healthy(seed=k) for k in range(4)] + [collapsed(seed=k) for k in range(4)]
    for k, one in enumerate(runs):
        for row in one["rows"]:
            row["indicators"]["condition_number"] = None if k >= 5 else 1.0 + k
    assert statistics.values(runs[-1], "condition_number")[0] == math.inf
    found = statistics.area(*statistics.at_the_end(runs, "condition_number", 1), draws=0)
    assert found.value == 1.0 and found.positives == 4
    threshold = statistics.end_threshold(runs, "condition_number", 1)
    assert 4 < threshold < math.inf
    assert statistics.accuracy(runs, "condition_number", 1, threshold) == (1.0, 1.0)


def test_outcomes() -> None:
    assert statistics.outcome(healthy()) == "healthy"
    assert statistics.outcome(collapsed()) == "collapsed"
    assert statistics.outcome(run([0.75] * 30, [0.0] * 30)) == "partial"
    assert statistics.outcome({**healthy(), "diverged": "a loss is not finite"}) == "diverged"


def test_a_drop_is_a_loss_that_lasts() -> None:
    assert statistics.drop(losing(at=20)) == 20
    assert statistics.drop(healthy()) is None
    assert statistics.drop(collapsed()) is None  # nothing was ever held
    swinging = [1.0] * 9 + [0.25, 1.0, 1.0] * 7
    assert statistics.drop(run(swinging, [0.0] * 30)) is None


def test_area_is_the_share_of_pairs_in_order() -> None:
    scores = [np.array([v]) for v in (0.1, 0.4, 0.35, 0.8)]
    marks = [np.array([m]) for m in (False, False, True, True)]
    assert statistics.area(scores, marks).value == pytest.approx(0.75)
    found = statistics.area([np.array([math.nan, 1.0])], [np.array([True, False])])
    assert math.isnan(found.value) and (found.positives, found.negatives) == (0, 1)


def test_matching_everything_is_the_area_between_runs() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=1) for _ in range(40)]
    marks = [np.array([k % 2 == 0]) for k in range(40)]
    match = [np.zeros(1)] * 40
    found = statistics.matched_area(scores, marks, match, draws=10)
    assert found.value == pytest.approx(statistics.area(scores, marks, draws=0).value)


def test_matching_takes_away_what_the_occupancy_says() -> None:
    """A score that is a noisy copy of the occupancy separates, and does not at equal occupancy."""
    rng = np.random.default_rng(1)
    marks = [np.array([k % 2 == 0]) for k in range(200)]
    match = [np.array([0.3 * m[0] + rng.uniform(0, 0.7)]) for m in marks]
    scores = [x + 0.01 * rng.normal(size=1) for x in match]
    assert statistics.area(scores, marks, draws=0).value > 0.7
    assert abs(statistics.matched_area(scores, marks, match, width=0.01, draws=0).value - 0.5) < 0.1


def test_ahead_looks_at_copies_that_still_hold_their_modes() -> None:
    scores, marks, _ = statistics.ahead([losing(at=20), healthy()], "raw_coherence", 1)
    # five copies lie within 500 steps before the drop; those 500 to 1000 before it are left out
    assert int(marks[0].sum()) == 5 and len(marks[0]) == 10
    ties = 2 / 5 * (9 / 2) / 25  # two of the five tie with nine of the others
    assert statistics.area(scores, marks, draws=0).value == pytest.approx(3 / 5 + ties)
    assert not marks[1].any() and len(marks[1]) == 30 - 5 - 5


def test_thresholds() -> None:
    runs = [healthy(), healthy(0.2), collapsed(), collapsed()]
    cut = statistics.end_threshold(runs, "raw_coherence", 1)
    assert 0.24 < cut < 0.8
    assert statistics.accuracy(runs, "raw_coherence", 1, cut) == (1.0, 1.0)
    limit = statistics.alarm_threshold(runs, "raw_coherence", 1)
    assert 0.23 < limit <= 0.24 + 1e-9


def test_an_alarm_needs_three_copies_in_a_row() -> None:
    once = run([1.0] * 30, [0.1] * 10 + [0.9, 0.9] + [0.1] * 18)
    assert statistics.first_alarm(once, "raw_coherence", 1, 0.5) is None
    assert statistics.first_alarm(losing(at=20, early=3), "raw_coherence", 1, 0.5) == 1900
    assert statistics.first_alarm(collapsed(), "raw_coherence", 1, 0.5, start=1000) == 1200


def test_leads_are_counted_from_the_alarm_to_the_drop() -> None:
    calibrate = [healthy(role="calibrate"), collapsed(role="calibrate")]
    found = statistics.alarms(
        calibrate, [losing(at=20, early=6), losing(at=15, early=0), healthy()], "raw_coherence", 1
    )
    assert found.leads == (400, -200)
    assert (found.false, found.caught, found.early) == (0.0, 1.0, 0.5)
    assert found.median_lead == 100


def test_the_study_reports_other_seeds_than_it_is_calibrated_on() -> None:
    runs = [healthy(seed=k, role=role) for k, role in enumerate(["calibrate", "report"] * 3)]
    runs += [collapsed(seed=k, role=role) for k, role in enumerate(["calibrate", "report"] * 3)]
    runs += [losing(seed=9), losing(seed=10, at=18)]
    study = evaluate(runs, draws=20)
    record = next(r for r in study.records if r.name == "raw_coherence")
    assert record.end.value == 1.0 and (record.spared, record.found) == (1.0, 1.0)
    assert record.end.positives == 5 and record.end.negatives == 3
    assert study.drops == 2
    assert "signed coherence of the drive" in table(study)


def test_ranges_reach_as_far_as_one_more_healthy_run_is_expected_to() -> None:
    runs = [healthy(level, seed=k, role="calibrate") for k, level in enumerate((0.1, 0.12, 0.14))]
    runs += [collapsed(seed=k, role="calibrate") for k in range(3)]
    found = ranges(runs)["points"]
    low, high = found["indicators"]["raw_coherence"]["healthy"]
    ends = np.array([0.14, 0.16, 0.18])  # after 30 copies the wave is at its top
    assert low == pytest.approx(0.14)
    # Student's t with two degrees of freedom has its 95 % point at 2.920
    assert high == pytest.approx(ends.mean() + 2.91999 * ends.std(ddof=1) * math.sqrt(4 / 3), rel=1e-4)
    assert high < found["indicators"]["raw_coherence"]["alarm"] < 0.8
    assert "3 healthy and 3 collapsed" in found["source"]
    assert ranges([healthy()]) == {}


def test_ranges_of_what_is_bounded_stay_within() -> None:
    runs = [healthy(level, seed=k, role="calibrate") for k, level in enumerate((0.1, 0.4, 0.7))]
    runs += [collapsed(seed=k, role="calibrate") for k in range(3)]
    assert ranges(runs)["points"]["indicators"]["raw_coherence"]["healthy"][1] == pytest.approx(0.8)


@pytest.mark.parametrize(
    "runs", [[], [healthy(), collapsed()], [healthy(role="calibrate"), collapsed(role="calibrate")]]
)
def test_a_study_without_runs_for_a_role_says_so(runs: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="the study needs healthy and collapsed runs to"):
        evaluate(runs)
