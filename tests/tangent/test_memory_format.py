"""Convolutions whose weights have their channels last: the same kernel, and a way out where a model needs another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkernel as gk
from genkernel.tangent import capture, memory_format, products, reference
from genkernel.tangent.factors import Convolution, is_channels_last
from genkernel.tangent.model import TangentModel
from genkernel.tangent.rules import normalization
from tests.tangent.compare import relative_error

pytestmark = pytest.mark.skipif(not products.available(), reason="no oneDNN for float32 here")

LAST = torch.channels_last


class Images(nn.Module):
    """Layers, then a mean over positions and a head."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.body, self.head = nn.Sequential(*layers), nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(40), nn.Conv2d(40, 40, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x)))


class Grouped(nn.Module):
    """Groups that no module tells of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(48, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, groups=16)


NETS = {
    "batch norms": lambda: Images(
        nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40), nn.ReLU(True),
        nn.Conv2d(40, 48, 3, 2, 1), nn.BatchNorm2d(48),
    ),
    "residuals": lambda: Images(nn.Conv2d(3, 40, 3, padding=1), Residual(), nn.Conv2d(40, 40, 1), Residual()),
    "many positions": lambda: Images(nn.Conv2d(3, 36, 3), nn.Tanh(), nn.Upsample(28), nn.Conv2d(36, 34, 3, dilation=2)),
    "askew": lambda: Images(
        nn.Conv2d(3, 40, (1, 3)), nn.Tanh(), nn.Upsample(20),
        nn.Conv2d(40, 33, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(3, 1)),
    ),
    "one position": lambda: Images(nn.Conv2d(3, 40, 12), nn.Tanh(), nn.Conv2d(40, 36, 1), nn.ConvTranspose2d(36, 3, 4)),
    "one channel": lambda: Images(nn.Conv2d(3, 1, 3), nn.Tanh(), nn.Conv2d(1, 40, 3), nn.Conv2d(40, 1, 3)),
    "few positions": lambda: Images(nn.Conv2d(3, 40, 3, 4), nn.Tanh(), nn.Conv2d(40, 40, 2, bias=False)),
    "transposed": lambda: Images(
        nn.Conv2d(3, 40, 3, 2, 1), nn.Tanh(), nn.ConvTranspose2d(40, 36, 4, 2, 1), nn.LeakyReLU(),
        nn.ConvTranspose2d(36, 5, 3, output_padding=1, stride=2),
    ),
    "grouped": lambda: Images(nn.Conv2d(3, 48, 3, padding=1), nn.SiLU(), Grouped()),
    "padding modes": lambda: Images(
        nn.Conv2d(3, 40, 3, padding="same", padding_mode="reflect"), nn.Conv2d(40, 33, (3, 1), padding=(2, 0))
    ),
    "pixel shuffle": lambda: Images(nn.Conv2d(3, 64, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(16, 40, 3)),
}  # fmt: skip


def pictures(n: int = 6, side: int = 12) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name]().eval()
    net(pictures(2))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return net


@pytest.mark.parametrize("memory", ["8GiB", "2MiB"])
@pytest.mark.parametrize("name", NETS)
def test_the_kernel_is_the_same(name: str, memory: str | int, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = built(name), pictures()
    seen: list[bool] = []
    made = Convolution.__init__

    def note(self: Convolution, A: Tensor, B: Tensor, *rest: Any, **more: Any) -> None:
        seen.append(is_channels_last(A) or is_channels_last(B))
        made(self, A, B, *rest, **more)

    monkeypatch.setattr(Convolution, "__init__", note)
    true = reference.kernel(net, x, cotangents=gk.probes(2))
    K = gk.kernel(net, x, cotangents=gk.probes(2), memory=memory)
    assert K.coverage.channels_last and not K.coverage.generic
    assert any(seen) or name == "one position"
    assert relative_error(K, true) < 2e-6


@pytest.mark.parametrize("name", NETS)
def test_with_a_preconditioner_every_coordinate_has_its_own_factor(name: str) -> None:
    net, x = built(name), pictures()
    draw = torch.Generator().manual_seed(3)
    P = {name: torch.rand(p.shape, generator=draw) + 0.1 for name, p in net.named_parameters()}
    true = reference.kernel(net, x, cotangents=gk.total(), precondition=P)
    assert relative_error(gk.kernel(net, x, cotangents=gk.total(), precondition=P), true) < 2e-6


class Flat(nn.Module):
    """Needs its channels first from ``least`` samples on."""

    def __init__(self, least: int = 0):
        super().__init__()
        self.conv, self.head, self.least = nn.Conv2d(3, 8, 3), nn.Linear(800, 2), least
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).tanh()
        return self.head(self.flat(x) if len(x) >= self.least else x.reshape(len(x), -1))

    def flat(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


class Strided(Flat):
    """Reads its images as they lie in memory."""

    def flat(self, x: Tensor) -> Tensor:
        return torch.as_strided(x, (len(x), 800), (800, 1))


class Gated(Flat):
    """Reads them so behind a gate that is shut."""

    def flat(self, x: Tensor) -> Tensor:
        return x.flatten(1) + self.gate * torch.as_strided(x, (len(x), 800), (800, 1))


class Asks(Flat):
    def flat(self, x: Tensor) -> Tensor:
        assert x.is_contiguous(), "a kernel of mine needs it"
        return x.flatten(1)


class Tries(Flat):
    def flat(self, x: Tensor) -> Tensor:
        try:
            return torch.as_strided(x, (len(x), 800), (800, 1))
        except RuntimeError:
            return 2 * x.flatten(1)


class Memory(torch.autograd.Function):
    """As it lies in memory, by a function of one's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.as_strided(x, (len(x), 800), (800, 1)).clone()

    @staticmethod
    def backward(ctx: Any, B: Tensor) -> Tensor:
        return B.view(len(B), 8, 10, 10)


class Own(Flat):
    def flat(self, x: Tensor) -> Tensor:
        return Memory.apply(x)  # type: ignore[no-any-return]


class Instances(Flat):
    """A single image among the parts of some batches."""

    def flat(self, x: Tensor) -> Tensor:
        return torch.cat([F.instance_norm(part) for part in x.split(5)]).flatten(1)


@pytest.mark.parametrize("least", [0, 5])
@pytest.mark.parametrize("kind", [Flat, Strided, Gated, Asks, Own])
def test_a_model_that_minds_how_images_lie(kind: type[Flat], least: int) -> None:
    """From the first batch on, or in large ones alone: those run as the model is."""
    torch.manual_seed(0)
    net, x = kind(least), pictures()
    K = gk.kernel(net, x, cotangents=gk.total())
    assert K.coverage.channels_last == bool(least)
    if kind not in (Own, Gated) or not least:  # where other calls appear in large batches, more than the format changes
        assert not K.coverage.generic
    true = reference.per_parameter(net, x, cotangents=gk.total())
    assert relative_error(K, sum(t.sum(0) for t in true.values())) < 2e-6
    if kind is Gated:
        assert relative_error(K.layers["gate"], true["gate"].sum(0)) < 2e-6


class Groups(Flat):
    """The variance is small beside the mean: channels last, torch would lose it."""

    def flat(self, x: Tensor) -> Tensor:
        return F.group_norm(x + 300, 4).flatten(1)


@pytest.mark.parametrize("kind", [Tries, Instances, Groups])
def test_what_would_be_overlooked(kind: type[Flat]) -> None:
    torch.manual_seed(0)
    net, x = kind(), pictures()
    K = gk.kernel(net, x, cotangents=gk.total())
    assert not K.coverage.channels_last
    assert relative_error(K, reference.kernel(net, x, cotangents=gk.total())) < (3e-5 if kind is Groups else 2e-6)


@pytest.mark.parametrize("kind", [Strided, Gated])
def test_the_proof_finds_out_by_itself(kind: type[Flat], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where no call is known to depend on it: from outputs, and behind a shut gate from inputs."""
    monkeypatch.setattr(capture, "_OF_MEMORY", set())
    torch.manual_seed(0)
    net, x = kind(), pictures()
    K = gk.kernel(net, x, cotangents=gk.total())
    assert not K.coverage.channels_last
    true = reference.per_parameter(net, x, cotangents=gk.total())
    assert relative_error(K.layers["gate"], true["gate"].sum(0)) < 2e-6
    assert relative_error(K, reference.kernel(net, x, cotangents=gk.total())) < 2e-6


def test_a_batch_with_other_outputs_runs_as_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_OF_MEMORY", set())
    torch.manual_seed(0)
    net, x = Strided(least=5), pictures()
    K = gk.kernel(net, x, cotangents=gk.total())
    assert K.coverage.channels_last
    assert relative_error(K, reference.kernel(net, x, cotangents=gk.total())) < 2e-6


def test_the_format_of_a_batch_does_not_depend_on_others() -> None:
    """Two samples run channels last, four do not: whichever ran first."""
    torch.manual_seed(0)
    net, x = Flat(least=3), pictures(4)
    whole = gk.kernel(net, x, cotangents=gk.total())
    few = gk.kernel(net, x[:2], cotangents=gk.total(), coverage=whole.coverage)
    again = gk.kernel(net, x[:2], cotangents=gk.total())
    assert whole.coverage.channels_last and torch.equal(few.values, again.values)


def test_cotangents_see_outputs_in_the_usual_order() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3)), pictures()
    loss = gk.loss(lambda out, batch: out.square().view(len(out), -1).mean(1))
    K = gk.kernel(net, x, cotangents=loss)
    assert K.coverage.channels_last and relative_error(K, reference.kernel(net, x, cotangents=loss)) < 2e-6


def test_a_proof_does_not_carry_the_format_where_it_does_not_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = built("batch norms"), pictures()
    coverage = gk.kernel(net, x, cotangents=gk.total()).coverage
    assert coverage.channels_last
    made: list[int] = []
    copies = memory_format.channels_last
    monkeypatch.setattr(memory_format, "channels_last", lambda *a: made.append(1) or copies(*a))
    gk.kernel(net, x, cotangents=gk.total(), coverage=coverage, dtype="float64")
    gk.kernel(net, x, cotangents=gk.total(), coverage=coverage, memory="20KiB")
    with torch.backends.mkldnn.flags(enabled=False):
        gk.kernel(net, x, cotangents=gk.total(), coverage=coverage)
    gk.sketch(net, x, dim=64, cotangents=gk.total())
    assert not made
    gk.kernel(net, x, cotangents=gk.total(), coverage=coverage)
    assert made


def test_where_it_suits() -> None:
    net = built("batch norms")
    assert not memory_format.suits(TangentModel(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))), torch.float32)
    assert memory_format.suits(TangentModel(net), torch.float32)
    assert not memory_format.suits(TangentModel(net), torch.float64)
    assert not memory_format.suits(TangentModel(nn.Linear(2, 2)), torch.float32)
    assert memory_format.suits(TangentModel(nn.Conv2d(2, 2, 3)), torch.float32)
    assert not gk.kernel(net, pictures(), cotangents=gk.total(), dtype="float64").coverage.channels_last
    tensors = TangentModel(net).tensors()
    copies = memory_format.channels_last(TangentModel(net), tensors)
    weight = tensors["body.0.weight"]
    assert copies[id(weight)].is_contiguous(memory_format=LAST) and weight.is_contiguous()
    assert torch.equal(copies[id(weight)], weight) and not copies[id(weight)].requires_grad


@pytest.mark.parametrize("mixed", [False, True])
def test_scales_of_normalisations(mixed: bool) -> None:
    x, B = (torch.randn(5, 12, 7, 6, dtype=torch.float64) for _ in range(2))
    last, other = x.contiguous(memory_format=LAST), B if mixed else B.contiguous(memory_format=LAST)
    mean, var = torch.randn(12, dtype=torch.float64), torch.rand(12, dtype=torch.float64) + 0.5
    for found, true in (
        (normalization._with_running_statistics(last, other, mean, var, 1e-5),
         (F.batch_norm(x, mean, var) * B).sum((2, 3))),
        (normalization._with_group_statistics(last, other, 4, 1e-5), (F.group_norm(x, 4) * B).sum((2, 3))),
    ):  # fmt: skip
        torch.testing.assert_close(found, true)
