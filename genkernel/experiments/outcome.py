"""What an experiment of the papers comes to: numbers, tables, figures, and what they say in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers stay numbers until they are printed.

    Attributes:
        title: one line above it.
        columns: names ``[c]``.
        rows: ``c`` values each.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def markdown(self) -> str:
        """As a Markdown table; a vertical bar in a cell would end it, and is escaped."""
        lines = [
            " | ".join(column.replace("|", "\\|") for column in self.columns),
            " | ".join("---" for _ in self.columns),
        ]
        lines += [" | ".join(said(value).replace("|", "\\|") for value in row) for row in self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"


@dataclass(frozen=True)
class Claim:
    """One statement and what was measured about it.

    Attributes:
        claim: what is said, and where.
        measured: our figures, in words.
        holds: ``"yes"``, ``"no"``, ``"partly"`` or ``"undecided"``.
    """

    claim: str
    measured: str
    holds: str

    def __post_init__(self) -> None:
        if self.holds not in ("yes", "no", "partly", "undecided"):
            raise InputError(f"a claim holds 'yes', 'no', 'partly' or 'undecided', not {self.holds!r}")


def verdict(parts: Iterable[bool | None]) -> str:
    """What is shown of a statement that has parts.

    Args:
        parts: True where a part is shown to hold, False where it is shown not to, None where neither is (its interval
            lies on both sides, or it was not measured).

    Returns:
        ``"yes"`` if every part holds, ``"partly"`` if some do, ``"no"`` if none is shown to and one is shown not to,
        ``"undecided"`` if nothing is shown, or there are no parts.
    """
    found = [None if part is None else bool(part) for part in parts]  # NumPy's truth is not Python's
    if any(part is True for part in found):
        return "yes" if all(part is True for part in found) else "partly"
    return "no" if any(part is False for part in found) else "undecided"


def adds_up(gap: float) -> str:
    """Whether contributions come to the whole change: "yes" up to a gap of 1 % of it, "partly" up to 5 %."""
    if gap != gap:  # nothing changed
        return "undecided"
    return "yes" if gap <= 0.01 else "partly" if gap <= 0.05 else "no"


@dataclass
class Outcome:
    """What one run of an experiment found.

    Attributes:
        name: of the experiment.
        settings: everything that decides the numbers (seeds, widths, steps, …).
        claims: what was put to the test.
        tables: in the order of reading.
        figures: file name without ending → figure.
        numbers: every figure behind the tables, for ``summary.json``: plain numbers, lists and mappings.
    """

    name: str
    settings: Mapping[str, Any]
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """Claims and tables, as they go into the docs."""
        claims = Table("What was put to the test", ("claim", "measured", "holds"), [])
        claims.rows.extend((one.claim, one.measured, one.holds) for one in self.claims)
        return "\n".join(table.markdown() for table in ([claims] if self.claims else []) + self.tables)


def said(value: Any) -> str:
    """A table's entry in words: four significant digits, an en dash where there is none."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
