#!/usr/bin/env python
"""Is memory= a bound? Budget, plan, expected and measured peak and time, and agreement, as one table.

    python scripts/check_memory.py                                   # all cases: the better part of an hour on one core
    python scripts/check_memory.py --quick                           # a minute
    python scripts/check_memory.py --only W4 --out memory-cpu.json   # those of one workload, as a record

Every case runs in a process of its own. The exit status is 1 when one took more memory than it was allowed, or
its kernel is not that of the first case with the same samples to 1e-6.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    from genkernel.bench.budgets import CASES, HEAD, QUICK, check, wrong
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    cases = [case for case in (QUICK if args.quick else CASES) if not args.only or case.workload in args.only]
    print(HEAD)
    record = check(cases, say=lambda text: print(text, flush=True))
    if args.out is not None:
        print(f"saved {write_atomic(args.out, json.dumps(record, indent=1) + chr(10))}")
    bad = sum(map(wrong, record["rows"]))
    print(f"{len(record['rows'])} cases, {bad} outside of their budget or wrong")
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORKLOAD", help="W1 … W5, mlp, wide")
    parser.add_argument("--quick", action="store_true", help="small cases")
    parser.add_argument("--out", type=Path, help="where the record goes (JSON)")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
