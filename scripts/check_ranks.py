#!/usr/bin/env python
"""Do two processes give the kernel of one, and how much sooner? One thread for each process, as one table.

    python scripts/check_ranks.py                        # minutes on two cores that do nothing else
    python scripts/check_ranks.py --quick
    python scripts/check_ranks.py --out ranks-cpu.json

The exit status is 1 when a kernel differs by more than 1e-6.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    from genkernel.bench.ranks import CASES, HEAD, QUICK, TOLERANCE, check
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    print(HEAD)
    record = check(QUICK if args.quick else CASES, args.processes, say=lambda text: print(text, flush=True))
    if args.out is not None:
        print(f"saved {write_atomic(args.out, json.dumps(record, indent=1) + chr(10))}")
    bad = sum(row["error"] > TOLERANCE for row in record["rows"])
    print(f"{len(record['rows'])} kernels, {bad} not those of one process")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small cases: shows that everything runs")
    parser.add_argument("--out", type=Path, help="where the record goes (JSON)")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
