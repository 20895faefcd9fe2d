#!/usr/bin/env python
"""Check the engine on every architecture against the naive reference, and write the table.

    python scripts/check_architectures.py                            # fill gaps, write docs/architectures.md
    python scripts/check_architectures.py --only 'resnet*' 'Flux*'   # these alone
    python scripts/check_architectures.py --only resnet18 --again    # although it is there

Rows are kept in a file as they are finished: a run that is stopped goes on where it was. The exit
status is 1 when a kernel is wrong or could not be computed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    sys.path.insert(0, str(ROOT))  # the traps are cases of tests/zoo
    from genkernel.bench.architecture_table import fill, markdown
    from genkernel.bench.architectures import SOURCES, architectures
    from genkernel.runs import write_atomic
    from genkernel.tangent.fingerprint import fingerprint_code

    args = _parser().parse_args(arguments)
    sources = ("tests.zoo.traps", *SOURCES)
    if args.list:
        print(*architectures(sources), sep="\n")
        return 0
    rows = fill(args.rows, sources, args.only, again=args.again, isolated=not args.inline, progress=True)
    if args.out is not None:
        page = markdown(rows, fingerprint_code())
        if args.out.suffix == ".json":
            page = json.dumps([row.to_json() for row in rows], indent=1) + "\n"
        print(f"saved {write_atomic(args.out, page)}")
    bad = [row.name for row in rows if row.status in ("wrong", "failed")]
    print(f"{len(rows)} architectures, {sum(row.status == 'ok' for row in rows)} agree, {len(bad)} do not", *bad)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="names, with wildcards")
    parser.add_argument("--rows", type=Path, default=ROOT / "benchmarks/architectures.json", help="where rows are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/architectures.md", help="the table: .md or .json")
    parser.add_argument("--again", action="store_true", help="compute rows that are there already, too")
    parser.add_argument("--inline", action="store_true", help="in this process, not in ones of their own")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
