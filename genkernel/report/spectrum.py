"""The page of a spectrum: how many directions, who shares them, what can be learned along them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots.style import number, pair
from genkernel.report.page import Number, Table, pictures, render
from genkernel.report.provenance import citation, finished_at, provenance_facts
from genkernel.report.spectrum_captions import CAPTIONS, LIMITS, SECTIONS, TERMS

if TYPE_CHECKING:
    from genkernel.workflows.spectrum import SpectrumResult

CLEAR = 1.96  # standard errors that a difference has to exceed to be spoken of


def spectrum_page(result: SpectrumResult, provenance: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The self-contained HTML page of a spectrum.

    Args:
        result: the numbers.
        provenance: the content of ``run.json``.
        drawn: figures as PNG bytes, by the names of :func:`genkernel.plots.spectrum.spectrum_figures`.
    """
    tables = {"groups": group_tables(result), "residual": residual_tables(result)}
    sections = []
    for section in SECTIONS:
        figures = pictures(drawn, section.figures, CAPTIONS)
        if figures or tables.get(section.anchor):
            sections.append(
                {
                    "anchor": section.anchor,
                    "title": section.title,
                    "lead": section.lead,
                    "figures": figures,
                    "tables": tables.get(section.anchor, []),
                }
            )
    name = str((provenance.get("checkpoint") or {}).get("name") or "this kernel")
    one = result.spectrum
    words = [
        result.meta.get("model"),
        f"{one.samples} samples",
        f"{one.outputs} rows each" if one.outputs > 1 else None,
        "cosine kernel" if one.normalized else "kernel as it is",
        f"{result.meta['probes']} probes" if result.meta.get("probes") else None,
        result.meta.get("dtype"),
    ]
    return render(
        "spectrum.html.j2",
        title=f"The spectrum of {name}",
        heading="How many directions, and who shares them?",
        subtitle=" · ".join(str(word) for word in words if word),
        reading=read(result),
        numbers=key_numbers(result),
        sections=sections,
        limits=LIMITS,
        terms=TERMS,
        facts=provenance_facts(provenance),
        citation=citation(),
        finished=finished_at(provenance),
    )


# --------------------------------------------------------------------------------- in words


def read(result: SpectrumResult) -> list[str]:
    """What the numbers say, in plain sentences; differences within 1.96 standard errors are not spoken of."""
    one = result.spectrum
    first = float(max(one.eigenvalues[0], 0) / one.trace) if one.trace > 0 else math.nan
    sentences = [
        f"{one.samples} samples have an effective rank of {pair(one.effective_rank, one.effective_rank_stderr)}; the "
        f"first mode alone holds {first:.0%} of the trace."
    ]
    if one.rank < one.samples * one.outputs:
        sentences.append(
            f"{one.samples * one.outputs - one.rank} of {one.samples * one.outputs} eigenvalues are rounding noise: "
            "along these directions nothing can be said, and nothing is learned."
        )
    return sentences + _groups(result) + _targets(result) + _residual(result)


def _groups(result: SpectrumResult) -> list[str]:
    groups = result.spectrum.groups
    if groups is None:
        return []
    sentences = []
    rank, error = groups.effective_rank, np.nan_to_num(groups.effective_rank_stderr)
    known = np.flatnonzero(np.isfinite(rank))
    same = len(set(groups.sizes[known].tolist())) == 1
    if len(known) > 1 and same:
        least, most = known[rank[known].argmin()], known[rank[known].argmax()]
        gap = rank[most] - rank[least]
        if gap > CLEAR * math.hypot(error[least], error[most]):
            few, many = (f"{groups.names[g]} ({pair(rank[g], error[g])})" for g in (least, most))
            sentences.append(
                f"With {groups.sizes[known[0]]} samples each, the {result.of} with the fewest directions is {few}, "
                f"that "
                f"with the most {many}."
            )
        else:
            sentences.append(f"No {result.of} has clearly more directions than another.")
    elif len(known) > 1:
        sentences.append(
            f"The {result.of}s have different numbers of samples: their effective ranks cannot be compared as they are."
        )
    count = len(known)
    shared = float(groups.mode_groups[0])
    top = int(groups.mode_share[0].argmax())
    sentences.append(
        f"The first mode is spread over {shared:.1f} of {count} {result.of}s"
        + (
            f"; {groups.mode_share[0][top]:.0%} of it lies in {groups.names[top]}."
            if groups.mode_share[0][top] > 2 / max(count, 1)
            else "."
        )
    )
    away = groups.overlap[~np.eye(len(groups.names), dtype=bool)]
    if np.isfinite(away).any():
        own = np.nanmean(np.diag(groups.overlap))
        sentences.append(
            f"Between different {result.of}s {np.nanmean(away):.2f} of the {groups.directions} leading directions "
            f"coincide on average ({np.nanmin(away):.2f} to {np.nanmax(away):.2f}); between halves of one and the "
            f"same, "
            f"{own:.2f}."
        )
    return sentences


def _targets(result: SpectrumResult) -> list[str]:
    found = result.spectrum.targets
    if found is None:
        return []
    chance = found.samples[-1] / result.spectrum.samples
    return [
        f"Kernel regression on {found.samples[-1]:.0f} samples is expected to learn {found.learnability[-1]:.0%} of "
        f"the "
        f"targets (random targets: {chance:.0%}); alignment {found.alignment:.3f}, unbiased CKA "
        f"{number(round(found.alignment_cka, 3))}."
    ]


def _residual(result: SpectrumResult) -> list[str]:
    found = result.residual
    if found is None:
        return []
    resolved = [k for k in range(len(found.tolerances)) if np.isfinite(found.residual[:, k]).all()]
    sentences = []
    if resolved:
        at = resolved[-1]
        gap = found.residual[:, at] - found.random[:, at]
        clear = np.abs(gap) > found.residual_stderr[:, at]  # both halves of the images are on one side
        more, less = int((clear & (gap > 0)).sum()), int((clear & (gap < 0)).sum())
        sentences.append(
            f"At τ = {found.tolerances[at]:g}, {_range(found.residual[:, at])} of the residual lie out of the kernel's "
            f"reach; a random direction has {_range(found.random[:, at])}. In both halves of the images the residual "
            f"has more of it than "
            f"chance at {more} of {len(gap)} levels, and less at {less}."
        )
    last = len(found.images) - 1
    lead = found.rest[:, last] - found.chance[:, last]
    count = int((lead > found.rest_stderr[:, last]).sum())
    plural = "image" if found.images[last] == 1 else "images"
    sentences.append(
        f"Of the residual, regression with this kernel on {found.images[last]} more {plural} would learn "
        f"{_range(found.rest[:, last])} (of a random direction {found.chance[0, last]:.0%}), clearly more than "
        f"chance at "
        f"{count} of {len(lead)} levels."
    )
    return sentences


def _range(shares: np.ndarray) -> str:
    return f"{shares.min():.0%} to {shares.max():.0%}"


# ---------------------------------------------------------------------------------- numbers


def key_numbers(result: SpectrumResult) -> list[Number]:
    """The handful of numbers that a reader takes away."""
    one = result.spectrum
    found = [
        Number("Effective rank", pair(one.effective_rank, one.effective_rank_stderr), f"of {one.samples} samples"),
        Number("Above rounding", f"{one.rank}", f"of {one.samples * one.outputs} eigenvalues"),
        Number("Trace", number(one.trace), "mean k(x, x)"),
    ]
    if one.targets is not None:
        found.append(Number("Alignment with targets", f"{one.targets.alignment:.3f}", "KTA"))
    return found


def group_tables(result: SpectrumResult) -> list[Table]:
    """Every group: samples, size of gradients, effective rank, and its own overlap."""
    groups = result.spectrum.groups
    if groups is None:
        return []
    rows = [
        [
            name,
            f"{groups.sizes[g]}",
            number(float(groups.trace[g])),
            pair(float(groups.effective_rank[g]), float(groups.effective_rank_stderr[g])),
            number(float(round(groups.overlap[g, g], 3))) if math.isfinite(groups.overlap[g, g]) else "–",
        ]
        for g, name in enumerate(groups.names)
    ]
    head = [result.of, "samples", "mean k(x, x)", "effective rank", "overlap of its halves"]
    return [Table(f"Every {result.of}", head, rows)]


def residual_tables(result: SpectrumResult) -> list[Table]:
    """Every level: loss, Rayleigh quotient, energy out of reach, learnability."""
    found = result.residual
    if found is None:
        return []
    at = max((k for k in range(len(found.tolerances)) if np.isfinite(found.residual[:, k]).all()), default=0)
    last = len(found.images) - 1
    rows = [
        [
            number(float(t)),
            number(float(found.loss[k])),
            number(float(found.rayleigh[k])),
            number(float(found.rayleigh_random[k])),
            pair(float(found.residual[k, at]), float(found.residual_stderr[k, at])),
            number(float(round(found.random[k, at], 3))),
            pair(float(found.target[k, last]), float(found.target_stderr[k, last])),
            pair(float(found.rest[k, last]), float(found.rest_stderr[k, last])),
        ]
        for k, t in enumerate(found.timesteps)
    ]
    head = [
        "timestep", "loss", "ρ", "ρ, random", f"out of reach (τ = {found.tolerances[at]:g})", "random",
        "learnability of target", "of residual",
    ]  # fmt: skip
    return [Table("The residual, level by level", head, rows)]
