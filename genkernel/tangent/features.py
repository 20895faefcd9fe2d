"""``tangent_features()``: the Jacobian of the outputs in the parameters, sample by sample, written out.

    Φ[i, k] = J(x_i)ᵀ v_ik,      K = Φ Φᵀ

What ranks and null spaces are read from: singular values of Φ keep twice the digits that eigenvalues of K keep
(THEORY §5). Kernels themselves need no features (:func:`genkernel.kernel`), nor do their leading eigenpairs
(:func:`genkernel.operator`).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.utils._pytree import tree_map

from genkernel.errors import InputError, NonFiniteError
from genkernel.tangent import batches, jvp
from genkernel.tangent.cotangents import Cotangents
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.passes import guarded
from genkernel.tangent.plan import parse_memory
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.sample_gradients import agree
from genkernel.tangent.side import prove

_ENTRIES = 2**24  # numbers of features that are taken together


def tangent_features(
    model: TangentModel | nn.Module | Any,
    x: Any,
    *,
    cotangents: Cotangents | None = None,
    dtype: torch.dtype | str | None = "float64",
    memory: str | int = "8GiB",
) -> Tensor:
    """Tangent features of every sample (Courtois et al., definition 4), on the CPU.

    Args:
        model: a :class:`TangentModel`, a module, or a domain wrapper that has one.
        x: batch of n samples: a pytree of tensors with a leading sample axis.
        cotangents: None for all outputs, one row each; otherwise one row per cotangent vector, scaled so that
            Σ_k Φ[i, k]·Φ[j, k] is the kernel that :func:`genkernel.kernel` gives for them.
        dtype: what the network runs in: float64 unless something else is asked for. None for the model's own.
        memory: bound on the features (``"8GiB"``, bytes).

    Returns:
        ``[n, O, P]``; columns in the order of ``model.parameter_names``.

    Raises:
        InputError: the features are larger than ``memory``; empty batches or unknown options.
        BatchCouplingError, RandomOutputError: the output is no function of one sample.
        NonFiniteError: NaN or infinity in weights, outputs or gradients.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> gk.tangent_features(net, torch.randn(5, 4)).shape
        torch.Size([5, 3, 67])
    """
    model = as_tangent_model(model)
    precision = parse_dtype(dtype) or model.dtype
    n = batches.size(x)
    proof = prove(model, x, precision, "auto", cotangents)
    q = torch.Size(proof.shape).numel() if cotangents is None else cotangents.count(proof.shape)
    scale = 1.0 if cotangents is None else cotangents.scale(proof.shape) ** 0.5
    P = sum(p.numel() for p in model.parameters.values())
    needed = n * q * P * precision.itemsize
    if needed > parse_memory(memory):
        raise InputError(
            f"features of {n} samples, {q} rows each, in {P:,} parameters take {needed / 2**30:.1f} GiB, more than "
            f"memory={memory!r}: take fewer samples, a cotangent, some parameters (params=), gk.sketch, or gk.operator"
        )
    found = torch.empty(n, q, P, dtype=precision)
    width = max(1, _ENTRIES // (q * P))
    vectorised: bool | None = None
    with guarded(model), model.evaluating(), warnings.catch_warnings():
        # operations without a batching rule are slower, not wrong
        warnings.filterwarnings("ignore", message="There is a performance drop")
        tensors = model.tensors(precision)
        for first in range(0, n, width):
            part = batches.move(batches.take(x, slice(first, first + width)), model.device, precision)
            rows, vectorised = _rows(model, tensors, part, cotangents, vectorised)
            found[first : first + width] = rows.to("cpu", precision) * scale
    if not torch.isfinite(found).all():
        sample = int((~torch.isfinite(found)).flatten(1).any(1).nonzero()[0])
        raise NonFiniteError(f"the tangent features of sample {sample} hold NaN or infinity")
    return found


def _rows(
    model: TangentModel, tensors: dict[str, Tensor], part: Any, cotangents: Cotangents | None, vectorised: bool | None
) -> tuple[Tensor, bool]:
    """Rows ``[b, q, P]`` of a few samples, and whether they can be taken together."""
    names = model.parameter_names
    held = {name: t.detach() for name, t in tensors.items()}
    with torch.no_grad():
        out = model.run(tensors, part)
    jvp.require_finite(out)
    if cotangents is None:
        size = out[0].numel()
        unit = torch.eye(size, dtype=out.dtype, device=out.device).reshape(size, *out.shape[1:])
        vectors = unit.expand(len(out), *unit.shape)
    else:
        vectors = torch.stack(list(cotangents.vectors(out, part)), 1)

    def alone(one: Any, own: Tensor) -> Tensor:
        whole = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, one)
        own_weights = {name: held[name] for name in names}
        pull = vjp(lambda weights: model.run({**held, **weights}, whole)[0], own_weights)[1]
        (pulled,) = torch.vmap(pull)(own)
        return torch.cat([pulled[name].reshape(len(own), -1) for name in names], 1)

    def together(given: tuple[Any, Tensor]) -> Tensor:
        axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, given[0])
        return torch.vmap(alone, in_dims=(axes, 0))(*given).detach()

    def one_by_one(given: tuple[Any, Tensor]) -> Tensor:
        rows = []
        for i, own in enumerate(given[1]):
            with torch.enable_grad():
                out = model.run(tensors, batches.take(given[0], slice(i, i + 1)))
            rows.append(torch.stack([_flat(jvp.backward(model, tensors, out, v[None], retain=True)) for v in own]))
        return torch.stack(rows)

    if vectorised is None:
        vectorised = agree(together, one_by_one, (batches.take(part, slice(0, 2)), vectors[:2]))
    return (together if vectorised else one_by_one)((part, vectors)), vectorised


def _flat(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.reshape(-1) for g in found.values()])
