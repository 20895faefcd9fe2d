"""The collapse study as a whole: every indicator's record, as numbers and as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genkernel.errors import InputError
from genkernel.experiments.collapse import statistics
from genkernel.experiments.collapse.statistics import Alarms, Area, Run
from genkernel.gan.indicators import INDICATORS


@dataclass(frozen=True)
class Record:
    """What the study says about one indicator.

    Attributes:
        name, label: of the indicator.
        worse: the direction that was expected of collapse; that of a loss is the better one on the calibration runs.
        baseline: it looks at samples or losses alone.
        end: collapsed against healthy, at the end of training.
        end_threshold: from the calibration runs.
        spared, found: shares of the healthy and of the collapsed reported ends on the right side of it.
        ahead: copies that still hold their modes, before a drop against others.
        ahead_matched: the same at equal occupancy.
        towards_matched: copies of runs that end collapsed against those that end healthy, at equal occupancy.
        alarms: as an alarm during training.
    """

    name: str
    label: str
    worse: int
    baseline: bool
    end: Area
    end_threshold: float
    spared: float
    found: float
    ahead: Area
    ahead_matched: Area
    towards_matched: Area
    alarms: Alarms


@dataclass(frozen=True)
class Study:
    """All records, and what they were made from.

    Attributes:
        records: in the order of :data:`genkernel.gan.indicators.INDICATORS`, then the losses.
        outcomes: role → outcome → number of runs.
        by_recipe: ``"data recipe"`` → outcome → number of reported runs.
        drops: reported runs that lost modes which they had held.
    """

    records: list[Record]
    outcomes: dict[str, dict[str, int]]
    by_recipe: dict[str, dict[str, int]]
    drops: int


def evaluate(runs: Iterable[Run], draws: int = 400) -> Study:
    """Choose thresholds on the runs to calibrate on, and judge every indicator on the others.

    Raises:
        InputError: one of the two has no healthy or no collapsed run.
    """
    calibrate, report = statistics.split(runs)
    for role, part in (("calibrate", calibrate), ("report", report)):
        ends = {statistics.outcome(run) for run in part}
        if not {statistics.HEALTHY, statistics.COLLAPSED} <= ends:
            raise InputError(
                f"the study needs healthy and collapsed runs to {role}; there are {len(part)} runs to {role}"
            )
    candidates = [(name, i.label, i.worse, i.baseline) for name, i in INDICATORS.items()]
    for name, label in statistics.LOSSES.items():
        candidates.append((name, label, _better_direction(calibrate, name), True))
    known = set(report[0]["rows"][0]["indicators"]) | set(statistics.LOSSES)
    records = [_record(calibrate, report, *c, draws=draws) for c in candidates if c[0] in known]
    return Study(
        records=records,
        outcomes={role: dict(Counter(map(statistics.outcome, part)))
                  for role, part in (("calibrate", calibrate), ("report", report))},
        by_recipe=_by_recipe(report),
        drops=sum(statistics.drop(run) is not None for run in report if not run["diverged"]),
    )  # fmt: skip


def _record(
    calibrate: Sequence[Run], report: Sequence[Run], name: str, label: str, worse: int, baseline: bool, draws: int
) -> Record:
    threshold = statistics.end_threshold(calibrate, name, worse)
    spared, found = statistics.accuracy(report, name, worse, threshold)
    scores, marks, match = statistics.ahead(report, name, worse)
    return Record(
        name=name,
        label=label,
        worse=worse,
        baseline=baseline,
        end=statistics.area(*statistics.at_the_end(report, name, worse), draws=draws),
        end_threshold=threshold,
        spared=spared,
        found=found,
        ahead=statistics.area(scores, marks, draws=draws),
        ahead_matched=statistics.matched_area(scores, marks, match, draws=draws // 4),
        towards_matched=statistics.matched_area(*statistics.towards(report, name, worse), draws=draws // 4),
        alarms=statistics.alarms(calibrate, report, name, worse),
    )


def _better_direction(calibrate: Sequence[Run], name: str) -> int:
    found = statistics.area(*statistics.at_the_end(calibrate, name, 1), draws=0).value
    return 1 if not found < 0.5 else -1


def _by_recipe(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    names = dict.fromkeys(f"{run['data']} {run['recipe']}" for run in runs)
    return {
        name: dict(Counter(statistics.outcome(run) for run in runs if f"{run['data']} {run['recipe']}" == name))
        for name in names
    }


# what values of indicators depend on
SETTINGS: dict[str, dict[str, Any]] = {
    "points": {"latents": 512, "dimension": 2, "clusters": "modes"},
    "images": {"latents": 256, "dimension": 16, "clusters": "k-means"},
}
EXPECTED = 0.95  # share of further healthy runs that the healthy range is to hold
SEPARATES = 0.9  # area under the curve, on the runs to calibrate on, from which an indicator gets a threshold
KINDS = {"points": ("ring", "grid"), "images": ("mnist", "fashion")}


def ranges(runs: Iterable[Run]) -> dict[str, Any]:
    """The reference ranges of the verdict, from the runs to calibrate on alone.

    A healthy range ends, on the side that is worse, where :data:`EXPECTED` of further healthy runs are expected to
    stay within (a one-sided prediction interval for one more run, from the last values of the healthy ones; it is wide
    where they are few) but no further than any run has been, and on the other side with the best of them. The
    threshold parts healthy from collapsed ends and lies outside of the healthy range; an indicator that does not part
    them has none.
    """
    calibrate, _ = statistics.split(runs)
    found: dict[str, Any] = {}
    for kind, data in KINDS.items():
        mine = [run for run in calibrate if run["data"] in data]
        healthy = [run for run in mine if statistics.outcome(run) == statistics.HEALTHY]
        collapsed = [run for run in mine if statistics.outcome(run) == statistics.COLLAPSED]
        if not healthy or not collapsed:
            continue
        entries = {name: entry for name in INDICATORS if (entry := _range(mine, healthy, name)) is not None}
        names = " and ".join(name for name in data if any(run["data"] == name for run in mine))
        words = f"{len(healthy)} healthy and {len(collapsed)} collapsed runs on {names}"
        found[kind] = {"source": f"collapse study, {words}", "setting": SETTINGS[kind], "indicators": entries}
    return found


def _range(runs: Sequence[Run], healthy: Sequence[Run], name: str) -> dict[str, Any] | None:
    from scipy.stats import t

    worse = INDICATORS[name].worse
    ends = worse * np.array([statistics.values(run, name)[-1] for run in healthy])
    ends = ends[np.isfinite(ends)]
    if len(ends) < 3:
        return None
    bound = float(ends.mean() + ends.std(ddof=1) * math.sqrt(1 + 1 / len(ends)) * t.ppf(EXPECTED, len(ends) - 1))
    seen = worse * np.concatenate([statistics.values(run, name) for run in runs])
    worst = float(seen[np.isfinite(seen)].max())  # what is at most 1 is not expected beyond it
    low, high = sorted((worse * float(ends.min()), worse * min(max(bound, float(ends.max())), worst)))
    alarm = None
    if statistics.area(*statistics.at_the_end(runs, name, worse), draws=0).value >= SEPARATES:
        threshold = statistics.end_threshold(runs, name, worse)
        alarm = max(threshold, high) if worse > 0 else min(threshold, low)
    return {"healthy": [low, high], "alarm": alarm}


def verdicts(runs: Iterable[Run], kind: str, leave_out: Sequence[str] = ()) -> dict[str, Counter[str]]:
    """How the verdict does at the end of runs: outcome → verdict → number of runs.

    Modes are never counted for it here, because their count is what defines the outcome.

    Args:
        leave_out: indicators that are not given to it.
    """
    from genkernel.gan.rules import judge_values

    found: dict[str, Counter[str]] = {}
    for run in runs:
        if run["diverged"]:
            continue
        last = {k: v for k, v in run["rows"][-1]["indicators"].items() if k not in leave_out}
        label = judge_values({k: math.nan if v is None else v for k, v in last.items()}, kind).label
        found.setdefault(statistics.outcome(run), Counter())[label] += 1
    return found


def outcome_table(runs: Iterable[Run], kinds: Mapping[str, str]) -> str:
    """Markdown: how the runs of every recipe ended, and what the verdict says of their last copies.

    Args:
        kinds: kind of sample by data, for the verdict.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["data"], run["recipe"]), []).append(run)
    outcomes = (statistics.HEALTHY, statistics.PARTIAL, statistics.COLLAPSED, statistics.DIVERGED)
    head = f"| data | recipe | runs | {' | '.join(outcomes)} | lost modes that it had held | verdict at the end |\n"
    rows = [head, "| --- " * (head.count("|") - 1) + "|\n"]
    for (data, recipe), mine in sorted(groups.items()):
        ends = Counter(map(statistics.outcome, mine))
        drops = sum(statistics.drop(run) is not None for run in mine if not run["diverged"])
        said = Counter(label for counts in verdicts(mine, kinds[data]).values() for label in counts.elements())
        words = ", ".join(f"{count} {label}" for label, count in said.most_common())
        cells = [data, recipe, str(len(mine)), *(str(ends[o] or "") for o in outcomes), str(drops or ""), words]
        rows.append(f"| {' | '.join(cells)} |\n")
    return "".join(rows)


def table(study: Study) -> str:
    """Markdown: one row per indicator, the best at the end first."""
    head = (
        "| Indicator | AUC at the end | right at the end: healthy, collapsed | AUC ahead | … at equal occupancy | "
        "AUC of the outcome at equal occupancy | false alarms | caught | before the drop | median lead |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    order = sorted(study.records, key=lambda r: -r.end.value if math.isfinite(r.end.value) else 1.0)
    return head + "".join(_row(record) for record in order)


def _row(r: Record) -> str:
    lead = f"{r.alarms.median_lead:+.0f}" if r.alarms.leads else "–"
    cells = [
        f"{r.label}{' (baseline)' if r.baseline else ''}",
        _area(r.end),
        f"{_percent(r.spared)}, {_percent(r.found)}",
        _area(r.ahead),
        _area(r.ahead_matched),
        _area(r.towards_matched),
        _percent(r.alarms.false),
        _percent(r.alarms.caught),
        _percent(r.alarms.early),
        lead,
    ]
    return "| " + " | ".join(cells) + " |\n"


def _area(found: Area) -> str:
    if not math.isfinite(found.value):
        return "–"
    interval = f" ({found.low:.2f}–{found.high:.2f})" if math.isfinite(found.low) else ""
    return f"{found.value:.2f}{interval}"


def _percent(value: float) -> str:
    return f"{value:.0%}".replace("%", " %") if math.isfinite(value) else "–"
