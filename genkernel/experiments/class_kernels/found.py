"""What one draw of images and weights gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """One kernel and its classes.

    Attributes:
        within, between: mean cosine of two images of one class, and of two classes.
        errors: of these by the jackknife over images.
        cka: unbiased alignment of the kernel with the labels.
        cosines: the normalised kernel, images ordered by class ``[n, n]``; empty where it is not shown.
    """

    within: float
    between: float
    errors: tuple[float, float]
    cka: float
    cosines: Array

    @property
    def contrast(self) -> float:
        """Within − between."""
        return self.within - self.between


@dataclass(frozen=True)
class Case:
    """One draw of images and weights.

    Attributes:
        structures: ``(network, images, kernel)`` → structure; networks are "untrained", "trained", "permuted labels".
        loss, accuracy, held_accuracy: of the trained network; loss with dropout, in its last epoch.
        permuted_loss, permuted_accuracy: of the one on permuted labels, on these.
    """

    structures: dict[tuple[str, str, str], Structure]
    loss: float
    accuracy: float
    held_accuracy: float
    permuted_loss: float
    permuted_accuracy: float
