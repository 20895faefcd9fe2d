"""What a spectrum says, in plain sentences written by stated rules.

- Groups differ in their number of directions where 5 % or fewer of random deals of the samples differ as much.
- Leading directions of groups are compared where that is possible for halves of them too.
- Targets of which no share is learned are said to teach nothing; a predicted error above the variance is worse than
  predicting the mean. Without a ridge it is largest where there are as many samples as modes (double descent), and
  ``NEAR`` says from where on a number of samples counts as near to that.
- A residual has more or less energy out of reach than chance, or is learned, where that holds in both halves of the
  images; by chance that is so at half of the levels. Regressions whose iteration left more than ``UNSOLVED`` of the
  right-hand side did not converge, and are not spoken of.
"""

from __future__ import annotations

import math

import numpy as np

from genkernel.spectra.groups import HALVED
from genkernel.spectra.results import UNSOLVED, SpectrumResult

RARE = 0.05
NEAR = 0.8  # of the rank, or of the samples: from there a flat spectrum amplifies noise by 1 / (1 - NEAR) = 5 and more
COMPARABLE = 6  # samples of a group from which its number of directions is spoken of


def read(result: SpectrumResult) -> list[str]:
    """What the numbers say, in plain sentences, by the rules above."""
    one = result.spectrum
    first = float(max(one.eigenvalues[0], 0) / one.trace) if one.trace > 0 else math.nan
    sentences = [
        f"{_samples(one.samples)} an effective rank of {_pair(one.effective_rank, one.effective_rank_stderr)}; the "
        f"first mode alone holds {first:.0%} of the trace."
    ]
    if one.rank < one.samples * one.outputs:
        sentences.append(
            f"{one.samples * one.outputs - one.rank} of {one.samples * one.outputs} eigenvalues are rounding noise: "
            "along these directions nothing can be said, and nothing is learned."
        )
    return sentences + _groups(result) + _targets(result) + _residual(result)


def _groups(result: SpectrumResult) -> list[str]:
    groups = result.spectrum.groups
    if groups is None:
        return []
    sentences = []
    rank = groups.equal_rank
    known = np.flatnonzero(np.isfinite(rank))
    if len(known) > 1 and groups.equal_size < COMPARABLE:
        sentences.append(
            f"The smallest {result.of} has {groups.equal_size} samples: too few to compare numbers of directions."
        )
    elif len(known) > 1:
        least, most = known[rank[known].argmin()], known[rank[known].argmax()]
        if groups.spread_p < RARE:
            few, many = (f"{groups.names[g]} ({rank[g]:.3g})" for g in (least, most))
            sentences.append(
                f"At {groups.equal_size} samples each, the {result.of} with the fewest directions is {few}, that with "
                f"the most {many}; groups at random have {groups.shuffled[0]:.3g} to {groups.shuffled[1]:.3g}."
            )
        else:
            sentences.append(
                f"The {result.of}s differ in their number of directions no more than groups at random "
                f"(p = {groups.spread_p:.2f})."
            )
    count = int((groups.sizes > 0).sum())
    shared = float(groups.mode_groups[0])
    top = int(groups.mode_share[0].argmax())
    sentences.append(
        f"The first mode is spread over {shared:.1f} of {count} {result.of}s"
        + (
            f"; {groups.mode_share[0][top]:.0%} of it lies in {groups.names[top]}."
            if groups.mode_share[0][top] > 2 / max(count, 1)
            else "."
        )
    )
    apart = ~np.eye(len(groups.names), dtype=bool)
    away, relative = groups.overlap[apart], groups.relative[apart]
    if np.isfinite(relative).any():
        own = np.nanmean(np.diag(groups.overlap))
        sentences.append(
            f"Between different {result.of}s {np.nanmean(away):.2f} of the {_leading(groups.directions)} "
            f"on average ({np.nanmin(away):.2f} to {np.nanmax(away):.2f}), between halves of one and the same "
            f"{own:.2f}: relative to that {np.nanmean(relative):.2f}."
        )
    elif count > 1:
        large = int((groups.sizes >= HALVED).sum())
        sentences.append(
            f"Leading directions of different {result.of}s are not compared: "
            + (
                f"that takes two {result.of}s of {HALVED} samples or more."
                if large < 2
                else "too few of them are above rounding in halves of one and the same."
            )
        )
    return sentences


def _targets(result: SpectrumResult) -> list[str]:
    found = result.spectrum.targets
    if found is None:
        return []
    n, error = float(found.samples[-1]), float(found.test_mse[-1])
    low, high = (_learned(float(share)) for share in found.shuffled)
    shuffled = f"{low} to {high}" if low != high else low
    said = (
        f"Kernel regression on {counted(n)} is expected to learn {_learned(float(found.learnability[-1]))} of the "
        f"targets (of shuffled ones {shuffled}), with an error of {error:.2g} times their variance"
    )
    if error > 1:
        best = int(found.test_mse.argmin())
        said += ": worse than predicting their mean"
        if found.test_mse[best] < error:
            said += f" (the least predicted error is {found.test_mse[best]:.2g}, at n = {found.samples[best]:.0f})"
    rank = result.spectrum.rank
    peak = (
        [
            f"Without a ridge the error is largest where there are as many samples as modes: {n:.0f} are near to "
            f"{rank}. Give a ridge, or look at smaller n."
        ]
        if not result.meta.get("ridge") and min(n, rank) >= NEAR * max(n, rank)
        else []
    )
    cka = f"unbiased CKA {found.alignment_cka:.3f}, " if math.isfinite(found.alignment_cka) else ""
    aligned = (
        f"Alignment of kernel and targets: {cka}KTA {found.alignment:.3f} (shuffled {found.alignment_shuffled:.3f})."
    )
    dependent = (
        [
            "The samples are the same images at several noise levels: such predictions are of independent samples, and "
            "too good here."
        ]
        if result.of == "noise level" or "images" in result.meta  # also where other groups were given
        else []
    )
    return [
        f"{said}.",
        *peak,
        aligned,
        *(f"{note[0].upper()}{note[1:].rstrip('.')}." for note in found.notes),
        *dependent,
    ]


def _residual(result: SpectrumResult) -> list[str]:
    found = result.residual
    if found is None:
        return []
    resolved = [k for k in range(len(found.tolerances)) if np.isfinite(found.residual[:, k]).all()]
    sentences = []
    if resolved:
        at = resolved[-1]
        gap = found.residual[:, at] - found.random[:, at]
        clear = np.abs(gap) > found.residual_stderr[:, at]  # both halves of the images are on one side
        more, less = int((clear & (gap > 0)).sum()), int((clear & (gap < 0)).sum())
        sentences.append(
            f"At τ = {found.tolerances[at]:g}, {_range(found.residual[:, at])} of the residual lie out of the kernel's "
            f"reach; a random direction has {_range(found.random[:, at])}. In both halves of the images the residual "
            f"has more of it than chance at {more} of {len(gap)} levels, and less at {less}."
        )
    solved = found.converged
    if solved.any():
        learned = int((found.rest > found.rest_stderr)[solved].sum())
        sentences.append(
            f"Regression with this kernel from {found.evaluated} images to others has an R² of "
            f"{_plain(found.target[solved])} for the target and of {_plain(found.rest[solved])} for the residual, "
            f"above zero in both directions at {learned} of {int(solved.sum())} levels."
        )
    if not solved.all():
        left = [f"{t:g} ({left:.2g})" for t, left in zip(found.timesteps, found.unsolved, strict=True)]
        where = ", ".join(one for one, ok in zip(left, solved, strict=True) if not ok)
        sentences.append(
            f"Not converged after {found.steps} steps: the regressions at t = {where}; in brackets the relative "
            f"residual of their iteration, which is above {UNSOLVED:g}. Their R² say nothing: take more steps."
        )
    return sentences


def _range(shares: np.ndarray) -> str:
    return f"{shares.min():.0%} to {shares.max():.0%}"


def _plain(values: np.ndarray) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


def _learned(share: float) -> str:
    """Predictions from a sample may leave 0 to 1 by a little."""
    return "nothing" if share <= 0 else f"{min(share, 1.0):.0%}"


def counted(n: float) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{n:.0f} sample{'s' if n != 1 else ''}"


def _samples(n: int) -> str:
    return f"{counted(n)} {'have' if n != 1 else 'has'}"


def _leading(count: int) -> str:
    return "leading direction coincides" if count == 1 else f"{count} leading directions coincide"


def _pair(value: float, stderr: float) -> str:
    return f"{value:.3g} ± {stderr:.2g}" if math.isfinite(stderr) and stderr > 0 else f"{value:.3g}"
