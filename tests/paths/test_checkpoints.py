"""The checkpoint approximation against recordings: exact for one SGD step per window, with a gap elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from tests.paths.runs import loss_fn, mlp, problem


def full_batch_run(steps: int, lr: float, optimizer_of=torch.optim.SGD, **options):
    x, y, label, q = problem()
    net = mlp()
    optimizer = optimizer_of(net.parameters(), lr=lr, **options)
    copies, states = [copy.deepcopy(net.state_dict())], []
    with gk.record(
        net, optimizer, loss_fn, groups=lambda ids, _: label[ids], queries=q, rule="left", verbose=False
    ) as path:
        for _ in range(steps):
            path.batch((x, y), ids=torch.arange(len(x)))
            optimizer.zero_grad()
            loss_fn(net, (x, y)).mean().backward()
            optimizer.step()
            copies.append(copy.deepcopy(net.state_dict()))
            states.append(copy.deepcopy(optimizer.state_dict()))
    return net, path.contributions(), copies, states


def approximate(net, copies, rates, **options):
    x, y, label, q = problem()
    return gk.checkpoint_path(
        net, copies, rates, (x, y), loss_fn, queries=q, groups=lambda ids, _: label[ids], batch_size=7, **options
    )


def test_a_copy_of_every_step_gives_the_left_rule():
    net, recorded, copies, _ = full_batch_run(8, 0.1)
    parts = approximate(net, copies, [0.1] * 8)
    torch.testing.assert_close(parts.values, recorded.values, rtol=1e-10, atol=1e-12)
    assert parts.meta["rule"] == "checkpoint approximation"
    assert parts.gap_abs == pytest.approx(recorded.gap_abs, rel=1e-6)


def test_preconditioned_by_the_state_of_the_optimizer():
    """RMSprop has no memory: P after a step is the one that it used."""
    net, recorded, copies, states = full_batch_run(6, 0.001, torch.optim.RMSprop)
    parts = approximate(net, copies, [0.001] * 6, preconditioners=states)
    torch.testing.assert_close(parts.values, recorded.values, rtol=1e-8, atol=1e-12)


def test_wider_windows_miss_more():
    net, _, copies, _ = full_batch_run(16, 0.05)
    gaps = []
    for width in (1, 2, 4, 8):
        parts = approximate(net, copies[::width], [0.05 * width] * (16 // width), steps=range(0, 17, width))
        assert parts.edges[-1] == 16
        gaps.append(parts.gap_rel)
    assert gaps == sorted(gaps) and gaps[-1] > 3 * gaps[0]


def test_bad_arguments():
    net, _, copies, _ = full_batch_run(2, 0.05)
    with pytest.raises(InputError, match="3 checkpoints bound 2 windows"):
        approximate(net, copies, [0.1])
    with pytest.raises(InputError, match="one preconditioner per window"):
        approximate(net, copies, [0.1, 0.1], preconditioners=[None])
    with pytest.raises(InputError, match="increasing"):
        approximate(net, copies, [0.1, 0.1], steps=[0, 2, 2])
