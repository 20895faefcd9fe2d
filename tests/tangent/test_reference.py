"""The reference itself, against torch.func and against what any kernel is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from genkernel.errors import InputError
from genkernel.tangent import TangentModel, batches, exact_trace, output, probes, reference, total
from tests.tangent.compare import KINDS, N, relative_error, samples
from tests.zoo import CASES, Case


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(6, 3, dtype=torch.float64)


def jacobian(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``[n, O, P]`` by forward of the whole batch and reverse mode over it."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    found = jacrev(lambda p: functional_call(net, p, (x,)))(parameters)
    return torch.cat([j.flatten(2) for j in found.values()], 2)


def test_matches_jacrev(net: nn.Module, x: torch.Tensor) -> None:
    j = jacobian(net, x)
    matrix = torch.einsum("iop,jqp->ijoq", j, j)
    assert relative_error(reference.kernel(net, x, cotangents=total()), matrix.sum((2, 3))) < 1e-14
    assert relative_error(reference.kernel(net, x, cotangents=output(2)), matrix[:, :, 2, 2]) < 1e-14
    trace = matrix.diagonal(dim1=2, dim2=3).sum(-1)
    assert relative_error(reference.kernel(net, x, cotangents=exact_trace()), trace) < 1e-14
    v = torch.stack([v[0] for v in probes(5, seed=1).vectors(torch.zeros(1, 4, dtype=torch.float64), x)])
    estimate = torch.einsum("ijoq,ko,kq->ij", matrix, v, v) / 5
    assert relative_error(reference.kernel(net, x, cotangents=probes(5, seed=1)), estimate) < 1e-14


def test_matches_jacrev_in_convolutions(x: torch.Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.SiLU(), nn.Conv2d(3, 1, 3)).double()
    images = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    found = jacrev(lambda p: functional_call(net, p, (images,)).flatten(1))(parameters)
    j = torch.cat([j.flatten(2) for j in found.values()], 2)
    assert (
        relative_error(reference.kernel(net, images, cotangents=exact_trace()), torch.einsum("iop,jop->ij", j, j))
        < 1e-13
    )


def test_cross_preconditioned_and_two_time(net: nn.Module, x: torch.Tensor) -> None:
    later = copy.deepcopy(net)
    with torch.no_grad():
        for p in later.parameters():
            p.add_(0.1 * torch.randn_like(p))
    diagonal = {name: torch.rand_like(p) for name, p in net.named_parameters()}
    flat = torch.cat([d.flatten() for d in diagonal.values()])
    y = torch.randn(2, 3, dtype=torch.float64)
    a, b = jacobian(net, x).sum(1), jacobian(later, y).sum(1)
    found = reference.kernel(net, x, y, model_y=later, cotangents=total(), precondition=diagonal)
    assert relative_error(found, (a * flat) @ b.T) < 1e-14
    at_x = reference.kernel(net, x, model_y=later, cotangents=total())
    assert relative_error(at_x, a @ jacobian(later, x).sum(1).T) < 1e-14


def test_parameters_and_probes_add_up(net: nn.Module, x: torch.Tensor) -> None:
    whole = reference.kernel(net, x, cotangents=probes(4))
    each = reference.per_probe(net, x, cotangents=probes(4))
    assert each.shape == (4, 6, 6)
    assert relative_error(each.mean(0), whole) < 1e-15
    terms = reference.per_parameter(net, x, cotangents=probes(4))
    assert list(terms) == [name for name, _ in net.named_parameters()]
    assert relative_error(sum(terms.values()), each) < 1e-15


def test_float32_models_are_taken_to_float64() -> None:
    net, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(4, 3)
    found = reference.kernel(net, x, cotangents=exact_trace())
    assert (
        relative_error(found, reference.kernel(copy.deepcopy(net).double(), x.double(), cotangents=exact_trace())) == 0
    )
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_refuses_other_batch_norm_modes(x: torch.Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    with pytest.raises(InputError, match="eval"):
        reference.kernel(TangentModel(net, batch_norm="train"), x)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_zoo_is_a_zoo_of_functions_of_one_sample(case: Case) -> None:
    """Outputs of the batch are those of each sample alone, so the reference means what it says."""
    model, x = case.model(), samples(case)
    everything = list(range(batches.size(x)))
    with torch.no_grad():
        whole = model.call(model.module, batches.take(x, everything))
        alone = torch.cat([model.call(model.module, batches.take(x, [i])) for i in everything])
    assert relative_error(alone, whole) < 1e-13


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_zoo_has_kernels(case: Case) -> None:
    """Deterministic, symmetric, positive semi-definite, and not zero."""
    x = case.batch(N)
    K = reference.kernel(case.model(), x, cotangents=KINDS["probes"])
    assert relative_error(reference.kernel(case.model(), case.batch(N), cotangents=KINDS["probes"]), K) == 0
    assert torch.isfinite(K).all()
    assert bool((K.diagonal() > 0).all())
    assert relative_error(K.T.contiguous(), K) < 1e-15
    assert float(torch.linalg.eigvalsh(K).min()) > -1e-13 * float(K.trace())
