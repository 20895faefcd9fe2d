"""Every case of the zoo, every cotangent kind, both shapes of kernel, against the reference in float64."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import BatchCouplingError
from genkernel.tangent import batches, call, kernel, plan, products, reference
from tests.tangent.compare import (
    HEAVY,
    KINDS,
    LARGEST_TRACE,
    QUICK_OR_SLOW,
    N,
    reduced,
    relative_error,
    samples,
    shared_model,
    truth,
)
from tests.zoo import CASES, Case
from tests.zoo.samples import checkpointed

EXACT = 1e-10  # of the reference
SAME = 1e-12  # of the same numbers summed in another order


def close_to(found: torch.Tensor, true: torch.Tensor, whole: float) -> bool:
    """Within EXACT, and within rounding of the whole kernel where the truth is zero up to rounding."""
    return float((found - true).norm()) <= EXACT * float(true.norm()) + 1e-14 * whole


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        pytest.param(c, k, marks=pytest.mark.slow if c.name in HEAVY and k != "probes" else (), id=f"{c.name}-{k}")
        for c in CASES
        for k in KINDS
    ],
)
def test_matches_reference(case: Case, kind: str) -> None:
    model, both = shared_model(case.name), samples(case)
    x, y = batches.take(both, slice(0, N)), batches.take(both, slice(N, None))
    if kind == "trace":
        with torch.no_grad():
            outputs = math.prod(model.call(model.module, batches.take(x, [0])).shape)
        if outputs > LARGEST_TRACE:
            pytest.skip(f"{outputs} outputs")
    terms = truth(case.name, kind)
    each = torch.stack(list(terms.values())).sum(0)
    true = reduced(each, kind)

    K = kernel(model, x, cotangents=KINDS[kind], by="parameter")
    assert K.values.dtype == torch.float64
    assert K.values.device.type == "cpu"
    assert relative_error(K, true[:N, :N]) < EXACT
    assert set(K.layers) == set(model.parameter_names)
    whole = float(true[:N, :N].norm())
    for name, values in K.layers.items():
        assert close_to(values, reduced(terms[name], kind)[:N, :N], whole), name
    assert relative_error(sum(K.layers.values()), K.values) < SAME
    assert relative_error(K.norms_x, true[:N, :N].diagonal()) < EXACT
    if KINDS[kind].random:
        assert relative_error(K.per_probe, each[:, :N, :N]) < EXACT

    C = kernel(model, x, y, cotangents=KINDS[kind])
    # a cross block may be small beside the diagonal it is made from
    scale = math.sqrt(float(true[:N, :N].norm() * true[N:, N:].norm()))
    assert float((C.values - true[:N, N:]).norm()) <= EXACT * min(scale, 1e3 * float(true[:N, N:].norm()))
    assert relative_error(C.norms_x, true.diagonal()[:N]) < EXACT
    assert relative_error(C.norms_y, true.diagonal()[N:]) < EXACT
    assert float((sum(C.layers.values()) - C.values).norm()) <= SAME * scale


@pytest.fixture
def only_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that never take passes (tests/tangent/test_schedules.py is about those)."""
    monkeypatch.setattr(call, "make_plan", lambda sizes, budget, *_: plan._tiles(sizes, budget))


@pytest.mark.usefixtures("only_tiles")
@pytest.mark.parametrize("case", QUICK_OR_SLOW)
def test_any_budget_gives_the_same_numbers(case: Case) -> None:
    model, x, y = shared_model(case.name), case.batch(3, seed=11), case.batch(2, seed=12)
    whole = kernel(model, x, cotangents=KINDS["probes"], memory="64GiB")
    tiles = kernel(model, x, cotangents=KINDS["probes"], memory=1)
    assert whole.meta["tasks"] == 1
    assert tiles.meta["tasks"] == 6  # one sample against one
    assert relative_error(tiles, whole) < SAME
    assert relative_error(tiles.per_probe, whole.per_probe) < SAME
    for name, values in whole.layers.items():
        assert float((tiles.layers[name] - values).norm()) <= SAME * float(whole.values.norm()), name
    crossed = kernel(model, x, y, cotangents=KINDS["residual"], memory="64GiB")
    blocks = kernel(model, x, y, cotangents=KINDS["residual"], memory=1)
    assert (crossed.meta["tasks"], blocks.meta["tasks"]) == (1, 6)
    size = math.sqrt(float(crossed.norms_x.norm() * crossed.norms_y.norm()))
    assert float((blocks.values - crossed.values).norm()) <= SAME * size


@pytest.mark.usefixtures("only_tiles")
def test_budgets_between_one_tile_and_single_samples() -> None:
    """Tiles that do not divide n, found by bisection of the budget."""
    case = next(c for c in CASES if c.name == "conv_bn_relu")
    model, x, y = case.model(), case.batch(11), case.batch(7, seed=3)
    for second in (None, y):
        true = kernel(model, x, second, cotangents=gk.total(), memory="64GiB")
        fewest, most = true.meta["tasks"], kernel(model, x, second, cotangents=gk.total(), memory=1).meta["tasks"]
        assert fewest == 1 < most
        small, large, seen = 1, 2**36, set()
        while large - small > max(1, small // 1000):
            middle = (small + large) // 2
            found = kernel(model, x, second, cotangents=gk.total(), memory=middle)
            assert relative_error(found, true) < SAME
            seen.add(found.meta["tasks"])
            small, large = (small, middle) if found.meta["tasks"] == 1 else (middle, large)
        assert len(seen) > 2, seen


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "conv_bn_relu",
        "unet",
        "transformer_tokens_first",
        "merged_time_first",
        "matmul_broadcast",
        "merged_in_between",
    ],
)
def test_any_number_of_samples(name: str, n: int) -> None:
    case = next(c for c in CASES if c.name == name)
    model, x = case.model(), case.batch(n)
    assert (
        relative_error(kernel(model, x, cotangents=gk.total()), reference.kernel(model, x, cotangents=gk.total()))
        < EXACT
    )
    y = case.batch(1, seed=4)
    true = reference.kernel(model, x, y, cotangents=gk.total())
    assert relative_error(kernel(model, x, y, cotangents=gk.total()), true) < EXACT


@pytest.mark.parametrize("shape", [(24, 32), (6, 4, 32), (3, 2, 5, 32)])
def test_wide_linear_layers_before_something_in_place(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(32, 256),
        torch.nn.ReLU(True),
        torch.nn.Linear(256, 512),
        torch.nn.ReLU(True),
        torch.nn.Linear(512, 3),
    )
    assert products.LARGE <= 32 * 256
    x = torch.randn(shape)
    K = gk.kernel(net, x, cotangents=gk.total())
    double = gk.kernel(net, x, cotangents=gk.total(), dtype="float64")
    assert relative_error(K.values, double.values) < 1e-5


def test_identical_samples() -> None:
    """A batch of one sample n times tells nothing about which axis is the batch."""
    case = next(c for c in CASES if c.name == "transformer_tokens_first")
    x = case.batch(1).repeat(4, 1, 1)
    true = reference.kernel(case.model(), x, cotangents=gk.total())
    assert relative_error(kernel(case.model(), x, cotangents=gk.total()), true) < EXACT


@pytest.mark.parametrize(
    "name", ["mlp", "conv2d_grouped", "tied_linear", "lora", "embedding", "gru_batch_first", "unet"]
)
def test_preconditioned(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    model, x, y = case.model(), case.batch(4), case.batch(3, seed=1)
    draw = torch.Generator().manual_seed(0)
    named = dict(model.module.named_parameters())
    diagonal = {k: torch.rand(named[k].shape, generator=draw, dtype=torch.float64) for k in model.parameter_names[1:]}
    for second in (None, y):
        true = reference.kernel(model, x, second, cotangents=gk.probes(3), precondition=diagonal)
        found = kernel(model, x, second, cotangents=gk.probes(3), precondition=diagonal)
        assert relative_error(found, true) < EXACT
    ones = {k: torch.ones_like(d) for k, d in diagonal.items()}
    plain = kernel(model, x, cotangents=gk.probes(3))
    assert relative_error(kernel(model, x, cotangents=gk.probes(3), precondition=ones), plain) < SAME


def test_frozen_batch_norm_uses_the_statistics_of_the_reference_batch() -> None:
    case = next(c for c in CASES if c.name == "conv_bn_relu")
    module, x, held = case.module(), case.batch(4), case.batch(9, seed=8)
    model = gk.TangentModel(module, batch_norm="frozen", reference=held)
    twin = case.module()
    for i, norm in [(1, twin[1]), (4, twin[4])]:  # by hand: in order, since the second sees the first's output
        with torch.no_grad():
            h = twin[:i](held.clone())
        norm.running_mean.copy_(h.mean((0, 2, 3)))
        norm.running_var.copy_(h.var((0, 2, 3), unbiased=False))
    true = reference.kernel(twin, x, cotangents=gk.probes(3))
    assert relative_error(kernel(model, x, cotangents=gk.probes(3)), true) < EXACT


def test_reentrant_checkpointing() -> None:
    torch.manual_seed(3)
    reentrant = checkpointed(reentrant=True).double().eval()
    plain = checkpointed(reentrant=False).double().eval()
    plain.load_state_dict(reentrant.state_dict())
    x = torch.randn(4, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = kernel(reentrant, x, cotangents=gk.total())
    assert relative_error(found, reference.kernel(plain, x, cotangents=gk.total())) < EXACT


def test_a_branch_that_only_later_batches_take() -> None:
    """The proof ran on the first samples; the fifth goes another way."""

    class Branching(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = torch.tanh(self.a(x))
            far = x[:, 0] > 10
            if far.any():
                out = out + far[:, None] * self.b(x) ** 2
            return out

    model = Branching().double()
    x = torch.randn(8, 3, dtype=torch.float64)
    x[5, 0] = 20.0
    true = reference.kernel(model, x, cotangents=gk.exact_trace())
    for memory in ("1GiB", 1):
        assert relative_error(kernel(model, x, cotangents=gk.exact_trace(), memory=memory), true) < EXACT


class Flags(torch.nn.Module):
    """A forward that plain attributes change, with the same functions on the same shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.time_first, self.couple = torch.nn.Linear(3, 2), False, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        if self.time_first:
            h = self.layer(x.transpose(0, 1).reshape(t * n, c)).view(t, n, 2).transpose(0, 1)
        else:
            h = self.layer(x.transpose(0, 1).transpose(0, 1).reshape(n * t, c)).view(n, t, 2)
        h = torch.tanh(h)
        return (h - h.mean(0) if self.couple else h - h.mean(1, keepdim=True)).square().sum(1)


def test_what_was_proved_once_is_not_taken_for_granted() -> None:
    """The same TangentModel, whose module changes between two kernels."""
    module = Flags().double()
    model, x = gk.TangentModel(module), torch.randn(4, 4, 3, dtype=torch.float64)
    for time_first in (False, True, False):
        module.time_first = time_first
        assert relative_error(kernel(model, x), reference.kernel(model, x)) < EXACT
    module.couple = True
    with pytest.raises(BatchCouplingError):
        kernel(model, x)
    module.couple = False
    module.layer = torch.nn.Linear(3, 2, bias=False).double()
    model = gk.TangentModel(module)
    assert relative_error(kernel(model, x), reference.kernel(model, x)) < EXACT


@pytest.mark.parametrize("name", ["conv_bn_relu", "spectral_norm", "tied_embedding", "mha_batch_first"])
def test_weights_may_change_between_kernels(name: str) -> None:
    """In place, through .data (which no version counter sees), and by assignment."""
    case = next(c for c in CASES if c.name == name)
    model, x = case.model(), case.batch(4)
    draw = torch.Generator().manual_seed(0)

    def check() -> torch.Tensor:
        K = kernel(model, x, cotangents=gk.probes(2))
        assert relative_error(K, reference.kernel(model, x, cotangents=gk.probes(2))) < EXACT
        return K.values

    first = check()
    for p in model.module.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=draw, dtype=p.dtype)
    second = check()
    assert relative_error(second, first) > 1e-3
    with torch.no_grad():
        for p in model.module.parameters():
            p.mul_(0.9)
    third = check()
    assert relative_error(third, second) > 1e-3
    for p in model.module.parameters():
        p.data = p.data.clone() * 1.1
    assert relative_error(check(), third) > 1e-3


def test_reads_like_an_array() -> None:
    case = next(c for c in CASES if c.name == "mlp")
    K = kernel(case.model(), case.batch(4), cotangents=gk.total())
    array = np.asarray(K)
    assert array.shape == (4, 4)
    assert array.dtype == np.float64
    assert np.array_equal(array, K.values.numpy())
    assert kernel(case.module(), case.batch(4), cotangents=gk.total(), by=None).layers == {}
    assert list(kernel(case.module(), case.batch(4)).layers) == ["0", "2", "4"]  # by layer, 8 probes
