"""Products with bare parameters, whole or in slices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.cases import Net, P, both, case, floats


@case("einsum with a parameter", floats(3, 4))
def einsum() -> nn.Module:
    return Net(lambda net, x: torch.tanh(torch.einsum("ntc,hcd->nhtd", x, net.w)).mean((1, 2)), w=P(2, 4, 3))


@case("einsum of two samples' tensors and two parameters", both(floats(3), floats(2)))
def einsum_many() -> nn.Module:
    return Net(
        lambda net, x, y: torch.tanh(torch.einsum("ni,nj,ijk,kl->nl", x, y, net.core, net.u)),
        core=P(3, 2, 3),
        u=P(3, 2),
    )


@case("an ellipsis, a broadcast axis of length 1, and letters out of order", floats(2, 3, 4), common=True)
def einsum_ellipsis() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = torch.einsum("...tc, dc -> ...dt", x, net.w)  # [n, 2, 5, 3]
        h = torch.einsum("bkdt,kd->bt", torch.tanh(h), net.v)
        return torch.einsum("bt,t,s", h, net.u, net.s)

    return Net(forward, w=P(5, 4), v=P(2, 5), u=P(3), s=P(2))


@case("projections to heads and back, in the orders that attention is written in", floats(3, 4), common=True)
def einsum_heads() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        q = torch.einsum("btm,mhk->bhtk", x, net.q)
        k = torch.einsum("btm,hkm->bthk", x, net.k)
        a = torch.einsum("bhtk,bshk->bhts", q, k).softmax(-1)
        return torch.einsum("bhts,bsm,hmo->bto", a, x, net.o).mean(1)

    return Net(forward, q=P(4, 2, 3), k=P(2, 3, 4), o=P(2, 4, 3))


@case("samples merged with positions in an einsum, last and first", floats(3, 4), common=True)
def einsum_merged() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, t, c = x.shape
        a = torch.einsum("pc,cd->pd", x.reshape(n * t, c), net.w).view(n, t, -1)
        b = torch.einsum("cp,cd,d->pd", x.transpose(0, 1).reshape(t * n, c).t(), net.w, net.s).view(t, n, -1)
        return torch.tanh(a.mean(1) + b.mean(0))

    return Net(forward, w=P(4, 2), s=P(2))


@case("an index of a parameter that is summed over in it alone; a diagonal", floats(3), common=True)
def einsum_lonely_letters() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("nc,cdk->nd", x, net.w)) + torch.einsum("nc,ccd->nd", x, net.v)

    return Net(forward, w=P(3, 2, 4), v=P(3, 3, 2))


@case("a batch of matrices broadcast against batches of samples, with axes of length 1", floats(2, 3, 4), common=True)
def matmul_broadcast() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = torch.tanh(x @ net.heads)  # (n, 2, 3, 4) @ (2, 4, 3)
        h = h + x @ net.one  # (1, 4, 3)
        h = torch.tanh(net.left @ h)  # (1, 2, 5, 3) @ (n, 2, 3, 3)
        return (net.vector @ h).sum(1) + (x @ net.last).sum((1, 2)).unsqueeze(-1)

    return Net(forward, heads=P(2, 4, 3), one=P(1, 4, 3), left=P(1, 2, 5, 3), vector=P(5), last=P(4))


@case("tensordot over listed axes and over none", floats(3, 4), common=True)
def tensordot_axes() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = torch.tanh(torch.tensordot(x, net.w, dims=([2, -2], [0, 1])))
        return torch.tensordot(h, net.v, dims=0).flatten(1)

    return Net(forward, w=P(4, 3, 2), v=P(2))


@case("slices of one big parameter", floats(3))
def sliced_weight() -> nn.Module:
    return Net(
        lambda net, x: (
            torch.tanh(torch.tanh(x @ net.w[:3]) @ net.w[3:].t()) + F.linear(x, net.w[1:4, 1:]) * net.w[0, :3]
        ),
        w=P(6, 4),
    )


@case("a parameter viewed, chunked, split and unbound", floats(4))
def viewed_weight() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        a, b = net.w.view(2, 4, 4).unbind(0)
        c, d = net.v.chunk(2, 1)
        e, f = net.v.split([1, 3], 1)
        return torch.tanh(x @ a.t()) @ b.reshape(4, 4) + x @ torch.cat([c, d.flip(0)], 1) + (x @ e) * f.mean(1)

    return Net(forward, w=P(2, 16), v=P(4, 4))


@case("unflatten is a method of Tensor that calls the method of its parent class", floats(3), common=True)
def unflattened_weight() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        a, b = net.w.unflatten(0, (2, 4))
        return torch.tanh(x @ a.t()) @ b + net.w.exp().unflatten(-1, (3, 1)).sum((0, 2))

    return Net(forward, w=P(8, 3))


@case("overlapping and strided views", floats(3))
def strided_view() -> nn.Module:
    return Net(lambda net, x: torch.tanh(x @ net.w[::2]) + x @ net.v.unfold(0, 3, 1).t(), w=P(6, 3), v=P(5))


@case("@ in all its shapes: vector, matrix from the left, batch of matrices", floats(3, 4))
def matmul_forms() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        left = net.left @ x  # (2, 3) @ (n, 3, 4)
        return torch.tanh(left @ net.right).sum(1) + (x @ net.vector).sum(1, keepdim=True)

    return Net(forward, left=P(2, 3), right=P(4, 2), vector=P(4))


@case("parameter batches in bmm and baddbmm, expanded over the samples", floats(3, 4))
def bmm() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = torch.bmm(x, net.w.expand(len(x), -1, -1))
        return torch.baddbmm(net.b.expand(len(x), 3, 2), torch.tanh(h), net.v.expand(len(x), -1, -1)).flatten(1)

    return Net(forward, w=P(1, 4, 3), v=P(1, 3, 2), b=P(3, 2))


@case("a parameter batch that is no sample batch: heads first", floats(4, 3))
def headwise_bmm() -> nn.Module:
    return Net(lambda net, x: torch.tanh(torch.bmm(x.transpose(0, 1), net.w)).sum(0), w=P(4, 3, 2))


@case("addmm, mv, outer products, tensordot", floats(3))
def other_products() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = torch.tanh(torch.addmm(net.b, x, net.w, beta=0.5, alpha=2.0))
        h = h * torch.mv(x, net.v)[:, None]
        return torch.tensordot(h, net.t, dims=([1], [1])) + torch.mm(x, net.w)

    return Net(forward, b=P(3), w=P(3, 3), v=P(3), t=P(3, 3))


@case("distances to learned centres", floats(3))
def radial_basis() -> nn.Module:
    return Net(
        lambda net, x: torch.exp(-net.width.exp() * torch.cdist(x, net.centres).square()), centres=P(4, 3), width=P()
    )


@case("nn.Bilinear after linears", floats(3))
def bilinear() -> nn.Module:
    return Net(lambda net, x: net.bilinear(torch.tanh(net.a(x)), x), a=nn.Linear(3, 2), bilinear=nn.Bilinear(2, 3, 2))


@case("addcmul and lerp, each argument learned in turn", floats(3), common=True)
def fused_elementwise() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = torch.addcmul(net.a, x, net.b, value=0.5).tanh()
        h = h.addcmul(h, h.cos()) + torch.lerp(net.start, h, 0.3)
        return torch.lerp(h, net.end, net.mix.sigmoid()) + torch.lerp(x, h.sin(), net.mix)

    return Net(forward, a=P(3), b=P(3), start=P(3), end=P(3), mix=P(3))


@case("complex weights from a real parameter, in Fourier space", floats(2, 6))
def fourier_layer() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)[..., :3]
        mixed = torch.einsum("nck,cdk->ndk", spectrum, torch.view_as_complex(net.w))
        return torch.tanh(torch.fft.irfft(mixed, n=6)).mean(-1)

    return Net(forward, w=P(2, 2, 3, 2))


@case("weights produced by a network, one set per sample", both(floats(3), floats(2)), common=True)
def hypernetwork() -> nn.Module:
    return Net(
        lambda net, x, z: torch.bmm(torch.tanh(net.weights(z)).view(-1, 2, 3), x[:, :, None]).squeeze(-1) + net.bias(z),
        weights=nn.Linear(2, 6), bias=nn.Linear(2, 2),
    )  # fmt: skip


@case("the weights of one layer depend on the weights of another", floats(3))
def weights_of_weights() -> nn.Module:
    return Net(
        lambda net, x: torch.tanh(F.linear(x, net.inner(net.w), net.b)), w=P(2, 4), inner=nn.Linear(4, 3), b=P(2)
    )
