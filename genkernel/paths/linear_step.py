"""Every supported step as a linear recursion in the gradients, with recorded coefficients.

Given the realised trajectory, that is with learning rates, step counts and second moments read as numbers, a step
of these optimizers is linear in the history of gradients (per coordinate):

    b_k  = α b_{k-1} + ρ g_k                 b: the first-moment buffer
    Δθ_k = -(p b_k + q g_k) - δ θ_k          δ: decoupled weight decay
    g_k  = ± (data gradient) + λ θ_k         λ: coupled weight decay; - with ``maximize``

====================  ======================  ==================  ============  =========
optimizer             α                       ρ                   p             q
====================  ======================  ==================  ============  =========
SGD                   –                       –                   0             γ
SGD, momentum μ       μ (first step: 0)       1 - τ (first: 1)    γ             0
… Nesterov            μ (first step: 0)       1 - τ (first: 1)    γ μ           γ
Adagrad, RMSprop      –                       –                   0             γ P
RMSprop, momentum μ   μ                       P                   γ             0
Adam, AdamW           β₁                      1 - β₁              γ P/(1-β₁ᵏ)   0
====================  ======================  ==================  ============  =========

with P as in :mod:`genkernel.tangent.optimizers` and k the parameter's own step, as torch counts it. A decomposition
along these recursions is conditional on P: the second moments depend on all samples together, so a part of it is not
what deleting its samples would change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.paths.coordinates import Coordinates

SUPPORTED = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW")
Number = float | Tensor


@dataclass
class LinearStep:
    """The coefficients of one step on a run of coordinates that share them.

    Attributes:
        part: the coordinates, c of them.
        buffered: the optimizer keeps a first-moment buffer, also while p is 0 (a learning rate of 0).
        alpha, rho, p, q: see above; numbers or ``[c]``.
        decoupled: δ.
        coupled: λ.
        sign: of the data gradient.
    """

    part: slice
    buffered: bool
    alpha: float
    rho: Number
    p: Number
    q: Number
    decoupled: float
    coupled: float
    sign: float


@dataclass(frozen=True)
class Before:
    """What has to be read before a step, because the step overwrites it.

    Attributes:
        options: hyperparameters by parameter name.
        active: names of parameters with a gradient; others do not move, and their buffers do not decay.
        fresh: names of parameters without a momentum buffer.
        keys: what tells hyperparameters of groups apart, by ``id`` of the options.
    """

    options: dict[str, dict[str, Any]]
    active: frozenset[str]
    fresh: frozenset[str]
    keys: dict[int, tuple[Any, ...]]


class Steps:
    """Reads the linear form of a torch optimizer's steps.

    Args:
        optimizer: one of ``SUPPORTED``, or a wrapper that has one as ``.optimizer``.
        parameters: the model's parameters that it moves, by name.
        coordinates: their order.

    Attributes:
        optimizer: without wrappers.
        kind: ``"sgd"``, ``"adagrad"``, ``"rmsprop"`` or ``"adam"``.

    Raises:
        InputError: another optimizer, named, with those that are supported.
    """

    def __init__(self, optimizer: Any, parameters: Mapping[str, Tensor], coordinates: Coordinates):
        self.optimizer = unwrapped(optimizer)
        self.kind = _kind(self.optimizer)
        self._parameters, self._coordinates = parameters, coordinates
        self._counts: dict[str, float] = {}
        self._buffer = "exp_avg" if self.kind == "adam" else "momentum_buffer"

    def before(self) -> Before:
        """To be called right before ``step()``."""
        mine = {id(p): name for name, p in self._parameters.items()}
        options: dict[str, dict[str, Any]] = {}
        active, fresh, keys = set(), set(), {}
        for group in self.optimizer.param_groups:
            plain = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            keys[id(plain)] = tuple(
                sorted((k, plain_number(v)) for k, v in plain.items() if k in self.optimizer.defaults)
            )
            for p in group["params"]:
                name = mine.get(id(p))
                if name is None:
                    continue
                options[name] = plain
                if p.grad is not None:
                    active.add(name)
                if self.optimizer.state.get(p, {}).get("momentum_buffer") is None:
                    fresh.add(name)
        return Before(options, frozenset(active), frozenset(fresh), keys)

    def after(self, before: Before) -> list[LinearStep]:
        """The coefficients of the step that was just taken, for the coordinates that took part in it."""
        self._counts = self._step_counts(before)
        runs: list[tuple[tuple[Any, ...], list[int]]] = []
        for index, name in enumerate(self._coordinates.names):
            if name not in before.active:
                continue
            key = self._key(name, before)
            if runs and runs[-1][0] == key and runs[-1][1][-1] == index - 1:
                runs[-1][1].append(index)
            else:
                runs.append((key, [index]))
        return [self._read([self._coordinates.names[i] for i in indices], indices, before) for _, indices in runs]

    def buffers(self) -> dict[str, Tensor | None]:
        """First-moment buffers by name, as the optimizer holds them now."""
        return {name: self.optimizer.state.get(p, {}).get(self._buffer) for name, p in self._parameters.items()}

    def buffers_in(self, state: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """The same from a tape's copy of the state, whose names are ``key:parameter``."""
        return {name: state.get(f"{self._buffer}:{name}") for name in self._parameters}

    # ---------------------------------------------------------------------------- reading

    def _key(self, name: str, before: Before) -> tuple[Any, ...]:
        """Neighbours with equal keys share their scalar coefficients."""
        return before.keys[id(before.options[name])], self._counts.get(name, 0.0), name in before.fresh

    def _step_counts(self, before: Before) -> dict[str, float]:
        """The parameters' own step counts; those that live on an accelerator come in one copy."""
        held = {name: self.optimizer.state.get(self._parameters[name], {}).get("step") for name in before.active}
        there = {name: step for name, step in held.items() if isinstance(step, Tensor) and step.device.type != "cpu"}
        found = {name: float(step) for name, step in held.items() if step is not None and name not in there}
        if there:
            values = torch.stack([step.reshape(()).float() for step in there.values()]).tolist()
            found |= dict(zip(there, values, strict=True))
        return found

    def _read(self, names: list[str], indices: list[int], before: Before) -> LinearStep:
        o = before.options[names[0]]
        entries = [self.optimizer.state.get(self._parameters[name], {}) for name in names]
        part = slice(self._coordinates.slices[indices[0]].start, self._coordinates.slices[indices[-1]].stop)
        lr, decay = float(o["lr"]), float(o.get("weight_decay", 0.0))
        decoupled = bool(o.get("decoupled_weight_decay", isinstance(self.optimizer, torch.optim.AdamW)))

        def step_of(alpha: float, rho: Number, p: Number, q: Number, buffered: bool = True) -> LinearStep:
            return LinearStep(
                part=part,
                buffered=buffered,
                alpha=alpha,
                rho=rho,
                p=p,
                q=q,
                decoupled=lr * decay if decoupled else 0.0,
                coupled=0.0 if decoupled else decay,
                sign=-1.0 if o.get("maximize") else 1.0,
            )

        def stored(key: str) -> Tensor:
            return torch.cat([e[key].detach().reshape(-1) for e in entries]).to(self._coordinates.dtype)

        step, eps = self._counts.get(names[0], 0.0), float(o.get("eps", 0.0))
        if self.kind == "sgd":
            mu = float(o["momentum"])
            if mu == 0:
                return step_of(alpha=0.0, rho=0.0, p=0.0, q=lr, buffered=False)
            first = names[0] in before.fresh
            alpha, rho = (0.0, 1.0) if first else (mu, 1.0 - float(o["dampening"]))
            p, q = (lr * mu, lr) if o["nesterov"] else (lr, 0.0)
            return step_of(alpha=alpha, rho=rho, p=p, q=q)
        if self.kind == "adagrad":
            rate = lr / (1 + (step - 1) * float(o["lr_decay"]))
            return step_of(alpha=0.0, rho=0.0, p=0.0, q=rate / stored("sum").sqrt_().add_(eps), buffered=False)
        if self.kind == "rmsprop":
            second = stored("square_avg")
            if o["centered"]:
                mean = stored("grad_avg")
                second = second.addcmul(mean, mean, value=-1)
            P = second.sqrt_().add_(eps).reciprocal_()
            mu = float(o["momentum"])
            if mu == 0:
                return step_of(alpha=0.0, rho=0.0, p=0.0, q=lr * P, buffered=False)
            return step_of(alpha=mu, rho=P, p=lr, q=0.0)
        beta1, beta2 = (float(beta) for beta in o["betas"])
        second = stored("max_exp_avg_sq" if o.get("amsgrad") else "exp_avg_sq")
        root = second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(eps)
        return step_of(alpha=beta1, rho=1 - beta1, p=(lr / (1 - beta1**step)) / root, q=0.0)


_KINDS = {
    torch.optim.SGD: "sgd",
    torch.optim.Adagrad: "adagrad",
    torch.optim.RMSprop: "rmsprop",
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adam",
}


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside of a wrapper such as Accelerate's.

    Raises:
        InputError: there is none.
    """
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        return unwrapped(inner)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(f"a recording needs a torch optimizer, not {type(optimizer).__name__}")
    return optimizer


def _kind(optimizer: torch.optim.Optimizer) -> str:
    for base in type(optimizer).__mro__:
        # a subclass may step in a way of its own
        if base in _KINDS and getattr(type(optimizer).step, "__module__", "").startswith("torch.optim"):
            return _KINDS[base]
    raise InputError(
        f"{type(optimizer).__name__} cannot be recorded: its step is not known to be linear in the gradients, given "
        f"its state. Supported are {', '.join(SUPPORTED)} of torch.optim"
    )


def plain_number(value: Any) -> Any:
    """Tensors of one entry as numbers, also within pairs."""
    if isinstance(value, Tensor):
        return float(value)
    return tuple(map(plain_number, value)) if isinstance(value, (tuple, list)) else value
