"""Tangent space in two dimensions: kernel PCA, t-SNE, UMAP.

    kernel PCA: H K H = V Λ Vᵀ,  points = V √Λ          H = I - 11ᵀ/n; shares Λ_j / Σ Λ
    distances:  ‖φ(x) - φ(y)‖² = k(x, x) + k(y, y) - 2 k(x, y)

Kernel PCA is a linear projection of the tangent features, and its shares say how much of them it shows. t-SNE and UMAP
keep neighbours: gaps and sizes of their clusters are no measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError, MissingError
from genkernel.spectra.alignment import gram
from genkernel.spectra.arrays import whole_number

METHODS = ("pca", "tsne", "umap")


@dataclass(frozen=True)
class Embedding:
    """Points of samples in few dimensions.

    Attributes:
        points: ``[n, dims]``.
        method: ``"pca"``, ``"tsne"`` or ``"umap"``.
        shares: of the variance, ``[dims]``; None for methods that are no projection.
    """

    points: Tensor
    method: str
    shares: Tensor | None = None


def embed(kernel: Any, method: str = "pca", dims: int = 2, *, seed: int = 0, neighbours: int = 30) -> Embedding:
    """Samples as points, from the kernel between them.

    Args:
        kernel: symmetric :class:`Kernel` or Gram matrix ``[n, n]``; ``K.normalized()`` for directions alone.
        method: ``"pca"``; ``"tsne"``; ``"umap"`` (with the extra ``genkernel[umap]``).
        dims: of the points.
        seed: of t-SNE and UMAP.
        neighbours: perplexity of t-SNE, neighbours of UMAP; fewer where there are few samples.

    Raises:
        InputError: as for :func:`genkernel.spectra.alignment.gram`; unknown method; a single sample; dims outside
            1 … n - 1, or above 3 for t-SNE; the kernel is zero, or no two samples differ.
        MissingError: UMAP is not installed.
    """
    if method not in METHODS:
        raise InputError(f"method is one of {', '.join(METHODS)}, not {method!r}")
    K = gram(kernel)
    n = len(K)
    dims, neighbours = whole_number(dims, "dims"), whole_number(neighbours, "neighbours")
    if n < 2:
        raise InputError("an embedding is of two samples or more, not of one")
    most = n - 1 if method != "tsne" else min(3, n - 1)
    if not 1 <= dims <= most:
        room = f"1 to {most} dimensions" if most > 1 else "one dimension"
        raise InputError(f"{method} of {n} samples has {room}, not {dims}")
    if neighbours < 1:
        raise InputError(f"neighbours is at least 1, not {neighbours}")
    if not bool(K.any()):
        raise InputError("the kernel is zero: there is nothing to embed")
    if method == "pca":
        return _pca(K, dims)
    own = K.diagonal()
    distances = (own[:, None] + own[None, :] - 2 * K).clamp_min(0).fill_diagonal_(0).sqrt()
    if not float(distances.max()):
        raise InputError("no two samples differ: there is nothing to embed")
    neighbours = min(neighbours, max(1, (n - 1) // 3))
    points = (_tsne if method == "tsne" else _umap)(distances, dims, seed, neighbours)
    return Embedding(points, method)


def _pca(K: Tensor, dims: int) -> Embedding:
    K = K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()
    values, vectors = torch.linalg.eigh(K)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)[:, :dims]
    if not float(values[0]) > 1e-13 * len(K) * float(K.abs().max()):
        raise InputError("no two samples differ: there is nothing to embed")
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    points = vectors * largest.sign() * values[:dims].sqrt()  # signs are arbitrary: the largest entry is positive
    return Embedding(points, "pca", values[:dims] / values.sum())


def _tsne(distances: Tensor, dims: int, seed: int, neighbours: int) -> Tensor:
    from sklearn.manifold import TSNE

    machine = TSNE(dims, metric="precomputed", init="random", perplexity=neighbours, random_state=seed)
    return torch.from_numpy(machine.fit_transform(distances.numpy())).double()


def _umap(distances: Tensor, dims: int, seed: int, neighbours: int) -> Tensor:
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingError("UMAP is not installed: pip install 'genkernel[umap]', or method='tsne'") from error
    machine = UMAP(
        n_neighbors=max(2, neighbours), n_components=dims, metric="precomputed", random_state=seed, n_jobs=1
    )  # fmt: skip
    return torch.from_numpy(machine.fit_transform(distances.numpy())).double()
