"""The stochastic gradient kernel: K_{s,t} of a network over random training runs, and its expectation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.paths.losses import LossFunction
from genkernel.paths.stochastic.problems import model_problem, unflattened
from genkernel.paths.stochastic.sde import Optimizer, simulate_discrete
from genkernel.tangent import kernel
from genkernel.tangent.cotangents import Cotangents, exact_trace
from genkernel.tangent.model import TangentModel, as_tangent_model
from genkernel.tangent.result import cosines

Array = NDArray[np.float64]
Normalization = Literal["none", "each", "mean"]

_MEANING = {
    "none": "raw kernels",
    "each": "every run's kernel normalised with its own gradient norms, then averaged",
    "mean": "kernels and squared gradient norms averaged over runs, then normalised (spread by the jackknife)",
}

# (initial weights differ, batch orders differ)
_RANDOMNESS = {
    (True, True): "initial weights and batch order",
    (True, False): "initial weights, at a fixed batch order",
    (False, True): "batch order, at fixed initial weights",
    (False, False): "nothing: one run, at fixed initial weights and a fixed batch order",
}


@dataclass(frozen=True)
class KernelEnsemble:
    """Kernels K_{s,t}(x, x') of R training runs.

    Attributes:
        kernels: ``[R, n, m]``, raw; cosines with ``normalization="each"``.
        norms_x, norms_y: squared gradient norms k_{s,s}(x, x) ``[R, n]`` and k_{t,t}(x', x') ``[R, m]``.
        mean, sd, stderr: over runs ``[n, m]``; sd is (R − 1)-normalised, stderr = sd / √R.
        normalization: ``"none"``, ``"each"`` or ``"mean"``.
        meaning: what was averaged, in words.
        randomness: what differs between the runs, in words.
        steps: (s, t) in steps of the optimizer.
        batch_seeds, init_seeds: of every run ``[R]``; init_seeds is None when all runs start at the same weights.
    """

    kernels: Array
    norms_x: Array
    norms_y: Array
    mean: Array
    sd: Array
    stderr: Array
    normalization: str
    meaning: str
    randomness: str
    steps: tuple[int, int]
    batch_seeds: tuple[int, ...]
    init_seeds: tuple[int, ...] | None


def kernel_ensemble(
    model: TangentModel | nn.Module,
    loss_fn: LossFunction,
    data: Any,
    x: Any,
    y: Any = None,
    *,
    optimizer: Optimizer,
    eta: float,
    steps: tuple[int, int],
    batch_size: int,
    batch_seeds: Sequence[int],
    init_seeds: Sequence[int] | None = None,
    init: Callable[[int], Any] | None = None,
    normalize: Normalization = "none",
    replacement: bool = False,
    cotangents: Cotangents | None = None,
) -> KernelEnsemble:
    """Train R times and take the tangent kernel between step s and step t of every run.

    The expectation of the stochastic Domingos theorems (Guo, He & Morel, Thms 3.4–3.7) is over batches at a fixed
    θ_0: vary ``batch_seeds`` alone. Over initialisations it is another ensemble: vary ``init_seeds``. Runs are
    independent, so they pair one by one, and one seed of either kind is shared by all runs.

    Training is in float64 and evaluation mode, on a copy of the model; all runs go through it at once.

    Args:
        model: a TangentModel or a module; its weights are θ_0 unless ``init_seeds`` are given.
        loss_fn: ``loss_fn(module, batch) -> Tensor[n]``, per-sample losses.
        data: the training samples, a pytree of tensors with a leading axis.
        x, y: samples of the two sides of the kernel, n and m of them; y = None for x again.
        optimizer: :class:`~genkernel.paths.stochastic.sde.SGD`, ``SGDM``, ``RMSprop`` or ``Adam``.
        eta: learning rate.
        steps: (s, t): the side of x is taken after s steps, the side of y after t.
        batch_size, replacement: how batches are drawn, independently at every step.
        batch_seeds: one per run.
        init_seeds: one per run, for ``init``.
        init: seed → weights, as ``TangentModel.at`` takes them (a state dict, a module, …).
        normalize: ``"none"``; ``"each"``: K/√(k_ss(x,x) k_tt(x′,x′)) of every run, then the average; ``"mean"``: the
            average of kernels and of norms first. These are different numbers; the result says which it holds.
        cotangents: which scalar of the output is differentiated; the exact trace by default.

    Raises:
        InputError: lengths of seeds that do not pair, ``init_seeds`` without ``init`` or the other way round, or what
            the simulation and the kernel refuse.
        NonFiniteError: training diverges.
    """
    model = as_tangent_model(model)
    if normalize not in _MEANING:
        raise InputError(f"normalize is 'none', 'each' or 'mean', not {normalize!r}")
    if len(steps) != 2 or min(steps) < 0:
        raise InputError(f"steps={steps!r}: give (s, t), the steps of the two sides of the kernel")
    batch_seeds, init_seeds, randomness = _paired(batch_seeds, init_seeds, init)
    runs = len(batch_seeds)
    if normalize == "mean" and runs < 2:
        raise InputError("normalize='mean' has its spread from leaving runs out: give at least two")
    problem, theta0 = model_problem(model, loss_fn, data)
    if init_seeds is not None:
        assert init is not None
        theta0 = torch.stack([_flat(model.at(init(seed))) for seed in init_seeds])
    first, second = _weights(problem, theta0, optimizer, eta, steps, batch_size, batch_seeds, replacement)
    shapes = {name: p.shape for name, p in model.parameters.items()}
    values, norms_x, norms_y, coverage = [], [], [], None
    for theta_s, theta_t in zip(first, second, strict=True):
        at_s = model.at(unflattened(theta_s, shapes), strict=False)
        at_t = None if steps[0] == steps[1] else model.at(unflattened(theta_t, shapes), strict=False)
        one = kernel(
            at_s, x, y, model_y=at_t, cotangents=cotangents or exact_trace(), by=None, dtype=torch.float64,
            coverage=coverage, distributed=False, progress=False,
        )  # fmt: skip
        coverage = one.coverage  # the same network at other weights
        values.append(one.values)
        norms_x.append(one.norms_x)
        norms_y.append(one.norms_y)
    raw, left, right = torch.stack(values), torch.stack(norms_x), torch.stack(norms_y)
    kept = torch.stack([cosines(*one) for one in zip(raw, left, right, strict=True)]) if normalize == "each" else raw
    mean, sd = kept.mean(0), kept.std(0) if runs > 1 else torch.full_like(kept[0], math.nan)
    if normalize == "mean":
        mean = cosines(raw.mean(0), left.mean(0), right.mean(0))
        sd = _jackknife(raw, left, right) * math.sqrt(runs)
    return KernelEnsemble(
        kernels=kept.numpy(),
        norms_x=left.numpy(),
        norms_y=right.numpy(),
        mean=mean.numpy(),
        sd=sd.numpy(),
        stderr=(sd / math.sqrt(runs)).numpy(),
        normalization=normalize,
        meaning=_MEANING[normalize],
        randomness=randomness,
        steps=(int(steps[0]), int(steps[1])),
        batch_seeds=batch_seeds,
        init_seeds=init_seeds,
    )


def _paired(
    batch_seeds: Sequence[int], init_seeds: Sequence[int] | None, init: Callable[[int], Any] | None
) -> tuple[tuple[int, ...], tuple[int, ...] | None, str]:
    """Seeds of every run, and what is random in words."""
    if (init_seeds is None) != (init is None):
        raise InputError("init_seeds= and init= belong together: init(seed) gives the weights a run begins with")
    batch, start = tuple(batch_seeds), None if init_seeds is None else tuple(init_seeds)
    if not batch or start == ():
        raise InputError("give at least one seed: batch_seeds has one per run")
    differs = start is not None and len(set(start)) > 1, len(set(batch)) > 1
    words = _RANDOMNESS[differs]
    if start is None:
        return batch, None, words
    runs = max(len(batch), len(start))
    if len(batch) not in (1, runs) or len(start) not in (1, runs):
        raise InputError(
            f"{len(batch)} batch_seeds and {len(start)} init_seeds: runs pair them one by one, so give as many of "
            "both, or a single one that all runs share"
        )
    return batch * (runs // len(batch)), start * (runs // len(start)), words


def _weights(
    problem: Any,
    theta0: Tensor,
    optimizer: Optimizer,
    eta: float,
    steps: tuple[int, int],
    batch_size: int,
    batch_seeds: tuple[int, ...],
    replacement: bool,
) -> tuple[Tensor, Tensor]:
    """θ of every run at step s and at step t, each ``[R, P]``."""
    trained = simulate_discrete(
        problem, theta0, optimizer, eta=eta, steps=max(*steps, 1), batch_size=batch_size, seeds=batch_seeds,
        replacement=replacement, at=steps, keep=True,
    )  # fmt: skip
    assert trained.values is not None
    every = torch.from_numpy(trained.values)
    return every[0 if steps[0] <= steps[1] else -1], every[-1 if steps[0] <= steps[1] else 0]


def _flat(model: TangentModel) -> Tensor:
    tensors = model.tensors(torch.float64)
    return torch.cat([tensors[name].detach().reshape(-1) for name in model.parameter_names])


def _jackknife(raw: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The standard error of a ratio of averages over runs ``[n, m]``."""
    runs = len(raw)
    total = raw.sum(0), left.sum(0), right.sum(0)
    out = torch.stack([
        cosines(*((whole - part) / (runs - 1) for whole, part in zip(total, one, strict=True)))
        for one in zip(raw, left, right, strict=True)
    ])  # fmt: skip
    return ((runs - 1) / runs * (out - out.mean(0)).square().sum(0)).sqrt()
