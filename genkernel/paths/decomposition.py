"""``PathDecomposition``: where outputs came from, by source × time × layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.paths.sources import RESERVED, Label
from genkernel.runs.archive import load_archive, save_archive

FORMAT = "genkernel.path"
_HEAD = ("sources", "layers", "edges", "data", "meta")
_TENSORS = ("net", "gross", "outputs", "samples")


@dataclass(frozen=True)
class Part:
    """What one source did to one query, along one direction of the outputs.

    Attributes:
        source: its label.
        value: its net contribution.
        share: of the whole change; shares of all sources sum to 1 up to the gap.
        gross: Σ over time of its size, times that of the direction; at least ``|value|``.
    """

    source: Label
    value: float
    share: float
    gross: float


@dataclass
class PathDecomposition:
    """``initial + values.sum(0) = final``, up to the completeness gap. Float64 tensors on the CPU.

    A contribution is what the gradients of a source did along the path that was taken, through the momentum and the
    preconditioner that the run had. It is conditional on both: not what deleting the source would change. Net parts add
    up; sizes, gross parts and cosines do not.

    Attributes:
        sources: S labels: groups of samples, then what is not data ("weight decay", "before recording", "rounding",
            "buffers").
        net: contributions ``[W, S, L, m, *out]`` by window of time, source, layer and query.
        gross: ``[W, S, L, m]``: Σ over steps of the norm over the outputs of a contribution. Cancellation over time
            is net over gross. With the trapezoid the halves of two neighbouring steps are evaluated together, and what
            cancels between these is not in it: the midpoint's is that of single steps.
        layers: L names; ``["all"]`` where they are not resolved.
        edges: training steps ``[W + 1]`` at which windows start, and the last one's end.
        outputs: f at the edges ``[W + 1, m, *out]``.
        samples: how many samples of each source were trained on ``[S]``.
        data: ``[S]``, whether a source is a group of samples.
        meta: optimizer, rule, steps, versions, errors, what JSON can hold.
    """

    sources: list[Label]
    net: Tensor
    gross: Tensor
    layers: list[str]
    edges: list[int]
    outputs: Tensor
    samples: Tensor
    data: list[bool]
    meta: dict[str, Any] = field(default_factory=dict)

    # ------------------------------------------------------------------------------ sums

    @property
    def values(self) -> Tensor:
        """Contributions ``[S, m, *out]`` over all time and layers."""
        return self.net.sum((0, 2))

    def __getitem__(self, source: Label) -> Tensor:
        """What one source did over all time and layers ``[m, *out]``: ``parts["digit 3"]``.

        Raises:
            InputError: there is no source of that label.
        """
        if source not in self.sources:
            raise InputError(f"there is no source {source!r}; there are {', '.join(map(repr, self.sources))}")
        return self.net[:, self.sources.index(source)].sum((0, 1))

    __iter__ = None  # labels may be numbers, and counting them up from 0 is no way through the sources

    @property
    def initial(self) -> Tensor:
        """f before the first step ``[m, *out]``."""
        return self.outputs[0]

    @property
    def final(self) -> Tensor:
        """f after the last step ``[m, *out]``."""
        return self.outputs[-1]

    @property
    def by_time(self) -> Tensor:
        """``[W, S, m, *out]``."""
        return self.net.sum(2)

    @property
    def by_layer(self) -> Tensor:
        """``[L, S, m, *out]``."""
        return self.net.sum(0).transpose(0, 1)

    # ------------------------------------------------------------------------------- gap

    @property
    def gap(self) -> Tensor:
        """What the parts miss ``[m, *out]``: final - initial - Σ values."""
        return self.final - self.initial - self.values.sum(0)

    @property
    def gap_abs(self) -> float:
        """The largest norm of the gap over the queries."""
        return float(self._sizes(self.gap).max())

    @property
    def gap_rel(self) -> float:
        """``gap_abs`` relative to the largest change of a query's outputs; NaN where none changed."""
        change = float(self._sizes(self.final - self.initial).max())
        return self.gap_abs / change if change else float("nan")

    @property
    def gap_by_window(self) -> Tensor:
        """The norm of the gap of every window and query ``[W, m]``."""
        moved = self.outputs[1:] - self.outputs[:-1] - self.by_time.sum(1)
        return moved.reshape(*moved.shape[:2], -1).norm(dim=2)

    # ---------------------------------------------------------------------------- shares

    def net_size(self) -> Tensor:
        """‖Σ over time of the contributions‖ ``[S, m]``."""
        return self._sizes(self.values)

    def gross_size(self) -> Tensor:
        """Σ over time of ‖contribution‖ ``[S, m]``; with layers, the sum over them as well."""
        return self.gross.sum((0, 2))

    def signed(self) -> Tensor:
        """⟨C_a, f_N - f_0⟩ / ‖f_N - f_0‖² ``[S, m]``: sums to 1 over sources, up to the gap; NaN for no change."""
        change = (self.final - self.initial).reshape(len(self.final), -1)
        inner = (self.values.reshape(*self.values.shape[:2], -1) * change).sum(2)
        return inner / change.square().sum(1)

    def cancellation(self) -> Tensor:
        """Net over gross ``[S, m]``: 1 for a source that always pushed one way, near 0 for one that went to and fro."""
        return self.net_size() / self.gross_size()

    def along(self, direction: Tensor | Sequence[float] | int | None = None) -> Tensor:
        """Contributions ``[W, S, m]`` along a direction of the outputs.

        Args:
            direction: ``[*out]``, or one per query ``[m, *out]``; the number of one (flattened) output; None for the
                direction of each query's whole change, of length one.

        Raises:
            InputError: it has another shape.
        """
        by_time = self.by_time.flatten(3) if self.by_time.dim() > 3 else self.by_time[..., None]
        u = self._direction(direction)
        return (by_time * u).sum(-1)

    def top(self, query: int = 0, direction: Any = None, k: int = 5) -> tuple[list[Part], list[Part]]:
        """The k sources that helped most, and the k that opposed most, by their net part along a direction.

        Args:
            query: which query.
            direction: as for :meth:`along`; helping is moving along it.
            k: how many of each.
        """
        if (
            not isinstance(query, Integral)
            or isinstance(query, bool)
            or not -len(self.final) <= query < len(self.final)
        ):
            raise InputError(f"there are {len(self.final)} queries: query is 0 to {len(self.final) - 1}, not {query!r}")
        if k < 1:
            raise InputError(f"k is at least 1, not {k}")
        by_time = self.along(direction)[:, :, query]
        net, gross = by_time.sum(0), self.gross_size()[:, query]
        u = self._direction(direction)[query]
        change = float(((self.final - self.initial)[query].reshape(-1) * u).sum())
        parts = [
            Part(source, float(net[a]), float(net[a]) / change if change else float("nan"), float(gross[a] * u.norm()))
            for a, source in enumerate(self.sources)
        ]
        ordered = sorted(parts, key=lambda part: -part.value)
        helpers = [part for part in ordered if part.value > 0][:k]
        opponents = [part for part in reversed(ordered) if part.value < 0][:k]
        return helpers, opponents

    # --------------------------------------------------------------------------- changing

    def regroup(self, groups: Mapping[Label, Label] | Callable[[Label], Label]) -> PathDecomposition:
        """The same with sources merged: net parts add up; gross parts of the merged become upper bounds.

        Args:
            groups: label → new label, or a function; sources that are not data stay, and so do labels it lacks.

        Raises:
            InputError: a new label is one of the names of sources that are not data.
        """
        rename = groups if callable(groups) else (lambda label: groups.get(label, label))
        new: list[Label] = []
        index = []
        for source, is_data in zip(self.sources, self.data, strict=True):
            label = rename(source) if is_data else source
            if is_data and label in RESERVED:
                raise InputError(f"{label!r} names a source that is not data: give the merged groups another label")
            if label not in new:
                new.append(label)
            index.append(new.index(label))
        to = torch.tensor(index)

        def merged(part: Tensor, dim: int) -> Tensor:
            shape = list(part.shape)
            shape[dim] = len(new)
            return part.new_zeros(shape).index_add_(dim, to, part)

        data = [any(d for d, i in zip(self.data, index, strict=True) if i == a) for a in range(len(new))]
        return replace(
            self,
            sources=new,
            net=merged(self.net, 1),
            gross=merged(self.gross, 1),
            samples=merged(self.samples, 0),
            data=data,
        )

    def of(self, queries: int | Sequence[int] | slice | Tensor) -> PathDecomposition:
        """The same for some of the queries: their numbers, a slice, or one flag per query.

        Raises:
            InputError: there is no such query, or none at all.
        """
        every = torch.arange(len(self.final))
        try:
            index = torch.atleast_1d(every[queries if isinstance(queries, slice) else torch.as_tensor(queries)])
        except (IndexError, TypeError, ValueError) as error:
            raise InputError(f"there are {len(every)} queries, numbers from 0, not {queries!r}") from error
        if not len(index):
            raise InputError("a decomposition has at least one query")
        return replace(
            self, net=self.net[:, :, :, index], gross=self.gross[:, :, :, index], outputs=self.outputs[:, index]
        )

    # ----------------------------------------------------------------------------- files

    def save(self, path: str | Path) -> Path:
        """Write one ``.npz`` (no pickles), atomically.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        head = {name: getattr(self, name) for name in _HEAD}
        return save_archive(path, FORMAT, head, {name: getattr(self, name) for name in _TENSORS})

    @classmethod
    def load(cls, path: str | Path) -> PathDecomposition:
        """Read what :meth:`save` wrote.

        Raises:
            MissingError: there is no such file.
            InputError: it is not a saved decomposition.
        """
        head, tensors = load_archive(path, FORMAT, "a path decomposition", _HEAD, _TENSORS)
        found = cls(**head, **tensors)
        try:
            found._check_fit()
        except InputError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        return found

    def equals(self, other: PathDecomposition) -> bool:
        """The same sources, queries, times and numbers, bit for bit; what is noted in ``meta`` aside."""
        names = [name for name in _HEAD if name != "meta"]
        return all(list(getattr(self, name)) == list(getattr(other, name)) for name in names) and all(
            _same(getattr(self, name), getattr(other, name)) for name in _TENSORS
        )

    def __repr__(self) -> str:
        return (
            f"PathDecomposition({len(self.sources)} sources, {len(self.final)} queries, steps {self.edges[0]}-"
            f"{self.edges[-1]}, gap {self.gap_rel:.1e})"
        )

    # --------------------------------------------------------------------------- private

    def _check_fit(self) -> None:
        windows, sources, layers, queries = self.net.shape[:4] if self.net.dim() > 3 else (-1,) * 4
        fit = (
            tuple(self.gross.shape) == (windows, sources, layers, queries)
            and tuple(self.outputs.shape) == (windows + 1, queries, *self.net.shape[4:])
            and len(self.sources) == len(self.samples) == len(self.data) == sources
            and len(self.layers) == layers
            and len(self.edges) == windows + 1
        )
        if not fit:
            raise InputError(
                f"parts of a decomposition do not fit: {len(self.sources)} sources, {len(self.layers)} layers, "
                f"{len(self.edges)} edges, net {tuple(self.net.shape)}, gross {tuple(self.gross.shape)}, outputs "
                f"{tuple(self.outputs.shape)}"
            )

    def _sizes(self, part: Tensor) -> Tensor:
        """Norms over the outputs: ``[..., m, *out]`` → ``[..., m]``."""
        out = self.outputs.dim() - 2
        return part.flatten(-out).norm(dim=-1) if out else part.abs()

    def _direction(self, direction: Any) -> Tensor:
        """``[m, outputs]``."""
        m, shape = len(self.final), tuple(self.final.shape[1:])
        size = int(torch.Size(shape).numel())
        if direction is None:
            change = (self.final - self.initial).reshape(m, size)
            length = change.norm(dim=1, keepdim=True)
            return torch.where(length > 0, change / torch.where(length > 0, length, 1.0), 0.0)
        if isinstance(direction, int) and not isinstance(direction, bool):
            if not -size <= direction < size:
                raise InputError(f"there are {size} outputs: direction is 0 to {size - 1}, not {direction}")
            u = torch.zeros(size, dtype=torch.float64)
            u[direction] = 1
            return u.expand(m, size)
        given = torch.as_tensor(direction, dtype=torch.float64)
        if tuple(given.shape) == shape:
            return given.reshape(1, size).expand(m, size)
        if tuple(given.shape) == (m, *shape):
            return given.reshape(m, size)
        raise InputError(f"a direction has the shape of an output, {shape}, or one per query, not {tuple(given.shape)}")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
