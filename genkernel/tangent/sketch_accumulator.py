"""Sketches of gradients that arrive parameter by parameter, in the form that the engine hands them out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from genkernel.tangent.derivation import Geometry
from genkernel.tangent.factors import SLICE, Factor, Pick
from genkernel.tangent.projection import Projection

SLICE_ELSEWHERE = 1 << 25  # gradient entries projected at once on a device that has to be kept busy
EVERYTHING = slice(None)


class SketchAccumulator:
    """Projects per-sample gradients as they arrive, factor by factor: a sink of :class:`GradientPass`.

    The pieces of one parameter are summed in the dtype of its gradients (float32 at least), parameters in float64.

    Args:
        projection: the random map.
        n: number of samples.
        probes: sketches kept apart per sample (the number of random cotangents), or 1: then all cotangents are
            summed into one sketch, which is one of their concatenated gradients.
        layer_of: parameter → layer, for one sketch per layer; None for one in all.
        root: parameter → square root of a diagonal preconditioner, shaped like it, or None where it is 1.
        device: where gradients are.
        limit: gradient entries that are projected at once; None for what suits the device.

    Attributes:
        rows: ``[n, layers, probes, dim]`` float64 on the device.
        norms: ``[n, layers, probes]`` float64, the squared norms of the gradients themselves.
        layers: names along the second axis; None without ``layer_of``.

    A sink of one batch as it is; with ``rows``, of some of the samples at a time.
    """

    def __init__(
        self,
        projection: Projection,
        n: int,
        *,
        probes: int = 1,
        layer_of: Mapping[str, str] | None = None,
        root: Callable[[str], Tensor | None] = lambda name: None,
        device: torch.device | str = "cpu",
        limit: int | None = None,
    ):
        self.projection, self.n, self.probes = projection, n, probes
        self.limit = slice_of(torch.device(device)) if limit is None else limit
        self.layer_of, self.root = layer_of, root
        self.layers = list(dict.fromkeys(layer_of.values())) if layer_of is not None else None
        self._place = {name: i for i, name in enumerate(self.layers or [])}
        count = 1 if self.layers is None else len(self.layers)
        self.rows = torch.zeros(n, count, probes, projection.dim, dtype=torch.float64, device=device)
        self.norms = torch.zeros(n, count, probes, dtype=torch.float64, device=device)

    def begin(self, rows: slice = EVERYTHING) -> None:
        """Forget what was added for some samples."""
        self.rows[rows] = 0
        self.norms[rows] = 0

    def add(self, which: int, parameter: str, factor: Factor, view: Geometry | None, rows: slice = EVERYTHING) -> None:
        """Add the gradients of some samples for one parameter and one cotangent; each once.

        Args:
            which: index of the cotangent vector, also where several share one sketch.
            parameter: its name.
            factor: gradients ``[r, *shape]``, in the coordinates of ``view`` of the parameter if there is one.
            rows: the r samples.
        """
        layer = self._place[self.layer_of[parameter]] if self.layer_of is not None else 0
        probe = which if self.probes > 1 else 0
        places, root = _Places(factor, view), self.root(parameter)
        total: Tensor | None = None
        norms = self.norms[rows, layer, probe]
        for pick, block in factor.pieces(self.limit):
            at = places.of(pick, block.device)
            if root is not None:
                flat = root.reshape(-1)
                block = block * (flat[at : at + block.shape[1]] if isinstance(at, int) else flat[at]).to(block)
            block = block.to(torch.promote_types(block.dtype, torch.float32))
            if total is None:
                total = block.new_zeros(len(block), self.projection.dim)
            norms += torch.linalg.vecdot(block, block)
            self.projection.add(total, parameter, which, at, block, places.size)
        if total is not None:
            self.rows[rows, layer, probe] += total

    def finite(self, rows: slice = EVERYTHING) -> bool:
        """Everything added for some samples is."""
        return bool(torch.isfinite(self.norms[rows]).all()) and bool(torch.isfinite(self.rows[rows]).all())


def slice_of(device: torch.device) -> int:
    """Gradient entries that are projected at once."""
    return SLICE if device.type == "cpu" else SLICE_ELSEWHERE


class _Places:
    """Where the pieces of a factor lie in the memory order of the parameter.

    Pieces are picked from a tensor of coordinates, which is made only when a piece is no contiguous run; on the
    meta device the same pick costs nothing and tells.
    """

    def __init__(self, factor: Factor, view: Geometry | None):
        self.view, self.shape = view, factor.shape
        self.size = math.prod(factor.shape) if view is None else _reach(view)
        self._meta = self._viewed(torch.empty(self.size, device="meta"))
        self._numbers: Tensor | None = None

    def of(self, pick: Pick, device: torch.device) -> int | Tensor:
        """First coordinate of a contiguous run, or all coordinates."""
        try:
            run = pick(self._meta)
            if run.untyped_storage()._cdata == self._meta.untyped_storage()._cdata and run.is_contiguous():
                return int(run.storage_offset())
        except (RuntimeError, NotImplementedError):  # picks by an index tensor
            pass
        if self._numbers is None:
            self._numbers = self._viewed(torch.arange(self.size, device=device))
        return pick(self._numbers)

    def _viewed(self, flat: Tensor) -> Tensor:
        return flat.view(self.shape) if self.view is None else self.view.of(flat)


def _reach(view: Geometry) -> int:
    """One past the last coordinate that a view sees."""
    return view.offset + sum((s - 1) * st for s, st in zip(view.size, view.stride, strict=True)) + 1
