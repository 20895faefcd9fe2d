"""The trained parameters as one flat vector, in a fixed and recorded order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError


class Coordinates:
    """Which entries of θ ``[P]`` belong to which parameter.

    Args:
        parameters: by name, in the order of the coordinates.

    Attributes:
        names: of the parameters.
        shapes: of the parameters.
        slices: of the parameters in a flat vector.
        size: P.
        dtype: of flat vectors: the widest of the parameters', at least float32.
        coarsest: the narrowest of the parameters', which says how exact anything can be.
        device: of flat vectors.
    """

    def __init__(self, parameters: Mapping[str, Tensor]):
        self.names = list(parameters)
        self.shapes = [p.shape for p in parameters.values()]
        self.slices: list[slice] = []
        start = 0
        for p in parameters.values():
            self.slices.append(slice(start, start + p.numel()))
            start += p.numel()
        self.size = start
        first = next(iter(parameters.values()))
        self.device = first.device
        self.dtype, self.coarsest = torch.float32, first.dtype
        for p in parameters.values():
            self.dtype = torch.promote_types(self.dtype, p.dtype)
            if torch.finfo(p.dtype).eps > torch.finfo(self.coarsest).eps:
                self.coarsest = p.dtype

    def flat(self, tensors: Mapping[str, Tensor | None]) -> Tensor:
        """Tensors by name as one new vector ``[P]``; zeros where there is none."""
        out = torch.empty(self.size, dtype=self.dtype, device=self.device)
        for name, part in zip(self.names, self.slices, strict=True):
            value = tensors.get(name)
            if value is None:
                out[part] = 0
            else:
                dense = value.detach()
                out[part].copy_((dense.to_dense() if dense.is_sparse else dense).reshape(-1))
        return out

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector ``[P]`` as views by name."""
        return {
            name: vector[part].view(shape)
            for name, part, shape in zip(self.names, self.slices, self.shapes, strict=True)
        }

    def parts(self) -> Iterator[tuple[str, slice]]:
        """Names with their entries."""
        return zip(self.names, self.slices, strict=True)

    def describe(self) -> list[list[Any]]:
        """Names and shapes, as JSON holds them."""
        return [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]


def optimized(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The parameters of a module that an optimizer moves, by name in the order of the module.

    Raises:
        InputError: it moves none of them, or they are not real floating point numbers.
    """
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    found = {name: p for name, p in module.named_parameters() if id(p) in moved}
    if not found:
        raise InputError(
            "the optimizer holds none of the model's parameters: give the model whose parameters it was made with "
            "(the network inside of a wrapper, not a copy of it)"
        )
    for name, p in found.items():
        if not p.is_floating_point():
            raise InputError(f"parameter {name!r} is {p.dtype}: only real floating point parameters can be recorded")
        if hasattr(p, "placements"):
            raise InputError(
                f"parameter {name!r} is shared out over several processes, and each sees a part of it: record a run of "
                "one process"
            )
    if len({p.device for p in found.values()}) > 1:
        raise InputError("the parameters lie on several devices: a recording needs them on one")
    return found
