"""What docstrings say in Sphinx's way, for pages that are made with MkDocs: roles become code, examples a section."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)
ROLE = re.compile(r":(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj):`(~?)([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object that is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", ROLE.sub(_code, obj.docstring.value))


def _code(found: re.Match[str]) -> str:
    short, target = found[1], found[2]
    return f"`{target.rsplit('.', 1)[-1] if short else target}`"
