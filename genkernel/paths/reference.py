"""The naive recording: every step in full, G × P numbers per step, one recursion per group, one product per direction.

    Δθ_k^(a) by the table of THEORY §3.2,   C_a = Σ_k Σ_q w_q J(θ_k + s_q Δθ_k) Δθ_k^(a)

Nothing is shared with the recorder, everything is kept, and it is short enough to be obviously right; recordings and
replays are tested against it. One parameter group, one step count for all parameters, ``clip_grad_norm_``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

DECAY = "weight decay"


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other ``[P]``."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


@dataclass
class Taken:
    """One step as it happened.

    Attributes:
        before, after: θ_k, θ_{k+1} ``[P]``.
        buffers: of the network before the step, by name.
        gradients: group → its part of the mean gradient ``[P]``, unclipped.
        clip: the factor that clipping applied.
        lr: learning rate.
        state: what the optimizer holds after the step, flat by name.
        number: the optimizer's own step count.
    """

    before: Tensor
    after: Tensor
    buffers: dict[str, Tensor]
    gradients: dict[Any, Tensor]
    clip: float
    lr: float
    state: dict[str, Tensor]
    number: float


@dataclass
class NaiveRecording:
    """Steps of a loop, to be taken beside it.

    Args:
        module: the network.
        optimizer: SGD, RMSprop, Adam, AdamW or Adagrad with one parameter group.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    steps: list[Taken] = field(default_factory=list)
    earlier: Tensor | None = None  # the first-moment buffer before the first step

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def gradients(
        self, loss: Callable[[nn.Module, Any], Tensor], batch: Any, labels: Sequence[Any], together: bool = False
    ) -> dict[Any, Tensor]:
        """The parts of the gradient of the mean loss.

        Args:
            loss: per sample.
            batch: b samples.
            labels: the group of each.
            together: one forward pass of the whole batch; otherwise one ``torch.autograd.grad`` per sample alone.
        """
        found: dict[Any, Tensor] = {}
        losses = loss(self.module, batch) if together else None
        for i, label in enumerate(labels):
            one = tree_map(lambda leaf: leaf[i : i + 1] if isinstance(leaf, Tensor) else leaf, batch)  # noqa: B023
            own = losses[i] if losses is not None else loss(self.module, one).sum()
            g = flat(torch.autograd.grad(own, self.parameters, retain_graph=together)) / len(labels)
            found[label] = found.get(label, torch.zeros_like(g)) + g
        return found

    def begin(self) -> tuple[Tensor, dict[str, Tensor]]:
        """θ_k and the buffers, before a step."""
        if not self.steps and self.earlier is None:
            entries = [self.optimizer.state.get(p, {}) for p in self.parameters]
            held = [e.get("exp_avg", e.get("momentum_buffer")) for e in entries]
            if all(h is not None for h in held):
                self.earlier = flat([h for h in held if h is not None])
        return flat(self.parameters), {n: b.detach().clone() for n, b in self.module.named_buffers()}

    def take(
        self, begun: tuple[Tensor, dict[str, Tensor]], gradients: dict[Any, Tensor], clip: float, lr: float
    ) -> None:
        """After a step."""
        entries = [self.optimizer.state.get(p, {}) for p in self.parameters]
        keys = [k for k, v in entries[0].items() if isinstance(v, Tensor) and v.dim()]
        state = {k: flat([e[k] for e in entries]) for k in keys}
        number = float(entries[0].get("step", 0))
        theta, buffers = begun
        self.steps.append(Taken(theta, flat(self.parameters), buffers, gradients, clip, lr, state, number))

    def increments(self) -> list[dict[Any, Tensor]]:
        """Δθ^(a) of every step and source."""
        o = self.optimizer.defaults
        kind = type(self.optimizer).__name__
        labels: set[Any] = {label for step in self.steps for label in step.gradients} | {DECAY}
        b: dict[Any, Tensor] = {}
        if self.earlier is not None:
            labels.add("before recording")
            b["before recording"] = self.earlier
        found = []
        for k, s in enumerate(self.steps):
            out = {}
            first = k == 0 and self.earlier is None
            for a in labels:
                zero = torch.zeros_like(s.before)
                g = s.gradients.get(a, zero) * s.clip * (-1 if o.get("maximize") else 1)
                decay, decoupled = o.get("weight_decay", 0.0), kind == "AdamW"
                if a == DECAY and not decoupled:
                    g = g + decay * s.before
                if kind == "SGD":
                    mu, tau = o["momentum"], o["dampening"]
                    if mu:
                        b[a] = g if first else mu * b.get(a, zero) + (1 - tau) * g
                        d = -s.lr * (g + mu * b[a]) if o["nesterov"] else -s.lr * b[a]
                    else:
                        d = -s.lr * g
                elif kind == "Adagrad":
                    d = -s.lr / (1 + (s.number - 1) * o["lr_decay"]) * g / (s.state["sum"].sqrt() + o["eps"])
                elif kind == "RMSprop":
                    v = s.state["square_avg"]
                    v = v - s.state["grad_avg"] ** 2 if o["centered"] else v
                    P = 1 / (v.sqrt() + o["eps"])
                    if o["momentum"]:
                        b[a] = o["momentum"] * b.get(a, zero) + P * g
                        d = -s.lr * b[a]
                    else:
                        d = -s.lr * P * g
                else:
                    beta1, beta2 = o["betas"]
                    v = s.state["max_exp_avg_sq" if o["amsgrad"] else "exp_avg_sq"]
                    P = 1 / ((v / (1 - beta2**s.number)).sqrt() + o["eps"])
                    b[a] = beta1 * b.get(a, zero) + (1 - beta1) * g
                    d = -s.lr / (1 - beta1**s.number) * P * b[a]
                if a == DECAY and decoupled:
                    d = d - s.lr * decay * s.before
                out[a] = d
            found.append(out)
        return found

    def contributions(
        self, call: Callable[[nn.Module, Any], Tensor], queries: Any, nodes: int = 4, every: int = 1
    ) -> dict[Any, Tensor]:
        """Σ_k J̄_k Δθ_k^(a) ``[m, *out]`` with the network in evaluation mode, J̄ by Gauss-Legendre.

        Args:
            call: outputs of the network at the queries.
            queries: m of them.
            nodes: of the rule.
            every: so many steps are merged into one chord (of a network without buffers), which keeps the sum and
                moves the split.
        """
        points, weights = np.polynomial.legendre.leggauss(nodes)
        names = [n for n, p in self.module.named_parameters() if any(p is own for own in self.parameters)]
        training = self.module.training
        found: dict[Any, Tensor] = {}
        increments = self.increments()
        self.module.eval()
        try:
            for start in range(0, len(self.steps), every):
                merged, last = increments[start : start + every], self.steps[start : start + every][-1]
                s = self.steps[start]
                f = _outputs(self.module, names, s.buffers, call, queries)
                for point, weight in zip(points, weights, strict=True):
                    at = s.before + (point + 1) / 2 * (last.after - s.before)
                    for a in merged[0]:
                        d = torch.stack([moves[a] for moves in merged]).sum(0)
                        if not bool(d.any()):
                            continue
                        with sdpa_kernel(SDPBackend.MATH):
                            change = torch.autograd.functional.jvp(f, at, d)[1] * (weight / 2)
                        found[a] = found[a] + change if a in found else change
        finally:
            self.module.train(training)
        return found


def _outputs(
    module: nn.Module, names: Sequence[str], buffers: dict[str, Tensor], call: Callable[..., Tensor], queries: Any
) -> Callable[[Tensor], Tensor]:
    """θ ``[P]`` → outputs at the queries."""
    shapes = {n: p.shape for n, p in module.named_parameters()}
    holder = _Holder(module, call)

    def outputs(theta: Tensor) -> Tensor:
        parts = torch.split(theta, [shapes[n].numel() for n in names])
        given = {f"module.{n}": part.view(shapes[n]) for n, part in zip(names, parts, strict=True)}
        given |= {f"module.{n}": b for n, b in buffers.items()}
        return torch.func.functional_call(holder, given, (queries,))

    return outputs


class _Holder(nn.Module):
    def __init__(self, module: nn.Module, call: Callable[..., Tensor]):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, queries: Any) -> Tensor:
        return self.call(self.module, queries)
