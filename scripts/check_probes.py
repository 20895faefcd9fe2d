#!/usr/bin/env python
"""How far kernels from random probes are from exact ones, and what errors they state, on the shipped models.

python scripts/check_probes.py                                  # some minutes on one core
python scripts/check_probes.py --models mnist-classifier        # seconds
python scripts/check_probes.py --out benchmarks/probe-errors.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    from genkernel.bench.probe_errors import BATCHES, measure
    from genkernel.runs import write_atomic

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(BATCHES), default=list(BATCHES))
    parser.add_argument("--probes", nargs="+", type=int, default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--out", type=Path, help="where the record goes (JSON)")
    args = parser.parse_args(arguments)
    record = measure(tuple(args.models), tuple(args.probes), args.draws, args.samples)
    print(
        "| model | outputs | probes | error | without the jackknife | stated |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in record["rows"]:
        cells = (
            row["model"],
            row["outputs"],
            row["probes"],
            *(f"{row[key]:.4f}" for key in ("error", "plain", "stated")),
        )
        print(f"| {' | '.join(map(str, cells))} |")
    if args.out is not None:
        print(f"saved {write_atomic(args.out, json.dumps(record, indent=1) + chr(10))}")


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
