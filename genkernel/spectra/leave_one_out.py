"""Leave-one-out trainings by gradient descent: the gap that they show, and what makes it grow and shrink.

    w: gradient descent on R = (1/n) Σ_j ℓ_j;  w^(-i): from the same start on R^(-i) = (1/n) Σ_{j≠i} ℓ_j
    δ̄ = (1/n) Σ_i [ℓ_i(w^(-i)) - ℓ_i(w)]            δ̄_{k+1} = (1 - η c̄_k) δ̄_k + η ε̄_k + O(η²)
    ε̄ = (1/n²) Σ_i ‖∇ℓ_i(w)‖²                         c̄ δ̄ = (1/n) Σ_i [∇ℓ_i·∇R^(-i)|w^(-i) - ∇ℓ_i·∇R^(-i)|w]

c̄ is the contraction factor, ε̄ the perturbation factor (Yang and Chaudhari, An Effective Gram Matrix Characterizes
Generalization in Deep Networks, 2025; reconstructed from its abstract, THEORY §10). Train loss + δ̄ estimates the
test loss in expectation over data sets of n - 1 samples, not that of one data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError
from genkernel.spectra.arrays import whole_number
from genkernel.spectra.descent import Descent, Weights, descent, dot, moved
from genkernel.tangent import TangentModel, batches

DIVERGED = 1e6  # times its first loss is a training that went away
TINY = 1e-12  # gaps below it, relative to the first loss, have no contraction factor (0/0)


@dataclass(frozen=True)
class LeaveOneOut:
    """A training by gradient descent on n samples, and trainings from the same start without one of them.

    Attributes:
        left_out: numbers of the samples that were left out ``[I]``.
        excess: ℓ_i(w^(-i)) - ℓ_i(w) by step ``[I, N + 1]``.
        pull: ∇ℓ_i·∇R^(-i) at w^(-i) less the same at w, by step ``[I, N]``; its mean is c̄ δ̄.
        perturbation: ε̄ by step ``[N]``, over all n samples.
        train_losses: (1/n) Σ ℓ_j(w) by step ``[N + 1]``.
        test_losses: the mean loss at w of ``held_out``, by step ``[N + 1]``; None without them.
        samples: n.
        lr: η.
    """

    left_out: Tensor
    excess: Tensor
    pull: Tensor
    perturbation: Tensor
    train_losses: Tensor
    test_losses: Tensor | None
    samples: int
    lr: float

    @property
    def gap(self) -> Tensor:
        """δ̄ by step ``[N + 1]``, mean over those left out."""
        return self.excess.mean(0)

    @property
    def gap_stderr(self) -> Tensor:
        """Its standard error ``[N + 1]`` for the mean over all n samples, if those left out were drawn at random.

        0 where all were left out, NaN where one was.
        """
        count = len(self.left_out)
        if count == self.samples:
            return torch.zeros_like(self.gap)
        if count == 1:
            return torch.full_like(self.gap, math.nan)
        return self.excess.std(0) * math.sqrt((1 - count / self.samples) / count)

    @property
    def contraction(self) -> Tensor:
        """c̄ by step ``[N]``; 0 where the gap is too small to divide by."""
        return pooled_contraction([self])

    def among(self, samples: Sequence[int] | Tensor) -> LeaveOneOut:
        """As if only these had been left out.

        Raises:
            InputError: one of them was not.
        """
        wanted = _numbers(samples, self.samples, "samples")
        places = {int(i): place for place, i in enumerate(self.left_out)}
        missing = [int(i) for i in wanted if int(i) not in places]
        if missing:
            raise InputError(f"there is no training without sample {missing[0]}")
        rows = torch.tensor([places[int(i)] for i in wanted])
        return replace(self, left_out=wanted, excess=self.excess[rows], pull=self.pull[rows])

    def predicted_gap(self, contraction: Tensor | Sequence[float] | None = None) -> Tensor:
        """The recursion δ̄_{k+1} = (1 - η c̄_k) δ̄_k + η ε̄_k from 0, by step ``[N + 1]``.

        It is r(0)ᵀ K r(0) of the effective Gram matrix after every step, up to the error of its propagator.

        Args:
            contraction: c̄ by step ``[N]`` from elsewhere, for a prediction; that of these trainings by default, which
                tests consistency.

        Raises:
            InputError: not one finite number per step.
        """
        return predicted_gap(self.perturbation, self.contraction if contraction is None else contraction, self.lr)

    def predicted_test_loss(self, contraction: Tensor | Sequence[float] | None = None) -> Tensor:
        """Train loss and the predicted gap, by step ``[N + 1]``. Args, Raises: as for :meth:`predicted_gap`."""
        return self.train_losses + self.predicted_gap(contraction)


def pooled_contraction(runs: Sequence[LeaveOneOut]) -> Tensor:
    """c̄ by step ``[N]`` of several data sets or seeds, Σ c̄ δ̄ / Σ δ̄: fewer spikes at small gaps than any of them has.

    Args:
        runs: with the same number of steps and rate.

    Raises:
        InputError: there is none, or steps or rates differ.
    """
    if not runs or len({(run.pull.shape[1], run.lr) for run in runs}) > 1:
        raise InputError("contraction factors are pooled over runs of the same number of steps and the same lr")
    pull = torch.stack([run.pull.mean(0) for run in runs]).sum(0)
    gap = torch.stack([run.gap[:-1] for run in runs]).sum(0)
    least = TINY * sum(float(run.train_losses[0]) for run in runs)
    return torch.where(gap.abs() > least, pull / gap, 0.0)


def predicted_gap(perturbation: Tensor, contraction: Tensor | Sequence[float], lr: float) -> Tensor:
    """δ̄ ``[N + 1]`` from ε̄ ``[N]``, c̄ ``[N]`` and η.

    Raises:
        InputError: not one finite number per step.
    """
    factors = contraction_factors(contraction, len(perturbation))
    found = [0.0]
    for c, eps in zip(factors.tolist(), perturbation.tolist(), strict=True):
        found.append((1 - lr * c) * found[-1] + lr * eps)
    return torch.tensor(found, dtype=torch.float64)


def contraction_factors(given: Tensor | Sequence[float], steps: int) -> Tensor:
    """c̄ by step ``[N]`` in float64.

    Raises:
        InputError: not one finite number per step.
    """
    factors = torch.as_tensor(given, dtype=torch.float64)
    if tuple(factors.shape) != (steps,) or not torch.isfinite(factors).all():
        raise InputError(f"contraction has one finite number per step [{steps}], not {tuple(factors.shape)}")
    return factors


def leave_one_out_gap(
    model: TangentModel | nn.Module | Any,
    x: Any,
    y: Tensor,
    *,
    lr: float,
    steps: int,
    loss: str = "squared",
    left_out: Sequence[int] | Tensor | None = None,
    held_out: tuple[Any, Tensor] | None = None,
    dtype: torch.dtype | str | None = "float64",
    memory: str | int = "2GiB",
    tick: Callable[[], object] = lambda: None,
) -> LeaveOneOut:
    """Train by full-batch gradient descent with all samples, and without single ones.

    Only plain gradient descent with a constant rate on the mean loss (1/n) Σ ℓ: mini-batches, momentum, weight decay
    and adaptive steps are not covered by the derivation.

    Args:
        model: a :class:`TangentModel`, a module or a domain wrapper, at the weights to start from; not changed. It
            runs in evaluation mode.
        x: n ≥ 2 samples, a pytree of tensors with a leading sample axis.
        y: targets ``[n]`` or ``[n, O]`` of the squared loss ℓ = ½ ‖f - y‖²; classes ``[n]`` of cross-entropy on logits.
        lr, steps: η and N.
        loss: ``"squared"`` or ``"cross-entropy"``.
        left_out: numbers of the samples to leave out, all by default. A few drawn at random cost less, and the gap
            then has a standard error.
        held_out: other samples and their targets, whose loss is kept by step beside the others.
        dtype: of the trainings: float64 unless something else is asked for. None for the model's own.
        memory: bound on what is held at a time; as many trainings as fit run together (n P numbers for all of them).
        tick: called after every step of every group of trainings.

    Raises:
        InputError: shapes, samples or numbers that make no sense; dropout or batch norm in training mode; one training
            does not fit into ``memory``.
        BatchCouplingError, RandomOutputError, CaptureError: the output is no function of one sample, or cannot be
            vectorised.
        NonFiniteError: NaN or infinity in weights or outputs, or a training diverged.

    Example:
        >>> import torch, genkernel.spectra as spectra
        >>> x = torch.linspace(-1, 1, 12)[:, None]
        >>> net = torch.nn.Linear(1, 1)
        >>> runs = spectra.leave_one_out_gap(net, x, x.square(), lr=0.1, steps=20)
        >>> runs.gap.shape, runs.excess.shape
        (torch.Size([21]), torch.Size([12, 21]))
    """
    steps, held_out = checked_steps(steps), checked_pair(held_out)
    with descent(model, x, y, lr, loss, dtype, memory) as problem:
        return trainings(problem, steps, left_out, held_out, tick)


def checked_steps(given: Any) -> int:
    """A number of steps.

    Raises:
        InputError: it is no whole number from 1.
    """
    steps = whole_number(given, "steps")
    if steps < 1:
        raise InputError(f"steps is a whole number from 1, not {steps}")
    return steps


def checked_pair(held_out: Any) -> tuple[Any, Tensor] | None:
    """Other samples and their targets.

    Raises:
        InputError: they are no pair.
    """
    if held_out is None:
        return None
    if not isinstance(held_out, (tuple, list)) or len(held_out) != 2:
        given = f"{len(held_out)} things" if isinstance(held_out, (tuple, list)) else type(held_out).__name__
        raise InputError(f"held_out is (x, y), other samples and their targets, not {given}")
    return held_out[0], held_out[1]


def trainings(
    d: Descent,
    steps: int,
    left_out: Sequence[int] | Tensor | None,
    held_out: tuple[Any, Tensor] | None,
    tick: Callable[[], object],
) -> LeaveOneOut:
    """What :func:`leave_one_out_gap` gives, of a problem that is checked."""
    numbers = _numbers(left_out, d.n, "left_out")
    whole = _on_all(d, steps, held_out, tick)
    excess, pull = [], []
    for group in numbers.split(d.trainings_together()):
        losses, pulls = _without(d, steps, group, tick)
        apart = losses - whole.losses[:, group]
        apart[0] = 0.0  # the same weights: what differs there is the order of sums
        excess.append(apart)
        pull.append(pulls - whole.pulls[:, group])
    return LeaveOneOut(
        left_out=numbers,
        excess=torch.cat(excess, 1).T.contiguous(),
        pull=torch.cat(pull, 1).T.contiguous(),
        perturbation=whole.squares.sum(1) / d.n**2,
        train_losses=whole.losses.mean(1),
        test_losses=whole.test_losses,
        samples=d.n,
        lr=d.lr,
    )


@dataclass(frozen=True)
class _Whole:
    """The training on all: losses ``[N + 1, n]``, ∇ℓ_i·∇R^(-i) and ‖∇ℓ_i‖² ``[N, n]``."""

    losses: Tensor
    pulls: Tensor
    squares: Tensor
    test_losses: Tensor | None


def _on_all(d: Descent, steps: int, held_out: tuple[Any, Tensor] | None, tick: Callable[[], object]) -> _Whole:
    w = d.start
    shares = torch.full((d.n,), 1 / d.n, dtype=d.dtype, device=d.model.device)
    others = None
    if held_out is not None:
        xs = batches.move(held_out[0], d.model.device, d.dtype)
        others = (xs, d.targets(held_out[1], batches.size(xs)))
    losses, pulls, squares, test = [], [], [], []
    groups = torch.arange(d.n).split(d.samples_together())
    for step in range(steps + 1):
        if others is not None:
            test.append(float(d.losses(d.evaluate(w, others[0]), others[1]).mean()))
        mean, own = d.gradient(w, shares)
        losses.append(own.double().cpu())
        require_descent(losses[-1].mean(), losses[0].mean(), step, "on all samples")
        if step == steps:
            break
        along, size = [], []
        for group in groups:
            g = d.sample_gradients(w, group)
            size.append(dot(g, g))
            along.append(dot(g, mean) - size[-1] / d.n)
        squares.append(torch.cat(size).double().cpu())
        pulls.append(torch.cat(along).double().cpu())
        w = moved(w, mean, d.lr)
        tick()
    return _Whole(
        torch.stack(losses),
        torch.stack(pulls),
        torch.stack(squares),
        torch.tensor(test, dtype=torch.float64) if others is not None else None,
    )


def _without(d: Descent, steps: int, group: Tensor, tick: Callable[[], object]) -> tuple[Tensor, Tensor]:
    """ℓ_i(w^(-i)) ``[N + 1, b]`` and ∇ℓ_i·∇R^(-i) at w^(-i) ``[N, b]``."""
    rows = torch.arange(len(group))
    shares = torch.full((len(group), d.n), 1 / d.n, dtype=d.dtype, device=d.model.device)
    shares[rows, group] = 0
    many: Weights = {name: w.expand(len(group), *w.shape).clone() for name, w in d.start.items()}
    losses, pulls, start = [], [], torch.zeros(0)
    for step in range(steps + 1):
        R, all_losses = d.gradients(many, shares)
        own = all_losses[rows, group]
        whole = all_losses.mean(1)
        start = start if step else whole
        require_descent(whole, start, step, "without a sample")
        losses.append(own.double().cpu())
        if step == steps:
            break
        pulls.append(dot(d.own_gradients(many, group), R).double().cpu())
        many = moved(many, R, d.lr)
        tick()
    return torch.stack(losses), torch.stack(pulls)


def require_descent(loss: Tensor, first: Tensor, step: int, which: str = "") -> None:
    """Refuse trainings that diverge.

    Args:
        loss: mean loss now, of one training or several.
        first: at the first weights.
        step, which: for the message.

    Raises:
        NonFiniteError: a loss is not finite, or ``DIVERGED`` times as large as at first.
    """
    grown = loss > DIVERGED * first.clamp_min(torch.finfo(loss.dtype).tiny)
    if not torch.isfinite(loss).all() or bool(grown.any()):
        of = f"the training {which}".rstrip()
        worst = float(loss.max())
        raise NonFiniteError(f"{of} diverged: its loss is {worst:.1e} after {step} steps; take a smaller lr")


def _numbers(given: Sequence[int] | Tensor | None, n: int, name: str) -> Tensor:
    """Numbers of different samples ``[I]``."""
    if given is None:
        return torch.arange(n)
    found = torch.as_tensor(given).cpu()
    whole = not found.is_floating_point() and found.dtype != torch.bool
    if found.dim() != 1 or not len(found) or not whole or int(found.min()) < 0 or int(found.max()) >= n:
        raise InputError(f"{name} names samples from 0 to {n - 1}, one or more")
    if len(found.unique()) != len(found):
        raise InputError(f"{name} names a sample twice")
    return found.long()
