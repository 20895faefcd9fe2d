"""Many experiments, each in a process of its own, in one folder that goes on where it was stopped.

A process of its own keeps what one experiment breaks or takes in memory away from the others, and lets several run at
once. ``NAME/`` is the outcome of an experiment, ``NAME.log`` what it printed; ``claims.md`` and ``claims.json`` hold
the claims of all that are finished.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from genkernel.errors import InputError, MissingError
from genkernel.experiments.folder import PROVENANCE, SUMMARY
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.experiments.registry import EXPERIMENTS, experiment
from genkernel.runs import read_json, write_atomic

CLAIMS, MARKDOWN = "claims.json", "claims.md"
DIGITS = "mnist.npz"  # of a folder of data sets, for experiments that take one set of images


@dataclass(frozen=True)
class Finished:
    """What became of one experiment.

    Attributes:
        name: of the experiment.
        seconds: that it took; None where it failed.
        claims: what was put to the test.
        error: the last line that it printed, where it failed.
        quick: whether its settings were the small ones.
    """

    name: str
    seconds: float | None = None
    claims: list[Claim] = field(default_factory=list)
    error: str | None = None
    quick: bool = False


def inputs_of(study: Callable[..., Outcome]) -> tuple[str | None, bool]:
    """By which argument an experiment takes images (None: it takes none), and whether it keeps unfinished work."""
    known = signature(study).parameters
    images = next((name for name in ("data", "images") if name in known), None)
    return images, "work" in known


def arguments_of(name: str, *, quick: bool, seed: int, data: str | Path | None) -> dict[str, Any]:
    """What an experiment of a series is called with, as its ``run.json`` records it.

    Args:
        data: a folder with data sets; an experiment that takes one set of images gets the digits in it.
    """
    given: dict[str, Any] = {"name": name, "quick": quick, "seed": seed}
    images, _ = inputs_of(experiment(name))
    if data is not None and images == "data":
        given["data"] = str(data)
    elif data is not None and images == "images" and (Path(data) / DIGITS).is_file():
        given["images"] = str(Path(data) / DIGITS)
    return given


def read_finished(folder: str | Path) -> Finished:
    """The outcome in a folder.

    Raises:
        MissingError: there is none.
    """
    folder = Path(folder)
    if not (folder / SUMMARY).is_file() or not (folder / PROVENANCE).is_file():
        raise MissingError(f"{folder} holds no outcome of an experiment")
    found, record = read_json(folder / SUMMARY), read_json(folder / PROVENANCE)
    claims = [Claim(**claim) for claim in found["claims"]]
    quick = bool(record["arguments"].get("quick"))
    return Finished(found["name"], float(record["timings"]["experiment"]), claims, quick=quick)


def run_series(
    names: Sequence[str],
    out: str | Path,
    *,
    quick: bool = False,
    seed: int = 0,
    data: str | Path | None = None,
    jobs: int = 1,
    report: Callable[[Finished, int, int], None] | None = None,
) -> list[Finished]:
    """Run experiments that have no outcome of these arguments in the folder yet.

    Args:
        names: of the experiments.
        out: the folder. Outcomes of other arguments in it are replaced, those of experiments not named stay.
        quick: small settings.
        seed: of each.
        data: a folder with ``mnist.npz``, ``fashion-mnist.npz`` and ``emoji32.npz``; experiments that need one that is
            not there leave that part out.
        jobs: experiments at a time; several share the processors' threads evenly.
        report: called after each with what became of it, how many are done, and of how many.

    Returns:
        What became of each, in the order of ``names``. One that fails does not stop the others.

    Raises:
        InputError: there is no experiment of a name, or no such folder of data.
    """
    for name in names:
        experiment(name)
    if jobs < 1:
        raise InputError(f"jobs is how many experiments run at a time, at least 1, not {jobs}")
    if data is not None:
        if not Path(data).is_dir():
            raise InputError(f"{data} is no folder: all experiments together take one with data sets such as {DIGITS}")
        data = Path(data).resolve()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Finished] = {}
    running: dict[str, subprocess.Popen[bytes]] = {}

    def work(name: str) -> Finished:
        given = arguments_of(name, quick=quick, seed=seed, data=data)
        return _kept(out / name, given) or _run(out, given, jobs, running)

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(work, name) for name in names]
        try:
            for done in as_completed(waiting):
                one = done.result()
                found[one.name] = one
                _write(out, [found[name] for name in names if name in found])
                if report is not None:
                    report(one, len(found), len(names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running.values()):
                process.terminate()
            raise
    return [found[name] for name in names]


def claims_table(finished: Sequence[Finished]) -> Table:
    """Experiment × claim × measured × does it hold, and how long it took."""
    table = Table("What was put to the test", ("experiment", "claim", "measured", "holds"), [])
    for one in finished:
        if one.error is not None:
            table.rows.append((one.name, "(failed)", one.error, "–"))
        table.rows.extend((one.name, claim.claim, claim.measured, claim.holds) for claim in one.claims)
    return table


def times_table(finished: Sequence[Finished]) -> Table:
    """How long each took."""
    rows = [(one.name, EXPERIMENTS[one.name].about, one.seconds) for one in finished]
    return Table("How long it took", ("experiment", "what", "seconds"), rows)


def _kept(folder: Path, given: dict[str, Any]) -> Finished | None:
    """An earlier outcome of the same arguments."""
    try:
        finished = read_finished(folder)
    except MissingError:
        return None
    arguments = read_json(folder / PROVENANCE)["arguments"]
    arguments.pop("work", None)
    return finished if arguments == given else None


def _run(out: Path, given: dict[str, Any], jobs: int, running: dict[str, subprocess.Popen[bytes]]) -> Finished:
    name = given["name"]
    command = [sys.executable, "-m", "genkernel", "experiment", name, "--seed", str(given["seed"])]
    command += ["--out", str(out / name), *(["--quick"] if given["quick"] else [])]
    for key in ("data", "images"):
        command += ["--data", given[key]] if key in given else []
    if inputs_of(experiment(name))[1] and not given["quick"]:
        command += ["--work", str(out / f"{name}-unfinished")]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    log = out / f"{name}.log"
    with log.open("w", encoding="utf-8") as lines:
        running[name] = subprocess.Popen(
            command, stdout=lines, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | threads
        )
        status = running[name].wait()
    del running[name]
    if status == 0:
        return read_finished(out / name)
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return Finished(name, error=said[-1] if said else f"ended with status {status}", quick=given["quick"])


def _write(out: Path, finished: list[Finished]) -> None:
    write_atomic(out / CLAIMS, json.dumps([asdict(one) for one in finished], indent=1, ensure_ascii=False) + "\n")
    write_atomic(out / MARKDOWN, claims_table(finished).markdown() + "\n" + times_table(finished).markdown())
