"""Stage boundaries: contiguous groups of noise levels that the kernel sees as alike.

The level kernel M[a, b] over pairs of different images is an unbiased Gram matrix of the levels'
*mean* normalised tangent features μ_a, so d²(a, b) = M_aa + M_bb - 2 M_ab estimates ‖μ_a - μ_b‖².
For every number of stages k, dynamic programming finds the contiguous partition with the smallest
within-stage sum of squares Σ_S [Σ_{a∈S} M_aa - (1/|S|) Σ_{a,b∈S} M_ab] (kernel k-means in one
dimension, exact).

**How many.** Any kernel that decays smoothly with distance can be cut into pieces; pieces are stages
only if the cut is sharper than smooth decay and sampling noise make it. The score of k stages is the
silhouette of the partition. It is compared with the scores of kernels without stages: matrices that
depend on |Δt| alone, or on |Δ log-SNR| alone, with the same mean profile, plus the fluctuations of the
bootstrap over images. Let z_k be the score less the null's mean, over the null's standard deviation
(the smaller of the two nulls' values). There are stages if the largest z_k exceeds what 95 % of the
null replicates reach *as their largest*; k is then the number with the largest margin over the null
among those that exceed it. Otherwise there is one stage and no boundary. The number is decided when
most bootstrap replicates, put through the same choice, choose it too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genkernel.diffusion.resampling import FEWEST_IMAGES
from genkernel.diffusion.results import LevelKernel, Levels, Stages

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

MOST_STAGES = 8
REPLICATES = 100  # of the bootstrap over images; each repeats the whole search

CRITERION = (
    "largest silhouette margin over smooth kernels of |Δt| or |Δ log-SNR| alone with the same sampling noise; "
    "one stage unless the best margin exceeds what 95 % of those kernels reach"
)
CONFIDENCE = 0.95


def squared_distances(matrix: Array) -> Array:
    """d²(a, b) = M_aa + M_bb - 2 M_ab, clipped at 0 (it is an estimate), ``[L, L]``."""
    diagonal = np.diagonal(matrix)
    distance = np.maximum(diagonal[:, None] + diagonal[None] - 2 * matrix, 0.0)
    np.fill_diagonal(distance, 0.0)
    return distance


def partitions(matrix: Array, most: int) -> dict[int, Labels]:
    """Best contiguous partition into k = 1 … ``most`` stages, as labels ``[L]``; exact, by dynamic programming."""
    size = len(matrix)
    most = min(most, size)
    # cost[i, j]: within-stage sum of squares of the levels i … j-1
    table = np.zeros((size + 1, size + 1))
    table[1:, 1:] = matrix.cumsum(0).cumsum(1)
    diagonal = np.concatenate([[0.0], np.diagonal(matrix).cumsum()])
    i, j = np.arange(size + 1)[:, None], np.arange(size + 1)[None]
    block = np.diagonal(table)[None] - table - table.T + np.diagonal(table)[:, None]
    cost = np.where(j > i, diagonal[None] - diagonal[:, None] - block / np.maximum(j - i, 1), np.inf)
    best = cost[0].copy()  # best[j]: cheapest partition of the first j levels into the current number of stages
    starts: list[NDArray[np.int64]] = []
    found: dict[int, Labels] = {1: np.zeros(size, dtype=np.int64)}
    for k in range(2, most + 1):
        choices = best[:, None] + cost
        start = choices.argmin(0)
        starts.append(start)
        best = choices.min(0)
        labels, end = np.zeros(size, dtype=np.int64), size
        for stage in range(k - 1, 0, -1):
            begin = int(starts[stage - 1][end])
            labels[begin:end] = stage
            end = begin
        found[k] = labels
    return found


def silhouette(distance: Array, labels: Labels) -> float:
    """Mean silhouette (b - a)/max(a, b) of a partition (0 for a level alone in its stage, or one stage)."""
    count = int(labels.max()) + 1
    if count < 2:
        return 0.0
    member = np.eye(count)[labels]
    sizes = member.sum(0)
    to_stage = distance @ member  # summed distance of each level to each stage
    own_size = sizes[labels]
    own = to_stage[np.arange(len(labels)), labels] / np.maximum(own_size - 1, 1)
    others = np.where(member > 0, np.inf, to_stage / sizes).min(1)
    scale = np.maximum(own, others)
    score = np.divide(others - own, scale, out=np.zeros_like(own), where=(scale > 0) & (own_size > 1))
    return float(score.mean())


def without_stages(matrix: Array, axis: Array) -> Array:
    """The smooth kernel with the same profile over |axis_a - axis_b|, ``[L, L]``.

    Entries are means over L - 1 groups of equally many pairs of levels, ordered by distance, joined
    linearly; the diagonal is its own mean.
    """
    size = len(axis)
    finite = np.isfinite(axis)
    known = np.where(finite, axis, np.where(axis > 0, axis[finite].max(), axis[finite].min()))
    upper = np.triu_indices(size, 1)
    distance = np.abs(known[:, None] - known[None])
    order = np.argsort(distance[upper], kind="stable")
    groups = np.array_split(order, size - 1)
    lags = [0.0, *(distance[upper][group].mean() for group in groups)]
    means = [np.diagonal(matrix).mean(), *(matrix[upper][group].mean() for group in groups)]
    return np.interp(distance, lags, means)


def _scores(matrix: Array, most: int) -> tuple[Array, dict[int, Labels]]:
    """Silhouettes for k = 2 … most ``[most - 1]``, and the partitions."""
    distance = np.sqrt(squared_distances(matrix))
    found = partitions(matrix, most)
    return np.array([silhouette(distance, found[k]) for k in range(2, most + 1)]), found


def _cuts(labels: Labels) -> Labels:
    """Indices of the last level of every stage but the last."""
    return np.flatnonzero(np.diff(labels))


def find_stages(kernel: LevelKernel, levels: Levels, most: int = MOST_STAGES) -> Stages:
    """Stages of the levels as the normalised kernel sees them.

    Args:
        kernel: level kernel over pairs of different images, with its bootstrap replicates; with fewer
            than four images there is no sampling error to judge by, hence one stage.
        levels: coordinates of the levels.
        most: largest number of stages tried (at most half the number of levels).
    """
    size = len(levels.timesteps)
    most = max(1, min(most, size // 2))
    replicates = kernel.matrix_bootstrap
    if most < 2 or replicates is None or kernel.images < FEWEST_IMAGES:
        return Stages(np.zeros(size, dtype=np.int64), [], 1, CRITERION, {1: 0.0}, null_scores={1: 0.0}, decided=False)
    replicates = replicates[:REPLICATES]
    scores, found = _scores(kernel.matrix, most)
    noise = (replicates - kernel.matrix) * np.sqrt(kernel.images / (kernel.images - 1))
    nulls = []
    for axis in (levels.timesteps, levels.log_snr):
        smooth = without_stages(kernel.matrix, axis)
        nulls.append(np.array([_scores(smooth + each, most)[0] for each in noise]))
    means = np.array([null.mean(0) for null in nulls])
    spreads = np.array([null.std(0, ddof=1) for null in nulls]) + 1e-12

    def choose(values: Array) -> int:
        z = (values - means) / spreads
        passed = (z > critical[:, None]).all(0)
        return int(np.argmax(np.where(passed, values - means.max(0), -np.inf))) + 2 if passed.any() else 1

    critical = np.array(
        [np.quantile(((null - m) / s).max(1), CONFIDENCE) for null, m, s in zip(nulls, means, spreads, strict=True)]
    )
    k = choose(scores)
    cuts = _cuts(found[k])
    resampled = [_scores(each, most) for each in replicates]
    chosen = [choose(values) for values, _ in resampled]
    numbers = range(2, most + 1)
    again = [
        _cuts(each[k]) if n == k else np.array([], dtype=np.int64)
        for (_, each), n in zip(resampled, chosen, strict=True)
    ]
    return Stages(
        labels=found[k],
        boundaries=[float(levels.timesteps[c : c + 2].mean()) for c in cuts],
        k=k,
        criterion=CRITERION,
        scores={1: 0.0, **{n: float(v) for n, v in zip(numbers, scores, strict=True)}},
        boundaries_log_snr=[float(levels.log_snr[c : c + 2].mean()) for c in cuts],
        stability=[float(np.mean([np.any(np.abs(there - c) <= 1) for there in again])) for c in cuts],
        null_scores={1: 0.0, **{n: float(v) for n, v in zip(numbers, means.max(0), strict=True)}},
        margin_stderr={n: float(v) for n, v in zip(numbers, spreads.max(0), strict=True)},
        chosen_in_bootstrap={n: chosen.count(n) / len(chosen) for n in sorted(set(chosen))},
        decided=chosen.count(k) > len(chosen) / 2,
    )
