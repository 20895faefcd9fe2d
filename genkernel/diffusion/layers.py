"""Which layers carry the kernel, and how local each layer's own kernel is.

Kernels add over disjoint parameters, so the trace of the kernel (the summed squared gradient norms of
all samples) is shared out among the layers. Cosine kernels do not add: each layer's locality index is
that of its own normalised kernel, and a layer with a small share can have any index without mattering
to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.diffusion.locality import locality_index, window_mask
from genkernel.diffusion.resampling import Estimate, as_grid, bootstrap_stderr, bootstrap_weights, level_means
from genkernel.diffusion.results import LayerLocality, Levels

if TYPE_CHECKING:
    from genkernel.tangent import TangentModel

Index = NDArray[np.int64]


def layer_locality(
    layers: Mapping[str, Any],
    level_of: Index,
    image_of: Index,
    levels: Levels,
    *,
    parameters: Mapping[str, int] | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> list[LayerLocality]:
    """Share of the trace and locality index of every layer, in the order given.

    Args:
        layers: layer → kernel ``[N, N]`` over every image at every level.
        parameters: layer → number of parameters.
        bootstrap, seed: over images, as in ``level_kernel``. Layers are kept as means over the probes,
            so their errors have no probe part.

    Returns:
        One entry per layer; a layer whose gradient is zero everywhere has share 0 and index NaN.
    """
    traces = {name: float(np.trace(np.asarray(values))) for name, values in layers.items()}
    total = sum(traces.values())
    mask = window_mask(levels.timesteps, levels.window_timesteps)
    images = int(image_of.max()) + 1
    weights = bootstrap_weights(images, max(bootstrap, 2), seed)
    found = []
    for name, values in layers.items():
        blocks = as_grid(Estimate(np.asarray(values), normalize=True).values, level_of, image_of)
        replicates = locality_index(level_means(blocks, weights), mask)
        found.append(
            LayerLocality(
                name=name,
                share=traces[name] / total if total > 0 else 0.0,
                parameters=int((parameters or {}).get(name, 0)),
                index=float(locality_index(level_means(blocks), mask)),
                index_stderr=float(bootstrap_stderr(replicates, images)),
            )
        )
    return found


def parameters_per_layer(model: TangentModel) -> dict[str, int]:
    """Layer → number of entries of its selected parameters."""
    counts: dict[str, int] = {}
    for name, parameter in model.parameters.items():
        layer = model.layer_of(name)
        counts[layer] = counts.get(layer, 0) + parameter.numel()
    return counts
