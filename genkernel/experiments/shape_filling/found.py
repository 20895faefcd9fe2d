"""What one network that fills shapes gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Filling:
    """One network.

    Attributes:
        course: mean loss of each epoch.
        trained: IoU of training images ``[samples]``.
        iou: of test images, kind → ``[tested]``.
        scores: kind → score → ``[measured]``, of the first test images: ``similarity`` to the nearest of the first
            ``compared`` training images in the normalised kernel, trained and untrained; ``distance`` to the span of
            their features; ``pixels``, cosine with the nearest boundary image of all training images, and ``same
            pixels``, of those in the kernel; ``length`` of the boundary in pixels.
        shown: kind → boundary, truth, output ``[3, s, s]`` of the test image with the median IoU.
    """

    course: list[float]
    trained: Array
    iou: dict[str, Array]
    scores: dict[str, dict[str, Array]]
    shown: dict[str, Array]
