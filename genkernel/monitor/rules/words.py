"""Words that messages of rules share."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 4) -> str:
    """``a, b and c``; ``a, b, c, d and 12 others``."""
    if len(names) > most + 1:  # no "and 1 others"
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def grouped(names: Sequence[str], every: Sequence[str]) -> list[str]:
    """Names of parameters, where all below a module are among them by the module's.

    ``["a.0.weight", "a.0.bias", "b.bias"]`` of a network that also has ``b.weight`` becomes ``["a.0.*", "b.bias"]``.
    """
    chosen = set(names)
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth]) + "."
            mine = [other for other in every if other.startswith(prefix)]
            if len(mine) > 1 and len(mine) < len(every) and chosen.issuperset(mine):
                found[f"{prefix}*"] = None
                break
        else:
            found[name] = None
    return list(found)
