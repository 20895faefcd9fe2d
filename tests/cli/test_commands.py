"""The commands: what they pass on, print and return, with the analysis replaced by a made-up result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genkernel import __version__
from genkernel.cli.app import run
from genkernel.errors import InputError, NonFiniteError, OutputError, ZeroGradientError
from genkernel.plots import kernel_map
from genkernel.runs import Provenance
from genkernel.workflows import Report
from genkernel.workflows.doctor import DoctorReport
from tests.diffusion.fake_result import fake_result
from tests.diffusion.tiny import tiny_denoiser

Calls = list[dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """No checkpoint is read and nothing long is computed; the working folder is a fresh one."""
    asked: Calls = []

    def load(path: Any, **kwargs: Any) -> Any:
        den = tiny_denoiser(dtype=torch.float32)
        den.checkpoint = {"name": str(path), "sha256": "1"}
        asked.append({"path": path, **kwargs})
        return den

    def analyze(den: Any, images: Any, **kwargs: Any) -> tuple[Any, None]:
        print("a library that talks")
        kwargs["progress"]("kernel", 0, 2)
        asked.append({"images": images, **kwargs})
        return fake_result(), None

    monkeypatch.setattr("genkernel.workflows.load.load", load, raising=False)
    import sys

    monkeypatch.setattr(sys.modules["genkernel.workflows.load"], "load", load)
    monkeypatch.setattr("genkernel.diffusion.analysis.analyze", analyze)
    monkeypatch.setattr("genkernel.plots.diffusion_figures", lambda result: {"kernel": lambda: kernel_map(result)})
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", x=np.random.default_rng(0).random((6, 4, 4)).astype(np.float32))
    return asked


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"genkernel {__version__}\n"


@pytest.mark.parametrize("command", [[], ["demo"], ["diffusion"], ["gan"], ["doctor"], ["compare"], ["bench"]])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    said = capsys.readouterr()
    assert "Usage: genkernel" in said.out and not said.err
    assert "[bold]" not in said.out and "[dim]" not in said.out and "`" not in said.out


def test_diffusion_passes_everything_on_and_ends_with_a_table(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    Path("w.json").write_text('{"late": [[0, 0], [999, 1]]}')
    flags = "--levels 5 --samples 4 --probes 3 --seed 2 --no-untrained --dtype float64 --memory 1GiB --weights w.json"
    assert run(["diffusion", "ckpt", "--data", "images.npz", "--out", "run", *flags.split(), "--download"]) == 0
    loaded, asked = calls
    assert (loaded["path"], loaded["download"], loaded["trust_pickle"]) == ("ckpt", True, False)
    assert (asked["levels"], asked["samples"], asked["probes"], asked["seed"]) == (5, 4, 3, 2)
    assert asked["controls"] and not asked["untrained"] and asked["dtype"] == torch.float64
    assert list(asked["weights"]) == ["late"] and asked["memory"] == "1GiB"
    said = capsys.readouterr()
    assert "Locality index, cosine kernel" in said.out and "report: run/index.html" in said.out
    assert fake_result().meta["reading"][0] in said.out.replace("\n", " ")
    assert "images 1×4×4 from images.npz:x" in said.err and "a library that talks" in said.err
    assert Path("run/index.html").is_file()


def test_json_is_the_only_thing_on_stdout(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diffusion", "a/ckpt", "--data", "images.npz", "--samples", "4", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == fake_result().to_summary()
    assert Path("genkernel-ckpt/summary.json").is_file()  # where a run goes by default


def test_timesteps(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diffusion", "c", "--data", "images.npz", "--samples", "4", "--timesteps", "900, 1,50"]) == 0
    assert calls[-1]["levels"] == [900.0, 1.0, 50.0]
    assert run(["diffusion", "c", "--data", "images.npz", "--timesteps", "1,x"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --timesteps takes numbers")


def test_resume_uses_a_finished_run(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["diffusion", "c", "--data", "images.npz", "--samples", "4", "--resume"]
    assert run(command) == 0 and run(command) == 0
    assert len([c for c in calls if "images" in c]) == 1
    assert "it is used again" in capsys.readouterr().err
    assert run([*command, "--probes", "2"]) == 2
    assert "error: the run in genkernel-c cannot be resumed" in (said := capsys.readouterr().err)
    assert "probes was 8, now 2" in said


def test_demo_needs_nothing(calls: Calls, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.cli import demo

    monkeypatch.setattr("genkernel.assets.path", lambda name: Path("images.npz" if name == demo.IMAGES else name))
    assert run(["demo", "--samples", "4"]) == 0
    assert Path(calls[0]["path"]).name == demo.CHECKPOINT
    assert "report: genkernel-demo/index.html" in capsys.readouterr().out


# ------------------------------------------------------------------------ when it goes wrong


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["diffusion", "c", "--levels", "x"], "--levels"),
        (["diffusion", "c", "--nonsense"], "No such option"),
        (["diffusion", "c"], "no images were given: use --data"),
        (["diffusion", "c", "--data", "nothing/here"], "no images at 'nothing/here'"),
        (["diffusion", "c", "--data", "images.npz", "--levels", "1"], "at least 3"),
        (["diffusion", "c", "--data", "images.npz", "--weights", "no.json"], "there is no weighting file"),
        (["diffusion", "c", "--data", "images.npz", "--conditioning", "no.npz"], "there is no conditioning"),
        (["diffusion", "c", "--data", "images.npz", "--optimizer-state", "no.pt"], "there is no optimizer state"),
        (["diffusion", "c", "--data", "images.npz", "--seed", "-1"], "seed has to be a whole number from 0"),
        (["compare", "no", "neither"], "no is not a folder"),
        (["compare", "only-one"], "Missing argument 'B'"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    assert run(command) == 2
    said = capsys.readouterr()
    assert not said.out and words in said.err.splitlines()[-1]
    assert said.err.splitlines()[-1].startswith("error: ") and "Traceback" not in said.err
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["images.npz"]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (NonFiniteError("NaN in layer conv_in"), 1, "error: NaN in layer conv_in"),
        (ZeroGradientError("every gradient is zero"), 1, "error: every gradient is zero"),
        (OutputError("cannot write x: the disk is full"), 1, "error: cannot write x: the disk is full"),
        (InputError("two\nlines"), 2, "error: two lines"),
        (OSError(28, "No space left on device", "x.npz"), 1, "error: x.npz: No space left on device"),
        (MemoryError(), 1, "error: out of memory"),
        (RuntimeError("CUDA out of memory. Tried to"), 1, "error: the device ran out of memory"),
        (KeyboardInterrupt(), 130, "stopped: interrupted"),
    ],
)
def test_failures_while_running(
    calls: Calls,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    words: str,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("genkernel.diffusion.analysis.analyze", broken)
    assert run(["diffusion", "c", "--data", "images.npz", "--out", "a/b"]) == status
    assert capsys.readouterr().err.splitlines()[-1].startswith(words)
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["images.npz"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("X is conditioned on a: pass conditioning={'a': ...} or conditioning='zeros'", "--conditioning zeros"),
        ("x has no scheduler_config.json: pass scheduler= (a folder)", "--scheduler FOLDER"),
        ("x is a file of weights: pass factory='module:Class' and a scheduler", "gk.load(path, factory=…)"),
    ],
)
def test_errors_name_the_flag(
    calls: Calls, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, message: str, words: str
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise InputError(message)

    monkeypatch.setattr("genkernel.diffusion.analysis.analyze", broken)
    assert run(["diffusion", "c", "--data", "images.npz"]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == f"error: {message}" and hint.startswith("hint: ") and words in hint


def test_without_a_terminal_there_is_a_line_per_stage(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diffusion", "c", "--data", "images.npz", "--samples", "4"]) == 0
    assert "kernel (stage 1 of 2)" in capsys.readouterr().err.splitlines()


def test_a_comparison_into_a_run_is_wrong_input(two_runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "first", "second", "--out", "first"]) == 2
    assert "is one of the runs" in capsys.readouterr().err


def test_our_own_bugs_are_not_dressed_up(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr("genkernel.diffusion.analysis.analyze", broken)
    with pytest.raises(AssertionError, match="a bug"):
        run(["diffusion", "c", "--data", "images.npz"])


def test_output_below_a_file(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diffusion", "c", "--data", "images.npz", "--out", "images.npz/run"]) == 1
    assert "images.npz/run: a part of that path is a file" in capsys.readouterr().err
    assert not calls  # before anything was loaded


# ------------------------------------------------------------------------ compare


@pytest.fixture
def two_runs(calls: Calls) -> None:
    for name, shift in (("first", 0.0), ("second", 0.2)):
        result = fake_result()
        result.locality.index += shift
        Report(result, None, Provenance(checkpoint={"name": name, "sha256": name}, data={"sha256": "d"})).save(name)


@pytest.mark.usefixtures("two_runs")
def test_compare_prints_a_table_and_warns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "first", "second", "--out", "both"]) == 0
    said = capsys.readouterr()
    assert "0.200 ± 0.021" in said.out and "A first" in said.out and "report: both/index.html" in said.out
    assert said.err.startswith("note: ") and Path("both/figures/compare_map.svg").is_file()


@pytest.mark.usefixtures("two_runs")
def test_compare_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "first", "second", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "comparison" and found["differences"][0]["difference"] == pytest.approx(0.2)
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["first", "images.npz", "second"]


# ------------------------------------------------------------------------ doctor


def examined(*findings: tuple[str, str, str]) -> DoctorReport:
    report = DoctorReport("some/checkpoint")
    for finding in findings:
        report.add(*finding)
    return report


@pytest.mark.parametrize(
    ("findings", "status", "words"),
    [
        ([("checkpoint", "ok", "pipeline [X]"), ("gradient", "ok", "agrees")], 0, "can be analysed"),
        ([("checkpoint", "ok", "pipeline"), ("model", "fail", "NaN weights")], 1, "cannot be analysed as it is"),
    ],
)
def test_doctor_prints_its_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], findings: Any, status: int, words: str
) -> None:
    monkeypatch.setattr("genkernel.workflows.doctor", lambda source, **options: examined(*findings))
    assert run(["doctor", "x"]) == status
    said = capsys.readouterr()
    assert words in said.out and all(message.split()[-1] in said.out for _, _, message in findings)
    assert run(["doctor", "x", "--json"]) == status
    assert json.loads(capsys.readouterr().out)["ok"] == (status == 0)


def test_doctor_ends_with_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(("checkpoint", "ok", "pipeline"))
    found.subject = "my models/one"
    monkeypatch.setattr("genkernel.workflows.doctor", lambda source, **options: found)
    assert run(["doctor", "x"]) == 0
    assert "genkernel diffusion 'my models/one' --data IMAGES\n" in capsys.readouterr().out
    found.add("conditioning", "warn", "X is conditioned on a: pass conditioning={'a': ...}", needed=True)
    assert run(["doctor", "x"]) == 0
    said = capsys.readouterr().out
    assert "--data IMAGES --conditioning zeros\n" in said and "on the command line: --conditioning zeros" in said


def test_doctor_of_nothing_is_wrong_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(("checkpoint", "fail", "no checkpoint at 'x'"))
    monkeypatch.setattr("genkernel.workflows.doctor", lambda source, **options: found)
    assert run(["doctor", "x"]) == 2
    assert capsys.readouterr().err == "error: no checkpoint at 'x'\n"
