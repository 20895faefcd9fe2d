"""What docstrings say in their own way, for pages that are made with MkDocs.

Sphinx's roles become code, examples a section, and parameters that are described together rows of their own.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)
ROLE = re.compile(r":(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj):`(~?)([^`]+)`")

NAMED = re.compile(r"^(Args|Attributes):\n(?:(?: +.*)?\n)*(?: +.*)?", re.MULTILINE)
TOGETHER = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites the docstring of every object that is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            value = EXAMPLE.sub(r"\1Examples:", ROLE.sub(_code, obj.docstring.value))
            obj.docstring.value = NAMED.sub(lambda found: TOGETHER.sub(_apart, found[0]), value)


def _code(found: re.Match[str]) -> str:
    short, target = found[1], found[2]
    return f"`{target.rsplit('.', 1)[-1] if short else target}`"


def _apart(found: re.Match[str]) -> str:
    return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))
