"""Products of every sample's loss gradient with given rows, by layer.

With the rows A ``[R, P]``: ⟨A_r, ∇ℓ_i⟩ over the coordinates of each layer. Samples that do not see each other have
their gradients made a few at a time and multiplied with all rows; in a batch whose samples do, or where the loss is
random, every row gives one directional derivative of the whole batch's losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genkernel.paths.objective import Objective
from genkernel.paths.random_state import State
from genkernel.tangent import TangentModel, batches
from genkernel.tangent.jvp import choose
from genkernel.tangent.precision import full_precision
from genkernel.tangent.sample_gradients import sample_gradients

Columns = Mapping[int, Sequence[slice]]
ENTRIES = 1 << 25  # of sample gradients that are held together


def sample_products(
    objective: Objective,
    model: TangentModel,
    batch: Any,
    rows: Tensor,
    columns: Columns,
    layers: int,
    random: State | None = None,
) -> Tensor:
    """⟨A_r, ∇ℓ_i⟩ by layer, in the training scope of the objective.

    Args:
        objective: whose losses; its ``joint`` is found out where it is not known.
        model: the losses as a function of the weights, at the weights they are asked at.
        batch: b samples.
        rows: ``[R, P]``.
        columns: layer → its coordinates.
        layers: L.
        random: the random state that the batch's forward pass starts from, where it draws numbers.

    Returns:
        ``[b, L, R]`` float64.
    """
    tensors = model.tensors()
    with full_precision():
        if objective.joint is None and batches.size(batch) > 1:
            objective.joint = objective.is_joint(model.tensors(), batch)
        if objective.joint or random is not None:
            return _along_rows(objective, objective.seeded(model, random), tensors, batch, rows, columns, layers)
        return _per_sample(objective, model, tensors, batch, rows, columns, layers)


def _per_sample(
    objective: Objective,
    model: TangentModel,
    tensors: dict[str, Tensor],
    batch: Any,
    rows: Tensor,
    columns: Columns,
    layers: int,
) -> Tensor:
    n = batches.size(batch)
    found = torch.zeros(n, layers, len(rows), dtype=torch.float64)
    width = max(1, ENTRIES // objective.coordinates.size)

    def alone(one: Any) -> Tensor:
        return objective.pull(tensors, objective.losses(tensors, one), torch.ones(1))

    for first in range(0, n, width):
        part = batches.take(batch, slice(first, first + width))
        gradients, objective.vectorised = sample_gradients(model, tensors, part, alone, objective.vectorised)
        for layer, own in columns.items():
            for run in own:
                product = gradients[:, run].to(rows) @ rows[:, run].T
                found[first : first + width, layer] += product.double().cpu()
    return found


def _along_rows(
    objective: Objective,
    model: TangentModel,
    tensors: dict[str, Tensor],
    batch: Any,
    rows: Tensor,
    columns: Columns,
    layers: int,
) -> Tensor:
    if objective.route is None:
        # under autocast a forward pass is no better than 16 bits, whatever the weights are
        dtype = torch.bfloat16 if objective.others.coarse else model.dtype
        objective.route, _ = choose(model, tensors, batch, dtype)
    found = torch.zeros(batches.size(batch), layers, len(rows), dtype=torch.float64)
    for r, row in enumerate(rows):
        views = objective.coordinates.views(row)
        for layer, own in columns.items():
            inside = {
                name: views[name]
                for name, part in objective.coordinates.parts()
                if any(run.start <= part.start and part.stop <= run.stop for run in own)
            }
            _, (product,) = objective.route.products(model, tensors, batch, [inside])
            found[:, layer, r] = product.double().cpu()
    return found
