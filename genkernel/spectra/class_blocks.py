"""Mean similarities within and between classes, with errors over samples.

    matrix[c, c'] = mean of K̃(x_i, x_j) over i in c, j in c', i ≠ j        K̃ the normalised kernel
    within        = mean over all pairs i ≠ j of one class, between = over all pairs of two

Pairs share samples, so errors are jackknife ones: the value without each sample in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genkernel.spectra.alignment import class_numbers
from genkernel.spectra.neighbours import cosine_matrix


@dataclass(frozen=True)
class ClassBlocks:
    """Mean cosines of tangent features by class.

    Attributes:
        matrix: ``[C, C]``; NaN on the diagonal for a class of a single sample.
        within, between: over all pairs of one class, and of two; ``within`` is NaN where every class has one sample.
        within_stderr, between_stderr, contrast_stderr: jackknife over samples, the last one of within − between.
        sizes: samples per class ``[C]``.
    """

    matrix: Tensor
    within: float
    between: float
    within_stderr: float
    between_stderr: float
    contrast_stderr: float
    sizes: Tensor

    @property
    def contrast(self) -> float:
        """Within − between: 0 for a kernel that does not know the classes."""
        return self.within - self.between


def class_blocks(kernel: Any, labels: Any) -> ClassBlocks:
    """Mean similarities by class.

    Args:
        kernel: symmetric :class:`~genkernel.Kernel` or Gram matrix ``[n, n]``; it is normalised here.
        labels: classes ``[n]``, whole numbers or names, in the order of which the matrix is.

    Raises:
        InputError: as for :func:`genkernel.spectra.neighbours.knn_label_agreement`.
    """
    K = cosine_matrix(kernel)
    y = class_numbers(labels, len(K))
    hot = torch.nn.functional.one_hot(y).double()
    sizes = hot.sum(0)
    K = K - torch.diag(K.diagonal())
    rows = K @ hot  # of every sample, to every class, without itself
    pairs = torch.outer(sizes, sizes) - torch.diag(sizes)
    matrix = torch.where(pairs > 0, hot.T @ rows / pairs, torch.nan)
    own = rows.gather(1, y[:, None])[:, 0]
    fellows = sizes[y] - 1
    within, without_within = _mean_and_left_out(own, fellows)
    between, without_between = _mean_and_left_out(rows.sum(1) - own, len(K) - 1 - fellows)
    return ClassBlocks(
        matrix=matrix,
        within=within,
        between=between,
        within_stderr=_jackknife(without_within),
        between_stderr=_jackknife(without_between),
        contrast_stderr=_jackknife(without_within - without_between),
        sizes=sizes.long(),
    )


def _mean_and_left_out(sums: Tensor, counts: Tensor) -> tuple[float, Tensor]:
    """The mean over ordered pairs, from every sample's sum and number of partners, and the means without each."""
    total, count = sums.sum(), counts.sum()
    left = count - 2 * counts
    return float(total / count), torch.where(left > 0, (total - 2 * sums) / left, torch.nan)


def _jackknife(left_out: Tensor) -> float:
    n = len(left_out)
    return float(((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt())
