"""Where the samples go: merged axes, in-place calls, and code that shows no tensor functions."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import checkpoint

from tests.zoo.cases import Net, P, both, case, floats, integers

# merged samples -----------------------------------------------------------------------------------


@case("samples and time merged for a linear and a norm", floats(3, 4), common=True)
def merged_linear() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, t, c = x.shape
        return net.norm(torch.tanh(net.layer(x.reshape(n * t, c)))).view(n, t, 4).mean(1)

    return Net(forward, layer=nn.Linear(4, 4), norm=nn.LayerNorm(4))


@case("time and samples merged, time first", floats(3, 4), common=True)
def merged_time_first() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, t, c = x.shape
        return net.norm(torch.tanh(net.layer(x.transpose(0, 1).reshape(t * n, c)))).view(t, n, 4).mean(0)

    return Net(forward, layer=nn.Linear(4, 4), norm=nn.LayerNorm(4))


@case("video frames merged for convolutions and group norm", floats(3, 2, 4, 4), common=True)
def merged_frames() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        frames = net.norm(torch.tanh(net.conv(x.flatten(0, 1))))
        return net.temporal(frames.mean((2, 3)).view(n, t, 4).transpose(1, 2)).mean(-1)

    return Net(forward, conv=nn.Conv2d(2, 4, 3), norm=nn.GroupNorm(2, 4), temporal=nn.Conv1d(4, 2, 2))


@case("samples merged with pixels for a convolution over time", floats(3, 2, 2, 2), common=True)
def merged_pixels() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, t, c, h, w = x.shape
        series = x.permute(0, 3, 4, 2, 1).reshape(n * h * w, c, t)
        return torch.tanh(net.conv(series)).reshape(n, h, w, 3, t).mean((1, 2, 4))

    return Net(forward, conv=nn.Conv1d(2, 3, 3, padding=1))


@case("windows: attention among pixels of a window, samples merged with windows", floats(4, 4, 4), common=True)
def windows() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n = x.shape[0]
        w = x.view(n, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 4, 4)
        w = w + net.attention(net.norm(w), w, w, need_weights=False)[0]
        return w.view(n, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 4).mean((1, 2))

    return Net(forward, attention=nn.MultiheadAttention(4, 2, batch_first=True), norm=nn.LayerNorm(4))


@case("frames merged with samples, then tokens first: samples in the middle of an axis", floats(2, 3, 4), common=True)
def merged_in_between() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, frames, t, c = x.shape
        h = net.layer(x.reshape(n * frames, t, c).transpose(0, 1)) + net.shift  # (t, n · frames, c)
        h = net.norm(h.reshape(t * n * frames, c)) * net.scale
        h = net.conv(h[:, :, None])[..., 0]
        return torch.tanh(h).view(t, n, frames, 2).mean((0, 2))

    return Net(
        forward, layer=nn.TransformerEncoderLayer(4, 2, 6), norm=nn.LayerNorm(4), shift=P(4), scale=P(4),
        conv=nn.Conv1d(4, 2, 1),
    )  # fmt: skip


@case("two views of a sample stacked along the batch axis (as in SimCLR or guidance)", floats(3), common=True)
def doubled_batch() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        a, b = net.body(torch.cat([x, -x])).chunk(2)
        return 1.5 * a - 0.5 * b

    return Net(forward, body=nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))


@case("views interleaved along the batch axis", floats(3), common=True)
def interleaved_batch() -> nn.Module:
    return Net(
        lambda net, x: net.body(x.repeat_interleave(2, 0)).view(-1, 2, 2).prod(1),
        body=nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
    )


@case("samples on the last axis", floats(3))
def samples_last() -> nn.Module:
    return Net(lambda net, x: (net.v @ torch.tanh(net.w @ x.t() + net.b[:, None])).t(), w=P(4, 3), b=P(4), v=P(2, 4))


@case("experts chosen by sample: a weight gathered per sample", both(floats(3), integers(3)))
def gathered_experts() -> nn.Module:
    return Net(
        lambda net, x, i: torch.tanh(torch.bmm(net.w[i], x[:, :, None]).squeeze(-1) + net.b[i]), w=P(3, 2, 3), b=P(3, 2)
    )


@case("experts chosen by mask: how many rows a layer sees depends on the data", both(floats(3), integers(2)))
def masked_experts() -> nn.Module:
    def forward(net: Net, x: Tensor, i: Tensor) -> Tensor:
        out = x.new_zeros(len(x), 2)
        for expert in range(2):
            mask = i == expert
            if mask.any():
                out[mask] = torch.tanh(net.experts[expert](x[mask]))
        return net.gate(x) * out

    return Net(forward, experts=nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)]), gate=nn.Linear(3, 2))


# in-place calls -----------------------------------------------------------------------------------


@case("bias added in place, then ReLU in place, both on what a layer returned", floats(3), common=True)
def in_place_bias() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.layer(x)
        h += net.bias
        h.relu_()
        return net.out(h)

    return Net(forward, layer=nn.Linear(3, 5, bias=False), bias=P(5), out=nn.Linear(5, 2))


@case("scaled in place by parameters, on a held tensor", floats(3), common=True)
def in_place_scale() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.layer(x).clone()
        h.mul_(net.scale).add_(net.shift)
        h *= 2.0
        return F.leaky_relu_(h, 0.1)

    return Net(forward, layer=nn.Linear(3, 4), scale=P(4), shift=P(4))


@case("the user's input is written to", floats(3))
def in_place_on_input() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        x.mul_(2.0)
        x += net.shift
        return torch.tanh(net.layer(x))

    return Net(forward, layer=nn.Linear(3, 2), shift=P(3))


@case("the input of a frozen layer changes after its use", floats(3), params=lambda name: not name.startswith("frozen"))
def in_place_after_use() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.a(x)
        u = net.frozen(h)
        v = h + net.shift
        h.add_(1.0).mul_(net.scale.detach())
        return torch.tanh(u) * net.b(h) + v

    return Net(
        forward,
        a=nn.Linear(3, 3),
        frozen=nn.Linear(3, 3).requires_grad_(False),
        b=nn.Linear(3, 3),
        shift=P(3),
        scale=P(3),
    )


@case("samples and a parameter copied into slots of a fresh buffer", floats(4))
def filled_buffer() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        tokens = torch.zeros(len(x), 3, 4, dtype=x.dtype, device=x.device)
        tokens[:, 0] = net.token
        tokens[:, 1].copy_(x)
        tokens[:, 2] = net.layer(x)
        return net.out(torch.tanh(tokens.flatten(1)))

    return Net(forward, token=P(4), layer=nn.Linear(4, 4), out=nn.Linear(12, 2))


# what tensor functions hide -----------------------------------------------------------------------


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, beta)
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, beta = ctx.saved_tensors
        s = torch.sigmoid(beta * x)
        return grad * (s + beta * x * s * (1 - s)), (grad * x * x * s * (1 - s)).sum_to_size(beta.shape)


@case("an autograd.Function hides what it does with a parameter", floats(3))
def autograd_function() -> nn.Module:
    return Net(lambda net, x: net.b(_Swish.apply(net.a(x), net.beta)), a=nn.Linear(3, 4), beta=P(4), b=nn.Linear(4, 2))


@case("an autograd.Function without parameters between layers", floats(3))
def autograd_function_between() -> nn.Module:
    return Net(
        lambda net, x: net.b(_Swish.apply(net.a(x), net.beta)),
        a=nn.Linear(3, 4), beta=torch.ones(4, dtype=torch.float64), b=nn.Linear(4, 2),
    )  # fmt: skip


def checkpointed(reentrant: bool) -> nn.Module:
    """Activation checkpointing; the reentrant kind refuses ``torch.autograd.grad``, so it is no case of its own."""

    def forward(net: Net, x: Tensor) -> Tensor:
        return net.b(checkpoint.checkpoint(net.a, net.enter(x), use_reentrant=reentrant))

    return Net(forward, enter=nn.Linear(3, 4), a=nn.Sequential(nn.Linear(4, 4), nn.Tanh()), b=nn.Linear(4, 2))


@case("activation checkpointing", floats(3), name="checkpointed")
def _checkpointed() -> nn.Module:
    return checkpointed(reentrant=False)


@case("a scripted submodule shows no calls", floats(3))
def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        inner = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    return Net(lambda net, x: net.b(net.a(net.enter(x))), enter=nn.Linear(3, 4), a=inner, b=nn.Linear(4, 2))


@case("a gradient taken inside of the forward: the score of an energy", floats(3))
def inner_gradient() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = net.body(x).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]

    return Net(forward, body=nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))


@case("torch.func.vmap over tokens inside of the forward", floats(3, 4))
def inner_vmap() -> nn.Module:
    return Net(
        lambda net, x: torch.func.vmap(net.body, in_dims=1, out_dims=1)(x).mean(1),
        body=nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)),
    )


@case("forward hooks that change inputs and outputs", floats(3), common=True)
def hooked() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    net[2].register_forward_hook(lambda module, args, out: out + args[0].sum(1, keepdim=True))
    return net
