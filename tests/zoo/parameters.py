"""Bare parameters, learned constants, and weights computed from parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.zoo.cases import Net, P, both, case, floats, integers

# bare parameters ----------------------------------------------------------------------------------


@case("scale and shift as bare parameters", floats(3), common=True)
def scale_shift() -> nn.Module:
    return Net(lambda net, x: torch.tanh(x * net.scale + net.shift) * net.last, scale=P(3), shift=P(3), last=P(3))


@case("0-dimensional parameters: a temperature and a gate", floats(3), common=True)
def scalar_parameters() -> nn.Module:
    return Net(
        lambda net, x: net.gate * torch.tanh(net.layer(x) / net.temperature) + net.temperature,
        gate=P(), temperature=nn.Parameter(torch.tensor(2.0)), layer=nn.Linear(3, 2),
    )  # fmt: skip


@case("a parameter through exp, and the cosine of normalised features", floats(3))
def logit_scale() -> nn.Module:
    return Net(
        lambda net, x: net.log_scale.exp() * F.normalize(net.layer(x), dim=-1) @ F.normalize(net.classes, dim=-1).t(),
        log_scale=P(), layer=nn.Linear(3, 4), classes=P(3, 4),
    )  # fmt: skip


@case("positional embedding added, sliced to the length at hand", floats(4, 3), common=True)
def positional_embedding() -> nn.Module:
    return Net(
        lambda net, x: net.out(torch.tanh(net.enter(x) + net.position[:, : x.shape[1]])).mean(1),
        position=P(1, 6, 4), enter=nn.Linear(3, 4), out=nn.Linear(4, 2),
    )  # fmt: skip


@case("class token expanded over the batch and concatenated", floats(3, 4), common=True)
def class_token() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        tokens = torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1) + net.position
        return net.head(net.layer(tokens)[:, 0])

    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu")
    return Net(forward, token=P(1, 1, 4), position=P(1, 4, 4), layer=layer, head=nn.Linear(4, 2))


@case("class token repeated over the batch, which copies it", floats(3, 4))
def class_token_repeated() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        tokens = torch.cat([x, net.token.repeat(len(x), 1, 1)], 1)
        return torch.tanh(net.mix(tokens.transpose(1, 2)).squeeze(-1))

    return Net(forward, token=P(1, 1, 4), mix=nn.Linear(4, 1))


@case("a learned constant, expanded, is the input of the network", floats(3))
def constant_input() -> nn.Module:
    return Net(
        lambda net, z: (net.conv(net.constant.expand(len(z), -1, -1, -1)) * net.style(z)[:, :, None, None]).flatten(1),
        constant=P(1, 2, 2, 2), conv=nn.Conv2d(2, 2, 3, padding=1), style=nn.Linear(3, 2),
    )  # fmt: skip


@case("an output that depends on parameters alone", floats(3))
def constant_output() -> nn.Module:
    return Net(
        lambda net, x: torch.cat([net.layer(x), net.bias.tanh().expand(len(x), 2)], 1), layer=nn.Linear(3, 2), bias=P(2)
    )


@case("the whole output is a learned constant", floats(3))
def only_constant() -> nn.Module:
    return Net(lambda net, x: net.bias.expand(len(x), 3), bias=P(3))


@case("learned queries attend to the samples' tokens", floats(4, 4))
def learned_queries() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        return net.attention(net.queries.expand(len(x), -1, -1), x, x)[0].flatten(1)

    return Net(forward, queries=P(1, 2, 4), attention=nn.MultiheadAttention(4, 2, batch_first=True))


@case("learned keys and values concatenated to those of the samples", floats(3, 4))
def prefix_tokens() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        k = torch.cat([net.key.expand(len(x), -1, -1), net.k(x)], 1)
        v = torch.cat([net.value.expand(len(x), -1, -1), net.v(x)], 1)
        return F.scaled_dot_product_attention(net.q(x), k, v).flatten(1)

    parts = {name: nn.Linear(4, 4, bias=False) for name in "qkv"}
    return Net(forward, key=P(1, 2, 4), value=P(1, 2, 4), **parts)


@case("layer scale and a ReZero gate that is zero", floats(4, 3), scramble=False, common=True)
def rezero() -> nn.Module:
    return Net(
        lambda net, x: (x + net.gamma * net.a(x) + net.alpha * torch.tanh(net.b(x))).flatten(1),
        gamma=P(3), alpha=nn.Parameter(torch.zeros(1)), a=nn.Linear(3, 3), b=nn.Linear(3, 3),
    )  # fmt: skip


@case("noise times a learned strength", both(floats(2, 3, 3), floats(1, 3, 3)), common=True)
def noise_strength() -> nn.Module:
    return Net(
        lambda net, x, noise: torch.tanh(net.conv(x) + net.strength[None, :, None, None] * noise).mean((2, 3)),
        conv=nn.Conv2d(2, 3, 3, padding=1), strength=P(3),
    )  # fmt: skip


@case("mask token through torch.where", both(floats(4, 3), integers(2, 4)))
def mask_token() -> nn.Module:
    return Net(
        lambda net, x, mask: net.out(torch.tanh(torch.where(mask.bool()[..., None], net.token, x))).mean(1),
        token=P(3), out=nn.Linear(3, 2),
    )  # fmt: skip


@case(
    "where as a method, a learned number on either side, and masked_fill in place",
    both(floats(4), integers(2, 4)),
    common=True,
)
def where_method() -> nn.Module:
    def forward(net: Net, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.tanh(net.layer(x.where(mask.bool(), net.fill)))
        h = torch.where(mask[:, :3].bool(), h, net.row).clone()
        h.masked_fill_(mask[:, 1:].bool(), net.number)
        return net.out(torch.tanh(h * net.row))

    return Net(forward, fill=P(), row=P(3), number=P(), layer=nn.Linear(4, 3), out=nn.Linear(3, 2))


@case("a learned token stacked with two of the samples", both(floats(4), floats(4)), common=True)
def stacked_token() -> nn.Module:
    def forward(net: Net, x: Tensor, y: Tensor) -> Tensor:
        tokens = torch.stack([x, net.token.expand(len(x), -1), y], 1)
        tokens = torch.concat([net.gates.tanh().repeat(len(x), 1)[..., None].expand(-1, -1, 4), tokens], dim=-2)
        return net.mix(torch.tanh(tokens).transpose(1, 2)).flatten(1)

    return Net(forward, token=P(4), gates=P(2), mix=nn.Linear(5, 1))


@case("masked_fill with a learned number", both(floats(4), integers(2, 4)))
def masked_fill() -> nn.Module:
    return Net(
        lambda net, x, mask: net.out(torch.tanh(x.masked_fill(mask.bool(), net.fill))), fill=P(), out=nn.Linear(4, 2)
    )


@case("a weight multiplied by a mask that is a buffer", floats(4), common=True)
def masked_weight() -> nn.Module:
    return Net(
        lambda net, x: torch.tanh(F.linear(x, net.w * net.mask, net.b)),
        w=P(3, 4), b=P(3), mask=torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]]),
    )  # fmt: skip


@case("sin²(αx)/α: a parameter inside and outside of a function", floats(2, 5))
def snake() -> nn.Module:
    return Net(
        lambda net, x: net.out((x + (net.alpha * x).sin().square() / (net.alpha + 3.0)).flatten(1)),
        alpha=P(2, 1), out=nn.Linear(10, 2),
    )  # fmt: skip


@case("a parameter list and a parameter dict", floats(3), common=True)
def parameter_containers() -> nn.Module:
    return Net(
        lambda net, x: torch.tanh(x * net.items[0] + net.items[1]) @ net.table["w"],
        items=nn.ParameterList([P(3), P(3)]), table=nn.ParameterDict({"w": P(3, 2)}),
    )  # fmt: skip


@case("learned mixture weights: softmax of a parameter", floats(3))
def mixture_weights() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        weights = net.logits.softmax(0)
        return weights[0] * net.a(x) + weights[1] * torch.tanh(net.b(x))

    return Net(forward, logits=P(2), a=nn.Linear(3, 2), b=nn.Linear(3, 2))


# parametrizations ---------------------------------------------------------------------------------


@case("spectral norm as a parametrization", floats(2, 3, 3))
def spectral_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 2)), nn.LeakyReLU(0.1), nn.Flatten(),
        parametrizations.spectral_norm(nn.Linear(12, 2)),
    )  # fmt: skip


@case("spectral norm by hooks: the weight is a plain attribute, computed in a pre-hook", floats(2, 3, 3))
def spectral_norm_hook() -> nn.Module:
    return nn.Sequential(
        torch.nn.utils.spectral_norm(nn.Conv2d(2, 3, 2)), nn.LeakyReLU(0.1), nn.Flatten(),
        torch.nn.utils.spectral_norm(nn.Linear(12, 2)),
    )  # fmt: skip


@case("weight norm as a parametrization", floats(2, 3, 3))
def weight_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(2, 3, 2)), nn.Tanh(), nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(12, 2)),
    )  # fmt: skip


@case("weight norm by hooks", floats(3))
def weight_norm_hook() -> nn.Module:
    return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))


class _Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


@case("a parametrization of one's own", floats(3))
def symmetric_weight() -> nn.Module:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", _Symmetric())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2))


@case("LoRA with B = 0: the gradient of A is zero everywhere", floats(4), scramble=False)
def lora_zero() -> nn.Module:
    return Net(
        lambda net, x: torch.tanh(F.linear(x, net.base.weight + net.b @ net.a, net.base.bias)),
        base=nn.Linear(4, 3).requires_grad_(False), a=P(2, 4), b=nn.Parameter(torch.zeros(3, 2)),
    )  # fmt: skip


@case("LoRA as a product of weights, and as two layers", floats(4))
def lora() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        merged = F.linear(x, net.base.weight + 0.5 * (net.b @ net.a), net.base.bias)
        return torch.tanh(merged) + x @ net.c.t() @ net.d.t()

    return Net(forward, base=nn.Linear(4, 3), a=P(2, 4), b=P(3, 2), c=P(2, 4), d=P(3, 2))


@case("a derived weight changed in place before it is used", floats(3))
def derived_in_place() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        w = net.w.clone()
        w[0] = 0.0
        w[1] *= net.s
        w.add_(net.w, alpha=0.5)
        return torch.tanh(F.linear(x, w))

    return Net(forward, w=P(3, 3), s=P())
