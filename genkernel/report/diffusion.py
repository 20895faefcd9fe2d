"""The page of a diffusion run: the reading first, then numbers, figures, tables and provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genkernel.diffusion.results import LevelKernel
from genkernel.plots.names import MEANINGS, control_title, kernels
from genkernel.plots.style import counted, number, pair
from genkernel.report.captions import LIMITS, SECTIONS, TERMS
from genkernel.report.page import Number, Table, pictures, render
from genkernel.report.provenance import citation, finished_at, provenance_facts
from genkernel.report.words import fixed, headline, interval, short

if TYPE_CHECKING:
    from genkernel.diffusion.results import DiffusionResult

TOP_LAYERS = 15
TOP_PAIRS = 20


def diffusion_page(result: DiffusionResult, provenance: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The self-contained HTML page of a run.

    Args:
        result: the numbers.
        provenance: the content of ``run.json``.
        drawn: figures as PNG bytes, by the names of :func:`genkernel.plots.diffusion_figures`.
    """
    tables = {
        "kernel": [level_table(result)],
        "controls": control_tables(result),
        "layers": [layer_table(result)] if result.layers else [],
        "interference": interference_tables(result),
    }
    sections = []
    for section in SECTIONS:
        figures = pictures(drawn, section.figures)
        if figures or tables[section.anchor]:
            sections.append(
                {
                    "anchor": section.anchor,
                    "title": section.title,
                    "lead": section.lead,
                    "figures": figures,
                    "tables": tables[section.anchor],
                }
            )
    model = str((provenance.get("checkpoint") or {}).get("name") or result.meta.get("model") or "this denoiser")
    model = model.rstrip("/").split("/")[-1]
    return render(
        "diffusion.html.j2",
        title=f"Noise-level locality of {model}",
        heading=f"How local in noise level is {model}?",
        subtitle=_subtitle(result, provenance),
        reading=headline(result.meta.get("reading") or ["This run states no reading: see the numbers."]),
        numbers=key_numbers(result),
        sections=sections,
        limits=LIMITS,
        terms=TERMS,
        notes=_notes(result, provenance),
        facts=provenance_facts(provenance, result.meta.get("coverage")),
        citation=citation(),
        finished=finished_at(provenance),
    )


# ------------------------------------------------------------------------- numbers


def key_numbers(result: DiffusionResult) -> list[Number]:
    """The handful of numbers that a reader takes away."""
    kernel, raw, levels = result.locality, result.unnormalized, result.levels
    unit = " timesteps" if levels.discrete else ""
    window = f"window |Δt| ≤ {number(levels.window_timesteps)}{unit}"
    found = [
        Number("Locality index, cosine kernel", pair(kernel.index, kernel.index_stderr), window),
        Number("Locality index, unnormalised", pair(raw.index, raw.index_stderr), "sizes of the gradients included"),
    ]
    for profile, what in ((kernel.by_timestep, unit.strip()), (kernel.by_log_snr, "nats of log-SNR")):
        value = "none" if profile.half_width is None else f"{number(float(f'{profile.half_width:.3g}'))}"
        found.append(Number(f"Half-width ({what or 'time'})", value, "of the decay over all levels"))
    floor, error = kernel.by_timestep.floor, kernel.by_timestep.floor_stderr
    found.append(Number("Far-lag floor", pair(floor, error), "mean cosine of distant levels"))
    for name in ("embedding_only", "input_only", "untrained"):
        control = result.controls.get(name)
        if isinstance(control, LevelKernel):
            found.append(Number(f"Index, {control_title(name).lower()}", pair(control.index, control.index_stderr)))
    if result.interference is not None:
        count = len(levels.timesteps) * (len(levels.timesteps) - 1) // 2
        chance = result.interference.expected_false_conflicts
        note = f"{number(round(chance, 1))} expected by chance" if math.isfinite(chance) else ""
        found.append(Number("Conflicting pairs of levels", f"{len(result.interference.conflicting)} of {count}", note))
    if result.stages is not None:
        where = ", ".join(number(b) for b in result.stages.boundaries)
        found.append(Number("Stages", str(result.stages.k), f"boundaries at t = {where}" if where else "no boundary"))
    return found


# -------------------------------------------------------------------------- tables


def level_table(result: DiffusionResult) -> Table:
    levels, kernel = result.levels, result.locality
    head = ["t", "log-SNR", "loss", "index of the row", "half-width (t)", "half-width (log-SNR)"]
    norms = None if result.interference is None else result.interference.level_gradient_norm
    if norms is not None:
        head.append("gradient norm")
    if result.stages is not None:
        head.append("stage")
    rows = []
    for i, t in enumerate(levels.timesteps):
        row = [
            number(t),
            fixed(levels.log_snr[i], 2),
            pair(result.loss_mean[i], result.loss_stderr[i]),
            "n/a" if kernel.index_rows is None else fixed(kernel.index_rows[i], 3),
            short(kernel.half_width_timesteps[i]),
            short(kernel.half_width_log_snr[i]),
        ]
        if norms is not None:
            row.append(short(norms[i]))
        if result.stages is not None:
            row.append(str(int(result.stages.labels[i]) + 1))
        rows.append(row)
    return Table("Levels", head, rows, "Losses are mean squared errors of the raw prediction, ± s.e. over images.")


def control_tables(result: DiffusionResult) -> list[Table]:
    found = []
    rows = [
        [
            control_title(name),
            pair(kernel.index, kernel.index_stderr),
            interval(kernel.index_low, kernel.index_high),
            fixed(kernel.floor, 3),
            MEANINGS.get(name, kernel.description),
        ]
        for name, kernel in kernels(result).items()
    ]
    if len(rows) > 1:
        head = ["Kernel", "index ± s.e.", "95 % interval", "floor", "what is compared"]
        found.append(Table("Kernel and controls", head, rows, text=(4,)))
    if result.contrasts:
        words = {1: "positive", -1: "negative", 0: "undecided"}
        rows = [
            [c.name, pair(c.difference, c.stderr), interval(c.low, c.high), words[c.decided]]
            for c in result.contrasts.values()
        ]
        found.append(
            Table(
                "Paired differences of the locality index",
                ["Difference", "value ± s.e.", "95 % interval", "sign"],
                rows,
                "Both kernels are resampled over the same images, which is sharper than comparing two error bars.",
            )
        )
    return found


def layer_table(result: DiffusionResult) -> Table:
    ranked = sorted(result.layers, key=lambda layer: -layer.share)[:TOP_LAYERS]
    rows = [
        [layer.name, f"{100 * layer.share:.1f} %", f"{layer.parameters:,}", pair(layer.index, layer.index_stderr)]
        for layer in ranked
    ]
    rest = len(result.layers) - len(ranked)
    note = f"The {len(ranked)} largest shares; {rest} further layers are in result.json." if rest else ""
    return Table("Layers", ["Layer", "share of the trace", "parameters", "index ± s.e."], rows, note)


def interference_tables(result: DiffusionResult) -> list[Table]:
    found, levels = [], result.levels
    if result.interference is not None and result.interference.conflicting:
        worst = sorted(result.interference.conflicting, key=lambda pair_: pair_[2])
        rows = [
            [
                f"{number(levels.timesteps[a])} and {number(levels.timesteps[b])}",
                f"{fixed(levels.log_snr[a], 1)} and {fixed(levels.log_snr[b], 1)}",
                pair(value, stderr),
            ]
            for a, b, value, stderr in worst[:TOP_PAIRS]
        ]
        rest = len(worst) - len(rows)
        note = "Mean loss gradients with a cosine below zero by two standard errors, the most negative first."
        if rest:
            note += f" {rest} more are in summary.json."
        found.append(Table("Conflicting pairs of levels", ["t", "log-SNR", "cosine ± s.e."], rows, note))
    if result.weighting is not None:
        names = list(result.weighting.schemes)
        rows = [
            [number(t), *(pair(result.weighting.predicted_change[n][i], result.weighting.stderr[n][i]) for n in names)]
            for i, t in enumerate(levels.timesteps)
        ]
        note = "First-order change of each level's loss for one step of equal gradient norm; more is in weighting.csv."
        found.append(Table("What-if weighting", ["t", *names], rows, note))
    return found


def _subtitle(result: DiffusionResult, provenance: Mapping[str, Any]) -> str:
    meta, levels = result.meta, result.levels
    parts = [str(meta["class"])] if meta.get("class") else []
    if meta.get("parameters"):
        parts.append(f"{int(meta['parameters']):,} parameters")
    if meta.get("prediction_type"):
        parts.append(f"{str(meta['prediction_type']).replace('_', ' ')} prediction")
    parts.append(f"{len(levels.timesteps)} noise levels × {meta.get('images', '?')} images")
    if meta.get("probes"):
        parts.append(counted(meta["probes"], "probe"))
    data = (provenance.get("data") or {}).get("source")
    if data:
        parts.append(f"data: {data}")
    return " · ".join(parts)


def _notes(result: DiffusionResult, provenance: Mapping[str, Any]) -> list[str]:
    conversions = [f"Images: {step}" for step in (provenance.get("data") or {}).get("conversions") or []]
    return [str(note) for note in result.meta.get("notes") or []] + conversions
