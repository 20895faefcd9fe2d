"""A recorded GAN by cluster: what it says, and what is left in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genkernel.experiments.gan_path import cluster_outcome, record_gan
from genkernel.models.gan_training import GANTraining
from genkernel.models.gans import RECIPES
from genkernel.paths import PathDecomposition
from genkernel.plots import group_maps

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = replace(RECIPES["ring"]["healthy"], steps=6, batch=48)
OPTIONS: dict[str, Any] = {"queries": 5, "progress": False}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record_gan(RECIPE, tmp_path, **OPTIONS)
    return tmp_path


def test_what_it_says_can_come_out_either_way(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = PathDecomposition.load(run / "path.npz")
    monkeypatch.setattr(group_maps, "group_map_figures", lambda _: {})
    for gap, holds in ((0.01, "yes"), (0.03, "partly"), (0.2, "no"), (float("nan"), "undecided")):
        monkeypatch.setattr(PathDecomposition, "gap_rel", gap)
        assert cluster_outcome(parts, {}).claims[0].holds == holds


def test_numbers_name_cost_and_changes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = PathDecomposition.load(run / "path.npz")
    monkeypatch.setattr(group_maps, "group_map_figures", lambda _: {})
    numbers = cluster_outcome(parts, {}).numbers
    assert (numbers["steps"], numbers["evaluations"]) == (6, parts.meta["evaluations"])
    assert numbers["gap_relative"] == parts.gap_rel
    norms = (parts.final - parts.initial).flatten(1).norm(dim=1)
    assert [row["norm"] for row in numbers["changes"]] == norms.tolist()
    assert [row["group"] for row in numbers["changes"]] == [f"mode {i}" for i in parts.meta["query_clusters"]]
    seen = [str(source) for source, is_data in zip(parts.sources, parts.data, strict=True) if is_data]
    for kind, sizes in (("gross", parts.gross_size()), ("net", parts.net_size())):
        rows = numbers[f"{kind}_over_change"]["by_source"]
        assert list(rows) == seen
        ratio = sizes[0] / norms
        assert (rows[seen[0]]["min"], rows[seen[0]]["max"]) == (float(ratio.min()), float(ratio.max()))
    assert numbers["recording"]["provenance"]["threads"] == torch.get_num_threads()


def test_what_a_stop_after_the_last_step_left_is_cleaned_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GANTraining, "step", None)
    (run / "training.pt").write_bytes(b"as saved before the last steps")
    again = record_gan(RECIPE, run, **OPTIONS)
    assert not (run / "training.pt").exists() and again.edges[-1] == 6
