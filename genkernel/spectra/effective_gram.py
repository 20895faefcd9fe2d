"""The effective Gram matrix: the leave-one-out gap of gradient descent as a quadratic form in the first residual.

    w: gradient descent on R = (1/n) Σ_j ℓ_j;  w^(-i): from the same start on R^(-i) = (1/n) Σ_{j≠i} ℓ_j
    δ̄ = (1/n) Σ_i [ℓ_i(w^(-i)) - ℓ_i(w)]            δ̄_{k+1} = (1 - η c̄_k) δ̄_k + η ε̄_k + O(η²)
    ε̄ = (1/n²) Σ_i ‖∇ℓ_i(w)‖²                         c̄ δ̄ = (1/n) Σ_i [∇ℓ_i·∇R^(-i)|w^(-i) - ∇ℓ_i·∇R^(-i)|w]
    K ← (1 - η c̄_k) K + (η / n²) Φ_kᵀ D_k Φ_k,       Φ_{k+1} = (I - (η/n) J̄_k J̄_kᵀ H) Φ_k,  D = blockdiag(J_i J_iᵀ)
    δ̄ = r(0)ᵀ K r(0)

(Yang and Chaudhari, An Effective Gram Matrix Characterizes Generalization in Deep Networks, 2025; reconstructed, THEORY
§10.) Valid for full-batch gradient descent on a squared loss, ℓ = ½ ‖f - y‖²; mini-batches, momentum and adaptive
steps are not covered by the derivation. With c̄ from the same leave-one-out runs the equality of δ̄ and the form is
nearly an identity: a test of consistency. A prediction takes c̄ from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from genkernel.errors import InputError, NonFiniteError

Weights = dict[str, Tensor]
TINY = 1e-12  # gaps below it, relative to the first loss, have no contraction factor


@dataclass(frozen=True)
class EffectiveGram:
    """A training by gradient descent, its leave-one-out gap, and the matrix that gives it.

    Attributes:
        matrix: K ``[nO, nO]``, rows (sample, output).
        residual: r(0) ``[nO]``.
        quadratic: r(0)ᵀ K r(0).
        gap: δ̄ at the end, mean over the samples that were left out.
        gap_stderr: its standard error over them (0 where all were).
        gaps: δ̄ by step ``[N + 1]``.
        contraction: c̄ by step ``[N]``, what K was made with.
        perturbation: ε̄ by step ``[N]``.
        propagator_error: ‖Φ_N r(0) - r(N)‖ / ‖r(0)‖.
        train_loss: (1/n) Σ ℓ at the end; with the gap the predicted test loss.
        left_out: numbers of the samples that were.
    """

    matrix: Tensor
    residual: Tensor
    quadratic: float
    gap: float
    gap_stderr: float
    gaps: Tensor
    contraction: Tensor
    perturbation: Tensor
    propagator_error: float
    train_loss: float
    left_out: Tensor

    @property
    def predicted_test_loss(self) -> float:
        """Train loss and the quadratic form: the test loss of trainings on n - 1 samples, in the mean over data."""
        return self.train_loss + self.quadratic


def effective_gram_matrix(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    lr: float,
    steps: int,
    left_out: Sequence[int] | Tensor | None = None,
    contraction: Tensor | Sequence[float] | None = None,
    call: Callable[[nn.Module, Tensor], Tensor] | None = None,
    tick: Callable[[], object] = lambda: None,
) -> EffectiveGram:
    """Train by full-batch gradient descent on ½ ‖f - y‖², with and without single samples, and make the matrix.

    Args:
        module: the network, in the mode that it is to have, at the weights to start from; it is not changed.
        x: n samples.
        y: targets ``[n]`` or ``[n, O]``.
        lr, steps: η and N.
        left_out: numbers of the samples that trainings are made without (all by default): n P numbers are held.
        contraction: c̄ by step ``[N]`` from elsewhere, for a prediction; from these trainings by default.
        call: ``call(module, x) -> f [n, O]``; the module itself by default.
        tick: called after every step.

    Raises:
        InputError: shapes, samples or numbers that make no sense.
        NonFiniteError: a training diverged.
    """
    n = len(x)
    if not 0 < lr < float("inf") or steps < 1 or n < 2:
        raise InputError("gradient descent needs lr > 0, steps from 1, and two samples or more")
    every = torch.arange(n) if left_out is None else torch.as_tensor(left_out, dtype=torch.long)
    if not len(every) or int(every.min()) < 0 or int(every.max()) >= n or len(every.unique()) != len(every):
        raise InputError(f"left_out names different samples of 0 to {n - 1}")
    if contraction is not None and len(contraction) != steps:
        raise InputError(f"contraction has one number per step [{steps}], not {len(contraction)}")
    run = call or (lambda m, batch: m(batch))
    w = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    def outputs(own: Weights, batch: Tensor) -> Tensor:
        return functional_call(_Called(module, run), {f"module.{k}": v for k, v in own.items()}, (batch,)).reshape(
            len(batch), -1
        )

    target = y.reshape(n, -1).to(next(iter(w.values())))
    width = target.shape[1]
    if tuple(outputs(w, x[:1]).shape) != (1, width):
        raise InputError(f"the network has {outputs(w, x[:1]).shape[1]} outputs, and the targets {width}")
    jacobian = vmap(jacrev(lambda own, one: outputs(own, one[None])[0]), in_dims=(None, 0))

    def rows(own: Weights) -> Tensor:
        found = jacobian(own, x)
        return torch.cat([found[name].reshape(n * width, -1) for name in w], 1)

    def half_square(own: Weights, weights: Tensor) -> Tensor:
        return (weights * 0.5 * (outputs(own, x) - target).square().sum(1)).sum()

    both = vmap(grad(half_square), in_dims=(0, 0))
    held = torch.ones(len(every), n).to(target)
    held[torch.arange(len(every)), every] = 0
    alone = 1 - held
    many = {name: p.expand(len(every), *p.shape).clone() for name, p in w.items()}

    def flat(found: Weights) -> Tensor:
        return torch.cat([found[name].reshape(len(every), -1) for name in w], 1)

    Phi = torch.eye(n * width).to(target)
    K = torch.zeros_like(Phi)
    start = (outputs(w, x) - target).reshape(-1)
    scale = float(0.5 * start.square().sum() / n)
    gaps, factors, perturbations = [0.0], [], []
    r = start
    own_losses = torch.zeros(len(every))
    for k in range(steps):
        J = rows(w)
        g = (J.view(n, width, -1) * r.view(n, width, 1)).sum(1)  # [n, P]
        mean = g.mean(0)
        eps = float(g.square().sum()) / n**2
        R, own = flat(both(many, held)) / n, flat(both(many, alone))
        pulled = float(((own * R).sum(1) - (g[every] * (mean - g[every] / n)).sum(1)).mean())
        c = pulled / gaps[-1] if abs(gaps[-1]) > TINY * scale else 0.0
        c = c if contraction is None else float(contraction[k])
        blocks = torch.einsum("iop,iqp->ioq", J.view(n, width, -1), J.view(n, width, -1))
        D_Phi = torch.einsum("ioq,iqm->iom", blocks, Phi.view(n, width, -1)).reshape(n * width, -1)
        K = (1 - lr * c) * K + lr / n**2 * (Phi.T @ D_Phi)
        after = _moved(w, mean, lr)
        Jmid = rows(_moved(w, mean, lr / 2))
        Phi = Phi - lr / n * (Jmid @ (J.T @ Phi))
        w = after
        many = {
            name: many[name] - lr * part.view_as(many[name])
            for name, part in zip(w, R.split([p.numel() for p in w.values()], 1), strict=True)
        }
        r = (outputs(w, x) - target).reshape(-1)
        if not torch.isfinite(r).all():
            raise NonFiniteError(f"the training diverged after {k + 1} steps: take a smaller lr")
        with torch.no_grad():
            f = vmap(lambda own: outputs(own, x))(many)  # [I, n, width]
            theirs = 0.5 * (f[torch.arange(len(every)), every] - target[every]).square().sum(1)
        own_losses = theirs - 0.5 * r.view(n, width)[every].square().sum(1)
        gaps.append(float(own_losses.mean()))
        factors.append(c)
        perturbations.append(eps)
        tick()
    return EffectiveGram(
        matrix=(K + K.T) / 2,
        residual=start,
        quadratic=float(start @ K @ start),
        gap=gaps[-1],
        gap_stderr=float(own_losses.std() / len(every) ** 0.5) if 1 < len(every) < n else 0.0,
        gaps=torch.tensor(gaps),
        contraction=torch.tensor(factors),
        perturbation=torch.tensor(perturbations),
        propagator_error=float((Phi @ start - r).norm() / start.norm()),
        train_loss=float(0.5 * r.square().sum() / n),
        left_out=every,
    )


class _Called(nn.Module):
    def __init__(self, module: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.module, self._run = module, run

    def forward(self, batch: Tensor) -> Tensor:
        return self._run(self.module, batch)


def _moved(w: Weights, gradient: Tensor, lr: float) -> Weights:
    parts = gradient.split([p.numel() for p in w.values()])
    return {name: p - lr * part.view_as(p) for (name, p), part in zip(w.items(), parts, strict=True)}
