"""A recorded DDPM beside its kernel: the errors of its locality, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from genkernel.diffusion.contributions import NoiseBuckets, massed_rows
from genkernel.diffusion.locality import default_window, window_mask
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.experiments import ddpm_path
from genkernel.models.ddpm import DDPMRecipe, DDPMTraining
from genkernel.paths import PathDecomposition

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = DDPMRecipe(size=8, widths=(8, 16), steps=3, batch=12, warmup=2)
OPTIONS: dict[str, Any] = {"buckets": 4, "per_bucket": 2, "progress": False}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run(images: torch.Tensor, tmp_path: Path) -> Path:
    ddpm_path.record_ddpm(images, images, tmp_path, RECIPE, **OPTIONS)
    return tmp_path


def test_errors_of_the_indices_are_those_of_the_queries() -> None:
    """With two queries in a bucket the jackknife is half the difference of what each alone says of its row."""
    levels = NoiseBuckets(NoiseSchedule.from_scheduler(DDPMScheduler()), 6)
    draw = torch.Generator().manual_seed(0)
    net = torch.randn(3, 7, 1, 12, 4, generator=draw, dtype=torch.float64)
    gross = net.norm(dim=-1) * (1 + torch.rand(3, 7, 1, 12, generator=draw, dtype=torch.float64))
    parts = PathDecomposition(
        sources=[*range(6), "weight decay"],
        net=net,
        gross=gross,
        layers=["all"],
        edges=[0, 1, 2, 3],
        outputs=torch.randn(4, 12, 4, generator=draw, dtype=torch.float64),
        samples=torch.tensor([10, 20, 10, 10, 30, 20, 0]),
        data=[True] * 6 + [False],
    )
    bucket = torch.arange(12) // 2
    found = ddpm_path.index_errors(parts, bucket, levels)
    mass = np.array([10, 20, 10, 10, 30, 20]) / 100
    mask = window_mask(levels.centres, default_window(levels.centres, levels.schedule.span))
    for kind, sizes in (("gross", parts.gross_size()), ("net", parts.net_size())):
        alone = sizes[:6].T.numpy()  # [queries, sources]
        one, other = (massed_rows(alone[start::2], mass, mask) for start in (0, 1))
        expected = np.sqrt((((one - other) / 2 / 6) ** 2).sum())
        assert expected > 1e-3
        assert found[kind] == pytest.approx(expected, rel=1e-9)
    assert all(np.isnan(v) for v in ddpm_path.index_errors(parts.of(range(0, 12, 2)), bucket[::2], levels).values())


@pytest.mark.parametrize(
    ("difference", "error", "said"),
    [(0.3, 0.1, "yes"), (0.1, 0.1, "undecided"), (-0.1, 0.1, "undecided"), (-0.3, 0.1, "no"), (9, np.nan, "undecided")],
)
def test_two_standard_errors_decide(difference: float, error: float, said: str) -> None:
    assert ddpm_path._decided(difference, error) == said


def test_what_it_says_can_come_out_either_way(run: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddpm_path, "index_errors", lambda *_: {"gross": 1e-12, "net": 50.0})
    found = ddpm_path.compare_with_kernel(run, images, per_bucket=2, probes=1, progress=False)
    gross, net = found.claims[2:]
    assert "what was at work" in gross.claim and gross.holds in ("yes", "no")
    assert "what is left" in net.claim and net.holds == "undecided"
    for gap, holds in ((0.01, "yes"), (0.03, "partly"), (0.2, "no")):
        monkeypatch.setattr(PathDecomposition, "gap_rel", gap)
        found = ddpm_path.compare_with_kernel(run, images, per_bucket=2, probes=1, progress=False)
        assert found.claims[0].holds == holds


def test_numbers_name_cost_and_changes(run: Path, images: torch.Tensor) -> None:
    parts = PathDecomposition.load(run / "path.npz")
    found = ddpm_path.compare_with_kernel(run, images, per_bucket=2, probes=1, progress=False)
    numbers = json.loads(json.dumps(found.numbers))
    assert (numbers["steps"], numbers["evaluations"]) == (3, parts.meta["evaluations"])
    norms = (parts.final - parts.initial).flatten(1).norm(dim=1)
    assert [row["norm"] for row in numbers["changes"]] == pytest.approx(norms.tolist())
    assert [row["group"] for row in numbers["changes"]] == [f"level {k // 2}" for k in range(8)]
    ratio = parts.gross_size()[1] / norms
    row = numbers["gross_over_change"]["by_source"]["1"]
    assert (row["min"], row["max"]) == pytest.approx((float(ratio.min()), float(ratio.max())))
    assert numbers["recording"]["provenance"]["machine"]["cores"] >= 1
    assert set(numbers["index_standard_errors"]) == {"gross", "net", "over"}


def test_what_a_stop_after_the_last_step_left_is_cleaned_up(
    run: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DDPMTraining, "descend", None)
    (run / "training.pt").write_bytes(b"as saved before the last steps")
    again = ddpm_path.record_ddpm(images, images, run, RECIPE, **OPTIONS)
    assert not (run / "training.pt").exists() and again.edges[-1] == 3
