#!/usr/bin/env python
"""Put outcomes of experiments into the docs: figures, claims, run times, and the gallery of all of them.

python scripts/gallery.py outcomes/            # a folder of `genkernel experiment --all`, or of single outcomes
python scripts/gallery.py                      # the gallery again, from the records in benchmarks/

Takes from every full outcome NAME/ its summary (benchmarks/experiments/NAME.json) and its figures (assets/figures/),
and fills docs/experiments/NAME.md between its markers, docs/experiments/index.md and docs/experiments/claims.md.
Outcomes of --quick give only their times.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from genkernel.experiments.outcome import Claim, Table
from genkernel.experiments.registry import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
RECORDS, FIGURES = ROOT / "benchmarks" / "experiments", ROOT / "assets" / "figures"
PAGES, TIMES = ROOT / "docs" / "experiments", ROOT / "benchmarks" / "experiments" / "times.json"
BEGIN, END = "<!-- outcome -->", "<!-- /outcome -->"

# experiments with a page elsewhere in the docs: that page, and the record of their claims
ELSEWHERE = {
    "domingos": ("../paths.md", "paths-domingos"),
    "optimizers": ("../paths.md", "paths-optimizers"),
    "weak-error": ("../paths.md", "paths-weak-error"),
    "retraining": ("../paths.md", "paths-retraining"),
    "what-if": ("../paths.md", "paths-what-if"),
    "path-costs": ("../paths.md", "paths-costs-cpu"),
    "rank-gap": ("../null-spaces.md", "spectra-rank-gap"),
    "null-space": ("../null-spaces.md", "spectra-null-space"),
    "eigenlearning": ("../eigenlearning.md", "spectra-eigenlearning"),
    "lazy-limit": ("../eigenlearning.md", "spectra-lazy-limit"),
    "effective-gram": ("../effective-gram.md", "spectra-effective-gram"),
    "out-of-distribution": ("../out-of-distribution.md", "spectra-out-of-distribution"),
    "alignment": ("../alignment.md", "spectra-alignment"),
    "monitors": ("../monitor.md", "monitors"),
}
Times = dict[str, dict[str, dict[str, float]]]  # experiment → "full", "quick" → "clock", "processors" → seconds
MARKS = {"yes": "yes", "no": "**no**", "partly": "partly", "undecided": "undecided"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outcomes", nargs="*", type=Path, help="folders of outcomes, or folders that hold them")
    args = parser.parse_args(arguments)
    times: Times = json.loads(TIMES.read_text()) if TIMES.is_file() else {}
    for given in args.outcomes:
        for folder in [given, *sorted(entry for entry in given.iterdir() if entry.is_dir())]:
            if (folder / "summary.json").is_file():
                _take(folder, times)
    RECORDS.mkdir(parents=True, exist_ok=True)
    TIMES.write_text(json.dumps(dict(sorted(times.items())), indent=1) + "\n", encoding="utf-8")
    for name in EXPERIMENTS:
        page = PAGES / f"{name}.md"
        record = RECORDS / f"{name}.json"
        if page.is_file() and record.is_file():
            _fill(page, json.loads(record.read_text(encoding="utf-8")), times.get(name, {}))
    _gallery(times)


def _take(folder: Path, times: Times) -> None:
    """Keep what an outcome says."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    name, quick = summary["name"], bool(record["arguments"].get("quick"))
    took = {"clock": record["timings"]["experiment"], "processors": record["cpu_seconds"]}
    times.setdefault(name, {})["quick" if quick else "full"] = {
        kind: round(seconds, 1) for kind, seconds in took.items()
    }
    if quick or name in ELSEWHERE:
        return
    RECORDS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, ensure_ascii=False, separators=(",", ":"))
    (RECORDS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (RECORDS / f"{name}.md").write_text((folder / "tables.md").read_text(encoding="utf-8"), encoding="utf-8")
    for old in FIGURES.glob(f"{name}-[0-9]-*.png"):
        old.unlink()
    figures = sorted((folder / "figures").glob("*.png"), key=lambda figure: (figure.stem != name, figure.stem))
    for number, figure in enumerate(figures, 1):  # the one with the experiment's own name first
        (FIGURES / f"{name}-{number}-{_tail(name, figure.stem)}.png").write_bytes(figure.read_bytes())


def _tail(name: str, stem: str) -> str:
    return stem.removeprefix(name).strip("-") or "figure"


def figures_of(name: str) -> list[Path]:
    """Pictures of an experiment in the repository."""
    return sorted(FIGURES.glob(f"{name}-[0-9]-*.png"))


def _fill(page: Path, summary: dict[str, Any], times: dict[str, dict[str, float]]) -> None:
    """Figures, claims and settings between the markers of a page."""
    name, origin = summary["name"], summary["provenance"]
    lines = [_when(name, summary, origin, times), ""]
    for figure in figures_of(name):
        words = re.sub(r"^\d-", "", figure.stem.removeprefix(f"{name}-")).replace("-", " ")
        lines += [f"![{name}: {words}](../../assets/figures/{figure.name})", ""]
    table = Table("Claims", ("claim", "measured", "holds"), [])
    table.rows.extend((c["claim"], c["measured"], MARKS[c["holds"]]) for c in summary["claims"])
    lines += [_rows(table), *_tables(RECORDS / f"{name}.md")]
    _between(page, "\n".join(lines))


def _tables(path: Path) -> list[str]:
    """The tables of an outcome, folded; what is in the first one, the claims, stands above them."""
    if not path.is_file():
        return []
    _, *tables = re.split(r"^\*\*(.+)\*\*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[2:]
    parts = ["", "<details markdown>", "<summary>The tables behind this</summary>", ""]
    for title, rows in zip(tables[::2], tables[1::2], strict=True):
        parts += [f"**{title}**", "", rows.strip(), ""]
    return [*parts, "</details>"]


def _between(page: Path, filling: str) -> None:
    """Put a text between the markers of a page."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page} has to have {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{filling}\n{END}{after}", encoding="utf-8")


def _when(name: str, summary: dict[str, Any], origin: dict[str, Any], times: dict[str, dict[str, float]]) -> str:
    data = " --data data/" if summary["settings"].get("data") else ""
    said = {"full": "in full", "quick": "`--quick`"}
    took = ", ".join(
        f"{said[key]}: {_duration(times[key]['processors'])} of a processor" for key in said if key in times
    )
    machine = origin["machine"].get("processor_model", origin["machine"].get("processor", ""))
    return (
        f"`genkernel experiment {name}{data} --seed {summary['settings'].get('seed', 0)}`, {took} "
        f"({machine}, one thread, torch {origin['versions']['torch']}, {origin['date'][:10]}). "
        "Numbers: "
        f"[`benchmarks/experiments/{name}.json`](../../benchmarks/experiments/{name}.json)."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _rows(table: Table) -> str:
    """A table without its title."""
    return "\n".join(table.markdown().splitlines()[2:]) + "\n"


def claims_of(name: str) -> list[Claim]:
    """What the last full outcome of an experiment found; none where there is no record."""
    path = ROOT / "benchmarks" / f"{ELSEWHERE[name][1]}.json" if name in ELSEWHERE else RECORDS / f"{name}.json"
    return [Claim(**claim) for claim in json.loads(path.read_text("utf-8"))["claims"]] if path.is_file() else []


def _gallery(times: Times) -> None:
    """The page of all experiments, and the table of all claims."""
    counts = {holds: 0 for holds in MARKS}
    parts, cards, shown = [], [], []
    for name, (_, what, _) in EXPERIMENTS.items():
        claims = claims_of(name)
        own = f"{name}.md" if name not in ELSEWHERE else ELSEWHERE[name][0]
        if not claims and not (PAGES / own).is_file():
            continue
        for claim in claims:
            counts[claim.holds] += 1
        if claims:
            rows = [(claim.claim, claim.measured, MARKS[claim.holds]) for claim in claims]
            parts += [f"## [{name}]({own})", "", _rows(Table("", ("claim", "measured", "holds"), rows))]
        tally = ", ".join(f"{n} {holds}" for holds in MARKS if (n := sum(c.holds == holds for c in claims)))
        quick, full = (times.get(name, {}).get(key, {}).get("processors") for key in ("quick", "full"))
        shown.append((f"[{name}]({own})", what, tally or "–", _duration(full) if full else "–",
                      _duration(quick) if quick else "–"))  # fmt: skip
        if figures := figures_of(name):
            cards.append(f"### [{name}]({own})\n\n{what[0].upper() + what[1:]}.\n\n"
                         f"[![{name}](../../assets/figures/{figures[0].name})]({own})\n")  # fmt: skip
    listing = _rows(Table("", ("experiment", "what", "claims that hold", "in full", "`--quick`"), shown))
    tally = (
        f"Of {sum(counts.values())} claims that were put to the test {counts['yes']} hold, {counts['partly']} hold in "
        f"part, {counts['no']} do not, and {counts['undecided']} could not be decided."
    )
    _between(PAGES / "index.md", "\n".join([tally, "", listing, "## Gallery", "", *cards]))
    said = "# All claims\n\nFrom the records of the full runs, experiment by experiment.\n\n" + tally + "\n\n"
    (PAGES / "claims.md").write_text(said + "\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    from genkernel.runs.script import run_script

    run_script(main)
