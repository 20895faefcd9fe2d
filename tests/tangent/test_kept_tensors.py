"""Modules that keep tensors between calls: gradients and values are those of a module that keeps nothing."""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import cached_property
from typing import Any

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
        self._kept: dict[str, Any] = {}
        self._list: list[Tensor] = []
        self._bias: Any = None

    def _gathered(self) -> Tensor:
        return torch.tanh(self.table[:, self.places]) * self.scale["a"] * self.factor

    @cached_property
    def once(self) -> Tensor:
        return self._gathered()

    def _found(self) -> Tensor:
        """The bias, from where it is kept."""
        if self.how == "never" or self.training:
            return self._gathered()
        if self.how == "dict":
            return self._kept["bias"] if "bias" in self._kept else self._kept.setdefault("bias", self._gathered())
        if self.how == "new dict":
            self._kept = self._kept or {"bias": self._gathered()}
            return self._kept["bias"]
        if self.how == "dict in a dict":
            self._kept = self._kept or {"cpu": {"bias": self._gathered()}, "n": 4}
            return self._kept["cpu"]["bias"]
        if self.how == "list":
            self._list = self._list or [self._gathered()]
            return self._list[0]
        if self.how == "tuple":
            self._bias = self._bias or (self._gathered(),)
            return self._bias[0]
        if self.how == "property":
            return self.once
        if self.how == "absent":
            if not hasattr(self, "late"):
                self.late = self._gathered()
            return self.late
        if self._bias is None:
            self._bias = self._gathered()
        return self._bias

    def forward(self, x: Tensor) -> Tensor:
        bias = self._found()
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


KINDS = ("dict", "new dict", "dict in a dict", "list", "tuple", "property", "absent", "attribute")
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


class Passing(nn.Module):
    """Two modules that hold one dict: the first writes what the second reads."""

    def __init__(self) -> None:
        super().__init__()
        store: dict[str, Tensor] = {}
        self.encoder, self.decoder = Encoder(store), Decoder(store)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class Encoder(nn.Module):
    def __init__(self, store: dict[str, Tensor]):
        super().__init__()
        self.store, self.unused = store, nn.Parameter(torch.zeros(2))
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.store["skip"] = torch.tanh(self.linear(x))
        return self.store["skip"] * 2


class Decoder(nn.Module):
    def __init__(self, store: dict[str, Tensor]):
        super().__init__()
        self.store, self.linear = store, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + self.store["skip"] ** 2)


@pytest.mark.parametrize("first", [1, 4])
def test_a_dict_that_two_modules_hold(first: int) -> None:
    torch.manual_seed(0)
    net, x = Passing().double(), torch.randn(6, 5, dtype=torch.float64)
    fresh = naive(net, x)
    with torch.no_grad():
        net(x[:first])
    store = net.encoder.store
    kept = store["skip"]
    assert torch.allclose(gk.kernel(net, x).values, fresh, rtol=1e-12)
    assert net.decoder.store is store and store["skip"] is kept


class Frozen(OrderedDict[str, Any]):
    """Like a configuration of diffusers: what is in it stays."""

    def __setitem__(self, name: str, value: Any) -> None:
        if getattr(self, "closed", False):
            raise TypeError("frozen")
        super().__setitem__(name, value)

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("frozen")


def test_containers_that_refuse_to_be_changed() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(5, 4), Recording(), nn.Linear(4, 2)).double(), torch.randn(6, 5).double()
    config = Frozen(width=4, limits=torch.ones(2))
    config.closed = True  # type: ignore[attr-defined]
    net[1].config = config
    assert torch.allclose(gk.kernel(net, x).values, naive(nn.Sequential(net[0], net[2]), x), rtol=1e-12)
    assert net[1].config is config and list(config) == ["width", "limits"]


class Writing(nn.Module):
    """Writes to its weight in each call, and to a buffer in the first."""

    def __init__(self, weight: bool):
        super().__init__()
        self.w, self.hidden = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(()))
        self.constant, self.writes_weight = torch.ones(5), weight

    def forward(self, x: Tensor) -> Tensor:
        if self.writes_weight:
            self.w.data.mul_(0.9)
        elif self.mean == 0:
            self.mean.copy_(x.mean())
        return (x - self.mean) * self.w * self.constant


def test_nothing_is_written_by_looking() -> None:
    x = torch.randn(8, 5)
    net = Writing(weight=True)
    with pytest.raises(gk.GenkernelError):
        gk.kernel(net, x)
    assert torch.equal(net.w, torch.ones(5))
    model = gk.TangentModel(Writing(weight=False))
    model.find_caches(x)
    assert model.module.mean == 0


def test_an_instance_that_is_called_later() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), Keeping("dict"), nn.Tanh(), Keeping("dict"), nn.Linear(4, 2)).double().eval()
    x, plain = torch.randn(6, 5, dtype=torch.float64), copy.deepcopy(net)
    plain[1].how = plain[3].how = "never"
    model = gk.TangentModel(net)
    for called in (net[:2], net):
        with torch.no_grad():
            called(x)
        assert torch.allclose(gk.kernel(model, x).values, naive(plain, x), rtol=1e-12)


def test_parameters_that_are_not_asked_for() -> None:
    net, other, x = network("dict"), network("never"), torch.randn(6, 5, dtype=torch.float64)
    called_before(net, x, "without gradients")
    nn.init.normal_(other[1].table)
    model = gk.TangentModel(net, params="0.*").at(other.state_dict())
    with torch.inference_mode():
        assert torch.allclose(model(x), other(x), rtol=1e-12)
    assert torch.allclose(gk.kernel(model, x).values, naive(gk.TangentModel(other, params="0.*"), x), rtol=1e-12)
    assert torch.allclose(InputJacobian(model, x[:1]).outputs(), other(x[:1]), rtol=1e-12)


class Guarded(Keeping):
    """Asks a number, not the tensor, whether there is one."""

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "full", False):
            self._bias, self.full = self._gathered(), True
        return x * self._bias[0] + self._bias[1]


def test_what_cannot_be_made_again_is_told(caplog: pytest.LogCaptureFixture) -> None:
    net, x = nn.Sequential(nn.Linear(5, 4), Guarded("")).double().eval(), torch.randn(6, 5, dtype=torch.float64)
    with torch.no_grad():
        net(x)
    gk.kernel(net, x)
    assert "1.table has no influence on the outputs, and Guarded holds" in caplog.text
