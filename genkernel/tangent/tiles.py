"""How many samples run together, from the memory budget and the measured activation size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from genkernel.errors import InputError
from genkernel.tangent.contraction import GHOST, SLICE

_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "t": 10**12, "tb": 10**12}  # fmt: skip


def parse_memory(memory: str | int | float) -> int:
    """Bytes from ``"8GiB"``, ``"500MB"`` or a number."""
    if isinstance(memory, (int, float)) and not isinstance(memory, bool):
        size = int(memory)
    else:
        match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(memory))
        if not match or match.group(2).lower() not in _UNITS:
            raise InputError(
                f"memory={memory!r} is not an amount of memory: write '8GiB', '500MB' or a number of bytes"
            )
        try:
            size = int(float(match.group(1)) * _UNITS[match.group(2).lower()])
        except ValueError:
            raise InputError(f"memory={memory!r} is not an amount of memory: write '8GiB', '500MB' or bytes") from None
    if size <= 0:
        raise InputError(f"memory={memory!r} has to be positive")
    return size


@dataclass(frozen=True)
class Tile:
    """Samples ``rows`` of x against samples ``cols`` of y (of x itself when ``symmetric``)."""

    rows: slice
    cols: slice
    symmetric: bool  # the same samples on both sides: they run once


@dataclass(frozen=True)
class Tiling:
    """A plan of tiles and what it was made from.

    Attributes:
        n, m: samples on the two sides (m = 0: symmetric).
        samples: most samples that run together.
        budget: bytes allowed.
        expected: bytes that the plan expects to need at its peak.
    """

    n: int
    m: int
    samples: int
    budget: int
    expected: int

    def __iter__(self) -> Iterator[Tile]:
        if self.m == 0:
            if self.n <= self.samples:
                yield Tile(slice(0, self.n), slice(0, self.n), True)
                return
            half = max(1, self.samples // 2)
            blocks = [slice(s, min(self.n, s + half)) for s in range(0, self.n, half)]
            for i, rows in enumerate(blocks):
                for cols in blocks[: i + 1]:
                    yield Tile(rows, cols, rows == cols)
            return
        left, right = self._sides()
        for start in range(0, self.n, left):
            for other in range(0, self.m, right):
                yield Tile(slice(start, min(self.n, start + left)), slice(other, min(self.m, other + right)), False)

    def _sides(self) -> tuple[int, int]:
        """Samples of x and of y in one tile: as square as the two sides allow."""
        if self.n + self.m <= self.samples:
            return self.n, self.m
        half = max(1, self.samples // 2)
        if self.n <= half:
            return self.n, max(1, self.samples - self.n)
        if self.m <= half:
            return max(1, self.samples - self.m), self.m
        return half, half

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def describe(self) -> str:
        size = f"{self.n}×{self.n}" if self.m == 0 else f"{self.n}×{self.m}"
        return (
            f"kernel {size} in {len(self)} tile(s) of up to {self.samples} samples; "
            f"expects {self.expected / 2**20:.0f} MiB of {self.budget / 2**20:.0f} MiB"
            + (": more than allowed, but the least possible" if self.expected > self.budget else "")
        )


def plan_tiles(
    n: int, m: int, *, bytes_per_sample: int, weight_bytes: int, matrices: int, budget: int, itemsize: int
) -> Tiling:
    """The largest tiles that fit.

    Args:
        n, m: samples on the two sides; ``m=0`` for a symmetric kernel.
        bytes_per_sample: activations held between forward and backward.
        weight_bytes: copies of weights made for the run.
        matrices: number of kernel-sized float64 matrices kept (totals and layers).
        budget: bytes.
        itemsize: bytes per gradient entry.
    """
    whole = n + m
    scratch = SLICE * (itemsize + 2 * 8) + GHOST * 16

    def need(samples: int) -> int:
        side = min(samples, whole)
        return weight_bytes + scratch + samples * bytes_per_sample + (matrices + 2) * 8 * side * side

    samples = whole
    while samples > 1 and need(samples) > budget:
        # the quadratic part is small unless tiles are huge: a fixed point is close after one step
        samples = max(
            1, min(samples - 1, int(samples * 0.9), (budget - weight_bytes - scratch) // max(1, bytes_per_sample))
        )
    return Tiling(n, m, max(2, samples) if whole > 1 else 1, budget, need(max(1, samples)))
