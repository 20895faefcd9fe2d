"""The page of a classifier: what its kernel makes of classes, beside controls, and how far it reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genkernel.plots.style import counted, pair
from genkernel.report.classifier_captions import CAPTIONS, LIMITS, SECTIONS, TERMS
from genkernel.report.page import Number, Table, filled, render
from genkernel.report.provenance import citation, finished_at, provenance_facts
from genkernel.report.words import fixed

if TYPE_CHECKING:
    from genkernel.classifier.results import SimilarityResult


def classifier_page(result: SimilarityResult, provenance: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    """The self-contained HTML page of a classifier.

    Args:
        result: the numbers.
        provenance: the content of ``run.json``.
        drawn: figures as PNG bytes, by the names of :func:`genkernel.plots.classifier.classifier_figures`.
    """
    tables = {
        "classes": [class_table(result)],
        "controls": [control_table(result)] if len(result.structures) > 1 else [],
    }
    name = str((provenance.get("checkpoint") or {}).get("name") or "this classifier")
    words = [
        result.meta.get("model"),
        f"{len(result.labels)} samples of {len(result.names)} classes",
        counted(result.meta["probes"], "probe") if result.meta.get("probes") else "exact trace",
        result.meta.get("dtype"),
    ]
    return render(
        "reading.html.j2",
        kicker="classifier · class structure of the tangent kernel",
        says="What this classifier's kernel says",
        title=f"The classes of {name}",
        heading="Does the kernel know the classes?",
        subtitle=" · ".join(str(word) for word in words if word),
        reading=result.meta.get("reading") or ["This run states no reading: see the numbers."],
        numbers=key_numbers(result),
        sections=filled(SECTIONS, drawn, CAPTIONS, tables),
        limits=[*LIMITS, *(note[:1].upper() + note[1:] + "." for note in result.notes)],
        terms=TERMS,
        facts=provenance_facts(provenance),
        citation=citation(),
        finished=finished_at(provenance),
    )


def key_numbers(result: SimilarityResult) -> list[Number]:
    """The handful of numbers that a reader takes away."""
    own, before = result.trained, result.structures.get("untrained")
    found = [
        Number("Accuracy", fixed(result.answers.accuracy, 3), f"at these {len(result.labels)} samples"),
        Number(
            "Within − between",
            pair(own.contrast, own.contrast_stderr),
            "" if before is None else f"untrained {pair(before.contrast, before.contrast_stderr)}",
        ),
        Number("CKA with labels", fixed(own.cka, 3), "" if before is None else f"untrained {fixed(before.cka, 3)}"),
        Number(
            f"{result.k} nearest neighbours",
            pair(own.neighbours, own.neighbours_stderr),
            f"of the same class; {fixed(result.chance, 2)} by chance"
            + ("" if math.isnan(result.euclidean) else f", Euclidean {fixed(result.euclidean, 2)}"),
        ),
    ]
    if own.separation is not None:
        found.append(
            Number(
                "Linear SVM, held out",
                pair(own.separation.held_out, own.separation.stderr),
                ""
                if before is None or before.separation is None
                else f"untrained {fixed(before.separation.held_out, 3)}",
            )
        )
    said = result.extrapolation
    if said is not None and said.newness is not None:
        found.append(Number("New from held-out", fixed(said.newness.value, 2), "area under ROC of the distance"))
    return found


def class_table(result: SimilarityResult) -> Table:
    """Every class: samples, accuracy, loss, similarity to itself and to the nearest other one."""
    rows = []
    for c, name in enumerate(result.names):
        row = result.trained.matrix[c]
        others = [k for k in range(len(row)) if k != c]
        near = max(others, key=lambda k: row[k])
        rows.append(
            [
                name,
                f"{result.sizes[c]}",
                fixed(float(result.answers.accuracy_per_class[c]), 3),
                fixed(float(result.answers.loss_per_class[c]), 3),
                "–" if math.isnan(row[c]) else fixed(float(row[c]), 3),
                f"{fixed(float(row[near]), 3)} ({result.names[near]})",
            ]
        )
    head = ["class", "samples", "accuracy", "loss", "cosine within", "largest to another"]
    return Table("Every class", head, rows)


def control_table(result: SimilarityResult) -> Table:
    """Every kernel: class structure in numbers."""
    rows = []
    for name, one in result.structures.items():
        found = one.separation
        rows.append(
            [
                name,
                pair(one.within, one.within_stderr),
                pair(one.between, one.between_stderr),
                pair(one.contrast, one.contrast_stderr),
                fixed(one.cka, 3),
                fixed(one.kta, 3),
                pair(one.neighbours, one.neighbours_stderr),
                "–" if found is None else pair(found.held_out, found.stderr),
                "–" if found is None else fixed(found.in_sample, 3),
            ]
        )
    head = ["kernel", "within", "between", "difference", "CKA", "KTA", "neighbours", "SVM, held out", "SVM, in-sample"]
    return Table("Every kernel", head, rows)
