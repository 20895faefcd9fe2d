"""Networks in everyday use, and the shapes that batches come in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.cases import Net, both, case, floats, integers, named

# everyday networks --------------------------------------------------------------------------------


@case("the plain case", floats(3), common=True)
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


@case("one scalar per sample: outputs of shape [n]", floats(3), common=True)
def mlp_scalar() -> nn.Module:
    return Net(lambda net, x: net.body(x).squeeze(-1), body=nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)))


@case("samples of width n: every axis has the same length", floats(4), common=True)
def mlp_square() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False))


@case("in-place ReLU after the first layer, whose input needs no gradient", floats(3), common=True)
def mlp_relu_inplace() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))


@case("batch norm in eval mode with its own statistics, then in-place ReLU", floats(2, 6, 6), common=True)
def conv_bn_relu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@case("batch norm on (n, C) and (n, C, L), the first layer of all", floats(3, 4), common=True)
def batch_norm_1d() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5))


@case("residual sums in place", floats(2, 6, 6), common=True)
def resnet() -> nn.Module:
    def block(i: int, o: int, stride: int) -> nn.Module:
        def forward(net: Net, x: Tensor) -> Tensor:
            out = net.relu(net.bn1(net.conv1(x)))
            out = net.bn2(net.conv2(out))
            out += net.down(x)
            return net.relu(out)

        return Net(
            forward,
            conv1=nn.Conv2d(i, o, 3, stride, 1, bias=False),
            bn1=nn.BatchNorm2d(o),
            conv2=nn.Conv2d(o, o, 3, 1, 1, bias=False),
            bn2=nn.BatchNorm2d(o),
            down=nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)),
            relu=nn.ReLU(inplace=True),
        )

    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        block(4, 4, 1), block(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def _sinusoids(t: Tensor, width: int) -> Tensor:
    rates = torch.exp(-math.log(100.0) * torch.arange(width // 2, dtype=torch.float64, device=t.device) / (width // 2))
    angles = t[:, None].to(torch.float64) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class _AttentionUNet(nn.Module):
    """GroupNorm, self-attention over pixels, a skip connection, and a time MLP that never sees x."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 6))
        self.enter = nn.Conv2d(1, 6, 3, padding=1)
        self.norm1, self.conv1, self.shift1 = nn.GroupNorm(3, 6), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 6)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.norm_a, self.qkv, self.project = nn.GroupNorm(2, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up = nn.Conv2d(8, 6, 3, padding=1)
        self.norm_o, self.leave = nn.GroupNorm(3, 12), nn.Conv2d(12, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.time(_sinusoids(t, 8).to(x.dtype))
        skip = h = self.enter(x)
        h = h + self.conv1(F.silu(self.norm1(h)) + self.shift1(F.silu(e))[:, :, None, None])
        h = self.down(h)
        n, c, height, width = h.shape
        tokens = self.norm_a(h.view(n, c, height * width)).transpose(1, 2)
        q, k, v = (z.unflatten(-1, (2, 4)).transpose(1, 2) for z in self.qkv(tokens).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + self.project(a).transpose(1, 2).reshape(n, c, height, width)
        h = self.up(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.leave(F.silu(self.norm_o(torch.cat([h, skip], 1))))


@case(
    "the time MLP does not depend on x; GroupNorm on 3-D inputs; attention over pixels",
    named(x=floats(1, 6, 6), t=integers(1000)),
    common=True,
)
def unet() -> nn.Module:
    return _AttentionUNet()


@case(
    "diffusers UNet2DModel as it comes", named(sample=floats(1, 8, 8), timestep=integers(1000)), common=True,
    call=lambda module, batch: module(**batch).sample,
)  # fmt: skip
def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip


@case(
    "diffusers UNet2DConditionModel: cross-attention to a text",
    named(sample=floats(2, 8, 8), timestep=integers(1000), encoder_hidden_states=floats(3, 6)), common=True,
    call=lambda module, batch: module(**batch).sample,
)  # fmt: skip
def diffusers_unet_condition() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn", cross_attention_dim=6, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip


@case(
    "diffusers DiTTransformer2DModel: adaLN from time and class", common=True,
    batch=named(hidden_states=floats(2, 4, 4), timestep=integers(1000), class_labels=integers(5)),
    call=lambda module, batch: module(**batch).sample,
)  # fmt: skip
def diffusers_dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=2, num_layers=1, sample_size=4,
        patch_size=2, num_embeds_ada_norm=5, norm_num_groups=1,
    )  # fmt: skip


class _DiTBlock(nn.Module):
    """Patches, a DiT block modulated by time, and a modulated last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.time = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
        self.modulate = nn.Linear(8, 48)
        self.norm1 = nn.LayerNorm(8, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(8, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(approximate="tanh"), nn.Linear(16, 8))
        self.modulate_last, self.last = nn.Linear(8, 16), nn.Linear(8, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2) + self.position
        c = self.time(_sinusoids(t, 8).to(x.dtype))
        s1, b1, g1, s2, b2, g2 = self.modulate(c).unsqueeze(1).chunk(6, -1)
        z = self.norm1(h) * (1 + s1) + b1
        h = h + g1 * self.attention(z, z, z, need_weights=False)[0]
        h = h + g2 * self.mlp(self.norm2(h) * (1 + s2) + b2)
        s, b = self.modulate_last(c).unsqueeze(1).chunk(2, -1)
        return self.last(F.layer_norm(h, (8,)) * (1 + s) + b)


@case("adaLN modulation, packed attention", named(x=floats(1, 4, 4), t=integers(1000)), common=True)
def dit_block() -> nn.Module:
    return _DiTBlock()


@case(
    "adaLN-zero: zero gates make the gradients of a whole block zero, so 0 = 0 proves nothing",
    named(x=floats(1, 4, 4), t=integers(1000)), common=True, scramble=False,
)  # fmt: skip
def dit_block_zero() -> nn.Module:
    block = _DiTBlock()
    for layer in (block.modulate, block.modulate_last):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return block


@case(
    "DCGAN generator: transposed convolutions, batch norm, in-place ReLU, T = 1 at the start",
    floats(4, 1, 1),
    common=True,
)
def dcgan() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU(True),
        nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True),
        nn.ConvTranspose2d(4, 1, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


@case("outputs [n, C, H, W] that are not contiguous", floats(2, 5, 5), common=True)
def image_to_image() -> nn.Module:
    return Net(
        lambda net, x: net.body(x).transpose(2, 3),
        body=nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, (1, 3), padding=(0, 1))),
    )


@case("channels-last activations", floats(3, 4, 4), common=True)
def channels_last() -> nn.Module:
    return Net(
        lambda net, x: net.body(x.to(memory_format=torch.channels_last)).mean((2, 3)),
        body=nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 3, 2)),
    )


@case("dropout, which eval mode switches off", floats(2, 3, 3), common=True)
def dropout() -> nn.Module:
    return Net(
        lambda net, x: F.dropout(net.body(x), 0.5, net.training),
        body=nn.Sequential(
            nn.Conv2d(2, 4, 2), nn.Dropout2d(0.5), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3), nn.AlphaDropout(0.2)
        ),
    )


# batches as pytrees -------------------------------------------------------------------------------


@case("a dict with integer timesteps", named(x=floats(3), t=integers(10)), common=True)
def dict_batch() -> nn.Module:
    return Net(
        lambda net, x, t: net.out(torch.tanh(net.enter(x)) * net.table(t)),
        enter=nn.Linear(3, 4), table=nn.Embedding(10, 4), out=nn.Linear(4, 2),
    )  # fmt: skip


@case(
    "a nested batch, and a leaf that is no tensor",
    lambda n, seed: {"a": [floats(3)(n, seed), (floats(2)(n, seed + 1), 2.0)]},
    call=lambda module, batch: module(batch["a"][0], *batch["a"][1]),
    common=True,
)
def nested_batch() -> nn.Module:
    return Net(lambda net, x, y, scale: net.a(x) + scale * net.b(y), a=nn.Linear(3, 2), b=nn.Linear(2, 2))


@case("the branch of y alone and the branch of x alone meet at the end", both(floats(3), floats(2)), common=True)
def tuple_batch() -> nn.Module:
    return nn.Bilinear(3, 2, 4)
