"""Gradients kept on disk: the same bits as in memory, whatever happens in between."""

from __future__ import annotations

import errno
import logging
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genkernel as gk
from genkernel.errors import InputError, OutputError
from genkernel.tangent import engine, gradient_files, passes, store
from genkernel.tangent import plan as planning
from genkernel.tangent.factors import Dense
from genkernel.tangent.gradient_files import DamagedError, GradientFiles
from genkernel.tangent.stopwatch import Stopwatch
from tests.tangent.compare import KINDS, relative_error, samples, shared_model, truth
from tests.tangent.killable import numbers, same_bits
from tests.tangent.ranks import torchrun
from tests.tangent.schedules import only_passes, small
from tests.tangent.test_plan import MIB, convolutional, sizes
from tests.zoo import CASES, Case

EXACT = 1e-10
SOME = [case for case in CASES[::4] if not case.name.startswith(("diffusers", "resnet", "dit", "swin"))]


@pytest.fixture
def batches_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that go through the model, but for the proof."""
    found: list[int] = []
    real = engine.GradientPass.run

    def run(self: Any, batch: Any, *args: Any, **options: Any) -> None:
        found.append(len(batch))
        real(self, batch, *args, **options)

    monkeypatch.setattr(engine.GradientPass, "run", run)
    return found


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_on_disk_matches_the_reference(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, true = shared_model(case.name), samples(case), truth(case.name, "residual")
    only_passes(monkeypatch, home="disk")
    found = gk.kernel(model, batch, cotangents=KINDS["residual"], dtype=torch.float64, store=tmp_path)
    assert relative_error(found, torch.stack(list(true.values())).sum((0, 1))) < EXACT


OPTIONS: dict[str, dict[str, Any]] = {
    "total": {"cotangents": gk.total()},
    "probes": {"cotangents": gk.probes(3)},
    "trace": {"cotangents": gk.exact_trace(), "by": "parameter"},
    "blocks": {"cotangents": gk.blocks()},
    "diagonal": {"cotangents": gk.probes(2), "precondition": {"0.weight": torch.rand(5, 2, 3, 3)}},
    "coupled": {
        "precondition": gk.Preconditioner.action(
            lambda rows: {k: 2 * v for k, v in rows.items()}, blocks=[("0.bias", "5.weight")]
        )
    },
    "half": {"cotangents": gk.total(), "dtype": "bfloat16"},
}


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_bits_as_in_memory(
    name: str, crossed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_run: list[int]
) -> None:
    net, x, y = small()
    options = {"y": y if crossed else None, "progress": False, **OPTIONS[name]}
    if name == "half":
        net, x, y = net.float(), x.float(), y.float()
        options["y"] = y if crossed else None
    only_passes(monkeypatch)
    whole = gk.kernel(net, x, **options)
    times = len(batches_run)
    batches_run.clear()
    only_passes(monkeypatch, home="disk")
    kept = gk.kernel(net, x, store=tmp_path, **options)
    assert same_bits(numbers(kept), numbers(whole))
    assert whole.meta["tasks"] == kept.meta["tasks"] > 1
    assert len(batches_run) == -(-len(x) // 4) + (-(-len(y) // 4) if crossed else 0) < times
    assert not (tmp_path / "gradients").exists()


def test_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = small()
    other = small()[0]
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    only_passes(monkeypatch)
    whole = gk.kernel(net, x, y, model_y=other)
    only_passes(monkeypatch, home="disk")
    assert same_bits(numbers(gk.kernel(net, x, y, model_y=other, store=tmp_path)), numbers(whole))


class Stopped(BaseException):
    """As if the process were killed."""


def compute(folder: Path | None) -> dict[str, Tensor]:
    net, x, y = small()
    return numbers(gk.kernel(net, x, y, cotangents=gk.probes(3), store=folder, progress=False))


def stop_at(patch: pytest.MonkeyPatch, kind: Any, name: str, number: int) -> None:
    """Instead of the call of that number."""
    real, count = getattr(kind, name), [0]

    def call(*args: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            raise Stopped
        return real(*args, **options)

    patch.setattr(kind, name, call)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_while_gradients_are_written(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_run: list[int]
) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    every = len(batches_run)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, passes.GradientPass, "_contract", number)
        compute(tmp_path / "killed")
    assert len(list((tmp_path / "killed").glob("gradients/*.npz"))) == number - 1
    batches_run.clear()
    assert same_bits(compute(tmp_path / "killed"), whole)
    assert len(batches_run) == every - (number - 1)
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.npz"))


def half_done(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two tasks finished, and the gradients for all."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, store.TileStore, "put", 3)
        compute(folder)
    return sorted((folder / "gradients").glob("*.npz"))


def test_killed_between_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_run: list[int]) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    assert half_done(tmp_path / "killed", monkeypatch)
    batches_run.clear()
    assert same_bits(compute(tmp_path / "killed"), whole)
    assert not batches_run


@pytest.mark.parametrize("damage", ["bit", "cut", "emptied", "gone"])
def test_damaged_gradients_are_made_again(
    damage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batches_run: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    victim = half_done(tmp_path / "killed", monkeypatch)[1]
    data = bytearray(victim.read_bytes())
    if damage == "bit":
        data[len(data) // 3] ^= 0x10
    victim.write_bytes(data[: {"bit": None, "cut": len(data) // 2, "emptied": 0, "gone": 0}[damage]])
    if damage == "gone":
        victim.unlink()
    batches_run.clear()
    with caplog.at_level(logging.WARNING, "genkernel"):
        assert same_bits(compute(tmp_path / "killed"), whole)
    assert len(batches_run) == 1
    assert (damage == "gone") or ("damaged" in caplog.text and victim.name in caplog.text)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "?"), "cannot read .*npz"),
        (ValueError("?"), "although this run wrote it"),
    ],
)
def test_a_disk_that_cannot_be_read_back(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: Any) -> Tensor:
        raise error

    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(gradient_files, "_array", unreadable)
        with pytest.raises(OutputError, match=said):
            compute(tmp_path / "bad")
    assert list((tmp_path / "bad").glob("gradients/*.npz"))  # they may be good
    assert same_bits(compute(tmp_path / "bad"), whole)


@pytest.mark.parametrize("size", [300, 40_000])
def test_no_flipped_bit_goes_unnoticed(size: int, tmp_path: Path) -> None:
    """Not in headers either, which say how much there is to read and how."""

    def files() -> GradientFiles:
        return GradientFiles(tmp_path, {"w": (size,)}, {}, 1 << 20)

    task = planning.Task("pass-00000", (0, 4), (0, 4), True, ("w",))
    watch, rows = Stopwatch(torch.device("cpu")), torch.randn(4, size)
    with files().writing("x", 0, 4, [task], watch) as writer:
        writer.begin()
        writer.add(0, "w", Dense(rows), None)
    ((_, _, _, factor, _),) = files().read("x", task, watch)
    assert torch.equal(factor.dense(), rows)
    (path,) = tmp_path.glob("*.npz")
    data, draw = path.read_bytes(), random.Random(0)
    places = [*range(200), *range(len(data) - 400, len(data)), *draw.sample(range(len(data)), 200)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            found = [item[3].dense() for item in files().read("x", task, watch)]
        except DamagedError:
            found = []
        assert not path.exists() or (len(found) == 1 and torch.equal(found[0], rows)), place


def test_another_number_of_ranks_writes_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_run: list[int]
) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    real = engine.share
    with monkeypatch.context() as patch, pytest.raises(Stopped):  # as if another rank had the second half
        patch.setattr(engine, "share", lambda costs, _: {k: int(i > 9) for i, k in enumerate(real(costs, 1))})
        stop_at(patch, store.TileStore, "put", 2)
        compute(tmp_path / "killed")
    assert list(tmp_path.rglob("*.npz"))
    batches_run.clear()
    written: list[int] = []
    add = gradient_files.Writer.add
    monkeypatch.setattr(
        gradient_files.Writer, "add", lambda self, *given: written.append(given[0]) or add(self, *given)
    )
    assert same_bits(compute(tmp_path / "killed"), whole)
    assert batches_run and set(written) == {1, 2}  # of three cotangents, the first was complete


def test_a_damaged_task_of_a_finished_store_needs_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path)
    sorted((tmp_path / "tasks").iterdir())[-1].unlink()
    assert same_bits(compute(tmp_path), whole)
    assert not (tmp_path / "gradients").exists()


def test_memory_that_runs_out_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    for path in half_done(tmp_path / "killed", monkeypatch):
        path.unlink()
    real, failed = engine.GradientPass.run, [0]

    def scarce(self: Any, *args: Any, **options: Any) -> None:
        failed[0] += 1
        if failed[0] < 3:
            raise MemoryError
        real(self, *args, **options)

    monkeypatch.setattr(engine.GradientPass, "run", scarce)
    found = compute(tmp_path / "killed")
    assert failed[0] > 3
    for name, values in whole.items():
        assert relative_error(found[name].double(), values.double()) < EXACT


def test_files_take_what_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.Tanh(), torch.nn.Linear(60, 50), torch.nn.Tanh())
    only_passes(monkeypatch, parts=9, home="disk")
    sizes_: list[int] = []
    add = gradient_files.GradientFiles.added
    monkeypatch.setattr(
        gradient_files.GradientFiles,
        "added",
        lambda self, *args: sizes_.append(args[3].stat().st_size) or add(self, *args),
    )
    K = gk.kernel(net, torch.randn(64, 40), cotangents=gk.total(), store=tmp_path)
    assert K.meta["tasks"] > 9
    kept = 64 * 4 * ((40 + 60) + (60 + 50) + 60 + 50)
    assert kept < sum(sizes_) < 1.1 * kept + 20_000 * len(sizes_)  # plain: 1.4 MB


def test_a_folder_of_the_users_own_stays(tmp_path: Path) -> None:
    mine = tmp_path / "gradients" / "mine.pt"
    mine.parent.mkdir()
    mine.write_text("precious")
    net, x, _ = small()
    with pytest.raises(InputError, match="not empty"):
        gk.kernel(net, x, store=tmp_path)
    assert mine.read_text() == "precious"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_run: list[int]) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    every = len(batches_run)
    real, written = np.lib.format.write_array, [0]

    def write(stream: Any, array: Any, **options: Any) -> None:
        written[0] += array.nbytes
        if written[0] > 40_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(stream, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", write)
        with pytest.raises(OutputError, match="the disk is full; the batches that are in it are kept, and the same"):
            compute(tmp_path / "full")
    assert not list(tmp_path.rglob("*.part"))
    kept = len(list((tmp_path / "full").glob("gradients/*.npz")))
    assert kept > 0
    batches_run.clear()
    assert same_bits(compute(tmp_path / "full"), whole)
    assert len(batches_run) == every - kept


@pytest.mark.parametrize("share", [0.7, 0.2])
def test_a_pass_whose_gradients_do_not_fit_is_divided(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_run: list[int]
) -> None:
    only_passes(monkeypatch, parts=1, home="disk")
    whole = compute(tmp_path / "whole")
    every = len(batches_run)
    real = engine.Stash.put
    held: list[int] = []

    def scarce(self: Any, *args: Any) -> None:
        real(self, *args)
        held.append(self.nbytes)
        if self.nbytes > share * most:
            raise MemoryError

    most = float("inf")
    monkeypatch.setattr(engine.Stash, "put", scarce)
    compute(tmp_path / "measured")
    most = max(held)
    batches_run.clear()
    found = compute(tmp_path / "scarce")
    assert max(held) > share * most
    assert len(batches_run) == every  # the gradients are there
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        assert relative_error(found[name].double(), values.double()) < EXACT


def test_smaller_batches_when_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_passes(monkeypatch, home="disk")
    whole = compute(tmp_path / "whole")
    real = engine.GradientPass.run

    def scarce(self: Any, batch: Any, *args: Any, **options: Any) -> None:
        if len(batch) > 2:
            raise MemoryError
        real(self, batch, *args, **options)

    monkeypatch.setattr(engine.GradientPass, "run", scarce)
    found = compute(tmp_path / "scarce")
    for name, values in whole.items():
        assert relative_error(found[name].double(), values.double()) < EXACT


# ---------------------------------------------------------------------------- the plan


def test_files_are_planned_where_they_pay() -> None:
    given = convolutional(n=2000, seconds_per_sample=0.5)
    without = planning.make_plan(given, 1024 * MIB)
    assert without.home == "device" and without.passes
    plan = planning.make_plan(replace(given, disk_bytes=given.all_kept), 1024 * MIB)
    assert plan.home == "disk" and plan.bytes <= 1024 * MIB
    assert 2 * plan.seconds < without.seconds
    assert plan.disk_bytes == given.all_kept and "on disk (" in plan.describe()
    assert planning.Plan.read(plan.record()) == plan
    for other in (
        replace(given, disk_bytes=given.all_kept - 1),  # too little room
        replace(given, disk_bytes=1 << 50, sketch_bytes=8),  # sketched as they come
        replace(given, disk_bytes=1 << 50, seconds_per_sample=1e-5, seconds_per_run=0.0),  # quickly made again
    ):
        assert planning.make_plan(other, 1024 * MIB).home == "device"
    roomy = replace(sizes(), disk_bytes=1 << 50)
    assert planning.make_plan(roomy, 1 << 36).home == "device"


def test_a_dry_run_knows_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, _ = small()
    seen: list[int] = []
    real = planning.make_plan
    monkeypatch.setattr("genkernel.tangent.call.make_plan", lambda s, b: seen.append(s.disk_bytes) or real(s, b))
    gk.plan(net, x)
    gk.plan(net, x, store=tmp_path / "later" / "tiles")
    assert seen[0] == 0 and seen[1] > 0 and not list(tmp_path.iterdir())
    only_passes(monkeypatch, home="disk")
    ahead = gk.plan(net, x, store=tmp_path)
    assert "of one run over all samples" in ahead.describe()
    with pytest.raises(InputError, match="store="):
        gk.kernel(net, x, plan=ahead)
    kept = gk.kernel(net, x, plan=ahead, store=tmp_path)
    only_passes(monkeypatch)
    assert same_bits(numbers(kept), numbers(gk.kernel(net, x)))


RANKS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from genkernel.tangent import call, plan
from tests.tangent.test_gradient_files import compute

torch.set_num_threads(1)
call.make_plan = lambda sizes, _: replace(plan._passes(sizes, 1, "disk"), batch=4)
plan.LEAST = 20_000
rank = int(__import__("os").environ["RANK"])
torch.save(compute(Path(sys.argv[1]) / "tiles"), Path(sys.argv[1]) / f"rank-{rank}")
"""


@pytest.mark.distributed
def test_two_ranks(tmp_path: Path) -> None:
    ended = torchrun(2, RANKS, tmp_path, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    first, second = (torch.load(tmp_path / f"rank-{rank}") for rank in range(2))
    assert same_bits(first, second)
    assert len(list((tmp_path / "tiles" / "tasks").iterdir())) > 2
    assert not (tmp_path / "tiles" / "gradients").exists()
    for name, values in compute(None).items():
        assert relative_error(first[name].double(), values.double()) < EXACT
