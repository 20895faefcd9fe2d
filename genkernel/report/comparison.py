"""The page of a comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genkernel.plots.style import number, pair
from genkernel.report.captions import COMPARISON
from genkernel.report.page import Table, pictures, render
from genkernel.report.provenance import provenance_facts
from genkernel.report.words import headline, short


def compare_page(summary: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], drawn: Mapping[str, bytes]) -> str:
    """Self-contained HTML from a comparison's summary.

    Args:
        summary: :meth:`genkernel.workflows.compare.Comparison.summary`.
        runs: the two ``run.json``.
        drawn: figures as PNG bytes.
    """
    names = summary["runs"]
    clear = [row for row in summary["differences"] if row["clear"]]
    if clear:
        reading = [f"{len(clear)} of {len(summary['differences'])} quantities differ by more than two standard errors."]
        reading += [
            f"{row['name'].capitalize()}: {pair(row['a'], row['a_stderr'])} in A, "
            f"{pair(row['b'], row['b_stderr'])} in B (B − A {pair(row['difference'], row['stderr'])})."
            for row in clear
        ]
    else:
        reading = ["No quantity differs by more than two standard errors."]
    tables = [
        Table(
            "Differences",
            ["Quantity", "A", "B", "B − A", "beyond 2 s.e."],
            [
                [
                    row["name"],
                    pair(row["a"], row["a_stderr"]) if row["a"] is not None else "none",
                    pair(row["b"], row["b_stderr"]) if row["b"] is not None else "none",
                    pair(row["difference"], row["stderr"]) if row["difference"] is not None else "n/a",
                    ("yes" if row["clear"] else "no") if row["stderr"] else "no s.e.",
                ]
                for row in summary["differences"]
            ],
            "± s.e.; those of the differences are added in quadrature, as of independent runs.",
        ),
        Table(
            "Half-widths by level",
            ["t (of A)", "log-SNR", "A (nats)", "B (nats)"],
            [
                [number(row["timestep"]), f"{row['log_snr']:.2f}", short(row["a"]), short(row["b"])]
                for row in summary["half_widths"]
            ],
            "Distance in log-SNR at which the mean cosine around a level has fallen half way to its floor.",
        ),
    ]
    return render(
        "compare.html.j2",
        title=f"{names[0]} and {names[1]}",
        names=names,
        reading=headline(reading),
        warnings=summary["warnings"],
        figures=pictures(drawn, COMPARISON),
        tables=tables,
        facts=[provenance_facts(run) for run in runs],
        finished="",
    )
