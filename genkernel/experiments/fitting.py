"""Trainings of the experiments: an objective, an optimizer, batches from a seed, and looks along the way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor, nn

from genkernel.errors import InputError

Look = Callable[[int, nn.Module], None]


def fit(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    batch: int | None = None,
    seed: int = 0,
    look: Look | None = None,
    at: Collection[int] = (),
    until: float | None = None,
) -> float:
    """Train a network, which is in training mode meanwhile and in evaluation mode at every look and afterwards.

    Args:
        network: changed in place.
        x, y: samples ``[n, ...]`` and what the objective compares outputs with ``[n, ...]``.
        objective: ``(outputs, y)`` of a batch to the mean loss.
        optimizer: of the network's parameters.
        steps: of it.
        batch: samples per step, each epoch in a new order (the last batch is smaller); all of them by default.
        seed: of the orders and of dropout. The random state of the process is not changed.
        look: called with the number of steps done, 0 and ``steps`` included, at those in ``at``.
        at: steps at which to look.
        until: stop after an epoch whose mean loss is below this.

    Returns:
        The mean loss of the last epoch.

    Raises:
        InputError: there are no steps, or batches without samples.
    """
    if steps < 1 or (batch is not None and batch < 1):
        raise InputError(f"a training has at least one step of at least one sample, not {steps} of {batch}")
    size = min(batch or len(x), len(x))
    order = _orders(len(x), size, seed)
    losses: list[float] = []
    mean = float("nan")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps + 1):
            if look is not None and step in at:
                network.eval()
                look(step, network)
            if step == steps:
                break
            network.train()
            chosen = next(order)
            loss = objective(network(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()) * len(chosen))
            if (step + 1) % -(-len(x) // size) == 0:
                mean, losses = sum(losses) / len(x), []
                if until is not None and mean < until:
                    break
    network.eval()
    return mean if not losses else sum(losses) / (len(losses) * size)


def _orders(n: int, size: int, seed: int) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield from (torch.randperm(n, generator=draw) if size < n else torch.arange(n)).split(size)


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor, chunk: int = 1024) -> float:
    """Part of the samples ``[n, ...]`` whose class ``[n]`` has the largest logit; of one logit, whose sign is right."""
    outputs = torch.cat([network(part) for part in x.split(chunk)])
    found = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
    return float((found == y).double().mean())
