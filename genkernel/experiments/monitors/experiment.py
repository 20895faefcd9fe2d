"""Do monitors find faults that are planted, how soon, where, and how often do they cry wolf?

Small denoisers, GANs and classifiers are trained in health and with one fault each, with recipes drawn at random. The
thresholds of the rules were chosen on trainings with seeds 0 to 5 (denoisers: 0 to 3); this experiment takes others.
Beside the monitor stands a change-point rule of the same rate of false alarms that sees the training losses only.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from genkernel.experiments.monitors.findings import COUNTING, Finding, delays, judge
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.experiments.replicates import share
from genkernel.experiments.shrunk_images import require

FIRST = 100  # seed of the first trainings: those below were looked at when thresholds were chosen
RECIPES = {"denoiser": 4, "gan": 8, "classifier": 8}  # sets of one healthy training and one of each fault
IMAGES = 4000


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    work: str | Path | None = None,
) -> Outcome:
    """Train, and judge what the monitors wrote.

    Args:
        quick: classifiers and planar GANs of one seed, without denoisers.
        data: folder with ``mnist.npz`` and ``fashion-mnist.npz``; without it images are made up, in quick runs only.
        work: folder for the logs; trainings that are there already are not done again.

    Raises:
        MissingError: the folder has no such files.
    """
    sets = {"gan": 1, "classifier": 1} if quick else dict(RECIPES)
    if data is not None or not quick:
        require(data or ".", "mnist", "fashion-mnist")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(work) if work is not None else Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        logs = [
            log
            for kind, count in sets.items()
            for one in range(FIRST + seed, FIRST + seed + count)
            for log in _trained(kind, one, place, data, quick, progress)
        ]
        findings = [judge(log) for log in logs]
    return outcome(findings, {"quick": quick, "seed": seed, "sets": sets, "first_seed": FIRST + seed})


def _trained(kind: str, seed: int, place: Path, data: str | Path | None, quick: bool, progress: bool) -> Iterable[Path]:
    from dataclasses import replace
    from importlib import import_module

    module = import_module(f"genkernel.experiments.monitors.{kind}s")
    for case in module.cases(seed):
        if quick:
            short = {"steps": case.steps // 10, "every": case.every // 5, "onset": case.onset // 10}
            case = replace(case, **short)
        log = place / f"{kind[:3]}-{seed}-{case.fault.replace(' ', '-')}.jsonl"
        inputs = (None,) if kind == "gan" else _images(data, case.data)
        yield module.train(case, *inputs, log, progress=progress)


def _images(data: str | Path | None, name: str) -> tuple[Any, Any]:
    """16 × 16 images and their labels; made-up ones without a folder."""
    import torch

    from genkernel.data import load_images

    if data is None:
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(1200) % 10
        means = torch.rand(10, 1, 16, 16, generator=draw)
        return (means[labels] + 0.3 * torch.randn(1200, 1, 16, 16, generator=draw)).clamp(0, 1), labels
    path = Path(data).expanduser() / f"{name}.npz"
    found = load_images(path, size=16, channels=1, split="train", limit=IMAGES, seed=0)
    assert found.labels is not None
    return found.images, found.labels.long()


# ------------------------------------------------------------------------------- what it comes to


def outcome(findings: list[Finding], settings: dict[str, Any]) -> Outcome:
    """Claims, tables and the figure of trainings that have been judged."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.kind, one.fault), []).append(one)
    faulty = {key: ones for key, ones in groups.items() if key[1] != "none"}
    healthy = [one for one in findings if one.fault == "none"]
    found = Outcome("monitors", settings)
    found.claims = _claims(faulty, healthy)
    found.tables = [_detections(faulty), _alarms(findings, healthy), _messages(faulty)]
    found.figures = {"monitor-study": _figure(faulty, settings)} if faulty else {}
    found.numbers = {
        "trainings": [
            {
                "kind": one.kind, "fault": one.fault, "recipe": one.recipe, "onset": one.onset, "found": one.found,
                "rule": one.rule, "placed": one.placed, "first": one.first, "by_loss": one.by_loss,
                "counted": one.counted, "counted_placed": one.counted_placed,
                "false": one.false, "false_by_loss": one.false_by_loss, "readings": one.readings,
                "alerts": [{"step": a.step, "rule": a.rule, "message": a.message} for a in one.everything],
            }
            for one in findings
        ]
    }  # fmt: skip
    return found


def _detections(faulty: dict[tuple[str, str], list[Finding]]) -> Table:
    rows = []
    for (kind, fault), ones in faulty.items():
        hits = [one for one in ones if one.found is not None]
        low, high = share(len(hits), len(ones))
        placed = [one.placed for one in hits if not math.isnan(one.placed)]
        by_loss = [one for one in ones if one.by_loss is not None]
        both = [one.by_loss - one.found for one in hits if one.by_loss is not None and one.found is not None]
        rules = Counter(one.rule for one in hits).most_common()
        rows.append(
            (
                kind,
                fault,
                f"{len(hits)} of {len(ones)}",
                f"{low:.2f} … {high:.2f}",
                _median(delays(ones)),
                ", ".join(f"{name} ({count})" for name, count in rules) or None,
                float(np.mean(placed)) if placed else None,
                f"{len(by_loss)} of {len(ones)}",
                _median(delays(ones, "by_loss")),
                _median(both),
                _counted(fault, ones),
            )
        )
    columns = (
        "model", "planted fault", "found", "95 %", "steps after onset", "found first by", "places that are right",
        "found by losses", "steps after onset, losses", "lead over losses, steps", "by counting draws",
    )  # fmt: skip
    return Table("Faults that were planted", columns, rows)


def _counted(fault: str, ones: list[Finding]) -> str | None:
    """How many of the trainings a rule that counts draws has found, and after how many steps."""
    if fault not in COUNTING:
        return None
    after = delays(ones, "counted")
    return f"{len(after)} of {len(ones)}" + (f" after {_median(after):.0f}" if after else "")


def _alarms(findings: list[Finding], healthy: list[Finding]) -> Table:
    """False alarms: in healthy trainings, and before the onset in others."""
    rows: list[tuple[Any, ...]] = []
    for kind in dict.fromkeys(one.kind for one in findings):
        mine = [one for one in healthy if one.kind == kind]
        early = [one for one in findings if one.kind == kind and one.onset > 0]
        names = Counter(name for one in (*mine, *early) for name in one.false)
        with_any = sum(bool(one.false) for one in mine)
        low, high = share(with_any, len(mine))
        rows.append(
            (
                kind,
                f"{with_any} of {len(mine)}",
                f"{low:.2f} … {high:.2f}",
                sum(one.readings for one in mine),
                f"{sum(bool(one.false) for one in early)} of {len(early)}",
                ", ".join(f"{name} ({count})" for name, count in names.most_common()) or None,
                f"{sum(one.false_by_loss > 0 for one in mine)} of {len(mine)}",
            )
        )
    columns = (
        "model", "healthy trainings with an alarm", "95 %", "readings", "with one before the onset", "rules", "losses",
    )  # fmt: skip
    return Table("False alarms", columns, rows)


def _messages(faulty: dict[tuple[str, str], list[Finding]]) -> Table:
    rows = []
    for (kind, fault), ones in faulty.items():
        said = [message for one in ones for message in (one.message, one.counted_message) if message]
        rows.append((kind, fault, said[0] if said else None))
    return Table("What users are told", ("model", "planted fault", "first message about it"), rows)


def _claims(faulty: dict[tuple[str, str], list[Finding]], healthy: list[Finding]) -> list[Claim]:
    every = [one for ones in faulty.values() for one in ones]
    hits = sum(one.found is not None for one in every)
    either = sum(one.found is not None or one.counted is not None for one in every)
    kinds_found = sum(any(one.found is not None for one in ones) for ones in faulty.values())
    most = sum(2 * sum(one.found is not None for one in ones) > len(ones) for ones in faulty.values())
    alarms = sum(bool(one.false) for one in healthy)
    _, worst = share(alarms, len(healthy))
    losses = sum(one.by_loss is not None for one in every)
    only = sum(one.found is not None and one.by_loss is None for one in every)
    missed = sum(one.found is None and one.by_loss is not None for one in every)
    lead = [one.by_loss - one.found for one in every if one.by_loss is not None and one.found is not None]
    claims = [
        Claim(
            "planted faults are found",
            f"{hits} of {len(every)} trainings by readings ({either} with what counting draws finds); {kinds_found} of "
            f"{len(faulty)} kinds of faults at least once, {most} in most trainings",
            "yes" if most == len(faulty) else "partly" if hits else "no",
        ),
        Claim(
            "healthy trainings raise no alarm",
            f"{alarms} of {len(healthy)} raised one; up to {worst:.0%} are within the 95 % interval",
            "undecided" if not healthy else "yes" if alarms == 0 else "partly" if alarms < len(healthy) / 4 else "no",
        ),
        Claim(
            "monitors find what losses do not show",
            f"{only} found by the monitor alone, {missed} by the losses alone, of {len(every)}; losses found {losses}",
            "yes" if only > missed else "no",
        ),
    ]
    drawn = [one for ones in faulty.values() for one in ones if one.fault in COUNTING]
    if drawn:
        seen = sum(one.counted is not None for one in drawn)
        claims.append(
            Claim(
                "levels and classes that are not drawn are found by counting what the training draws",
                f"{seen} of {len(drawn)}, median {_median(delays(drawn, 'counted')):.0f} steps after the onset; "
                f"{sum(one.found is not None for one in drawn)} by readings",
                "yes" if seen == len(drawn) else "partly" if seen else "no",
            )
        )
    if lead:
        claims.append(
            Claim(
                "monitors find earlier what both find",
                f"median lead {_median(lead):.0f} steps over {len(lead)} trainings, earlier in "
                f"{sum(one > 0 for one in lead)}, later in {sum(one < 0 for one in lead)}",
                "yes" if np.median(lead) > 0 else "no",
            )
        )
    return claims


def _figure(faulty: dict[tuple[str, str], list[Finding]], settings: dict[str, Any]) -> Any:
    from genkernel.plots.monitor_study import detection_times

    found, length = {}, {}
    for (kind, fault), ones in faulty.items():
        name = f"{kind}: {fault}"
        left = [max(1, one.recipe["steps"] - one.onset) for one in ones]
        found[name] = [
            tuple(None if at is None else (at - one.onset) / span for at in (one.found, one.by_loss))
            for one, span in zip(ones, left, strict=True)
        ]
        length[name] = float(np.median([span / one.every for one, span in zip(ones, left, strict=True)]))
    return detection_times(found, length, {"seed": settings["first_seed"]})  # type: ignore[arg-type]


def _median(values: list[int]) -> float:
    return float(np.median(values)) if values else math.nan
