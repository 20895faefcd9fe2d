"""What the networks of one target give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """Networks of one target, or untrained ones.

    Attributes:
        errors: mean squared ones on the training inputs ``[seeds]``; nan for untrained networks.
        outputs: at the training inputs ``[seeds, n]``.
        matrix: normalised kernel of the training inputs, first seed ``[n, n]``.
        centres: places ``[c]``; ``profile``: cosine of the two inputs beside each ``[seeds, c]``.
        around: wave → cosine of two inputs around its jumps over their distance, mean over jumps ``[seeds, d]``.
    """

    errors: Array
    outputs: Array
    matrix: Array
    centres: Array
    profile: Array
    around: dict[str, Array]
