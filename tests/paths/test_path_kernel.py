"""The path kernel is the weighted sum of kernels, and gives the left-point formula of gradient descent."""

from __future__ import annotations

import copy

import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from tests.paths.runs import loss_fn, mlp, problem

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_left_point_formula_in_kernel_form():
    """f_N(x) - f_0(x) ≈ -Σ_k η/n Σ_i K_k(x, x_i) r_ik, sample by sample, as the left rule records it."""
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    copies = []
    with gk.record(net, optimizer, loss_fn, groups=lambda ids, _: ids, queries=q, rule="left", verbose=False) as path:
        for _ in range(4):
            copies.append(copy.deepcopy(net.state_dict()))
            path.batch((x, y), ids=torch.arange(len(x)))
            optimizer.zero_grad()
            loss_fn(net, (x, y)).mean().backward()
            optimizer.step()
    expected = torch.zeros(len(x), len(q), 3, dtype=torch.float64)
    model = gk.TangentModel(mlp())
    for state in copies:
        at = model.at(state)
        K = gk.kernel(at, q, x, cotangents=gk.blocks(), progress=False).values  # [m, n, O, O]
        residual = 2 / 3 * (at(x) - y)  # of a squared loss averaged over three outputs
        expected -= 0.1 / len(x) * torch.einsum("mnab,nb->nma", K, residual)
    torch.testing.assert_close(path.contributions().values, expected, rtol=1e-10, atol=1e-13)


def test_a_weighted_sum_with_its_layers():
    _, _, _, q = problem()
    states = [mlp(seed=s).state_dict() for s in (1, 2)]
    options = {"cotangents": gk.exact_trace(), "by": "layer", "progress": False}
    found = gk.path_kernel(mlp(), states, [0.3, 0.7], q, **options)
    one, two = (gk.kernel(mlp(seed=s), q, **options) for s in (1, 2))
    torch.testing.assert_close(found.values, 0.3 * one.values + 0.7 * two.values)
    torch.testing.assert_close(sum(found.layers.values()), found.values)
    assert found.meta["path"]["checkpoints"] == 2
    with pytest.raises(InputError, match="one weight per checkpoint"):
        gk.path_kernel(mlp(), states, [1.0], q)
    with pytest.raises(InputError, match="not negative"):
        gk.path_kernel(mlp(), states, [1.0, -1.0], q)
