"""How far images of several digits are apart in a kernel, measured in the kernel itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.tangent_map.setting import ALL, Setting

Array = NDArray[np.float64]


def gram_of(network: nn.Module | None, images: Tensor) -> Tensor:
    """The normalised kernel between images ``[n, n]``: of a network (exact trace), or cosines of pixels."""
    import genkernel as gk
    from genkernel.spectra.neighbours import cosine_matrix

    if network is None:
        flat = images.double().flatten(1)
        return cosine_matrix(flat @ flat.T)
    options: dict[str, Any] = {"by": None, "progress": False, "distributed": False}
    return cosine_matrix(gk.kernel(network, images, cotangents=gk.exact_trace(), **options))


def groups(K: Tensor, labels: Tensor, digits: Sequence[int], setting: Setting, seed: int) -> dict[str, float]:
    """Measures of images of some digits alone, none of which knows how the network was trained.

    ``neighbours``: share of the k nearest with the same label; ``clusters``: adjusted Rand index of k-means in tangent
    space with as many clusters as digits, 0 by chance; ``silhouette``: mean, of the labels, in the distance
    √(2 - 2 cos); ``separation``: held-out accuracy of a linear SVM; ``within``, ``between``: mean cosines.
    """
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    from genkernel.spectra import knn_label_agreement, tangent_linear_separability
    from genkernel.spectra.class_blocks import class_blocks

    rows = torch.isin(labels, torch.tensor(digits))
    own, y = K[rows][:, rows], labels[rows]
    near, blocks = knn_label_agreement(own, y, setting.neighbours).kernel, class_blocks(own, y)
    assert near is not None
    distances = (2 - 2 * own).clamp_min(0).sqrt().fill_diagonal_(0)
    return {
        "neighbours": near.value,
        "clusters": float(adjusted_rand_score(y.numpy(), kernel_means(own, len(digits), setting.starts, seed))),
        "silhouette": float(silhouette_score(distances.numpy(), y.numpy(), metric="precomputed")),
        "separation": tangent_linear_separability(own, y, folds=setting.folds, C=100.0, seed=seed).held_out,
        "within": blocks.within,
        "between": blocks.between,
    }


def kernel_means(K: Tensor, clusters: int, starts: int, seed: int) -> NDArray[np.int64]:
    """Clusters ``[n]`` of k-means in feature space, from the kernel alone: on points with these inner products."""
    from sklearn.cluster import KMeans

    values, vectors = torch.linalg.eigh(K)
    points = (vectors * values.clamp_min(0).sqrt()).numpy()
    return np.asarray(KMeans(clusters, n_init=starts, random_state=seed).fit_predict(points), dtype=np.int64)


def neighbours_of(K: Tensor, labels: Tensor, k: int) -> list[list[float]]:
    """Among all images: the share of the k nearest of the images of every digit that is of each digit ``[10][10]``."""
    near = K.clone().fill_diagonal_(-torch.inf).topk(k, dim=1).indices
    hot = torch.nn.functional.one_hot(labels[near], len(ALL)).double().mean(1)
    return [hot[labels == c].mean(0).tolist() for c in ALL]


def map_method() -> str:
    """UMAP, as in the paper, where umap-learn is installed, else t-SNE."""
    try:
        import umap  # noqa: F401
    except ImportError:
        return "tsne"
    return "umap"
