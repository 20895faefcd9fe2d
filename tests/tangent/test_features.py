"""Tangent features over the zoo, against gradients taken one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import genkernel as gk
from genkernel.errors import BatchCouplingError, InputError, NonFiniteError
from genkernel.tangent import reference
from tests.zoo import CASES


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_features_are_the_naive_gradients(case):
    model, x = case.model(), case.batch(3)
    found = gk.tangent_features(model, x)
    expected = reference.gradients(model, x, gk.exact_trace())
    rows = torch.cat([g.reshape(*g.shape[:2], -1) for g in expected.values()], 2).transpose(0, 1)
    assert found.shape == rows.shape
    assert torch.allclose(found, rows, rtol=1e-9, atol=1e-10 * float(rows.abs().max()))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def test_cotangents_give_the_kernel_of_the_same_cotangents():
    model, x = net().double(), torch.randn(5, 4, dtype=torch.float64)
    for cotangents in (gk.total(), gk.output(1), gk.probes(4, seed=3), gk.exact_trace()):
        phi = gk.tangent_features(model, x, cotangents=cotangents)
        K = gk.kernel(model, x, cotangents=cotangents).values
        assert torch.allclose(torch.einsum("ikp,jkp->ij", phi, phi), K, rtol=1e-10)


def test_a_float32_network_has_features_in_float64():
    model, x = net(), torch.randn(5, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert gk.tangent_features(model, x).dtype == torch.float64
    assert gk.tangent_features(model, x, dtype=None).dtype == torch.float32
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, before[name]) and p.grad is None


def test_inside_of_gradient_guards():
    model, x = net(), torch.randn(5, 4)
    for cotangents in (None, gk.probes(2)):
        expected = gk.tangent_features(model, x, cotangents=cotangents)
        for guard in (torch.no_grad, torch.inference_mode):
            with guard():
                for given in (x, x * 1):
                    found = gk.tangent_features(model, given, cotangents=cotangents)
                    assert torch.equal(found, expected) and not found.is_inference()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="GiB"):
        gk.tangent_features(net(), torch.randn(5, 4), memory=1000)
    with pytest.raises(BatchCouplingError):
        gk.tangent_features(Normalised(), torch.randn(5, 4))
    with pytest.raises(NonFiniteError):
        gk.tangent_features(net(), torch.full((5, 4), torch.nan))


class Normalised(nn.Module):
    """Sees the mean of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        out = self.inner(x)
        return out - out.mean(0)


def test_a_model_that_does_not_run_on_the_batch_is_said_to():
    class OneDict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, batch):
            return self.inner(batch["a"])

    x = {"a": torch.randn(4, 3)}
    for take in (gk.tangent_features, gk.operator):
        with pytest.raises(InputError, match=r"does not run on samples.*dict as module\(\*\*batch\)"):
            take(OneDict(), x)
        take(gk.TangentModel(OneDict(), call=lambda module, batch: module(batch)), x)


def test_features_do_not_depend_on_what_is_taken_together():
    model, x = net().double(), torch.randn(7, 4, dtype=torch.float64)
    whole = gk.tangent_features(model, x)
    tight = gk.tangent_features(model, x, memory=whole.nbytes)
    assert torch.allclose(whole, tight, rtol=1e-12)
