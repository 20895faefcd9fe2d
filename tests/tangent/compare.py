"""How far a kernel is from what it should be."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genkernel.tangent import (
    Cotangents,
    TangentModel,
    batches,
    cotangent,
    exact_trace,
    output,
    probes,
    reference,
    total,
)
from tests.zoo import CASES, Case

N, M = 4, 2  # samples of x and of y; n equals many widths of the zoo on purpose
HEAVY = {"diffusers_unet_condition"}  # seconds in all; its quick test is the one with probes
BY_NAME = {case.name: case for case in CASES}

QUICK_OR_SLOW = [pytest.param(c, marks=pytest.mark.slow if c.name in HEAVY else (), id=c.name) for c in CASES]


def residual(outputs: Tensor, batch: Any) -> Tensor:
    """A per-sample vector made of outputs and batch: the gradient of a squared loss to a made-up target."""
    target = sum(leaf.reshape(len(leaf), -1).to(outputs).mean(1) for leaf in batches.tensors(batch))
    return outputs - torch.cos(target).reshape(-1, *[1] * (outputs.dim() - 1))


KINDS: dict[str, Cotangents] = {
    "total": total(),
    "output": output(0),
    "trace": exact_trace(),
    "probes": probes(3, seed=5),
    "residual": cotangent(residual),
}
LARGEST_TRACE = 12  # outputs; an exact trace costs one backward each


@cache
def shared_model(name: str) -> TangentModel:
    """One model per case, so that the proof of capture is made once; kernels leave models as they were."""
    return BY_NAME[name].model()


@cache
def truth(name: str, kind: str) -> dict[str, Tensor]:
    """The reference of a case: parameter → ``[q, N + M, N + M]`` over x followed by y."""
    case = BY_NAME[name]
    return reference.per_parameter(case.model(), samples(case), cotangents=KINDS[kind])


def samples(case: Case, n: int = N, m: int = M) -> Any:
    """x followed by y."""
    return batches.concatenate(case.batch(n, seed=11), case.batch(m, seed=12))


def reduced(terms: Tensor, kind: str) -> Tensor:
    """``[q, n, m]`` → ``[n, m]`` as the cotangent kind asks."""
    return terms.mean(0) if KINDS[kind].random else terms.sum(0)


def relative_error(found: Any, true: Any) -> float:
    """Frobenius norm of the difference over that of the truth."""
    found, true = (torch.as_tensor(k if isinstance(k, Tensor) else np.asarray(k)).detach() for k in (found, true))
    assert found.dtype == torch.float64
    assert found.shape == true.shape
    return float((found - true).norm() / true.norm().clamp_min(1e-300))
