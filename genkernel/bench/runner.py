"""The comparison: trials in processes of their own, then interleaved rounds in this one."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from genkernel.bench import truth
from genkernel.bench.contenders import Outcome, Run
from genkernel.bench.record import SCHEMA_VERSION, provenance
from genkernel.bench.roofline import Rates, rates, work
from genkernel.bench.roster import contenders, find
from genkernel.bench.trial import Trial, best
from genkernel.bench.workloads import Problem, Workload, choose
from genkernel.errors import InputError
from genkernel.tangent.precision import full_precision

Say = Callable[[str], None]

#: whoever needs this many times as long as genkernel is timed once instead of in every round
SLOW = 8.0


def compare(
    workloads: Iterable[str] | None = None,
    names: Iterable[str] | None = None,
    *,
    rounds: int = 5,
    quick: bool = False,
    device: str | torch.device = "cpu",
    limit: float = 120.0,
    memory_only: bool = False,
    cache: Path | None = None,
    say: Say = lambda message: None,
    keep: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Run the benchmark and return its record, which JSON can hold.

    Args:
        workloads: names as in ``WORKLOADS``; all by default.
        names: contenders as in ``contenders()``, or ``module:attribute``; all by default. genkernel and the plain step,
            to which the others are compared, are always among them.
        rounds: of interleaved timing.
        quick: tiny sizes that say nothing about speed and show that everything works.
        limit: seconds a contender may take for one kernel.
        memory_only: stop after the trials, which give accuracy and peak memory.
        cache: folder for the float64 kernels; by default genkernel/bench in the user's cache.
        say: told what is going on.
        keep: given the record after every workload, so that a run that is stopped leaves what it has.

    Raises:
        InputError: a name is unknown, or an option makes no sense.
    """
    if rounds < 1:
        raise InputError(f"a comparison needs at least one round, not {rounds}")
    if not limit > 0:
        raise InputError(f"the time limit is a positive number of seconds, not {limit}")
    place = device_of(device)
    asked = [c.name for c in contenders().values() if c.device in (None, place.type)] if names is None else list(names)
    chosen = list(dict.fromkeys(["genkernel", "genkernel-float32", "step", *asked]))
    for name in chosen:
        find(name)  # unknown ones are named before anything long runs
    todo = choose(workloads)
    start = provenance(place, [c.package for c in map(find, chosen) if c.package])
    say("measuring the machine's rates")
    found = rates(place, *((512, 1) if quick else (2048, 15)))
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "bench",
        "what": "seconds: medians of interleaved rounds in one process; bytes: peak of a first call in a fresh process "
        "above what it held before; error: relative Frobenius error against a float64 loop of autograd.grad",
        "quick": quick,
        "rounds": rounds,
        "provenance": start,
        "rates_flops_per_second": asdict(found),
        "workloads": {},
    }
    for workload in todo:
        record["workloads"][workload.name] = _one(
            workload, chosen, rounds, quick, place, limit, memory_only, cache or _cache(), found, say
        )
        record["provenance"]["load_average_at_end"] = provenance(place)["load_average"]
        keep(record)
    return record


def _one(
    workload: Workload,
    names: list[str],
    rounds: int,
    quick: bool,
    device: torch.device,
    limit: float,
    memory_only: bool,
    cache: Path,
    machine: Rates,
    say: Say,
) -> dict[str, Any]:
    sizes = workload.sizes(quick)
    problem = workload.problem(device, **sizes)
    say(f"{workload.name}: {workload.title}, n = {problem.n}, {problem.numel:,} parameters: the float64 kernel")
    with full_precision():
        _, file = truth.stored(problem, cache)
    trials: dict[str, Trial] = {}
    for name in names:
        trials[name] = best(
            name, problem, workload.name, sizes, search=not quick, device=str(device), truth_file=file, limit=limit
        )
        say(f"{workload.name}: {name}: {_line(trials[name])}")
    seconds: dict[str, list[float]] = {}
    timings: dict[str, list[dict[str, float]]] = {}
    if not memory_only:
        say(f"{workload.name}: {rounds} interleaved rounds")
        seconds, timings = interleave(problem, trials, rounds)
    needed = work(problem)
    rows = {name: _row(trials[name], seconds.get(name), timings.get(name)) for name in names}
    _add_ratios(rows)
    ideal = {dtype: needed.ideal_seconds(machine, dtype) for dtype in ("float64", "float32")}
    for name, row in rows.items():
        if find(name).kernel and row["seconds"] is not None and row["status"] == "ok":
            dtype = "float64" if name in ("genkernel", "genkernel-again") else "float32"
            row["fraction_of_roofline"] = ideal[dtype] / row["seconds"]
    return {
        "title": workload.title,
        "n": problem.n,
        "parameters": problem.numel,
        "cotangents": workload.cotangents,
        "vectors": len(problem.vectors),
        "sizes": sizes,
        "flops": needed.to_json(),
        "ideal_seconds": ideal,
        "fastest_peer": _fastest_peer(rows),
        "contenders": rows,
    }


def _fastest_peer(rows: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Who is right and fastest, genkernel aside, with its ratios to genkernel; None without timing."""
    right = {
        name: row
        for name, row in rows.items()
        if find(name).kernel
        and not name.startswith("genkernel")
        and row["status"] == "ok"
        and row["seconds"] is not None
    }
    if not right:
        return None
    name = min(right, key=lambda name: right[name]["seconds"])
    return {"name": name, **{key: value for key, value in right[name].items() if "_over_genkernel" in key}}


def interleave(
    problem: Problem, trials: dict[str, Trial], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, float]]]]:
    """Seconds per round of every contender whose trial went well, and seconds by part where known.

    Each round begins with another contender; one untimed call comes before the first.
    """
    base = min(
        (t.seconds for name, t in trials.items() if name.startswith("genkernel") and t.seconds), default=math.inf
    )
    runs: dict[str, Run] = {}
    often: list[str] = []
    for name, found in trials.items():
        if found.status == "ok":
            runs[name] = find(name).prepare(problem, found.setting)
            if (found.seconds or 0) <= SLOW * base:
                often.append(name)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    timings: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    with full_precision(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn, once per call
        for name in often:
            _timed(runs[name], problem.device)
        for turn in range(rounds):
            order = list(runs) if turn == 0 else often
            shift = turn % len(order)
            for name in order[shift:] + order[:shift]:
                gc.collect()
                taken, outcome = _timed(runs[name], problem.device)
                seconds[name].append(taken)
                if outcome.timing:
                    timings[name].append(outcome.timing)
    return seconds, timings


def _timed(run: Run, device: torch.device) -> tuple[float, Outcome]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    outcome = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, outcome


def _row(found: Trial, seconds: list[float] | None, timings: list[dict[str, float]] | None) -> dict[str, Any]:
    error = found.error if found.error is None or math.isfinite(found.error) else None
    row: dict[str, Any] = {
        "status": found.status,
        "message": found.message,
        "setting": found.setting,
        "error": error,
        "first_call_seconds": found.seconds,
        "peak_bytes": found.peak_bytes,
        "host_bytes": found.host_bytes,
        "seconds": None,
    }
    if seconds:
        row["seconds"] = statistics.median(seconds)
        row["quartiles"] = quartiles(seconds)
        row["rounds"] = seconds
    if timings:
        parts = {part for timing in timings for part in timing}
        row["timing"] = {p: statistics.median([t[p] for t in timings if p in t]) for p in sorted(parts)}
    elif found.timing:
        row["timing"] = found.timing
    return row


def quartiles(values: list[float]) -> list[float]:
    """The first and the third quartile; the value itself when there is one."""
    if len(values) == 1:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def _add_ratios(rows: dict[str, dict[str, Any]]) -> None:
    """``seconds`` and ``peak_bytes`` over those of genkernel, genkernel-float32 and the plain step.

    A ratio is the median over rounds of ratios within a round, which a machine that drifts spoils
    less than a ratio of medians; contenders timed once are compared within that round.
    """
    for base in ("genkernel", "genkernel-float32", "step"):
        key = base.replace("-", "_")
        theirs = rows[base]
        for row in rows.values():
            if row.get("rounds") and theirs.get("rounds"):
                pairs = zip(row["rounds"], theirs["rounds"], strict=False)
                row[f"seconds_over_{key}"] = statistics.median(a / b for a, b in pairs)
            if row["peak_bytes"] is not None and theirs["peak_bytes"]:
                row[f"bytes_over_{key}"] = row["peak_bytes"] / theirs["peak_bytes"]


def device_of(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"the device {name!r} is unknown: use cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device on this machine: use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"the benchmark runs on cpu and cuda, not on {device.type}")
    return device


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "genkernel" / "bench"


def _line(found: Trial) -> str:
    if found.status != "ok":
        return f"{found.status} ({found.message})" if found.message else found.status
    setting = ", ".join(f"{k} {v}" for k, v in found.setting.items())
    return f"{found.seconds:.2f} s" + (f" with {setting}" if setting else "")
