"""The effective Gram matrix: the leave-one-out gap of gradient descent as a quadratic form in the first residual.

    K ← (1 - η c̄_k) K + (η / n²) Φ_kᵀ D_k Φ_k,       Φ_{k+1} = (I - (η/n) H̄_k J̄_k J_kᵀ) Φ_k,  D = blockdiag(J_i J_iᵀ)
    r(k) = Φ_k r(0),      δ̄ = r(0)ᵀ K r(0)

with the gap δ̄ and its contraction factor c̄ of :mod:`genkernel.spectra.leave_one_out`, the Jacobian J̄ at the middle
of the step, and H̄ = I for the squared loss, the secant Hessian of cross-entropy otherwise (Yang and Chaudhari, An
Effective Gram Matrix Characterizes Generalization in Deep Networks, 2025; reconstructed, THEORY §10).

With c̄ from the same leave-one-out runs, that the form equals the gap is nearly an identity: a test of consistency. A
prediction takes c̄ from elsewhere. Only for full-batch gradient descent with a constant rate: mini-batches, momentum
and adaptive steps are not covered by the derivation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.spectra.arrays import whole_number
from genkernel.spectra.descent import Descent, Weights, descent, moved
from genkernel.spectra.leave_one_out import (
    LeaveOneOut,
    checked_pair,
    checked_steps,
    contraction_factors,
    require_descent,
    trainings,
)
from genkernel.tangent import TangentModel


@dataclass(frozen=True)
class EffectiveGram:
    """The matrix of one training by gradient descent, and how far to trust it.

    Attributes:
        matrix: K ``[nO, nO]``, symmetric, rows (sample, output).
        residual: r(0) = ∂ℓ/∂f at the start ``[nO]``.
        outputs: O.
        loss: ``"squared"`` or ``"cross-entropy"``.
        lr: η.
        contraction: c̄ by step ``[N]`` that K was made with.
        perturbation: ε̄ by step ``[N]``.
        train_losses: (1/n) Σ ℓ by step ``[N + 1]``.
        propagator_error: ‖Φ_N r(0) - r(N)‖ / ‖r(0)‖: rounding and the midpoint's error, more where ReLUs switch.
        runs: the leave-one-out trainings; None where there are none.
        snapshots: K after some steps, by their number.
    """

    matrix: Tensor
    residual: Tensor
    outputs: int
    loss: str
    lr: float
    contraction: Tensor
    perturbation: Tensor
    train_losses: Tensor
    propagator_error: float
    runs: LeaveOneOut | None
    snapshots: dict[int, Tensor] = field(default_factory=dict)

    @property
    def quadratic(self) -> float:
        """r(0)ᵀ K r(0)."""
        return float(self.residual @ self.matrix @ self.residual)

    @property
    def predicted_test_loss(self) -> float:
        """Train loss + the quadratic form: the test loss of trainings on n - 1 samples, in the mean over data sets."""
        return float(self.train_losses[-1]) + self.quadratic

    @property
    def non_negative(self) -> bool:
        """No weight of the sum is negative (η c̄ ≤ 1 at every step but the first), so that K is positive semi-definite.

        Otherwise the gap came so near to zero, or changed so fast, that K may have negative eigenvalues.
        """
        return bool((1 - self.lr * self.contraction[1:] >= 0).all())

    def basis(self) -> Tensor | None:
        """An orthonormal basis ``[nO, m]`` of the residuals there can be; None where that is all of them.

        Residuals of cross-entropy sum to zero over the outputs, so m = n (O - 1).
        """
        if self.loss == "squared":
            return None
        ones = torch.ones(self.outputs, 1, dtype=torch.float64)
        q, _ = torch.linalg.qr(torch.cat([ones, torch.eye(self.outputs, dtype=torch.float64)[:, 1:]], 1))
        return torch.kron(torch.eye(len(self.residual) // self.outputs, dtype=torch.float64), q[:, 1:].contiguous())


def effective_gram_matrix(
    model: TangentModel | nn.Module | Any,
    x: Any,
    y: Tensor,
    *,
    lr: float,
    steps: int,
    loss: str = "squared",
    left_out: Sequence[int] | Tensor | None = None,
    contraction: Tensor | Sequence[float] | None = None,
    snapshots: Sequence[int] = (),
    held_out: tuple[Any, Tensor] | None = None,
    dtype: torch.dtype | str | None = "float64",
    memory: str | int = "2GiB",
    tick: Callable[[], object] = lambda: None,
) -> EffectiveGram:
    """Train by full-batch gradient descent, with and without single samples, and make the matrix.

    Args:
        model, x, y, lr, steps, loss, held_out, dtype, memory, tick: as for
            :func:`genkernel.spectra.leave_one_out_gap`; ``memory`` has to hold two Jacobians ``[nO, P]`` and some
            matrices ``[nO, nO]`` as well.
        left_out: numbers of the samples that trainings are made without; all by default, none where ``contraction``
            is given.
        contraction: c̄ by step ``[N]`` from elsewhere, for a prediction; of the trainings here by default.
        snapshots: steps (1 to N) after which K is kept as well.

    Raises:
        InputError, BatchCouplingError, RandomOutputError, CaptureError, NonFiniteError: as for
            :func:`genkernel.spectra.leave_one_out_gap`; the matrix does not fit into ``memory``; ``contraction`` is not
            one finite number per step; the network fits the targets from the start.

    Example:
        >>> import torch, genkernel.spectra as spectra
        >>> x = torch.linspace(-1, 1, 12)[:, None]
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> gram = spectra.effective_gram_matrix(net, x, x.square(), lr=0.1, steps=50)
        >>> gram.matrix.shape
        torch.Size([12, 12])
    """
    steps, held_out = checked_steps(steps), checked_pair(held_out)
    snapshots = [whole_number(step, "a snapshot's step") for step in snapshots]
    wrong = [step for step in snapshots if not 1 <= step <= steps]
    if wrong:
        raise InputError(f"snapshots are steps from 1 to {steps}, not {wrong[0]!r}")
    factors = None if contraction is None else contraction_factors(contraction, steps)
    with descent(model, x, y, lr, loss, dtype, memory) as problem:
        _check_size(problem, len(set(snapshots)))
        runs = None
        if factors is None or left_out is not None:
            runs = trainings(problem, steps, left_out, held_out, tick)
        if factors is None:
            assert runs is not None
            factors = runs.contraction
        return _matrix(problem, steps, factors, runs, set(snapshots), tick)


def _check_size(d: Descent, kept: int) -> None:
    rows = d.n * d.outputs
    d.fit(
        d.dtype.itemsize * (3 * rows * d.size + (8 + kept) * rows**2),
        f"an effective Gram matrix of {rows} rows, with Jacobians in {d.size:,} parameters,",
    )


def _matrix(
    d: Descent, steps: int, factors: Tensor, runs: LeaveOneOut | None, kept: set[int], tick: Callable[[], object]
) -> EffectiveGram:
    n, outputs, rows = d.n, d.outputs, d.n * d.outputs
    w = d.start
    f = d.evaluate(w)
    start = r = d.residuals(f, d.y).reshape(-1)
    size = float(start.norm())
    if not size:
        raise InputError("the network fits the targets at its first weights: there is no residual to start from")
    phi = torch.eye(rows, dtype=d.dtype, device=start.device)
    K = torch.zeros_like(phi)
    train, perturbation, snapshots = [float(d.losses(f, d.y).mean())], [], {}
    for step, c in enumerate(factors.tolist()):
        J = d.jacobian(w)
        g = (J * r.view(n, outputs, 1)).sum(1)
        D_phi = (J @ J.mT) @ phi.view(n, outputs, rows)
        K = (1 - d.lr * c) * K + d.lr / n**2 * (phi.T @ D_phi.view(rows, rows))
        perturbation.append(float(g.square().sum()) / n**2)
        mean = _named(g.mean(0), w)
        middle = d.jacobian(moved(w, mean, d.lr / 2)).view(rows, -1)
        w = moved(w, mean, d.lr)
        after = d.evaluate(w)
        change = (middle @ J.view(rows, -1).T) @ phi
        secant = d.secant(f, after)
        if secant is not None:
            change = (secant @ change.view(n, outputs, rows)).view(rows, rows)
        phi = phi - d.lr / n * change
        f = after
        r = d.residuals(f, d.y).reshape(-1)
        train.append(float(d.losses(f, d.y).mean()))
        require_descent(torch.tensor(train[-1]), torch.tensor(train[0]), step + 1)
        if step + 1 in kept:
            snapshots[step + 1] = _tidied(K, d)
        tick()
    return EffectiveGram(
        matrix=_tidied(K, d),
        residual=start.double().cpu(),
        outputs=outputs,
        loss=d.loss,
        lr=d.lr,
        contraction=factors,
        perturbation=torch.tensor(perturbation, dtype=torch.float64),
        train_losses=torch.tensor(train, dtype=torch.float64),
        propagator_error=float((phi @ start - r).norm()) / size,
        runs=runs,
        snapshots=snapshots,
    )


def _tidied(K: Tensor, d: Descent) -> Tensor:
    """Symmetric in the last digit, and on the residuals that there can be (zero sum over logits)."""
    K = K.double().cpu()
    if d.loss == "cross-entropy":
        blocks = K.view(d.n, d.outputs, d.n, d.outputs)
        blocks = blocks - blocks.mean(1, keepdim=True)
        K = (blocks - blocks.mean(3, keepdim=True)).reshape(K.shape)
    return (K + K.T) / 2


def _named(flat: Tensor, w: Weights) -> Weights:
    parts = flat.split([p.numel() for p in w.values()])
    return {name: part.view_as(p) for (name, p), part in zip(w.items(), parts, strict=True)}
