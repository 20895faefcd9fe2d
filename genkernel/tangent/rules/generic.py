"""Any function, one sample at a time: the exact path for what has no rule.

``per_sample`` differentiates the single call, by ``vmap`` over its samples where that works
and by a loop where it does not. (Parameters whose use could not be captured at all go through
the user's own forward pass; the engine does that.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from genkernel.tangent.factors import Dense, Factor
from genkernel.tangent.layout import Layout

if TYPE_CHECKING:
    from genkernel.tangent.use import Use


def per_sample(
    use: Use, position: int, B: Tensor, n: int, layout: Layout, inputs: dict[int, Layout | None]
) -> Factor | None:
    """Gradient ``[n, *shape]`` of the argument at leaf ``position`` of one call.

    Args:
        use: the call with all its inputs.
        position: which leaf of its arguments.
        B: output-gradient, shaped like the output.
        n: number of samples.
        layout: where the samples are in the output.
        inputs: where they are in each tensor leaf (None: in none of its axes).
    """
    if inputs.get(position) is not None:
        return None  # the argument has samples of its own: see ``own_samples``
    gradient = _by_vmap(use, position, B, n, layout, inputs)
    if gradient is None:
        gradient = _by_loop(use, position, B, n, layout, inputs)
    return Dense(gradient)


def own_samples(use: Use, position: int, B: Tensor) -> Tensor:
    """Gradient of an argument that has a slot for every sample (``token.expand(n, …)``).

    Samples are independent, so slot i of one vjp is the gradient of sample i. Shaped like the
    argument.
    """
    with torch.enable_grad():
        argument = use.slots[position].detach().requires_grad_(True)
        out = _call(use, {position: argument})
        return torch.autograd.grad(out, argument, B)[0]


def _call(use: Use, replace: dict[int, Any]) -> Tensor:
    leaves = [replace.get(i, leaf) for i, leaf in enumerate(use.leaves)]
    args, kwargs = tree_unflatten(leaves, use.spec)
    return use.func(*args, **kwargs)


def _by_vmap(
    use: Use, position: int, B: Tensor, n: int, layout: Layout, inputs: dict[int, Layout | None]
) -> Tensor | None:
    sliced = {i: where for i, where in inputs.items() if where is not None}
    if layout != Layout(0) or any(where != Layout(0) for where in sliced.values()):
        return None

    def one(b: Tensor, *slices: Tensor) -> Tensor:
        replace = dict(zip(sliced, (s[None] for s in slices), strict=True))
        pull = torch.func.vjp(lambda p: _call(use, {**replace, position: p})[0], use.slots[position].detach())[1]
        return pull(b)[0]

    try:
        return torch.func.vmap(one)(B, *(use.leaves[i] for i in sliced))
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return None  # no batching rule for this function; the loop below needs none


def _by_loop(use: Use, position: int, B: Tensor, n: int, layout: Layout, inputs: dict[int, Layout | None]) -> Tensor:
    rows = []
    for i in range(n):
        replace: dict[int, Any] = {
            j: where.sample(use.leaves[j], i, n) for j, where in inputs.items() if where is not None
        }
        with torch.enable_grad():
            argument = use.slots[position].detach().requires_grad_(True)
            out = _call(use, {**replace, position: argument})
            rows.append(torch.autograd.grad(out, argument, layout.sample(B, i, n))[0])
    return torch.stack(rows)
