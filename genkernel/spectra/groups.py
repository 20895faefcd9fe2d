"""Spectra of groups of samples (noise levels, latent clusters, classes), and what the groups share.

With rows of the kernel's matrix in groups g, and u_j the eigenvectors of the whole matrix:

    share of mode j in group g        Σ_{i in g} u_ij²                    of all groups together: 1
    groups of mode j                  e^H of its shares                   1: one group's own; G: all groups alike
    overlap of groups a and b         ‖V_aᵀ V_b‖_F² / m                   V_g: the m leading directions of group g's
                                                                          tangent features, in parameter space

V_g is never made: V_aᵀ V_b = Λ_a^{-1/2} U_aᵀ K_ab U_b Λ_b^{-1/2}. Every group is cut into two halves, and a and b are
compared across halves, so that no sample (in a grid of images × levels: no image) is on both sides. The diagonal is
what two halves of one and the same group have in common: how well its directions are known. Overlaps are low where
these are not, so they are also given relative to √(o_aa o_bb).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor
from genkernel.spectra.effective_number import entropy_number
from genkernel.spectra.mercer import Mercer, mercer_decomposition, precision_of
from genkernel.tangent import Kernel

Array = NDArray[np.float64]

FEWEST = 2  # samples of a group that has a spectrum
HALVED = 8  # samples of a group whose leading directions are looked for in halves
LEADING = 4  # directions of a group that are compared
DRAWS = 16  # parts of a larger group that are averaged
SHUFFLES = 99  # random deals of the samples that groups are compared with


@dataclass
class GroupSpectra:
    """What the kernel is like within groups, and between them.

    Attributes:
        names: of the groups ``[G]``.
        sizes: samples ``[G]``.
        eigenvalues: of each group's own kernel over its number of samples, falling ``[G, s]``; NaN beyond its samples.
        effective_rank: e^H of them ``[G]``, at most the number of samples. NaN for groups of fewer than two.
        effective_rank_stderr: over random probes ``[G]``; NaN where the kernel is exact.
        equal_size: a number of samples that groups can be compared at: that of the smallest with a spectrum.
        equal_rank: effective rank of as many samples ``[G]``, mean over random choices; NaN as above.
        shuffled: what a group of that size has where samples are dealt out at random: 2.5 % and 97.5 % ``[2]``.
        spread_p: share of random deals in which the largest and the smallest rank are as far apart as here.
        trace: mean k(x, x) ``[G]``.
        mode_share: energy of the modes of the whole kernel in each group ``[k, G]``.
        mode_groups: e^H of these shares ``[k]``.
        overlap: of leading directions, across halves ``[G, G]``; NaN for groups of fewer than eight samples.
        relative: overlap over √(o_aa o_bb) ``[G, G]``: 1 where two groups share as much as halves of one do.
        directions: how many were compared, m.
    """

    names: list[str]
    sizes: NDArray[np.int64]
    eigenvalues: Array
    effective_rank: Array
    effective_rank_stderr: Array
    equal_size: int
    equal_rank: Array
    shuffled: Array
    spread_p: float
    trace: Array
    mode_share: Array
    mode_groups: Array
    overlap: Array
    relative: Array
    directions: int


def group_spectra(
    kernel: Kernel | Tensor,
    labels: Any,
    *,
    names: Sequence[str] | None = None,
    modes: int = 12,
    whole: Mercer | None = None,
    progress: bool | None = None,
) -> GroupSpectra:
    """Spectra group by group, which modes they share, and how far their leading directions coincide.

    Args:
        kernel: symmetric, one number per pair ``[n, n]``.
        labels: number of the group of every sample ``[n]``, from 0; -1 for samples of none.
        names: of the groups; their numbers by default.
        modes: of the whole kernel, whose shares are given.
        whole: the decomposition of the whole kernel, if it has been made.
        progress: a bar of the random deals where they take more than a second (unequal groups of hundreds of samples);
            None: in a terminal only.

    Raises:
        InputError: as for :func:`~genkernel.spectra.mercer.mercer_decomposition`; labels do not fit.
    """
    kernel = kernel if isinstance(kernel, Kernel) else as_tensor(kernel, "the kernel")
    K = (kernel.values if isinstance(kernel, Kernel) else kernel).detach().double().cpu()
    if K.dim() != 2:
        raise InputError(
            f"spectra of groups need one number per pair of samples [n, n], not {tuple(K.shape)}: make the kernel with "
            "gk.exact_trace() or gk.probes(), not with gk.blocks()"
        )
    of = as_tensor(labels, "labels").numpy()
    if of.shape != (len(K),):
        raise InputError(f"groups are one number for each of {len(K)} samples, not an array of shape {of.shape}")
    if of.dtype.kind not in "iu":
        raise InputError(f"groups are whole numbers from 0 (or -1 for none), not {of.dtype}")
    if of.max() < 0:
        raise InputError("no sample is in a group: all of their numbers are negative")
    count = int(of.max()) + 1 if names is None else len(names)
    if of.min() < -1 or of.max() >= count:
        raise InputError(f"numbers of groups are 0 to {count - 1}, or -1 for none, not {of.min()} to {of.max()}")
    rows = [np.flatnonzero(of == g) for g in range(count)]
    sizes = np.array([len(r) for r in rows])
    whole = mercer_decomposition(kernel, min(modes, len(K))) if whole is None else whole
    share = np.array([[float(u[r].square().sum()) for r in rows] for u in whole.vectors.T[:modes]])
    per_probe = kernel.per_probe if isinstance(kernel, Kernel) else None
    eigenvalues = np.full((count, int(sizes.max())), np.nan)
    rank, error, trace = (np.full(count, np.nan) for _ in range(3))
    for g, own in enumerate(rows):
        if len(own):
            trace[g] = float(K.diagonal()[own].mean())
        if len(own) >= FEWEST:
            found = _eigenvalues(K, own)
            eigenvalues[g, : len(own)] = found
            rank[g] = entropy_number(found)
            error[g] = effective_rank_error(K, per_probe, own)
    equal_size, equal_rank = _at_equal_size(K, rows, np.random.default_rng(0))
    shuffled, spread_p = _shuffled(K, rows, equal_rank, progress)
    overlap, directions = _overlaps(K, rows, precision_of(kernel))
    return GroupSpectra(
        names=[str(g) for g in range(count)] if names is None else [str(name) for name in names],
        sizes=sizes,
        eigenvalues=eigenvalues,
        effective_rank=rank,
        effective_rank_stderr=error,
        equal_size=equal_size,
        equal_rank=equal_rank,
        shuffled=shuffled,
        spread_p=spread_p,
        trace=trace,
        mode_share=share,
        mode_groups=np.array([entropy_number(row) for row in share]),
        overlap=overlap,
        relative=_relative(overlap),
        directions=directions,
    )


def _eigenvalues(K: Tensor, rows: Any) -> Array:
    own = K[rows][:, rows]
    found: Array = torch.linalg.eigvalsh((own + own.T) / (2 * len(own))).flip(0).clamp_min(0).numpy()
    return found


def effective_rank_error(K: Tensor, per_probe: Tensor | None, rows: Any = slice(None)) -> float:
    """Standard error of the effective rank of some rows and columns, by leaving probes out; NaN without probes.

    Args:
        K: the mean over probes ``[n, n]``.
        per_probe: ``[q, n, n]``.
        rows: numbers of samples, all by default.
    """
    if per_probe is None or per_probe.dim() != 3 or len(per_probe) < 2:
        return float("nan")
    q = len(per_probe)
    left = [entropy_number(_eigenvalues((q * K - own) / (q - 1), rows)) for own in per_probe.double()]
    return float(np.sqrt((q - 1) / q * np.sum((np.array(left) - np.mean(left)) ** 2)))


def _at_equal_size(K: Tensor, rows: list[NDArray[np.int64]], draw: np.random.Generator) -> tuple[int, Array]:
    """The effective rank grows with the number of samples, so larger groups are compared by parts of themselves."""
    size = min((len(own) for own in rows if len(own) >= FEWEST), default=0)
    found = np.full(len(rows), np.nan)
    for g, own in enumerate(rows):
        if len(own) >= FEWEST:
            parts = [own] if len(own) == size else [draw.choice(own, size, replace=False) for _ in range(DRAWS)]
            found[g] = float(np.mean([entropy_number(_eigenvalues(K, part)) for part in parts]))
    return size, found


def _shuffled(K: Tensor, rows: list[NDArray[np.int64]], ranks: Array, progress: bool | None) -> tuple[Array, float]:
    """Effective ranks where samples are dealt out at random: their range, and how often they differ as much.

    Every deal is treated as the data are: means over fewer parts would spread more, and nothing would seem rare.
    """
    from tqdm import tqdm

    known = np.isfinite(ranks)
    if known.sum() < 2:
        return np.full(2, np.nan), float("nan")
    draw = np.random.default_rng(1)
    every = np.concatenate(rows)
    ends = np.cumsum([len(own) for own in rows])[:-1]
    hidden = None if progress is None else not progress  # None: tqdm hides it outside a terminal
    deals = tqdm(range(SHUFFLES), desc="groups at random", unit="deal", disable=hidden, delay=1.0, leave=False)
    found = [_at_equal_size(K, np.split(draw.permutation(every), ends), draw)[1][known] for _ in deals]
    apart = np.ptp(ranks[known])
    as_far = sum(np.ptp(one) >= apart for one in found)
    return np.percentile(np.concatenate(found), [2.5, 97.5]), (1 + as_far) / (1 + SHUFFLES)


def _overlaps(K: Tensor, rows: list[NDArray[np.int64]], precision: float) -> tuple[Array, int]:
    halves = [(own[::2], own[1::2]) for own in rows]
    count = len(rows)
    least = min((len(own) // 2 for own in rows if len(own) >= HALVED), default=0)
    m = min(LEADING, max(1, least // 4)) if least else 0  # few samples find only few directions
    overlap = np.full((count, count), np.nan)
    bases = [
        [_leading(K, half, m, precision) if len(half) > m > 0 and len(half) >= HALVED // 2 else None for half in pair]
        for pair in halves
    ]
    for a in range(count):
        for b in range(a, count):
            found = []
            for one, other in ((0, 1), (1, 0)):
                left, right = bases[a][one], bases[b][other]
                if left is not None and right is not None:
                    cross = K[halves[a][one]][:, halves[b][other]]
                    found.append(float((left.T @ cross @ right).square().sum()) / m)
            if found:
                overlap[a, b] = overlap[b, a] = float(np.mean(found))
    return overlap, m


def _relative(overlap: Array) -> Array:
    own = np.diag(overlap)
    size = np.sqrt(np.outer(own, own))
    return np.divide(overlap, size, out=np.full_like(overlap, np.nan), where=size > 0)


def _leading(K: Tensor, rows: NDArray[np.int64], m: int, precision: float) -> Tensor | None:
    """U Λ^{-1/2} of the leading directions ``[n, m]``; None where there are fewer above rounding."""
    values, vectors = torch.linalg.eigh(K[rows][:, rows])
    values, vectors = values.flip(0)[:m], vectors.flip(1)[:, :m]
    if float(values[-1]) <= len(rows) * precision * float(values[0]):
        return None
    return vectors / values.sqrt()
