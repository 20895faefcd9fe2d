"""``Kernel``: the numbers, their errors, and how they were made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.runs.archive import load_archive, save_archive

if TYPE_CHECKING:
    from genkernel.tangent.coverage import Coverage
    from genkernel.tangent.sketches import Sketch

FORMAT = "genkernel.kernel"
_HEAD = ("layers", "symmetric", "is_normalized", "meta")
_TENSORS = ("values", "norms_x", "norms_y")
_PER_PROBE = ("per_probe", "per_probe_norms_x", "per_probe_norms_y")


@dataclass
class Kernel:
    """A tangent kernel ``[n, m]`` in float64 on the CPU.

    Attributes:
        values: ``[n, m]``; ``[n, m, O, O]`` with full blocks, entry (i, j, a, b) = ⟨∇f_a(x_i), P ∇f_b(y_j)⟩.
        norms_x, norms_y: squared tangent norms k(x, x) ``[n]``, k(y, y) ``[m]``; with full blocks those of every
            output, ``[n, O]``, ``[m, O]``.
        layers: layer (or parameter, or group) → the same shape as ``values``, to which they sum.
        per_probe: ``[q, n, m]``, the kernel of each probe alone; ``values`` is their mean.
            None unless the cotangents are random.
        per_probe_norms_x, per_probe_norms_y: the squared norms of each probe ``[q, n]``, ``[q, m]``.
        symmetric: x and y are the same samples.
        is_normalized: entries are cosines.
        sketch_x, sketch_y: sketches of the samples, where they were asked for (not part of what ``save`` writes:
            they have a ``save`` of their own).
        meta: parameters, cotangents, dtypes, plan, timing, coverage: everything JSON can hold.
    """

    values: Tensor
    norms_x: Tensor
    norms_y: Tensor
    layers: dict[str, Tensor] = field(default_factory=dict)
    per_probe: Tensor | None = None
    per_probe_norms_x: Tensor | None = None
    per_probe_norms_y: Tensor | None = None
    symmetric: bool = False
    is_normalized: bool = False
    meta: dict[str, Any] = field(default_factory=dict)
    coverage: Coverage | None = None
    sketch_x: Sketch | None = None
    sketch_y: Sketch | None = None
    _stderr: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def stderr(self) -> Tensor | None:
        """Standard error ``[n, m]`` from the spread over probes (THEORY §1); None with one probe or exact.

        Errors of different entries are strongly correlated, because the probes are shared:
        averaging entries does not shrink them.
        """
        if self._stderr is not None or self.per_probe is None or len(self.per_probe) < 2:
            return self._stderr
        return self.per_probe.std(0, unbiased=True) / len(self.per_probe) ** 0.5

    def normalized(self) -> Kernel:
        """Cosines k(x, y) / √(k(x, x) k(y, y)), with probe bias removed and errors by the jackknife.

        The ratio of probe averages is biased by O(1/q) (THEORY §1); the jackknife over probes
        removes the leading term and gives the standard error. Entries of samples whose gradient
        is zero are 0 and counted in ``meta["zero_gradients"]``; cosines are held in [−1, 1].
        """
        if self.is_normalized:
            return self
        plain = cosines(self.values, self.norms_x, self.norms_y)
        stderr = None
        if self.per_probe is not None and len(self.per_probe) > 1:
            assert self.per_probe_norms_x is not None and self.per_probe_norms_y is not None
            totals = self.values, self.norms_x, self.norms_y
            parts = self.per_probe, self.per_probe_norms_x, self.per_probe_norms_y
            q = len(self.per_probe)
            plain, stderr = jackknife(plain, (cosines(*without(p, totals, parts)) for p in range(q)), q)
        dead = int((self.norms_x <= 0).sum()) + (0 if self.symmetric else int((self.norms_y <= 0).sum()))
        return Kernel(
            values=plain.clamp(-1, 1),
            norms_x=(self.norms_x > 0).to(torch.float64),
            norms_y=(self.norms_y > 0).to(torch.float64),
            symmetric=self.symmetric,
            is_normalized=True,
            meta={**self.meta, "zero_gradients": dead},
            coverage=self.coverage,
            _stderr=stderr,
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.values.numpy()
        return array.astype(dtype) if dtype is not None else (array.copy() if copy else array)

    def save(self, path: str | Path) -> Path:
        """Write one ``.npz`` (no pickles), atomically.

        Raises:
            OSError: the file cannot be written; nothing is left behind.
        """
        arrays = {name: getattr(self, name) for name in (*_TENSORS, *_PER_PROBE) if getattr(self, name) is not None}
        if self._stderr is not None:
            arrays["stderr"] = self._stderr
        if self.layers:
            arrays["layers"] = torch.stack(list(self.layers.values()))
        head = {
            "layers": list(self.layers),
            "symmetric": self.symmetric,
            "is_normalized": self.is_normalized,
            "meta": self.meta,
        }
        return save_archive(path, FORMAT, head, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Kernel:
        """Read what ``save`` wrote.

        Raises:
            MissingError: there is no such file.
            InputError: the file is not a saved kernel.
        """
        head, arrays = load_archive(path, FORMAT, "a kernel", _HEAD, _TENSORS, (*_PER_PROBE, "stderr", "layers"))
        stacked = arrays.pop("layers", None)
        if len(head["layers"]) != (0 if stacked is None else len(stacked)):
            raise InputError(f"{path} is damaged: it names {len(head['layers'])} layers and holds others")
        layers = dict(zip(head["layers"], stacked, strict=True)) if stacked is not None else {}
        return cls(
            layers=layers,
            symmetric=head["symmetric"],
            is_normalized=head["is_normalized"],
            meta=head["meta"],
            _stderr=arrays.pop("stderr", None),
            **arrays,
        )

    def __repr__(self) -> str:
        n, m = self.shape
        what = "cosines" if self.is_normalized else self.meta.get("cotangents", "kernel")
        return f"Kernel({n}×{m}, {what}, {len(self.layers)} layers)"


def cosines(values: Tensor, norms_x: Tensor, norms_y: Tensor) -> Tensor:
    """k / √(k_x k_y) with squared norms ``[n]``, ``[m]`` (of full blocks ``[n, O]``, ``[m, O]``); 0 where one is 0."""
    left, right = norms_x.clamp_min(0), norms_y.clamp_min(0)
    if values.dim() == 4:  # full blocks: norms [n, O] and [m, O]
        left, right = left[:, None, :, None], right[None, :, None, :]
    else:
        left, right = left[:, None], right[None, :]
    size = (left * right).sqrt()
    return torch.where(size > 0, values / torch.where(size > 0, size, torch.ones_like(size)), torch.zeros_like(size))


def without(probe: int, totals: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """Means over all probes but one.

    Args:
        probe: the one that is left out.
        totals: means over all q probes.
        parts: for each of them the values of every probe, ``[q, ...]``.
    """
    return [(total * len(part) - part[probe]) / (len(part) - 1) for total, part in zip(totals, parts, strict=True)]


def jackknife(plain: Tensor, left_out: Iterable[Tensor], q: int) -> tuple[Tensor, Tensor]:
    """A statistic of q probes without its bias of O(1/q), and its standard error (THEORY §1).

    Args:
        plain: the statistic of all probes.
        left_out: that of all probes but one, for each of the q.

    Returns:
        q·plain − (q−1)·mean and √((q−1) Σ (left_out − mean)² / q).
    """
    mean, square = torch.zeros_like(plain), torch.zeros_like(plain)
    for left in left_out:
        delta = left - plain
        mean += delta / q
        square += delta.square() / q
    return plain - (q - 1) * mean, ((q - 1) * (square - mean.square()).clamp_min(0)).sqrt()
