"""Embeddings: kernel PCA is a projection, t-SNE keeps neighbours, UMAP is an extra."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from genkernel.errors import InputError, MissingError
from genkernel.spectra import embed

pytestmark = pytest.mark.usefixtures("one_thread")


def features(n: int = 30, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5


def test_principal_components_are_those_of_the_features() -> None:
    x = features()
    found = embed(x @ x.T, dims=3)
    between = (torch.cdist(p, p, compute_mode="donot_use_mm_for_euclid_dist") for p in (found.points, x))
    assert torch.allclose(*between)  # as many dimensions as the features have
    variances = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)
    assert torch.allclose(found.shares, variances / variances.sum()) and found.method == "pca"
    assert torch.allclose(found.points.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(found.points.var(0), variances)


def test_principal_components_do_not_hang_on_signs_or_places() -> None:
    x = features()
    one, moved = embed(x @ x.T).points, embed((x - 9) @ (x - 9).T).points
    assert torch.allclose(one, moved)
    assert (one.gather(0, one.abs().argmax(0, keepdim=True)) > 0).all()


def test_neighbours_stay_together() -> None:
    x = torch.cat([features(20), features(20) + 40])
    state = torch.get_rng_state()
    found = embed(x @ x.T, "tsne", seed=3, neighbours=8)
    assert torch.equal(found.points, embed(x @ x.T, "tsne", seed=3, neighbours=8).points)
    assert torch.equal(state, torch.get_rng_state()) and found.shares is None
    near = torch.cdist(found.points, found.points).fill_diagonal_(torch.inf).argmin(1)
    assert ((near < 20) == (torch.arange(40) < 20)).all()


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_neighbours_are_by_distances_of_features(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """√(k(x, x) + k(y, y) - 2 k(x, y)), neither its square nor anything else of the kernel."""
    from genkernel.spectra import embedding

    x, given = features(12), []

    def keep(distances: Tensor, dims: int, seed: int, neighbours: int) -> Tensor:
        given.append(distances)
        return distances[:, :dims]

    monkeypatch.setattr(embedding, f"_{method}", keep)
    embed(x @ x.T, method)
    expected = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(given[0], expected, atol=1e-6, rtol=0)
    assert not given[0].diagonal().any()


def test_without_umap_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingError, match=r"genkernel\[umap\]"):
        embed(features() @ features().T, "umap")


def test_umap_takes_tangent_distances() -> None:
    pytest.importorskip("umap")
    x = features()
    assert embed(x @ x.T, "umap", neighbours=5).points.shape == (30, 2)


@pytest.mark.parametrize(
    ("kernel", "method", "options", "words"),
    [
        (torch.eye(8), "mds", {}, "one of pca, tsne, umap"),
        (torch.eye(8) * torch.nan, "pca", {}, "NaN"),
        (torch.eye(8), "pca", {"dims": 8}, "1 to 7"),
        (torch.eye(8), "pca", {"dims": 0}, "1 to 7"),
        (torch.eye(8), "tsne", {"dims": 4}, "1 to 3"),
        (torch.eye(3), "tsne", {"dims": 3}, "1 to 2 dimensions, not 3"),
        (torch.eye(2), "pca", {"dims": 2}, "one dimension, not 2"),
        (torch.eye(1), "pca", {"dims": 1}, "two samples or more"),
        (torch.eye(8), "tsne", {"neighbours": 0}, "at least 1"),
        (torch.eye(8), "pca", {"dims": 1.5}, "whole number"),
        (torch.ones(8, 8), "pca", {}, "no two samples differ"),
        (torch.zeros(8, 8), "pca", {}, "the kernel is zero"),
        (torch.ones(8, 8), "tsne", {}, "no two samples differ"),
    ],
)
def test_bad_input_is_said(kernel: Tensor, method: str, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        embed(kernel, method, **options)
