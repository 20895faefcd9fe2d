"""Contributions of sources to groups of queries, as one matrix per stretch of the training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.paths.decomposition import PathDecomposition
from genkernel.runs import json_ready

KINDS = ("net", "gross", "signed")


def contribution_matrix(
    parts: PathDecomposition,
    query_groups: Sequence[int] | Tensor,
    kind: str = "net",
    stretches: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Mean over the queries of a group of what each group of samples did to them.

    * ``net``: ‖Σ_k C_k‖, after cancellation over time;
    * ``gross``: Σ_k ‖C_k‖, before it;
    * ``signed``: ⟨C, Δf⟩ / ‖Δf‖² with Δf what the outputs of the query changed by over the stretch, all sources
      (also those that are not data) summing to 1 up to the gap.

    Args:
        parts: a decomposition.
        query_groups: the group of each query ``[m]``, numbers from 0.
        kind: one of the above.
        stretches: pairs of steps (start, end) at edges of the windows; the whole training by default.

    Returns:
        ``[K, Q, S]`` for K stretches, Q groups of queries and the S groups of samples in ``parts.sources``.

    Raises:
        InputError: another kind, a stretch that does not start and end at edges, a group without queries.
    """
    if kind not in KINDS:
        raise InputError(f"kind is 'net', 'gross' or 'signed', not {kind!r}")
    groups = torch.as_tensor(query_groups)
    if tuple(groups.shape) != (len(parts.final),):
        raise InputError(f"query_groups names one group per query [{len(parts.final)}], not {tuple(groups.shape)}")
    count = int(groups.max()) + 1
    sizes = torch.bincount(groups, minlength=count)
    if int(sizes.min()) == 0:
        raise InputError(f"group {int(sizes.argmin())} of the queries has no query")
    data = torch.tensor(parts.data)
    found = []
    for start, end in stretches if stretches is not None else [(parts.edges[0], parts.edges[-1])]:
        if start not in parts.edges or end not in parts.edges or not start < end:
            raise InputError(
                f"a stretch goes from one edge of the windows to a later one ({parts.edges}), not {start, end}"
            )
        first, last = parts.edges.index(start), parts.edges.index(end)
        if kind == "gross":
            per_query = parts.gross[first:last].sum((0, 2))  # [S, m]
        else:
            net = parts.net[first:last].sum((0, 2)).reshape(len(data), len(groups), -1)
            if kind == "net":
                per_query = net.norm(dim=2)
            else:
                change = (parts.outputs[last] - parts.outputs[first]).reshape(len(groups), -1)
                per_query = (net * change).sum(2) / change.square().sum(1)
        matrix = torch.zeros(count, int(data.sum()), dtype=per_query.dtype)
        matrix.index_add_(0, groups, per_query[data].T.contiguous())
        found.append(matrix / sizes[:, None])
    return torch.stack(found)


def thirds(parts: PathDecomposition) -> list[tuple[int, int]]:
    """Early, middle and late training, as stretches between edges; fewer where there are fewer windows."""
    windows = len(parts.edges) - 1
    cuts = sorted({round(windows * i / 3) for i in range(4)})
    return [(parts.edges[a], parts.edges[b]) for a, b in itertools.pairwise(cuts)]


def keep_map(parts: PathDecomposition, found: Any) -> None:
    """Let a decomposition carry what its sources and queries mean, for its figures and its page.

    Args:
        parts: a decomposition; ``meta["map"]`` is written.
        found: what :func:`genkernel.diffusion.contributions.noise_level_contributions` or
            :func:`genkernel.gan.contributions.cluster_contributions` returned for it.
    """
    parts.meta["map"] = {"kind": found.kind, **json_ready(found)}
