"""Dataclasses there and back: arrays, missing values, unions, keys that are numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genkernel.errors import InputError
from genkernel.runs import json_ready, pack, unpack


@dataclass
class Leaf:
    values: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass
class Other:
    name: str


@dataclass
class Tree:
    leaf: Leaf | None
    either: dict[str, Leaf | Other]
    scores: dict[int, float]
    widths: list[float | None]
    pairs: list[tuple[int, float]]
    value: float = math.nan
    ends: tuple[float | None, ...] = ()
    anything: dict[str, Any] = field(default_factory=dict)
    replicates: NDArray[np.float64] | None = field(default=None, repr=False)


def tree() -> Tree:
    leaf = Leaf(np.array([[1.0, np.nan], [np.inf, 4.0]]), np.array([0, 1, 1]))
    return Tree(
        leaf, {"a": leaf, "b": Other("inf")}, {2: 0.5, 3: math.nan, 4: -math.inf}, [1.0, None], [(1, 0.5)], math.nan,
        (math.inf, None, -math.inf), {"x": math.inf, "y": "inf"}, np.ones(3),
    )  # fmt: skip


def test_there_and_back() -> None:
    text = json.dumps(pack(tree()), allow_nan=False)
    back = unpack(Tree, json.loads(text))
    assert isinstance(back.leaf, Leaf) and isinstance(back.either["b"], Other)
    assert back.leaf.values.dtype == np.float64 and back.leaf.labels.dtype == np.int64
    np.testing.assert_array_equal(back.leaf.values, [[1.0, np.nan], [np.inf, 4.0]])
    assert back.scores[4] == -math.inf and back.ends == (math.inf, None, -math.inf)
    assert back.either["b"].name == "inf" and back.anything == {"x": None, "y": "inf"}
    assert back.scores[2] == 0.5 and math.isnan(back.scores[3]) and math.isnan(back.value)
    assert back.widths == [1.0, None] and back.pairs == [(1, 0.5)]
    assert back.replicates is None  # repr=False: not stored
    assert json.dumps(pack(back)) == text


def test_files_with_null_for_infinity_are_read() -> None:
    stored = pack(tree())
    stored["leaf"]["values"], stored["scores"] = [[None, 1.0]], {"4": None}
    back = unpack(Tree, stored)
    assert back.leaf is not None and math.isnan(back.leaf.values[0, 0]) and math.isnan(back.scores[4])


def test_what_does_not_fit_is_refused_in_one_sentence() -> None:
    stored = pack(tree())
    for broken in ({**stored, "@": "Leaf"}, {**stored, "widths": 3}, {"@": "Tree"}, [1, 2]):
        with pytest.raises(InputError, match="the stored Tree cannot be read"):
            unpack(Tree, broken)


def test_json_ready_keeps_types():
    given = {1: np.float64(2), "a": (np.int64(3), True, None), "b": np.array([[np.nan, 1]]), "c": {"d": math.inf}}
    assert json_ready(tree())["ends"] == [None, None, None]
    assert json_ready(given) == {"1": 2.0, "a": [3, True, None], "b": [[None, 1.0]], "c": {"d": None}}
    assert isinstance(json_ready(np.int64(3)), int) and json_ready(np.bool_(True)) is True
