"""What one network over its training gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """One network over its training.

    Attributes:
        trace: unbiased CKA of the trace kernel on held-out images ``[t]``.
        ends: "kernel, images" → the same at the start and at the end ``[2]``.
        accuracy: of the test images ``[t]``.
        loss: cross-entropy of all training images ``[t]``.
        parameters: how many.
    """

    trace: Array
    ends: dict[str, Array]
    accuracy: Array
    loss: Array
    parameters: int
