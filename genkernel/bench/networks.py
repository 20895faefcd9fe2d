"""The networks of the benchmark, as their sources define them; weights are random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def papers_cnn(side: int = 28, channels: int = 1, width: int = 16, outputs: int = 10) -> nn.Module:
    """The classifier of the interpolation paper on MNIST (its Figure 2): 98,442 parameters at 28×28.

    Three 3×3 convolutions of 16, 32 and 64 channels, each with ReLU and 2×2 max pooling, then fully connected
    layers of 128 and 10 units with dropout 0.3.
    """
    layers: list[nn.Module] = []
    before = channels
    for level in range(3):
        after = width * 2**level
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before, side = after, side // 2
    hidden = 8 * width
    layers += [nn.Flatten(), nn.Linear(before * side**2, hidden), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


def resnet18(width: int = 64, classes: int = 10) -> nn.Module:
    """ResNet-18 as used on CIFAR: a 3×3 stem of stride 1, no max pooling; 11,173,962 parameters at width 64.

    He et al. 2016 (https://arxiv.org/abs/1512.03385), with torchvision's blocks.
    """
    from torchvision.models.resnet import BasicBlock, conv1x1

    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    before = width
    for level in range(4):
        after, stride = width * 2**level, 1 if level == 0 else 2
        shortcut = None
        if level > 0:
            shortcut = nn.Sequential(conv1x1(before, after, stride), nn.BatchNorm2d(after))
        layers += [BasicBlock(before, after, stride, shortcut), BasicBlock(after, after)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def dcgan_generator(latent: int = 100, width: int = 64, channels: int = 3) -> nn.Module:
    """The 64×64 DCGAN generator: 3,576,704 parameters at width 64.

    Radford et al. 2016 (https://arxiv.org/abs/1511.06434), layers and initialisation as in PyTorch's tutorial.
    """
    layers: list[nn.Module] = []
    before = latent
    for level, after in enumerate((8 * width, 4 * width, 2 * width, width)):
        stride, padding = (1, 0) if level == 0 else (2, 1)
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
        before = after
    net = nn.Sequential(*layers, nn.ConvTranspose2d(before, channels, 4, 2, 1, bias=False), nn.Tanh())
    for module in net:
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return net


def ddpm_unet(side: int = 32, widths: tuple[int, ...] = (128, 256, 256, 256), layers: int = 2) -> nn.Module:
    """The UNet of google/ddpm-cifar10-32 (Ho et al. 2020, https://arxiv.org/abs/2006.11239): 35,746,307 parameters."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=side,
        in_channels=3,
        out_channels=3,
        center_input_sample=False,
        time_embedding_type="positional",
        freq_shift=1,
        flip_sin_to_cos=False,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        layers_per_block=layers,
        mid_block_scale_factor=1,
        downsample_padding=0,
        act_fn="silu",
        attention_head_dim=None,
        norm_num_groups=32,
        norm_eps=1e-6,
    )


def dit(side: int = 32, depth: int = 12, heads: int = 6, head_width: int = 64) -> nn.Module:
    """A diffusion transformer of the size of DiT-S/2 on 4-channel latents; 39,805,088 parameters at full size.

    Peebles & Xie 2023 (https://arxiv.org/abs/2212.09748), in diffusers' implementation: every block embeds
    timestep and class by itself. Its adaLN modulations, which training starts from zero, are random here, so
    that no gradient vanishes.
    """
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_width,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        norm_num_groups=4,
        sample_size=side,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )


def settle(module: nn.Module, batch: Tensor) -> None:
    """Give batch norms the statistics of ``batch``: those of a fresh network (0 and 1) fit no layer."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
    module.train()
    with torch.no_grad():
        module(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def call_denoiser(module: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The network's output on ``x`` ``[n, c, h, w]`` at times ``t`` ``[n]`` (and classes ``y`` ``[n]``)."""
    if "y" in batch:
        return module(batch["x"], timestep=batch["t"], class_labels=batch["y"]).sample
    return module(batch["x"], batch["t"]).sample


def call_plain(module: nn.Module, batch: Tensor) -> Tensor:
    """The network's output on a tensor of inputs ``[n, …]``."""
    return module(batch)
