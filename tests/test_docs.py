"""The texts: links lead somewhere, nothing is left to be filled in, and the commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "models", "assets", "benchmarks")
PAGES = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]


@pytest.fixture(params=PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    here = [link for link in links if "://" not in link]
    assert not [link for link in here if not (page.parent / link).exists()]


def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert "TODO" not in page.read_text(encoding="utf-8")


def test_commands_and_scripts_that_are_named_exist(page: Path) -> None:
    from typer.main import get_command

    from genkernel.cli.app import app

    text = page.read_text(encoding="utf-8")
    shell = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    commands = set(re.findall(r"^(?:\.venv/bin/)?genkernel ([a-z]+)", shell, re.MULTILINE))
    assert commands <= set(get_command(app).commands)  # type: ignore[attr-defined]
    scripts = set(re.findall(r"scripts/\w+\.py", text))
    assert not [script for script in scripts if not (ROOT / script).is_file()]
    targets = set(re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE))
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets <= made


def test_readme_says_what_it_is_in_thirty_lines() -> None:
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    assert all(words in first for words in ("kernel", "![", "make demo", "make test"))


# pages whose examples need nothing but themselves; what reads a run's folder is left out
EXAMPLES = ("alignment", "effective-gram", "eigenlearning", "null-spaces", "out-of-distribution", "spectra")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    assert blocks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks:
            if "runs/" not in block:
                exec(compile(block, f"{name}.md", "exec"), names)
