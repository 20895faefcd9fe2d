"""What the numbers say, in plain sentences written by stated rules.

Every claim rests on a 95 % interval (Student's t over images and probes, paired where two indices are
compared); where the interval includes zero the sentence says "undecided". The rules:

Intervals are centred on the index less its bootstrap bias; where that bias exceeds half a standard
error the sentence says "undecided" too, and where there is no interval that images or probes are too few.

- *local*: the interval of the cosine kernel's index lies above zero, no single row of the matrix makes it
  so, and the paired difference main minus shuffled levels, or trained minus untrained, is above zero.
- *carried by the embedding* (THEORY §6): with the input held fixed the index is above zero, with the
  time held fixed it is not, and the paired difference of the two is above zero. *By the input*: the
  same the other way round. Both above zero: shared, and the larger is named if the paired difference
  excludes zero. Everything else is undecided.
- *one level*: named in the first sentence when without its row the index is less than half, or its interval
  includes zero.
- *training*: the paired difference trained minus untrained.
- *conflicts*: spoken of only when there are more than twice as many as chance would give.

The intervals are not corrected for their number.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from genkernel.diffusion.locality import row_indices, window_mask
from genkernel.diffusion.resampling import FEWEST_IMAGES, bootstrap_bias, bootstrap_stderr, interval, jackknife_stderr
from genkernel.diffusion.results import Contrast, DiffusionResult, LevelKernel, Levels

TRAINED = "trained minus untrained"
EMBEDDING_INPUT = "embedding only minus input only"
MAIN_EMBEDDING = "main minus embedding only"
MAIN_INPUT = "main minus input only"
MAIN_SHUFFLED = "main minus shuffled levels"


def read(result: DiffusionResult) -> list[str]:
    """The reading of a result, one sentence or two per item."""
    sentences = [
        _locality(result),
        *_unknown_probes(result.locality),
        *_half_widths(result),
        *_controls(result),
        *_training(result),
    ]
    sentences += [*_embedding(result), *_interference(result), *_stages(result)]
    return sentences


def _sign(kernel: LevelKernel) -> int | None:
    """+1, -1: the interval of the index excludes zero; 0: it does not, or the bias is large; None: no interval."""
    if math.isnan(kernel.index_low):
        return None
    if _biased(kernel):
        return 0
    return int(kernel.index_low > 0) - int(kernel.index_high < 0)


def _biased(kernel: LevelKernel) -> bool:
    return abs(kernel.index_bias) > kernel.index_stderr / 2


def _value(kernel: LevelKernel) -> str:
    if math.isnan(kernel.index_stderr):
        return f"{kernel.index:.3f} (no error: fewer than {FEWEST_IMAGES} images)"
    least = "at least " if math.isnan(kernel.index_stderr_probes) else ""
    return f"{kernel.index:.3f} ± {least}{kernel.index_stderr:.3f}"


def _unknown_probes(kernel: LevelKernel) -> list[str]:
    if math.isnan(kernel.index_stderr) or not math.isnan(kernel.index_stderr_probes):
        return []
    return [
        "The errors leave out the probes' part, which one probe cannot show: intervals are at least as wide as stated."
    ]


def _difference(contrast: Contrast) -> str:
    if math.isnan(contrast.low):
        return f"{contrast.difference:+.3f} (too few probes or images for an interval)"
    return f"{contrast.difference:+.3f} (95 % interval {contrast.low:+.3f} to {contrast.high:+.3f})"


def _locality(result: DiffusionResult) -> str:
    kernel, raw = result.locality, result.unnormalized
    interval = ""
    if not math.isnan(kernel.index_low):
        interval = f" (95 % interval {kernel.index_low:.3f} to {kernel.index_high:.3f})"
    return (
        f"The cosine kernel's locality index is {_value(kernel)}{interval}: {_verdict(result)}. 0 = flat, 1 = all "
        f"within {result.levels.window_timesteps:g} of time {result.levels.span:g}; that of the unnormalised kernel is "
        f"{_value(raw)}. Neither is locality of learning itself, which also depends on the residuals."
    )


def _verdict(result: DiffusionResult) -> str:
    kernel = result.locality
    sign, one = _sign(kernel), _one_level(kernel, result.levels)
    if sign is None:
        few = math.isnan(kernel.index_stderr)
        return "too few images to judge" if few else "too few probes or images for an interval"
    if _biased(kernel):
        return (
            f"locality is undecided, noise alone shifts the index by about {kernel.index_bias:+.3f}, more than half "
            "its standard error"
        )
    if sign == 0:
        return "locality is undecided, the interval includes zero"
    if sign < 0:
        return "the kernel is less local than a flat one"
    if one:
        return one
    compared = [(text, result.contrasts.get(name)) for name, text in _COMPARISONS]
    above = [(text, c) for text, c in compared if c is not None and c.decided > 0]
    open_ones = [text for text, c in compared if c is not None and c.decided <= 0]
    if above:
        rests = " and ".join(f"{text} by {_difference(c)}" for text, c in above)
        also = f", though not established to be higher than {' or '.join(open_ones)}" if open_ones else ""
        return f"the kernel is local in noise level, its index is higher than {rests}{also}"
    if open_ones:
        return f"above zero, but not established to be higher than {' or '.join(open_ones)}"
    return "above zero, with no shuffled or untrained kernel to compare with"


# what the claim of locality rests on, over the images of the controls
_COMPARISONS = ((MAIN_SHUFFLED, "that with shuffled levels"), (TRAINED, "that of an untrained network"))


def _one_level(kernel: LevelKernel, levels: Levels) -> str:
    """Names the row of the matrix without which the index is less than half or not established; else empty."""
    rows = kernel.index_rows
    if rows is None or math.isnan(kernel.index) or (~np.isnan(rows)).sum() < 3:
        return ""
    known = np.flatnonzero(~np.isnan(rows))
    without = np.array([np.delete(rows[known], k).mean() for k in range(len(known))])
    least = int(without.argmin())
    low, high = _interval_without(kernel, levels, int(known[least]))
    t = levels.timesteps[known[least]]
    left = f"without its row it is {without[least]:.3f}"
    if not math.isnan(low):
        left += f" (95 % interval {low:.3f} to {high:.3f})"
    if without[least] < 0.5 * kernel.index:
        return f"most of it comes from one level, t = {t:g}; {left}"
    return f"it is established only with one level, t = {t:g}; {left}" if low <= 0 <= high else ""


def _interval_without(kernel: LevelKernel, levels: Levels, row: int) -> tuple[float, float]:
    """95 % interval of the index over all rows but one; NaN without replicates."""
    boot, jack = kernel.matrix_bootstrap, kernel.matrix_jackknife
    if boot is None:
        return math.nan, math.nan
    mask = window_mask(levels.timesteps, levels.window_timesteps)

    def index(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.nanmean(np.delete(row_indices(matrices, mask), row, axis=-1), axis=-1)

    value, replicates = float(index(kernel.matrix)), index(boot)
    over_probes = math.nan if jack is None else float(jackknife_stderr(index(jack)))
    return interval(
        value - bootstrap_bias(value, replicates, kernel.images),
        float(bootstrap_stderr(replicates, kernel.images)),
        over_probes,
        kernel.images,
        0 if jack is None else len(jack),
        limit=1.0,
    )


def _half_widths(result: DiffusionResult) -> list[str]:
    kernel = result.locality
    peak, floor = float(kernel.by_timestep.mean[0]), kernel.floor
    time, snr = kernel.by_timestep.half_width, kernel.by_log_snr.half_width
    if time is None:
        return [
            f"Between equal levels of different images the mean cosine is {peak:.2f}, at far lags {floor:.2f}: "
            "no decay with the distance in time beyond two standard errors, hence no half-width."
        ]
    known = sum(width is not None for width in kernel.half_width_timesteps)
    in_snr = "" if snr is None else f", or {snr:.1f} in log-SNR"
    return [
        f"The mean cosine falls from {peak:.2f} at equal levels to {floor:.2f} at far lags; half of that is reached at "
        f"|Δt| = {time:.3g}{in_snr} ({known} of {len(kernel.half_width_timesteps)} levels have their own half-width)."
    ]


def _left_by_shuffling(sign: int | None, lost: Contrast | None) -> str:
    """What an index with shuffled levels says, beside what shuffling takes from it."""
    if sign is None:
        return "too few probes or images for an interval"
    if sign == 0:
        return "none is left that these samples could show"
    if sign < 0:
        return "the kernel avoids equal levels"
    if lost is None or lost.decided > 0:
        return "some locality in the input's own level is left"
    if lost.decided == 0:
        return "as local in the input's own level as with the true ones, as far as these samples tell"
    return "more local in the input's own level than with the true ones"


def _controls(result: DiffusionResult) -> list[str]:
    found = []
    embedding, inputs = result.controls.get("embedding_only"), result.controls.get("input_only")
    if isinstance(embedding, LevelKernel) and isinstance(inputs, LevelKernel):
        found.append(
            f"With the input held fixed and only the time varied the index is {_value(embedding)}; with the time held "
            f"fixed and only the input varied it is {_value(inputs)}: {_carrier(result, embedding, inputs)}."
        )
    shuffled = result.controls.get("shuffled_levels")
    if isinstance(shuffled, LevelKernel):
        found.append(
            f"When every image is told its levels in an order of its own the index is {_value(shuffled)}: "
            f"{_left_by_shuffling(_sign(shuffled), result.contrasts.get(MAIN_SHUFFLED))}."
        )
    same, other = result.controls.get("same_image_same_noise"), result.controls.get("same_image_other_noise")
    if isinstance(same, LevelKernel) and isinstance(other, LevelKernel):
        off = ~np.eye(len(same.matrix), dtype=bool)
        means = [k.matrix[off].mean() for k in (same, other, result.locality)]
        found.append(
            f"Averaged over different levels the cosine is {means[0]:.2f} for one image with one noise, {means[1]:.2f} "
            f"for one image with independent noise, {means[2]:.2f} for different images."
        )
    return found


def _carrier(result: DiffusionResult, embedding: LevelKernel, inputs: LevelKernel) -> str:
    by_embedding, by_input = _sign(embedding), _sign(inputs)
    main = _sign(result.locality)
    if by_embedding is None or by_input is None or main is None:
        return "too few probes or images to say what carries the locality"
    if main <= 0:
        return "there is no established locality to attribute"
    larger = result.contrasts.get(EMBEDDING_INPUT)
    rest = result.contrasts.get(MAIN_EMBEDDING)
    if by_embedding > 0 and by_input <= 0:
        if larger is None or larger.decided <= 0:
            return (
                "the embedding alone shows locality, the input alone none that is established, but whether they differ "
                "is undecided"
            )
        whole = ""
        if rest is not None and rest.decided > 0:
            whole = f", though not all of it (the main kernel's index is higher by {_difference(rest)})"
        return f"the locality is carried by the timestep embedding{whole}; none is established for the input alone"
    if by_input > 0 and by_embedding <= 0:
        if larger is None or larger.decided >= 0:
            return (
                "the input alone shows locality, the embedding alone none that is established, but whether they differ "
                "is undecided"
            )
        return "the locality is carried by the input, which reveals its own noise level"
    if by_embedding > 0 and by_input > 0:
        if larger is None or larger.decided == 0:
            return "both carry locality, and which carries more is undecided"
        more = "the embedding" if larger.decided > 0 else "the input"
        return f"both carry locality, {more} more (embedding minus input {_difference(larger)})"
    return "neither alone shows locality: what carries it is undecided"


def _training(result: DiffusionResult) -> list[str]:
    untrained, contrast = result.controls.get("untrained"), result.contrasts.get(TRAINED)
    if not isinstance(untrained, LevelKernel) or contrast is None:
        return []
    if math.isnan(contrast.low):
        verdict = "too few probes or images for an interval"
    elif contrast.decided > 0:
        verdict = "the trained kernel is more local"
    elif contrast.decided < 0:
        verdict = "the trained kernel is less local"
    else:
        verdict = "whether training made the kernel more local is undecided"
    interval = "" if math.isnan(contrast.low) else f"; trained minus untrained {_difference(contrast)}"
    return [
        f"An untrained network of the same shape has index {_value(untrained)}: {verdict}{interval}. "
        "This is one initialisation; others may differ."
    ]


def _embedding(result: DiffusionResult) -> list[str]:
    parts = []
    for label, found in (("raw", result.embedding_spearman), ("after the time MLP", result.time_mlp_spearman)):
        if found is not None and not math.isnan(found[0]):
            error = "" if math.isnan(found[1]) else f" ± {found[1]:.2f}"
            parts.append(f"{found[0]:.2f}{error} {label}")
    if not parts:
        return []
    return [
        f"Over pairs of levels the kernel's rank correlation with the cosine of the timestep embedding is "
        f"{' and '.join(parts)}. A correlation is not a cause: both fall with the distance of the levels."
    ]


def _interference(result: DiffusionResult) -> list[str]:
    found = result.interference
    if found is None or np.isnan(found.stderr).all():
        return []
    size = len(found.matrix)
    pairs, count, chance = size * (size - 1) // 2, len(found.conflicting), found.expected_false_conflicts
    text = (
        f"{count} of {pairs} pairs of levels conflict (loss gradients with a cosine below zero by two standard errors; "
        f"about {chance:.1f} would by chance if all cosines were zero)"
    )
    sentences = [f"{text}: no more than chance could give."]
    if count > 2 * chance:
        worst = min(found.conflicting, key=lambda entry: entry[2])
        first, second = (result.levels.timesteps[level] for level in worst[:2])
        sentences = [f"{text}; the strongest is t = {first:g} against t = {second:g}, {worst[2]:.2f} ± {worst[3]:.2f}."]
    if found.matrix_disjoint is not None:
        known = int((~np.isnan(np.diagonal(found.matrix_disjoint))).sum())
        if known < size:
            sentences.append(
                f"The expected loss gradient is distinguishable from zero at {known} of {size} levels: at the others "
                "the cosines describe a step's effect on the evaluated samples themselves, not on new ones."
            )
    return sentences


def _stages(result: DiffusionResult) -> list[str]:
    found = result.stages
    if found is None or not found.null_scores:
        return []
    agree = found.chosen_in_bootstrap.get(found.k, 0.0)
    if not found.chosen_in_bootstrap:
        return ["Whether the levels fall into stages is undecided: too few images or levels to judge."]
    if not found.decided:
        return [
            f"The number of stages is undecided: {found.k} fits best, but only {agree:.0%} of the resamples choose it."
        ]
    if found.k == 1:
        return ["No stages: cutting the levels into groups explains no more than a smooth decay with distance does."]
    cuts = ", ".join(
        f"t = {t:g} (found again in {s:.0%} of the resamples)"
        for t, s in zip(found.boundaries, found.stability, strict=True)
    )
    sizes = np.bincount(found.labels)
    alone = [f"t = {result.levels.timesteps[found.labels == stage][0]:g}" for stage in np.flatnonzero(sizes == 1)]
    single = ""
    if alone:
        single = f" {' and '.join(alone)} {'is a stage' if len(alone) == 1 else 'are stages'} of a single level."
    return [
        f"The levels fall into {found.k} stages (so many in {agree:.0%} of the resamples), with boundaries at {cuts}."
        f"{single}"
    ]
