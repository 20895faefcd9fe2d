"""The page of a monitor's log: what was read, what the rules said of it, and every number over the steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots.monitor import drawings, heading
from genkernel.plots.monitor_course import LONGEST
from genkernel.plots.style import counted, number
from genkernel.report.monitor_captions import GUIDE, LEADS, LIMITS, MEANINGS, caption
from genkernel.report.page import Number, Picture, Table, pictures, render
from genkernel.report.provenance import citation, finished_at, provenance_facts

if TYPE_CHECKING:
    from genkernel.monitor.trace import Alert, Trace

ARTICLES = {"denoiser": "a denoiser", "gan": "a GAN", "classifier": "a classifier"}
LISTED = 6  # alerts in the headline
ROWS = 200  # of a table
PLACES = 6  # places of an alert that a table names


@dataclass(frozen=True)
class State:
    """What the alerts come to, for the mark at the top.

    Attributes:
        level: how it is marked: ``"ok"``, ``"watch"``, ``"collapsing"`` (red), ``"unknown"``.
        mark: a sign beside it.
        label: in a few words.
        meaning: in a sentence.
    """

    level: str
    mark: str
    label: str
    meaning: str


def monitor_page(trace: Trace, provenance: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The self-contained HTML page of a log.

    Args:
        trace: the readings and alerts.
        provenance: the content of ``run.json``.
        drawn: figures as PNG bytes, by the names of :func:`genkernel.plots.monitor.monitor_figures`.
    """
    name = str((provenance.get("data") or {}).get("description") or "a monitor's log")
    settings = trace.header.settings
    watched = [part for key in ("denoiser", "generator") if isinstance(part := settings.get(key), dict)]
    model = next((str(part.get("name") or part.get("class")) for part in watched), str(settings.get("class") or ""))
    words = [model, name, f"seed {settings['seed']}" if settings.get("seed") is not None else ""]
    return render(
        "monitor.html.j2",
        title=f"The monitor of {model or name}",
        heading=f"What the monitor saw in {ARTICLES.get(trace.header.kind, f'a {trace.header.kind}')}",
        subtitle=" · ".join(word for word in words if word),
        state=state(trace),
        reading=headline(trace),
        alerts=alert_lines(trace),
        guide=[sentence.format(longest=LONGEST) for sentence in GUIDE],
        numbers=key_numbers(trace),
        sections=_sections(trace, drawn),
        tables=[
            table
            for table in (alert_table(trace), problem_table(trace), missing_table(trace), weight_table(trace))
            if table.rows
        ],
        limits=LIMITS,
        terms=[(one, MEANINGS[one]) for one in [*trace.names, *trace.array_names] if one in MEANINGS],
        facts=[*_recorded(trace), *provenance_facts(provenance)],
        citation=citation(),
        finished=finished_at(provenance),
    )


# ------------------------------------------------------------------------------ in words


def headline(trace: Trace) -> list[str]:
    """How many readings over which steps, what they cost, and what is missing."""
    what = ARTICLES.get(trace.header.kind, f"a {trace.header.kind}")
    if not len(trace):
        return [f"This log of {what} holds no reading yet: the run has only begun, or ended before its first reading."]
    steps, count = trace.steps, len(trace)
    span = f"at step {steps[0]:,}" if count == 1 else f"over steps {steps[0]:,} to {steps[-1]:,}"
    said = [f"{counted(count, 'reading')} of {what} {span}."]
    if (cost := _cost(trace)) is not None:
        said.append(cost)
    bad = [reading for reading in trace.readings if reading.problems]
    if bad:
        parts = sorted({problem.part for reading in bad for problem in reading.problems})
        said.append(
            f"{counted(len(bad), 'reading')} {'is' if len(bad) == 1 else 'are'} incomplete: {', '.join(parts)} could "
            f"not be read ({'' if len(bad) == 1 else 'first '}at step {bad[0].step:,}; see the table of problems)."
        )
    return said


def state(trace: Trace) -> State:
    """What the alerts come to."""
    rules = trace.header.settings.get("rules")
    failures = sum(alert.severity == "failure" for alert in trace.alerts)
    if failures:
        some = counted(len(trace.alerts), "alert")
        return State("collapsing", "✗", some, f"{failures} of them cannot be chance.")
    if trace.alerts:
        return State("watch", "!", counted(len(trace.alerts), "alert"), "Numbers left their course.")
    if isinstance(rules, list) and not rules:
        return State("unknown", "?", "no rules", "This monitor was given no rules, so that nothing was judged.")
    if not len(trace):
        return State("unknown", "?", "no readings", "Nothing has been judged yet.")
    if not isinstance(rules, list):  # of a watch that does not say what it was judged by
        return State("unknown", "?", "no alerts", "The log does not say which rules were asked.")
    return State("ok", "✓", "no alerts", f"None of {counted(len(rules), 'rule')} had anything to say.")


def alert_lines(trace: Trace) -> list[str]:
    """The alerts in words: failures first, then the newest."""
    ranked = sorted(trace.alerts, key=lambda alert: (alert.severity != "failure", -alert.step))
    said = [_sentence(alert) for alert in ranked[:LISTED]]
    return said + ([f"{len(ranked) - LISTED} more are in the table."] if len(ranked) > LISTED else [])


def _sentence(alert: Alert) -> str:
    """An alert with the step at its beginning, and a full stop."""
    words = " ".join(alert.message.split()).rstrip(".")
    if not re.match(rf"step {alert.step}\b", words):
        words = f"step {alert.step}: {words}"
    end = "" if words.endswith((".", "?", "!")) else "."
    return f"{words[:1].upper()}{words[1:]}{end}"


def _cost(trace: Trace) -> str | None:
    share = _last_finite(trace.scalar("monitor/overhead"))
    seconds = np.array([reading.seconds for reading in trace.readings])
    if share is None:
        return None
    each = number(float(f"{np.median(seconds):.2g}"))
    return f"Readings took {_percent(share)} of the time of everything else, {each} s each{_bound(trace)}."


def _bound(trace: Trace) -> str:
    bound = trace.header.settings.get("max_overhead")
    return f"; at most {_percent(float(bound))} was allowed" if isinstance(bound, int | float) else ""


def _percent(share: float) -> str:
    return f"{number(float(f'{100 * share:.2g}'))} %" if share < 1 else f"{100 * share:.0f} %"


def _last_finite(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


# --------------------------------------------------------------------------------- numbers


def key_numbers(trace: Trace) -> list[Number]:
    """The handful of numbers that a reader takes away."""
    if not len(trace):
        return []
    steps = trace.steps
    found = [Number("Readings", f"{len(trace):,}", f"steps {steps[0]:,} to {steps[-1]:,}")]
    if len(trace) > 1:
        waits = np.diff(steps)
        asked = trace.header.settings.get("every")
        note = f"median {number(float(np.median(waits)))}" + (f", asked for every {asked}" if asked else "")
        found.append(Number("Longest wait", f"{int(waits.max()):,} steps", note))
    if (share := _last_finite(trace.scalar("monitor/overhead"))) is not None:
        seconds = sum(reading.seconds for reading in trace.readings)
        found.append(Number("Overhead", _percent(share), f"{number(float(f'{seconds:.3g}'))} s of readings"))
    for name, words in (("loss/mean", "Loss on the probes"), ("ema/loss", "Loss of the average")):
        values = trace.scalar(name)
        if (last := _last_finite(values)) is not None:
            first = float(values[np.isfinite(values)][0])
            found.append(Number(words, number(float(f"{last:.3g}")), f"{number(float(f'{first:.3g}'))} at first"))
    found.append(Number("Alerts", f"{len(trace.alerts)}", "raised while it trained"))
    found.append(
        Number("Problems", f"{sum(len(reading.problems) for reading in trace.readings)}", "parts that were not read")
    )
    return found


def alert_table(trace: Trace) -> Table:
    """Every alert: when, since when, where, and the numbers that it rests on."""
    rows = []
    for alert in trace.alerts[-ROWS:]:
        where = ", ".join(alert.where[:PLACES])
        where += f" and {len(alert.where) - PLACES} others" if len(alert.where) > PLACES else ""
        evidence = ", ".join(f"{name} {_short(value)}" for name, value in alert.evidence.items())
        step, since = f"{alert.step:,}", f"{alert.since:,}"
        rows.append([alert.rule, step, since, alert.severity, where or "everywhere", alert.message, evidence])
    head = ["rule", "step", "since", "severity", "where", "message", "evidence"]
    return Table("Alerts", head, rows, _most(len(trace.alerts)), text=(3, 4, 5, 6))


def problem_table(trace: Trace) -> Table:
    """Parts that could not be read, one row per part and reason."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for reading in trace.readings:
        for problem in reading.problems:
            found.setdefault((problem.part, problem.error), []).append((reading.step, problem.message))
    rows = [
        [part, error, f"{len(seen)}", f"{seen[0][0]:,}", f"{seen[-1][0]:,}", seen[-1][1]]
        for (part, error), seen in found.items()
    ]
    head = ["part", "error", "readings", "first at step", "last at step", "reason given last"]
    return Table("Problems", head, rows[:ROWS], _most(len(rows)), text=(1, 5))


def missing_table(trace: Trace) -> Table:
    """Scalars and arrays that are missing or not finite in some readings."""
    rows = []
    for name in [*trace.names, *trace.array_names]:
        missing = infinite = absent = 0
        steps: list[int] = []
        for reading in trace.readings:
            value = reading.scalars.get(name, reading.arrays.get(name))
            if value is None:
                absent += 1
                steps.append(reading.step)
                continue
            values = np.asarray(value, dtype=np.float64)
            nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
            missing, infinite = missing + nan, infinite + inf
            if nan or inf:
                steps.append(reading.step)
        if steps:
            rows.append([name, f"{absent}", f"{missing}", f"{infinite}", f"{steps[0]:,}", f"{steps[-1]:,}"])
    head = ["number", "readings without it", "entries NaN", "entries infinite", "first at step", "last at step"]
    note = "NaN says that there is nothing to be known, such as a movement at the first reading. Drawn as gaps."
    return Table("Gaps", head, rows[:ROWS], note)


def weight_table(trace: Trace) -> Table:
    """Parameters with NaN or infinite entries."""
    if trace.header.arrays.get("weights/nonfinite") != ["parameter"] or "parameter" not in trace.header.axes:
        return Table("Weights that are not finite", [], [])
    labels = trace.header.axes["parameter"].labels
    first: dict[str, int] = {}
    most: dict[str, int] = {}
    for reading in trace.readings:
        counts = reading.arrays.get("weights/nonfinite", np.zeros(len(labels)))
        for label, count in zip(labels, counts, strict=False):
            if count > 0:
                first.setdefault(label, reading.step)
                most[label] = max(most.get(label, 0), int(count))
    rows = [[label, f"{most[label]}", f"{step:,}"] for label, step in first.items()]
    head = ["parameter", "entries, at most", "first at step"]
    return Table("Weights that are not finite", head, rows[:ROWS], _most(len(rows)))


def _most(count: int) -> str:
    return f"{ROWS} of {count:,} rows; the log has all." if count > ROWS else ""


def _short(value: float) -> str:
    return number(float(f"{value:.3g}")) if math.isfinite(value) else str(value)


# -------------------------------------------------------------------------------- sections


def _sections(trace: Trace, drawn: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Figures by what their numbers are about."""
    every = drawings(trace)
    captions = {one.name: caption(one.name, one.title, one.about) for one in every}
    found = []
    for about in dict.fromkeys(one.topic for one in every):
        figures: list[Picture] = pictures(drawn, [one.name for one in every if one.topic == about], captions)
        if figures:
            anchor = "topic-" + (re.sub(r"\W+", "-", about, flags=re.ASCII).strip("-") or "other")
            found.append({"anchor": anchor, "title": heading(about), "lead": LEADS.get(about, ""), "figures": figures})
    return found


def _recorded(trace: Trace) -> list[tuple[str, str]]:
    """Of the training that was watched, as the log's header says."""
    about, settings = trace.header.provenance, trace.header.settings
    machine = about.get("machine") or {}
    rules = settings.get("rules")
    plain = {k: v for k, v in settings.items() if isinstance(v, int | float | str | bool) and k != "seed"}
    facts = [
        ("Watched with", ", ".join(f"{k} {v}" for k, v in (about.get("versions") or {}).items())),
        ("Watched on", ", ".join(str(v) for v in machine.values() if isinstance(v, str | int))),
        ("Settings", ", ".join(f"{k}={v}" for k, v in plain.items())),
        ("Seed of the probes", str(settings.get("seed", ""))),
        ("Rules", (", ".join(map(str, rules)) or "none") if isinstance(rules, list) else ""),
    ]
    return [(name, value) for name, value in facts if value]
