"""The script that puts outcomes of experiments into the docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import gallery

PAGE = f"# A page\n\nwords\n\n{gallery.BEGIN}\nfilling of before\n{gallery.END}\n\n## Reading it\n\nmore words\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two pages of experiments and nothing in them."""
    for name, place in (
        ("RECORDS", "benchmarks/experiments"),
        ("FIGURES", "assets/figures"),
        ("PAGES", "docs/experiments"),
    ):
        (tmp_path / place).mkdir(parents=True)
        monkeypatch.setattr(gallery, name, tmp_path / place)
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    monkeypatch.setattr(gallery, "TIMES", tmp_path / "benchmarks/experiments/times.json")
    for page in ("neighbours", "index"):
        (tmp_path / f"docs/experiments/{page}.md").write_text(PAGE)
    return tmp_path


def outcome(folder: Path, *, quick: bool = False, seconds: float = 30.0, holds: str = "yes") -> Path:
    (folder / "figures").mkdir(parents=True)
    (folder / "figures/neighbours-pairs.png").write_bytes(b"a picture")
    (folder / "figures/neighbours.png").write_bytes(b"the picture")
    summary: dict[str, Any] = {
        "name": "neighbours",
        "settings": {"seed": 3},
        "claims": [{"claim": "a | b", "measured": "1 ± 2", "holds": holds}],
        "provenance": {
            "machine": {"processor_model": "abacus"},
            "versions": {"torch": "9"},
            "date": "2030-01-02T03:04",
        },
    }
    run = {"arguments": {"quick": quick}, "timings": {"experiment": 5 * seconds}, "cpu_seconds": seconds}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "tables.md").write_text("**Claims**\n\n| a |\n| --- |\n\n**Means ± errors**\n\n| b |\n| --- |\n| 7 |\n")
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_pages_get_figures_claims_and_times_between_their_markers(root: Path, tmp_path: Path) -> None:
    outcome(tmp_path / "full/neighbours", holds="no")
    outcome(tmp_path / "small/neighbours", quick=True, seconds=2)
    gallery.main([str(tmp_path / "full"), str(tmp_path / "small")])
    page = (root / "docs/experiments/neighbours.md").read_text()
    assert (
        page.startswith("# A page\n\nwords")
        and page.endswith("## Reading it\n\nmore words\n")
        and "of before" not in page
    )
    assert "--seed 3`, in full: 30 s of a processor, `--quick`: 2 s of a processor (abacus" in page
    assert "../../assets/figures/neighbours-2-pairs.png" in page
    assert r"| a \| b | 1 ± 2 | **no** |" in page
    folded = page[page.index("<details markdown>") : page.index("</details>")]
    assert "**Means ± errors**\n\n| b |\n| --- |\n| 7 |" in folded and "**Claims**" not in folded
    assert (root / "assets/figures/neighbours-1-figure.png").read_bytes() == b"the picture"
    index = (root / "docs/experiments/index.md").read_text()
    assert "Of 1 claims that were put to the test 0 hold" in index and "| 1 no | 30 s | 2 s |" in index
    assert (
        "## [neighbours](neighbours.md)\n\n| claim | measured | holds |"
        in (root / "docs/experiments/claims.md").read_text()
    )


def test_quick_outcomes_give_their_times_only(root: Path, tmp_path: Path) -> None:
    gallery.main([str(outcome(tmp_path / "small", quick=True))])
    assert not list((root / "assets/figures").iterdir())
    assert [entry.name for entry in (root / "benchmarks/experiments").iterdir()] == ["times.json"]
    assert "of before" in (root / "docs/experiments/neighbours.md").read_text()


def test_a_page_without_markers_is_named(root: Path, tmp_path: Path) -> None:
    (root / "docs/experiments/neighbours.md").write_text("# A page\n")
    with pytest.raises(SystemExit, match=r"neighbours\.md has to have"):
        gallery.main([str(outcome(tmp_path / "full"))])
