"""The decomposition as its definition says it: one gradient per sample, one recursion per group, Gauss-Legendre.

Everything is a flat float64 vector; nothing is shared with the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


@dataclass
class Taken:
    """One step as it happened.

    Attributes:
        before, after: θ_k, θ_{k+1}.
        gradients: group → its part of the mean gradient, unclipped.
        clip: the factor that clipping applied.
        lr: learning rate.
        state: what the optimizer holds after the step, flat by name.
        number: the optimizer's own step count.
    """

    before: Tensor
    after: Tensor
    gradients: dict[Any, Tensor]
    clip: float
    lr: float
    state: dict[str, Tensor]
    number: float


@dataclass
class Tape:
    """What a naive recording of a loop keeps: every step in full."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    steps: list[Taken] = field(default_factory=list)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def gradients(self, loss: Callable[..., Tensor], batch: Any, labels: Sequence[Any]) -> dict[Any, Tensor]:
        """One ``torch.autograd.grad`` per sample, each in a batch of one."""
        found: dict[Any, Tensor] = {}
        for i, label in enumerate(labels):
            one = tuple(part[i : i + 1] for part in batch)
            g = flat(torch.autograd.grad(loss(self.module, one).sum(), self.parameters)) / len(labels)
            found[label] = found.get(label, torch.zeros_like(g)) + g
        return found

    def take(self, before: Tensor, gradients: dict[Any, Tensor], clip: float, lr: float) -> None:
        entries = [self.optimizer.state.get(p, {}) for p in self.parameters]
        keys = [k for k, v in entries[0].items() if isinstance(v, Tensor) and v.dim()]
        state = {k: flat([e[k] for e in entries]) for k in keys}
        number = float(entries[0].get("step", 0))
        self.steps.append(Taken(before, flat(self.parameters), gradients, clip, lr, state, number))


def increments(tape: Tape) -> list[dict[Any, Tensor]]:
    """Δθ^(a) of every step and source, by the recursions of the table in the theory, "weight decay" included."""
    o = tape.optimizer.defaults
    kind = type(tape.optimizer).__name__
    labels = {label for step in tape.steps for label in step.gradients}
    labels.add("weight decay")
    b: dict[Any, Tensor] = {}
    found = []
    for k, s in enumerate(tape.steps):
        out = {}
        for a in labels:
            g = s.gradients.get(a, torch.zeros_like(s.before)) * s.clip * (-1 if o.get("maximize") else 1)
            decay = o.get("weight_decay", 0.0)
            decoupled = kind == "AdamW"
            if a == "weight decay" and not decoupled:
                g = g + decay * s.before
            if kind == "SGD":
                mu, tau = o["momentum"], o["dampening"]
                if mu:
                    b[a] = g if k == 0 else mu * b[a] + (1 - tau) * g
                    d = -s.lr * (g + mu * b[a]) if o["nesterov"] else -s.lr * b[a]
                else:
                    d = -s.lr * g
            elif kind == "Adagrad":
                rate = s.lr / (1 + (s.number - 1) * o["lr_decay"])
                d = -rate * g / (s.state["sum"].sqrt() + o["eps"])
            elif kind == "RMSprop":
                v = s.state["square_avg"]
                v = v - s.state["grad_avg"] ** 2 if o["centered"] else v
                P = 1 / (v.sqrt() + o["eps"])
                if o["momentum"]:
                    b[a] = o["momentum"] * b.get(a, torch.zeros_like(g)) + P * g
                    d = -s.lr * b[a]
                else:
                    d = -s.lr * P * g
            else:
                beta1, beta2 = o["betas"]
                v = s.state["max_exp_avg_sq" if o["amsgrad"] else "exp_avg_sq"]
                P = 1 / ((v / (1 - beta2**s.number)).sqrt() + o["eps"])
                b[a] = beta1 * b.get(a, torch.zeros_like(g)) + (1 - beta1) * g
                d = -s.lr / (1 - beta1**s.number) * P * b[a]
            if a == "weight decay" and decoupled:
                d = d - s.lr * decay * s.before
            out[a] = d
        found.append(out)
    return found


def contributions(tape: Tape, outputs: Callable[[Tensor], Tensor], nodes: int = 4) -> dict[Any, Tensor]:
    """Σ_k J̄_k Δθ_k^(a) ``[outputs]``, with J̄ by Gauss-Legendre and full Jacobians."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    found: dict[Any, Tensor] = {}
    for s, moves in zip(tape.steps, increments(tape), strict=True):
        mean = sum(
            w / 2 * torch.func.jacrev(outputs)(s.before + (p + 1) / 2 * (s.after - s.before))
            for p, w in zip(points, weights, strict=True)
        )
        for a, d in moves.items():
            found[a] = found.get(a, 0) + mean @ d
    return found


def outputs_of(module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """θ ``[P]`` → outputs at x, flat."""
    names, shapes = zip(*((n, p.shape) for n, p in module.named_parameters()), strict=True)

    def outputs(theta: Tensor) -> Tensor:
        parts = torch.split(theta, [s.numel() for s in shapes])
        given = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(module, given, (x,)).reshape(-1)

    return outputs
