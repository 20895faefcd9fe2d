"""Per-sample gradients of one tensor, in the form that its use gives them.

A factor stands for G ``[n, *shape]``, row i the gradient for sample i. ``pieces`` walks a
partition of the coordinates, so that products and projections never need all of G at once;
``parts`` are the tensors it is made of, which are often far smaller than G.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from genkernel.tangent.products import batched, dot
from genkernel.tangent.workspace import room

#: the coordinates of a piece: maps a tensor shaped like the parameter to their values, flat
Pick = Callable[[Tensor], Tensor]

#: entries of one slice of gradients: large enough for GEMM, small enough for cache and scratch. Tight budgets take
#: smaller ones.
SLICE = 1 << 21

# How gradients of convolutions are made on a CPU, by what was measured there (docs/engine.md).
# Windows of more entries are not unfolded whole.
UNFOLD_WIDTH = 96
#: Up to so many channels one library call with a group per sample is the fastest, given enough positions;
NARROW, FEW_POSITIONS = 32, 64
#: above, one sample after the other, where there are not too many weights for that:
ENTRIES_PER_POSITION = 10_000
#: as a product with its windows, or by the library's weight gradient where there are so many positions.
MANY_POSITIONS = 512
#: That takes many channels at a time: of so many slices, where that gives a sample so many entries; and so many
#: entries of windows.
MANY_SLICES, TOGETHER, UNFOLDED_TOGETHER = 18, 1 << 14, 1 << 20
#: slices of windows that may lie unfolded at a time, and of padded copies; entries where it is more than that
WINDOWS, UNFOLDED = 4, 1 << 23


class Factor:
    """Per-sample gradients ``[n, *shape]`` of one tensor."""

    n: int
    shape: tuple[int, ...]

    def dense(self) -> Tensor:
        """The gradients themselves, ``[n, *shape]``."""
        raise NotImplementedError

    def combination(self, weights: Tensor) -> Tensor:
        """Σ_i weights_i G_i ``[*shape]``, for weights ``[n]``."""
        return torch.tensordot(weights, self.dense(), 1)

    def pieces(self, limit: int) -> Iterator[tuple[Pick, Tensor]]:
        """Yield ``(pick, block)``: blocks ``[n, p]`` of about ``limit`` entries that partition the coordinates.

        The next block may lie where this one did: take what is needed of it first.
        """
        yield from _leading(self.dense().reshape(self.n, -1), limit)

    def columns(self, start: int, stop: int) -> Tensor:
        """Coordinates ``start … stop`` of the gradients, flat: ``[n, stop - start]``."""
        return self.dense().reshape(self.n, -1)[:, start:stop]

    def slices(self, limit: int, root: Tensor | None = None) -> Iterator[Tensor]:
        """The blocks alone; ``root`` (shaped like the tensor) multiplies the coordinates.

        It is the square root of a diagonal preconditioner.
        """
        for pick, block in self.pieces(limit):
            yield block if root is None else block * pick(root)

    def parts(self) -> dict[str, Tensor]:
        """The tensors ``[n, ...]`` that make up this factor."""
        raise NotImplementedError

    def like(self, parts: dict[str, Tensor]) -> Factor:
        """The same kind of factor made of other samples' parts."""
        raise NotImplementedError

    @property
    def kind(self) -> tuple[object, ...]:
        """What has to agree between batches for their parts to be stacked."""
        return (type(self), self.shape)


def _leading(flat: Tensor, limit: int) -> Iterator[tuple[Pick, Tensor]]:
    step = max(1, limit // max(1, flat.shape[0]))
    for start in range(0, flat.shape[1], step):
        part = slice(start, start + step)
        yield _flat_pick(part), flat[:, part]


def _flat_pick(part: slice) -> Pick:
    return lambda t: t.reshape(-1)[part]


def _matrix_pick(rows: slice, columns: slice, width: int) -> Pick:
    return lambda t: t.reshape(-1, width)[rows, columns].reshape(-1)


class Dense(Factor):
    """Gradients that are there already."""

    def __init__(self, gradient: Tensor):
        self.gradient = gradient
        self.n = gradient.shape[0]
        self.shape = tuple(gradient.shape[1:])

    @classmethod
    def of(cls, entries: int) -> Dense:
        """The form alone, of one sample and without data."""
        return cls(torch.empty(1, entries, device="meta"))

    def dense(self) -> Tensor:
        return self.gradient

    def parts(self) -> dict[str, Tensor]:
        return {"gradient": self.gradient}

    def like(self, parts: dict[str, Tensor]) -> Dense:
        return Dense(parts["gradient"])


class Outer(Factor):
    """G_i = Σ_t B_it A_itᵀ: linear maps, and convolutions after unfolding.

    Args:
        A: inputs ``[n, T, a]``.
        B: output-gradients ``[n, T, b]``.
        shape: shape of the tensor; its entries are ``[b, a]`` in memory order, or ``[a, b]``
            when ``transposed``.
    """

    def __init__(self, A: Tensor, B: Tensor, shape: Sequence[int] | None = None, transposed: bool = False):
        self.A, self.B, self.transposed = A, B, transposed
        self.n, self.T, self.a = A.shape
        self.b = B.shape[2]
        self.shape = tuple(shape) if shape is not None else ((self.a, self.b) if transposed else (self.b, self.a))

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """(left, right) with G = leftᵀ right in the memory order of the tensor."""
        return (self.A, self.B) if self.transposed else (self.B, self.A)

    def dense(self) -> Tensor:
        left, right = self.rows
        return batched(left.transpose(1, 2), right.transpose(1, 2)).reshape(self.n, *self.shape)

    def combination(self, weights: Tensor) -> Tensor:
        left, right = self.rows
        left = left * weights[:, None, None]
        return (left.flatten(0, 1).T @ right.flatten(0, 1)).reshape(self.shape)

    def pieces(self, limit: int) -> Iterator[tuple[Pick, Tensor]]:
        left, right = self.rows
        height, width = left.shape[2], right.shape[2]
        across = max(1, min(width, limit // self.n))
        step = max(1, limit // (self.n * across))
        for start in range(0, height, step):
            rows = slice(start, min(height, start + step))
            for first in range(0, width, across):
                columns = slice(first, min(width, first + across))
                block = batched(left[:, :, rows].transpose(1, 2), right[:, :, columns].transpose(1, 2))
                yield _matrix_pick(rows, columns, width), block.reshape(self.n, -1)

    def columns(self, start: int, stop: int) -> Tensor:
        left, right = self.rows
        width = right.shape[2]
        first, last = start // width, -(-stop // width)
        block = batched(left[:, :, first:last].transpose(1, 2), right.transpose(1, 2)).reshape(self.n, -1)
        return block[:, start - first * width : stop - first * width]

    def parts(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def like(self, parts: dict[str, Tensor]) -> Outer:
        return Outer(parts["A"], parts["B"], self.shape, self.transposed)

    @property
    def kind(self) -> tuple[object, ...]:
        return (Outer, self.shape, self.T, self.a, self.b, self.transposed)


class Rows(Factor):
    """Embedding: row ``index[i, t]`` of the table receives B[i, t].

    Args:
        index: ``[n, T]`` integers; entries equal to ``padding`` receive nothing.
        B: ``[n, T, d]``.
    """

    def __init__(self, index: Tensor, B: Tensor, shape: Sequence[int], padding: int | None = None):
        if padding is not None:
            B = B * (index != padding)[..., None]
        self.index, self.B = index, B
        self.n, self.T, self.d = B.shape
        self.shape = tuple(shape)

    def dense(self) -> Tensor:
        table = self.B.new_zeros(self.n, *self.shape)
        return table.scatter_add_(1, self.index[..., None].expand_as(self.B), self.B)

    def pieces(self, limit: int) -> Iterator[tuple[Pick, Tensor]]:
        # only rows that some sample touches can contribute
        touched, place = self.index.unique(return_inverse=True)
        step = max(1, limit // max(1, self.n * self.d))
        for start in range(0, len(touched), step):
            stop = min(len(touched), start + step)
            compact = self.B.new_zeros(self.n, stop - start + 1, self.d)  # the last row takes what is elsewhere
            here = torch.where((place >= start) & (place < stop), place - start, stop - start)
            compact.scatter_add_(1, here[..., None].expand_as(self.B), self.B)
            yield _row_pick(touched[start:stop]), compact[:, :-1].reshape(self.n, -1)

    def columns(self, start: int, stop: int) -> Tensor:
        first, last = start // self.d, -(-stop // self.d)
        some = self.B.new_zeros(self.n, last - first + 1, self.d)  # the last row takes what is elsewhere
        here = torch.where((self.index >= first) & (self.index < last), self.index - first, last - first)
        some.scatter_add_(1, here[..., None].expand_as(self.B), self.B)
        return some[:, :-1].reshape(self.n, -1)[:, start - first * self.d : stop - first * self.d]

    def parts(self) -> dict[str, Tensor]:
        return {"index": self.index, "B": self.B}

    def like(self, parts: dict[str, Tensor]) -> Rows:
        return Rows(parts["index"], parts["B"], self.shape)

    @property
    def kind(self) -> tuple[object, ...]:
        return (Rows, self.shape, self.T)


def _row_pick(rows: Tensor) -> Pick:
    return lambda t: t[rows].reshape(-1)


class Convolution(Factor):
    """Weight gradient of a convolution.

    ``large`` and ``small`` are its two images: input and output-gradient, or the other way round
    for a transposed convolution. The weight is ``[C_small, C_large / groups, *kernel]`` in both cases.

    Args:
        A: inputs ``[n, C_in, *spatial]`` (already padded where padding is not symmetric zeros).
        B: output-gradients ``[n, C_out, *spatial]``.
        shape: shape of the weight.
    """

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        shape: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        transposed: bool = False,
        output_padding: Sequence[int] = (0,),
    ):
        self.A, self.B = A, B
        self.n = A.shape[0]
        self.shape = tuple(shape)
        self.stride, self.padding, self.dilation = tuple(stride), tuple(padding), tuple(dilation)
        self.groups, self.transposed = groups, transposed
        self.output_padding = tuple(output_padding)

    @property
    def large(self) -> Tensor:
        return self.B if self.transposed else self.A

    @property
    def small(self) -> Tensor:
        return self.A if self.transposed else self.B

    @property
    def positions(self) -> int:
        """Positions T of the small image."""
        return self.small.shape[2:].numel()

    @property
    def windows_width(self) -> int:
        """Entries of what one position multiplies: its window of the large image, and itself."""
        return math.prod(self.shape[:1]) + self.large.shape[1] * math.prod(self.shape[2:])

    def dense(self) -> Tensor:
        return self._gradient(self.A, self.B, self.groups)

    def combination(self, weights: Tensor) -> Tensor:
        # the samples as one batch of the library's own weight gradient
        weighted = self.B * weights.view(-1, *[1] * (self.B.dim() - 1))
        return self._weight_gradient(self.A, weighted, self.A.new_empty(1).expand(self.shape), self.groups)

    def _weight_gradient(self, A: Tensor, B: Tensor, weight: Tensor, groups: int) -> Tensor:
        """The library's own, summed over its batch; of ``weight`` only the shape is read."""
        return torch.ops.aten.convolution_backward(
            B, A, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, groups, (False, True, False),
        )[1]  # fmt: skip

    def pieces(self, limit: int) -> Iterator[tuple[Pick, Tensor]]:
        width = math.prod(self.shape[1:])
        narrow = not self._wide and self.positions >= FEW_POSITIONS
        if self.by_samples(self.n, limit):
            yield from self._by_samples(limit)
        elif self._unfolds(self.n) and (self._pointwise or self.n * self._unfolded <= WINDOWS * limit):
            yield from self.outer().pieces(limit)
        elif self.groups > 1 or narrow or (width <= UNFOLD_WIDTH and not self._one_at_a_time):
            yield from self._rows(limit, self.shape[0] // self.groups if self.groups > 1 else 1)
        else:
            yield from self._by_taps(limit)

    def _rows(self, limit: int, multiple: int) -> Iterator[tuple[Pick, Tensor]]:
        """As many rows of the weight at a time as fit, or the least multiple."""
        width = math.prod(self.shape[1:])
        step = max(multiple, limit // max(1, self.n * width) // multiple * multiple)
        for start in range(0, self.shape[0], step):
            stop = min(self.shape[0], start + step)
            yield _flat_pick(slice(start * width, stop * width)), self.columns(start * width, stop * width)

    def _by_samples(self, limit: int) -> Iterator[tuple[Pick, Tensor]]:
        """The gradient of each sample, for many channels; what is handed out lies close together."""
        taps, most = math.prod(self.shape[2:]), MANY_SLICES * limit // self.n
        across = min(most // (taps * self.shape[0]), limit // (self.n * taps))
        last = is_channels_last(self.large) or is_channels_last(self.small)
        for rows, channels in itertools.product(
            evenly(self.shape[0], most // taps), evenly(self.large.shape[1], across)
        ):
            height, width = rows.stop - rows.start, (channels.stop - channels.start) * taps
            each = max(1, min(height, limit // (self.n * width)))  # rows of a piece
            with room(self.small, self.n * height * width) as flat:
                cut = height // each * each
                even, rest = flat.split((self.n * cut * width, self.n * (height - cut) * width))
                found = [even.view(cut // each, self.n, each * width)]
                if cut < height:
                    found.append(rest.view(1, self.n, -1))
                self._each_sample(self.large[:, channels], self.small[:, rows], found, last, limit)
                for start, block in zip(range(rows.start, rows.stop, each), itertools.chain(*found), strict=True):
                    yield _channels_pick(slice(start, min(rows.stop, start + each)), channels, last), block

    def _each_sample(
        self, large: Tensor, small: Tensor, found: Sequence[Tensor], last: bool = False, limit: int = SLICE
    ) -> None:
        """Write the gradient of each sample, for some channels of its images.

        Args:
            found: parts ``[k, n, entries]`` of them, one row of a weight after the other.
            last: with the channels of a row next to each other.
        """
        shape = (small.shape[1], large.shape[1], *self.shape[2:])
        weight, unfolded = small.new_empty(1).expand(shape), self.positions < MANY_POSITIONS
        order = torch.channels_last if last else torch.contiguous_format

        for i in range(self.n):
            here, there = (image[i : i + 1].contiguous(memory_format=order) for image in (large, small))
            if unfolded:
                gradient = self._by_windows(here, there[0].flatten(1), last, min(UNFOLDED_TOGETHER, limit))
            else:
                pair = (there, here) if self.transposed else (here, there)
                gradient = self._weight_gradient(*pair, weight, 1)
                gradient = gradient.movedim(1, -1) if last else gradient
            flat, start = gradient.reshape(-1), 0
            for part in found:
                part[:, i] = flat[start : start + part[:, i].numel()].view(len(part), -1)
                start += part[:, i].numel()

    def _by_windows(self, large: Tensor, small: Tensor, last: bool, most: int) -> Tensor:
        """The gradient of one sample, from ``most`` entries of its windows at a time.

        Returns:
            ``[C_small, C_large, taps]``, or ``[C_small, taps, C_large]`` if channels come ``last``.
        """
        taps = math.prod(self.shape[2:])
        parts = []
        for channels in evenly(large.shape[1], most // (taps * self.positions)):
            some = large[:, channels]
            if last:
                windows = self._windows(some, last=True).reshape(self.positions, -1).T
            else:
                windows = self._windows(some).reshape(-1, self.positions)
            shape = (taps, some.shape[1]) if last else (some.shape[1], taps)
            parts.append(dot(small, windows).view(-1, *shape))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2 if last else 1)

    @property
    def _wide(self) -> bool:
        return max(self.shape[:2]) > NARROW

    @property
    def _one_at_a_time(self) -> bool:
        """One sample after the other is faster than one library call with a group per sample."""
        return self.groups == 1 and self._wide and self.small.device.type != "cuda"

    def _unfolds(self, n: int) -> bool:
        """Its windows are not much larger than its images, or not many."""
        few = math.prod(self.shape[1:]) <= UNFOLD_WIDTH and n * self._unfolded <= UNFOLDED
        return self.groups == 1 and (self._pointwise or few)

    @property
    def _pointwise(self) -> bool:
        return math.prod(self.shape[2:]) == 1 and not any(self.padding)

    @property
    def _unfolded(self) -> int:
        """Entries of the windows of a sample."""
        return self.positions * self.large.shape[1] * math.prod(self.shape[2:])

    def by_samples(self, n: int, limit: int) -> bool:
        """For n samples, one after the other is the fastest way to all gradients."""
        if not self._one_at_a_time or self._pointwise or (self._unfolds(n) and torch.get_num_threads() > 1):
            return False
        if self.positions < FEW_POSITIONS or math.prod(self.shape) > ENTRIES_PER_POSITION * self.positions:
            return False
        return MANY_SLICES * limit >= n * min(TOGETHER, math.prod(self.shape))

    def columns(self, start: int, stop: int) -> Tensor:
        width, group = math.prod(self.shape[1:]), self.shape[0] // self.groups
        first, last = start // width, -(-stop // width)
        if self.groups > 1:
            first, last = first // group * group, -(-last // group) * group
        groups = self.groups if self.groups == 1 else (last - first) // group
        across = self.large.shape[1] // self.groups  # large channels that belong to a group
        channels = slice(None) if self.groups == 1 else slice(first // group * across, last // group * across)
        small, large = self.small[:, first:last], self.large[:, channels]
        found = self._gradient(*((small, large) if self.transposed else (large, small)), groups).reshape(self.n, -1)
        return found[:, start - first * width : stop - first * width]

    def _by_taps(self, limit: int) -> Iterator[tuple[Pick, Tensor]]:
        """One batched product per kernel tap: a window is copied while it is in the cache."""
        small, kernel = self.small.flatten(2), self.shape[2:]
        sizes = zip(self.large.shape[2:], self.padding, strict=True)
        padded = math.prod(size + 2 * padding for size, padding in sizes)
        across = max(1, min(self.large.shape[1], min(UNFOLDED, WINDOWS * limit) // max(1, self.n * padded)))
        for first in range(0, self.large.shape[1], across):  # few channels at a time: their windows come from a copy
            large = self.large[:, first : first + across]
            channels = large.shape[1]
            step = max(1, min(self.shape[0], limit // max(1, self.n * channels)))
            window = small.new_empty(self.n, *self.small.shape[2:], channels)
            space = small.new_empty(self.n * step * channels)
            taps = itertools.product(*map(range, kernel))
            for tap, view in zip(taps, self._windows_by_tap(large), strict=True):
                window.copy_(view)
                for start in range(0, self.shape[0], step):
                    stop = min(self.shape[0], start + step)
                    block = space[: self.n * (stop - start) * channels].view(self.n, stop - start, channels)
                    batched(small[:, start:stop], window.view(self.n, -1, channels).transpose(1, 2), out=block)
                    pick = _tap_pick(slice(start, stop), slice(first, first + channels), tap)
                    yield pick, block.view(self.n, -1)

    def _gradient(self, A: Tensor, B: Tensor, groups: int) -> Tensor:
        """Of each sample; ``A`` and ``B`` may lack some of the channels."""
        n, kernel = self.n, self.shape[2:]
        wide, narrow = (A.shape[1], B.shape[1]) if self.transposed else (B.shape[1], A.shape[1])
        shape = (wide, narrow // groups, *kernel)
        if groups == 1 and self._one_at_a_time:
            found = A.new_empty(n, *shape)
            self._each_sample(*((B, A) if self.transposed else (A, B)), [found.view(1, n, -1)])
            return found
        # one call with a group for each sample
        A, B = (image.reshape(1, -1, *image.shape[2:]) for image in (A, B))
        gradient = self._weight_gradient(A, B, A.new_empty(1).expand(n * wide, *shape[1:]), n * groups)
        return gradient.view(n, *shape)

    def outer(self) -> Outer:
        """The same gradient by unfolding (im2col); for one group only."""
        if self._pointwise:
            places = zip(self.small.shape[2:], self.stride, strict=True)
            some = (slice(None), slice(None), *(slice(0, (size - 1) * step + 1, step) for size, step in places))
            seen = self.large[some].flatten(2)  # a view, unless strided
            return Outer(seen.transpose(1, 2), self.small.flatten(2).transpose(1, 2), self.shape)
        by_position = (0, *range(-len(self.stride), 0), *range(1, 2 + len(self.stride)))
        unfolded = self._windows(self.large).permute(by_position).reshape(self.n, self.positions, -1)
        return Outer(unfolded, self.small.flatten(2).transpose(1, 2), self.shape)

    def _padded(self, large: Tensor) -> Tensor:
        """The large image of some samples and channels with zeros around it, as far as its windows reach."""
        if any(self.padding):
            large = torch.nn.functional.pad(large, [p for side in reversed(self.padding) for p in (side, side)])
        out, kernel = self.small.shape[2:], self.shape[2:]
        need = [
            (o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, self.stride, kernel, self.dilation, strict=True)
        ]
        short = [max(0, want - have) for want, have in zip(need, large.shape[2:], strict=True)]
        if any(short):
            large = torch.nn.functional.pad(large, [p for extra in reversed(short) for p in (0, extra)])
        return large

    def _windows_by_tap(self, large: Tensor) -> Iterator[Tensor]:
        """Per kernel tap, in row-major order, the view ``[n, *out, C]`` of what it multiplies."""
        x = self._padded(large).movedim(1, -1).contiguous()
        out = self.small.shape[2:]
        for tap in itertools.product(*map(range, self.shape[2:])):
            index: tuple[slice, ...] = tuple(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(tap, self.dilation, out, self.stride, strict=True)
            )
            yield x[(slice(None), *index)]

    def _windows(self, large: Tensor, last: bool = False) -> Tensor:
        """Sliding windows as a view, whose copy takes a tenth of ``F.unfold``.

        Returns:
            ``[n, C, *kernel, *out]``, or ``[n, *out, *kernel, C]`` if channels come ``last``.
        """
        x = self._padded(large)
        x = x if last else x.contiguous()
        (n, channels, *_), (each, one, *steps) = x.shape, x.stride()
        taps = [step * d for step, d in zip(steps, self.dilation, strict=True)]
        moves = [step * s for step, s in zip(steps, self.stride, strict=True)]
        out, kernel = self.small.shape[2:], self.shape[2:]
        if last:
            return x.as_strided((n, *out, *kernel, channels), (each, *moves, *taps, one))
        return x.as_strided((n, channels, *kernel, *out), (each, one, *taps, *moves))

    def parts(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    def like(self, parts: dict[str, Tensor]) -> Convolution:
        return Convolution(
            parts["A"], parts["B"], self.shape, self.stride, self.padding, self.dilation,
            self.groups, self.transposed, self.output_padding,
        )  # fmt: skip

    @property
    def kind(self) -> tuple[object, ...]:
        return (
            Convolution, self.shape, self.A.shape[1:], self.B.shape[1:], self.stride, self.padding, self.dilation,
            self.groups, self.transposed, self.output_padding,
        )  # fmt: skip


def is_channels_last(image: Tensor) -> bool:
    """Channels lie next to each other, and there is more than one order."""
    return image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()


def _channels_pick(rows: slice, channels: slice, last: bool) -> Pick:
    def pick(t: Tensor) -> Tensor:
        some = t[rows, channels]
        return (some.movedim(1, -1) if last else some).reshape(-1)

    return pick


def _tap_pick(rows: slice, channels: slice, tap: tuple[int, ...]) -> Pick:
    index: tuple[slice | int, ...] = (rows, channels, *tap)
    return lambda t: t[index].reshape(-1)


def evenly(total: int, most: int) -> list[slice]:
    """As few parts of ``range(total)`` as have ``most`` entries or fewer (one at the least), of about the same size."""
    parts = -(-total // max(1, most))
    return [slice(total * i // parts, total * (i + 1) // parts) for i in range(parts)]


def combine(factors: list[Factor]) -> Factor:
    """The sum of several factors of the same tensor (several uses of one parameter)."""
    if len(factors) == 1:
        return factors[0]
    if all(isinstance(f, Outer) for f in factors):
        outers = [f for f in factors if isinstance(f, Outer)]
        first = outers[0]
        if all((f.a, f.b, f.transposed, f.shape) == (first.a, first.b, first.transposed, first.shape) for f in outers):
            return Outer(
                torch.cat([f.A for f in outers], 1), torch.cat([f.B for f in outers], 1), first.shape, first.transposed
            )
    total = factors[0].dense()
    for factor in factors[1:]:
        total = total + factor.dense()
    return Dense(total)
