"""Random projections of gradients that are hashed, not stored: any part can be projected anywhere, at any time.

A projection S sends a gradient g (one entry per coordinate of every parameter) to S g of length
``dim`` with E⟨S x, S y⟩ = ⟨x, y⟩. Which entry of S g a coordinate goes to, and with which sign,
follows from a counter-based hash of (seed, parameter name, coordinate) in 64-bit integers, the same on
every device and whatever the batch, the slices and the threads. So S g is a sum over parameters,
layers and slices, and rows computed apart belong together.

Variance of ⟨S x, S y⟩, over seeds:

    (‖x‖²‖y‖² + ⟨x, y⟩² − 2 Σ_c x_c² y_c²) / dim

for dense random signs (THEORY §1), and for one nonzero per column, the count sketch (Weinberger et
al. 2009, "Feature hashing for large scale multitask learning", lemma 2). With s nonzeros per column,
one in each of s blocks of dim/s entries (Kane & Nelson 2014, "Sparser Johnson–Lindenstrauss
transforms", the block construction), the average of s such estimates of dim/s entries has the same variance and
lighter tails. Coordinates of one aligned run of dim/s are sent to different entries here, which
leaves their pairs out of the sum.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError

KINDS = ("sjlt", "rademacher")
LARGEST = 1 << 30  # entries of a sketch: two of the factors below have to fit into 62 bits
_WORD = 64  # signs per hash
_BLOCK = 1 << 21  # entries of a dense projection that are drawn at once
_TILE = {"cpu": 1 << 18}  # gradient entries permuted at once: what caches hold; elsewhere enough to fill the device
_TILE_ELSEWHERE = 1 << 24

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


@dataclass(frozen=True)
class Projection:
    """A seeded random map from gradients to ``dim`` numbers.

    Attributes:
        dim: length of the result.
        seed: the same seed gives the same map, so results can be compared and added.
        kind: ``"sjlt"``, a sparse map with ``nonzeros`` entries ±1/√nonzeros per coordinate, or
            ``"rademacher"``, all entries ±1/√dim: dim times the work of one nonzero.
        nonzeros: of each column of a sparse map; dim/nonzeros has to be a power of two.

    Raises:
        InputError: an unknown kind, or sizes that do not fit.
    """

    dim: int = 4096
    seed: int = 0
    kind: str = "sjlt"
    nonzeros: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"the kind of a sketch is 'sjlt' or 'rademacher', not {self.kind!r}")
        if not 1 <= self.dim <= LARGEST:
            raise InputError(f"dim is a number of entries from 1 to {LARGEST}, not {self.dim}")
        if self.kind == "rademacher":
            if self.nonzeros != 1:
                raise InputError("nonzeros belongs to kind='sjlt': all entries of a 'rademacher' sketch are nonzero")
        elif self.nonzeros < 1 or self.dim % self.nonzeros or (width := self.dim // self.nonzeros) & (width - 1):
            raise InputError(
                f"a sparse sketch needs dim = nonzeros × a power of two, not {self.dim} with nonzeros={self.nonzeros}"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def describe(self) -> str:
        """Short label for figures and provenance."""
        sparse = f", {self.nonzeros} nonzeros per coordinate" if self.kind == "sjlt" and self.nonzeros > 1 else ""
        return f"{self.kind} sketch of {self.dim} entries{sparse}, seed {self.seed}"

    def add(self, out: Tensor, parameter: str, which: int, at: int | Tensor, block: Tensor, size: int) -> None:
        """Add the projection of some coordinates of one parameter.

        Args:
            out: ``[n, dim]``, added to in place, in float32 or float64.
            parameter: its name, part of the hash.
            which: index of the cotangent. Different cotangents get independent signs, so that their
                errors are uncorrelated, and sums over them are sketches of the concatenated gradients.
            at: first of consecutive coordinates (positions in memory order of the parameter), or
                all of them ``[p]``, each at most once.
            block: ``[n, p]`` gradients at those coordinates.
            size: number of coordinates of the parameter.
        """
        block = block.to(out.dtype)
        if self.kind == "rademacher":
            self._add_dense(out, parameter, which, at, block)
            return
        width = self.dim // self.nonzeros
        for j in range(self.nonzeros):
            part = _Part(self.seed, parameter, which, j, width, size, self.nonzeros**-0.5)
            part.project(out[:, j * width : (j + 1) * width], at, block)

    def _add_dense(self, out: Tensor, parameter: str, which: int, at: int | Tensor, block: Tensor) -> None:
        words = -(-self.dim // _WORD)
        key = _key(self.seed, parameter, "dense", which)
        place = torch.arange(words, device=block.device)
        step = max(1, _BLOCK // self.dim)
        for start in range(0, block.shape[1], step):
            piece = block[:, start : start + step]
            coordinates = _coordinates(at, start, piece)
            signs = _unpack(_hash(key, coordinates[:, None] * words + place), piece.dtype)[:, : self.dim]
            out.add_(piece @ signs, alpha=self.dim**-0.5)


class _Part:
    """One nonzero per coordinate of one parameter, among ``width`` entries.

    The coordinates of an aligned run of ``width`` (a chunk) go to different entries, by a permutation hashed from
    the number of the chunk. A whole chunk is so projected by a gather, and the order of summation is
    fixed on every device, which it would not be with atomic additions.
    """

    def __init__(self, seed: int, parameter: str, which: int, block: int, width: int, size: int, scale: float):
        self.width, self.mask, self.size, self.scale = width, width - 1, size, scale
        self.bits = self.mask.bit_length()
        self.half = (self.bits + 1) // 2  # x ^= x >> half undoes itself
        self.places = _key(seed, parameter, "place", block)
        self.signs = _key(seed, parameter, "sign", block, which)
        self.turn = _key(seed, "", "turn", block, which) & self.mask

    def project(self, out: Tensor, at: int | Tensor, block: Tensor) -> None:
        """Add ``[n, p]`` at the coordinates ``at`` to ``out`` ``[n, width]``."""
        n, p = block.shape
        tile = max(1, _TILE.get(block.device.type, _TILE_ELSEWHERE) // n)
        if isinstance(at, Tensor):
            for start in range(0, p, tile):
                stop = min(p, start + tile)
                self._scatter(out, at[start:stop], block[:, start:stop], unique=False)
            return
        head = min(p, -at % self.width)
        tail = head + (p - head) // self.width * self.width
        for start, stop in ((0, head), (tail, p)):
            if stop > start:
                coordinates = torch.arange(at + start, at + stop, device=block.device)
                self._scatter(out, coordinates, block[:, start:stop], unique=True)
        block, step = block.contiguous(), max(1, tile // self.width) * self.width
        for start in range(head, tail, step):
            self._fold(out, at, block, start, min(tail, start + step))

    def _fold(self, out: Tensor, at: int, block: Tensor, start: int, stop: int) -> None:
        """Add the whole chunks in the columns ``start`` to ``stop`` of a block that begins at coordinate ``at``."""
        first = torch.arange(start, stop, self.width, device=block.device)
        column = self._source((first + at) >> self.bits) + first[:, None]
        signs = self._signs(column + at, block.dtype)
        out += block.index_select(1, column.reshape(-1)).view(len(block), *column.shape).mul_(signs).sum(1)

    def _scatter(self, out: Tensor, coordinates: Tensor, block: Tensor, unique: bool) -> None:
        entries, signed = self._entries(coordinates), block * self._signs(coordinates, block.dtype)
        if unique or not out.is_cuda:
            out.index_add_(1, entries, signed)
        else:  # atomic additions come in any order; this one sorts
            out.T.index_put_((entries,), signed.T, accumulate=True)

    # a chunk's permutation maps entry → position in the chunk: affine, xor-shift, multiply, xor-shift, add

    def _source(self, chunks: Tensor) -> Tensor:
        """Positions in their chunks ``[chunks, width]`` of the coordinates that each entry receives."""
        a, b, c, d, _, _ = (k[chunks, None] for k in self._constants(chunks.device))
        x = (torch.arange(self.width, device=chunks.device) - self.turn) & self.mask
        x = (x * a + b) & self.mask
        x = x ^ (x >> self.half)
        x = (x * c) & self.mask
        x = x ^ (x >> self.half)
        return (x + d) & self.mask

    def _entries(self, coordinates: Tensor) -> Tensor:
        """The entry that each coordinate goes to: the inverse of :meth:`_source`."""
        chunks = coordinates >> self.bits
        _, b, _, d, a, c = (k[chunks] for k in self._constants(chunks.device))
        x = (coordinates - d) & self.mask
        x = x ^ (x >> self.half)
        x = (x * c) & self.mask
        x = x ^ (x >> self.half)
        x = ((x - b) * a) & self.mask
        return (x + self.turn) & self.mask

    def _constants(self, device: torch.device) -> tuple[Tensor, ...]:
        return _constants(self.places, ((self.size - 1) >> self.bits) + 1, self.mask, device)

    def _signs(self, coordinates: Tensor, dtype: torch.dtype) -> Tensor:
        """±scale for each coordinate."""
        words = _hash(self.signs, coordinates >> 6)
        return (((words >> (coordinates & 63)) & 1) * 2 - 1).to(dtype).mul_(self.scale)


@functools.lru_cache(maxsize=1024)
def _constants(key: int, chunks: int, mask: int, device: torch.device) -> tuple[Tensor, ...]:
    """Two odd factors, two summands and the inverses of the factors, for the permutation of each chunk."""
    number = torch.arange(chunks, device=device)
    first, second = _hash(key, number * 2), _hash(key, number * 2 + 1)
    a, c = (first & mask) | 1, (second & mask) | 1
    return a, (first >> 32) & mask, c, (second >> 32) & mask, _inverse(a) & mask, _inverse(c) & mask


def _coordinates(at: int | Tensor, start: int, piece: Tensor) -> Tensor:
    count = piece.shape[1]
    if isinstance(at, Tensor):
        return at[start : start + count]
    return torch.arange(at + start, at + start + count, device=piece.device)


def _unpack(words: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of ``[rows, words]`` as signs ``[rows, 64 · words]``, lowest first."""
    bits = (words[..., None] >> torch.arange(_WORD, device=words.device)) & 1
    return (bits * 2 - 1).reshape(len(words), -1).to(dtype)


def _key(seed: int, *parts: str | int) -> int:
    """A signed 64-bit key."""
    text = "\0".join(map(str, ("genkernel sketch 1", seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _hash(key: int, counter: Tensor) -> Tensor:
    """64 random bits per counter: the finaliser of splitmix64, in integers that wrap around.

    (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".)
    """
    z = counter * _GOLDEN + key
    z = (z ^ _shift(z, 30)) * _FIRST
    z = (z ^ _shift(z, 27)) * _SECOND
    return z ^ _shift(z, 31)


def _shift(z: Tensor, by: int) -> Tensor:
    """Right shift that fills with zeros; torch's keeps the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _inverse(odd: Tensor) -> Tensor:
    """Inverses modulo 2⁶⁴ by Newton's iteration: every step doubles the number of right bits (three at first)."""
    x = odd
    for _ in range(5):
        x = x * (2 - odd * x)
    return x
