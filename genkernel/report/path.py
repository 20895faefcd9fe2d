"""The page of a path run: what moved the outputs, whether the parts add up, and what a contribution is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots.path_axes import direction_words, exact, has_changed, percent, source_name, with_sign
from genkernel.report.page import Number, Table, pictures, render
from genkernel.report.path_captions import CAPTIONS, IS, IS_NOT, SECTIONS, TERMS
from genkernel.report.provenance import citation, finished_at, provenance_facts
from genkernel.report.words import fixed

if TYPE_CHECKING:
    from genkernel.paths import PathDecomposition
    from genkernel.paths.decomposition import Part

COMPLETE = 0.01  # relative gap up to which the parts are called complete
TOP_QUERIES = 40
TOP_SOURCES = 60
CANCELLED = 0.1  # net over gross below which a source is named
NOTICED = 0.02  # share from which a source is worth a warning


@dataclass(frozen=True)
class GapVerdict:
    """Whether the parts add up.

    Attributes:
        label: ``"complete"``, ``"incomplete"`` or ``"unknown"``.
        level: how it is marked: ``"ok"``, ``"watch"``, ``"unknown"``.
        meaning: in words, with the figures.
        advice: how to lower the gap; empty where that is not needed.
    """

    label: str
    level: str
    meaning: str
    advice: tuple[str, ...] = ()


def path_page(
    parts: PathDecomposition,
    provenance: Mapping[str, Any],
    drawn: Mapping[str, bytes],
    *,
    queries: Sequence[int] = (0,),
    direction: int | None = None,
    top: int = 5,
) -> str:
    """The self-contained HTML page of a run.

    Args:
        parts: the contributions.
        provenance: the content of ``run.json``.
        drawn: figures as PNG bytes, by the names of :func:`genkernel.plots.paths.path_figures`.
        queries: those that have tables and figures of their own.
        direction: the number of an output; None for the change of each query.
        top: helpers and opponents in a table.
    """
    verdict = gap_verdict(parts)
    first, *more = [headline(parts, query, direction) for query in queries]
    name = str((provenance.get("checkpoint") or {}).get("name") or "this training run")
    return render(
        "path.html.j2",
        title=f"What moved the outputs of {name}",
        heading="What moved the outputs, sample group by sample group?",
        subtitle=_subtitle(parts, name),
        reading=[first, *more],
        verdict=verdict,
        mark={"ok": "✓", "watch": "!", "unknown": "?"}[verdict.level],
        is_=IS,
        is_not=IS_NOT,
        warnings=path_warnings(parts, queries, direction),
        numbers=key_numbers(parts),
        heads="Helpers and opponents" if direction is None else f"What raised and what lowered output {direction}",
        helpers=[table for query in queries for table in part_tables(parts, query, direction, top)],
        sections=_sections(parts, drawn, direction),
        terms=TERMS,
        facts=[*_recording_facts(parts), *provenance_facts(provenance)],
        citation=citation(),
        finished=finished_at(provenance),
    )


# --------------------------------------------------------------------------------- in words


def headline(parts: PathDecomposition, query: int, direction: int | None) -> str:
    """Who moved a query most, who was against it, and how well the parts add up, in one or two sentences."""
    steps = f"{parts.edges[-1] - parts.edges[0]:,} {parts.meta.get('optimizer', 'optimizer')} steps"
    if direction is None and not has_changed(parts, query):
        return f"Nothing in {steps} changed the outputs at query {query}."
    helpers, opponents = (_of_data(parts, found) for found in parts.top(query, direction, len(parts.sources)))
    if direction is not None:
        said = [
            f"{_named(found[0])} {verb} it most ({with_sign(found[0].value)})"
            for found, verb in ((helpers, "raised"), (opponents, "lowered"))
            if found
        ] or ["no group of samples had a part in it"]
        moved = float((parts.final - parts.initial)[query].reshape(-1)[direction])
        return f"Output {direction} of query {query} changed by {with_sign(moved)} in {steps}: {' and '.join(said)}."
    if not helpers:
        return f"In {steps} no group of samples helped the change at query {query}."
    first = f"{_named(helpers[0])} moved query {query} most along its change ({_amount(helpers[0])})"
    if not opponents:
        return f"In {steps}, {first}, and no group was against it."
    if abs(opponents[0].value) <= _gap(parts, query):
        return f"In {steps}, {first}, and no group was against it by more than the gap."
    return f"In {steps}, {first}, and {_named(opponents[0])} was most against it ({_amount(opponents[0])})."


def sides(direction: int | None) -> tuple[str, str]:
    """What is done by parts that are positive along the direction, and by those that are negative."""
    return ("helped", "opposed") if direction is None else ("raised", "lowered")


def gap_verdict(parts: PathDecomposition) -> GapVerdict:
    """Up to one percent of the largest change the parts are complete; beyond it, how to come nearer."""
    absolute, relative = parts.gap_abs, parts.gap_rel
    if not math.isfinite(relative):
        return GapVerdict("unknown", "unknown", f"no output changed, so the gap ({exact(absolute, 2)}) has no measure")
    words = f"{exact(absolute, 2)} ({percent(relative)} of the largest change)"
    if relative <= COMPLETE:
        return GapVerdict("complete", "ok", f"the parts add up to the change of f, with a gap of {words}")
    if not parts.net.any():
        return GapVerdict(
            "incomplete",
            "watch",
            f"f changed, but every contribution is exactly zero: the gap is {words}",
            (
                "The outputs that were followed do not depend on the recorded parameters by automatic "
                "differentiation: is there a no_grad or a detach in query_call?",
            ),
        )
    rule = str(parts.meta.get("rule", "trapezoid"))
    if rule == "left":
        better = 'Record with rule="trapezoid", which costs the same, or rule="midpoint": both are of second order.'
    elif rule.startswith("adaptive"):
        better = (
            'The steps needed more nodes than the rule may take, as kinks (ReLU) do: record with rule="adaptive32", '
            "with a smooth activation, or with a smaller learning rate."
        )
    elif rule.startswith("gauss"):
        better = (
            "The rule is exact on smooth networks, so the rest is kinks (ReLU) that are crossed within a step, or "
            "rounding: record in float64, with a smooth activation, or with a smaller learning rate."
        )
    else:
        better = 'Record with rule="adaptive", or "gauss4": they evaluate more points within steps' + (
            '; rule="midpoint" halves the gap at the same cost.' if rule == "trapezoid" else "."
        )
    windows = "More or shorter windows do not lower it: they resolve the same sums in time."
    return GapVerdict(
        "incomplete", "watch", f"the parts miss some of the change of f: the gap is {words}", (better, windows)
    )


def path_warnings(parts: PathDecomposition, queries: Sequence[int], direction: int | None) -> list[str]:
    """What makes the parts hard to read, or the recording less than whole."""
    meta, found = parts.meta, []
    if meta.get("stopped"):
        found.append(f"The recording stopped before the training did: {str(meta['stopped']).rstrip('.')}.")
    found += [words for query in queries if (words := _between_sources(parts, query, direction))]
    net, gross = parts.net_size().numpy(), parts.gross_size().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.nan_to_num(gross / gross.sum(0)).mean(1)
    left = net.sum(1) / np.where(gross.sum(1) > 0, gross.sum(1), 1)
    cancelled = [a for a, data in enumerate(parts.data) if data and share[a] >= NOTICED and left[a] < CANCELLED]
    if cancelled:
        names = _listed([source_name(parts.sources[a]) for a in sorted(cancelled, key=lambda a: left[a])])
        found.append(
            f"Less than {100 * CANCELLED:.0f} % of what was done is left of {names}: these went to and fro, and their "
            "net part hardly says how much they were at work."
        )
    for a, data in enumerate(parts.data):
        if not data and share[a] >= NOTICED and parts.sources[a] != "weight decay":
            found.append(
                f"“{parts.sources[a]}” is {percent(float(share[a]))} of all that was done, and no group of samples has "
                "a part in it."
            )
    if meta.get("skipped"):
        found.append(f"{meta['skipped']} steps were not taken by the training, and are in no part.")
    if meta.get("joint_batches"):
        found.append(
            "Samples of a batch share statistics (batch normalisation), or the loss draws random numbers (dropout): a "
            "sample's gradient is that of its own loss term in its batch as it was, with the same other samples and "
            "the same draws."
        )
    if meta.get("autocast"):
        found.append(
            "The loss was computed under autocast, so gradients were rounded to 16 bits. Adaptive optimizers enlarge "
            "coordinates whose sum over the groups is nearly zero: parts of single groups in the first steps can be "
            "large, and cancel each other."
        )
    if meta.get("average"):
        found.append("f is the output of the averaged weights (EMA), along the path of the average.")
    return found


def _between_sources(parts: PathDecomposition, query: int, direction: int | None) -> str:
    """Contributions that are large beside the change, because sources cancel each other."""
    if direction is None and not has_changed(parts, query):
        return ""
    values = parts.along(direction)[:, :, query].sum(0)
    whole, sizes = abs(float(values.sum())), float(values.abs().sum())
    if not whole or sizes < 5 * whole:
        return ""
    return (
        f"The contributions to query {query} cancel between sources: their sizes sum to {exact(sizes / whole, 2)} "
        "times the change. Read them together; one of them alone says little."
    )


def _gap(parts: PathDecomposition, query: int) -> float:
    """The size of what the parts of one query miss."""
    return float(parts.gap[query].norm())


def _of_data(parts: PathDecomposition, found: Sequence[Part]) -> list[Part]:
    data = {source for source, is_data in zip(parts.sources, parts.data, strict=True) if is_data}
    return [part for part in found if part.source in data]


def _named(part: Part) -> str:
    return f"“{part.source}”" if isinstance(part.source, str) else source_name(part.source)


def _amount(part: Part) -> str:
    return f"{with_sign(part.value)}, {percent(part.share)} of the change"


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = [f"“{name}”" for name in names[:most]]
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _subtitle(parts: PathDecomposition, name: str) -> str:
    meta = parts.meta
    words = [
        name,
        meta.get("optimizer"),
        f"{parts.edges[-1] - parts.edges[0]:,} steps",
        f"{sum(parts.data)} groups of samples",
        f"{len(parts.final)} queries",
        f"{int(meta['parameters']):,} parameters" if meta.get("parameters") else None,
        f"{meta['rule']} rule" if meta.get("rule") else None,
        meta.get("dtype"),
    ]
    return " · ".join(str(word) for word in words if word)


# ---------------------------------------------------------------------------------- numbers


def key_numbers(parts: PathDecomposition) -> list[Number]:
    """The handful of numbers that a reader takes away."""
    moved = (parts.final - parts.initial).reshape(len(parts.final), -1).norm(dim=1)
    changed = math.isfinite(parts.gap_rel)
    net, gross = float(parts.net_size().sum()), float(parts.gross_size().sum())
    extra = [str(source) for source, data in zip(parts.sources, parts.data, strict=True) if not data]
    found = [
        Number("Gap", exact(parts.gap_abs, 2), f"{percent(parts.gap_rel)} of the largest change" if changed else ""),
        Number("Largest change of f", exact(float(moved.max())), f"smallest {exact(float(moved.min()))}, over queries"),
        Number("Groups of samples", f"{sum(parts.data)}", f"and {', '.join(extra)}" if extra else ""),
        Number("Net over gross", fixed(net / gross if gross else None, 2), "of all parts; 1: nothing went to and fro"),
    ]
    if (factor := overhead_factor(parts)) is not None:
        spent = parts.meta.get("seconds")
        note = f"recording took {exact(float(spent))} s" if spent is not None else ""
        found.append(Number("Time of the training loop", f"{exact(factor, 2)} ×", note))
    return found


def overhead_factor(parts: PathDecomposition) -> float | None:
    """Time of the recorded loop over its own; None where that was not measured, or cannot be."""
    overhead = parts.meta.get("overhead")
    factor = math.nan if overhead is None else 1 + float(overhead)
    return factor if math.isfinite(factor) and factor > 0 else None


# ----------------------------------------------------------------------------------- tables


def part_tables(parts: PathDecomposition, query: int, direction: int | None, top: int) -> list[Table]:
    """Helpers and opponents of one query, without rounding and the like below its gap.

    There are none where the change has no direction.
    """
    if direction is None and not has_changed(parts, query):
        return []
    kept = dict(zip(parts.sources, parts.cancellation()[:, query].tolist(), strict=True))
    count = dict(zip(parts.sources, parts.samples.tolist(), strict=True))
    head = ["source", "contribution", "share", "gross", "net / gross", "samples"]
    note = (
        f"Contributions {direction_words(direction, query)}, and their shares of it. Gross and net / gross are of all "
        f"outputs. Parts smaller than the gap of this query ({exact(_gap(parts, query), 2)}) cannot be told from it."
    )
    titles = (
        [f"{what} of query {query}" for what in ("Helpers", "Opponents")]
        if direction is None
        else [f"{what.capitalize()} output {direction} of query {query}" for what in sides(direction)]
    )
    data = dict(zip(parts.sources, parts.data, strict=True))
    found = [
        [part for part in ranked if data[part.source] or abs(part.value) > _gap(parts, query)][:top]
        for ranked in parts.top(query, direction, len(parts.sources))
    ]
    return [
        Table(
            title,
            head,
            [
                [
                    source_name(part.source), with_sign(part.value), percent(part.share), exact(part.gross),
                    fixed(kept[part.source], 2), f"{int(count[part.source]):,}" if count[part.source] else "–",
                ]
                for part in listed
            ]
            or [["none", "–", "–", "–", "–", "–"]],
            note if place == 0 else "",
        )
        for place, (title, listed) in enumerate(zip(titles, found, strict=True))
    ]  # fmt: skip


def source_table(parts: PathDecomposition) -> Table:
    """Every source, averaged over the queries."""
    net, gross = parts.net_size().numpy(), parts.gross_size().numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [_mean(net / net.sum(0)), _mean(gross / gross.sum(0)), _mean(parts.signed().numpy())]
        kept = _mean(net / gross)
    order = np.argsort(-np.nan_to_num(columns[1]), kind="stable")
    rows = [
        [
            source_name(parts.sources[a]), *(percent(float(column[a])) for column in columns), fixed(kept[a], 2),
            f"{int(parts.samples[a]):,}" if parts.samples[a] else "–",
        ]
        for a in order[:TOP_SOURCES]
    ]  # fmt: skip
    more = len(order) - TOP_SOURCES
    note = "Means over the queries, the largest gross share first." + (
        f" {more} more are in summary.json." if more > 0 else ""
    )
    head = ["source", "net share", "gross share", "signed share", "net / gross", "samples"]
    return Table("Every source", head, rows, note)


def query_table(parts: PathDecomposition, direction: int | None) -> Table:
    """The largest helper and opponent of every query that can be told from its gap, and that gap."""
    change = (parts.final - parts.initial).reshape(len(parts.final), -1).norm(dim=1)
    rows = []
    for query in range(min(len(parts.final), TOP_QUERIES)):
        cells, gap = ["–", "–"], _gap(parts, query)
        if direction is not None or has_changed(parts, query):
            cells = [
                f"{source_name(found[0].source)} ({with_sign(found[0].value)})"
                if found and abs(found[0].value) > gap
                else "none above the gap"
                for found in parts.top(query, direction, 1)
            ]
        rows.append([str(query), exact(float(change[query])), *cells, exact(gap, 2)])
    more = len(parts.final) - TOP_QUERIES
    note = f"Contributions {direction_words(direction, 'mean')}."
    note += f" {more} more queries are in path.npz." if more > 0 else ""
    most = [f"{side} it most" for side in sides(direction)]
    return Table("Queries", ["query", "‖change of f‖", *most, "gap"], rows, note, text=(2, 3))


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the queries for which there is a number ``[S, m]`` → ``[S]``."""
    count = np.isfinite(values).sum(1)
    total = np.where(np.isfinite(values), values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


# --------------------------------------------------------------------------------- sections


def _sections(parts: PathDecomposition, drawn: Mapping[str, bytes], direction: int | None) -> list[dict[str, Any]]:
    """Sections that have a figure or a table, and last the figures that no section names."""
    tables = {
        "shares": [source_table(parts)] if parts.gross.any() else [],
        "queries": [query_table(parts, direction)] if len(parts.final) > 1 else [],
    }
    captions = {name: _caption(name) for name in drawn}
    placed: set[str] = set()
    found = []
    for section in SECTIONS:
        names = [name for name in drawn if _base(name) in section.figures]
        placed.update(names)
        figures, below = pictures(drawn, names, captions), tables.get(section.anchor, [])
        if not figures and not below:
            continue
        lead = section.lead
        if section.anchor == "time" and len(parts.net) == 1:
            lead = (
                "This run was recorded in one window, so nothing is resolved in time: record with windows=32 for a map."
            )
        found.append(
            {"anchor": section.anchor, "title": section.title, "lead": lead, "figures": figures, "tables": below}
        )
    if rest := pictures(drawn, [name for name in drawn if name not in placed]):
        found.append({"anchor": "further", "title": "Further figures", "lead": "", "figures": rest, "tables": []})
    return found


def _base(name: str) -> str:
    """Without the number of a query."""
    stem, _, tail = name.rpartition("_")
    return stem if tail.isdecimal() else name


def _caption(name: str) -> Any:
    from dataclasses import replace

    from genkernel.report.captions import Caption

    base = _base(name)
    caption = CAPTIONS.get(base, Caption(name.replace("_", " ").capitalize(), ""))
    return caption if base == name else replace(caption, title=f"{caption.title}: query {name.rpartition('_')[2]}")


def _recording_facts(parts: PathDecomposition) -> list[tuple[str, str]]:
    meta = parts.meta
    facts = [
        ("Recorded with", ", ".join(f"{k} {v}" for k, v in (meta.get("versions") or {}).items())),
        ("Recorded on", ", ".join(str(meta[key]) for key in ("device", "dtype") if meta.get(key))),
        ("Checked in every step", _checks(meta)),
    ]
    return [(name, value) for name, value in facts if value]


def _checks(meta: Mapping[str, Any]) -> str:
    said = []
    if meta.get("gradient_error") is not None:
        said.append(
            f"the groups' gradients sum to the optimizer's up to {exact(float(meta['gradient_error']), 2)} of it"
        )
    if meta.get("step_error") is not None:
        said.append(f"the sources' increments to its step up to {exact(float(meta['step_error']), 2)} in a weight")
    return ", ".join(said)
