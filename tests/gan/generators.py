"""Small generators and discriminators in the styles that are published, each with the trap that it stands for.

Everything is in float64, with parameters and running statistics moved off their initial values.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class Case:
    """A network, and what its wrapper has to be told.

    Attributes:
        name, trap: what it is, and what a wrapper gets wrong about it.
        build: makes the module.
        options: of the wrapper.
        shape: of one latent of a generator; of one sample of a discriminator.
        direct: ``direct(module, x, y)``: how a user calls it on inputs ``[n, *shape]`` and labels ``[n]``. Images of a
            generator, in w if that is analysed; logits ``[n, ...]`` of a discriminator.
    """

    name: str
    trap: str
    build: Callable[[], nn.Module]
    options: dict[str, Any]
    shape: tuple[int, ...]
    direct: Callable[[nn.Module, Tensor, Tensor | None], Tensor]

    def module(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the hooks of the old spectral norm
            torch.manual_seed(zlib.crc32(self.name.encode()))
            module = self.build().double().eval()
            with torch.no_grad():
                for p in module.parameters():
                    p.add_(0.1 * torch.randn_like(p))
                for name, b in module.named_buffers():
                    if name.endswith(("running_mean", "stored_mean", "w_avg", "noise")):
                        b.normal_()
                    elif name.endswith(("running_var", "stored_var")):
                        b.uniform_(0.5, 2.0)
        return module

    def __repr__(self) -> str:
        return self.name


GENERATORS: list[Case] = []
DISCRIMINATORS: list[Case] = []


def generator(trap: str, shape: tuple[int, ...], direct: Any = None, **options: Any) -> Callable[[Any], Any]:
    return _register(GENERATORS, trap, shape, direct, options)


def discriminator(trap: str, shape: tuple[int, ...], direct: Any = None, **options: Any) -> Callable[[Any], Any]:
    return _register(DISCRIMINATORS, trap, shape, direct, options)


def _register(
    where: list[Case], trap: str, shape: tuple[int, ...], direct: Any, options: dict[str, Any]
) -> Callable[[Any], Any]:
    def register(build: Any) -> Any:
        plain = direct or (lambda module, x, y: module(x) if y is None else module(x, y))
        where.append(Case(build.__name__, trap, build, options, shape, plain))
        return build

    return register


def named(cases: list[Case], name: str) -> Case:
    return next(case for case in cases if case.name == name)


class Net(nn.Module):
    """A module whose forward is a function of it."""

    def __init__(self, function: Callable[..., Any], **parts: Any):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def old_spectral_norm(layer: nn.Module) -> nn.Module:
    return torch.nn.utils.spectral_norm(layer)


# ------------------------------------------------------------------------------ generators


@generator("no spatial axes anywhere; samples are points", (3,))
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


@generator(
    "latents are images of one pixel; running statistics; the first axis of a transposed weight goes in", (5, 1, 1)
)
def dcgan() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(5, 6, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU(True),
        nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True),
        nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


class Dense(nn.Module):
    """A Linear stack that ends in a view, as in many collections of implementations."""

    def __init__(self, latent: int, img_shape: tuple[int, ...]):
        super().__init__()

        def block(before: int, after: int, normalize: bool = True) -> list[nn.Module]:
            norm = [nn.BatchNorm1d(after, 0.8)] if normalize else []
            return [nn.Linear(before, after), *norm, nn.LeakyReLU(0.2, inplace=True)]

        self.img_shape = img_shape
        size = int(torch.Size(img_shape).numel())
        self.model = nn.Sequential(*block(latent, 6, normalize=False), *block(6, 8), nn.Linear(8, size), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        img = self.model(z)
        return img.view(img.size(0), *self.img_shape)


@generator("a view at the end, batch norm in one dimension, activations in place", (4,))
def linear_stack() -> nn.Module:
    return Dense(4, (1, 3, 3))


class LabelEmbedding(Dense):
    def __init__(self, latent: int, classes: int, img_shape: tuple[int, ...]):
        super().__init__(latent + 3, img_shape)
        self.label_emb = nn.Embedding(classes, 3)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return super().forward(torch.cat((self.label_emb(labels), noise), -1))


@generator("the first layer takes the latent joined with an embedding: its width is not the latent's", (4,), classes=5)
def embedded_labels() -> nn.Module:
    return LabelEmbedding(4, 5, (1, 3, 3))


def one_hot_direct(classes: int) -> Callable[..., Tensor]:
    return lambda module, x, y: module(x, F.one_hot(y, classes).to(x.dtype))


@generator("labels as one-hot rows beside the latent, as many classes as latents in a trial run",
           (4,), one_hot_direct(4), classes=4)  # fmt: skip
def one_hot_joined() -> nn.Module:
    def forward(net: Net, z: Tensor, c: Tensor) -> Tensor:
        return net.model(torch.cat([z, c], 1))

    return Net(forward, model=nn.Sequential(nn.Linear(8, 9), nn.ELU(), nn.Linear(9, 6)))


@generator("whole numbers instead of one-hot rows would be broadcast over the batch without an error",
           (3,), one_hot_direct(4), classes=4)  # fmt: skip
def one_hot_silent() -> nn.Module:
    def forward(net: Net, z: Tensor, c: Tensor) -> Tensor:
        return net.model(z) + torch.tanh(c.to(z.dtype) @ net.shift)

    return Net(forward, model=nn.Linear(3, 6), shift=nn.Parameter(torch.randn(4, 6)))


class ConditionalBatchNorm(nn.Module):
    """Gain and bias from the class embedding, statistics of its own, as in BigGAN."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.gain, self.bias = (
            parametrizations.spectral_norm(nn.Linear(embedding, channels, bias=False)) for _ in "gb"
        )
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, self.training, 0.1, 1e-4)
        return out * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]


class BigGAN(nn.Module):
    """Latent in parts, one-hot labels through a shared embedding, conditional batch norm, self-attention."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.dim_z = 6
        self.embeddings = nn.Linear(classes, 4, bias=False)
        self.linear = parametrizations.spectral_norm(nn.Linear(2, 4 * 4))
        self.norms = nn.ModuleList(ConditionalBatchNorm(4, 4 + 2) for _ in range(2))
        self.convs = nn.ModuleList(parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)) for _ in range(2))
        self.attention = SelfAttention(4)
        self.rgb = parametrizations.spectral_norm(nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, z: Tensor, class_label: Tensor, truncation: float) -> Tensor:
        assert 0 < truncation <= 1
        first, *parts = z.chunk(3, 1)
        embedded = self.embeddings(class_label)
        h = self.linear(first).view(-1, 4, 2, 2)
        for part, norm, conv in zip(parts, self.norms, self.convs, strict=True):
            h = conv(F.interpolate(F.relu(norm(h, torch.cat([embedded, part], 1))), scale_factor=2))
            h = self.attention(h) if h.shape[2] == 4 else h
        return torch.tanh(self.rgb(h))


class SelfAttention(nn.Module):
    """SAGAN's: a gate that begins at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))
        return x + self.gamma * (v @ torch.softmax(q.transpose(1, 2) @ k, -1).transpose(1, 2)).view_as(x)


@generator("the latent's size is an attribute, not that of any layer; one more required argument",
           (6,), lambda m, x, y: m(x, F.one_hot(y, 3).to(x.dtype), 0.5), classes=3,
           inputs={"truncation": 0.5})  # fmt: skip
def biggan() -> nn.Module:
    return BigGAN()


class Mapping(nn.Module):
    def __init__(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.embed = nn.Linear(c_dim, z_dim) if c_dim else None
        self.fc0, self.fc1 = nn.Linear(z_dim * (2 if c_dim else 1), 7), nn.Linear(7, w_dim)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1) -> Tensor:
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        if self.embed is not None:
            assert c is not None
            x = torch.cat([x, self.embed(c)], 1)
        w = self.fc1(F.leaky_relu(self.fc0(x), 0.2))
        self.w_avg.copy_(w.detach().mean(0).lerp(self.w_avg, 0.99))  # a buffer written in every pass, even in eval mode
        w = w.unsqueeze(1).repeat([1, self.num_ws, 1])
        return self.w_avg.lerp(w, truncation_psi) if truncation_psi != 1 else w


class SynthesisLayer(nn.Module):
    """A modulated, demodulated convolution with noise."""

    def __init__(self, w_dim: int, before: int, after: int, size: int):
        super().__init__()
        self.affine = nn.Linear(w_dim, before)
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3))
        self.noise_strength = nn.Parameter(torch.ones([]))
        self.register_buffer("noise", torch.randn(size, size))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        assert noise_mode in ("random", "const", "none")
        weight = self.weight * self.affine(w)[:, None, :, None, None]
        weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        n, _, h, width = x.shape
        out = F.conv2d(x.reshape(1, -1, h, width), weight.flatten(0, 1), padding=1, groups=n).view(n, -1, h, width)
        if noise_mode == "const":
            out = out + self.noise * self.noise_strength
        if noise_mode == "random":
            out = out + torch.randn(n, 1, h, width, dtype=x.dtype) * self.noise_strength
        return F.leaky_relu(out, 0.2)


class Synthesis(nn.Module):
    def __init__(self, w_dim: int):
        super().__init__()
        self.num_ws = 3
        self.const = nn.Parameter(torch.randn(4, 4, 4))
        self.layers = nn.ModuleList(SynthesisLayer(w_dim, 4, 4, size) for size in (4, 8))
        self.torgb = nn.Conv2d(4, 3, 1)

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        assert ws.shape[1] == self.num_ws
        x = self.const[None].repeat(len(ws), 1, 1, 1)
        x = self.layers[0](x, ws[:, 0], noise_mode)
        x = self.layers[1](F.interpolate(x, scale_factor=2, mode="bilinear"), ws[:, 1], noise_mode)
        return self.torgb(x) * ws[:, 2, :1, None, None]


class StyleGAN(nn.Module):
    def __init__(self, c_dim: int = 0):
        super().__init__()
        self.z_dim, self.c_dim = 5, c_dim
        self.synthesis = Synthesis(6)
        self.mapping = Mapping(5, c_dim, 6, self.synthesis.num_ws)

    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1, **synthesis: Any) -> Tensor:
        return self.synthesis(self.mapping(z, c, truncation_psi), **synthesis)


CONST = {"noise_mode": "const"}


@generator("labels are required and may be None; noise unless it is switched off; a buffer written in eval mode",
           (5,), lambda m, x, y: m(x, None, **CONST), inputs=CONST)  # fmt: skip
def stylegan_z() -> nn.Module:
    return StyleGAN()


@generator("in w: one w for every layer, while the mapping returns copies of it",
           (5,), lambda m, x, y: m.synthesis(m.mapping(x, None), **CONST), space="w", inputs=CONST)  # fmt: skip
def stylegan_w() -> nn.Module:
    return StyleGAN()


@generator("in w, conditional: labels go to the mapping alone, as one-hot rows",
           (5,), lambda m, x, y: m.synthesis(m.mapping(x, F.one_hot(y, 4).to(x.dtype)), **CONST),
           space="w", inputs=CONST, classes=4)  # fmt: skip
def stylegan_w_conditional() -> nn.Module:
    return StyleGAN(4)


@generator("a mapping that returns [n, d] and knows no labels; other names; equalised layers of its own",
           (4,), lambda m, x, y: m.decoder(m.style(x)), space="w", mapping="style", synthesis="decoder")  # fmt: skip
def plain_mapping() -> nn.Module:
    def forward(net: Net, z: Tensor) -> Tensor:
        return net.decoder(net.style(z))

    style = nn.Sequential(Equalized(4, 6), nn.Tanh(), Equalized(6, 6))
    return Net(forward, style=style, decoder=nn.Sequential(Equalized(6, 9), nn.Unflatten(1, (1, 3, 3))))


class Equalized(nn.Module):
    """A linear layer or convolution that is scaled at run time: no layer of torch's tells its width."""

    def __init__(self, before: int, after: int, kernel: int = 0):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.randn(after, before, *[kernel] * (2 if kernel else 0)))
        self.scale = (2 / self.weight[0].numel()) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        return F.conv2d(x, weight, padding=self.kernel // 2) if self.kernel else F.linear(x, weight)


class PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


@generator("pixel norm of the latent itself, so that its length is a direction without effect; equalised convolutions",
           (4, 1, 1))  # fmt: skip
def progressive() -> nn.Module:
    return nn.Sequential(
        PixelNorm(), nn.Upsample(scale_factor=4), Equalized(4, 6, 3), nn.LeakyReLU(0.2), PixelNorm(),
        nn.Upsample(scale_factor=2), Equalized(6, 4, 3), nn.LeakyReLU(0.2), PixelNorm(), Equalized(4, 3, 1),
    )  # fmt: skip


@generator("new-style spectral norm, whose layers hide their weight in a parametrisation", (4,))
def spectral_norm() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 8)), nn.Unflatten(1, (2, 2, 2)), nn.Upsample(scale_factor=2),
        parametrizations.spectral_norm(nn.Conv2d(2, 3, 3, padding=1)), nn.GroupNorm(3, 3), nn.Tanh(),
    )  # fmt: skip


@generator("old spectral norm: a hook computes the weight anew, from buffers that train mode writes to", (4, 1, 1))
def spectral_norm_hook() -> nn.Module:
    return nn.Sequential(
        old_spectral_norm(nn.ConvTranspose2d(4, 6, 3)), nn.InstanceNorm2d(6, affine=True), nn.SiLU(),
        old_spectral_norm(nn.Conv2d(6, 2, 3, padding=1)),
    )  # fmt: skip


@generator("fused attention and group norm have gaps in forward mode", (4,))
def attention() -> nn.Module:
    def forward(net: Net, z: Tensor) -> Tensor:
        h = net.norm(net.embed(z).view(-1, 4, 6))
        q, k, v = net.qkv(h.transpose(1, 2)).chunk(3, -1)
        return net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2) + h)

    return Net(
        forward, embed=nn.Linear(4, 24), norm=nn.GroupNorm(2, 4), qkv=nn.Linear(4, 12), out=nn.Conv1d(4, 2, 1)
    )  # fmt: skip


@generator("the gate of its self-attention is a parameter; upsampling and convolutions", (3,))
def self_attention() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 16), nn.Unflatten(1, (4, 2, 2)), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4), nn.LeakyReLU(0.2), SelfAttention(4), nn.PixelShuffle(2), nn.Conv2d(1, 1, 3, padding=1),
    )  # fmt: skip


@generator("a dictionary, with other tensors before the image", (3,), lambda m, x, y: m(x)["image"])
def returns_a_dict() -> nn.Module:
    def forward(net: Net, z: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(net.first(z))
        return {"features": h, "image": net.second(h)}

    return Net(forward, first=nn.Linear(3, 7), second=nn.Linear(7, 4))


class ImageAndLatent(NamedTuple):
    image: Tensor
    latent: Tensor | None


@generator("a named tuple with a None in it", (3,), lambda m, x, y: m(x)[0])
def returns_a_tuple() -> nn.Module:
    return Net(lambda net, z: ImageAndLatent(net.layer(z), None), layer=nn.Linear(3, 4))


@generator("truncation is an argument of its forward pass", (3,), lambda m, x, y: m(x, truncation=0.7),
           inputs={"truncation": 0.7})  # fmt: skip
def truncates_itself() -> nn.Module:
    def forward(net: Net, z: Tensor, *, truncation: float = 1.0) -> Tensor:
        h = torch.tanh(net.first(z))
        return net.second(net.mean + truncation * (h - net.mean))

    return Net(forward, first=nn.Linear(3, 7), second=nn.Linear(7, 4), mean=torch.randn(7))


@generator("noise images are inputs, one for all latents, in a list", (3,), lambda m, x, y: m(x, m.given),
           inputs={"noise": [torch.randn(1, 4, generator=torch.Generator().manual_seed(0))]})  # fmt: skip
def noise_inputs() -> nn.Module:
    def forward(net: Net, z: Tensor, noise: list[Tensor]) -> Tensor:
        return torch.tanh(net.layer(z)) * noise[0]

    net = Net(forward, layer=nn.Linear(3, 4))
    net.given = [torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).double()]
    return net


@generator("an averaged copy: nothing requires gradients", (3,))
def averaged() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).requires_grad_(False)


@generator("latents of three spatial axes", (2, 1, 1, 1))
def volumes() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose3d(2, 3, 2), nn.Tanh(), nn.ConvTranspose3d(3, 1, 2))


# ------------------------------------------- generators that are refused, or need something else


def draws_noise() -> nn.Module:
    """One that draws its own noise."""
    return Net(
        lambda net, z: net.layer(z) + 0.01 * torch.randn(len(z), 4, dtype=z.dtype), layer=nn.Linear(3, 4)
    ).double()


def mixes_latents() -> nn.Module:
    """One that centres its features over the batch."""

    def forward(net: Net, z: Tensor) -> Tensor:
        h = net.layer(z)
        return h - h.mean(0)

    return Net(forward, layer=nn.Linear(3, 4)).double()


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)).double()


# -------------------------------------------------------------------------- discriminators

IMAGE = (2, 8, 8)


def logits_of_sequential(module: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    assert isinstance(module, nn.Sequential)
    for layer in module:
        if not isinstance(layer, nn.Sigmoid):
            x = layer(x)
    return x


def small_critic(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4), *last)


@discriminator("a critic's values are logits as they are", (2,))
def critic() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))


@discriminator("a sigmoid at the end, as a module, and a view after it",
               IMAGE, lambda m, x, y: logits_of_sequential(m[0], x, y))  # fmt: skip
def sigmoid_module() -> nn.Module:
    return nn.Sequential(small_critic(nn.Sigmoid()), nn.Flatten(0))


@discriminator("a sigmoid as a function, and others before it", IMAGE, lambda m, x, y: m.body(torch.sigmoid(x)))
def sigmoid_function() -> nn.Module:
    return Net(lambda net, x: torch.sigmoid(net.body(torch.sigmoid(x))).squeeze(), body=small_critic())


@discriminator("a sigmoid in place: what went in is gone", IMAGE, lambda m, x, y: m.body(x))
def sigmoid_in_place() -> nn.Module:
    return Net(lambda net, x: net.body(x).sigmoid_().view(-1), body=small_critic())


@discriminator("a sigmoid written out, which no function of torch's gives away", (2,), lambda m, x, y: m.body(x))
def sigmoid_by_hand() -> nn.Module:
    return Net(lambda net, x: 1 / (1 + torch.exp(-net.body(x))), body=nn.Linear(2, 1))


@discriminator("a gate of sigmoids inside, none at the end", (2,))
def gated() -> nn.Module:
    return Net(
        lambda net, x: net.out(torch.sigmoid(net.gate(x)) * net.body(x)),
        gate=nn.Linear(2, 4), body=nn.Linear(2, 4), out=nn.Linear(4, 1),
    )  # fmt: skip


@discriminator("a map of logits, one for each patch", IMAGE)
def patches() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 2))


@discriminator("the standard deviation over the batch is one of its features", IMAGE)
def minibatch_stddev() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = F.leaky_relu(net.first(x), 0.2)
        spread = (h.var(0, unbiased=False) + 1e-8).sqrt().mean()
        return net.second(torch.cat([h, spread.expand(len(x), 1, *h.shape[2:])], 1)).flatten(1)

    return Net(forward, first=nn.Conv2d(2, 3, 4, 2, 1), second=nn.Conv2d(4, 1, 4))


@discriminator("batch norm without running statistics, even in eval mode", IMAGE)
def batch_statistics() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 4, 2, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4)
    )  # fmt: skip


@discriminator("conditional: the label's embedding is projected on the features", IMAGE, classes=3)
def projection() -> nn.Module:
    def forward(net: Net, x: Tensor, y: Tensor) -> Tensor:
        h = F.leaky_relu(net.features(x), 0.2).sum([2, 3])
        return net.linear(h) + (net.embed(y) * h).sum(1, keepdim=True)

    return Net(
        forward, features=old_spectral_norm(nn.Conv2d(2, 4, 4, 2, 1)), linear=nn.Linear(4, 1), embed=nn.Embedding(3, 4)
    )  # fmt: skip


@discriminator("conditional: labels as one-hot rows beside the pixels", (2,), one_hot_direct(4), classes=4)
def one_hot_beside() -> nn.Module:
    return Net(lambda net, x, y: net.body(torch.cat([x, y], 1)),
               body=nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 1)))  # fmt: skip


@discriminator("the features come first in what it returns", IMAGE, lambda m, x, y: m(x)[1])
def features_first() -> nn.Module:
    def forward(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.leaky_relu(net.first(x), 0.2)
        return h, net.second(h)

    return Net(forward, first=nn.Conv2d(2, 4, 4, 2, 1), second=nn.Conv2d(4, 1, 4))


@discriminator("validity and labels", IMAGE, lambda m, x, y: m(x)[0])
def auxiliary_classifier() -> nn.Module:
    def forward(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.leaky_relu(net.first(x), 0.2).flatten(1)
        return net.adversarial(h), net.auxiliary(h)

    return Net(
        forward, first=nn.Conv2d(2, 4, 4, 2, 1), adversarial=nn.Linear(64, 1),
        auxiliary=nn.Sequential(nn.Linear(64, 5), nn.Softmax(1)),
    )  # fmt: skip


@discriminator("dropout and batch norm act in train mode alone", IMAGE)
def dropout_and_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(0.25), nn.BatchNorm2d(4, 0.8),
        nn.Conv2d(4, 1, 4),
    )  # fmt: skip


@discriminator("frozen while the generator has its turn", IMAGE)
def frozen() -> nn.Module:
    return small_critic().requires_grad_(False)
