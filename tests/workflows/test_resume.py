"""Runs that are stopped and taken up again: what is kept, what is refused, what is removed."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.cli.app import run
from genkernel.errors import InputError, NonFiniteError
from genkernel.runs import kernels_of, pack
from tests.diffusion.tiny import tiny_denoiser, tiny_images

pytestmark = pytest.mark.usefixtures("one_thread", "plain_page")
SMALL = {"levels": 4, "samples": 4, "probes": 2, "bootstrap": 10}
KERNELS = (
    "kernel", "same_image_same_noise", "same_image_other_noise", "embedding_only", "input_only", "shuffled_levels",
    "untrained", "interpolation", "interference",
)  # fmt: skip


@pytest.fixture
def plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without figures, which take longer than all the rest."""
    monkeypatch.setattr("genkernel.plots.diffusion_figures", lambda result: {})


def analyse(out: Path, at: Callable[[str], None] | None = None, **options: Any) -> gk.Report:
    """A run with ``--resume``; ``at`` is called with the name of every stage that begins."""
    progress = False if at is None else lambda stage, done, count: at(stage)
    asked: dict[str, Any] = {"model": tiny_denoiser(dtype=torch.float32), "data": tiny_images(4), "resume": True}
    return gk.locality(out=out, progress=progress, **{**SMALL, **asked, **options})


def killed(out: Path, stage: str, **options: Any) -> None:
    """Run in a process of its own that is killed when ``stage`` begins."""

    def at(name: str) -> None:
        if name == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            analyse(out, at, **options)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kept(out: Path) -> dict[str, tuple[int, int]]:
    """Finished parts of kernels, and what changes when one is written again."""
    found = {}
    for file in kernels_of(out).glob("*/tasks/[!.]*"):
        state = file.stat()
        found[f"{file.parent.parent.name}/{file.name}"] = (state.st_ino, state.st_mtime_ns)
    return found


def at_the_end(out: Path, seen: dict[str, Any]) -> Callable[[str], None]:
    """Note what is kept when the last stage begins."""

    def at(stage: str) -> None:
        if stage == "weighting":
            seen.update(kept(out))

    return at


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    torch.set_num_threads(1)
    den = tiny_denoiser(dtype=torch.float32)
    return numbers(gk.locality(den, tiny_images(4), progress=False, **SMALL))


def numbers(report: gk.Report) -> dict[str, Any]:
    packed = pack(report.result)
    del packed["meta"]
    return packed


@pytest.mark.parametrize("stage", ["same_image_same_noise", "untrained", "interference", "weighting"])
def test_a_killed_run_goes_on_from_its_finished_kernels(
    tmp_path: Path, stage: str, undisturbed: dict[str, Any]
) -> None:
    out, said, seen = tmp_path / "run", list[str](), dict[str, Any]()
    killed(out, stage)
    before = kept(out)
    finished = KERNELS.index(stage) if stage in KERNELS else len(KERNELS)
    assert {name.split("/")[0] for name in before} == set(KERNELS[:finished])
    report = analyse(out, at_the_end(out, seen), say=said.append)
    assert f"going on with the unfinished run in {out}; finished kernels there: {finished}" in said
    assert before.items() <= seen.items() and {name.split("/")[0] for name in seen} == set(KERNELS)
    assert numbers(report) == undisturbed
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probes": 3}, "the unfinished run in .* cannot be resumed, because it is another one: probes was 2, now 3"),
        ({"data": tiny_images(4, seed=1)}, "the images have changed"),
        ({"model": tiny_denoiser(dtype=torch.float32, seed=1)}, "was made with other settings or data: weights"),
    ],
)
def test_kernels_of_another_run_are_refused_and_kept(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    killed(tmp_path, "layers")
    before = kept(tmp_path)
    with pytest.raises(InputError, match=words):
        analyse(tmp_path, **change)
    assert kept(tmp_path) == before and before


def test_without_resume_they_are_replaced(tmp_path: Path) -> None:
    killed(tmp_path, "layers")
    analyse(tmp_path, probes=3, controls=False, resume=False)
    assert not kernels_of(tmp_path).exists()


def test_without_resume_nothing_is_kept(tmp_path: Path) -> None:
    killed(tmp_path, "layers", resume=False)
    assert not kernels_of(tmp_path).exists()


def test_an_error_after_a_kernel_says_that_it_is_kept(tmp_path: Path) -> None:
    def at(stage: str) -> None:
        if stage == "layers":
            raise NonFiniteError("NaN in layer conv_in")

    with pytest.raises(NonFiniteError) as caught:
        analyse(tmp_path, at)
    assert caught.value.__notes__ == [
        f"finished kernels are kept in {tmp_path}: the same run goes on from them with resume"
    ]
    assert [p.name for p in tmp_path.iterdir()] == [".kernels"] and kept(tmp_path)


def test_an_error_before_the_first_kernel_leaves_nothing(tmp_path: Path) -> None:
    den = tiny_denoiser(dtype=torch.float32)
    with torch.no_grad():
        den.module.outer.bias[0] = float("nan")
    with pytest.raises(NonFiniteError) as caught:
        analyse(tmp_path / "run", model=den)
    assert not hasattr(caught.value, "__notes__") and list(tmp_path.iterdir()) == []


def test_a_kernel_that_was_begun_is_begun_again_under_another_bound(tmp_path: Path) -> None:
    killed(tmp_path, "embedding_only")
    manifest = kernels_of(tmp_path) / "same_image_other_noise" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "finished": None}))  # as if it had been killed one stage earlier
    before, seen = kept(tmp_path), dict[str, Any]()
    analyse(tmp_path, at_the_end(tmp_path, seen), memory="4GiB")
    again = {name.split("/")[0] for name in before if seen[name] != before[name]}
    assert again == {"same_image_other_noise"}


def test_another_process_at_work_there_keeps_its_kernels(tmp_path: Path) -> None:
    killed(tmp_path, "layers")
    (part,) = tmp_path.glob(".run-*.part")
    machine = part.name.split("-")[1]
    (tmp_path / f".run-{machine}-{os.getppid()}-x.part").mkdir()  # of a process that lives
    analyse(tmp_path, controls=False, resume=False)
    assert kept(tmp_path)


def test_the_command_line_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib

    from genkernel.diffusion import analysis

    loading = importlib.import_module("genkernel.workflows.load")
    monkeypatch.setattr(loading, "load", lambda path, **options: tiny_denoiser(dtype=torch.float32))
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.random.default_rng(0).random((4, 4, 4)).astype(np.float32))
    small = ["--levels", "4", "--samples", "4", "--probes", "2", "--no-controls"]
    command = ["diffusion", "c", "--data", "x.npz", *small, "--out", "run"]

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(analysis, "layer_locality", interrupted)
        assert run(command) == 130
        assert capsys.readouterr().err.endswith("stopped: interrupted: nothing of the unfinished run was kept\n")
        assert not Path("run").exists()
        assert run([*command, "--resume"]) == 130
    said = capsys.readouterr().err
    assert "nothing to resume in run" in said
    assert said.endswith(
        "stopped: interrupted: finished kernels are kept in run: the same run goes on from them with resume\n"
    )
    assert run([*command, "--resume", "--probes", "3"]) == 2
    assert "probes was 2, now 3" in (said := capsys.readouterr().err) and "leave out --resume" in said
    assert run([*command, "--resume"]) == 0
    assert "finished kernels there: 1" in capsys.readouterr().err
    assert Path("run/index.html").is_file() and not kernels_of("run").exists()
