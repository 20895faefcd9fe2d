"""How far numbers that should agree may differ, and in which precision that is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from genkernel.errors import BatchCouplingError, GenkernelError
from genkernel.tangent.model import TangentModel

Found = TypeVar("Found")

#: parameters above which a float64 copy of the model would be the largest thing in memory
LARGE = 200_000_000


@dataclass(frozen=True)
class Tolerance:
    """Relative disagreement allowed: of one parameter's gradient, and of outputs under another batch."""

    gradient: float
    coupling: float


# Rounding in float32 stays below the strict one in most networks; what exceeds it is judged in
# float64, and by the loose one where a model does not run in float64.
_STRICT = Tolerance(1e-4, 2e-5)
_LOOSE = {torch.float64: Tolerance(1e-8, 1e-7), torch.float32: Tolerance(2e-3, 1e-3)}
_COARSE = Tolerance(5e-2, 5e-2)


class Doubt(Exception):
    """Something disagrees by more than rounding usually does in this precision."""


def tolerance(dtype: torch.dtype, strict: bool = False) -> Tolerance:
    """``strict``: what differs by more is in doubt, not wrong."""
    return _STRICT if strict else _LOOSE.get(dtype, _COARSE)


def in_some_precision(model: TangentModel, run: torch.dtype, attempt: Callable[[torch.dtype, bool], Found]) -> Found:
    """``attempt(precision, strict)`` in the precision of the run where that is conclusive, else in float64, or any.

    Args:
        run: dtype of the later run; in place of a coarser one than float32 comes float32.
        attempt: raises :class:`Doubt` where something differs by more than the strict tolerance.
    """
    numel = sum(p.numel() for p in model.parameters.values())
    double = numel <= LARGE or model.dtype == torch.float64
    first = run if run in _LOOSE else torch.float32
    attempts = [(first, first != torch.float64 and double)]
    if double:
        attempts.append((torch.float64, False))
    attempts += [(first, False), (model.dtype, False)]
    failure: Exception | None = None
    for precision, strict in dict.fromkeys(attempts):
        try:
            return attempt(precision, strict)
        except Doubt:
            continue
        except GenkernelError:
            raise
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            failure = failure or error  # a model with a dtype of its own, or an operation without this one
    assert failure is not None
    raise failure


def coupled(model: TangentModel, moved: float, where: str) -> BatchCouplingError:
    """What to say about a model whose output for one sample depends on others."""
    how = (
        "batch_norm='train' normalises with the batch's own statistics; use batch_norm='eval', or "
        "batch_norm='frozen' with a reference batch"
        if model.batch_norm == "train"
        else "per-sample gradients do not exist for it; remove the coupling (batch statistics, attention "
        "or sums over the batch axis), or fold the coupled samples into one"
    )
    return BatchCouplingError(f"the output for one sample changes by {moved:.2g} {where}: {how}")
