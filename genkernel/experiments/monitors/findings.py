"""What monitors found in trainings with planted faults: which rule, when and where, and what losses alone say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.monitor import Alert, ChangePoint, Header, Reading, Trace, default_rules, read_log, replay

Array = NDArray[np.float64]

#: rules that count as having found a fault; what else fires after it has begun is a consequence
EXPECTED: dict[str, frozenset[str]] = {
    "group rate": frozenset({"parameters move too fast"}),
    "missing range": frozenset({"told time", "noise level falls behind", "loss rises at a noise level"}),
    "time scale": frozenset({"told time", "time ignored"}),
    "average forgotten": frozenset({"average stands still"}),
    "starved class": frozenset({"class not learned"}),
    "strong discriminator": frozenset(
        {
            "drive grows",
            "drive fades",
            "logits drift apart",
            "told apart",
            "generator loss rises",
            "discriminator loss falls",
        }
    ),
    "fast generator": frozenset(
        {
            "region lost",
            "regions fall away",
            "samples draw together",
            "latents move as one",
            "latents are folded",
            "generator loss falls",
            "discriminator loss rises",
        }
    ),
    "label noise": frozenset({"label noise"}),
    "rare class": frozenset({"class left behind"}),
}
#: rules that count what the training says that it draws, and need no reading
COUNTING = {"missing range": "noise levels not drawn", "starved class": "class rarely drawn"}
MARGIN = 80.0  # timesteps beside a missing range that still count as in the right place
BASELINE_RATE = 0.01  # of false alarms in a hundred readings, as for the monitor's own change points


@dataclass(frozen=True)
class Finding:
    """One training, judged by the rules and by its losses alone.

    Attributes:
        kind: of model. fault: what was planted; ``"none"`` for nothing. onset: from which step on.
        recipe: what was trained.
        readings: how many, every so many steps.
        found: step of the first alert of an expected rule after the onset; None without any.
        rule: which one. message: what it said. placed: share of the places it named that are right; NaN where it named
            none, or the fault has no place.
        first: step of the first alert of any rule after the onset.
        by_loss: step of the first alert of the loss-based baseline after the onset.
        counted: step of the first alert of a rule that counts draws; None where none does, or nothing was counted.
        counted_placed, counted_message: like ``placed`` and ``message``, of that alert.
        false: names of the rules that fired before the onset, or at all in a healthy training.
        false_by_loss: number of such alerts of the baseline.
        everything: all alerts.
    """

    kind: str
    fault: str
    onset: int
    recipe: dict[str, Any]
    readings: int
    every: int
    found: int | None = None
    rule: str = ""
    message: str = ""
    placed: float = math.nan
    first: int | None = None
    by_loss: int | None = None
    counted: int | None = None
    counted_placed: float = math.nan
    counted_message: str = ""
    false: list[str] = field(default_factory=list)
    false_by_loss: int = 0
    everything: list[Alert] = field(default_factory=list)


def judge(log: str | Path) -> Finding:
    """A finished training, from its log and the losses beside it."""
    log = Path(log)
    trace = read_log(log)
    beside = json.loads(log.with_suffix(".losses.json").read_text(encoding="utf-8"))
    recipe, losses = beside["run"], np.array(beside["losses"], dtype=np.float64)
    fault = recipe["fault"]
    onset = _onset(recipe)
    alerts = replay(trace, default_rules(trace.header.kind))
    baseline = loss_alerts(losses, trace.steps)
    if fault == "none":
        names = [alert.rule for alert in alerts]
        return Finding(
            trace.header.kind, fault, 0, recipe, len(trace), recipe["every"],
            false=names, false_by_loss=len(baseline), everything=alerts,
        )  # fmt: skip
    after = [alert for alert in alerts if alert.step >= onset]
    right = [alert for alert in after if _names(alert, fault)]
    counted = [alert for alert in after if alert.rule == COUNTING.get(fault)]
    loss_after = [alert for alert in baseline if alert.step >= onset]
    return Finding(
        kind=trace.header.kind,
        fault=fault,
        onset=onset,
        recipe=recipe,
        readings=len(trace),
        every=recipe["every"],
        found=right[0].step if right else None,
        rule=right[0].rule if right else "",
        message=right[0].message if right else "",
        placed=_placed(right[0], recipe) if right else math.nan,
        first=after[0].step if after else None,
        by_loss=loss_after[0].step if loss_after else None,
        counted=counted[0].step if counted else None,
        counted_placed=_placed(counted[0], recipe) if counted else math.nan,
        counted_message=counted[0].message if counted else "",
        false=[alert.rule for alert in alerts if alert.step < onset],
        false_by_loss=len(baseline) - len(loss_after),
        everything=alerts,
    )


def loss_alerts(losses: Array, steps: NDArray[np.int64]) -> list[Alert]:
    """What a change-point rule says that sees training losses only.

    Args:
        losses: of every step ``[s]``, or of both networks ``[s, 2]``; their means between readings are watched, in
            either direction for GANs, where no direction is the bad one, and upwards otherwise.
        steps: of the readings.
    """
    columns = losses.reshape(len(losses), -1)
    names = [f"loss {i}" for i in range(columns.shape[1])]
    readings = []
    last = -1
    for step in steps:
        window = columns[last + 1 : int(step) + 1]
        means = window.mean(0) if len(window) else np.full(len(names), math.nan)
        readings.append(Reading(int(step), 0.0, 0.0, dict(zip(names, map(float, means), strict=True))))
        last = int(step)
    trace = Trace(Header("losses"), readings)
    ways = (1, -1) if len(names) > 1 else (1,)
    transform = "as it is" if len(names) > 1 else "log"
    rules = [
        ChangePoint(f"{name} {way:+d}", name, way, "", transform=transform, rate=BASELINE_RATE)  # type: ignore[arg-type]
        for name in names
        for way in ways
    ]
    return sorted(replay(trace, rules), key=lambda alert: alert.step)


def _names(alert: Alert, fault: str) -> bool:
    """Whether an alert is about this fault: told times are either a matter of some levels or of a scale for all."""
    if alert.rule not in EXPECTED[fault]:
        return False
    return alert.rule != "told time" or bool(alert.where) == (fault == "missing range")


def _onset(recipe: dict[str, Any]) -> int:
    """Label noise and rare classes are there from the beginning, whatever the onset of other faults."""
    return 0 if recipe["fault"] in ("none", "label noise", "rare class") else int(recipe["onset"])


def _placed(alert: Alert, recipe: dict[str, Any]) -> float:
    """Share of the places that an alert names that are right; NaN where there is nothing to compare."""
    fault = recipe["fault"]
    if not alert.where:
        return math.nan
    if fault == "group rate":
        prefix = recipe["group"]
        return float(np.mean([name.startswith(prefix) for name in alert.where]))
    if fault == "missing range":
        ends = [label.removeprefix("t = ").split(" to ") for label in alert.where]
        low, high = recipe["low"] - MARGIN, recipe["high"] + MARGIN
        return float(np.mean([low <= float(t[0]) and float(t[-1]) <= high for t in ends]))
    if fault in ("starved class", "rare class"):
        right = recipe["starved" if fault == "starved class" else "rare"]
        return float(np.mean([label == f"class {right}" for label in alert.where]))
    return math.nan


def delays(findings: Iterable[Finding], of: str = "found") -> list[int]:
    """Steps from the onset to what ``of`` names, of those that have it."""
    return [step - one.onset for one in findings if (step := getattr(one, of)) is not None]
