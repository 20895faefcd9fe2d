"""One parameter in several places, and parameters left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.cases import Net, P, case, floats, integers

# sharing ------------------------------------------------------------------------------------------


@case("a layer called three times", floats(4), common=True)
def called_three_times() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(net.layer(x))
        return net.out(x)

    return Net(forward, layer=nn.Linear(4, 4), out=nn.Linear(4, 2))


@case("a convolution and a norm called three times at different resolutions", floats(3, 8, 8), common=True)
def conv_called_three_times() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.avg_pool2d(torch.tanh(net.norm(net.conv(x))), 2)
        return x.flatten(1)

    return Net(forward, conv=nn.Conv2d(3, 3, 3, padding=1), norm=nn.GroupNorm(3, 3))


@case("embedding tied to the output layer: a sparse use and a dense use", integers(7, 3), common=True)
def tied_embedding() -> nn.Module:
    net = Net(
        lambda net, i: net.head(torch.tanh(net.middle(net.table(i)))).mean(1),
        table=nn.Embedding(7, 4), middle=nn.Linear(4, 4), head=nn.Linear(4, 7, bias=False),
    )  # fmt: skip
    net.head.weight = net.table.weight
    return net


@case("one weight in two linear layers", floats(4), common=True)
def tied_linear() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    return net


@case("autoencoder: a weight and its transpose", floats(5), common=True)
def tied_transposed() -> nn.Module:
    return Net(lambda net, x: F.linear(torch.tanh(F.linear(x, net.w)), net.w.t()), w=P(3, 5))


@case("one module under two names", floats(3), common=True)
def two_names() -> nn.Module:
    inner = nn.Linear(3, 3)
    return Net(lambda net, x: net.b(torch.tanh(net.a(x))), a=inner, b=inner)


@case("one weight as matrix, as scale and as bias", floats(3), common=True)
def many_roles() -> nn.Module:
    return Net(lambda net, x: torch.tanh(F.linear(x, net.w)) * net.w[0] + net.w[:, 1], w=P(3, 3))


@case("two parameters that alias one memory", floats(3))
def aliased_memory() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    net[2].weight.data = net[0].weight.data
    return net


# which parameters ---------------------------------------------------------------------------------


@case("a parameter that is used in no way", floats(3), common=True)
def unused_parameter() -> nn.Module:
    return Net(lambda net, x: net.a(x), a=nn.Linear(3, 2), never=P(4), layer=nn.Linear(2, 2))


@case("a parameter used where it has no influence", floats(3), common=True)
def dead_end() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        net.b(x).sum()
        return net.a(x) + 0.0 * x.sum()

    return Net(forward, a=nn.Linear(3, 2), b=nn.Linear(3, 2))


@case("frozen parameters below and above trained ones", floats(3), common=True)
def frozen_parameters() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    net[4].weight.requires_grad_(False)
    return net


@case("parameters picked by a glob", floats(3), params="2.*", common=True)
def picked_by_glob() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


@case(
    "parameters picked by a predicate, frozen ones among them",
    floats(3),
    params=lambda name: name.endswith("bias"),
    common=True,
)
def picked_by_predicate() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


@case("a weight reached both through a detach and as it is", floats(3), common=True)
def stop_gradient() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        held = F.linear(x, net.a.weight.detach()).detach()
        return net.b(torch.tanh(net.a(x))) * held + F.linear(x, net.a.weight)

    return Net(forward, a=nn.Linear(3, 3), b=nn.Linear(3, 3))


@case("a layer under no_grad", floats(3), common=True)
def under_no_grad() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            frozen = torch.tanh(net.a(x))
        return net.b(frozen) + net.a(x)

    return Net(forward, a=nn.Linear(3, 3), b=nn.Linear(3, 3))
