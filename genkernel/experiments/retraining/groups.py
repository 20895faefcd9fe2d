"""Many trainings at a time: the same network, the same batches, other weights on the samples.

Replicas differ in what each training sample counts. Their parameters are stacked and every step is one call of
``vmap(grad)``; the optimizers are those of torch, written on stacks. The loss of a batch is Σ_i w_i ℓ_i / B with B the
size of the whole batch, so a sample of weight 0 leaves the others as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, softplus

from genkernel.errors import InputError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Optimisation:
    """An optimizer of torch and its hyperparameters.

    Attributes:
        kind: ``"momentum"`` (SGD with momentum) or ``"adam"``.
        lr: learning rate.
        momentum, betas, eps: as torch has them.
    """

    kind: str
    lr: float
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.kind not in ("momentum", "adam"):
            raise InputError(f"trainings are vectorised for 'momentum' and 'adam', not {self.kind!r}")

    def make(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer itself, for one network."""
        if self.kind == "momentum":
            return torch.optim.SGD(module.parameters(), lr=self.lr, momentum=self.momentum)
        return torch.optim.Adam(module.parameters(), lr=self.lr, betas=self.betas, eps=self.eps)


def sample_losses(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of every sample ``[b]``."""
    return cross_entropy(module(batch[0]), batch[1], reduction="none")


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the right class minus the log-sum-exp of the others ``[..., b]``."""
    right = labels[:, None] == torch.arange(logits.shape[-1], device=labels.device)
    return torch.where(right, logits, 0.0).sum(-1) - logits.masked_fill(right, -torch.inf).logsumexp(-1)


def loss_and_margin(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What is asked of every held-out sample: its loss and its margin ``[m, 2]``."""
    return asked_of(module(batch[0]), batch[1])


def asked_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss and margin ``[..., b, 2]`` of logits ``[..., b, classes]``."""
    margin = margins(logits, labels)
    return torch.stack([softplus(-margin), margin], -1)  # softplus(-margin) is the cross-entropy


def batch_orders(n: int, size: int, steps: int, seed: int) -> list[Tensor]:
    """Mini-batches of epochs without replacement; short last batches are left out."""
    if not 0 < size <= n:
        raise InputError(f"a batch has 1 to {n} samples, not {size}")
    draw = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while len(found) < steps:
        found += list(torch.randperm(n, generator=draw)[: n - n % size].split(size))
    return found[:steps]


def retrain(
    module: nn.Module,
    data: tuple[Tensor, Tensor],
    orders: Sequence[Tensor],
    weights: Tensor,
    optimisation: Optimisation,
    tick: Callable[[], object] = lambda: None,
) -> Weights:
    """Train R replicas of a network from its present weights.

    Args:
        module: the network; it stays as it is.
        data: inputs ``[n, …]`` and labels ``[n]``.
        orders: the samples of every step.
        weights: of the samples in every replica ``[R, n]``.
        optimisation: of all of them.
        tick: called after every step.

    Returns:
        Parameters by name, stacked ``[R, …]``.
    """
    replicas = len(weights)
    theta = {name: p.detach().expand(replicas, *p.shape).clone() for name, p in module.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in theta.items()}
    second = {name: torch.zeros_like(p) for name, p in theta.items()}

    def loss(own: Weights, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return (w * cross_entropy(functional_call(module, own, (x,)), y, reduction="none")).sum() / len(y)

    gradients = vmap(grad(loss), in_dims=(0, None, None, 0))
    for step, ids in enumerate(orders, start=1):
        found = gradients(theta, data[0][ids], data[1][ids], weights[:, ids])
        for name, g in found.items():
            if optimisation.kind == "momentum":
                first[name].mul_(optimisation.momentum).add_(g)
                theta[name].add_(first[name], alpha=-optimisation.lr)
            else:
                beta1, beta2 = optimisation.betas
                first[name].mul_(beta1).add_(g, alpha=1 - beta1)
                second[name].mul_(beta2).addcmul_(g, g, value=1 - beta2)
                root = (second[name] / (1 - beta2**step)).sqrt_().add_(optimisation.eps)
                theta[name].addcdiv_(first[name], root, value=-optimisation.lr / (1 - beta1**step))
        tick()
    return theta


def outputs_of(module: nn.Module, stacked: Weights, queries: tuple[Tensor, Tensor]) -> Tensor:
    """Loss and margin of every query in every replica ``[R, m, 2]``."""

    def logits(own: Weights, x: Tensor) -> Tensor:
        found: Tensor = functional_call(module, own, (x,))
        return found

    with torch.no_grad():
        return asked_of(vmap(logits, in_dims=(0, None))(stacked, queries[0]), queries[1])


def accuracies(module: nn.Module, stacked: Weights, queries: tuple[Tensor, Tensor]) -> Tensor:
    """The share of the queries that every replica gets right ``[R]``."""

    def right(own: Weights, x: Tensor) -> Tensor:
        found: Tensor = functional_call(module, own, (x,))
        return (found.argmax(-1) == queries[1]).double().mean()

    with torch.no_grad():
        return vmap(right, in_dims=(0, None))(stacked, queries[0])


def left_out(group_of: Tensor, groups: int, weight: float = 0.0) -> Tensor:
    """Weights ``[groups, n]``: in row a the samples of group a count ``weight``, all others 1."""
    rows = torch.arange(groups)[:, None]
    return torch.where(group_of[None] == rows, weight, 1.0).double()


def half_subsets(groups: int, count: int, seed: int) -> Tensor:
    """Random halves of the groups as booleans ``[count, groups]``."""
    draw = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(groups, generator=draw) < groups // 2 for _ in range(count)])
