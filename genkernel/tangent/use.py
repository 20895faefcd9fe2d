"""``Use``: one call in which parameters meet samples, and what is kept of it for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from genkernel.errors import CaptureError

if TYPE_CHECKING:
    from genkernel.tangent.rules.base import Rule


@dataclass(eq=False)
class Use:
    """One call that combines parameter-derived tensors with sample-dependent ones."""

    index: int
    func: Callable[..., Any]
    leaves: list[Any]  # flattened (args, kwargs), every tensor detached; dropped once contracted
    spec: TreeSpec
    slots: dict[int, Tensor]  # leaf position -> the derived tensor, with its graph to the parameters
    versions: dict[int, int]
    sample_leaves: tuple[int, ...]
    out_shape: torch.Size = field(default_factory=torch.Size)
    dtype: torch.dtype = torch.float32
    leaf_shapes: dict[int, torch.Size] = field(default_factory=dict)
    rule: Rule | None = None

    @property
    def name(self) -> str:
        return getattr(self.func, "__name__", str(self.func))

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tree_unflatten(self.leaves, self.spec)

    def check_versions(self) -> None:
        """Raise CaptureError if an input was modified in place behind the tape's back."""
        for position, version in self.versions.items():
            if self.leaves[position]._version != version:
                raise CaptureError(f"an input of {self.name} (use {self.index}) was modified in place after its use")


@dataclass(eq=False)
class Opaque:
    """A call with parameters that cannot be captured; they take the generic path."""

    name: str
    derived: list[Tensor] = field(default_factory=list)
