"""Class labels of probes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from genkernel.classifier.labels import Labels
from genkernel.errors import InputError
from genkernel.monitor.trace import Array, Axis


def class_axis(labels: Labels, names: Sequence[str] | None) -> Axis:
    """One position per class, up to the largest label or the last name.

    Raises:
        InputError: fewer names than classes.
    """
    count = int(labels.max()) + 1
    if names is None:
        return Axis("class", [f"class {c}" for c in range(count)], [float(c) for c in range(count)], "class")
    if len(names) < count:
        raise InputError(f"there are {count} classes among the labels and {len(names)} names")
    return Axis("class", [str(name) for name in names], [float(c) for c in range(len(names))], "class")


def mean_by_class(values: Array, of: Labels, count: int) -> Array:
    """Means over the samples of every class ``[count]``; NaN for a class without any.

    Args:
        values: of the samples ``[n]``.
        of: their classes ``[n]``.
    """
    return np.array([values[of == c].mean() if (of == c).any() else math.nan for c in range(count)])
