"""The comparison as a whole, at quick sizes: nobody is dropped, and every figure is what its name says."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from genkernel.bench import WORKLOADS, memory, runner, scaling
from genkernel.bench.figure import scaling_figure
from genkernel.bench.roofline import Rates, work
from genkernel.bench.trial import Trial, best
from genkernel.cli.app import run
from genkernel.errors import InputError

STRANGERS = [
    f"tests.bench.strangers:{name}"
    for name in ("wrong", "fails", "refuses", "dies", "never_ends", "wants_everything", "holds", "absent")
]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("cache")
    return runner.compare(["W1-500"], ["loop", *STRANGERS], rounds=3, quick=True, limit=6, cache=cache)


@pytest.fixture(scope="module")
def rows(record: dict[str, Any]) -> dict[str, Any]:
    return {name.partition(":")[2] or name: row for name, row in record["workloads"]["W1-500"]["contenders"].items()}


def test_the_record_says_where_it_comes_from(record: dict[str, Any]) -> None:
    json.dumps(record, allow_nan=False)
    start = record["provenance"]
    assert start["versions"]["torch"] == torch.__version__ or torch.__version__.startswith(start["versions"]["torch"])
    assert start["threads"] == torch.get_num_threads() and start["date"] and start["machine"]["cores"]
    assert record["quick"] and record["rounds"] == 3
    workload = record["workloads"]["W1-500"]
    assert (workload["n"], workload["vectors"]) == (9, 3)
    assert set(record["rates_flops_per_second"]) == {"float32", "float64", "convolution"}


def test_whoever_goes_wrong_is_reported(rows: dict[str, Any]) -> None:
    expected = {
        "genkernel": "ok", "genkernel-float32": "ok", "step": "ok", "loop": "ok", "holds": "ok", "wrong": "wrong",
        "fails": "failed", "refuses": "unsupported", "dies": "failed", "never_ends": "over the time limit",
        "wants_everything": "out of memory", "absent": "absent",
    }  # fmt: skip
    assert {name: row["status"] for name, row in rows.items()} == expected
    assert rows["fails"]["message"] == "ValueError: this network"
    assert rows["refuses"]["message"] == "knows no convolutions"
    assert rows["dies"]["message"] == "the process ended with status 3"
    assert "no-such-distribution" in rows["absent"]["message"]


def test_errors_and_times(record: dict[str, Any], rows: dict[str, Any]) -> None:
    assert rows["wrong"]["error"] == pytest.approx(0.01, rel=1e-3) and rows["wrong"]["seconds"] is None
    assert rows["step"]["error"] is None
    assert max(rows[name]["error"] for name in ("genkernel", "genkernel-float32", "loop")) < 1e-5
    for name in ("genkernel", "step", "loop"):
        row = rows[name]
        assert row["seconds"] == statistics.median(row["rounds"]) and len(row["rounds"]) == 3
        low, high = row["quartiles"]
        assert low <= row["seconds"] <= high
    assert rows["genkernel"]["seconds_over_genkernel"] == 1 and rows["step"]["seconds_over_step"] == 1
    within = [a / b for a, b in zip(rows["loop"]["rounds"], rows["genkernel"]["rounds"], strict=True)]
    assert rows["loop"]["seconds_over_genkernel"] == statistics.median(within)
    fastest = record["workloads"]["W1-500"]["fastest_peer"]
    assert fastest["name"] in ("loop", "tests.bench.strangers:holds")
    ideal = record["workloads"]["W1-500"]["ideal_seconds"]
    assert rows["loop"]["fraction_of_roofline"] == ideal["float32"] / rows["loop"]["seconds"]
    assert rows["genkernel"]["fraction_of_roofline"] == ideal["float64"] / rows["genkernel"]["seconds"]


def test_peak_memory_is_that_of_the_call(rows: dict[str, Any]) -> None:
    if rows["holds"]["peak_bytes"] is None:
        pytest.skip("this system does not say how much memory a process holds")
    assert 99 << 20 <= rows["holds"]["peak_bytes"] < 160 << 20
    assert rows["loop"]["peak_bytes"] < 50 << 20
    ratio = rows["holds"]["peak_bytes"] / rows["genkernel"]["peak_bytes"]
    assert rows["holds"]["bytes_over_genkernel"] == ratio


def test_a_peak_without_the_systems_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    if not memory.STATUS.is_file():
        pytest.skip("this system does not say how much memory a process holds")
    monkeypatch.setattr(memory, "_reset_mark", lambda: False)
    with memory.peak_memory(torch.device("cpu")) as peak:
        held = torch.ones(64 << 18)
        time.sleep(0.05)
        del held
    assert peak.host is not None and 60 << 20 < peak.host < 128 << 20


def test_the_best_setting_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {1: 9.0, 2: 5.0, 3: 6.0, 5: 7.0, 9: 1.0}
    asked = []

    def trial(name: str, setting: dict[str, int], *_: Any, **__: Any) -> Trial:
        asked.append(setting["chunk"])
        return Trial("ok", "", setting, seconds[setting["chunk"]])

    monkeypatch.setattr("genkernel.bench.trial.trial", trial)
    sizes = WORKLOADS["W1-500"].sizes(quick=True)
    problem = WORKLOADS["W1-500"].problem(**sizes)
    assert best("vmap", problem, "W1-500", sizes).setting == {"chunk": 2}
    assert asked == [1, 2, 3, 5]  # two in a row were slower
    assert best("vmap", problem, "W1-500", sizes, search=False).setting == {"chunk": 9}


def test_the_work_is_counted() -> None:
    workload = WORKLOADS["W1"]
    one, many = (work(workload.problem(**{**workload.sizes(), "n": n})) for n in (1, 8))
    assert many.forward == 8 * one.forward and many.backward == 8 * one.backward
    # 28×28 → 14×14 → 7×7 → 3×3, 3×3 kernels
    convolutions = 784 * 9 * 16 + 196 * 144 * 32 + 49 * 288 * 64
    head = 576 * 128 + 128 * 10
    assert one.forward == pytest.approx(2 * (convolutions + head), rel=1e-2)
    assert one.step == pytest.approx(one.forward * (1 + 2 * 10), rel=0.05)
    # fully connected layers have one position: n(n + 1)(a + q b) beats forming their gradients
    biases = 16 + 32 + 64 + 128 + 10
    weights = 9 * 16 + 144 * 32 + 288 * 64
    assert many.products == 72 * (10 * (biases + weights) + 576 + 128 + 10 * (128 + 10))
    assert many.gradients == 8 * 10 * 2 * convolutions
    slow = many.ideal_seconds(Rates(1e9, 5e8, 1e9), "float64")
    assert slow == pytest.approx((many.forward + many.backward + many.gradients) / 1e9 + many.products / 5e8)
    assert many.ideal_seconds(Rates(1e9, 5e8, 2e9), "float32") < slow


def test_scaling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = [axis for axis in scaling.AXES if axis.name != "O"]
    record = scaling.scale(["loop", "tests.bench.strangers:fails"], rounds=1, quick=True, axes=axes)
    assert [p["value"] for p in record["axes"]["N"]["points"]] == [2, 4]
    first, second = record["axes"]["P"]["points"]
    assert second["parameters"] > first["parameters"] and first["contenders"]["loop"]["seconds"] > 0
    assert first["contenders"]["tests.bench.strangers:fails"]["status"] == "failed"
    assert "tests.bench.strangers:fails" not in second["contenders"]  # given up after the first size
    figure = scaling_figure(record)
    assert len(figure.axes) == 4 and figure.axes[0].get_ylabel() == "time (s)"
    with pytest.raises(InputError, match="not one of a scaling study"):
        scaling_figure({"kind": "bench"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tmp_path: Path) -> None:
    names = ["vmap", "vmap-tf32", "step-tf32"]
    record = runner.compare(["W3"], names, rounds=2, quick=True, device="cuda", cache=tmp_path)
    found = record["workloads"]["W3"]["contenders"]
    assert {found[name]["status"] for name in ("genkernel", "genkernel-float32", "step", *names)} == {"ok"}
    assert found["vmap"]["peak_bytes"] != found["vmap"]["host_bytes"]  # that of the device


# ---------------------------------------------------------------------------- the command


def test_command(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    asked: dict[str, Any] = {}

    def compare(workloads: Any, names: Any, **options: Any) -> dict[str, Any]:
        asked.update(options, workloads=workloads, names=names)
        if "keep" in options:
            options["keep"](record)
        return record

    monkeypatch.setattr(runner, "compare", compare)
    out = tmp_path / "record.json"
    assert (
        run(["bench", "--workloads", "W1,W2", "--workloads", "W4", "--rounds", "2", "--quick", "--out", str(out)]) == 0
    )
    assert asked["workloads"] == ["W1", "W2", "W4"] and asked["names"] is None
    assert (asked["rounds"], asked["quick"], asked["memory_only"], asked["device"]) == (2, True, False, "cpu")
    said = capsys.readouterr().out
    assert "the papers' CNN" in said and "WRONG 1e-02" in said and "over the time limit" in said
    assert "quick sizes: these times say nothing about speed" in said
    assert json.loads(out.read_text()) == record
    assert run(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workloads", "W9"], "there is no workload 'W9'"),
        (["--contenders", "nobody"], "there is no contender 'nobody'"),
        (["--rounds", "0"], "at least one round"),
        (["--limit", "0"], "positive number of seconds"),
        (["--device", "abacus"], "the device 'abacus' is unknown"),
        (["--device", "meta"], "runs on cpu and cuda, not on meta"),
    ],
)
def test_wrong_input(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--quick", *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--out", str(tmp_path / "no" / "record.json")]) == 1
    assert "its folder does not exist" in capsys.readouterr().err
