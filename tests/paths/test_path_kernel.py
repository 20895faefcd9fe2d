"""The path kernel is the weighted sum of kernels, and gives the left-point formula of gradient descent."""

from __future__ import annotations

import copy
import math

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
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="finite, and not negative"):
            gk.path_kernel(mlp(), states, [1.0, wrong], q)


def test_every_checkpoint_has_its_own_preconditioner():
    """Σ_c w_c Σ_a J_c(x)_a P_c J_c(x')_aᵀ with Jacobians row by row."""
    x, _, _, q = problem()
    x = x[:4]
    nets = [mlp(seed=s) for s in (1, 2)]
    draw = torch.Generator().manual_seed(0)
    diagonals = [
        {name: torch.rand(p.shape, generator=draw, dtype=torch.float64) for name, p in net.named_parameters()}
        for net in nets
    ]

    def rows(net, points):
        found = [torch.autograd.grad(net(point)[a], list(net.parameters())) for point in points for a in range(3)]
        return torch.stack([torch.cat([g.reshape(-1) for g in one]) for one in found]).view(len(points), 3, -1)

    expected = torch.zeros(len(q), len(x), dtype=torch.float64)
    for w, net, diagonal in zip((0.3, 0.7), nets, diagonals, strict=True):
        P = torch.cat([d.reshape(-1) for d in diagonal.values()])
        expected += w * torch.einsum("iap,p,jap->ij", rows(net, q), P, rows(net, x))
    options = {"cotangents": gk.exact_trace(), "progress": False}
    states = [net.state_dict() for net in nets]
    found = gk.path_kernel(mlp(), states, [0.3, 0.7], q, x, preconditioners=diagonals, **options)
    torch.testing.assert_close(found.values, expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(InputError, match="one preconditioner per checkpoint, 2, not 1"):
        gk.path_kernel(mlp(), states, [0.3, 0.7], q, x, preconditioners=diagonals[:1], **options)


def test_a_store_per_checkpoint(tmp_path):
    _, _, _, q = problem()
    states = [mlp(seed=s).state_dict() for s in (1, 2, 3)]
    options = {"cotangents": gk.exact_trace(), "progress": False}
    plain = gk.path_kernel(mlp(), states, [0.2, 0.3, 0.5], q, **options)
    found = gk.path_kernel(mlp(), states, [0.2, 0.3, 0.5], q, store=tmp_path / "kept", **options)
    assert torch.equal(found.values, plain.values)
    assert sorted(folder.name for folder in (tmp_path / "kept").iterdir()) == [f"checkpoint-000{c}" for c in range(3)]
    again = gk.path_kernel(mlp(), states, [0.2, 0.3, 0.5], q, store=str(tmp_path / "kept"), **options)
    assert torch.equal(again.values, plain.values)
    with pytest.raises(InputError, match="weights"):  # of another path
        gk.path_kernel(mlp(), states[::-1], [0.2, 0.3, 0.5], q, store=tmp_path / "kept", **options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sketch", "call gk.sketch at every checkpoint"),
        ("model_y", "both sides of a path kernel are at the same weights"),
        ("plan", "a plan is for one kernel"),
        ("precondition", "give preconditioners="),
    ],
)
def test_options_that_a_sum_cannot_honour(option, message):
    _, _, _, q = problem()
    with pytest.raises(InputError, match=message):
        gk.path_kernel(mlp(), [mlp().state_dict()], [1.0], q, **{option: object()})
    found = gk.path_kernel(mlp(), [mlp().state_dict()], [1.0], q, progress=False, **{option: None})
    assert found.shape == (5, 5)
