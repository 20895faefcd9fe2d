"""The page of a spectrum: how many directions, who shares them, what can be learned along them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots.style import counted, number, pair
from genkernel.report.page import Number, Table, filled, render
from genkernel.report.provenance import citation, finished_at, provenance_facts
from genkernel.report.spectrum_captions import CAPTIONS, LIMITS, SECTIONS, TERMS
from genkernel.report.words import fixed
from genkernel.spectra.results import UNSOLVED

if TYPE_CHECKING:
    from genkernel.spectra.results import SpectrumResult


def spectrum_page(result: SpectrumResult, provenance: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The self-contained HTML page of a spectrum.

    Args:
        result: the numbers.
        provenance: the content of ``run.json``.
        drawn: figures as PNG bytes, by the names of :func:`genkernel.plots.spectrum.spectrum_figures`.
    """
    tables = {"groups": group_tables(result), "residual": residual_tables(result)}
    name = str((provenance.get("checkpoint") or {}).get("name") or "this kernel")
    one = result.spectrum
    words = [
        result.meta.get("model"),
        counted(one.samples, "sample"),
        f"{one.outputs} rows each" if one.outputs > 1 else None,
        "cosine kernel" if one.normalized else "kernel as it is",
        counted(result.meta["probes"], "probe") if result.meta.get("probes") else None,
        result.meta.get("dtype"),
    ]
    return render(
        "reading.html.j2",
        kicker="spectrum · eigenmodes of the tangent kernel",
        says="What this kernel says",
        title=f"The spectrum of {name}",
        heading="How many directions, and who shares them?",
        subtitle=" · ".join(str(word) for word in words if word),
        reading=result.meta.get("reading") or ["This run states no reading: see the numbers."],
        numbers=key_numbers(result),
        sections=filled(SECTIONS, drawn, CAPTIONS, tables),
        limits=LIMITS,
        terms=TERMS,
        facts=provenance_facts(provenance),
        citation=citation(),
        finished=finished_at(provenance),
    )


# ---------------------------------------------------------------------------------- numbers


def key_numbers(result: SpectrumResult) -> list[Number]:
    """The handful of numbers that a reader takes away."""
    one = result.spectrum
    found = [
        Number(
            "Effective rank",
            pair(one.effective_rank, one.effective_rank_stderr),
            f"of {counted(one.samples, 'sample')}",
        ),
        Number("Above rounding", f"{one.rank}", f"of {one.samples * one.outputs} eigenvalues"),
    ]
    if not one.normalized:
        found.append(Number("Trace", number(one.trace), "mean k(x, x)"))
    if one.targets is not None:
        said = one.targets
        error, n = float(said.test_mse[-1]), counted(round(said.samples[-1]), "sample")
        note = f"of the targets' variance, from {n}; 1: that of their mean"
        found.append(Number("Predicted error", number(float(f"{error:.3g}")), note))
        if math.isfinite(said.alignment_cka):
            found.append(Number("Alignment with targets", fixed(said.alignment_cka, 3), "unbiased CKA; 0 if shuffled"))
        else:  # of fewer than four samples, or of a constant kernel
            shuffled = fixed(said.alignment_shuffled, 3)
            found.append(Number("Alignment with targets", fixed(said.alignment, 3), f"KTA; {shuffled} if shuffled"))
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
            number(float(round(groups.equal_rank[g], 2))) if math.isfinite(groups.equal_rank[g]) else "–",
            number(float(round(groups.overlap[g, g], 3))) if math.isfinite(groups.overlap[g, g]) else "–",
        ]
        for g, name in enumerate(groups.names)
    ]
    head = [
        result.of,
        "samples",
        "mean k(x, x)",
        "effective rank",
        f"at {groups.equal_size} samples each",
        "overlap of its halves",
    ]
    return [Table(f"Every {result.of}", head, rows)]


def residual_tables(result: SpectrumResult) -> list[Table]:
    """Every level: loss, Rayleigh quotient, energy out of reach, learnability."""
    found = result.residual
    if found is None:
        return []
    at = max((k for k in range(len(found.tolerances)) if np.isfinite(found.residual[:, k]).all()), default=0)
    rows = [
        [
            number(float(t)),
            number(float(found.loss[k])),
            number(float(found.rayleigh[k])),
            number(float(found.rayleigh_random[k])),
            pair(float(found.residual[k, at]), float(found.residual_stderr[k, at])),
            number(float(round(found.random[k, at], 3))),
            pair(float(found.target[k]), float(found.target_stderr[k])),
            pair(float(found.rest[k]), float(found.rest_stderr[k])),
            number(float(f"{found.unsolved[k]:.2g}")) + ("" if found.converged[k] else ", not converged"),
        ]
        for k, t in enumerate(found.timesteps)
    ]
    head = [
        "timestep", "loss", "ρ", "ρ, random", f"out of reach (τ = {found.tolerances[at]:g})", "random",
        "R² of target", "R² of residual", "left unsolved",
    ]  # fmt: skip
    note = (
        f"ρ: Rayleigh quotient. Left unsolved: what the iteration of the regressions left of the right-hand side after "
        f"{found.steps} steps; above {UNSOLVED:g} it has not converged, and the R² beside it say nothing."
    )
    return [Table("The residual, level by level", head, rows, note)]
