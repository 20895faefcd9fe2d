"""The program as a process: signals, full devices, closed pipes, start-up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

MAIN = "from genkernel.cli import main; main()"

# a run that loads a tiny model, then waits where the analysis would be
WAITING = textwrap.dedent(
    """
    import sys, time
    import torch
    import genkernel.diffusion.analysis
    import genkernel.workflows.load
    from tests.diffusion.tiny import tiny_denoiser

    def analyze(den, images, **kwargs):
        print("waiting", file=sys.stderr, flush=True)
        time.sleep(60)

    genkernel.diffusion.analysis.analyze = analyze
    sys.modules["genkernel.workflows.load"].load = lambda path, **kwargs: tiny_denoiser()
    from genkernel.cli import main
    main()
    """
)


def program(*arguments: str, code: str = MAIN, **kwargs: object) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], text=True, env=environment, stderr=subprocess.PIPE, **kwargs
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing_and_says_one_line(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    import numpy as np

    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((4, 4, 4)).astype(np.float32))
    out = tmp_path / "runs" / "one"
    command = ("diffusion", "c", "--data", str(tmp_path / "x.npz"), "--samples", "4", "--out", str(out))
    process = program(*command, code=WAITING)
    assert process.stderr is not None
    said = ""
    while "waiting" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    assert [p.suffix for p in out.iterdir()] == [".part"]  # claimed, and nothing of it shows
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(20) == status
    assert rest == "stopped: interrupted: nothing of the unfinished run was kept\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz"]


def test_full_device_on_stdout_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        process = program("--version", stdout=full)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == "error: No space left on device\n"


def test_reader_that_stops_reading_is_no_error() -> None:
    process = program("diffusion", "--help", stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) in (0, 1)


def test_help_is_fast_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "from genkernel.cli.app import run\n"
        "run(['diffusion', '--help'])\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'matplotlib', 'jinja2', 'PIL'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    start = time.perf_counter()
    process = program(code=code, stdout=subprocess.DEVNULL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert time.perf_counter() - start < 5  # a busy machine; without load it takes a quarter of a second


@pytest.mark.slow
def test_shipped_denoiser_from_the_command_line(tmp_path: Path) -> None:
    command = ("demo", "--levels", "4", "--samples", "4", "--probes", "2", "--out", str(tmp_path / "demo"), "--json")
    process = program(*command, stdout=subprocess.PIPE)
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert json.loads(out) == json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert (tmp_path / "demo" / "index.html").stat().st_size < 3e6
