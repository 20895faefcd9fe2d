"""Rules on traces that are made up: what is there is found, where and since when, and what is not is not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import genkernel as gk
from genkernel.errors import InputError
from genkernel.monitor import Alert, Axis, ChangePoint, Header, Problem, Reading, Trace, replay
from genkernel.monitor.rules import change_point
from genkernel.monitor.rules.facts import NonFinite, StillAverage
from genkernel.monitor.rules.fast_parameters import FastParameters
from genkernel.monitor.rules.label_noise import LabelNoise
from genkernel.monitor.rules.rule import Judge
from genkernel.monitor.rules.training_loss import TrainingLoss
from genkernel.monitor.rules.unreached_regions import UnreachedRegions
from genkernel.monitor.rules.words import grouped, listed
from tests.monitor.toy import Always, ToyWatch

NAMES = [f"{block}.{kind}" for block in ("a.0", "a.1", "b.0", "c") for kind in ("weight", "bias")]


def trace(count: int = 20, **scalars: np.ndarray) -> Trace:
    header = Header("denoiser", {"parameter": Axis("parameter", NAMES)}, {"weights/moved": ["parameter"]})
    readings = [
        Reading(10 * k, float(k), 0.1, {name.replace("__", "/"): float(values[k]) for name, values in scalars.items()})
        for k in range(count)
    ]
    return Trace(header, readings)


def with_array(made: Trace, name: str, axes: list[str], values: np.ndarray) -> Trace:
    header = replace(made.header, arrays={**made.header.arrays, name: axes})
    readings = [replace(r, arrays={**r.arrays, name: values[k]}) for k, r in enumerate(made.readings)]
    return Trace(header, readings)


def test_a_forecast_follows_a_straight_course_and_outliers_do_not_bend_it() -> None:
    line = 3.0 - 0.2 * np.arange(20)
    assert np.allclose(change_point.forecast_errors(line)[4:], 0, atol=1e-12)
    line[9] += 50.0
    errors = change_point.forecast_errors(line)
    assert errors[9] == pytest.approx(50.0)
    assert np.allclose(np.delete(errors, 9)[4:], 0, atol=1e-9)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_step_against_the_course_is_found_at_its_reading_and_not_the_other_way(direction: int) -> None:
    noise = np.random.default_rng(0).normal(size=40)
    values = -0.5 * np.arange(40.0) + noise
    values[25:] += direction * 12
    made = trace(40, kernel__x=values)
    words = "{step}: from {before:.1f} to {now:.1f} since {since}"
    [alert] = replay(made, [ChangePoint("x", "kernel/x", direction, words)])
    assert 200 <= alert.since <= 250  # the sum may have begun with noise
    assert 250 < alert.step <= 280
    assert alert.message.startswith(f"{alert.step}: from")
    assert alert.evidence["cusum"] > alert.evidence["level"] == change_point.level_for(0.01)
    assert not replay(made, [ChangePoint("x", "kernel/x", -direction, words)])


def test_entries_of_an_array_are_watched_one_by_one_and_named() -> None:
    values = np.random.default_rng(1).normal(size=(30, 3))
    values[20:, 1] += 15
    header = Header("denoiser", {"level": Axis("level", ["t = 0", "t = 5", "t = 9"])}, {"loss/level": ["level"]})
    made = Trace(header, [Reading(k, 0.0, 0.0, arrays={"loss/level": row}) for k, row in enumerate(values)])
    [alert] = replay(made, [ChangePoint("x", "loss/level", 1, "{place} since {since}")])
    assert (alert.where, alert.axis, alert.message) == (["t = 5"], "level", "t = 5 since 20")


def test_the_stated_rate_of_false_alarms_is_kept() -> None:
    rule = ChangePoint("x", "x", 1, "", rate=0.1)
    draw = np.random.default_rng(5)
    level = change_point.level_for(rule.rate)
    alarms = 0
    for _ in range(150):
        series = draw.standard_t(change_point.DEGREES, change_point.FEWEST + change_point.HORIZON)
        alarms += bool((change_point.cusum(change_point.forecast_errors(series), 1)[0] > level).any())
    assert 4 <= alarms <= 27  # 99.8 % of what a rate of 0.1 gives in 150


def test_the_rate_is_shared_out_over_entries_and_losses() -> None:
    draw = np.random.default_rng(3)
    entries = 20
    header = Header("denoiser", {"level": Axis("level", [str(j) for j in range(entries)])}, {"loss/level": ["level"]})
    rows = draw.standard_t(change_point.DEGREES, (40, entries))
    rows[30:, 4] += 30
    [alert] = replay(
        Trace(header, [Reading(k, 0.0, 0.0, arrays={"loss/level": row}) for k, row in enumerate(rows)]),
        [ChangePoint("x", "loss/level", 1, "")],
    )
    assert alert.evidence["level"] == pytest.approx(change_point.level_for(0.01 / entries))
    losses = {f"train__{name}": np.exp(np.r_[0.01 * draw.normal(size=30), np.full(10, 3.0)]) for name in "abcd"}
    found = replay(trace(40, **losses), [TrainingLoss()])
    assert {a.evidence["level"] for a in found} == {change_point.level_for(0.01 / 4)}


def test_a_rise_within_the_floor_or_the_noise_is_no_alarm() -> None:
    draw = np.random.default_rng(4)
    values = np.exp(np.r_[0.001 * draw.normal(size=20), 0.05 + 0.001 * draw.normal(size=20)])
    quiet = ChangePoint("x", "x", 1, "", transform="log", floor=0.2)
    assert replay(trace(40, x=values), [replace(quiet, floor=0.0)]) and not replay(trace(40, x=values), [quiet])


def test_levels_fall_with_the_rate_and_continue_beyond_the_table() -> None:
    levels = [change_point.level_for(rate) for rate in (0.1, 0.05, 0.03, 0.001, 0.0001)]
    assert levels == sorted(levels)
    assert levels[0] == change_point.LEVELS[0.1]
    with pytest.raises(InputError, match="direction"):
        ChangePoint("x", "x", 0, "")
    with pytest.raises(InputError, match="rate"):
        ChangePoint("x", "x", 1, "", rate=0.5)


def test_what_vanishes_is_a_change_of_its_logarithm() -> None:
    values = np.exp(0.1 * np.random.default_rng(0).normal(size=24))
    values[20:] = 0.0
    rule = ChangePoint("x", "x", -1, "from {before:.2g} to {now:.2g}", transform="log")
    [alert] = replay(trace(24, x=values), [rule])
    assert alert.step <= 220 and alert.message.endswith("to 0")
    assert not replay(trace(24, x=-values), [rule])  # has no logarithm


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_rounding_of_a_number_that_stays_the_same_is_no_change(size: float) -> None:
    values = 3.0 + size * np.random.default_rng(0).normal(size=40).cumsum()
    values[20:] += np.linspace(0, 3e-9, 20)
    rules = [ChangePoint(f"{t}{way}", "x", way, "", transform=t) for t in ("log", "as it is") for way in (1, -1)]
    assert not replay(trace(40, x=values), rules)
    values[30:] += np.linspace(1, 3, 10)  # a network that was frozen begins to move: four errors say how much
    assert all(alert.step >= 340 for alert in replay(trace(40, x=values), rules))


def test_a_change_after_a_gap_is_found() -> None:
    values = np.exp(0.05 * np.random.default_rng(0).normal(size=32))
    values[20], values[21:] = np.nan, 3 * values[21:]
    [alert] = replay(trace(32, x=values), [ChangePoint("x", "x", 1, "from {before:.1f}", transform="log")])
    assert alert.message.startswith("from 1.") or alert.message.startswith("from 0.9")


def test_a_loss_that_is_zero_does_not_rise_from_there() -> None:
    values = np.r_[np.exp(-0.45 * np.arange(40)), np.zeros(6), 1.2e-7, 1e-7, 1.1e-7]
    assert not replay(trace(49, x=values), [ChangePoint("x", "x", 1, "", transform="log", floor=0.2)])


def test_a_negative_loss_of_the_training_is_judged_too() -> None:
    values = np.r_[-5 + 0.05 * np.random.default_rng(0).normal(size=20), np.full(10, -2.0)]
    assert replay(trace(30, train__loss=values), [TrainingLoss()])


def test_missing_readings_are_no_change() -> None:
    values = np.random.default_rng(2).normal(size=40)
    values[::3] = np.nan
    assert not replay(trace(40, x=values), [ChangePoint("x", "x", 1, "")])


def test_a_group_that_moves_faster_than_it_did_is_named_by_its_module() -> None:
    draw = np.random.default_rng(0)
    moved = np.exp(draw.normal(0, 0.1, (20, len(NAMES)))) * np.linspace(2, 0.1, 20)[:, None]  # a schedule moves all
    moved[0] = np.nan
    moved[12:, :2] *= 30
    made = with_array(trace(), "weights/moved", ["parameter"], moved)
    [alert] = replay(made, [FastParameters()])
    assert sorted(alert.where) == sorted(NAMES[:2])
    assert (alert.since, alert.step) == (110, 130)
    assert "a.0.* move " in alert.message and 20 < alert.evidence["times"] < 40
    assert not replay(with_array(trace(12), "weights/moved", ["parameter"], moved[:12]), [FastParameters()])


def test_an_average_that_stands_still_is_found_and_one_that_lags_is_not() -> None:
    follows = np.full(20, 0.01)
    follows[0], follows[15:] = np.nan, 0.0
    made = trace(20, ema__follows=follows, ema__loss=np.ones(20), loss__mean=np.full(20, 0.5))
    [alert] = replay(made, [StillAverage()])
    assert (alert.since, alert.step, alert.severity) == (140, 180, "warning")
    assert "is its update still called? Its loss is 1, that of the weights 0.5" in alert.message
    assert not replay(trace(20, ema__follows=np.full(20, 1e-9)), [StillAverage()])


def test_an_average_may_pause_as_long_as_it_did_before_and_may_begin_late() -> None:
    epochs = np.where(np.arange(40) % 5 == 4, 0.3, 0.0)  # updated at the end of every fifth reading
    epochs[0] = np.nan
    assert len(replay(trace(40, ema__follows=epochs), [StillAverage()])) == 1  # before it has moved at all
    stops = epochs.copy()
    stops[20:] = 0.0
    first, second = replay(trace(40, ema__follows=stops), [StillAverage()])
    assert first.step == 20 and "is its update called, and given this model?" in first.message
    assert second.step == 310 and "is its update still called?" in second.message  # twelve: three times four
    assert {first.severity, second.severity} == {"warning"}
    late = np.r_[np.nan, np.zeros(10), np.full(15, 0.3), np.zeros(10)]  # begins after ten readings, then never pauses
    _, alert = replay(trace(36, ema__follows=late), [StillAverage()])
    assert alert.step == 290


def test_a_loss_of_the_training_that_is_not_finite_is_a_failure() -> None:
    made = trace(12, train__loss=np.where(np.arange(12) > 8, np.nan, 1.0), train__other=np.ones(12))
    [alert] = replay(made, [NonFinite()])
    assert (alert.step, alert.severity, alert.where) == (90, "failure", ["train/loss"])
    assert "losses of the training since the reading before are NaN or infinite: loss" in alert.message


def test_non_finite_weights_are_located_and_so_are_non_finite_parts() -> None:
    counts = np.zeros((3, len(NAMES)))
    counts[2, 3] = 5
    [alert] = replay(with_array(trace(3), "weights/nonfinite", ["parameter"], counts), [NonFinite()])
    assert (alert.where, alert.severity) == (["a.1.bias"], "failure")
    assert "5 weights are NaN or infinite, in a.1.bias, and were not at step 10" in alert.message
    made = trace(2)
    made.readings[1] = replace(made.readings[1], problems=[Problem("loss", "NonFiniteError", "at timestep 5")])
    [alert] = replay(made, [NonFinite()])
    assert "loss: at timestep 5" in alert.message


def test_new_places_are_news_and_known_ones_are_not() -> None:
    class Grows:
        name = "grows"

        def check(self, seen: Trace) -> list[Alert]:
            count = int(seen.last.scalars["x"])
            return [Alert("grows", "m", seen.last.step, 0, list("abc")[:count])] if count else []

    found = replay(trace(7, x=np.array([0, 1, 1, 2, 2, 3, 1])), [Grows()])
    assert [(alert.step, alert.where) for alert in found] == [(10, ["a"]), (30, ["a", "b"]), (50, ["a", "b", "c"])]


def test_a_rule_that_fails_silences_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Fails:
        name = "fails"

        def check(self, seen: Trace) -> list[Alert]:
            raise RuntimeError("at " + str(seen.last.step))

    for rules in ([Fails(), Always()], [Always(), Fails()]):
        mon = gk.Monitor(ToyWatch(), every=1, max_overhead=None, rules=rules)
        for step in range(3):
            mon.step(step)
        assert [alert.step for alert in mon.alerts] == [0, 1, 2]
    assert sum("rule 'fails': RuntimeError: at 0" in record.getMessage() for record in caplog.records) == 2
    with pytest.raises(RuntimeError):
        replay(mon.trace, [Fails()])


def test_parameters_that_begin_to_move_make_no_others_fast() -> None:
    draw = np.random.default_rng(0)
    names = [f"body.{i}.weight" for i in range(20)] + ["head.weight", "head.bias"]
    moved = np.exp(draw.normal(0, 0.1, (24, 22))) * np.r_[np.full(20, 1e-5), 1e-3, 1e-3]
    moved[:12, :20] = 0.0  # frozen
    header = Header("classifier", {"parameter": Axis("parameter", names)}, {"weights/moved": ["parameter"]})
    made = Trace(header, [Reading(k, 0.0, 0.0, arrays={"weights/moved": row}) for k, row in enumerate(moved)])
    assert not replay(made, [FastParameters()])


def test_a_single_weight_counts_and_a_single_bias_does_not() -> None:
    moved = np.exp(np.random.default_rng(0).normal(0, 0.1, (20, len(NAMES))))
    for place, count in ((NAMES.index("b.0.weight"), 1), (NAMES.index("b.0.bias"), 0)):
        fast = moved.copy()
        fast[12:, place] *= 30
        assert len(replay(with_array(trace(), "weights/moved", ["parameter"], fast), [FastParameters()])) == count


def test_a_pace_within_its_own_noise_is_not_fast() -> None:
    moved = np.exp(np.random.default_rng(0).normal(0, 0.1, (20, len(NAMES))))
    moved[:, 2] *= np.exp(np.random.default_rng(1).normal(0, 1.0, 20))  # this one has always jumped
    moved[17:, 2] *= 12
    assert not replay(with_array(trace(), "weights/moved", ["parameter"], moved), [FastParameters()])


def test_regions_that_were_never_reached() -> None:
    def made(effective: np.ndarray, real: int = 100) -> Trace:
        header = Header(
            "gan", {"cluster": Axis("cluster", list("abcdefgh"))}, {"samples/occupancy": ["cluster"]}, {"real": real}
        )
        return Trace(header, [Reading(k, 0.0, 0.0, {"samples/effective_clusters": e}) for k, e in enumerate(effective)])

    stuck = np.full(20, 1.2)
    [alert] = replay(made(stuck), [UnreachedRegions()])
    assert alert.step == 15 and "reach 1.2 of 8 regions" in alert.message
    assert not replay(made(stuck, real=0), [UnreachedRegions()])
    assert not replay(made(np.linspace(1, 4, 20)), [UnreachedRegions()])


@pytest.mark.parametrize("n", [64, 256])
def test_label_noise_is_hardly_ever_seen_where_there_is_none(n: int) -> None:
    """Samples of both sets are learned one by one; looks at sixty readings."""
    alarms = 0
    for seed in range(60):
        learned = np.random.default_rng(seed).random((2, n))
        course = (learned[None] < np.linspace(0, 1, 60)[:, None, None]).mean(2)
        header = Header("classifier", {}, {}, {"samples": n, "holdout": n})
        readings = [
            Reading(k, 0.0, 0.0, {"accuracy/mean": a, "accuracy/holdout": b})
            for k, (a, b) in enumerate(course.tolist())
        ]
        alarms += bool(replay(Trace(header, readings), [LabelNoise()]))
    assert alarms <= 5


def test_a_finding_is_told_once_until_it_was_away() -> None:
    class Says:
        name = "says"

        def check(self, seen: Trace) -> list[Alert]:
            here = seen.last.scalars["x"]
            return [Alert("says", "m", seen.last.step, 0, [place]) for place in "ab" if here >= "ab".index(place) + 1]

    x = np.array([0, 1, 1, 2, 2, 0, 0, 1, 0, 0, 0, 0, 1])
    found = replay(trace(len(x), x=x), [Says()])
    assert [(alert.step, alert.where) for alert in found] == [(10, ["a"]), (30, ["b"]), (120, ["a"])]
    with pytest.raises(InputError, match="two rules"):
        Judge([Says(), Says()])
    with pytest.raises(InputError, match="check"):
        Judge([3])  # type: ignore[list-item]


def test_names_are_listed_and_grouped() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdef")) == "a, b, c, d and 2 others"
    assert grouped(NAMES[:4], NAMES) == ["a.*"]
    assert grouped(["a.0.weight", "a.0.bias", "c.bias"], NAMES) == ["a.0.*", "c.bias"]
    assert grouped(NAMES, NAMES)[0] == "a.*"


def test_a_trace_gives_missing_numbers_as_nan() -> None:
    made = trace(3, x=np.array([1.0, math.nan, 2.0]))
    assert np.isnan(made.scalar("y")).all()
    assert np.isnan(made.array("weights/moved")).all()
    with pytest.raises(InputError, match="no array"):
        made.array("nothing")
    with pytest.raises(InputError, match="no reading"):
        _ = Trace(made.header).last


def test_a_rule_that_fails_does_not_stop_the_training() -> None:
    import torch

    from genkernel.monitor import Monitor

    class Broken:
        name = "broken"

        def check(self, seen: Trace) -> list[Alert]:
            raise KeyError("no such thing")

    net = torch.nn.Linear(4, 3)
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    mon = Monitor(net, data=x, targets=y, every=1, max_overhead=None, rules=[Broken()])
    assert mon.step(0) is None
    assert mon.latest is not None and mon.latest.step == 0


def test_losses_of_the_training_are_averaged_between_readings_and_judged() -> None:
    import torch

    from genkernel.monitor import Monitor

    net = torch.nn.Linear(4, 3)
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    mon = Monitor(net, data=x, targets=y, every=3, max_overhead=None)
    draw = np.random.default_rng(0)
    for step in range(90):
        mon.step(step, loss={"a": torch.tensor(float(step)), "b": 1.0 + 0.01 * draw.normal() + 5.0 * (step >= 60)})
    assert [r.scalars["train/a"] for r in mon.trace.readings[:3]] == [0.0, 2.0, 5.0]
    assert "loss/generator" not in mon.trace.names
    [first, *_] = [alert for alert in mon.alerts if alert.rule == "training loss"]
    assert "the loss 'b' of the training rises" in first.message and 60 <= first.step <= 66
    mon.step(10)  # back to a checkpoint
    assert mon.latest is not None and mon.latest.step < 10
    with pytest.raises(InputError, match="take its mean"):
        mon.step(11, loss=torch.ones(3))
    with pytest.raises(InputError, match="a number or a tensor of one, not list"):
        mon.step(12, loss=[1.0])  # type: ignore[arg-type]


def test_forecasts_taken_at_once_are_those_taken_one_by_one() -> None:
    values = np.random.default_rng(3).normal(size=60).cumsum()
    values[[20, 41]] = np.nan
    errors = change_point.forecast_errors(values)
    for k in range(4, 60):
        past = values[max(0, k - change_point.WINDOW) : k]
        x, y = np.flatnonzero(np.isfinite(past)), past[np.isfinite(past)]
        slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i + 1, len(x))]
        slope = np.median(slopes)
        naive = values[k] - (np.median(y - slope * x) + slope * len(past))
        assert errors[k] == pytest.approx(naive, rel=1e-12, abs=1e-12, nan_ok=True)
    assert np.isnan(errors[:4]).all() and np.isnan(errors[[20, 41]]).all()
