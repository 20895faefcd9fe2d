"""The study of planted faults, on trainings of a few steps and on logs that are made up."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from genkernel.experiments.monitors import classifiers as monitored_classifiers
from genkernel.experiments.monitors import denoisers as monitored_denoisers
from genkernel.experiments.monitors import gans as monitored_gans
from genkernel.experiments.monitors.experiment import outcome, run
from genkernel.experiments.monitors.findings import COUNTING, EXPECTED, Finding, judge, loss_alerts
from genkernel.experiments.replicates import share
from genkernel.monitor import Axis, Header, Reading, read_log, sinks
from genkernel.monitor.draws import time_axis

pytestmark = pytest.mark.usefixtures("one_thread")


def write(log: Path, recipe: dict[str, object], losses: list[float], follows: list[float]) -> Path:
    """A log of a denoiser whose average stands still where ``follows`` is 0."""
    sink = sinks.jsonl(log)
    sink.open(Header("denoiser", {"level": Axis("level", ["t = 0", "t = 9"])}, {"loss/level": ["level"]}))
    for k, value in enumerate(follows):
        scalars = {"ema/follows": value, "ema/distance": 0.1, "ema/loss": 1.0, "loss/mean": 1.0}
        sink.reading(Reading(10 * k, 0.0, 0.0, scalars, {"loss/level": np.ones(2)}))
    log.with_suffix(".losses.json").write_text(json.dumps({"run": recipe, "losses": losses}))
    return log


def test_a_fault_counts_as_found_from_its_onset_on_and_before_it_is_a_false_alarm(tmp_path: Path) -> None:
    recipe = {"fault": "average forgotten", "onset": 100, "steps": 190, "every": 10}
    losses = [1.0] * 191
    late = write(tmp_path / "late.jsonl", recipe, losses, [math.nan] + [0.5] * 11 + [0.0] * 8)
    found = judge(late)
    assert (found.found, found.rule, found.false) == (150, "average stands still", [])
    assert found.by_loss is None and math.isnan(found.placed)
    early = judge(write(tmp_path / "early.jsonl", recipe, losses, [math.nan] + [0.0] * 4 + [0.5] * 15))
    assert (early.found, early.false) == (None, ["average stands still"])
    healthy = judge(write(tmp_path / "no.jsonl", {**recipe, "fault": "none"}, losses, [math.nan] + [0.0] * 19))
    assert healthy.false == ["average stands still"] and healthy.found is None


def test_the_baseline_sees_means_of_losses_between_readings() -> None:
    draw = np.random.default_rng(0)
    steps = np.arange(0, 400, 10)
    losses = np.exp(0.05 * draw.normal(size=400))
    assert not loss_alerts(losses, steps)
    losses[250:] *= 3
    [first, *_] = loss_alerts(losses, steps)
    assert 250 <= first.step <= 280
    both = np.stack([losses, 1 / losses], 1)  # one rises, the other falls: both are seen in games
    assert {alert.rule for alert in loss_alerts(both, steps) if alert.step < 300} == {"loss 0 +1", "loss 1 -1"}
    assert not loss_alerts(1 / losses, steps)  # a loss that falls is no alarm elsewhere


def test_every_fault_that_is_planted_has_rules_that_are_expected_to_find_it() -> None:
    planted = {*monitored_denoisers.FAULTS, *monitored_gans.FAULTS, *monitored_classifiers.FAULTS} - {"none"}
    assert planted == set(EXPECTED)
    from genkernel.monitor import default_rules

    known = {rule.name for kind in ("denoiser", "gan", "classifier") for rule in default_rules(kind)}
    assert set().union(*EXPECTED.values(), COUNTING.values()) <= known and COUNTING.keys() <= planted


def test_claims_follow_from_what_was_found() -> None:
    def finding(fault: str, found: int | None, by_loss: int | None, false: list[str]) -> Finding:
        recipe = {"steps": 100, "every": 10}
        return Finding(
            "gan", fault, 0, recipe, 10, 10, found=found, by_loss=by_loss, false=false, rule="x" if found else ""
        )

    good = outcome([finding("fast generator", 10, 30, []), finding("none", None, None, [])], {"first_seed": 0})
    assert [claim.holds for claim in good.claims] == ["yes", "yes", "no", "yes"]
    assert good.tables[0].rows[0][2] == "1 of 1" and good.tables[0].rows[0][-2:] == (20, None)
    bad = outcome([finding("fast generator", None, 30, []), finding("none", None, None, ["x"])], {"first_seed": 0})
    assert [claim.holds for claim in bad.claims] == ["no", "no", "no"]
    assert math.isnan(share(0, 0)[0]) and share(0, 8)[0] == 0 and 0.3 < share(0, 8)[1] < 0.35


def test_what_is_found_by_counting_draws_is_kept_apart(tmp_path: Path) -> None:
    axis = time_axis(0, 999, True)
    log = tmp_path / "log.jsonl"
    sink = sinks.jsonl(log)
    sink.open(Header("denoiser", {"time": axis}, {"drawn/timesteps": ["time"]}))
    for k in range(6):
        counts = np.full(len(axis), 20.0)
        counts[40:75] = 0 if k > 1 else 20
        sink.reading(Reading(10 * k, 0.0, 0.0, {"loss/mean": 1.0}, {"drawn/timesteps": counts}))
    recipe = {"fault": "missing range", "onset": 15, "steps": 50, "every": 10, "low": 300, "high": 600}
    log.with_suffix(".losses.json").write_text(json.dumps({"run": recipe, "losses": [1.0] * 51}))
    found = judge(log)
    assert (found.found, found.counted, found.counted_placed, found.false) == (None, 30, 1.0, [])
    row = outcome([found], {"first_seed": 0}).tables[0].rows[0]
    assert row[2] == "0 of 1" and row[-1] == "1 of 1 after 15"


@pytest.mark.slow
def test_a_short_study_runs_through(tmp_path: Path) -> None:
    found = run(quick=True, progress=False, work=tmp_path)
    assert len(found.numbers["trainings"]) == 7
    assert {row[1] for row in found.tables[0].rows} == {
        "group rate", "label noise", "rare class", "strong discriminator", "fast generator",
    }  # fmt: skip
    assert "monitor-study" in found.figures
    before = {log.name: log.stat().st_mtime_ns for log in tmp_path.glob("*.jsonl")}
    run(quick=True, progress=False, work=tmp_path)  # what is there is not trained again
    assert before == {log.name: log.stat().st_mtime_ns for log in tmp_path.glob("*.jsonl")}


def test_a_denoiser_is_trained_with_its_fault(tmp_path: Path) -> None:
    images = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 10
    case = monitored_denoisers.DenoiserRun(
        width=8, batch=2, steps=2, every=1, warmup=1, fault="average forgotten", onset=0, seed=1
    )
    trace = read_log(monitored_denoisers.train(case, images, labels, tmp_path / "d.jsonl"))
    assert len(trace) == 3 and (trace.scalar("ema/follows")[1:] == 0).all()
    assert not [problem for reading in trace.readings for problem in reading.problems]
    assert [
        reading.arrays[f"drawn/{name}"].sum() for reading in trace.readings for name in ("timesteps", "classes")
    ] == [2.0] * 6
