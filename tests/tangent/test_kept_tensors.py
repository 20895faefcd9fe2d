"""Modules that keep tensors between calls: gradients and values are those of a module that keeps nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.tangent.input_jacobian import InputJacobian
from genkernel.tangent.reference import kernel as naive


class Keeping(nn.Module):
    """A bias that is gathered from a table, in evaluation mode once and for all, as LeViT's attention does."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.table = nn.Parameter(torch.randn(2, 3))
        self.register_buffer("places", torch.tensor([0, 2, 1, 1]))
        self.scale = {"a": torch.tensor(2.0), "b": torch.tensor(0.5)}  # constants, which a call cannot make again
        self.factor = torch.full((4,), 1.5)
        self._kept: dict[str, Tensor] = {}
        self._bias: Tensor | None = None

    def _gathered(self) -> Tensor:
        return torch.tanh(self.table[:, self.places]) * self.scale["a"] * self.factor

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "never" or self.training:
            return x * self._gathered()[0] + self._gathered()[1]
        if self.how == "dict":
            if "bias" not in self._kept:
                self._kept["bias"] = self._gathered()
            bias = self._kept["bias"]
        elif self.how == "new dict":
            if not self._kept:
                self._kept = {"bias": self._gathered()}
            bias = self._kept["bias"]
        else:
            if self._bias is None:
                self._bias = self._gathered()
            bias = self._bias
        return x * bias[0] + bias[1]


def network(how: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), Keeping(how), nn.Tanh(), nn.Linear(4, 2)).double().eval()


def called_before(net: nn.Module, x: Tensor, before: str) -> None:
    if before == "without gradients":
        with torch.no_grad():
            net(x)
    elif before == "with a graph":
        net(x)


KINDS = ("dict", "new dict", "attribute")
BEFORE = ("nothing", "without gradients", "with a graph")


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("how", KINDS)
class TestKept:
    def test_kernel(self, how: str, before: str) -> None:
        net, x = network(how), torch.randn(6, 5, dtype=torch.float64)
        called_before(net, x, before)
        found = gk.kernel(net, x, by="layer")
        true = naive(network("never"), x)
        assert torch.allclose(found.values, true, rtol=1e-12)
        table = gk.TangentModel(network("never"), params="1.*")
        assert torch.allclose(found.layers["1"], naive(table, x), rtol=1e-12)

    def test_at_other_weights(self, how: str, before: str) -> None:
        net, other, x = network(how), network("never"), torch.randn(6, 5, dtype=torch.float64)
        called_before(net, x, before)
        for parameter in other.parameters():
            nn.init.normal_(parameter)
        model = gk.TangentModel(net).at(other.state_dict())
        assert torch.allclose(model(x), other(x), rtol=1e-12)
        assert torch.allclose(gk.kernel(model, x).values, naive(other, x), rtol=1e-12)

    def test_operator_and_inputs(self, how: str, before: str) -> None:
        net, plain, x = network(how), network("never"), torch.randn(6, 5, dtype=torch.float64)
        called_before(net, x, before)
        v = torch.randn(12, dtype=torch.float64)
        assert torch.allclose(gk.operator(net, x) @ v, gk.operator(plain, x) @ v, rtol=1e-10)
        w = torch.randn(6, 2, dtype=torch.float64)
        nn.init.normal_(plain[1].table)
        moved = gk.TangentModel(net).at(plain.state_dict())
        assert torch.allclose(InputJacobian(moved, x).vjp(w), InputJacobian(plain, x).vjp(w), rtol=1e-10)

    def test_left_as_it_was(self, how: str, before: str) -> None:
        net, x = network(how), torch.randn(6, 5, dtype=torch.float64)
        called_before(net, x, before)
        keeping = net[1]
        held, content, bias = keeping._kept, dict(keeping._kept), keeping._bias
        gk.kernel(net, x)
        assert keeping._kept is held
        assert {name: id(t) for name, t in held.items()} == {name: id(t) for name, t in content.items()}
        assert keeping._bias is bias


@pytest.mark.parametrize("how", KINDS)
def test_called_between_kernels(how: str) -> None:
    net, x = network(how), torch.randn(6, 5, dtype=torch.float64)
    model, true = gk.TangentModel(net), naive(network("never"), x)
    first = gk.kernel(model, x)
    with torch.no_grad():
        net(x)
    for again in (gk.kernel(model, x), gk.kernel(model, x, coverage=first.coverage)):
        assert torch.allclose(again.values, true, rtol=1e-12)


class Recording(nn.Module):
    """Keeps what passes through it, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[Tensor] = []
        self.last = torch.zeros(1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.features.append(x)
        self.last, self.calls = x, self.calls + 1
        return x + 0 * len(self.features)


def test_what_a_module_records_is_given_back() -> None:
    torch.manual_seed(0)
    net, x = (
        nn.Sequential(nn.Linear(5, 4), Recording(), nn.Tanh(), nn.Linear(4, 2)).double(),
        torch.randn(6, 5).double(),
    )
    recording = net[1]
    last, features = recording.last, recording.features
    found = gk.kernel(net, x, memory=1)
    assert torch.allclose(found.values, naive(nn.Sequential(net[0], *net[2:]), x), rtol=1e-12)
    assert (recording.features is features) and (features == []) and (recording.last is last) and (recording.calls == 0)
