"""The naive kernel: float64, one sample alone at a time, one ``torch.autograd.grad`` per cotangent.

    g_k(x_i) = J(x_i)ᵀ v_ik                          a vector per parameter θ
    K[i, j]  = Σ_k Σ_θ ⟨ g_k(x_i)_θ , P_θ g_k(y_j)_θ ⟩   (the mean over k for random probes)

No capture, no batching, no rule for any layer: slow, hungry for memory, and short enough to be
obviously right. Every path of the engine is tested against it. It works on a float64 copy of
the module on the CPU, which keeps what the module has kept of earlier calls; the module itself is not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import batches
from genkernel.tangent.batch_norm_layout import plain_gradients
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.preconditioner import Preconditioner


def kernel(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | None = None,
    cotangents: Cotangents | None = None,
    precondition: Mapping[str, Tensor] | Preconditioner | None = None,
) -> Tensor:
    """The tangent kernel ``[n, m]`` in float64 (THEORY §1).

    Args:
        model: a :class:`TangentModel` (with ``batch_norm="eval"``) or a module.
        x: batch of n samples: a pytree of tensors with a leading sample axis.
        y: batch of m samples; None for x again.
        model_y: the model on the side of y (the two-time kernel); None for ``model``.
        cotangents: which scalar of the output is differentiated; ``probes(8)`` by default.
        precondition: diagonal P by parameter name, shaped like the parameters; 1 elsewhere. Or any
            :class:`Preconditioner`, which is applied to the gradients of y.

    Raises:
        InputError: the model's batch norm is not in evaluation mode.
    """
    cotangents = probes() if cotangents is None else cotangents
    each = per_probe(model, x, y, model_y=model_y, cotangents=cotangents, precondition=precondition)
    return each.mean(0) if cotangents.random else each.sum(0)


def per_probe(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | None = None,
    cotangents: Cotangents | None = None,
    precondition: Mapping[str, Tensor] | Preconditioner | None = None,
) -> Tensor:
    """The kernel of each cotangent alone, ``[q, n, m]``. Arguments as for :func:`kernel`."""
    terms = per_parameter(model, x, y, model_y=model_y, cotangents=cotangents, precondition=precondition)
    return torch.stack(list(terms.values())).sum(0)


def per_parameter(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | None = None,
    cotangents: Cotangents | None = None,
    precondition: Mapping[str, Tensor] | Preconditioner | None = None,
) -> dict[str, Tensor]:
    """The share of each parameter in the kernel of each cotangent: name → ``[q, n, m]``.

    Arguments as for :func:`kernel`.
    """
    left = gradients(model, x, cotangents)
    same = y is None and model_y is None
    right = left if same else gradients(model if model_y is None else model_y, x if y is None else y, cotangents)
    if isinstance(precondition, Preconditioner):
        rows = precondition.to("cpu", torch.float64).apply({name: b.flatten(0, 1) for name, b in right.items()})
        right = {name: row.reshape(right[name].shape) for name, row in rows.items()}
        precondition = None
    terms = {}
    for name, a in left.items():
        b = right[name]
        if precondition is not None and name in precondition:
            b = b * precondition[name].detach().to("cpu", torch.float64)
        terms[name] = a.reshape(*a.shape[:2], -1) @ b.reshape(*b.shape[:2], -1).transpose(1, 2)
    return terms


def gradients(model: TangentModel | nn.Module, batch: Any, cotangents: Cotangents | None = None) -> dict[str, Tensor]:
    """J(x_i)ᵀ v_ik of every selected parameter: name → ``[q, n, *shape]``, float64 on the CPU.

    Arguments as for :func:`kernel`.
    """
    model, cotangents = as_tangent_model(model), probes() if cotangents is None else cotangents
    if model.batch_norm != "eval":
        raise InputError("the reference evaluates batch norm in evaluation mode: use batch_norm='eval'")
    module = _float64_copy(model.module)
    named = dict(module.named_parameters())
    with torch.no_grad():
        for name, given in model.weights.items():
            (named | dict(module.named_buffers()))[name].copy_(given)
    parameters: list[Tensor] = [named[name].requires_grad_(True) for name in model.parameter_names]
    rows: list[list[list[Tensor]]] = []  # [n][q][parameter]
    for i in range(batches.size(batch)):
        sample = batches.move(batches.take(batch, [i]), torch.device("cpu"), torch.float64)
        with torch.enable_grad(), plain_gradients():  # on a copy: some models write to their input
            output = model.call(module, batches.take(sample, [0]))
        rows.append([_vjp(output, parameters, v) for v in cotangents.vectors(output.detach(), sample)])
    return {
        name: torch.stack([torch.stack([row[k][p] for row in rows]) for k in range(len(rows[0]))])
        for p, name in enumerate(model.parameter_names)
    }


def _vjp(output: Tensor, parameters: list[Tensor], vector: Tensor) -> list[Tensor]:
    """Jᵀ v per parameter; zeros where a parameter does not influence the output."""
    found: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if output.requires_grad:
        found = torch.autograd.grad(output, parameters, vector, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(p.detach()) if g is None else g.to_dense() if g.is_sparse else g
        for g, p in zip(found, parameters, strict=True)
    ]


def _float64_copy(module: nn.Module) -> nn.Module:
    """A copy of the module on the CPU, in float64 and evaluation mode."""
    computed = {  # tensors that a forward pass left behind cannot be deep-copied with their graph
        id(value): value.detach().clone()
        for owner in module.modules()
        for value in vars(owner).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).to("cpu").double().eval()
