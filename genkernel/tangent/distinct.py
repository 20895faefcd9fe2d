"""The few samples that a model is proved on: spread over the batch and as distinct as they come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from genkernel.tangent import batches

CANDIDATES = 32  # samples looked at to find distinct ones


def distinct_samples(batch: Any, count: int) -> Any:
    """``count`` samples spread over the batch, as distinct as they come; noisy copies where there are fewer."""
    return distinct(batch, count)[0]


def distinct(batch: Any, count: int) -> tuple[Any, set[int]]:
    """The same, and which of them are samples of the batch."""
    n = batches.size(batch)
    leaves = batches.tensors(batch)
    spread = [round(i * (n - 1) / (CANDIDATES - 1)) for i in range(CANDIDATES)] if n > CANDIDATES else range(n)
    left = list(dict.fromkeys(spread))
    chosen = [left.pop(len(left) // 3)]
    while left and len(chosen) < count:
        # in how many leaves a candidate differs from every sample chosen so far; then far from them in place
        best = max(
            left,
            key=lambda c: (
                sum(all(not torch.equal(leaf[c], leaf[d]) for d in chosen) for leaf in leaves),
                min(abs(c - d) for d in chosen),
            ),
        )
        left.remove(best)
        chosen.append(best)
    picked = batches.take(batch, chosen)
    draw = torch.Generator().manual_seed(0)
    genuine = {0}
    for i in range(1, count):
        if i < len(chosen) and not any(_same(picked, i, j) for j in range(i)):
            genuine.add(i)
            continue
        extra = batches.take(batch, [chosen[i % len(chosen)]])
        flat, spec = tree_flatten(extra)
        for k, leaf in enumerate(flat):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                noise = torch.randn(leaf.shape, generator=draw, dtype=torch.float64).to(leaf)
                flat[k] = leaf + 0.1 * noise * leaf.abs().mean().clamp_min(1e-3)
        extra = tree_unflatten(flat, spec)
        picked = batches.concatenate(
            batches.take(picked, slice(0, i)),
            batches.concatenate(extra, batches.take(picked, slice(i + 1, None)))
            if i + 1 < batches.size(picked)
            else extra,
        )
    return picked, genuine


def _same(batch: Any, i: int, j: int) -> bool:
    return all(torch.equal(leaf[i], leaf[j]) for leaf in batches.tensors(batch))
