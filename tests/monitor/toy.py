"""A watch whose numbers are known, for what surrounds readings: logs, sinks, cadence, trainers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from genkernel.monitor import Alert, Axis, Header, Problem, Reading, Trace

AXES = {"level": Axis("level", ["t = 0", "t = 10"], [0.0, 10.0], "timestep")}
ARRAYS = {"loss/level": ["level"], "kernel/level": ["level", "level"]}


def header(kind: str = "denoiser", **settings: Any) -> Header:
    return Header(kind, AXES, ARRAYS, {"every": 10, **settings}, {"versions": {}})


def reading(step: int, loss: float = 0.5, problem: bool = False) -> Reading:
    scalars = {"loss/mean": loss, "kernel/drift": math.nan, "gradient/total": math.inf}
    arrays = {"loss/level": np.array([loss, -math.inf]), "kernel/level": np.array([[1.0, math.nan], [0.1, 1.0]])}
    return Reading(step, 0.1 * step, 0.01, scalars, arrays, [Problem("time", "InputError", "no")] if problem else [])


def alert(step: int) -> Alert:
    return Alert("loss rises", f"the loss rises since {step}", step, step, ["t = 10"], "level", {"rise": math.inf})


class ToyWatch:
    """Reads a parameter's mean, as what a user's own watch would be."""

    kind = "denoiser"
    settings: Mapping[str, Any] = {}

    def __init__(self, module: nn.Module | None = None, read: Callable[[], Mapping[str, Any]] | None = None):
        self.modules = [] if module is None else [module]
        self.axes, self.arrays = AXES, ARRAYS
        self._read = read or (lambda: {"loss/mean": 1.0, "loss/level": np.array([1.0, 2.0])})

    def parts(self) -> dict[str, Callable[[], Any]]:
        return {"loss": self._read}

    def derived(self, values: Mapping[str, Any], before: Trace) -> Mapping[str, Any]:
        return {}

    def forget(self) -> None:
        pass


class Always:
    """A rule that fires at every reading."""

    name = "always"

    def check(self, trace: Trace) -> list[Alert]:
        step = trace.last.step
        return [Alert(self.name, f"it is {step}", step, step, [str(step)])]
