"""Models that have no kernel end in one clear sentence of the right kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import genkernel as gk
from genkernel.errors import BatchCouplingError, GenkernelError, NonFiniteError, RandomOutputError
from genkernel.tangent import examine, kernel
from tests.tangent.compare import BY_NAME, relative_error
from tests.zoo import REFUSALS, Refusal


@pytest.mark.parametrize("refused", REFUSALS, ids=repr)
def test_refused(refused: Refusal) -> None:
    model, batch = refused.make()
    with pytest.raises(refused.error) as caught:
        kernel(model, batch(6, 0), cotangents=gk.probes(2))
    message = str(caught.value)
    assert isinstance(caught.value, GenkernelError)
    assert "\n" not in message
    for word in refused.words:
        assert word in message, message


@pytest.mark.parametrize("refused", [r for r in REFUSALS if r.error is not NonFiniteError], ids=repr)
@pytest.mark.parametrize("n", [1, 2])
def test_refused_with_few_samples(refused: Refusal, n: int) -> None:
    """One sample shows no coupling by itself: the engine has to make others up."""
    model, batch = refused.make()
    with pytest.raises(refused.error):
        kernel(model, batch(n, 0), cotangents=gk.probes(2))


@pytest.mark.parametrize(
    "refused", [r for r in REFUSALS if r.error in (BatchCouplingError, RandomOutputError)], ids=repr
)
def test_examined_without_a_kernel(refused: Refusal) -> None:
    model, batch = refused.make()
    with pytest.raises(refused.error):
        examine(model, batch(4, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_refused_in_float32_too(dtype: torch.dtype) -> None:
    for refused in REFUSALS:
        if refused.error is BatchCouplingError:
            model, batch = refused.make()
            model.module.to(dtype)
            with pytest.raises(BatchCouplingError):
                kernel(model, batch(4, 0).to(dtype))


def test_batch_norm_in_train_mode_that_does_not_couple_is_no_reason_to_refuse() -> None:
    """Asked for train mode, but the network has no batch norm."""
    case = BY_NAME["mlp"]
    model = gk.TangentModel(case.module(), batch_norm="train")
    assert relative_error(kernel(model, case.batch(3)), kernel(case.model(), case.batch(3))) < 1e-12


def test_zero_initialised_output_hides_no_coupling() -> None:
    """At the real weights the output is 0 whatever the batch is; the gradient is not."""

    class Coupled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.layer(x)
            return self.out(h - h.mean(0))

    with pytest.raises(BatchCouplingError):
        kernel(Coupled().double(), torch.randn(5, 3, dtype=torch.float64))


def test_closure_without_parameters_is_welcome() -> None:
    """Constants in closures are no parameters."""
    constant = torch.randn(3, 2, dtype=torch.float64)
    net = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    K = kernel(gk.TangentModel(net, call=lambda module, b: module(b) * (b @ constant)), x, cotangents=gk.total())
    v = x @ constant  # the gradient is v_i ⊗ (x_i, 1)
    assert relative_error(K, (v @ v.T) * (x @ x.T + 1)) < 1e-12


def test_seeded_randomness_inside_of_call_is_welcome() -> None:
    """Noise drawn from a generator of its own, the same for every sample and call."""
    net = nn.Linear(3, 2).double()

    def call(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        draw = torch.Generator().manual_seed(0)
        return module(x * torch.randn(3, generator=draw, dtype=x.dtype))

    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.isfinite(kernel(gk.TangentModel(net, call=call), x, cotangents=gk.total()).values).all()


def test_overflow_is_named() -> None:
    """Finite gradients whose products are not."""
    net = nn.Linear(3, 2).float()
    x = torch.full((4, 3), 1e30)
    with pytest.raises(NonFiniteError, match="weight"):
        kernel(net, x, cotangents=gk.total(), accumulate="float32")
    assert torch.isfinite(kernel(net, x, cotangents=gk.total()).values).all()
