"""How fast the direction of tangent features turns as an input moves: the metric of the normalised kernel.

    φ̃ = φ / ‖φ‖,    G(x) = (∂φ̃/∂x)ᵀ (∂φ̃/∂x),    1 - K̃(x, x + δ) = ½ δᵀ G(x) δ + O(|δ|³)

√(uᵀ G u) is the angle, in radians per unit of length, by which the tangent feature turns when x moves along the unit
vector u.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEP = 1e-4  # of central differences: their error is of the order of its square, far above rounding in float64


def kernel_metric(network: nn.Module, x: Tensor, directions: Tensor, chunk: int = 256) -> Tensor:
    """G at points ``[n, d]`` in the frame of orthonormal directions ``[a, d]``: ``[n, a, a]``."""
    return torch.cat([_metric(network, part, directions) for part in x.split(chunk)])


def _metric(network: nn.Module, x: Tensor, directions: Tensor) -> Tensor:
    import genkernel as gk

    moved = torch.stack([x + s * STEP * u for u in directions for s in (1, -1)])  # [2a, n, d]
    features = gk.tangent_features(network, moved.flatten(0, 1), cotangents=gk.total())[:, 0]
    unit = (features / features.norm(dim=1, keepdim=True)).unflatten(0, (len(directions), 2, len(x)))
    slopes = (unit[:, 0] - unit[:, 1]) / (2 * STEP)
    return torch.einsum("anp,bnp->nab", slopes, slopes)
