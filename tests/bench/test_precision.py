"""The precision check: its figures are what they say, and float32 gradients with float64 sums keep the modes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from genkernel.bench import precision
from genkernel.bench.precision import CLAIM, REFERENCE, TOLERANCES, broken, check, figures, line, questions
from genkernel.bench.truth import relative_error
from genkernel.tangent import TangentModel, reference
from scripts import check_precision

TINY: dict[str, Any] = {"side": 12, "width": 4, "outputs": 3}


@pytest.fixture(autouse=True)
def alone(one_thread: None) -> Iterator[None]:
    yield


def test_figures() -> None:
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))

    def kernel(*eigenvalues: float) -> torch.Tensor:
        return rotation @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ rotation.T

    true = kernel(2.0, 1e-2, 4e-4, 2e-8)
    same = figures(true, true)
    assert (same.error, same.ranks, same.floor) == (0.0, (4, 4, 3), None)
    assert same.lowest == pytest.approx(1e-8, rel=1e-6)
    other = figures(kernel(2.0, 1.05e-2, 3e-4, -2e-8), true)
    assert other.ranks == (3, 3, 3)
    assert other.floor == pytest.approx(2e-4)  # 4e-4 is missed by a quarter, 1e-2 by a twentieth
    assert other.lowest == pytest.approx(-1e-8, rel=1e-6)
    assert other.error == pytest.approx((5e-4**2 + 1e-4**2) ** 0.5 / 2, rel=1e-3)


def test_questions_leave_the_random_state_alone_and_are_the_same_every_time() -> None:
    before = torch.get_rng_state()
    first = list(questions(5, **TINY))
    assert torch.equal(torch.get_rng_state(), before)
    assert len({(q.weights, q.samples) for q in first}) == len(first) == 2 * (1 + len(precision.SHARES))
    for one, two in zip(first, questions(5, **TINY), strict=True):
        assert torch.equal(one.problem.batch, two.problem.batch)
        for a, b in zip(one.problem.module.parameters(), two.problem.module.parameters(), strict=True):
            assert torch.equal(a, b)
    spreads = [float((q.problem.batch[-1] - q.problem.batch[0]).norm()) for q in first[1:4]]
    assert spreads[1] == pytest.approx(spreads[0] / 10, rel=1e-3)
    random, trained = first[0].problem.module, first[4].problem.module
    images, labels = precision._digits(first[0].problem)
    right = [float((net(images).argmax(1) == labels).float().mean()) for net in (random, trained)]
    assert not trained.training and right[0] < 0.6 < right[1]


@pytest.mark.parametrize("way", precision.WAYS)
def test_ways_are_one_kernel(way: str) -> None:
    question = next(questions(3, **TINY))
    problem = question.problem
    model = TangentModel(problem.module, call=problem.call)
    true = reference.kernel(model, problem.batch, cotangents=problem.cotangents)
    error = relative_error(precision.WAYS[way](problem), true)
    exact = way in (REFERENCE, "float64")
    assert error < (1e-12 if exact else 1e-2 if "bfloat16" in way else 1e-6)
    assert exact or error > 1e-10  # it is of the precision that it says


def test_float64_sums_keep_the_modes_that_a_float32_product_loses() -> None:
    said: list[str] = []
    record = check([20], say=said.append, **TINY)
    assert said == [line(row) for row in record["rows"]]
    assert "torch" in json.loads(json.dumps(record))["provenance"]["versions"]
    assert broken(record) == []
    near = {
        row["way"]: row for row in record["rows"] if (row["weights"], row["samples"]) == ("random", "1% of a segment")
    }
    assert near[REFERENCE]["ranks"] == near[CLAIM]["ranks"]
    assert len(near[REFERENCE]["ranks"]) == len(TOLERANCES)
    for way in ("float32 J Jᵀ", "float32, float32 sums"):
        assert near[way]["ranks"][0] != near[REFERENCE]["ranks"][0]
        assert near[way]["floor"] > 1e3 * near[CLAIM]["floor"]
        assert near[way]["lowest"] < -1e-10 < near[CLAIM]["lowest"]
    wrong = json.loads(json.dumps(record))
    row = next(row for row in wrong["rows"] if row["way"] == CLAIM)
    row["ranks"][0] += 1
    assert broken(wrong) == [row]


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_precision.main(["--quick", "--n", "4", "--out", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert record["kind"] == "precision" and {row["way"] for row in record["rows"]} == set(precision.WAYS)
    assert f"{CLAIM}: the reference's ranks on 8 of 8" in capsys.readouterr().out
