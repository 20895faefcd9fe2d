"""Matrix products of float32 on CPUs through oneDNN, of everything else through torch.

On an x86 processor torch multiplies float32 matrices with MKL, which leaves half of the AVX-512
units of some processors unused; oneDNN, which torch runs its convolutions with, does not (measured:
200 against 95 GFLOP/s on one core). Where its operator is missing, torch's own product stands in.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import torch
from torch import Tensor

from genkernel.tangent.derivation import has_storage

#: entries of the result below which the call itself costs more than it saves
SMALL = 1 << 10
#: multiplications from which on one of many products is called by itself, and how many times that on several threads
WORTH, SHARED = 1 << 21, 6
#: entries of a weight from which on its linear map is called
LARGE = 1 << 13


def dot(a: Tensor, b: Tensor) -> Tensor:
    """``a [m, k]``, ``b [n, k]`` → ``a bᵀ [m, n]``."""
    if _suits(a, b) and len(a) * len(b) >= SMALL:
        return _product(a, b)
    return a @ b.T


def batched(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``a [n, m, k]``, ``b [n, p, k]`` → ``a_i b_iᵀ [n, m, p]``, into ``out`` where one is given."""
    if a.shape[2] == 1:
        return torch.mul(a, b.transpose(1, 2), out=out)
    least = WORTH if torch.get_num_threads() == 1 else SHARED * WORTH
    if a.shape[1] * a.shape[2] * b.shape[1] < least or not _suits(a, b):
        return torch.bmm(a, b.transpose(1, 2), out=out) if out is not None else torch.bmm(a, b.transpose(1, 2))
    if out is None:
        out = a.new_empty(a.shape[0], a.shape[1], b.shape[1])
    for i in range(len(a)):
        out[i] = _product(a[i], b[i])
    return out


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b`` for x ``[*, a]`` and a constant W ``[b, a]``, differentiable in x."""
    if not _worth_linear(input, weight, bias):
        return torch.nn.functional.linear(input, weight, bias)
    out: Tensor = _Linear.apply(input, weight, bias)
    return out


def _worth_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    # whatever the number of samples: a proof on few of them has to see what the run does
    if input.dim() < 2 or weight.dim() != 2 or weight.numel() < LARGE or not input.numel():
        return False
    if torch.is_autocast_enabled(input.device.type) or weight.requires_grad:
        return False
    if bias is not None and (bias.requires_grad or bias.dim() != 1 or bias.dtype != input.dtype):
        return False
    with torch.no_grad():
        return _suits(input, weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        out = _product(x.flatten(0, -2), weight)
        if bias is not None:
            out.add_(bias)
        if x.dim() == 2:
            return out
        # not a view to autograd: those may not be written to in place, and lose their hooks where they are
        return out.new_empty(0).set_(out.untyped_storage(), 0, (*x.shape[:-1], out.shape[1]))  # type: ignore[call-overload]

    @staticmethod
    def backward(ctx: Any, B: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        if not has_storage(B):
            return B @ weight, None, None
        return dot(B.flatten(0, -2), weight.T).view(*B.shape[:-1], -1), None, None


def _product(a: Tensor, b: Tensor) -> Tensor:
    if not (b.is_contiguous() or b.T.is_contiguous()):
        b = b.contiguous()  # oneDNN multiplies by a matrix with gaps in a plain loop, hundreds of times slower
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def _suits(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.device.type == "cpu"
        and not (torch.is_grad_enabled() and (a.requires_grad or b.requires_grad))
        and bool(torch.backends.mkldnn.enabled)
        and available()
    )


@cache
def available() -> bool:
    """oneDNN is there: its operator exists and multiplies in full precision here."""
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
