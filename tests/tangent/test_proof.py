"""What the proof must not be fooled by: samples alike or in order, branches and gates that the probe does not open."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import BatchCouplingError, InputError
from genkernel.tangent import Kernel, reference
from genkernel.tangent.factors import Outer
from genkernel.tangent.layout import Layout
from genkernel.tangent.rules.linear import Linear
from genkernel.tangent.use import Use
from tests.tangent.compare import relative_error

EXACT = 1e-10


def both(module: nn.Module, batch: Any) -> tuple[Kernel, float]:
    probes = gk.probes(2)
    K = gk.kernel(module, batch, cotangents=probes)
    return K, relative_error(K, reference.kernel(gk.TangentModel(module), batch, cotangents=probes))


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Late(nn.Module):
    """A recurrent branch that only some samples open."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = nn.Linear(4, 4), nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h, late = self.a(x), t > 500
        return h + late[:, None, None] * self.g(h)[0] if late.any() else h


class Gate(nn.Module):
    """A gate that is closed for most samples, over a layer whose sample axis is merged the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        n, T, C = x.shape
        h = self.a(x)
        g = self.b(h.transpose(0, 1).reshape(T * n, C)).tanh().reshape(T, n, C).transpose(0, 1)
        return h + (t > 500).to(x)[:, None, None] * g


@pytest.mark.parametrize("module", [Late, Gate])
@pytest.mark.parametrize("opened", [0, 37, 99])
def test_what_a_single_sample_opens_is_counted(module: type[nn.Module], opened: int) -> None:
    torch.manual_seed(0)
    t = torch.zeros(100)
    t[opened] = 900.0
    _, error = both(module().double(), (floats(100, 3, 4), t))
    assert error < EXACT


def test_first_samples_that_are_alike_do_not_hide_coupling() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(torch.tanh(h - h.mean(0)))

    x = floats(8, 4)
    x[1:4] = x[0]
    with pytest.raises(BatchCouplingError):
        gk.kernel(Mean().double(), x)


def test_one_samples_time_for_the_whole_batch_is_coupling() -> None:
    class FirstTime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.a(x) * (t[:1].to(x) + 1)

    with pytest.raises(BatchCouplingError):
        gk.kernel(FirstTime().double(), (floats(8, 4), torch.arange(4).repeat_interleave(2)))


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_samples_sorted_inside_of_the_model(order: str) -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            o = x[:, 0].argsort()
            return self.b(torch.tanh(self.a(x[o])))[o.argsort()]

    torch.manual_seed(0)
    x = floats(8, 4)
    if order != "random":
        x = x[x[:, 0].argsort(descending=order == "descending")]
    _, error = both(Sorted().double(), x)
    assert error < EXACT


def test_a_cotangent_that_averages_over_samples_is_refused() -> None:
    mean = gk.cotangent(lambda out: 2 * out / out.numel())  # the gradient of a mean over the batch
    with pytest.raises(InputError, match="mixes samples"):
        gk.kernel(nn.Linear(4, 3).double(), floats(8, 4), cotangents=mean)


def test_memory_formats_do_not_matter() -> None:
    net = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1)).double().to(memory_format=torch.channels_last)
    )
    K, error = both(net, floats(5, 3, 6, 6))
    assert error < EXACT
    assert K.coverage is not None and K.coverage.generic == []


def test_what_a_forward_keeps_for_itself_is_put_back() -> None:
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.previous: Tensor | None = None
            self.calls, self.table, self.log = 0, {}, []

        def forward(self, x: Tensor) -> Tensor:
            if self.previous is None:
                self.previous = torch.ones(4, dtype=x.dtype)
            self.calls += 1
            self.log.append(random.random() + np.random.rand())
            scale = self.table.setdefault("scale", torch.ones(4, dtype=x.dtype))
            return self.a(x) * self.previous * scale

    net = Keeper()
    state, numpy_state = random.getstate(), np.random.get_state()[1].copy()
    gk.kernel(net, torch.randn(8, 4))
    assert (net.previous, net.calls, net.table, net.log) == (None, 0, {}, [])
    assert random.getstate() == state
    assert (np.random.get_state()[1] == numpy_state).all()
    assert net(torch.randn(2, 4)).dtype == torch.float32  # the float64 probe left no table behind


def test_nothing_is_kept_alive_after_the_call() -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.a(x))
            alive.append(weakref.ref(h))
            return self.b(h)

    gc.collect()
    gc.disable()
    try:
        gk.kernel(Watched(), torch.randn(8, 4))
        assert alive and not [r for r in alive if r() is not None]
    finally:
        gc.enable()


def test_every_coverage_that_was_used_is_reported() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e = nn.ModuleList([nn.Linear(4, 3) for _ in range(4)])

        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            out = x.new_zeros(len(x), 3)
            for k in range(4):
                if (i == k).any():
                    out[i == k] = torch.tanh(self.e[k](x[i == k]))
            return out

    torch.manual_seed(0)
    batch = (floats(12, 4), torch.arange(12) % 4)
    net = Experts().double()
    whole = reference.kernel(gk.TangentModel(net), batch, cotangents=gk.total())
    K = gk.kernel(net, batch, cotangents=gk.total(), memory=1)
    assert relative_error(K, whole) < EXACT
    assert K.coverage is not None
    assert set(K.coverage.generic) == {name for name, _ in net.named_parameters()}


def test_a_model_that_does_not_run_on_perturbed_parameters() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.scale = nn.Linear(4, 16), nn.Parameter(torch.full((16,), 1e-3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.distributions.Normal(self.mean(x), self.scale, validate_args=True).cdf(x.repeat(1, 4))

    _, error = both(Scaled().double(), floats(6, 4) * 1e-3)
    assert error < EXACT


class _Gated(nn.Module):
    """A branch behind a gate that is almost shut, as networks with layer scale begin."""

    def __init__(self, gate: float):
        super().__init__()
        self.first, self.inner, self.back = nn.Linear(5, 6), nn.Linear(6, 7, bias=False), nn.Linear(7, 6, bias=False)
        self.gate = nn.Parameter(torch.full((6,), gate))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h + self.gate * self.back(torch.tanh(self.inner(h)))


@pytest.mark.parametrize("gate", [1.0, 1e-4, 1e-6, 1e-7, 0.0])
def test_a_wrong_rule_behind_a_gate_is_found(gate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = _Gated(gate), torch.randn(6, 5)
    real = Linear.factor

    def wrong(self: Linear, use: Use, position: int, B: Tensor, n: int, layout: Layout) -> Any:
        found = real(self, use, position, B, n, layout)
        return Outer(1.2 * found.A, found.B, found.shape, found.transposed) if found.shape == (7, 6) else found

    monkeypatch.setattr(Linear, "factor", wrong)
    K = gk.kernel(net, x, cotangents=gk.total())
    monkeypatch.undo()
    alone = gk.TangentModel(copy.deepcopy(net).double(), params=["inner.weight"])
    true = reference.kernel(alone, x.double(), cotangents=gk.total())
    assert float((K.layers["inner"] - true).norm()) <= 1e-3 * float(true.norm())
    assert "inner.weight" in K.coverage.by_call + K.coverage.generic


class Score(nn.Module):
    """Differentiates a part of itself by ``torch.func``, which takes no hooks on what autograd saves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.func.grad(lambda v: self.b(v).sum())(torch.tanh(self.a(x))))


def test_torch_func_inside_of_a_model() -> None:
    torch.manual_seed(0)
    net, x = Score().double(), floats(6, 4)
    true = reference.kernel(net, x, cotangents=gk.exact_trace())
    for memory in ("1GiB", 1):
        assert relative_error(gk.kernel(net, x, cotangents=gk.exact_trace(), memory=memory), true) < EXACT
    op = gk.operator(net, x, cotangents=gk.exact_trace())
    assert relative_error(torch.as_tensor(op @ torch.eye(op.shape[1], dtype=torch.float64)), true) < EXACT


def test_weights_made_in_inference_mode() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    plain.load_state_dict({name: value.clone() for name, value in net.state_dict().items()})
    x = floats(5, 4)
    K = gk.kernel(net, x, cotangents=gk.exact_trace())
    assert relative_error(K, reference.kernel(plain, x, cotangents=gk.exact_trace())) < EXACT


def test_frozen_statistics_in_the_precision_of_the_run() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    seen, x = torch.randn(30, 1, 6, 6), torch.randn(5, 1, 6, 6)
    K = gk.kernel(gk.TangentModel(net, batch_norm="frozen", reference=seen), x, cotangents=gk.total(), dtype="float64")
    wide = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        h = wide[0](seen.double())
        wide[1].running_mean.copy_(h.mean((0, 2, 3)))
        wide[1].running_var.copy_(h.var((0, 2, 3), unbiased=False))
    assert relative_error(K, reference.kernel(wide, x.double(), cotangents=gk.total())) < EXACT


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.randn(4, 2, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.cfloat) @ self.p).real


class Empty(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :0]


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda: nn.LazyLinear(3), {}, "lazy module has no shape yet: run a batch"),
        (Complex, {}, "torch.complex64: .*hold it as torch.view_as_real"),
        (lambda: Empty(4, 3), {}, "without entries has no gradients"),
        (
            lambda: nn.Linear(4, 2),
            {"cotangents": gk.loss(nn.functional.cross_entropy)},
            r"called as fn\(outputs, batch\)",
        ),
        (lambda: nn.Linear(4, 2), {"memory": 1.5}, "not an amount of memory"),
        (lambda: nn.Linear(4, 2), {"store": 3}, "store is a folder"),
        (lambda: nn.Linear(4, 2), {"store": ""}, "store is a folder"),
    ],
)
def test_plain_words(make: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        gk.kernel(make(), torch.randn(5, 4), **options)
