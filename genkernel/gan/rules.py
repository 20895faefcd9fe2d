"""The rules of the verdict.

Every indicator is compared with its range in healthy runs of the collapse study (docs/mode-collapse.md) and with a
threshold from the same runs, for generators of points and of images apart.

The verdict leans on the indicators that :data:`COUNTING` names, for two views that are computed from different things:
how latents are tied together (the kernel, which sees no data), and what the samples cover (which needs real samples,
known modes or a classifier, and no network but the generator). All others are shown beside: the study found that they
repeat the occupancy of the clusters, say nothing, or do not carry over to other networks. In this order:

1. *collapsing* where samples are all the same; where they differ from one another by less than a twentieth of what
   real samples do (:data:`NARROW`); or by less than half (:data:`HALF`), and recall is beyond its threshold as well.
2. *collapsing* where known modes, or a classifier's classes, are counted, at most half of them are there, and samples
   do not spread over the others either. (Samples that spread over all modes and miss them are bad, not collapsed.)
3. *unknown* where one of the views could not be taken, or the study has no ranges for such samples.
4. *collapsing* where coverage is beyond its threshold and the kernel at least outside of its healthy range. Little
   diversity alone is not beyond it where recall and counted modes are as in healthy runs.
5. *ok* where both are within their healthy ranges, and precision and recall are not both nearly zero.
6. *watch* otherwise.

Ranges are used only where they mean the same: the rank of a kernel of 64 latents is not compared with that of 512. With
fewer latents than in the study values are noisier: two standard errors are allowed for what is noisier about them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from genkernel.gan.indicators import INDICATORS, Indicator, indicators, standard_errors
from genkernel.gan.results import GanResult
from genkernel.gan.stages import AS_THEY_ARE
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
UNLIKE = "not compared: "
LOST = 0.5  # share of the modes that makes a collapse when no more are there
SPREAD = 0.75  # share of the modes that samples are effectively nearest to, from which they are not collapsed
NARROW, HALF = 0.05, 0.5  # diversity relative to the data: below the first there is nothing left to judge
NOTHING = 0.1  # precision and recall below which samples and data have nothing in common


@dataclass(frozen=True)
class Setting:
    """How the values of indicators were made, as far as they depend on it.

    Attributes:
        latents: n.
        dimension: of a latent.
        clusters: how they were made, see :class:`~genkernel.gan.clusters.Clusters`.
        features: samples were compared in features, not as they are.
    """

    latents: int
    dimension: int
    clusters: str
    features: bool = False


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
    covered = result.coverage
    lack = []
    if covered.modes is None and covered.neighbours is None and math.isnan(covered.diversity.relative):
        lack.append("real samples, a classifier or known modes")
    about = result.meta["generator"]
    setting = Setting(
        latents=len(result.clusters.labels),
        dimension=math.prod(about["latent_shape"]),
        clusters=result.clusters.kind,
        features=covered.features != AS_THEY_ARE,
    )
    if result.modes is not None and result.mode_std is None:
        lack.append("mode_std, the width of the modes")
    if setting.features and covered.modes is None:
        lack.append("a classifier or known modes (ranges are for samples as they are, not in features)")
    return judge_values(
        indicators(result),
        kind_of(about["output_shape"]),
        _counted(result),
        lack,
        setting=setting,
        errors=standard_errors(result),
        same=result.clusters.kind == "one",
    )


def judge_values(
    values: Mapping[str, float],
    kind: str | None,
    counted: Evidence | None = None,
    lack: Sequence[str] = (),
    *,
    setting: Setting | None = None,
    errors: Mapping[str, float] | None = None,
    same: bool = False,
) -> Verdict:
    """The same from the values of the indicators.

    Args:
        values: by name; what is missing or NaN says nothing.
        kind: of samples, see :func:`kind_of`.
        counted: modes that were counted.
        lack: what was not given, in words.
        setting: how they were made; as in the study by default.
        errors: standard errors, by name.
        same: all samples are the same.
    """
    ranges = reference_ranges().get(kind or "", {})
    noise = _noise(errors or {}, setting, ranges)
    evidence = [_evidence(name, values.get(name, math.nan), ranges, setting, noise) for name in INDICATORS]
    if counted is not None:
        evidence.append(counted)
    views = _views(evidence)
    others = _sentences({view: said for view, said in views.items() if view != "coverage"})
    if same:
        return Verdict("collapsing", ["All samples are the same: the generator ignores its latent.", *others], evidence)
    if (spread := values.get("relative_diversity", math.nan)) < NARROW:
        words = f"samples differ by {spread:.2g} of what real ones do, and below {NARROW:g} that is a collapse"
        return Verdict("collapsing", [f"All samples are nearly the same: {words}.", *others], evidence)
    recall = next(e for e in evidence if e.name == "recall")
    if spread < HALF and recall.says == "collapsing":
        words = f"Samples reach little of the data: {_said(recall)}"
        more = f"They differ from one another by {spread:.2g} of what real ones do."
        return Verdict("collapsing", [words, more, *others], evidence)
    if counted is not None and counted.says == "collapsing":
        return Verdict("collapsing", [f"Modes are missing: {_said(counted)}", *others], evidence)
    if kind is None and len(views) < 2:
        words = "its samples are neither points of few dimensions nor images, for which alone the study has ranges"
        return Verdict("unknown", [f"No verdict: {words}."], evidence)
    if len(views) < 2:
        return Verdict("unknown", [_too_little(views, lack)], evidence)
    kernel, covered = views["kernel"][0].says, _covered(views["coverage"])
    reasons = _sentences(views)
    if covered == "collapsing" and kernel != "ok":
        return Verdict("collapsing", [*reasons, *_left_out(evidence)], evidence)
    alien = max(values.get("precision", 1.0), values.get("recall", 1.0)) < NOTHING
    if alien:
        reasons.append(
            f"Precision {values['precision']:.2f} and recall {values['recall']:.2f}: samples and data have hardly "
            "anything in common. Are these the data of this generator, in its range of values?"
        )
    reasons += _left_out(evidence)
    if kernel == covered == "ok" and not alien:
        return Verdict("ok", reasons, evidence)
    if covered == "collapsing":
        reasons.append(
            "The kernel does not confirm it, so this is no clear collapse: but parts of the data are missed."
        )
    elif kernel == "collapsing":
        reasons.append(
            "The samples do not confirm it: other networks than the study's can have such a kernel in health."
        )
    return Verdict("watch", reasons, evidence)


def _covered(said: list[Evidence]) -> Label:
    """What the view on coverage says: samples that lie closer together, but reach all of the data, are no collapse."""
    narrow = [e for e in said if e.name == "relative_diversity"]
    reach = [e for e in said if e.name != "relative_diversity"]
    if narrow and narrow[0].says == "collapsing" and reach and all(e.says == "ok" for e in reach):
        return "watch"
    return said[0].says


def _left_out(evidence: list[Evidence]) -> list[str]:
    """Sentences on indicators that would count, had they been made as in the study."""
    found = [e for e in evidence if e.name in COUNTING and e.source.startswith(UNLIKE) and not math.isnan(e.value)]
    return [f"{e.label[0].upper()}{e.label[1:]} {e.value:.3g} is {e.source}." for e in found]


def _noise(errors: Mapping[str, float], setting: Setting | None, ranges: dict[str, Any]) -> dict[str, float]:
    """Two standard errors of what is noisier than in the study, where the number of latents is what made it so."""
    if setting is None or not ranges:
        return {}
    more = max(0.0, 1 - setting.latents / ranges["setting"]["latents"])
    return {name: 2 * error * math.sqrt(more) for name, error in errors.items()}


def _evidence(
    name: str, value: float, ranges: dict[str, Any], setting: Setting | None, noise: Mapping[str, float]
) -> Evidence:
    indicator = INDICATORS[name]
    known = ranges.get("indicators", {}).get(name)
    source = ranges["source"] if known is not None else "no range for samples of this kind"
    if known is not None and setting is not None and (unlike := _unlike(indicator, setting, ranges["setting"])):
        known, source = None, f"{UNLIKE}{unlike}"
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
        says=_says(value - indicator.worse * noise.get(name, 0.0), (low, high), alarm, indicator.worse),
        counts=name in COUNTING and math.isfinite(alarm),
        source=source,
    )


def _unlike(indicator: Indicator, here: Setting, study: Mapping[str, Any]) -> str:
    """Why a value cannot be compared with those of the study; empty where it can."""
    ratio = here.latents / study["latents"]
    reasons = {
        "latents": (abs(ratio - 1) > 0.1, f"it grows with the number of latents, {study['latents']} in the study"),
        "samples": (not 0.5 <= ratio <= 2, f"it depends on the number of samples, {study['latents']} in the study"),
        "dimension": (
            here.dimension != study["dimension"],
            f"it depends on the dimension of the latents, {study['dimension']} in the study",
        ),
        "clusters": (here.clusters != study["clusters"], f"the clusters of the study are {study['clusters']}"),
        "space": (here.features, "in the study samples are compared as they are"),
        "units": (True, "it depends on the units of the samples; compare checkpoints of one generator"),
    }
    return next((words for name in indicator.depends if (unlike := reasons[name])[0] for words in [unlike[1]]), "")


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
    source = f"{modes.covered} of {modes.modes} counted: {modes.rule}; at most half is a collapse by definition"
    says: Label = "ok" if share >= fewest else "watch"
    if share <= LOST and modes.nearest_number > SPREAD * modes.modes:
        source += f", but samples spread over {modes.nearest_number:.3g} of them and are only not near enough"
    elif share <= LOST:
        says = "collapsing"
    return Evidence(
        name="modes_covered",
        label="share of the modes covered",
        group="coverage",
        value=share,
        healthy=(fewest, 1.0),
        alarm=LOST,
        worse=-1,
        says=says,
        counts=True,
        source=source,
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
    edge = e.healthy[1] if e.worse > 0 else e.healthy[0]
    words = {"ok": "in the range of healthy runs", "watch": "between healthy runs and the threshold"}
    if e.says == "ok" and e.worse * e.value > e.worse * edge:
        words["ok"] = "within its noise of healthy runs: take more latents"
    elif e.says == "watch" and e.worse * e.value > e.worse * e.alarm:
        words["watch"] = f"within its noise of the threshold of {e.alarm:.3g}: take more latents"
    if e.name == "modes_covered" and e.says == "watch":
        words["watch"] = "fewer than in healthy runs" if e.value > LOST else "though samples spread over more"
    beyond = "above" if e.worse > 0 else "at or below" if e.name == "modes_covered" else "below"
    says = words.get(e.says, f"{beyond} the threshold of {e.alarm:.3g}")
    bound = f"up to {e.healthy[1]:.3g}" if e.worse > 0 else f"from {e.healthy[0]:.3g} on"
    return f"{e.label} {e.value:.3g}, {says} (healthy: {bound})."


def _too_little(views: dict[str, list[Evidence]], lack: Sequence[str]) -> str:
    have = f"only one view could be taken ({VIEWS[next(iter(views))]})" if views else "no view could be taken"
    cure = f": give {' or '.join(lack)}" if lack else ""
    return f"No verdict: {have}, and it takes two{cure}."
