"""Convolutions in all their options, transposed ones, and kernels that are computed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.cases import Net, P, both, case, floats

_CONVOLUTIONS: dict[str, tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d, dict(in_channels=2, out_channels=3, kernel_size=3), (2, 6)),
    "conv1d_dilated_same": (
        nn.Conv1d,
        dict(in_channels=2, out_channels=3, kernel_size=4, dilation=2, padding="same"),
        (2, 7),
    ),
    "conv1d_grouped_strided": (
        nn.Conv1d,
        dict(in_channels=4, out_channels=6, kernel_size=3, groups=2, stride=2, padding=1),
        (4, 7),
    ),
    "conv1d_circular": (
        nn.Conv1d,
        dict(in_channels=2, out_channels=3, kernel_size=3, padding=1, padding_mode="circular"),
        (2, 5),
    ),
    "conv1d_reflect_grouped": (
        nn.Conv1d,
        dict(in_channels=4, out_channels=4, kernel_size=5, padding=2, groups=4, padding_mode="reflect"),
        (4, 6),
    ),
    "conv2d_pointwise": (nn.Conv2d, dict(in_channels=4, out_channels=3, kernel_size=1), (4, 3, 3)),
    "conv2d_whole_image": (nn.Conv2d, dict(in_channels=2, out_channels=5, kernel_size=4), (2, 4, 4)),
    "conv2d_grouped": (nn.Conv2d, dict(in_channels=4, out_channels=6, kernel_size=3, groups=2, padding=1), (4, 4, 4)),
    "conv2d_depthwise": (nn.Conv2d, dict(in_channels=3, out_channels=3, kernel_size=3, groups=3, padding=1), (3, 4, 4)),
    "conv2d_depthwise_multiplier": (nn.Conv2d, dict(in_channels=3, out_channels=6, kernel_size=2, groups=3), (3, 4, 4)),
    "conv2d_dilated": (
        nn.Conv2d,
        dict(in_channels=2, out_channels=3, kernel_size=3, dilation=(2, 1), padding=(2, 1)),
        (2, 5, 5),
    ),
    "conv2d_asymmetric": (
        nn.Conv2d,
        dict(in_channels=2, out_channels=3, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
        (2, 5, 4),
    ),
    "conv2d_stride_leaves_a_rest": (nn.Conv2d, dict(in_channels=2, out_channels=3, kernel_size=3, stride=3), (2, 8, 7)),
    "conv2d_strided_dilated_grouped": (
        nn.Conv2d,
        dict(in_channels=4, out_channels=4, kernel_size=3, stride=2, dilation=2, groups=2, padding=2, bias=False),
        (4, 6, 7),
    ),
    "conv2d_reflect": (
        nn.Conv2d,
        dict(in_channels=2, out_channels=3, kernel_size=3, padding=1, padding_mode="reflect"),
        (2, 4, 4),
    ),
    "conv2d_reflect_wide": (
        nn.Conv2d,
        dict(in_channels=2, out_channels=2, kernel_size=(5, 3), padding=(2, 1), padding_mode="reflect"),
        (2, 5, 4),
    ),
    "conv2d_replicate": (
        nn.Conv2d,
        dict(in_channels=2, out_channels=3, kernel_size=3, padding=1, padding_mode="replicate"),
        (2, 4, 4),
    ),
    "conv2d_circular": (
        nn.Conv2d,
        dict(in_channels=2, out_channels=3, kernel_size=3, padding=(1, 2), stride=(1, 2), padding_mode="circular"),
        (2, 4, 5),
    ),
    "conv2d_same": (nn.Conv2d, dict(in_channels=2, out_channels=3, kernel_size=(2, 4), padding="same"), (2, 5, 5)),
    "conv3d": (nn.Conv3d, dict(in_channels=2, out_channels=2, kernel_size=(2, 3, 1), padding=(0, 1, 0)), (2, 3, 3, 3)),
    "conv3d_grouped_dilated": (
        nn.Conv3d,
        dict(in_channels=2, out_channels=4, kernel_size=2, groups=2, dilation=(1, 2, 1), stride=(2, 1, 1)),
        (2, 4, 4, 3),
    ),
    "conv3d_circular": (
        nn.Conv3d,
        dict(in_channels=1, out_channels=2, kernel_size=3, padding=1, padding_mode="circular"),
        (1, 3, 3, 3),
    ),
    "conv_transpose1d": (
        nn.ConvTranspose1d,
        dict(in_channels=4, out_channels=4, kernel_size=3, stride=2, padding=1, output_padding=1, groups=2),
        (4, 4),
    ),
    "conv_transpose2d": (
        nn.ConvTranspose2d,
        dict(in_channels=3, out_channels=2, kernel_size=4, stride=2, padding=1),
        (3, 3, 3),
    ),
    "conv_transpose2d_output_padding": (
        nn.ConvTranspose2d,
        dict(in_channels=3, out_channels=2, kernel_size=3, stride=(2, 3), padding=1, output_padding=(1, 2)),
        (3, 3, 2),
    ),
    "conv_transpose2d_grouped_dilated": (
        nn.ConvTranspose2d,
        dict(in_channels=4, out_channels=6, kernel_size=(2, 3), stride=2, groups=2, dilation=(2, 1), bias=False),
        (4, 2, 3),
    ),
    "conv_transpose3d": (
        nn.ConvTranspose3d,
        dict(in_channels=2, out_channels=2, kernel_size=2, stride=(1, 2, 2), output_padding=(0, 1, 0), groups=2),
        (2, 2, 2, 2),
    ),
}

for _name, (_kind, _options, _shape) in _CONVOLUTIONS.items():

    @case(", ".join(f"{k}={v}" for k, v in _options.items()), floats(*_shape), name=_name, common=True)
    def _convolution(
        kind: type[nn.Module] = _kind, options: Any = _options, shape: tuple[int, ...] = _shape
    ) -> nn.Module:
        conv = kind(**options)
        width = conv(torch.zeros(1, *shape)).numel()
        return nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(width, 2))


@case("the size of a transposed convolution given at call time", floats(2, 3, 3), common=True)
def conv_transpose_output_size() -> nn.Module:
    return Net(lambda net, x: net.up(x, output_size=(5, 6)).mean((2, 3)), up=nn.ConvTranspose2d(2, 3, 3, 2, 1))


@case("padding by hand before the convolution", floats(2, 4, 4), common=True)
def padded_by_hand() -> nn.Module:
    return nn.Sequential(
        nn.ReflectionPad2d((1, 2, 0, 1)), nn.Conv2d(2, 3, 3), nn.Tanh(), nn.ZeroPad2d(1), nn.Conv2d(3, 2, 2)
    )


@case("standardised weights: the kernel is computed from the parameter", floats(2, 4, 4))
def weight_standardised_conv() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        w = net.conv.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return torch.tanh(F.conv2d(x, w, net.conv.bias, padding=1)).mean((2, 3))

    return Net(forward, conv=nn.Conv2d(2, 3, 3))


@case(
    "samples merged into channels: one grouped convolution with a kernel per sample", both(floats(2, 4, 4), floats(3))
)
def modulated_conv() -> nn.Module:
    def forward(net: Net, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = net.w[None] * net.style(style)[:, None, :, None, None]
        kernel = kernel * (kernel.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        out = F.conv2d(x.reshape(1, n * c, h, w), kernel.flatten(0, 1), padding=1, groups=n)
        return torch.tanh(out.reshape(n, -1, h, w)).mean((2, 3))

    return Net(forward, w=P(3, 2, 3, 3), style=nn.Linear(3, 2))
