"""Does a gradient step on one noise level lower or raise the loss at another?

Let L_b be the mean loss at level b and g_b its gradient. A step θ ← θ - η P g_b changes the loss at
level t, to first order in η, by

    ΔL_t = -η ⟨g_t, P g_b⟩ ,

so ⟨g_t, P g_b⟩ > 0 means that learning at b helps t. All inner products come from one kernel with the
loss gradient as cotangent: K[(a, i), (b, j)] = ⟨∇ℓ_{a,i}, P ∇ℓ_{b,j}⟩ over levels a, b and images i, j.

Two estimates:

- *plug-in*: means over all image pairs, that is the inner products of the gradients of the mean loss
  over exactly the evaluated samples. Its cosine matrix has ones on the diagonal; errors by the bootstrap
  over images. It answers what a step does *to the samples it is made from*: the levels share their
  images, so what an image does to all levels alike counts, too, and near a minimum that can be all.
- *disjoint*: means over pairs of different images, which is unbiased for the inner products of the
  *expected* gradients. Its cosines are undefined (NaN) for a level whose squared norm is not above
  zero by two standard errors, and may leave [-1, 1]; errors by the jackknife over images.

Where the mean gradient is small against its sampling noise the jackknife overstates the error (by
about √2, its known behaviour for degenerate U-statistics). Conflicting pairs (plug-in cosine below
zero by two standard errors) are not corrected for their number: ``expected_false_conflicts`` says how
many would be found by chance if every cosine were zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.diffusion.resampling import (
    ALL,
    FEWEST_IMAGES,
    as_grid,
    bootstrap_stderr,
    bootstrap_weights,
    jackknife_stderr,
    level_means,
)
from genkernel.diffusion.results import Interference
from genkernel.errors import InputError, ZeroGradientError

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def interference(
    kernel: Any,
    level_of: Index,
    image_of: Index,
    *,
    preconditioner: str = "none",
    bootstrap: int = 200,
    seed: int = 0,
) -> Interference:
    """Inner products and cosines of the levels' mean loss gradients.

    Args:
        kernel: symmetric kernel ``[N, N]`` with the per-sample loss gradient as cotangent, over every
            image at every level.
        level_of, image_of: level and image of each sample ``[N]``.
        preconditioner: which P the kernel was computed with, for the record.
        bootstrap, seed: of the resampling over images.

    Raises:
        InputError: the samples are no full grid, or show fewer than two images.
        ZeroGradientError: the loss gradient vanishes at every sample.
    """
    values = np.asarray(getattr(kernel, "values", kernel), dtype=np.float64)
    blocks = as_grid(values, level_of, image_of)
    size, images = blocks.shape[:2]
    if images < 2:
        raise InputError("interference between levels needs at least two images")
    if not np.any(np.diagonal(values) > 0):
        raise ZeroGradientError("the loss gradient is exactly zero at every level, so no step changes anything")

    # sums over image pairs, and what each image contributes to them
    total = blocks.sum((1, 3))
    with_one = blocks.sum(3).transpose(1, 0, 2)  # [n, L, L]: i on the left, all on the right
    own = np.einsum("aibi->iab", blocks)
    left_out = total - with_one - with_one.transpose(0, 2, 1) + own
    own_total = own.sum(0)
    few = images < FEWEST_IMAGES

    def stderr_of(replicates: Array) -> Array:
        return np.full(replicates.shape[1:], np.nan) if few else jackknife_stderr(replicates)

    plugin = total / images**2
    plugin_replicates = left_out / (images - 1) ** 2
    matrix = _cosine(plugin)
    weights = bootstrap_weights(images, max(bootstrap, 2), seed)
    stderr = bootstrap_stderr(_cosine(level_means(blocks, weights, pairs=ALL)), images)

    disjoint = (total - own_total) / (images * (images - 1))
    replicates = (left_out - (own_total - own)) / max((images - 1) * (images - 2), 1)
    disjoint_stderr = stderr_of(replicates)
    squared, squared_stderr = np.diagonal(disjoint), np.diagonal(disjoint_stderr)
    defined = (squared > 0) & ~(squared < 2 * squared_stderr)
    usable = defined[:, None] & defined[None]
    matrix_disjoint = np.where(usable, _cosine(disjoint), np.nan)
    stderr_disjoint = np.where(usable, stderr_of(_cosine(replicates)), np.nan)

    upper = zip(*np.triu_indices(size, 1), strict=True)
    conflicting = [
        (int(a), int(b), float(matrix[a, b]), float(stderr[a, b])) for a, b in upper if matrix[a, b] < -2 * stderr[a, b]
    ]
    return Interference(
        matrix=matrix,
        stderr=stderr,
        conflicting=conflicting,
        inner_products=disjoint,
        preconditioned=None,
        level_gradient_norm=np.sqrt(np.maximum(np.diagonal(plugin), 0)),
        inner_products_stderr=disjoint_stderr,
        matrix_disjoint=matrix_disjoint,
        stderr_disjoint=stderr_disjoint,
        expected_false_conflicts=_false_conflicts(size, images),
        preconditioner=preconditioner,
        inner_products_plugin=plugin,
        inner_products_jackknife=None if few else replicates,
        inner_products_plugin_jackknife=None if few else plugin_replicates,
    )


def _cosine(products: Array) -> Array:
    """Cosines from inner products ``[..., L, L]``; 0 where a squared norm is not positive."""
    squared = np.maximum(np.diagonal(products, axis1=-2, axis2=-1), 0.0)
    size = np.sqrt(squared[..., :, None] * squared[..., None, :])
    cosine = np.divide(products, size, out=np.zeros_like(products), where=size > 0)
    levels = np.arange(products.shape[-1])
    cosine[..., levels, levels] = np.where(squared > 0, 1.0, 0.0)
    return cosine


def _false_conflicts(size: int, images: int) -> float:
    """Pairs expected below -2 standard errors if every cosine were zero; the pairs are not corrected for number."""
    if images < FEWEST_IMAGES:
        return float("nan")
    from scipy.stats import t

    return float(size * (size - 1) / 2 * t.cdf(-2.0, images - 1))


# ------------------------------------------------------------------ the optimizer's metric


# steps that are a diagonal times the gradient once momentum is left out
LINEAR_OPTIMIZERS = ("Adam", "AdamW", "NAdam", "RMSprop", "Adagrad")
# of other packages under names that are known: their states resemble Adam's, their steps do not
OTHER_OPTIMIZERS = ("RAdam", "Adamax", "AdaBelief", "Adafactor", "LAMB", "Lamb", "Lion", "Adan", "SGD")


def optimizer_preconditioner(
    module: torch.nn.Module, parameter_names: list[str], state: Any
) -> tuple[dict[str, Tensor], str]:
    """The diagonal P of an optimizer at a checkpoint, for the selected parameters.

    Adam and its relatives: 1/(√(v/(1 - β₂^k)) + ε), with amsgrad's maximum where it is kept; RMSprop:
    1/(√v + ε) (centred: v less the squared mean); Adagrad: 1/(√s + ε). Momentum is left out: P g is
    the direction that a fresh gradient is turned into. Where groups have different learning rates,
    P carries their ratio to the largest.

    Args:
        module: the network the optimizer trained.
        parameter_names: names of the parameters that span the kernel.
        state: a torch optimizer, its ``state_dict()``, or a mapping parameter name → diagonal of P.

    Returns:
        P by parameter name (shaped like the parameters), and what it is, in words.

    Raises:
        InputError: the state has no second moments, or does not fit the module.
    """
    optimizer = state if hasattr(state, "state_dict") and hasattr(state, "param_groups") else None
    if optimizer is not None:
        _check_class(optimizer)
        state = optimizer.state_dict()
    if not isinstance(state, Mapping):
        raise InputError(f"optimizer_state is a torch optimizer or its state_dict, not {type(state).__name__}")
    named = dict(module.named_parameters())
    if "state" not in state or "param_groups" not in state:
        return _given_diagonal(named, parameter_names, state)
    indices = [index for group in state["param_groups"] for index in group["params"]]
    if optimizer is not None:
        names = _names_by_identity(named, optimizer, indices)
    else:
        names = _names_of_indices(named, state["param_groups"], indices, state["state"])
    largest = max((float(group.get("lr", 1.0)) for group in state["param_groups"]), default=1.0)
    found: dict[str, Tensor] = {}
    kinds: set[str] = set()
    for group in state["param_groups"]:
        rate = float(group.get("lr", 1.0)) / largest if largest > 0 else 1.0
        for index in group["params"]:
            name = names.get(index)
            if name is None or name not in parameter_names:
                continue
            entry = state["state"].get(index)
            if not entry:
                raise InputError(f"the optimizer state has nothing for parameter {name!r}: it never took a step on it")
            kind, diagonal = _diagonal(entry, group, name)
            kinds.add(kind)
            found[name] = (rate * diagonal).reshape(named[name].shape).to(named[name].device)
    missing = [name for name in parameter_names if name not in found]
    if missing:
        raise InputError(f"the optimizer state does not cover parameter {missing[0]!r} ({len(missing)} are missing)")
    words = " and ".join(sorted(kinds))
    if optimizer is None:  # a state dict does not say whose it is
        return found, f"{words}-type diagonal, as its entries suggest, without momentum"
    return found, f"{words} diagonal, without momentum"


def _check_class(optimizer: Any) -> None:
    """Refuse an optimizer of torch's whose step is no fixed diagonal times the gradient; others go by their entries."""
    torchs = [c.__name__ for c in type(optimizer).__mro__ if c.__module__.startswith("torch.optim")]
    name = next((n for n in torchs if n != "Optimizer"), type(optimizer).__name__)
    if (torchs and torchs[0] != "Optimizer" and name not in LINEAR_OPTIMIZERS) or name in OTHER_OPTIMIZERS:
        known = ", ".join(LINEAR_OPTIMIZERS)
        raise InputError(
            f"{name} does not turn a gradient into a step by a fixed diagonal, so it gives no preconditioner: "
            f"the optimizers that do are {known}"
        )


def _names_by_identity(named: Mapping[str, Tensor], optimizer: Any, indices: list[int]) -> dict[int, str]:
    name_of = {id(parameter): name for name, parameter in named.items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {i: name_of[id(p)] for i, p in zip(indices, parameters, strict=True) if id(p) in name_of}
    if not found:
        raise InputError(
            "the optimizer holds none of the network's own parameters: it belongs to another network or to a copy; "
            "give its state_dict() if the copy is of this network"
        )
    return found


def _given_diagonal(
    named: Mapping[str, Tensor], parameter_names: list[str], state: Mapping[str, Any]
) -> tuple[dict[str, Tensor], str]:
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError("optimizer_state has neither 'state' and 'param_groups' nor one tensor per parameter name")
    found = {}
    for name in parameter_names:
        if name not in state:
            raise InputError(f"optimizer_state has no entry for parameter {name!r}")
        if state[name].shape != named[name].shape:
            shape, wanted = tuple(state[name].shape), tuple(named[name].shape)
            raise InputError(f"optimizer_state for {name!r} has shape {shape}, the parameter {wanted}")
        found[name] = state[name]
    return found, "diagonal as given"


def _names_of_indices(
    named: Mapping[str, Tensor], groups: list[Any], indices: list[int], entries: Mapping[int, Any]
) -> dict[int, str]:
    """Which parameter each index of the state dict stands for.

    Torch stores names only on request; otherwise the order within one group is that of
    ``module.parameters()``, all of them or those that require gradients, and the shapes have to agree.
    Several groups may hold any order: then only shapes that occur once in the network tell them apart.
    """
    if all("param_names" in group for group in groups):
        given = [name for group in groups for name in group["param_names"]]
        unknown = [name for name in given if name not in named]
        if not unknown:
            return dict(zip(indices, given, strict=True))
    if len(groups) > 1:
        by_shape: dict[torch.Size, list[str]] = {}
        for name, parameter in named.items():
            by_shape.setdefault(parameter.shape, []).append(name)
        shapes = {index: _shape(entries.get(index)) for index in indices}
        known = {index: by_shape.get(shape, []) for index, shape in shapes.items() if shape is not None}
        forced = {index: names[0] for index, names in known.items() if len(names) == 1}
        if not known or len(forced) < len(known) or len(set(forced.values())) < len(forced):
            raise InputError(
                f"the optimizer state has {len(groups)} groups without parameter names, and shapes alone do not say "
                "which entry belongs to which parameter: give the optimizer itself, or made from named_parameters()"
            )
        return forced
    trainable = [name for name, parameter in named.items() if parameter.requires_grad]
    for candidates in (list(named), trainable):
        if len(candidates) == len(indices):
            pairs = dict(zip(indices, candidates, strict=True))
            if all(_shape(entries.get(index)) in (None, named[name].shape) for index, name in pairs.items()):
                return pairs
    raise InputError(
        f"the optimizer state has {len(indices)} parameters that do not match the network's {len(named)} "
        "in number and shape: it belongs to another network or lists them in another order"
    )


def _shape(entry: Any) -> torch.Size | None:
    for key in ("exp_avg_sq", "square_avg", "sum"):
        if entry and key in entry:
            return entry[key].shape
    return None


def _diagonal(entry: Mapping[str, Any], group: Mapping[str, Any], name: str) -> tuple[str, Tensor]:
    """P of one parameter, float64 (THEORY §3.2)."""
    eps = float(group.get("eps", 1e-8))
    if "exp_avg_sq" in entry:
        second = entry.get("max_exp_avg_sq", entry["exp_avg_sq"]).double()
        step = float(entry["step"])
        if step < 1:
            raise InputError(f"the optimizer state of {name!r} has taken no step")
        return "Adam", 1 / ((second / (1 - float(group["betas"][1]) ** step)).sqrt() + eps)
    if "square_avg" in entry and "acc_delta" not in entry:
        second = entry["square_avg"].double()
        if group.get("centered"):
            second = (second - entry["grad_avg"].double().square()).clamp_min(0)
        return "RMSprop", 1 / (second.sqrt() + eps)
    if "sum" in entry:
        return "Adagrad", 1 / (entry["sum"].double().sqrt() + float(group.get("eps", 1e-10)))
    raise InputError(
        f"the optimizer state of {name!r} holds {', '.join(sorted(entry)) or 'nothing'}: only the second moments of "
        "Adam, RMSprop and Adagrad make a preconditioner (plain SGD needs none)"
    )
