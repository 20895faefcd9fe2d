"""The checkpoint approximation: a path of which only some copies of the weights are left.

    f_N(x) - f_0(x) ≈ - Σ_c (Σ_{k in window c} η_k) (1/n) Σ_i J_c(x) P_c ∇ℓ_i(θ_c)

A sampled left-point sum over the kernel, as TracIn takes it: the error is of the order of window × step size for SGD,
and for momentum and adaptive optimizers it ignores the memory and freezes P over every window besides. It is labelled
as such, and its completeness gap is as telling as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.paths.coordinates import Coordinates
from genkernel.paths.decomposition import PathDecomposition
from genkernel.paths.losses import LossFunction
from genkernel.paths.objective import Objective
from genkernel.paths.plain_module import plain_module
from genkernel.paths.queries import Queries
from genkernel.paths.sources import Groups, Sources, labels_of
from genkernel.runs import versions
from genkernel.tangent import Preconditioner, batches
from genkernel.tangent.model import Call
from genkernel.tangent.weights import read_weights

LABEL = "checkpoint approximation"


def checkpoint_path(
    model: Any,
    checkpoints: Sequence[Any],
    learning_rates: Sequence[float],
    data: Any,
    loss_fn: LossFunction,
    *,
    queries: Any,
    groups: Groups | None = None,
    query_call: Call | None = None,
    preconditioners: Sequence[Any] | None = None,
    steps: Sequence[int] | None = None,
    layers: bool = False,
    batch_size: int = 256,
) -> PathDecomposition:
    """Approximate contributions for a run that was not recorded.

    Args:
        model: the network, in the mode that the losses are wanted in.
        checkpoints: K + 1 weights in the order of training, each as :meth:`genkernel.tangent.TangentModel.at` takes
            them; the last one is where the path ends.
        learning_rates: K sums of the learning rates of the steps from each checkpoint to the next.
        data: the training samples: a pytree of tensors with a leading axis n.
        loss_fn, queries, groups, query_call, layers: as for :func:`genkernel.record`; ``groups(ids, batch)`` is asked
            with the numbers 0 to n - 1 of the samples.
        preconditioners: K times P, each as :func:`genkernel.kernel` takes it (an optimizer's state at the checkpoint);
            the identity by default.
        steps: the K + 1 training steps of the checkpoints; numbers from 0 by default.
        batch_size: samples that run together.

    Returns:
        A decomposition whose ``meta["rule"]`` is ``"checkpoint approximation"``.

    Raises:
        InputError: numbers of checkpoints, rates and preconditioners do not fit.
    """
    count = len(checkpoints) - 1
    if count < 1 or len(learning_rates) != count:
        raise InputError(
            f"{len(checkpoints)} checkpoints bound {max(count, 0)} windows, each with the sum of its learning rates, "
            f"not {len(learning_rates)}"
        )
    if any(not 0 <= float(rate) < float("inf") for rate in learning_rates):
        raise InputError("learning_rates are sums of learning rates: finite, and not negative")
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1, not {batch_size}")
    if preconditioners is not None and len(preconditioners) != count:
        raise InputError(f"there is one preconditioner per window, {count}, not {len(preconditioners)}")
    edges = [int(step) for step in steps] if steps is not None else list(range(count + 1))
    if len(edges) != count + 1 or any(a >= b for a, b in pairwise(edges)):
        raise InputError(f"steps are {count + 1} increasing numbers, not {edges}")
    module, call = plain_module(model)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise InputError("no parameter requires gradients, so none was trained")
    coordinates = Coordinates(trained)
    weights = [read_weights(module, one, strict=False) for one in checkpoints]
    objective = Objective(module, loss_fn, coordinates, [])
    followed = Queries(module, coordinates, queries, query_call or call, layers)
    sources = Sources()
    n = batches.size(data)
    numbers = sources.numbers(labels_of(groups, torch.arange(n), data, n))
    for a in numbers.tolist():
        sources.counts[a] += 1
    shape = (count, len(sources), len(followed.layers), followed.count)
    net = torch.zeros(*shape, *followed.shape, dtype=torch.float64)
    outputs = []
    for c, state in enumerate(weights):
        theta, buffers = _split(state, coordinates, module)
        outputs.append(followed.outputs(theta, buffers))
        if c == count:
            break
        objective.model = objective.model.at(state, strict=False)
        gradients = _gradients(objective, data, numbers, batch_size)
        if preconditioners is not None and preconditioners[c] is not None:
            gradients = _preconditioned(preconditioners[c], objective, gradients)
        for a, value in followed.derivatives(theta, buffers, gradients.items(), len(gradients)):
            net[c, a] = -float(learning_rates[c]) * value
    order = sources.order()
    net = net[:, order]
    return PathDecomposition(
        sources=[sources.names[i] for i in order],
        net=net,
        gross=net.reshape(*net.shape[:4], -1).norm(dim=4),
        layers=list(followed.layers),
        edges=edges,
        outputs=torch.stack(outputs),
        samples=torch.tensor([sources.counts[i] for i in order]),
        data=[True] * len(order),
        meta={
            "rule": LABEL,
            "steps": edges[-1],
            "checkpoints": count + 1,
            "parameters": coordinates.size,
            "preconditioned": preconditioners is not None,
            "dtype": str(coordinates.dtype).removeprefix("torch."),
            "versions": versions(),
        },
    )


def _split(state: dict[str, Tensor], coordinates: Coordinates, module: Any) -> tuple[Tensor, dict[str, Tensor]]:
    parameters = dict(module.named_parameters())
    theta = coordinates.flat({name: state.get(name, parameters[name]) for name in coordinates.names})
    others = {name: b.detach() for name, b in module.named_buffers()}
    # parameters that are frozen now may have moved on the way
    others |= {name: value.detach() for name, value in state.items() if name not in coordinates.names}
    return theta, others


def _gradients(objective: Objective, data: Any, numbers: Tensor, batch_size: int) -> dict[int, Tensor]:
    """Mean gradient over all samples, split by group."""
    n = len(numbers)
    found: dict[int, Tensor] = {}
    for first in range(0, n, batch_size):
        rows = slice(first, first + batch_size)
        own = numbers[rows]
        weights = torch.full((len(own),), 1 / n, dtype=torch.float64)
        present = sorted(set(own.tolist()))
        for a, g in objective.group_gradients(batches.take(data, rows), weights, own, present).items():
            found[a] = found[a] + g if a in found else g
    return found


def _preconditioned(P: Any, objective: Objective, gradients: dict[int, Tensor]) -> dict[int, Tensor]:
    from genkernel.tangent.preconditioner import as_preconditioner

    bound: Preconditioner = as_preconditioner(P, objective.model)
    coordinates = objective.coordinates
    bound = bound.to(coordinates.device, coordinates.dtype)
    found = {}
    for a, g in gradients.items():
        rows = bound.apply({name: view[None] for name, view in coordinates.views(g).items()})
        found[a] = coordinates.flat({name: row[0] for name, row in rows.items()})
    return found
