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
from genkernel.tangent import TangentModel
from genkernel.tangent.optimizers import diagonal_of

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


def optimizer_preconditioner(
    module: torch.nn.Module, parameter_names: list[str], state: Any
) -> tuple[dict[str, Tensor], str]:
    """The diagonal P of an optimizer at a checkpoint, for the selected parameters.

    As :meth:`genkernel.tangent.Preconditioner.from_optimizer` has it: momentum is left out, and where groups
    have different learning rates, P carries their ratio to the largest.

    Args:
        module: the network the optimizer trained.
        parameter_names: names of the parameters that span the kernel.
        state: a torch optimizer, its ``state_dict()``, or a mapping parameter name → diagonal of P.

    Returns:
        P by parameter name (shaped like the parameters), and what it is, in words.

    Raises:
        InputError: the state gives no preconditioner, or does not fit the module.
    """
    if isinstance(state, Mapping) and not {"state", "param_groups"} & state.keys():
        return _given_diagonal(dict(module.named_parameters()), parameter_names, state)
    model = TangentModel(module, params=set(parameter_names).__contains__)
    found, words = diagonal_of(state, model)
    if all(bool((diagonal == 1).all()) for diagonal in found.values()):
        raise InputError(
            "this optimizer multiplies all gradients by the same number, as plain SGD does: leave optimizer_state out, "
            "the interference is the same with it"
        )
    return found, words


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
