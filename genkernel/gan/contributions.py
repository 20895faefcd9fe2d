"""Which clusters of latents every cluster's samples were made by, along a GAN's training (Cor. 4.2 of Guo, He, Morel).

The latents of every generator step are grouped by cluster, and the change of each sample G(z) is the sum over clusters
of what their corrections did to it through the generator's own optimizer (:func:`genkernel.record` around the
generator's steps). Discriminator steps are no part of the generator's path: between two generator steps θ is constant,
and the identity holds for any discriminator. Running statistics that discriminator steps move as well are the source
"buffers".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.gan import measures
from genkernel.gan.generator import Generator
from genkernel.paths import PathDecomposition
from genkernel.paths.maps import contribution_matrix, thirds
from genkernel.spectra.effective_number import entropy_number

Array = NDArray[np.float64]


def cluster_groups(
    gen: Generator, assign: Callable[[Tensor], Any], key: str | None = None
) -> Callable[[Any, Any], Tensor]:
    """``groups=`` of :func:`genkernel.record`: the cluster that a latent's sample is in when it is drawn.

    The sample is the generator's at the weights of that moment, in evaluation mode.

    Args:
        gen: the generator that trains.
        assign: images ``[b, ...]`` to cluster numbers ``[b]`` (``Clusters.assign``, a classifier's classes).
        key: the entry of the batch that holds the latents; the batch itself by default.
    """

    def groups(ids: Any, batch: Any) -> Tensor:
        z = batch if key is None else batch[key]
        return torch.as_tensor(assign(gen.images(gen.batch(z))))

    return groups


@dataclass
class ClusterContributions:
    """Cluster of the training latents → cluster of the queries.

    Attributes:
        names: of the M clusters.
        stretches: K pairs of generator steps; the first is the whole training.
        net, gross, signed: ``[K, Q, M]``, rows are the queries' clusters (those that have queries).
        queries: which clusters these are ``[Q]``.
        occupancy: share of the training latents in each cluster ``[M]``.
        gross_share: share of each cluster in all gross contributions ``[K, M]``.
        effective_clusters: e^{H(gross share)} ``[K]``.
        driving_dominance: 1 - e^{H(gross share)}/M ``[K]``.
        occupancy_dominance: the same of the occupancy.
        foreign_share: gross mass that comes from other clusters than the query's own ``[K]``.
        foreign_expected: the same if the mass followed the occupancy.
        buffers: share of the running statistics in ‖net‖ over all sources, mean over queries.
        gap: completeness gap, relative.
    """

    kind: ClassVar[str] = "clusters"

    names: list[str]
    stretches: list[tuple[int, int]]
    net: Array
    gross: Array
    signed: Array
    queries: NDArray[np.int64]
    occupancy: Array
    gross_share: Array
    effective_clusters: Array
    driving_dominance: Array
    occupancy_dominance: float
    foreign_share: Array
    foreign_expected: float
    buffers: float
    gap: float


def cluster_contributions(
    parts: PathDecomposition, query_clusters: Any, names: Sequence[str] | Mapping[int, str]
) -> ClusterContributions:
    """The maps of a recording whose groups are clusters of latents.

    Args:
        parts: of :func:`genkernel.record` with ``groups=cluster_groups(…)`` around the generator's steps.
        query_clusters: the cluster of each query ``[m]``, for instance of its final sample.
        names: of the clusters 0 … M-1.

    Raises:
        InputError: the groups, or what is said of the queries, are not numbers of these clusters.
    """
    given = [source for source, is_data in zip(parts.sources, parts.data, strict=True) if is_data]
    size = len(names)
    labels = [label for label in given if isinstance(label, int) and 0 <= label < size]
    if labels != given:
        raise InputError(f"the recording's groups are {given}, not numbers of the {size} clusters")
    wanted = np.asarray(torch.as_tensor(query_clusters).cpu().numpy(), dtype=np.int64)
    if wanted.shape != (len(parts.final),) or wanted.min() < 0 or wanted.max() >= size:
        raise InputError(
            f"query_clusters names one of the {size} clusters, by numbers from 0, for each of the {len(parts.final)} "
            "queries"
        )
    present, rows = np.unique(wanted, return_inverse=True)
    stretches = [(parts.edges[0], parts.edges[-1]), *thirds(parts)]
    found = {}
    for kind in ("net", "gross", "signed"):
        seen = contribution_matrix(parts, torch.from_numpy(rows), kind, stretches).numpy()
        full = np.zeros((*seen.shape[:2], size))
        full[:, :, labels] = seen
        found[kind] = full
    counts = np.zeros(size)
    counts[labels] = parts.samples[torch.tensor(parts.data)].numpy()
    occupancy = counts / counts.sum()
    weights = np.bincount(rows)[None, :, None] * found["gross"]  # every query counts alike
    mass = weights.sum(1)
    share = mass / mass.sum(1, keepdims=True)
    own = weights[:, np.arange(len(present)), present].sum(1)
    effective = np.array([entropy_number(row) for row in share])
    net = parts.net_size()
    moved = net[parts.sources.index("buffers")].sum() / net.sum() if "buffers" in parts.sources else 0.0
    return ClusterContributions(
        names=[str(names[i]) for i in range(size)],
        stretches=stretches,
        **found,
        queries=present,
        occupancy=occupancy,
        gross_share=share,
        effective_clusters=effective,
        driving_dominance=1 - effective / size,
        occupancy_dominance=float(measures.dominance(occupancy)),
        foreign_share=1 - own / mass.sum(1),
        foreign_expected=float(1 - occupancy[wanted].mean()),
        buffers=float(moved),
        gap=parts.gap_rel,
    )
