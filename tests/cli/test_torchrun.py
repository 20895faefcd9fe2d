"""The program started by torchrun: one voice, one run folder, the numbers of one process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.cli.app import run
from genkernel.errors import InputError, NonFiniteError
from tests.tangent.ranks import free_port, on_ranks

pytestmark = pytest.mark.distributed

ROOT = str(Path(__file__).resolve().parents[2])
UNET = dict(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small pipeline and some images."""
    import diffusers

    folder = tmp_path_factory.mktemp("place")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(**UNET)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder / "ddpm")
    np.savez(folder / "x.npz", x=np.random.default_rng(0).random((4, 8, 8)).astype(np.float32))
    return folder


def analysis(place: Path, out: str, *more: str) -> list[str]:
    small = "--levels 8 --samples 4 --probes 2 --memory 60MiB --device cpu --no-controls"
    return ["diffusion", str(place / "ddpm"), "--data", str(place / "x.npz"), "--out", str(place / out), *small.split(),
            *more]  # fmt: skip


def torchrun(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT},
    )


def on_both(work: Callable[[int], int]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each of two ranks that torchrun's store joins."""
    port = free_port()
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)

    def rank(number: int) -> tuple[int, str, str]:
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        torch.set_num_threads(1)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = work(number)
        return status, out.getvalue(), err.getvalue()

    found = on_ranks(2, rank)
    del store
    for each in found:
        assert isinstance(each, tuple), each
    return found


def assert_close(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for name in a.keys() - {"seconds"}:
            assert_close(a[name], b[name], f"{path}.{name}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{path}[{i}]")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-9, nan_ok=True), path
    else:
        assert a == b, path


@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_run_of_one(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genkernel.plots.diffusion_figures", lambda result: {})  # drawn once is enough
    both = torchrun("-m", "genkernel", *analysis(place, "two"))
    assert both.returncode == 0, both.stderr
    assert run(analysis(place, "one")) == 0
    alone = capsys.readouterr()
    assert both.stdout.replace(str(place / "two"), str(place / "one")) == alone.out
    for said in (both.stderr, alone.err):
        assert said.count("4 images") == 1 and said.count("kernel (stage") == 1
    one, two = (json.loads((place / name / "run.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["files"] == [name for name in two["files"] if not name.startswith("figures/")]
    assert {p.name for p in (place / "two").iterdir()} == {"figures", *one["files"]}
    for name in ("summary.json", "result.json"):
        assert_close(*(json.loads((place / run / name).read_text()) for run in ("one", "two")))
    with np.load(place / "one" / "kernel.npz") as a, np.load(place / "two" / "kernel.npz") as b:
        np.testing.assert_allclose(b["values"], a["values"], rtol=1e-5)
        assert json.loads(str(b["header"]))["meta"]["tasks"] > 1  # else the two had nothing to share
    compare_on_rank_0_alone(place)
    again = on_both(lambda rank: run(analysis(place, "two", "--resume", "--json")))
    assert [status for status, _, _ in again] == [0, 0] and again[1][1:] == ("", "")
    assert json.loads(again[0][1]) == json.loads((place / "two" / "summary.json").read_text())
    assert "it is used again" in again[0][2]


def compare_on_rank_0_alone(place: Path) -> None:
    found = on_both(lambda rank: run(["compare", str(place / "one"), str(place / "two"), "--json"]))
    assert [status for status, _, _ in found] == [0, 0] and found[1][1:] == ("", "")
    assert json.loads(found[0][1])["kind"] == "comparison"


def test_the_doctor_examines_on_rank_0_alone(place: Path) -> None:
    found = on_both(lambda rank: run(["doctor", str(place / "ddpm"), "--json"]))
    assert [status for status, _, _ in found] == [0, 0] and found[1][1:] == ("", "")
    assert json.loads(found[0][1])["ok"]


def test_each_rank_takes_the_gpu_of_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int) -> int:
        import importlib

        def load(path: Any, device: Any = None, **options: Any) -> None:
            (place / f"device-{rank}").write_text(str(device))
            raise InputError("seen")

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(importlib.import_module("genkernel.workflows.load"), "load", load)
        command = analysis(place, "devices")
        where = command.index("--device")
        return run(command[:where] + command[where + 2 :])

    assert [status for status, _, _ in on_both(work)] == [2, 2]
    assert [(place / f"device-{rank}").read_text() for rank in range(2)] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        (["--levels", "x"], 2, "--levels"),
        (["--data", "nothing/here"], 2, "no images at 'nothing/here'"),
        (["--out", "x.npz/run"], 1, "a part of that path is a file"),
        (["other seed on rank 1"], 2, "rank 1 was called with other seed than rank 0"),
    ],
)
def test_what_is_wrong_is_said_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], status: int, words: str
) -> None:
    monkeypatch.chdir(place)

    def work(rank: int) -> int:
        other = ["--seed", str(rank)] if more[0].startswith("other") else more
        return run(analysis(place, "wrong", *other))

    found = on_both(work)
    assert [code for code, _, _ in found] == [status, status]
    assert not found[0][1] and found[1][1:] == ("", "")
    assert words in found[0][2].splitlines()[-1] and found[0][2].count("error") == 1
    assert not (place / "wrong").exists()


@pytest.mark.parametrize("bug", [False, True])
def test_a_rank_that_fails_alone_says_so_and_the_others_end(
    place: Path, monkeypatch: pytest.MonkeyPatch, bug: bool
) -> None:
    def work(rank: int) -> int:
        from genkernel.diffusion import analysis as module

        def broken(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("a bug") if bug else NonFiniteError("NaN in layer conv_in")

        if rank == 1:
            module._losses = broken  # type: ignore[assignment]
        # what torchrun does when a process has failed, the test leaves to the time limit
        from genkernel.tangent import distributed

        monkeypatch.setattr(distributed.current_workers, "__defaults__", (None, None, 3.0))
        try:
            return run(analysis(place, "broken"))
        except AssertionError as error:
            print(f"traceback: {error}", file=sys.stderr)
            return 1

    found = on_both(work)
    assert [code for code, _, _ in found] == [1, 1]
    said = "traceback: a bug\n" if bug else "error on rank 1: NaN in layer conv_in\n"
    assert found[1][2] == said and "error" not in found[0][2]
    assert not (place / "broken").exists()


def test_torchrun_ends_the_others(place: Path) -> None:
    script = place / "script.py"
    script.write_text(
        "import os, time\n"
        "from genkernel.cli import main\n"
        "from genkernel.diffusion import analysis\n"
        "from genkernel.errors import NonFiniteError\n"
        "def broken(*args):\n"
        "    raise NonFiniteError('NaN in layer conv_in')\n"
        "if os.environ['RANK'] == '1':\n"
        "    analysis._losses = broken\n"
        "main()\n"
    )
    ended = torchrun(str(script), *analysis(place, "ended"))
    assert ended.returncode != 0 and not ended.stdout
    ours = [line for line in ended.stderr.splitlines() if line.startswith(("error", "stopped", "Traceback"))]
    assert ours[0] == "error on rank 1: NaN in layer conv_in" and "stopped" not in ended.stderr
    assert not (place / "ended").exists()
