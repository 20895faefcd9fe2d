"""How time and memory grow: with samples N, with parameters P, with outputs O."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from genkernel.bench.record import SCHEMA_VERSION, provenance
from genkernel.bench.roster import find
from genkernel.bench.runner import Say, device_of, quartiles
from genkernel.bench.trial import Trial, best, trial
from genkernel.bench.workloads import WORKLOADS
from genkernel.errors import InputError


@dataclass(frozen=True)
class Axis:
    """One study: a workload with one of its sizes varied."""

    name: str
    label: str
    workload: str
    option: str
    full: tuple[int, ...]
    quick: tuple[int, ...]
    fixed: dict[str, Any]

    def sizes(self, value: int, quick: bool) -> dict[str, Any]:
        base = WORKLOADS[self.workload].sizes(quick)
        return {**base, **({} if quick else self.fixed), self.option: value}


AXES = (
    Axis("N", "samples N", "W3", "n", (8, 16, 32, 64, 128, 256), (2, 4), {"width": 32}),
    Axis("P", "parameters P", "W3", "width", (8, 16, 32, 64, 96), (2, 3), {"n": 32}),
    Axis("O", "outputs O", "W1", "outputs", (1, 3, 10, 30, 100), (1, 2), {"n": 50}),
)

DEFAULT = ("genkernel", "genkernel-float32", "step", "loop", "vmap")


def scale(
    names: Iterable[str] | None = None,
    *,
    rounds: int = 3,
    quick: bool = False,
    device: str | torch.device = "cpu",
    limit: float = 120.0,
    axes: Iterable[Axis] = AXES,
    say: Say = lambda message: None,
    keep: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Seconds and peak bytes of every contender along each axis, each call in a fresh process.

    A contender that fails or takes too long at one size is not tried at larger ones of that axis. ``keep`` is given
    the record after every axis.
    """
    if rounds < 1:
        raise InputError(f"a scaling study needs at least one round, not {rounds}")
    chosen = list(DEFAULT if names is None else names)
    place = device_of(device)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "bench-scaling",
        "what": "medians over calls in fresh processes; bytes: peak above what the process held before the call",
        "quick": quick,
        "rounds": rounds,
        "provenance": provenance(place, [c.package for c in map(find, chosen) if c.package]),
        "axes": {},
    }
    for axis in axes:
        record["axes"][axis.name] = _study(axis, chosen, rounds, quick, place, limit, say)
        keep(record)
    return record


def _study(
    axis: Axis, names: list[str], rounds: int, quick: bool, device: torch.device, limit: float, say: Say
) -> dict[str, Any]:
    points: list[dict[str, Any]] = []
    given_up: set[str] = set()
    for value in axis.quick if quick else axis.full:
        sizes = axis.sizes(value, quick)
        problem = WORKLOADS[axis.workload].problem(**sizes)
        point: dict[str, Any] = {
            "value": value,
            "n": problem.n,
            "parameters": problem.numel,
            "vectors": len(problem.vectors),
            "contenders": {},
        }
        for name in names:
            if name in given_up:
                continue
            options: dict[str, Any] = {"device": str(device), "limit": limit}
            first = best(name, problem, axis.workload, sizes, search=not quick, **options)
            trials = [first] if first.status == "ok" else []
            while trials and len(trials) < rounds:
                trials.append(trial(name, first.setting, axis.workload, sizes, **options))
            good = [t for t in trials if t.status == "ok"]
            point["contenders"][name] = _point(first, good)
            if not good:
                given_up.add(name)
            say(f"{axis.label} = {value}: {name}: {_said(point['contenders'][name])}")
        points.append(point)
    return {"label": axis.label, "workload": axis.workload, "fixed": {} if quick else axis.fixed, "points": points}


def _point(first: Trial, good: list[Trial]) -> dict[str, Any]:
    seconds = [t.seconds for t in good if t.seconds is not None]
    peaks = [t.peak_bytes for t in good if t.peak_bytes is not None]
    return {
        "status": first.status,
        "message": first.message,
        "setting": first.setting,
        "seconds": statistics.median(seconds) if seconds else None,
        "quartiles": quartiles(seconds) if seconds else None,
        "peak_bytes": statistics.median(peaks) if peaks else None,
    }


def _said(point: dict[str, Any]) -> str:
    if point["seconds"] is None:
        return f"{point['status']} ({point['message']})"
    return f"{point['seconds']:.3g} s"
