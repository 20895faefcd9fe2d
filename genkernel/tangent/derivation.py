"""From a parameter to the tensor that a use sees, and back per sample.

Most uses see the parameter itself or a strided view of it (transposed, sliced, reshaped,
expanded); gradients then go back by scatter. Others see something computed from parameters
(spectral norm, weight norm, a masked weight); those go back through the graph that autograd
kept of that computation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genkernel.tangent.layout import Layout


def has_storage(tensor: Tensor) -> bool:
    """Not so for sparse tensors, and for what stands for many under vmap and ``is_grads_batched``."""
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return True


@dataclass(frozen=True)
class Geometry:
    """A strided view of a contiguous parameter."""

    parameter: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @property
    def injective(self) -> bool:
        """No entry of the parameter is seen twice."""
        extents = sorted((st, s) for s, st in zip(self.size, self.stride, strict=True) if s > 1)
        reach = 0
        for stride, length in extents:
            if stride <= reach:
                return False
            reach += stride * (length - 1)
        return True

    def is_whole(self, numel: int) -> bool:
        """All of the parameter, in its order."""
        strides = [st for s, st in zip(self.size, self.stride, strict=True) if s > 1]
        return self.injective and math.prod(self.size) == numel and strides == sorted(strides, reverse=True)

    def of(self, like: Tensor) -> Tensor:
        """The same view of another contiguous tensor shaped like the parameter."""
        return like.contiguous().as_strided(self.size, self.stride, self.offset)

    def scatter(self, gradient: Tensor, numel: int) -> Tensor:
        """Per-sample gradients ``[n, *size]`` of the view → ``[n, numel]`` of the parameter."""
        n = gradient.shape[0]
        if self.is_whole(numel):
            return gradient.reshape(n, numel)
        if self.injective:
            out = gradient.new_zeros(n, numel)
            out.as_strided((n, *self.size), (numel, *self.stride), self.offset).copy_(gradient.reshape(n, *self.size))
            return out
        out = gradient.new_zeros(n, numel)
        index = self._index(numel, gradient.device).reshape(-1)
        return out.index_add_(1, index, gradient.reshape(n, -1))

    def scatter_own(self, gradient: Tensor, layout: Layout, n: int, numel: int) -> Tensor:
        """The same when the view itself has a slot per sample (``token.expand(n, …)``)."""
        index = layout.split(self._index(numel, gradient.device), n).reshape(n, -1)
        values = layout.split(gradient, n).reshape(n, -1)
        return gradient.new_zeros(n, numel).scatter_add_(1, index, values)

    def _index(self, numel: int, device: torch.device) -> Tensor:
        return torch.arange(numel, device=device).as_strided(self.size, self.stride, self.offset)


def geometry(derived: Tensor, storages: dict[int, str]) -> Geometry | None:
    """The view of a parameter that ``derived`` is, or None if it was computed."""
    name = storages.get(derived.untyped_storage()._cdata)
    if name is None or derived.is_conj() or derived.is_neg():
        return None
    # the stride of an axis of length 1 means nothing, and differs between memory formats
    stride = tuple(st if s != 1 else 0 for s, st in zip(derived.shape, derived.stride(), strict=True))
    return Geometry(name, tuple(derived.shape), stride, int(derived.storage_offset()))


def parameters_of(derived: Tensor, aliases: dict[str, Tensor]) -> list[str]:
    """The parameters that a computed tensor depends on."""
    leaves = {id(alias): name for name, alias in aliases.items()}
    found: list[str] = []
    stack, seen = [derived.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in leaves:
            found.append(leaves[id(variable)])
        stack.extend(parent for parent, _ in node.next_functions)
    return sorted(set(found))


def pull_back(derived: Tensor, gradient: Tensor, names: list[str], aliases: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows ``[n, *derived.shape]`` → ``[n, numel]`` for each parameter, through autograd's graph."""
    targets = [aliases[name] for name in names]
    rows: list[tuple[Tensor | None, ...]] = []
    try:
        batched = torch.autograd.grad(
            derived, targets, gradient, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        return {name: g.reshape(len(gradient), -1) for name, g in zip(names, batched, strict=True) if g is not None}
    except RuntimeError:  # an operation without a batching rule
        for row in gradient:
            rows.append(torch.autograd.grad(derived, targets, row, retain_graph=True, allow_unused=True))
    found = {}
    for k, name in enumerate(names):
        parts = [row[k] for row in rows]
        if parts and parts[0] is not None:
            found[name] = torch.stack([p.reshape(-1) for p in parts if p is not None])
    return found


def pull_back_own(
    derived: Tensor, gradient: Tensor, layout: Layout, n: int, names: list[str], aliases: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The same for a computed tensor with a slot per sample: one masked row at a time."""
    collected: dict[str, list[Tensor]] = {}
    for i in range(n):
        row = torch.zeros_like(gradient)
        slot = layout.slots(i, n, row.device)
        row.index_copy_(layout.axis, slot, gradient.index_select(layout.axis, slot))
        for name, g in pull_back(derived, row[None], names, aliases).items():
            collected.setdefault(name, []).append(g[0])
    return {name: torch.stack(parts) for name, parts in collected.items()}
