"""The rules that a monitor asks unless it is given others."""

from __future__ import annotations

from genkernel.errors import InputError
from genkernel.monitor.rules.rule import Rule


def default_rules(kind: str) -> list[Rule]:
    """For ``"denoiser"``, ``"gan"`` or ``"classifier"``.

    Raises:
        InputError: another kind.
    """
    if kind not in ("denoiser", "gan", "classifier"):
        raise InputError(f"there are rules for a denoiser, a gan and a classifier, not for {kind!r}")
    return []
