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


@torch.inference_mode(False)
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
        memory: bound on the features; a quarter of it again for activations (``"8GiB"``, bytes).

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
    budget = parse_memory(memory)
    if needed > budget:
        raise InputError(
            f"features of {n} samples, {q} rows each, in {P:,} parameters take {needed / 2**30:.1f} GiB, more than "
            f"memory={memory!r}: take fewer samples, a cotangent, some parameters (params=), gk.sketch, or gk.operator"
        )
    found = torch.empty(n, q, P, dtype=precision)
    # backward passes that go on together hold the activations of each sample once for every vector
    most = max(1, min(_ENTRIES // P, budget // 4 // max(1, proof.bytes_per_sample)))
    width, together = max(1, most // q), min(q, most)
    with guarded(model), model.evaluating(), warnings.catch_warnings():
        # operations without a batching rule are slower, not wrong
        warnings.filterwarnings("ignore", message="There is a performance drop")
        rows = _Rows(model, model.tensors(precision))
        for first in range(0, n, width):
            part = batches.move(batches.take(x, slice(first, first + width)), model.device, precision)
            vectors = rows.vectors(part, cotangents)
            for k in range(0, q, together):
                taken = rows(part, vectors[:, k : k + together])
                if not torch.isfinite(taken).all():
                    sample = first + int((~torch.isfinite(taken)).flatten(1).any(1).nonzero()[0])
                    raise NonFiniteError(f"the tangent features of sample {sample} hold NaN or infinity")
                found[first : first + width, k : k + together] = taken
    if scale != 1.0:
        found *= scale
    return found


class _Rows:
    """J(x_i)ᵀ v_ik of a few samples and vectors, several at a time where the network allows it."""

    def __init__(self, model: TangentModel, tensors: dict[str, Tensor]):
        self.model, self.tensors = model, tensors
        self.held = {name: t.detach() for name, t in tensors.items()}
        self.vectorised: bool | None = None

    def vectors(self, part: Any, cotangents: Cotangents | None) -> Tensor:
        """``[b, q, *out]``; unit vectors without cotangents."""
        with torch.no_grad():
            out = self.model.run(self.tensors, part)
        jvp.require_finite(out)
        if cotangents is not None:
            return torch.stack(list(cotangents.vectors(out, part)), 1)
        size = out[0].numel()
        unit = torch.eye(size, dtype=out.dtype, device=out.device).reshape(size, *out.shape[1:])
        return unit.expand(len(out), *unit.shape)

    def __call__(self, part: Any, vectors: Tensor) -> Tensor:
        """``[b, v, P]``."""
        if self.vectorised is None:
            few = batches.take(part, slice(0, 2)), vectors[:2, :4]
            self.vectorised = agree(self._together, self._one_by_one, few)
        return (self._together if self.vectorised else self._one_by_one)((part, vectors))

    def _together(self, given: tuple[Any, Tensor]) -> Tensor:
        axes = tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, given[0])
        return torch.vmap(self._alone, in_dims=(axes, 0))(*given).detach()

    def _alone(self, one: Any, own: Tensor) -> Tensor:
        whole = tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, one)
        names = self.model.parameter_names
        start = {name: self.held[name] for name in names}
        pull = vjp(lambda weights: self.model.run({**self.held, **weights}, whole)[0], start)[1]
        (pulled,) = torch.vmap(pull)(own)
        return torch.cat([pulled[name].reshape(len(own), -1) for name in names], 1)

    def _one_by_one(self, given: tuple[Any, Tensor]) -> Tensor:
        rows = []
        for i, own in enumerate(given[1]):
            with torch.enable_grad():
                out = self.model.run(self.tensors, batches.take(given[0], slice(i, i + 1)))
            each = [_flat(jvp.backward(self.model, self.tensors, out, v[None], retain=True)) for v in own]
            rows.append(torch.stack(each))
        return torch.stack(rows)


def _flat(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.reshape(-1) for g in found.values()])
