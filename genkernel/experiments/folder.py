"""The folder of an experiment: what it found as JSON, as Markdown tables, as figures, and where that comes from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from genkernel.experiments.outcome import Outcome
from genkernel.runs import Provenance, RunFolder, Stopwatch, json_ready

KIND, SCHEMA_VERSION = "experiment", 1
SUMMARY, TABLES, PROVENANCE = "summary.json", "tables.md", "run.json"


def summary(outcome: Outcome) -> dict[str, Any]:
    """Settings, claims and numbers of an outcome, and where they come from (now, on this machine), JSON-ready."""
    import torch

    from genkernel.bench.record import provenance

    return json_ready(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "name": outcome.name,
            "settings": outcome.settings,
            "claims": [asdict(claim) for claim in outcome.claims],
            "numbers": outcome.numbers,
            "provenance": provenance(torch.device("cpu")),
        }
    )


def fill(folder: RunFolder, outcome: Outcome, provenance: Provenance, stopwatch: Stopwatch) -> Path:
    """Write an outcome into a folder that was claimed before the work, and show it.

    Returns:
        Path: the folder, with ``summary.json``, ``tables.md``, ``run.json`` and ``figures/*.png|svg``.

    Raises:
        OutputError: it cannot be written; the folder is then as it was.
    """
    from genkernel.plots import to_bytes

    with stopwatch("figures"):
        for name, figure in outcome.figures.items():
            folder.write(f"figures/{name}.png", to_bytes(figure, "png"))
            folder.write(f"figures/{name}.svg", to_bytes(figure, "svg"))
    folder.write_json(SUMMARY, summary(outcome))
    folder.write(TABLES, outcome.markdown())
    provenance.complete(stopwatch)
    provenance.files = sorted({*folder.files(), PROVENANCE})
    folder.write_json(PROVENANCE, provenance.to_json())
    return folder.commit()
