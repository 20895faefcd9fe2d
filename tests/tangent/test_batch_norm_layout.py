"""Gradients through norms, one sample at a time, in whatever layout they arrive."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.tangent.batch_norm_layout import plain_gradients
from genkernel.tangent.cotangents import total
from genkernel.tangent.input_jacobian import InputJacobian
from genkernel.tangent.reference import gradients
from tests.tangent.compare import relative_error

NORMS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance norm with running statistics": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
}


class Tokens(nn.Module):
    """An image through convolution and norm, then read as a sequence of tokens: gradients come back transposed."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), norm
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        tokens = nn.functional.layer_norm(tokens, (4,))
        return (self.last(tokens).tanh() * torch.arange(1, tokens.shape[1] + 1, dtype=x.dtype)[:, None]).sum(1)


def network(norm: str) -> Tokens:
    torch.manual_seed(0)
    net = Tokens(NORMS[norm]()).double().eval()
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5 * name.endswith("var"))
    return net


@pytest.mark.parametrize("norm", NORMS)
def test_one_sample_is_like_one_of_several(norm: str) -> None:
    """Gradients of several samples at once, which torch gets right, are the truth."""
    net, x = network(norm), torch.randn(3, 2, 3, 4, dtype=torch.float64)
    out = net(x).sum(1)
    rows = [torch.autograd.grad(one, list(net.parameters()), retain_graph=True) for one in out]
    truth = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    K = truth @ truth.T

    ones = total()
    assert relative_error(gk.kernel(net, x, cotangents=ones).values, K) < 1e-12
    assert relative_error(gk.kernel(net, x[:1], cotangents=ones).values, K[:1, :1]) < 1e-12
    assert relative_error(gk.kernel(net, x, cotangents=ones, memory=1).values, K) < 1e-12
    loop = gradients(net, x, ones)
    found = torch.cat([loop[name][0].flatten(1) for name, _ in net.named_parameters()], 1)
    assert relative_error(found, truth) < 1e-12


STRIDES = [(24, 6, 3, 1), (4, 1, 12, 4), (24, 1, 12, 4), (1, 1, 12, 4), (1, 6, 3, 1)]


def laid(values: Tensor, strides: tuple[int, ...]) -> Tensor:
    return torch.empty(24, dtype=torch.float64).as_strided((1, 4, 2, 3), strides).copy_(values)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("norm", NORMS)
def test_every_layout_of_inputs_and_gradients(norm: str, strides: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(1)
    layer = NORMS[norm]().double().train(training)
    plain, gradient = torch.randn(2, 1, 4, 2, 3, dtype=torch.float64).unbind(0)
    inputs = plain.clone().requires_grad_(True)
    truth = torch.autograd.grad(layer(inputs), [inputs, *layer.parameters()], gradient)
    inputs = laid(plain, strides).requires_grad_(True)
    for other in STRIDES:
        layer.load_state_dict(NORMS[norm]().double().state_dict())  # running statistics as they were
        with plain_gradients():
            out = layer(inputs)
        found = torch.autograd.grad(out, [inputs, *layer.parameters()], laid(gradient, other))
        for one, true in zip(found, truth, strict=True):
            assert relative_error(one, true) < 1e-12


class Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, _: Tensor) -> None:
        return None


def test_a_gradient_that_is_none() -> None:
    layer, x = nn.BatchNorm2d(4).eval(), torch.randn(1, 4, 2, 3, requires_grad=True)
    with plain_gradients():
        out = Nothing.apply(layer(x))
    assert torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is None


def test_an_image_whose_channels_come_last() -> None:
    """Norm first, on an image that was read with its channels last."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten()).double().eval()
    image = torch.randn(5, 6, 3, dtype=torch.float64).permute(2, 0, 1)[None]
    copy = image.clone(memory_format=torch.contiguous_format)
    w = torch.randn(1, 48, dtype=torch.float64)
    assert relative_error(InputJacobian(net, image).vjp(w), InputJacobian(net, copy).vjp(w)) < 1e-12
    assert relative_error(gk.kernel(net, image).values, gk.kernel(net, copy).values) < 1e-12
    v = torch.randn(48, dtype=torch.float64)
    assert relative_error(gk.operator(net, image) @ v, gk.operator(net, copy) @ v) < 1e-12


def test_torch_is_as_it_was() -> None:
    before = torch.batch_norm, torch.instance_norm
    with pytest.raises(ValueError, match="inside"), plain_gradients():
        assert torch.batch_norm is not before[0]
        raise ValueError("inside")
    assert (torch.batch_norm, torch.instance_norm) == before
