"""Sketches: every sample's gradient as a few thousand numbers whose inner products estimate the kernel.

    s_i = S P^{1/2} J(x_i)ᵀ v_i ∈ R^d ,   E ⟨s_i, s_j⟩ = ⟨J(x_i)ᵀ v_i, P J(x_j)ᵀ v_j⟩

S is a hashed random projection (:mod:`genkernel.tangent.projection`). Rows of samples that were never
in one batch, or come from different checkpoints, can be multiplied with one another; rows of disjoint
sets of parameters add up. Cost: one forward and one backward per cotangent for every sample, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.tangent.projection import Projection
from genkernel.tangent.result import Kernel
from genkernel.tangent.sketch_store import RowStore, Sizes

_ROWS = 2048  # samples multiplied at once


@dataclass
class Sketch:
    """Random projections of per-sample gradients, and kernels from them.

    Attributes:
        values: ``[n, layers, probes, dim]`` float32 or float64, in memory or memory-mapped.
        norms: ``[n, layers, probes]`` float64: squared norms of the gradients themselves, without
            projection error.
        projection: the random map.
        layers: names along the second axis; None for one sketch of all parameters.
        parameters: shapes of the parameters by name.
        random: the cotangents are random probes, each with a sketch of its own.
        scale: factor of the sum over probes.
        meta: cotangents, digests of model and inputs, versions: everything JSON can hold.
    """

    values: Tensor
    norms: Tensor
    projection: Projection
    layers: list[str] | None
    parameters: dict[str, list[int]]
    random: bool
    scale: float
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> Tensor:
        """The sketches ``[probes, n, dim]`` of all parameters together."""
        whole = self.values[:, 0] if self.values.shape[1] == 1 else self.values.sum(1)
        return whole.transpose(0, 1)

    def __len__(self) -> int:
        return len(self.values)

    def kernel(self, other: Sketch | None = None) -> Kernel:
        """The estimated kernel ``[n, m]`` with the samples of another sketch, or of this one with itself.

        With random probes, every probe has signs of its own, so the spread over probes is the error of probes and
        sketch together (one probe gives none). Otherwise the standard error is that of the sketch,
        √((k(x,x) k(y,y) + k(x,y)²)/dim) with the exact norms, an upper bound of its standard deviation.
        With a sketch per layer, products are taken layer by layer and summed, which leaves out the noise of
        products between layers.

        There is one P in K = J(x) P J(y)ᵀ. Sketches hold P^{1/2}: between two of different P, such as an optimizer's
        at two checkpoints, their products would estimate J(x) P₁^{1/2} P₂^{1/2} J(y)ᵀ, and are refused. For a kernel
        between two checkpoints, sketch both with the P of one of them.

        Raises:
            InputError: the two were made with different projections, cotangents, P, parameters or layers.
        """
        symmetric = other is None or other is self
        right = self if other is None else other
        self._check(right)
        n, m = len(self), len(right)
        probes, dim = self.values.shape[2:]
        totals = torch.zeros(probes, n, m, dtype=torch.float64)
        squares_x, squares_y = (torch.zeros(probes, k, dtype=torch.float64) for k in (n, m))
        variance = torch.zeros(n, m, dtype=torch.float64)
        layers: dict[str, Tensor] = {}
        for i in range(self.values.shape[1]):
            each = torch.stack([_products(self.values[:, i, p], right.values[:, i, p]) for p in range(probes)])
            totals += each
            squares_x += _squares(self.values[:, i])
            squares_y += _squares(right.values[:, i])
            if self.layers is not None:
                layers[self.layers[i]] = each.sum(0) * self.scale
            if not self.random:
                variance += self.norms[:, i, 0, None] * right.norms[None, :, i, 0] + each[0].square()
        return Kernel(
            values=totals.sum(0) * self.scale,
            norms_x=squares_x.sum(0) * self.scale,
            norms_y=squares_y.sum(0) * self.scale,
            layers=layers,
            per_probe=totals if self.random else None,
            per_probe_norms_x=squares_x if self.random else None,
            per_probe_norms_y=squares_y if self.random else None,
            symmetric=symmetric,
            meta={**self.meta, "sketch": self.projection.describe(), "by": "layer" if self.layers else None},
            _stderr=None if self.random else (variance / dim).sqrt(),
        )

    def normalized(self, other: Sketch | None = None) -> Kernel:
        """Cosines ``[n, m]`` with their errors; those of :meth:`kernel`, ``.normalized()``, without the errors of
        a sketch that has no random probes.

        Those follow from the covariances of the three estimates in ĉ = â/√(b̂ ĉ) by the delta method: (1 − c²)/√dim
        for one sketch of all parameters.
        """
        K = self.kernel(other)
        cosines = K.normalized()
        if not self.random:
            cosines._stderr = self._cosine_errors(self if other is None else other, cosines.values, K)
        return cosines

    def _cosine_errors(self, right: Sketch, c: Tensor, K: Kernel) -> Tensor:
        B, C = K.norms_x[:, None], K.norms_y[None, :]
        root = (B * C).sqrt()
        total = torch.zeros_like(c)
        for i in range(self.values.shape[1]):
            a = _products(self.values[:, i, 0], right.values[:, i, 0])
            b, d = self.norms[:, i, 0, None], right.norms[None, :, i, 0]
            total += (b * d + a.square()) / (B * C)
            total += c.square() / 2 * (b.square() / B.square() + d.square() / C.square())
            total += c.square() * a.square() / (B * C) - 2 * c * a / root * (b / B + d / C)
        return torch.where(root > 0, (total.clamp_min(0) / self.projection.dim).sqrt(), 0.0)

    @staticmethod
    def merge(sketches: Sequence[Sketch]) -> Sketch:
        """Sketches of different samples one after the other, or of disjoint sets of parameters as one.

        Sketches of disjoint parameters may have entries of P of their own: P is diagonal, and that of the result is
        theirs together.

        Raises:
            InputError: their projections, cotangents, P, layers or weights differ, or their parameters overlap
                without being the same.
        """
        sketches = list(sketches)
        if not sketches:
            raise InputError("merge needs at least one sketch")
        first = sketches[0]
        for other in sketches[1:]:
            first._check(other, parameters=False)
            if _weights(first) != _weights(other) and None not in (_weights(first), _weights(other)):
                raise InputError("sketches merge if they are of the same weights: these are of different ones")
        names = [set(s.parameters) for s in sketches]
        if all(s.parameters == first.parameters and s.layers == first.layers for s in sketches):
            return Sketch(
                torch.cat([s.values for s in sketches]),
                torch.cat([s.norms for s in sketches]),
                first.projection,
                first.layers,
                first.parameters,
                first.random,
                first.scale,
                {**first.meta, "inputs": [s.meta.get("inputs") for s in sketches]},
            )
        if len(set().union(*names)) < sum(map(len, names)):
            raise InputError(
                "sketches merge if they are of the same parameters, or of parameters none of which is in two"
            )
        for other in sketches[1:]:
            _check_same("inputs", first, other)
            if len(other) != len(first) or (other.layers is None) != (first.layers is None):
                raise InputError(
                    "sketches of disjoint parameters merge if they are of the same samples, all or none by layer"
                )
        return _summed(sketches)

    def save(self, path: str | Path) -> Path:
        """Write a folder that :meth:`open` reads.

        Raises:
            InputError: the folder holds something else.
            OutputError: it cannot be written, or another run is writing to it.
        """
        with RowStore.open(path, self.settings(), self._sizes(), {"batch": _ROWS}) as store:
            good, _ = store.done()
            batch = int(store.plan["batch"])
            for start in range(0, len(self), batch):
                if (start, min(len(self), start + batch)) not in good:
                    store.put(start, self.values[start : start + batch], self.norms[start : start + batch])
            return store.path

    @classmethod
    def open(cls, path: str | Path) -> Sketch:
        """Read a sketch from a folder; the rows are memory-mapped.

        Raises:
            MissingError: there is none.
            InputError: it is damaged, unfinished, or of another version.
        """
        return cls.read(RowStore.read(path))

    @classmethod
    def read(cls, store: RowStore) -> Sketch:
        """The rows of a finished store, memory-mapped."""
        return cls.made(*store.arrays(), store.settings)

    @classmethod
    def made(cls, values: Tensor, norms: Tensor, settings: Mapping[str, Any]) -> Sketch:
        """A sketch from its rows and what :meth:`settings` says about them."""
        known = dict(settings)
        projection = Projection(**known.pop("projection"))
        own = {name: known.pop(name) for name in ("layers", "parameters", "random", "scale")}
        return cls(values, norms, projection, **own, meta=known)

    def settings(self) -> dict[str, Any]:
        """What a store keeps beside the rows; JSON-ready."""
        return {
            "projection": self.projection.settings,
            "parameters": self.parameters,
            "layers": self.layers,
            "random": self.random,
            "scale": self.scale,
            **self.meta,
        }

    def _sizes(self) -> Sizes:
        n, layers, probes, dim = self.values.shape
        return Sizes.of(n, layers, probes, dim, self.values.dtype)

    def _check(self, other: Sketch, parameters: bool = True) -> None:
        if not isinstance(other, Sketch):
            raise InputError(f"a sketch is multiplied with a sketch, not {type(other).__name__}")
        if self.projection != other.projection:
            raise InputError(
                f"a {self.projection.describe()} and a {other.projection.describe()} cannot be compared: "
                "make both with the same dim, seed, kind and nonzeros"
            )
        _check_same("cotangents", self, other)
        _check_same("precondition", self, other)
        if self.values.shape[2] != other.values.shape[2]:
            raise InputError(f"the sketches have {self.values.shape[2]} and {other.values.shape[2]} probes")
        if parameters and (self.parameters != other.parameters or self.layers != other.layers):
            raise InputError("the sketches are of different parameters or layers: no kernel is between them")
        if self._differs_in("cotangents_digest", other):
            raise InputError(
                f"the sketches were made with different cotangents of one name, {self.meta['cotangents']!r}: their "
                "functions, or what those read, differ; make both with the same"
            )
        if self.parameters == other.parameters and self._differs_in("precondition_digest", other):
            raise InputError(
                f"the sketches were made with different P of one name, {self.meta['precondition']!r}, and a kernel has "
                "one: make both with the same"
            )

    def _differs_in(self, digest: str, other: Sketch) -> bool:
        """Both say what they were made with, and it is not the same."""
        return digest in self.meta and digest in other.meta and self.meta[digest] != other.meta[digest]

    def __repr__(self) -> str:
        n, layers, probes, _ = self.values.shape
        parts = [f"{n} samples", f"{probes} probes" if self.random else "", f"{layers} layers" if self.layers else ""]
        return f"Sketch({', '.join(filter(None, parts))}, {self.projection.describe()})"


def _summed(sketches: list[Sketch]) -> Sketch:
    """Of the same samples and disjoint parameters."""
    first = sketches[0]
    layers = None
    if first.layers is not None:
        layers = list(dict.fromkeys(name for s in sketches for name in s.layers or []))
    n, _, probes, dim = first.values.shape
    count = 1 if layers is None else len(layers)
    values = torch.zeros(n, count, probes, dim, dtype=max((s.values.dtype for s in sketches), key=lambda d: d.itemsize))
    norms = torch.zeros(n, count, probes, dtype=torch.float64)
    for s in sketches:
        place = [0] if layers is None else [layers.index(name) for name in s.layers or []]
        values[:, place] += s.values.to(values.dtype)
        norms[:, place] += s.norms
    parameters = {name: shape for s in sketches for name, shape in s.parameters.items()}
    meta = dict(first.meta)
    if all("precondition_digest" in s.meta for s in sketches):
        meta["precondition_digest"] = {n: d for s in sketches for n, d in s.meta["precondition_digest"].items()}
    else:
        meta.pop("precondition_digest", None)
    return Sketch(values, norms, first.projection, layers, parameters, first.random, first.scale, meta)


def _weights(sketch: Sketch) -> str | None:
    return (sketch.meta.get("model") or {}).get("weights")


def _check_same(what: str, one: Sketch, two: Sketch) -> None:
    a, b = one.meta.get(what), two.meta.get(what)
    if a is not None and b is not None and a != b:
        raise InputError(f"the sketches have different {what}: {a} and {b}")


def _products(x: Tensor, y: Tensor) -> Tensor:
    """``[n, dim] [m, dim]ᵀ`` in float64, a few rows at a time."""
    out = torch.empty(len(x), len(y), dtype=torch.float64)
    for i in range(0, len(x), _ROWS):
        left = x[i : i + _ROWS].double()
        for j in range(0, len(y), _ROWS):
            torch.mm(left, y[j : j + _ROWS].double().T, out=out[i : i + _ROWS, j : j + _ROWS])
    return out


def _squares(rows: Tensor) -> Tensor:
    """``[n, probes, dim]`` → squared norms ``[probes, n]`` in float64."""
    parts = [part.double().square().sum(2) for part in rows.split(_ROWS)]
    return torch.cat(parts).T
