"""One case of the cost table, in a process of its own: what a loop costs bare, recorded, taped, replayed.

    python -m genkernel.experiments.path_costs.cases '{"kind": "record", "groups": 8}'

prints one line of JSON. Memory is the kernel's high-water mark (:func:`genkernel.bench.memory.peak_memory`) above a
loop that has already taken some steps, so that gradients and the optimizer's state do not count.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.errors import GenkernelError, InputError

if TYPE_CHECKING:
    from genkernel.paths.tape import Tape

INPUTS, OUTPUTS = 64, 10
MARK = "cost: "


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        kind: ``"record"`` (seconds), ``"record memory"``, ``"replay"``, ``"tape"`` (seconds) or ``"copies"`` (files).
        network: ``"mlp"`` of this ``width``, or ``"unet"`` with these ``widths``.
        groups: G, of the recorded samples.
        queries: m, with one scalar each.
        batch, steps: of the loop; ``steps`` is N for tapes, and the length of a block where blocks alternate.
        every: steps between two copies; √N by default.
        blocks: how many blocks of each sort alternate.
        optimizer: of ``torch.optim``.
    """

    kind: str
    network: str = "mlp"
    width: int = 600
    widths: tuple[int, ...] = (16, 16)
    size: int = 8
    groups: int = 8
    queries: int = 4
    batch: int = 64
    steps: int = 16
    every: int | None = None
    blocks: int = 3
    optimizer: str = "AdamW"


def measured(case: Case, timeout: float = 300.0) -> dict[str, Any]:
    """Run a case in a process of its own, on as many threads as this one has.

    Raises:
        GenkernelError: it failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    if case.kind in ("record memory", "replay"):
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed tensors go back to the system
    try:
        done = subprocess.run(
            [sys.executable, "-m", "genkernel.experiments.path_costs.cases", json.dumps(asdict(case))],
            capture_output=True, text=True, env=environment, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise GenkernelError(f"{case} took more than {timeout:g} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        raise GenkernelError(f"{case} failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return found


class Loop:
    """A small training loop, the same for every kind of case."""

    def __init__(self, case: Case):
        draw = torch.Generator().manual_seed(0)
        self.case = case
        torch.manual_seed(0)
        n = 8 * case.batch
        if case.network == "mlp":
            width = case.width
            self.net: nn.Module = nn.Sequential(
                nn.Linear(INPUTS, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, OUTPUTS)
            )
            self.data: Any = (torch.randn(n, INPUTS, generator=draw), torch.randn(n, OUTPUTS, generator=draw))
        elif case.network == "unet":
            from genkernel.models.ddpm import DDPMRecipe, build_unet

            self.net = build_unet(DDPMRecipe(size=case.size, widths=case.widths)).train()
            shape = (n, 1, case.size, case.size)
            noisy, target = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
            self.data = {"x": noisy, "t": torch.randint(1000, (n,), generator=draw), "target": target}
        else:
            raise InputError(f"a case is of an 'mlp' or a 'unet', not of {case.network!r}")
        kind = getattr(torch.optim, case.optimizer)
        options = {"momentum": 0.9} if case.optimizer == "SGD" else {}
        self.optimizer: torch.optim.Optimizer = kind(self.net.parameters(), lr=1e-4, **options)
        self.label = torch.arange(n) % case.groups
        self.queries = self.batch(torch.arange(case.queries))
        self._draw = draw

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.net.parameters())

    def batch(self, ids: Tensor) -> Any:
        if isinstance(self.data, dict):
            return {name: part[ids] for name, part in self.data.items()}
        return tuple(part[ids] for part in self.data)

    def losses(self, module: nn.Module, batch: Any) -> Tensor:
        """Of every sample ``[b]``."""
        if isinstance(batch, dict):
            from genkernel.models.ddpm import ddpm_losses

            found: Tensor = ddpm_losses(module, batch)
            return found
        return (module(batch[0]) - batch[1]).square().mean(1)

    def ids(self) -> Tensor:
        return torch.randperm(len(self.label), generator=self._draw)[: self.case.batch]

    def step(self, ids: Tensor) -> None:
        self.optimizer.zero_grad()
        self.losses(self.net, self.batch(ids)).mean().backward()
        self.optimizer.step()

    def run(self, steps: int, name: Callable[[Tensor], object] = lambda ids: None) -> float:
        """Seconds of some steps."""
        started = time.perf_counter()
        for _ in range(steps):
            ids = self.ids()
            name(ids)
            self.step(ids)
        return time.perf_counter() - started


# ------------------------------------------------------------------------------------ kinds


def _recording(loop: Loop) -> AbstractContextManager[Any]:
    from genkernel.paths import record

    # one window, as nearly every step of a long run is inside of one; where windows start, queries are asked twice
    return record(
        loop.net, loop.optimizer, loop.losses, queries=loop.queries, query_call=loop.losses,
        groups=lambda ids, _: loop.label[ids], windows=1, verbose=False,
    )  # fmt: skip


def _record(case: Case) -> dict[str, Any]:
    """Seconds of a step, bare and recorded, in blocks that alternate."""
    loop = Loop(case)
    loop.run(3)
    bare, ours = [], []
    for _ in range(case.blocks):
        bare.append(loop.run(case.steps))
        with _recording(loop) as path:
            path.batch(loop.batch(ids := loop.ids()), ids=ids)  # the first step chooses routes
            loop.step(ids)
            ours.append(loop.run(case.steps, lambda ids: path.batch(loop.batch(ids), ids=ids)))
            if path.stopped is not None:
                raise GenkernelError(path.stopped)
    bare_s, ours_s = (statistics.median(seconds) / case.steps for seconds in (bare, ours))
    return {"bare_s": bare_s, "recorded_s": ours_s, "factor": _median_ratio(ours, bare)}


def _median_ratio(ours: list[float], bare: list[float]) -> float:
    """Of neighbouring blocks, which a busy machine slows down alike."""
    return statistics.median(a / b for a, b in zip(ours, bare, strict=True))


def _record_memory(case: Case) -> dict[str, Any]:
    """The peak of a recording above the loop's own."""
    from genkernel.bench.memory import peak_memory

    small = Loop(replace(case, network="mlp", width=16))  # what is imported on the way is not the recording's
    with _recording(small) as path:
        small.run(2, lambda ids: path.batch(small.batch(ids), ids=ids))
    loop = Loop(case)
    loop.run(3)
    with peak_memory(torch.device("cpu")) as own:
        loop.run(3)
    gc.collect()
    with peak_memory(torch.device("cpu")) as peak, _recording(loop) as path:
        loop.run(case.steps, lambda ids: path.batch(loop.batch(ids), ids=ids))
    formula = (2 * case.groups + 2) * loop.parameters * 4
    extra = None if peak.host is None or own.host is None else peak.host - own.host
    return {"peak_bytes": peak.host, "loop_bytes": own.host, "extra_bytes": extra, "formula_bytes": formula}


def _taping(loop: Loop, folder: str, every: int | None, steps: int) -> Tape:
    from genkernel.paths.tape import tape

    given: dict[str, Any] = {"every": every} if every else {"steps": steps}
    return tape(loop.net, loop.optimizer, folder, **given)


def _tape(case: Case) -> dict[str, Any]:
    """Seconds of a step, bare and taped, in blocks that alternate, and of hooks and copies alone.

    Blocks as a whole feel whatever else the machine does. The share of the hooks is therefore taken from the tape's own
    clock as well, where both parts are slowed down alike; copies are timed on tapes of one step.
    """
    loop = Loop(case)
    loop.run(3)
    every = case.every or max(1, round(case.steps**0.5))

    def taped(every: int, steps: int) -> tuple[float, float]:
        """Seconds in all, and of the hooks after the first step over those of the loop."""
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            with _taping(loop, folder, every, steps) as run:
                opened = time.perf_counter()

                def parts() -> tuple[float, float]:
                    total = time.perf_counter() - opened
                    own = total / (1 + run.overhead)
                    return total - own, own

                loop.run(1, run.batch)
                first = parts()
                loop.run(steps - 1, run.batch)
                last = parts()
            if run.stopped is not None:
                raise GenkernelError(run.stopped)
            seconds = time.perf_counter() - started
            return seconds, (last[0] - first[0]) / (last[1] - first[1]) if steps > 1 else 0.0

    taped(1, 2)
    rows = [
        (
            loop.run(case.steps),
            taped(every, case.steps)[0],
            taped(case.steps, case.steps)[1],
            loop.run(1),
            taped(1, 1)[0],
        )
        for _ in range(case.blocks)
    ]
    own, many, hooks, one, copied = np.array(rows).T
    return {
        "bare_s": float(np.median(own)) / case.steps,
        "every": every,
        "ratio": float(np.median(many / own)),
        "hooks": float(np.median(hooks)),
        "hooks_error": float(hooks.std() / max(1, case.blocks - 1) ** 0.5),
        "copy_s": float(np.median(copied - one)) / 2,  # a tape of one step has a copy at either end
        "spread": float((own.max() - own.min()) / np.median(own)),
    }


def _replay(case: Case) -> dict[str, Any]:
    """A tape's bytes by kind of file, and seconds, memory and waiting files of its replay."""
    from genkernel.bench.memory import peak_memory
    from genkernel.paths.replay import replay

    loop = Loop(case)
    with _spool_watched() as spool, tempfile.TemporaryDirectory() as folder:
        with _taping(loop, folder, case.every, case.steps) as run:
            loop.run(case.steps, run.batch)
        weights = [file.stat().st_size for file in Path(folder).glob("weights-*")]
        steps = sum(file.stat().st_size for file in Path(folder).glob("steps-*"))

        def batch_of(ids: Tensor) -> Any:
            spool.look()
            return loop.batch(ids)

        options: dict[str, Any] = {"queries": loop.queries, "query_call": loop.losses, "progress": False}
        replay(folder, loop.net, batch_of, loop.losses, memory=1, **options)
        started = time.perf_counter()
        with peak_memory(torch.device("cpu")) as peak:
            found = replay(folder, loop.net, loop.batch, loop.losses, **options)
        seconds = time.perf_counter() - started
    loop = Loop(case)
    loop.run(2)
    bare = statistics.median(loop.run(4) / 4 for _ in range(3))
    return {
        "copies": len(weights),
        "copy_bytes": statistics.median(weights),
        "weights_bytes": sum(weights),
        "steps_bytes": steps,
        "replay_s": seconds / case.steps,
        "bare_s": bare,
        "factor": seconds / case.steps / bare,
        "peak_bytes": peak.host,
        "spool_bytes": spool.most,
        "visits": found.visits,
        "gap": found.contributions().gap_rel,
    }


def _copies(case: Case) -> dict[str, Any]:
    """Bytes of one copy after a step, with the optimizer's state."""
    loop = Loop(case)
    with tempfile.TemporaryDirectory() as folder:
        with _taping(loop, folder, case.every, case.steps) as run:
            loop.run(case.steps, run.batch)
        last = max(Path(folder).glob("weights-*"))
        steps = sum(file.stat().st_size for file in Path(folder).glob("steps-*"))
        return {"copy_bytes": last.stat().st_size, "step_bytes": steps / case.steps}


class _Watched:
    """The largest total size that temporary files of waiting results had."""

    def __init__(self, folder: Path):
        self._folder, self.most = folder, 0

    def look(self) -> None:
        files = self._folder.glob("genkernel-*/*.safetensors")
        self.most = max(self.most, sum(file.stat().st_size for file in files))


@contextmanager
def _spool_watched() -> Iterator[_Watched]:
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield _Watched(Path(folder))
        finally:
            tempfile.tempdir = before


KINDS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "record": _record, "record memory": _record_memory, "tape": _tape, "replay": _replay, "copies": _copies,
}  # fmt: skip


def answer(case: Case) -> dict[str, Any]:
    """Measure a case in this process.

    Raises:
        InputError: there is no such kind.
    """
    if case.kind not in KINDS:
        raise InputError(f"a case is of kind {', '.join(map(repr, KINDS))}, not {case.kind!r}")
    with torch.random.fork_rng(devices=[]):
        return KINDS[case.kind](case) | {"parameters": Loop(case).parameters}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["widths"] = tuple(given.get("widths", (16, 16)))
    print(MARK + json.dumps(answer(Case(**given))))
