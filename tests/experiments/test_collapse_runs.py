"""Runs and interventions of the collapse study, a few steps long."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genkernel.errors import InputError
from genkernel.experiments.collapse import figures as collapse_figures
from genkernel.experiments.collapse import interventions as collapse_interventions
from genkernel.experiments.collapse import runs as collapse_runs
from genkernel.experiments.collapse.interventions import ARMS, Trial, compare, lasted, mean_cells, run_trial
from genkernel.experiments.collapse.runs import Job, held, jobs, measure, recipes
from genkernel.experiments.collapse.study import evaluate
from genkernel.gan.indicators import INDICATORS
from genkernel.models.mixtures import MIXTURES

SHORT = 30


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe takes a few steps, and analyses are small."""
    known = {data: collapse_runs.recipes(data) for data in ("ring", "grid", "mnist")}
    few = {d: {name: replace(r, steps=SHORT, batch=16) for name, r in rs.items()} for d, rs in known.items()}
    monkeypatch.setattr(collapse_runs, "recipes", few.__getitem__)
    monkeypatch.setattr(collapse_interventions, "recipes", few.__getitem__)
    for name, value in (("LATENTS", 24), ("JACOBIANS", 8), ("REAL", 32), ("SAMPLES", 64)):
        monkeypatch.setattr(collapse_runs, name, value)


def test_every_recipe_has_its_seeds_and_no_seed_two_roles() -> None:
    found = jobs(["ring"], [100], [0, 1])
    assert len(found) == 3 * len(recipes("ring"))
    assert {job.role for job in found if job.seed == 100} == {"calibrate"}
    with pytest.raises(InputError, match="not for both"):
        jobs(["ring"], [1], [1])


def test_the_recipes_of_the_study_differ() -> None:
    for data in ("ring", "grid", "mnist"):
        found = list(recipes(data).values())
        assert all(a != b for k, a in enumerate(found) for b in found[k + 1 :])


@pytest.mark.usefixtures("short")
def test_a_run_has_a_row_with_every_indicator_for_each_copy(tmp_path: Path) -> None:
    job = Job("ring", "healthy", 3, "report")
    found = measure(job, tmp_path, every=15)
    assert [row["step"] for row in found["rows"]] == [0, 15, 30]
    for row in found["rows"]:
        assert set(row["indicators"]) == set(INDICATORS)
        assert row["modes"] == 8 and 0 <= row["good"] <= row["held"] <= 8
    assert found["rows"][0]["d_loss"] is None and math.isfinite(found["rows"][1]["d_loss"])
    assert measure(job, tmp_path) == json.loads(json.dumps(found))  # read, not trained again
    assert found["diverged"] is None and found["recipe_values"]["steps"] == SHORT


@pytest.mark.usefixtures("short")
def test_the_same_run_gives_the_same_rows(tmp_path: Path) -> None:
    job = Job("ring", "late-drift", 3, "report")
    assert measure(job, tmp_path / "a", every=30) == measure(job, tmp_path / "b", every=30)


def test_held_counts_wider_than_good() -> None:
    ring = MIXTURES["ring"]()
    near = ring.modes.repeat(10, 1)
    assert held(near, ring) == {
        "modes": 8, "held": 8, "held_share": 1.0, "good": 8, "good_share": 1.0, "cells": pytest.approx(8.0),
    }  # fmt: skip
    off = held(near + torch.tensor([4.5 * ring.std, 0.0]), ring)
    assert (off["held"], off["good"]) == (8, 0)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("start", ["onset", "late"])
def test_the_arms_share_everything_but_the_change(start: str, tmp_path: Path) -> None:
    found = {arm: run_trial(Trial("ring", start, arm, 5, steps=20), tmp_path, every=10, warm=5) for arm in ARMS}
    first = [trial["rows"][0] for trial in found.values()]
    assert all(row == first[0] for row in first)
    assert found["none"]["changed"] == 0
    assert all(trial["rows"][-1]["step"] == 20 for trial in found.values())
    for arm in ARMS[1:]:
        assert 0 <= found[arm]["changed"] <= 1
        if found[arm]["changed"]:
            assert found[arm]["rows"][-1] != found["none"]["rows"][-1]
    again = run_trial(Trial("ring", start, "dominant", 5, steps=20), tmp_path / "again", every=10, warm=5)
    assert again["rows"] == found["dominant"]["rows"]


def test_unknown_arms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="random cluster"):
        run_trial(Trial("ring", "onset", "largest", 0), tmp_path)


def trial(arm: str, seed: int, cells: list[float]) -> dict[str, Any]:
    rows = [{"step": 20 * k, "cells": c, "modes": 8} for k, c in enumerate(cells)]
    return {"data": "ring", "start": "late", "arm": arm, "seed": seed, "rows": rows}


def test_arms_are_compared_within_seeds() -> None:
    trials = [trial("none", s, [8.0, 1.0, 1.0, 1.0, 1.0]) for s in range(6)]
    trials += [trial("dominant", s, [8.0, 8.0, 4.0 + 0.1 * s, 3.0, 3.0]) for s in range(6)]
    (row,) = compare(trials)
    assert (row["arm"], row["against"], row["seeds"], row["wins"]) == ("dominant", "none", 6, 6)
    assert row["p"] == pytest.approx(2 / 2**6)
    assert mean_cells(trials[0]) == 1 / 8 and lasted(trials[0]) == 20
    assert lasted(trial("none", 0, [8.0, 8.0, 8.0])) == 40


@pytest.mark.usefixtures("short")
def test_figures_are_drawn(tmp_path: Path) -> None:
    runs = [measure(Job("ring", r, s, role), tmp_path, every=5)
            for r in ("healthy", "collapsing") for s, role in ((0, "report"), (1, "calibrate"))]  # fmt: skip
    for run in runs:  # so short a run holds nothing
        good = run["recipe"] == "healthy"
        for row in run["rows"]:
            row["held"] = 8 if good else 1
            row["step"] *= 100
    runs.append({**runs[0], "rows": [{**row, "held": 8 if k < 4 else 1} for k, row in enumerate(runs[0]["rows"] * 2)]})
    study = evaluate(runs, draws=10)
    report = [run for run in runs if run["role"] == "report"]
    figures = [
        collapse_figures.areas(study),
        collapse_figures.roc_curves(report, study),
        collapse_figures.lead_times(study),
        collapse_figures.courses(report),
        collapse_figures.interventions(
            [{**trial(arm, s, [8.0, 4.0, 2.0])} for arm in ARMS for s in range(3)]
        ),
    ]  # fmt: skip
    assert all(figure.axes for figure in figures)
