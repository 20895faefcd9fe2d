"""Small training runs that are recorded, and taped naively beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.paths import Recording
from genkernel.paths.reference import NaiveRecording

SAMPLES, QUERIES = 22, 5


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs ``[22, 2]``, targets ``[22, 3]``, labels ``[22]`` in four groups, queries ``[5, 2]``."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 2, generator=draw, dtype=torch.float64)
    y = torch.stack([x.sin().sum(1), x[:, 0] * x[:, 1], x.square().sum(1).cos()], 1)
    label = torch.randint(4, (SAMPLES,), generator=draw)
    q = torch.randn(QUERIES, 2, generator=draw, dtype=torch.float64)
    return x.to(dtype), y.to(dtype), label, q.to(dtype)


def mlp(dtype: torch.dtype = torch.float64, seed: int = 0, act: type[nn.Module] = nn.Tanh) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 10), act(), nn.Linear(10, 10), act(), nn.Linear(10, 3)).to(dtype)


def loss_fn(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (module(x) - y).square().mean(1)


def shuffled(epochs: int = 3, size: int = 6) -> list[Tensor]:
    """Shuffled batches with a short last one (22 = 3 × 6 + 4)."""
    draw = torch.Generator().manual_seed(11)
    found = []
    for _ in range(epochs):
        order = torch.randperm(SAMPLES, generator=draw)
        found += list(order.split(size))
    return found


def train(
    optimizer_of: Callable[[Any], torch.optim.Optimizer],
    *,
    dtype: torch.dtype = torch.float64,
    clip: float | None = None,
    cosine: bool = False,
    order: list[Tensor] | None = None,
    lr_scale: float = 1.0,
    repeat: int = 1,
    groups: Callable[[Tensor, Any], Any] | None = None,
    act: type[nn.Module] = nn.Tanh,
    naive: bool = True,
    **options: Any,
) -> tuple[Recording, NaiveRecording, Tensor]:
    """A recorded run of an MLP, its tape and the queries; the loop is an ordinary one."""
    x, y, label, q = problem(dtype)
    net = mlp(dtype, act=act)
    optimizer = optimizer_of(net.parameters())
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * lr_scale
    batches = [ids for ids in (order or shuffled()) for _ in range(repeat)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches)) if cosine else None
    tape = NaiveRecording(net, optimizer)
    groups = groups or (lambda ids, _: label[ids])
    with gk.record(net, optimizer, loss_fn, groups=groups, queries=q, verbose=False, **options) as path:
        for ids in batches:
            batch = x[ids], y[ids]
            path.batch(batch, ids=ids)
            optimizer.zero_grad()
            loss_fn(net, batch).mean().backward()
            factor = 1.0
            if clip is not None:
                size = nn.utils.clip_grad_norm_(net.parameters(), clip)
                factor = min(1.0, clip / (float(size) + 1e-6))
            begun, lr = tape.begin(), optimizer.param_groups[0]["lr"]
            gradients = tape.gradients(loss_fn, batch, label[ids].tolist()) if naive else {}
            optimizer.step()
            tape.take(begun, gradients, factor, lr)
            if schedule is not None:
                schedule.step()
    return path, tape, q
