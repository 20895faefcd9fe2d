"""What a monitor asks of the thing it watches: its parts, each a function from nothing to numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from genkernel.monitor.trace import Array, Axis, Trace

Values = Mapping[str, "float | Array"]
NEW_AXES = "new_axes"  # setting: names of axes whose positions stand for something else in every process


class Watch(Protocol):
    """A model with fixed probes.

    Attributes:
        kind: ``"denoiser"``, ``"gan"``, ``"classifier"``.
        modules: everything that readings run, so that it can be put back as it was.
        axes: of the arrays that readings hold.
        arrays: names of the axes of every array, by the array's name.
        settings: what is watched and how, JSON-ready.
    """

    kind: str
    modules: list[nn.Module]
    axes: dict[str, Axis]
    arrays: dict[str, list[str]]
    settings: dict[str, Any]

    def parts(self) -> dict[str, Callable[[], Values]]:
        """What is read, by the names of its parts and in their order.

        A part that fails hides no other. Numbers by name: floats, or arrays whose axes :attr:`arrays` names.
        """
        ...

    def derived(self, values: Values, before: Trace) -> Values:
        """Numbers that compare a reading with earlier ones: drift, for instance.

        Args:
            values: of all parts that could be read.
            before: the trace up to this reading.
        """
        ...

    def forget(self) -> None:
        """The training went back to a checkpoint: what is remembered of later weights does not count."""
        ...
