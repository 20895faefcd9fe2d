"""The page of a GAN run: the verdict first, then its evidence, what the samples cover beside the kernel, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genkernel.plots.style import counted
from genkernel.report.gan_captions import CAPTIONS, LIMITS, SECTIONS, TERMS
from genkernel.report.gan_tables import (
    cluster_table,
    coverage_numbers,
    discriminator_table,
    drive_table,
    evidence_rows,
    game_table,
    kernel_numbers,
    mode_table,
    score_table,
)
from genkernel.report.page import Table, pictures, render
from genkernel.report.provenance import citation, finished_at, provenance_facts

if TYPE_CHECKING:
    from genkernel.gan.results import GanResult

MEANINGS = {
    "ok": "no sign of mode collapse",
    "watch": "some signs of mode collapse",
    "collapsing": "the modes of this generator collapse",
    "unknown": "too little is known to judge by",
}
MARKS = {"ok": "✓", "watch": "!", "collapsing": "✗", "unknown": "?"}


def gan_page(result: GanResult, provenance: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The self-contained HTML page of a run; what the result does not have is not on it.

    Args:
        result: the numbers.
        provenance: the content of ``run.json``.
        drawn: figures as PNG bytes, by the names of :func:`genkernel.plots.gan_figures`.
    """
    verdict = result.verdict
    label = "unknown" if verdict is None else verdict.label
    name = model_name(result, provenance)
    return render(
        "gan.html.j2",
        title=f"Mode collapse of {name}",
        heading=f"Is {name} collapsing?",
        subtitle=_subtitle(result, provenance),
        label=label,
        mark=MARKS[label],
        meaning=MEANINGS[label],
        marks=MARKS,
        reasons=[] if verdict is None else [_kept_together(reason) for reason in verdict.reasons],
        judged=verdict is not None,
        views=(
            ("What the samples cover", "which no kernel says", coverage_numbers(result)),
            ("What the kernel says", "and the drive, and the latent geometry", kernel_numbers(result)),
        ),
        evidence=[] if verdict is None else evidence_rows(verdict.evidence),
        missing=[_sentence(words) for words in result.missing],
        sections=_sections(result, drawn),
        limits=LIMITS,
        terms=TERMS,
        notes=_notes(result, provenance),
        facts=provenance_facts(provenance, result.meta.get("coverage")),
        citation=citation(),
        finished=finished_at(provenance),
    )


def model_name(result: GanResult, provenance: Mapping[str, Any]) -> str:
    """What the generator is called."""
    about = result.meta.get("generator") or {}
    name = str((provenance.get("checkpoint") or {}).get("name") or about.get("name") or "this generator")
    return str(about.get("name") or name).rstrip("/").split("/")[-1]


def _sections(result: GanResult, drawn: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Sections that have a figure or a table, and last the figures that no section names."""
    tables: dict[str, list[Table]] = {
        "coverage": mode_table(result),
        "drive": [*drive_table(result), *discriminator_table(result)],
        "score": score_table(result),
        "clusters": cluster_table(result),
        "game": game_table(result),
    }
    found = []
    for section in SECTIONS:
        figures, below = pictures(drawn, section.figures, CAPTIONS), tables.get(section.anchor, [])
        if figures or below:
            found.append(
                {
                    "anchor": section.anchor,
                    "title": section.title,
                    "lead": section.lead,
                    "figures": figures,
                    "tables": below,
                }
            )
    placed = {name for section in SECTIONS for name in section.figures}
    if rest := pictures(drawn, [name for name in drawn if name not in placed], CAPTIONS):
        found.append({"anchor": "further", "title": "Further figures", "lead": "", "figures": rest, "tables": []})
    return found


def _subtitle(result: GanResult, provenance: Mapping[str, Any]) -> str:
    meta = result.meta
    about, judge = meta.get("generator") or {}, meta.get("discriminator") or {}
    parts = [str(about["class"])] if about.get("class") else []
    shapes = ["×".join(map(str, about[key])) for key in ("latent_shape", "output_shape") if about.get(key)]
    if len(shapes) == 2:
        parts.append(f"latents {shapes[0]} → samples {shapes[1]}")
    if about.get("parameters"):
        parts.append(f"{int(about['parameters']):,} parameters")
    parts.append(f"discriminator {judge['class']}" if judge.get("class") else "no discriminator")
    if judge:
        parts.append(f"{meta.get('loss', 'unknown')} loss")
    parts.append(f"{len(result.clusters.labels):,} latents in {len(result.clusters.names)} clusters")
    parts.append(counted(result.kernel.probes, "probe") if result.kernel.probes else "exact trace")
    source = (provenance.get("data") or {}).get("source")
    if source:
        parts.append(f"real samples: {source}")
    return " · ".join(parts)


def _sentence(words: str) -> str:
    """With a capital and a full stop."""
    return words[:1].upper() + words[1:].rstrip(".") + "."


def _kept_together(sentence: str) -> str:
    return str(sentence).replace(" ± ", "\u00a0±\u00a0")


def _notes(result: GanResult, provenance: Mapping[str, Any]) -> list[str]:
    meta = result.meta
    found = []
    for who in ("generator", "discriminator"):
        found += [f"{who.capitalize()}: {note}" for note in (meta.get(who) or {}).get("notes") or []]
    found += [f"Real samples: {step}" for step in (provenance.get("data") or {}).get("conversions") or []]
    return [*found, *(note[:1].upper() + note[1:] for note in map(str, meta.get("notes") or []))]
