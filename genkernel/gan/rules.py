"""The rules of the verdict.

Every indicator is compared with its range in healthy runs of the collapse study (docs/mode-collapse.md) and with a
threshold from the same runs, for generators of points and of images apart.

The verdict leans on the indicators that :data:`COUNTING` names, for two views that are computed from different things:
how latents are tied together (the kernel, which sees no data), and what the samples cover (which needs real samples,
known modes or a classifier, and no network but the generator). All others are shown beside: the study found that they
repeat the occupancy of the clusters, say nothing, or do not carry over to other networks. In this order:

1. *collapsing* where known modes, or a classifier's classes, are counted and at most half of them are there.
2. *unknown* where one of the views could not be taken, or the study has no ranges for such samples.
3. *collapsing* where one view is beyond its threshold and the other at least outside of its healthy range.
4. *ok* where both are within their healthy ranges.
5. *watch* otherwise.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from genkernel.gan.indicators import INDICATORS, indicators
from genkernel.gan.results import GanResult
from genkernel.gan.verdict import Evidence, Label, Verdict

COUNTING = {
    "kernel_mean": "kernel",
    "relative_diversity": "coverage",
    "recall": "coverage",
}
VIEWS = {
    "kernel": "the kernel over latents",
    "coverage": "what the samples cover",
}
LOST = 0.5  # share of the modes that makes a collapse when no more are there


@functools.cache
def reference_ranges() -> dict[str, dict[str, Any]]:
    """Ranges in the study, by kind of sample (``"points"``, ``"images"``); written by scripts/study_collapse.py."""
    text = (resources.files("genkernel.gan") / "reference_ranges.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def kind_of(shape: list[int]) -> str | None:
    """``"points"`` of up to 16 dimensions, ``"images"``, or None for what the study does not have."""
    if len(shape) == 1 and shape[0] <= 16:
        return "points"
    return "images" if len(shape) == 3 else None


def judge(result: GanResult) -> Verdict:
    """The verdict on a result, with all indicators as its evidence."""
    lack = []
    if result.coverage.modes is None and result.coverage.neighbours is None and math.isnan(result.coverage.frechet):
        lack.append("real samples, a classifier or known modes")
    kind = kind_of(result.meta["generator"]["output_shape"])
    return judge_values(indicators(result), kind, _counted(result), lack)


def judge_values(
    values: Mapping[str, float], kind: str | None, counted: Evidence | None = None, lack: Sequence[str] = ()
) -> Verdict:
    """The same from the values of the indicators.

    Args:
        values: by name; what is missing or NaN says nothing.
        kind: of samples, see :func:`kind_of`.
        counted: modes that were counted.
        lack: what was not given, in words.
    """
    ranges = reference_ranges().get(kind or "", {})
    evidence = [_evidence(name, values.get(name, math.nan), ranges) for name in INDICATORS]
    if counted is not None:
        evidence.append(counted)
    views = _views(evidence)
    if counted is not None and counted.says == "collapsing":
        others = {view: said for view, said in views.items() if view != "coverage"}
        return Verdict("collapsing", [f"Modes are missing: {_said(counted)}", *_sentences(others)], evidence)
    if kind is None and len(views) < 2:
        words = "its samples are neither points of the plane nor images, for which the study has no ranges"
        return Verdict("unknown", [f"No verdict: {words}."], evidence)
    if len(views) < 2:
        return Verdict("unknown", [_too_little(views, lack)], evidence)
    bad = [view for view, said in views.items() if said[0].says == "collapsing"]
    fine = [view for view, said in views.items() if said[0].says == "ok"]
    reasons = _sentences(views)
    if bad and not fine:
        return Verdict("collapsing", reasons, evidence)
    if len(fine) == len(views):
        return Verdict("ok", reasons, evidence)
    if bad:
        reasons.append("The other view does not confirm it: look again later in training.")
    return Verdict("watch", reasons, evidence)


def _evidence(name: str, value: float, ranges: dict[str, Any]) -> Evidence:
    indicator = INDICATORS[name]
    known = ranges.get("indicators", {}).get(name)
    low, high, alarm = (math.nan, math.nan, math.nan)
    if known is not None:
        low, high = known["healthy"]
        alarm = math.nan if known["alarm"] is None else known["alarm"]
    return Evidence(
        name=name,
        label=indicator.label,
        group=indicator.group,
        value=value,
        healthy=(low, high),
        alarm=alarm,
        worse=indicator.worse,
        says=_says(value, (low, high), alarm, indicator.worse),
        counts=name in COUNTING and math.isfinite(alarm),
        source=ranges["source"] if known is not None else "no range for samples of this kind",
    )


def _says(value: float, healthy: tuple[float, float], alarm: float, worse: int) -> Label:
    if math.isnan(value) or not math.isfinite(sum(healthy)):
        return "unknown"
    edge = healthy[1] if worse > 0 else healthy[0]
    if worse * value <= worse * edge:
        return "ok"
    return "collapsing" if math.isfinite(alarm) and worse * value > worse * alarm else "watch"


def _counted(result: GanResult) -> Evidence | None:
    """Modes that are there, where they can be counted."""
    modes = result.coverage.modes
    if modes is None:
        return None
    share = modes.covered / modes.modes
    fewest = min(0.9, 1 - 1 / modes.modes)  # one stray mode of a few is no more than a hint
    return Evidence(
        name="modes_covered",
        label="share of the modes covered",
        group="coverage",
        value=share,
        healthy=(fewest, 1.0),
        alarm=LOST,
        worse=-1,
        says="collapsing" if share <= LOST else "ok" if share >= fewest else "watch",
        counts=True,
        source=f"{modes.covered} of {modes.modes} counted: {modes.rule}; at most half is a collapse by definition",
    )


def _views(evidence: list[Evidence]) -> dict[str, list[Evidence]]:
    """What counts and could be read, by view; the worst first."""
    order = {"collapsing": 0, "watch": 1, "ok": 2}
    found: dict[str, list[Evidence]] = {}
    for e in evidence:
        if e.counts and e.says != "unknown":
            found.setdefault(COUNTING.get(e.name, "coverage"), []).append(e)
    return {view: sorted(found[view], key=lambda e: order[e.says]) for view in VIEWS if view in found}


def _sentences(views: dict[str, list[Evidence]]) -> list[str]:
    return [f"{VIEWS[view][0].upper()}{VIEWS[view][1:]}: {_said(said[0])}" for view, said in views.items()]


def _said(e: Evidence) -> str:
    words = {"ok": "in the range of healthy runs", "watch": "between healthy runs and the threshold"}
    beyond = "above" if e.worse > 0 else "at or below" if e.name == "modes_covered" else "below"
    says = words.get(e.says, f"{beyond} the threshold of {e.alarm:.3g}")
    low, high = e.healthy
    return f"{e.label} {e.value:.3g}, {says} (healthy: {low:.3g} to {high:.3g})."


def _too_little(views: dict[str, list[Evidence]], lack: Sequence[str]) -> str:
    have = f"only one view could be taken ({VIEWS[next(iter(views))]})" if views else "no view could be taken"
    cure = f": give {' or '.join(lack)}" if lack else ""
    return f"No verdict: {have}, and it takes two{cure}."
