#!/usr/bin/env python
"""Draw the figures of a finished run again, from its numbers, without computing anything.

python scripts/plot_locality.py runs/mine --out figures/ --only kernel profile --format svg
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    import genkernel as gk
    from genkernel.errors import InputError
    from genkernel.plots import diffusion_figures, to_bytes
    from genkernel.runs import write_atomic

    args = _parser().parse_args(arguments)
    figures = diffusion_figures(gk.open_run(args.run, kind="diffusion").result)
    wanted = args.only or list(figures)
    if unknown := [name for name in wanted if name not in figures]:
        raise InputError(f"{args.run} has no figure {unknown[0]!r}: it has {', '.join(figures)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        figure = figures[name]()
        for kind in args.format:
            print(f"saved {write_atomic(args.out / f'{name}.{kind}', to_bytes(figure, kind))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished diffusion run")
    parser.add_argument("--out", required=True, type=Path, help="folder for the figures")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="draw these only (kernel, profile, controls, …)")
    parser.add_argument("--format", nargs="+", choices=("png", "svg"), default=["png", "svg"])
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
