#!/usr/bin/env python
"""Which signs tell a GAN that loses its modes from one that keeps them, how early, and what causes the loss?

    python scripts/study_collapse.py train --out runs/collapse          # hours; continues where it was stopped
    python scripts/study_collapse.py intervene --out runs/collapse
    python scripts/study_collapse.py evaluate --runs runs/collapse      # table, figures and numbers
    python scripts/study_collapse.py evaluate --runs benchmarks/collapse-study.json.gz

``train`` trains GANs with many recipes and seeds and analyses copies of each along the way; ``intervene`` changes the
updates of collapsing runs; ``evaluate`` trains nothing and needs no network, only what the two have written.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    {"train": _train, "intervene": _intervene, "evaluate": _evaluate}[args.command](args)


def _train(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from genkernel.errors import InputError
    from genkernel.experiments.collapse.runs import jobs, measure_all, transfer_jobs, validation_jobs

    if "fashion" in args.data and not (args.transfer and args.classifier):
        raise InputError("fashion is for --transfer, and needs a --classifier of its own (train_mnist_classifier.py)")
    if args.transfer:
        todo = transfer_jobs(args.data, args.transfer)
    elif args.validate:
        todo = validation_jobs(args.data, args.validate)
    else:
        todo = [job for data in args.data for job in jobs([data], args.calibrate, args.report)]
    with tqdm(total=len(todo), desc="runs") as bar:
        measure_all(
            todo, args.out / "runs", args.workers, lambda job, done, of: bar.update(), args.images, args.classifier
        )
    _pack(args.out)


def _intervene(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from genkernel.experiments.collapse.interventions import ARMS, Trial, run_trials

    todo = [
        Trial(data, start, arm, seed)
        for data in args.data
        for start in ("onset", "late")
        for seed in range(args.seeds)
        for arm in ARMS
    ]
    with tqdm(total=len(todo), desc="trials") as bar:
        run_trials(todo, args.out / "trials", args.workers, lambda trial, done, of: bar.update())
    _pack(args.out)


def _pack(out: Path) -> None:
    """Everything that was found, in one file."""
    from genkernel.runs import json_ready, write_atomic

    found = {part: _read_folder(out / part) for part in ("runs", "trials")}
    content = gzip.compress(json.dumps(json_ready(found), separators=(",", ":")).encode(), mtime=0)
    write_atomic(out / "collapse-study.json.gz", content)


def _read_folder(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _evaluate(args: argparse.Namespace) -> None:
    from genkernel.errors import MissingError
    from genkernel.experiments.collapse import figures
    from genkernel.experiments.collapse.interventions import compare
    from genkernel.experiments.collapse.statistics import split
    from genkernel.experiments.collapse.study import KINDS, evaluate, outcome_table, ranges, table, verdicts
    from genkernel.plots import to_bytes
    from genkernel.runs import json_ready, versions, write_atomic

    if args.runs.is_dir():
        found = {part: _read_folder(args.runs / part) for part in ("runs", "trials")}
    elif args.runs.is_file():
        found = json.loads(gzip.decompress(args.runs.read_bytes()))
    else:
        raise MissingError(f"there is nothing at {args.runs}: give the folder of `train`, or collapse-study.json.gz")
    planar = [run for run in found["runs"] if run["data"] in ("ring", "grid")]
    study = evaluate(planar)
    report = split(planar)[1]
    drawn = {
        "collapse-areas": figures.areas(study),
        "collapse-roc": figures.roc_curves(report, study),
        "collapse-leads": figures.lead_times(study),
        "collapse-courses": figures.courses(report),
    }
    if found["trials"]:
        drawn["collapse-interventions"] = figures.interventions(found["trials"])
    if args.ranges:
        write_atomic(args.ranges, json.dumps(json_ready(ranges(found["runs"])), indent=1, ensure_ascii=False) + "\n")
    args.figures.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        write_atomic(args.figures / f"{name}.png", to_bytes(figure, "png"))
    judged = {
        kind: {
            role: verdicts([run for run in found["runs"] if run["data"] in data and run["role"] == role], kind)
            for role in ("calibrate", "report", "validate", "transfer")
        }
        for kind, data in KINDS.items()
    }
    summary = {
        "verdicts": judged,
        "study": asdict(study),
        "interventions": compare(found["trials"]),
        "versions": versions(),
    }
    write_atomic(args.json, json.dumps(json_ready(summary), indent=1, ensure_ascii=False) + "\n")
    print(table(study))
    for row in summary["interventions"]:
        print(row)
    kinds = {name: kind for kind, data in KINDS.items() for name in data}
    for role, words in (("report", "reported runs"), ("validate", "further seeds"), ("transfer", "other networks")):
        print(f"\n{words}:\n" + outcome_table([run for run in found["runs"] if run["role"] == role], kinds))
    for kind, parts in judged.items():
        for role, counts in parts.items():
            print(f"verdicts on {kind}, {role}: { {outcome: dict(c) for outcome, c in counts.items()} }")
    print(f"outcomes: {study.outcomes}; with a drop: {study.drops}; figures in {args.figures}, numbers in {args.json}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the runs and analyse their copies")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--data", nargs="+", default=["ring", "grid"], choices=["ring", "grid", "mnist", "fashion"])
    train.add_argument("--images", help="for runs on images, where they are: an .npz, a folder, or MNIST")
    train.add_argument("--classifier", type=Path, help="folder of the classifier that counts modes (the shipped one)")
    train.add_argument("--calibrate", nargs="+", type=int, default=[100, 101], help="seeds that thresholds are from")
    train.add_argument("--report", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds that are reported")
    train.add_argument(
        "--transfer", nargs="+", type=int, metavar="SEED", help="instead: other networks, to see what carries over"
    )
    train.add_argument(
        "--validate", nargs="+", type=int, metavar="SEED", help="instead: further seeds, to try the verdict on"
    )
    train.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    intervene = commands.add_parser("intervene", help="take parts out of the updates of collapsing runs")
    intervene.add_argument("--out", type=Path, required=True)
    intervene.add_argument("--data", nargs="+", default=["ring"], choices=["ring", "grid"])
    intervene.add_argument("--seeds", type=int, default=12)
    intervene.add_argument("--workers", type=int, default=2)
    evaluate = commands.add_parser("evaluate", help="table, figures and numbers")
    evaluate.add_argument("--runs", type=Path, required=True, help="folder of `train`, or its collapse-study.json.gz")
    evaluate.add_argument("--figures", type=Path, default=Path("docs/figures"))
    evaluate.add_argument("--json", type=Path, default=Path("benchmarks/collapse-study.json"))
    evaluate.add_argument(
        "--ranges", type=Path, help="also write the verdict's ranges (genkernel/gan/reference_ranges.json)"
    )
    return parser


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main, interrupted="interrupted: the same command continues with the runs that are missing")
