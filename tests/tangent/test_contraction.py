"""Every route of a contraction gives the same products."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.tangent import factors, ghost, products, threads, workspace
from genkernel.tangent.contraction import Block
from genkernel.tangent.factors import Convolution, Outer

EXACT = 1e-12


def convolution(
    dims: int, kernel: int, stride: int, padding: int, dilation: int, transposed: bool, n: int = 5
) -> tuple[Convolution, Tensor]:
    """A factor, and the gradients that autograd gives."""
    torch.manual_seed(dims + 10 * kernel + 100 * stride)
    x = torch.randn(n, 3, *[7, 6, 5][:dims], dtype=torch.float64)
    shape = ((3, 4) if transposed else (4, 3)) + (kernel,) * dims
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    extra = (stride - 1,) * dims if transposed else (0,) * dims
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    if transposed:
        options["output_padding"] = extra  # type: ignore[assignment]
    function = getattr(F, f"conv{'_transpose' if transposed else ''}{dims}d")
    B, rows = None, []
    for i in range(n):
        out = function(x[i : i + 1], weight, **options)
        B = torch.randn(n, *out.shape[1:], dtype=torch.float64) if B is None else B
        rows.append(torch.autograd.grad(out, weight, B[i : i + 1])[0])
    assert B is not None
    each = [(v,) * dims for v in (stride, padding, dilation)]
    return Convolution(x, B, shape, *each, 1, transposed, extra), torch.stack(rows)


GEOMETRIES = [
    pytest.param(*g, id="-".join(map(str, g)))
    for g in itertools.product((1, 2, 3), (1, 3, 4), (1, 2, 3), (0, 1), (1, 2), (False, True))
    if g[4] * (g[1] - 1) < 5 and g[3] <= g[4] * (g[1] - 1) and not (g[0] == 3 and (g[2] == 3 or g[4] == 2))
]


@pytest.mark.parametrize(("dims", "kernel", "stride", "padding", "dilation", "transposed"), GEOMETRIES)
def test_every_route_of_a_convolution(
    dims: int, kernel: int, stride: int, padding: int, dilation: int, transposed: bool
) -> None:
    factor, true = convolution(dims, kernel, stride, padding, dilation, transposed)
    gram = true.flatten(1) @ true.flatten(1).T
    assert torch.allclose(factor.dense(), true, atol=EXACT * float(true.abs().max()), rtol=0)
    place = torch.arange(true[0].numel()).view(true.shape[1:])
    ways: list[Callable[[int], Iterator[tuple[factors.Pick, Tensor]]]] = [
        factor._by_taps, factor.outer().pieces, factor._by_samples, lambda limit: factor._rows(limit, 1)
    ]  # fmt: skip
    for pieces, limit in itertools.product(ways, (1, 60, 1 << 21)):
        whole = torch.zeros_like(true)
        for pick, block in pieces(limit):
            whole.view(len(true), -1)[:, pick(place)] += block
        assert float((whole - true).norm()) <= EXACT * float(true.norm())
    w = torch.randn(len(true), dtype=torch.float64)
    assert float((factor.combination(w) - torch.tensordot(w, true, 1)).norm()) <= 10 * EXACT * float(true.norm())
    for limit in (4, 1 << 21):  # block by block, and at once
        all_, some, others = slice(0, 5), slice(0, 2), slice(2, 5)
        for rows, cols in ((all_, all_), (some, others)):
            keep = torch.tril if rows == cols else lambda m: m
            for found in (
                ghost.shifted(factor, rows, cols, torch.float64, limit),
                ghost.outer(factor.outer(), rows, cols, torch.float64, limit),
            ):
                assert float(keep(found - gram[rows, cols]).norm()) <= EXACT * float(gram.norm())
        for squares in (
            ghost.shifted_squares(factor, torch.float64, limit),
            ghost.outer_squares(factor.outer(), torch.float64, limit),
        ):  # fmt: skip
            assert float((squares - gram.diagonal()).norm()) <= EXACT * float(gram.norm())


@pytest.mark.parametrize("route", ["ghost", "materialised"])
@pytest.mark.parametrize("accumulate", [torch.float32, torch.float64])
def test_products_through_onednn(route: str, accumulate: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products agree with torch's own to float32 rounding, whatever multiplies them."""
    torch.manual_seed(0)
    factor = Outer(torch.randn(70, 20, 64), torch.randn(70, 20, 48))
    exact = Outer(factor.A.double(), factor.B.double()).dense().flatten(1)
    gram = exact @ exact.T
    for available in (True, False):
        if not available:
            monkeypatch.setattr(products, "available", lambda: False)
        block = Block(slice(0, 70), slice(0, 70), 70, 1, None, accumulate, torch.device("cpu"))
        monkeypatch.setattr(block, "route", lambda f, root=None: route)
        block.add(0, "w", factor)
        block.mirror()
        assert float((block.totals[0] - gram).norm() / gram.norm()) < 1e-6


@pytest.mark.parametrize("bias", [True, False])
def test_linear_maps_through_onednn(bias: bool) -> None:
    """Value, gradient and second derivatives are those of torch's own."""
    torch.manual_seed(0)
    x, W = torch.randn(5, 20, 128), torch.randn(96, 128)
    b = torch.randn(96) if bias else None

    def found(apply: Callable[..., Tensor], x: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = apply(x, weight=W, bias=None if b is None else b.to(x))
        (first,) = torch.autograd.grad(y.sigmoid().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return y, first, second

    mine = found(products.linear, x.clone().requires_grad_(), W)
    true = found(torch.nn.functional.linear, x.double().requires_grad_(), W.double())
    for a, c in zip(mine, true, strict=True):
        assert float((a - c).detach().norm()) <= 1e-5 * float(c.detach().norm())
    assert torch.equal(products.linear(x, W.double().float(), b), products.linear(input=x, weight=W, bias=b))


def test_linear_maps_that_are_left_to_torch() -> None:
    """Inside of autocast, with a bias for every position, or for many gradients at once."""
    torch.manual_seed(0)
    x, W = torch.randn(40, 5, 256), torch.randn(64, 256)
    assert W.numel() >= products.LARGE
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x, W).dtype == torch.bfloat16
    b = torch.randn(5, 64)
    assert torch.equal(products.linear(x, W, b), F.linear(x, W, b))
    x.requires_grad_()
    v = torch.randn(3, 40, 5, 64)
    mine, true = (torch.autograd.grad(f(x, W), x, v, is_grads_batched=True)[0] for f in (products.linear, F.linear))
    assert torch.allclose(mine, true, atol=1e-4)


def test_a_symmetric_schedule_covers_the_lower_triangle_once() -> None:
    for r, pairs in itertools.product((1, 5, 64, 129), (1, 7, 300, 10**6)):
        count = torch.zeros(r, r, dtype=torch.int)
        for i, j in ghost._schedule(r, r, pairs, True):
            assert (i.stop - i.start) * (j.stop - j.start) <= max(pairs, 1)
            count[i, j] += 1
        assert bool((count.tril() == torch.ones(r, r, dtype=torch.int).tril()).all())
        assert int(count.max()) == 1


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("limit", [1, 5_000, 60_000, 1 << 21])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("side", [9, 24])
def test_sample_by_sample(count: int, limit: int, transposed: bool, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide convolutions, by windows and by the library, in parts, with and without memory that is used again."""
    torch.manual_seed(0)
    monkeypatch.setattr(factors, "UNFOLDED_TOGETHER", 20_000)
    A, B = torch.randn(3, 36, side, 22), torch.randn(3, 70, side, 22)
    shape = (36, 70, 3, 3) if transposed else (70, 36, 3, 3)
    factor = Convolution(A, B, shape, (1, 1), (1, 1), (1, 1), 1, transposed, (0, 0))
    exact = Convolution(A.double(), B.double(), shape, (1, 1), (1, 1), (1, 1), 1, transposed, (0, 0)).dense().flatten(1)
    place = torch.arange(exact.shape[1]).view(shape)
    with threads.threads(count):
        assert factor.by_samples(3, factors.SLICE)
        for scope in (nullcontext(), workspace.kept()):
            with scope:
                whole, seen = torch.zeros_like(exact), torch.zeros(exact.shape[1])
                for pick, block in factor._by_samples(limit):
                    assert block.numel() <= max(limit, 3 * 9)
                    whole[:, pick(place)] = block.double()
                    seen[pick(place)] += 1
                assert bool((seen == 1).all())
                assert float((whole - exact).norm()) <= 1e-6 * float(exact.norm())


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_of_single_positions_are_linear_maps(stride: int, dilation: int, transposed: bool) -> None:
    torch.manual_seed(0)
    extra = max(stride, dilation) - 1
    layer: nn.Module = (
        nn.ConvTranspose2d(5, 40, 1, stride, output_padding=extra, dilation=dilation, dtype=torch.float64)
        if transposed
        else nn.Conv2d(5, 40, 1, stride, dilation=dilation, dtype=torch.float64)
    )
    x = torch.randn(3, 5, 6, 7, dtype=torch.float64)
    out = layer(x)
    B = torch.randn_like(out)
    weight = layer.weight
    true = torch.stack([torch.autograd.grad(layer(x[i : i + 1]), weight, B[i : i + 1])[0] for i in range(3)])
    factor = Convolution(
        x, B, weight.shape, (stride, stride), (0, 0), (dilation, dilation), 1, transposed, (extra, extra)
    )  # fmt: skip
    assert not factor.by_samples(factor.n, factors.SLICE)
    place = torch.arange(weight.numel()).view(weight.shape)
    for limit in (10, 1 << 21):
        whole = torch.zeros(3, weight.numel(), dtype=torch.float64)
        for pick, block in factor.pieces(limit):
            whole[:, pick(place)] += block
        assert float((whole - true.flatten(1)).norm()) <= EXACT * float(true.norm())
