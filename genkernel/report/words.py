"""Numbers and sentences as they stand on a page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from genkernel.plots.style import number


def headline(reading: Sequence[str]) -> list[str]:
    """The sentences of a reading, the very first on its own, with values and their errors kept on one line."""
    first, *rest = re.split(r"(?<=\.)\s+(?=[A-Z0-9])", str(reading[0]), maxsplit=1)
    return [sentence.replace(" ± ", "\u00a0±\u00a0") for sentence in (first, *rest, *map(str, reading[1:]))]


def fixed(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def short(value: float | None) -> str:
    """Three significant digits; "none" for what does not exist."""
    if value is None or not math.isfinite(value):
        return "none"
    return number(float(f"{value:.3g}"))


def interval(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "n/a"
    return f"{fixed(low, 3)} … {fixed(high, 3)}"
