"""Matrix products of float32 on CPUs through oneDNN, of everything else through torch.

On an x86 processor torch multiplies float32 matrices with MKL, which leaves half of the AVX-512
units of some processors unused; oneDNN, which torch runs its convolutions with, does not (measured:
200 against 95 GFLOP/s on one core). Where its operator is missing, torch's own product stands in.
"""

from __future__ import annotations

import platform
from functools import cache

import torch
from torch import Tensor

#: entries of the result below which the call itself costs more than it saves
SMALL = 1 << 10


def dot(a: Tensor, b: Tensor) -> Tensor:
    """``a [m, k]``, ``b [n, k]`` → ``a bᵀ [m, n]``."""
    if _suits(a, b) and len(a) * len(b) >= SMALL:
        return _product(a, b)
    return a @ b.T


def batched(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``a [n, m, k]``, ``b [n, p, k]`` → ``a_i b_iᵀ [n, m, p]``, into ``out`` where one is given."""
    if a.shape[2] == 1:
        return torch.mul(a, b.transpose(1, 2), out=out)
    small = a.shape[1] * b.shape[1] < 4 * SMALL or a.shape[2] < 16
    if small or torch.get_num_threads() > 1 or not _suits(a, b):  # several threads share out samples, not one product
        return torch.bmm(a, b.transpose(1, 2), out=out) if out is not None else torch.bmm(a, b.transpose(1, 2))
    if out is None:
        out = a.new_empty(a.shape[0], a.shape[1], b.shape[1])
    for i in range(len(a)):
        out[i] = _product(a[i], b[i])
    return out


def _product(a: Tensor, b: Tensor) -> Tensor:
    if not (b.is_contiguous() or b.T.is_contiguous()):
        b = b.contiguous()  # oneDNN multiplies by a matrix with gaps in a plain loop, hundreds of times slower
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def _suits(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.device.type == "cpu"
        and not (a.requires_grad or b.requires_grad)
        and bool(torch.backends.mkldnn.enabled)
        and _available()
    )


@cache
def _available() -> bool:
    """The operator exists and multiplies in full precision here."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(33, 65, generator=draw), torch.randn(47, 65, generator=draw)
    try:
        found = _product(a, b)
    except (AttributeError, RuntimeError, TypeError):
        return False
    exact = a.double() @ b.double().T
    return float((found - exact).abs().max()) <= 1e-4
