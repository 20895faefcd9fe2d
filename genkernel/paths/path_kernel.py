"""The path kernel: tangent kernels at the states of a training run, summed with the time spent at each.

K_path(x, x') = ∫ K_{t,t}(x, x') dt ≈ Σ_c w_c J_c(x) P_c J_c(x')ᵀ
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.tangent import Kernel, TangentModel, kernel
from genkernel.tangent.model import as_tangent_model

# options of one kernel that a sum of kernels at several weights cannot honour
_REFUSED = {
    "sketch": "sketches of several weights do not add up to one: call gk.sketch at every checkpoint",
    "model_y": "both sides of a path kernel are at the same weights: for two times call gk.kernel",
    "plan": "a plan is for one kernel, and every checkpoint makes its own: give memory= instead",
    "precondition": "every checkpoint has a P of its own: give preconditioners=",
}


def path_kernel(
    model: TangentModel | nn.Module,
    checkpoints: Sequence[Any],
    weights: Sequence[float],
    x: Any,
    y: Any = None,
    *,
    preconditioners: Sequence[Any] | None = None,
    **options: Any,
) -> Kernel:
    """Domingos' path kernel from copies of the weights (Guo, He, Morel, eqs. 1-5).

    A prediction is no weighted sum of it: in f = f_0 + Σ_i a_i K_path(x, x_i) the factor a_i depends on x and divides
    by a kernel that can vanish. What each sample did is what :func:`genkernel.record` and :func:`genkernel.replay` say.

    Args:
        model: the network.
        checkpoints: C states, each as :meth:`genkernel.tangent.TangentModel.at` takes them.
        weights: w_c, the sum of the learning rates of the steps that each stands for.
        x, y: samples of the two sides, n and m of them; y = None for x again.
        preconditioners: P_c, each as :func:`genkernel.kernel` takes it.
        options: of :func:`genkernel.kernel`, the same for all (probes are shared over time), except ``sketch``,
            ``model_y``, ``plan`` and ``precondition``. ``store`` is a folder with one store per checkpoint in it.

    Returns:
        The sum as one kernel; its layers and probes are sums as well.

    Raises:
        InputError: numbers of checkpoints, weights and preconditioners do not fit, a weight is negative or not finite,
            or an option is one that a sum cannot honour.
    """
    if not checkpoints or len(weights) != len(checkpoints):
        raise InputError(f"there is one weight per checkpoint, at least one: {len(weights)} for {len(checkpoints)}")
    if preconditioners is not None and len(preconditioners) != len(checkpoints):
        raise InputError(f"there is one preconditioner per checkpoint, {len(checkpoints)}, not {len(preconditioners)}")
    if any(not 0 <= float(w) < float("inf") for w in weights):
        raise InputError("weights are sums of learning rates: finite, and not negative")
    for name, reason in _REFUSED.items():
        if options.pop(name, None) is not None:
            raise InputError(f"a path kernel takes no {name}=: {reason}")
    store = options.pop("store", None)
    base = as_tangent_model(model)
    total: Kernel | None = None
    for c, (state, w) in enumerate(zip(checkpoints, weights, strict=True)):
        P = preconditioners[c] if preconditioners is not None else None
        # a store belongs to one call, and other weights make another call
        own = None if store is None else Path(store).expanduser() / f"checkpoint-{c:04d}"
        found = kernel(base.at(state), x, y, precondition=P, store=own, **options)
        total = _scaled(found, w) if total is None else _sum(total, _scaled(found, w))
    assert total is not None
    total.meta["path"] = {"checkpoints": len(checkpoints), "weights": [float(w) for w in weights]}
    return total


_TENSORS = ("values", "norms_x", "norms_y", "per_probe", "per_probe_norms_x", "per_probe_norms_y")


def _scaled(one: Kernel, weight: float) -> Kernel:
    for name in _TENSORS:
        value = getattr(one, name)
        if isinstance(value, torch.Tensor):
            setattr(one, name, value * weight)
    one.layers = {name: value * weight for name, value in one.layers.items()}
    return one


def _sum(one: Kernel, other: Kernel) -> Kernel:
    for name in _TENSORS:
        value = getattr(one, name)
        if isinstance(value, torch.Tensor):
            setattr(one, name, value + getattr(other, name))
    one.layers = {name: value + other.layers[name] for name, value in one.layers.items()}
    return one
