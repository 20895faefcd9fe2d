"""The naive recording leaves the network as it is, whatever happens."""

from __future__ import annotations

import pytest
import torch

from genkernel.paths.reference import NaiveRecording
from tests.paths.runs import loss_fn, mlp, problem

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_mode_comes_back_when_the_outputs_cannot_be_differentiated():
    x, y, _, q = problem()
    net = mlp().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    naive = NaiveRecording(net, optimizer)
    gradients = naive.gradients(loss_fn, (x, y), [0] * len(x))
    begun = naive.begin()
    optimizer.zero_grad()
    loss_fn(net, (x, y)).mean().backward()
    optimizer.step()
    naive.take(begun, gradients, 1.0, 0.1)

    def call(module, queries):
        assert not module.training
        raise RuntimeError("no outputs")

    with pytest.raises(RuntimeError, match="no outputs"):
        naive.contributions(call, q)
    assert net.training
