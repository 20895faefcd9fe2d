"""Many experiments in one folder: order, what is kept, what fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genkernel.cli.app import run
from genkernel.errors import InputError, MissingError
from genkernel.experiments import series
from genkernel.experiments.outcome import Claim, Outcome
from genkernel.experiments.series import Finished

NAMES = ["domingos", "optimizers", "rank-gap"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Experiments end at once, with one claim each; optimizers fails."""
    found: list[str] = []

    def pretend(out: Path, given: dict[str, Any], jobs: int, running: Any) -> Finished:
        name = given["name"]
        found.append(name)
        if name == "optimizers":
            return Finished(name, error="error: no luck", quick=given["quick"])
        (out / name).mkdir(exist_ok=True)
        claims = [{"claim": f"{name} | is so", "measured": "1", "holds": "yes"}]
        (out / name / "summary.json").write_text(json.dumps({"name": name, "claims": claims}))
        record = {"arguments": given | {"work": "somewhere"}, "timings": {"experiment": 2.0}}
        (out / name / "run.json").write_text(json.dumps(record))
        return series.read_finished(out / name)

    monkeypatch.setattr(series, "_run", pretend)
    return found


def test_one_that_fails_does_not_stop_the_others_and_finished_ones_are_kept(started: list[str], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = series.run_series(
        NAMES, tmp_path, quick=True, jobs=2, report=lambda one, done, count: told.append((one.name, done, count))
    )
    assert [one.name for one in found] == NAMES and [done for _, done, _ in told] == [1, 2, 3]
    assert found[1].error == "error: no luck" and found[1].seconds is None
    assert found[0].claims == [Claim("domingos | is so", "1", "yes")] and found[0].seconds == 2.0
    kept = json.loads((tmp_path / "claims.json").read_text())
    assert [one["name"] for one in kept] == NAMES
    text = (tmp_path / "claims.md").read_text()
    assert "| optimizers | (failed) | error: no luck | – |" in text and "| domingos |" in text
    started.clear()
    series.run_series(NAMES, tmp_path, quick=True)
    assert started == ["optimizers"]
    started.clear()
    series.run_series(NAMES, tmp_path, quick=True, seed=1)
    assert sorted(started) == sorted(NAMES)


def test_data_goes_to_those_that_take_it(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").touch()
    asked = {n: series.arguments_of(n, quick=True, seed=0, data=tmp_path) for n in ("domingos", "rank-gap", "what-if")}
    assert "data" not in asked["domingos"] and "images" not in asked["domingos"]
    assert asked["rank-gap"]["data"] == str(tmp_path)
    assert asked["what-if"]["images"] == str(tmp_path / "mnist.npz")


def test_bad_arguments_are_refused_before_anything_runs(started: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no experiment"):
        series.run_series(["nonsense"], tmp_path)
    with pytest.raises(InputError, match="jobs"):
        series.run_series(NAMES, tmp_path, jobs=0)
    with pytest.raises(InputError, match="is no folder"):
        series.run_series(NAMES, tmp_path, data=tmp_path / "none")
    with pytest.raises(MissingError):
        series.read_finished(tmp_path)
    assert not started


def test_the_command_prints_every_claim_and_fails_when_one_did(
    started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from genkernel.experiments import registry

    monkeypatch.setattr(registry, "EXPERIMENTS", {name: registry.EXPERIMENTS[name] for name in NAMES})
    monkeypatch.setattr(series, "EXPERIMENTS", registry.EXPERIMENTS)
    assert run(["experiment", "--all", "--quick", "--out", str(tmp_path / "all")]) == 1
    said = capsys.readouterr()
    assert "domingos | is so" in said.out and "1 of 3 failed (optimizers): see NAME.log" in said.err
    assert run(["experiment", "domingos", "--all"]) == 2
    assert "--all takes neither a NAME" in capsys.readouterr().err


@pytest.mark.slow
def test_an_experiment_in_a_process_of_its_own(tmp_path: Path) -> None:
    (found,) = series.run_series(["linear-machines"], tmp_path, quick=True)
    assert found.error is None and found.claims and (tmp_path / "linear-machines" / "tables.md").is_file()
    assert isinstance(Outcome("x", {}).markdown(), str)
