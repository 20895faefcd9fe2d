"""The texts: links lead somewhere, nothing is left to be filled in, and the README says what this is."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import PAGES, ROOT, name_of


@pytest.fixture(params=PAGES, ids=name_of)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    here = [link for link in links if "://" not in link]
    assert not [link for link in here if not (page.parent / link).exists()]


def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert "TODO" not in page.read_text(encoding="utf-8")


def test_scripts_that_are_named_exist(page: Path) -> None:
    scripts = set(re.findall(r"scripts/\w+\.py", page.read_text(encoding="utf-8")))
    assert not [script for script in scripts if not (ROOT / script).is_file()]


def test_what_the_reference_lists_exists() -> None:
    """The strict build would say so, too, but only there."""
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert _found(name), f"{page.name}: there is no {name}"


def _found(name: str) -> bool:
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            here: Any = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        # a function may have the name of the module that it is in
        here = sys.modules[".".join(parts[:split])]
        for part in parts[split:]:
            here = getattr(here, part, None)
        return here is not None
    return False


def test_readme_says_what_it_is_in_thirty_lines() -> None:
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    assert all(words in first for words in ("kernel", "![", "make demo", "make test"))
