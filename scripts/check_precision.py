#!/usr/bin/env python
"""Do float32 gradients with float64 sums keep the modes of a kernel? Ranks and noise floors on W1, as one table.

    python scripts/check_precision.py                                      # 100 samples: about a minute on one core
    python scripts/check_precision.py --n 100 500 --out precision-cpu.json

The exit status is 1 when they have other ranks than the float64 reference somewhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    from genkernel.bench.precision import CLAIM, HEAD, broken, check
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    sizes = {"side": 12, "width": 4, "outputs": 3} if args.quick else {}
    print(HEAD)
    record = check(args.n, say=lambda text: print(text, flush=True), **sizes)
    if args.out is not None:
        print(f"saved {write_atomic(args.out, json.dumps(record, indent=1) + chr(10))}")
    bad = broken(record)
    asked = sum(row["way"] == CLAIM for row in record["rows"])
    print(f"{CLAIM}: the reference's ranks on {asked - len(bad)} of {asked}")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", nargs="+", type=int, default=[100], metavar="SAMPLES", help="numbers of samples")
    parser.add_argument("--quick", action="store_true", help="a tiny network: shows that everything runs")
    parser.add_argument("--out", type=Path, help="where the record goes (JSON)")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
