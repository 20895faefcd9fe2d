"""What docs/docstrings.py makes of docstrings before they become pages."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from tests.docs.blocks import ROOT


def rewritten(text: str) -> str:
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = SimpleNamespace(docstring=SimpleNamespace(value=text))
    module.Docstrings().on_object(obj=found)
    return found.docstring.value


def test_parameters_described_together_get_rows_of_their_own() -> None:
    together = "    x, y: samples, of\n        one kind.\n    z: another."
    apart = "    x: samples, of\n        one kind.\n    y: samples, of\n        one kind.\n    z: another."
    frame = "One line, with: a colon.\n\nArgs:\n{}\n\nReturns:\n    a, b: both."
    assert rewritten(frame.format(together)) == frame.format(apart)


def test_roles_are_code_and_an_example_is_a_section() -> None:
    assert rewritten("A :class:`~genkernel.Kernel`, :func:`load`.\n\nExample:\n    >>> 1") == (
        "A `Kernel`, `load`.\n\nExamples:\n    >>> 1"
    )
