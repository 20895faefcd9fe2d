"""How coupled the blocks of a training are: contributions from block to block, and one index of them.

    κ = mean over rows a of (1 - S_a)/(1 - U_a)

with S_a the share of row a's contributions that comes from its own block (or from the blocks within a reach of it) and
U_a the share of the training samples that these blocks have. 0: block-diagonal, nothing crosses. 1: as if blocks did
not matter, each contributes as its share of the samples (what random blocks give). Above 1: a block gets less from its
own samples than from others. It is one minus the locality index of THEORY §6 with the own block as window. That some
blocks are louder than others cancels in the mean over rows, as every block is the own one once; with neighbours as own
it does not where blocks have ends, and the mean row takes the place of the samples' shares there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.diffusion.contributions import massed_rows
from genkernel.experiments.contrast.models import BETAS, Model
from genkernel.paths import PathDecomposition, record
from genkernel.paths.maps import contribution_matrix

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """How samples and queries are put into blocks.

    Attributes:
        count: M.
        of: a batch to the block of every sample ``[b]``.
        queries: Q rows of equally many inputs each, ``[Q, each, ...]`` tensors of a batch.
        rows: the block of every row.
        ring: the last block is beside the first.
    """

    count: int
    of: Callable[[Any], Tensor]
    queries: Any
    rows: Sequence[int]
    ring: bool


@dataclass
class Coupled:
    """Contributions from block to block over one stretch.

    Attributes:
        gross, net: shares of rows ``[Q, M]``; signed: parts of each row's change ``[Q, M]``.
        mass: share of the samples of each block ``[M]``.
        rows, ring: as of :class:`Blocks`.
        gap: of the recording, relative to the largest change.
    """

    gross: Array
    net: Array
    signed: Array
    mass: Array
    rows: list[int]
    ring: bool
    gap: float

    def kappa(self, kind: str = "gross", reach: int = 0, some: slice = slice(None)) -> float:
        """The index of the mean; ``some`` of the rows alone."""
        matrix = getattr(self, kind)
        mass = matrix.mean(0) if reach and not self.ring else self.mass
        found = coupling(matrix, self.rows, mass, reach=reach, ring=self.ring)[some]
        return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")

    def own_signed(self) -> float:
        """Median over rows of the part of a row's change that its own block made."""
        return float(np.median(self.signed[np.arange(len(self.rows)), self.rows]))


def coupling(matrix: Array, rows: Sequence[int], mass: Array, *, reach: int = 0, ring: bool = False) -> Array:
    """κ of every row ``[Q]``.

    Args:
        matrix: nonnegative contributions ``[Q, M]``.
        rows: the block of each row ``[Q]``.
        mass: share of the samples in each block ``[M]``.
        reach: so many blocks on either side count as own.
        ring: the last block is beside the first.

    Returns:
        NaN for a row without contributions, or whose blocks hold all samples.
    """
    count = matrix.shape[1]
    apart = np.abs(np.asarray(rows)[:, None] - np.arange(count)[None])
    if ring:
        apart = np.minimum(apart, count - apart)
    return 1 - massed_rows(matrix, mass, apart <= reach)


def recorded(model: Model, blocks: Blocks, steps: int) -> list[Coupled]:
    """Train a model, recorded by blocks: its first tenth, its last tenth, and all of it.

    The outputs at the queries of one row count as one vector, whose norms are taken.
    """
    edges = [0, max(1, round(0.1 * steps)), min(steps - 1, round(0.9 * steps))]
    counts = np.zeros((3, blocks.count))
    labels = torch.zeros(0)

    def announce(batch: Any) -> None:
        nonlocal labels
        labels = blocks.of(batch)
        path.batch(batch, ids=labels)

    with record(
        model.module,
        model.optimizer,
        model.losses,
        groups=lambda ids, _: ids,
        queries=blocks.queries,
        query_call=_jointly,
        rule="adaptive",
        windows=edges,
        modules=model.others,
        verbose=False,
    ) as path:
        for step in range(steps):
            model.advance(step, announce)
            path.require_going()
            counts[np.searchsorted(edges, step, side="right") - 1] += np.bincount(labels, minlength=blocks.count)
    parts = path.contributions()
    stretches = [(0, edges[1]), (edges[2], steps), (0, steps)]
    return _coupled(parts, blocks, stretches, [counts[0], counts[2], counts.sum(0)])


def one_step(model: Model, blocks: Blocks, batch: Any, *, adam: bool = False, parts: int = 1) -> Coupled:
    """What one step on a large batch carries from block to block, at the present weights.

    Args:
        adam: as Adam steps, with the second moments that it has by now; a plain gradient step otherwise.
        parts: the same samples in so many smaller batches, one after the other, each a step too small to matter for
            the next.
    """
    module = copy.deepcopy(model.module)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    if adam:
        optimizer = torch.optim.Adam(module.parameters(), betas=BETAS)
        optimizer.load_state_dict(copy.deepcopy(model.optimizer.state_dict()))
        for group in optimizer.param_groups:
            group["lr"] = 1e-5
    labels = blocks.of(batch)
    with record(
        module, optimizer, model.losses, groups=lambda ids, _: ids, queries=blocks.queries, query_call=_jointly,
        rule="left", modules=model.others, verbose=False,
    ) as path:  # fmt: skip
        for some in torch.arange(len(labels)).chunk(parts):
            part = {name: value[some] for name, value in batch.items()} if isinstance(batch, dict) else batch[some]
            path.batch(part, ids=labels[some])
            optimizer.zero_grad()
            model.losses(module, part).mean().backward()
            optimizer.step()
            path.require_going()
    counts = np.bincount(labels, minlength=blocks.count).astype(np.float64)
    return _coupled(path.contributions(), blocks, [(0, parts)], [counts])[0]


def _jointly(module: nn.Module, queries: Any) -> Tensor:
    """Outputs ``[Q, each, 2]``: of a generator at latents, or of a denoiser at (x, t)."""
    if isinstance(queries, dict):
        x, t = queries["x"], queries["t"]
        return module(x.flatten(0, 1), t.flatten(0, 1)).unflatten(0, x.shape[:2])
    return module(queries.flatten(0, 1)).unflatten(0, queries.shape[:2])


def _coupled(
    parts: PathDecomposition, blocks: Blocks, stretches: list[tuple[int, int]], counts: Sequence[Array]
) -> list[Coupled]:
    """Matrices with a column for every block, those that were never drawn included."""
    labels = np.array([int(s) for s, is_data in zip(parts.sources, parts.data, strict=True) if is_data])
    rows = len(parts.final)
    maps = {}
    for kind in ("gross", "net", "signed"):
        seen = contribution_matrix(parts, torch.arange(rows), kind, stretches).numpy()
        maps[kind] = np.zeros((*seen.shape[:2], blocks.count))
        maps[kind][..., labels] = seen
    return [
        Coupled(
            maps["gross"][k] / maps["gross"][k].sum(1, keepdims=True),
            maps["net"][k] / maps["net"][k].sum(1, keepdims=True),
            maps["signed"][k],
            counts[k] / counts[k].sum(),
            list(blocks.rows),
            blocks.ring,
            parts.gap_rel,
        )
        for k in range(len(stretches))
    ]
