"""Models that have no kernel end in one clear sentence of the right kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import genkernel as gk
from genkernel.errors import (
    BatchCouplingError,
    CaptureError,
    GenkernelError,
    InputError,
    NonFiniteError,
    RandomOutputError,
)
from genkernel.tangent import examine, kernel, reference
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


def test_weights_written_through_data_are_refused_and_kept() -> None:
    class Monotone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.w.data.clamp_(min=0)
            return x @ self.w.T

    net = Monotone()
    before = net.w.detach().clone()
    with pytest.raises(CaptureError, match="'w' in place"):
        gk.kernel(net, torch.randn(5, 4), cotangents=gk.total())
    assert torch.equal(net.w, before)


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(InputError, match="'weight' is on the meta device"):
        gk.TangentModel(nn.Linear(3, 2, device="meta"))


def test_coupling_that_only_large_batches_show_is_refused() -> None:
    class Fast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.lin(x)
            return h - h.mean(0) if len(x) > 8 else h

    net = Fast()
    gk.kernel(net, torch.randn(8, 4), cotangents=gk.total())
    for y in (None, torch.randn(12, 4)):
        with pytest.raises(BatchCouplingError, match="in a batch of"):
            gk.kernel(net, torch.randn(20 if y is None else 5, 4), y, cotangents=gk.total())
    with pytest.raises(BatchCouplingError, match="in a batch of 12"):
        gk.kernel(net, torch.randn(5, 4), torch.randn(12, 4), model_y=Fast(), cotangents=gk.total())


def test_a_cotangent_that_mixes_samples_is_refused_beside_a_single_sample() -> None:
    net = nn.Linear(4, 3)
    mean = gk.cotangent(lambda out, batch: torch.ones_like(out) / len(out))
    with pytest.raises(InputError, match="mixes samples"):
        gk.kernel(net, torch.randn(1, 4), torch.randn(6, 4), cotangents=mean)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"sketch": 1024}, "sketch is a Projection"),
        ({"coverage": True}, "K.coverage"),
        ({"plan": "1 tile"}, "gk.plan"),
        ({"by": lambda name: None}, "gave None"),
    ],
)
def test_options_of_the_wrong_type(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        gk.kernel(nn.Linear(4, 3), torch.randn(5, 4), cotangents=gk.total(), **options)


def test_samples_of_another_dtype() -> None:
    x = torch.randn(5, 4)
    with pytest.raises(InputError, match="does not run on float64 samples, its weights are float32"):
        gk.kernel(nn.Linear(4, 3), x.double(), cotangents=gk.total())
    assert gk.kernel(nn.Linear(4, 3), x.double(), cotangents=gk.total(), dtype="float64").values.shape == (5, 5)
    with pytest.raises(InputError, match=r"ndarray \(torch.from_numpy"):
        gk.kernel(nn.Linear(4, 3), x.numpy(), cotangents=gk.total())


def test_a_builtin_as_cotangent() -> None:
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    tanh = gk.kernel(net, x, cotangents=gk.cotangent(torch.tanh))
    assert relative_error(tanh, gk.kernel(net, x, cotangents=gk.cotangent(lambda out: out.tanh())).values) < 1e-6


def test_a_model_that_does_not_run_on_the_batch() -> None:
    net = nn.Conv2d(3, 4, 3)
    with pytest.raises(InputError, match=r"does not run on samples of this batch \(float32 \(3, 8, 8\)"):
        gk.kernel(net, torch.randn(3, 8, 8))
    with pytest.raises(InputError, match=r"module\(\*batch\)"):
        gk.kernel(net, [torch.randn(3, 8, 8), torch.randn(3, 8, 8)])
    with pytest.raises(InputError, match="not 'Tensor'"):
        gk.kernel(net, torch.randn(2, 3, 8, 8), cotangents=torch.ones(2, 4))
    with pytest.raises(InputError, match="'typo"):
        gk.TangentModel(net, params=["weight", "typo.*"])


def test_a_kernel_that_is_zero_says_so(caplog: pytest.LogCaptureFixture) -> None:
    detached = gk.TangentModel(nn.Linear(4, 3), call=lambda net, x: net(x).detach())
    assert not gk.kernel(detached, torch.randn(5, 4), cotangents=gk.total()).values.any()
    assert "no parameter has an influence" in caplog.text


def test_a_forward_that_differentiates() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = x.detach().clone().requires_grad_(True)
            return torch.autograd.grad(torch.tanh(self.lin(z)).square().sum(), z, create_graph=True)[0]

    net, x = Force().double(), torch.randn(5, 4, dtype=torch.float64)
    K = gk.kernel(net, x, cotangents=gk.exact_trace())
    assert relative_error(K, reference.kernel(net, x, cotangents=gk.exact_trace())) < 1e-10


def test_bare_modules_for_preconditioners() -> None:
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).square().sum().backward()
    optimizer.step()
    for P in (gk.Preconditioner.from_optimizer(optimizer, net), gk.Preconditioner.mask(net, "weight")):
        assert gk.kernel(net, x, precondition=P).values.shape == (5, 5)


def test_a_sketch_of_a_model_that_couples_large_batches_is_refused() -> None:
    class Fast(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = super().forward(x)
            return h - 3e-4 * h.mean(0) if len(x) > 8 else h  # below what float32 alone would be blamed for

    for compute in (gk.kernel, gk.sketch):
        with pytest.raises(BatchCouplingError, match="in a batch of"):
            compute(Fast(4, 3), torch.randn(20, 4), cotangents=gk.total())


def test_a_plan_of_another_model_is_refused_beside_a_store(tmp_path: Path) -> None:
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    gk.kernel(net, x, cotangents=gk.total(), store=tmp_path / "tiles")
    ahead = gk.plan(gk.TangentModel(nn.Linear(4, 3), call=lambda m, b: m(b).sin()), x, cotangents=gk.total())
    with pytest.raises(InputError, match="differs in model"):
        gk.kernel(net, x, cotangents=gk.total(), store=tmp_path / "tiles", plan=ahead)
