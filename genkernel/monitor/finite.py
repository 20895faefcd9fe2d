"""Weights that are not finite, found before they make everything else so."""

from __future__ import annotations

import torch

from genkernel.errors import NonFiniteError
from genkernel.tangent import TangentModel


def require_finite_weights(model: TangentModel, whose: str) -> None:
    """Parameters and buffers are finite.

    Args:
        model: read where it is evaluated.
        whose: in words, ``"the generator"``.

    Raises:
        NonFiniteError: they are not; it names the first that is not, and how many there are.
    """
    bad = {
        name: int((~torch.isfinite(value)).sum())
        for name, value in model.state().items()
        # NaN and infinity reach the sum, which reads once; a sum that overflows by itself says nothing
        if value.is_floating_point() and not torch.isfinite(value.sum())
    }
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        first = next(iter(bad))
        others = f", and so do {len(bad) - 1} other parameters or buffers" if len(bad) > 1 else ""
        raise NonFiniteError(f"{whose}: {first!r} holds {bad[first]} NaN or infinite entries{others}")
