"""What `make docs` does beside MkDocs: files of the repository that pages link to, and formulas without a network.

Pages are written to be read in the repository as well, so their links lead out of docs/ to figures, records and other
texts. Those files are taken into the site below ``repo/``. Formulas between dollars become MathML, which browsers show
by themselves.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)#\s]+)([^)]*\))")
CODE = re.compile(r"(^```.*?^```|``[^\n]*?``|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)
OUTSIDE = "repo"


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to outside of docs/, and what those texts link to in turn."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages()]
    taken: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for _, target, _ in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            place = _place(page.parent, target)
            if place is None or place in taken or place.is_relative_to(config["docs_dir"]):
                continue
            taken.add(place)
            files.append(_file(place, config))
            if place.suffix == ".md":
                waiting.append(place)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to those files, and set formulas."""
    source = page.file.src_uri
    name = ROOT / source.removeprefix(f"{OUTSIDE}/") if source.startswith(f"{OUTSIDE}/") else None
    home = Path(page.file.abs_src_path).parent if name is None else name.parent

    def lead(found: re.Match[str]) -> str:
        place = _place(home, found[2])
        if place is None:
            return found[0]
        inside = place.is_relative_to(config["docs_dir"])
        uri = place.relative_to(config["docs_dir"]).as_posix() if inside else _uri(place)
        return found[1] + posixpath.relpath(uri, posixpath.dirname(source) or ".") + found[3]

    return _outside_code(markdown, lambda text: FORMULA.sub(_mathml, LINK.sub(lead, text)))


def _place(folder: Path, target: str) -> Path | None:
    """The file or folder of the repository that a link leads to."""
    if "://" in target or target.startswith("mailto:"):
        return None
    place = (folder / target).resolve()
    return place if place.exists() and place.is_relative_to(ROOT) else None


def _uri(place: Path) -> str:
    below = f"{OUTSIDE}/{place.relative_to(ROOT).as_posix()}"
    return f"{below}/index.md" if place.is_dir() else below


def _file(place: Path, config: Any) -> File:
    if place.is_dir():
        names = sorted(entry.name for entry in place.iterdir() if entry.is_file())
        listing = "\n".join([f"# {place.name}/", "", *(f"- {name}" for name in names)])
        return File.generated(config, _uri(place), content=listing)
    return File.generated(config, _uri(place), abs_src_path=str(place))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if i % 2 else change(part) for i, part in enumerate(CODE.split(text)))


def _mathml(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    block = found["block"] is not None
    formula = convert(found["block"] or found["inline"], display="block" if block else "inline")
    if block:
        return f"\n{formula}\n"
    return f"<span>{formula}</span>"  # a line that begins with <math> would be a block
