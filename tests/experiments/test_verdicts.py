"""What is shown of a statement, and what intervals show."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genkernel.experiments.outcome import verdict
from genkernel.experiments.replicates import above, around, below, is_above, is_below, is_within, pair

NONE = (math.nan, math.nan)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([True, True], "yes"),
        ([True, False], "partly"),
        ([True, None], "partly"),
        ([True, False, None], "partly"),
        ([False, None], "no"),
        ([False], "no"),
        ([None, None], "undecided"),
        ([], "undecided"),
        ([np.True_, np.True_], "yes"),
        ([np.False_, np.True_], "partly"),
        ([np.False_], "no"),
    ],
)
def test_parts_make_a_verdict(parts: list[bool | None], says: str) -> None:
    assert verdict(parts) == says == verdict(reversed(parts))


def test_intervals_are_on_a_side_or_on_none() -> None:
    said = [True, False, False, None, None]
    assert [is_above(ends, 1.0) for ends in ((1.1, 2), (0, 0.9), (0, 1), (0, 2), NONE)] == said
    assert [is_below(ends, 1.0) for ends in ((0, 0.9), (1.1, 2), (1, 2), (0, 2), NONE)] == said
    near, far, below_it, wide = (-0.05, 0.05), (0.2, 0.4), (-0.4, -0.2), (0.05, 0.2)
    assert [is_within(ends, 0.1) for ends in (near, far, below_it, wide, NONE)] == said


def test_what_differences_say() -> None:
    cases: list[list[tuple[float, float]]] = [
        [(1, 2)],
        [(-2, -1)],
        [(-1, 1)],
        [(1, 2), (-1, 1)],
        [(-2, -1), (-1, 1)],
        [NONE],
        [],
    ]
    assert [above(*one) for one in cases] == ["yes", "no", "undecided", "partly", "no", "undecided", "undecided"]
    mirrored = [[(-high, -low) for low, high in one] for one in cases]
    assert [below(*one) for one in mirrored] == [above(*one) for one in cases]
    assert above((1, 2), level=3) == "no" and below((1, 2), level=3) == "yes"


def test_means_of_replicates() -> None:
    assert around([1.0, 3.0]) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)  # t of one degree of freedom
    assert all(math.isnan(end) for values in ([], [1.0]) for end in around(values))
    assert pair([1.0, math.nan, 3.0]) == "2.0 ± 1.0" and pair([math.nan]) == "n/a"
