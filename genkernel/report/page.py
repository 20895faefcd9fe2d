"""Turn a result into one self-contained page: figures inside it, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from genkernel.report.captions import CAPTIONS, Caption, Section

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass
class Picture:
    """A figure on the page."""

    name: str
    caption: Caption
    source: str  # data URI
    width: int
    height: int
    files: list[str] = field(default_factory=list)


@dataclass
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    text: tuple[int, ...] = ()  # columns of prose rather than numbers


@dataclass
class Number:
    """One of the numbers at the top of a page."""

    name: str
    value: str
    note: str = ""


def render(template: str, **content: Any) -> str:
    """Fill one of the package's templates; everything but our own style sheet is escaped."""
    from markupsafe import Markup

    from genkernel import __version__

    css = (resources.files("genkernel.report") / "templates" / "style.css").read_text(encoding="utf-8")
    return _environment().get_template(template).render(version=__version__, css=Markup(css), **content)


def pictures(
    drawn: Mapping[str, bytes], names: Iterable[str], captions: Mapping[str, Caption] = CAPTIONS, *, files: bool = True
) -> list[Picture]:
    """The figures among ``names`` that were drawn (PNG bytes), ready to be embedded."""
    found = []
    for name in names:
        if name not in drawn:
            continue
        width, height = png_size(drawn[name])
        found.append(
            Picture(
                name=name,
                caption=captions.get(name, Caption(name.replace("_", " ").capitalize(), "")),
                source="data:image/png;base64," + base64.b64encode(drawn[name]).decode(),
                width=width,
                height=height,
                files=[f"figures/{name}.png", f"figures/{name}.svg"] if files else [],
            )
        )
    return found


def filled(
    sections: Iterable[Section],
    drawn: Mapping[str, bytes],
    captions: Mapping[str, Caption],
    tables: Mapping[str, list[Table]],
) -> list[dict[str, Any]]:
    """Sections that have a figure or a table, as the templates take them; tables are by the section's anchor."""
    found = []
    for section in sections:
        figures, own = pictures(drawn, section.figures, captions), tables.get(section.anchor, [])
        if figures or own:
            place = {"anchor": section.anchor, "title": section.title, "lead": section.lead}
            found.append({**place, "figures": figures, "tables": own})
    return found


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height from a PNG header, so that the page does not jump while it loads."""
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("genkernel.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
