"""The naive kernel: float64, one sample alone at a time, one ``torch.autograd.grad`` per cotangent.

    g_k(x_i) = J(x_i)ᵀ v_ik            (a vector per parameter)
    K[i, j]  = scale · Σ_k Σ_θ ⟨ g_k(x_i)_θ , P_θ g_k(y_j)_θ ⟩

No capture, no batching, no rule for any layer: slow, hungry for memory, and short enough to be
obviously right. Every path of the engine is tested against it. It works on a float64 copy of
the module; the module itself is not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import batches
from genkernel.tangent.cotangents import Cotangents, probes
from genkernel.tangent.model import TangentModel, as_tangent_model


def gradients(
    model: TangentModel | nn.Module, batch: Any, cotangents: Cotangents | None = None
) -> tuple[dict[str, Tensor], float]:
    """J(x_i)ᵀ v_ik of every selected parameter, in float64 on the CPU.

    Args:
        model: a :class:`TangentModel` (with ``batch_norm="eval"``) or a module.
        batch: n samples: a pytree of tensors with a leading sample axis.
        cotangents: q cotangent vectors per sample; ``probes(8)`` by default.

    Returns:
        name → ``[q, n, *shape]``, and the factor that kernels of these cotangents carry (1/q for
        probes, else 1).

    Raises:
        InputError: the model's batch norm is not in evaluation mode.
    """
    model, cotangents = as_tangent_model(model), cotangents or probes()
    if model.batch_norm != "eval":
        raise InputError("the reference evaluates batch norm in evaluation mode: use batch_norm='eval'")
    module = _float64_copy(model.module)
    parameters = dict(module.named_parameters())
    selected = [parameters[name].requires_grad_(True) for name in model.parameter_names]
    rows: list[list[tuple[Tensor, ...]]] = []
    scale = 1.0
    with torch.random.fork_rng(devices=[]):
        for i in range(batches.size(batch)):
            sample = batches.move(batches.take(batch, [i]), torch.device("cpu"), torch.float64)
            with torch.enable_grad():
                output = model.call(module, sample)
            scale = cotangents.scale(tuple(output.shape[1:]))
            rows.append([])
            for vector in cotangents.vectors(output.detach(), sample):
                if output.requires_grad:
                    found = torch.autograd.grad(output, selected, vector, retain_graph=True, allow_unused=True)
                else:
                    found = (None,) * len(selected)
                rows[i].append(tuple(_dense(g, p) for g, p in zip(found, selected, strict=True)))
    count = len(rows[0])
    return {
        name: torch.stack([torch.stack([sample[k][p] for sample in rows]) for k in range(count)])
        for p, name in enumerate(model.parameter_names)
    }, scale


def per_parameter(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | None = None,
    cotangents: Cotangents | None = None,
    precondition: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], float]:
    """The terms of the kernel: name → ``[q, n, m]`` before the sum over parameters, and the factor in front.

    Arguments as for :func:`kernel`.
    """
    gx, scale = gradients(model, x, cotangents)
    if y is None and model_y is None:
        gy = gx
    else:
        gy, _ = gradients(model if model_y is None else model_y, x if y is None else y, cotangents)
    terms = {}
    for name, a in gx.items():
        b = gy[name]
        if precondition is not None and name in precondition:
            b = b * precondition[name].detach().to("cpu", torch.float64)
        terms[name] = torch.einsum("kip,kjp->kij", a.flatten(2), b.flatten(2))
    return terms, scale


def kernel(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | None = None,
    cotangents: Cotangents | None = None,
    precondition: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """K = scale · Σ_k ⟨J(x_i)ᵀ v_ik, P J(y_j)ᵀ v_jk⟩, ``[n, m]`` in float64 (THEORY §1).

    Args:
        model: a :class:`TangentModel` (with ``batch_norm="eval"``) or a module.
        x: batch of n samples: a pytree of tensors with a leading sample axis.
        y: batch of m samples; None for x again.
        model_y: the model on the side of y (the two-time kernel); None for ``model``.
        cotangents: which scalar of the output is differentiated; ``probes(8)`` by default.
        precondition: diagonal P by parameter name, shaped like the parameters; 1 elsewhere.

    Raises:
        InputError: the model's batch norm is not in evaluation mode.
    """
    return per_probe(model, x, y, model_y=model_y, cotangents=cotangents, precondition=precondition).sum(0) * (
        (cotangents or probes()).scale(_output_shape(model, x))
    )


def per_probe(
    model: TangentModel | nn.Module,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | None = None,
    cotangents: Cotangents | None = None,
    precondition: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The kernel of each cotangent alone, ``[q, n, m]``. Arguments as for :func:`kernel`."""
    terms, _ = per_parameter(model, x, y, model_y=model_y, cotangents=cotangents, precondition=precondition)
    return torch.stack(list(terms.values())).sum(0)


def _float64_copy(module: nn.Module) -> nn.Module:
    """A copy of the module in float64 and evaluation mode."""
    computed = {  # tensors left behind by a forward pass cannot be deep-copied with their graph
        id(value): value.detach().clone()
        for owner in module.modules()
        for value in vars(owner).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).to("cpu", torch.float64).eval()


def _dense(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(parameter.detach())
    return gradient.to_dense() if gradient.is_sparse else gradient
