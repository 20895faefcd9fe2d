"""Path decompositions for tests of plots, reports and the command line: synthetic, of any size, nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from genkernel.paths import PathDecomposition
from genkernel.paths.sources import RESERVED, Label

META = {
    "optimizer": "Adam",
    "rule": "trapezoid",
    "steps": 400,
    "skipped": 0,
    "stopped": None,
    "parameters": 1203,
    "dtype": "float32",
    "device": "cpu",
    "average": False,
    "joint_batches": False,
    "step_error": 3e-9,
    "gradient_error": 2e-7,
    "seconds": 1.5,
    "overhead": 0.8,
    "versions": {"genkernel": "0.1.0", "torch": "2.6.0"},
}


def fake_parts(
    groups: int = 6,
    windows: int = 8,
    layers: int = 1,
    queries: int = 3,
    outputs: tuple[int, ...] = (4,),
    others: Sequence[str] = ("weight decay", "rounding"),
    steps: int = 400,
    gap: float = 1e-3,
    names: Sequence[Label] | None = None,
    edges: Sequence[int] | None = None,
    seed: int = 0,
    **meta: object,
) -> PathDecomposition:
    """Contributions that fade along training; every third group works against the others.

    Args:
        groups: groups of samples.
        others: sources that are not data; their parts are a tenth and less.
        gap: of every query, relative to its change.
        edges: steps at which windows start, and the end; evenly spread by default.
        meta: what differs from :data:`META`.
    """
    rng = np.random.default_rng(seed)
    assert set(others) <= set(RESERVED)
    sources = [*(names or range(groups)), *others]
    size, aim = len(sources), rng.normal(size=(queries, *outputs))
    fade = np.exp(-3 * np.arange(windows) / max(windows, 2))
    weight = rng.uniform(0.2, 1.0, (size, layers, queries))
    weight[2:groups:3] *= -0.6
    weight[groups:] *= 0.1 ** np.arange(1, len(others) + 1)[:, None, None]
    rest = (1,) * len(outputs)
    noise = 0.3 * rng.normal(size=(windows, size, layers, queries, *outputs))
    noise[:, groups:] *= 0.1 ** np.arange(1, len(others) + 1).reshape(-1, 1, 1, *rest)
    net = weight.reshape(size, layers, queries, *rest) * aim[None, None] + noise
    net = net * fade.reshape(-1, 1, 1, 1, *rest) / (layers * windows)
    gross = 1.6 * np.sqrt((net**2).reshape(*net.shape[:4], -1).sum(-1))
    moved = net.sum((1, 2))
    start = rng.normal(size=(queries, *outputs))
    path = np.concatenate([start[None], start + np.cumsum(moved, 0) * (1 + gap)])
    return PathDecomposition(
        sources=sources,
        net=torch.from_numpy(net),
        gross=torch.from_numpy(gross),
        layers=["all"] if layers == 1 else [f"blocks.{i}.linear.weight" for i in range(layers)],
        edges=list(edges or np.linspace(0, steps, windows + 1).astype(int).tolist()),
        outputs=torch.from_numpy(path),
        samples=torch.tensor([32 * steps] * groups + [0] * len(others)),
        data=[True] * groups + [False] * len(others),
        meta={**META, "steps": steps, **meta},
    )


def unmoved_parts() -> PathDecomposition:
    """Nothing has changed any output."""
    parts = fake_parts(queries=2)
    parts.net.zero_()
    parts.gross.zero_()
    parts.outputs[:] = parts.outputs[0]
    return parts
