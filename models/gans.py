"""Reference GANs: networks that are built by name, and the recipes that keep them healthy or make them collapse.

Planar mixtures have multilayer perceptrons; images have a DCGAN (Radford et al. 2016) of any size that is 4 to 7
times a power of two. Discriminators answer with logits, or a critic's values: no network ends in a sigmoid.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.models.gan_losses import LOSSES

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class MLPGenerator(nn.Module):
    """Latents ``[n, latent]`` to points ``[n, outputs]``.

    Args:
        latent: dimension of the latents, which are standard normal.
        outputs: dimension of a sample.
        width, depth: of the hidden layers, and their number.
        activation: one of :data:`ACTIVATIONS`; ``"softplus"`` and ``"tanh"`` make it smooth.

    Raises:
        InputError: an unknown activation, or a size below 1.
    """

    def __init__(
        self, latent: int = 2, outputs: int = 2, width: int = 64, depth: int = 3, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.latent_shape = (latent,)
        self.layers = _perceptron(latent, outputs, width, depth, activation)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class MLPDiscriminator(nn.Module):
    """Points ``[n, inputs]`` to logits ``[n, 1]``.

    Args:
        inputs: dimension of a sample.
        width, depth: of the hidden layers, and their number.
        activation: one of :data:`ACTIVATIONS`; ``"softplus"`` and ``"tanh"`` make it smooth.

    Raises:
        InputError: an unknown activation, or a size below 1.
    """

    def __init__(self, inputs: int = 2, width: int = 64, depth: int = 3, activation: str = "leaky-relu") -> None:
        super().__init__()
        self.layers = _perceptron(inputs, 1, width, depth, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DCGANGenerator(nn.Module):
    """Latents ``[n, latent, 1, 1]`` to images ``[n, channels, size, size]`` in [-1, 1].

    Transposed convolutions with batch normalisation and ReLU, without biases, and a tanh. With
    ``channels=3, size=64, latent=100, width=64`` it is the network of the DCGAN paper as it is usually implemented,
    with 3,576,704 parameters; by default it is one for MNIST resized to 32×32.

    Args:
        channels, size: of the images; the size is 4, 5, 6 or 7 times a power of two.
        latent: dimension of the latents, which are standard normal.
        width: channels at half the size; every halving doubles them.

    Raises:
        InputError: a size that is not of this kind, or a number below 1.
    """

    def __init__(self, channels: int = 1, size: int = 32, latent: int = 64, width: int = 32) -> None:
        super().__init__()
        _positive(channels=channels, latent=latent, width=width)
        start, halvings = _ladder(size)
        self.latent_shape = (latent, 1, 1)
        widths = [width * 2**k for k in reversed(range(halvings))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], start, bias=False)]
        for before, after in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(_as_in_the_paper)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class DCGANDiscriminator(nn.Module):
    """Images ``[n, channels, size, size]`` to logits ``[n, 1]``.

    Args:
        channels, size: of the images; the size is 4, 5, 6 or 7 times a power of two.
        width: channels at half the size; every halving doubles them.
        batch_norm: normalise over the batch between convolutions, as in the paper. Without it the convolutions have
            biases, a logit depends on its own image alone, and R1 is the penalty that it is meant to be.

    Raises:
        InputError: a size that is not of this kind, or a number below 1.
    """

    def __init__(self, channels: int = 1, size: int = 32, width: int = 32, batch_norm: bool = True) -> None:
        super().__init__()
        _positive(channels=channels, width=width)
        start, halvings = _ladder(size)
        widths = [width * 2**k for k in range(halvings)]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, 2, 1, bias=not batch_norm),
            nn.LeakyReLU(0.2),
        ]
        for before, after in itertools.pairwise(widths):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(after)] if batch_norm else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, start, bias=not batch_norm), nn.Flatten())
        self.apply(_as_in_the_paper)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


# what is trained on which data, and what the data fix
NETWORKS: dict[str, tuple[type[nn.Module], type[nn.Module], dict[str, Any]]] = {
    "ring": (MLPGenerator, MLPDiscriminator, {}),
    "grid": (MLPGenerator, MLPDiscriminator, {}),
    "mnist": (DCGANGenerator, DCGANDiscriminator, {"channels": 1}),
    "stacked-mnist": (DCGANGenerator, DCGANDiscriminator, {"channels": 3}),
}

_CHANGEABLE = ("loss", "r1", "d_steps", "g_lr", "d_lr", "decay")


@dataclass(frozen=True)
class GANRecipe:
    """Everything that decides the weights, apart from the images.

    Attributes:
        data: ``"ring"`` or ``"grid"`` (planar mixtures, multilayer perceptrons), ``"mnist"`` or ``"stacked-mnist"``
            (images with 1 or 3 channels, DCGANs).
        generator, discriminator: arguments of the two networks, where they differ from the defaults.
        loss: a name of :data:`genkernel.models.gan_losses.LOSSES`.
        r1: γ of the penalty ½γ E‖∇_x l‖² at real samples; 0 for none.
        d_steps: discriminator steps per generator step.
        g_lr, d_lr, betas: of the two Adam optimizers.
        decay: the last part of the steps, over which both learning rates fall linearly towards zero; 0 for none.
        batch: samples per step and side.
        steps: generator steps.
        ema: decay of the generator's running average, which is what is saved then; 0 for none.
        later, later_from: values of ``loss``, ``r1``, ``d_steps``, ``g_lr``, ``d_lr`` or ``decay`` that hold from this
            part of the steps on, so that a fault can be planted in a healthy run.
        later_over: part of the steps over which the learning rates move there, in equal ratios; 0 for at once.
        seed: of initialisation, latents and batches.

    Raises:
        InputError: an unknown name, or a number out of its range.
    """

    data: str = "ring"
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    loss: str = "non-saturating"
    r1: float = 0.0
    d_steps: int = 1
    g_lr: float = 1e-3
    d_lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    decay: float = 0.0
    batch: int = 128
    steps: int = 3000
    ema: float = 0.0
    later: dict[str, Any] = field(default_factory=dict)
    later_from: float = 0.5
    later_over: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data not in NETWORKS:
            raise InputError(f"a recipe's data is one of {', '.join(NETWORKS)}, not {self.data!r}")
        if self.loss not in LOSSES:
            raise InputError(f"the loss is one of {', '.join(LOSSES)}, not {self.loss!r}")
        for name in ("d_steps", "batch", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("g_lr", "d_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be a positive number, not {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas are two numbers from 0 to below 1, not {self.betas}")
        if not 0 <= self.decay <= 1:
            raise InputError(f"decay is the last part of the steps, from 0 (none) to 1 (all), not {self.decay}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema is a number from 0 (none) to below 1, not {self.ema}")
        if not 0 <= self.r1 < math.inf:
            raise InputError(f"r1 must be 0 (none) or a positive number, not {self.r1}")
        if self.loss == "wgan" and not self.r1:
            raise InputError("a Wasserstein critic needs a bound on its slope: give r1 > 0")
        if self.seed < 0:
            raise InputError(f"a seed is a whole number from 0 on, not {self.seed}")
        if unknown := [name for name in self.later if name not in _CHANGEABLE]:
            raise InputError(f"what changes later is {', '.join(_CHANGEABLE)}, not {unknown[0]!r}")
        for name in ("later_from", "later_over"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a part of the steps, from 0 to 1, not {getattr(self, name)}")
        if self.later:
            self._changed()  # its values are checked as well

    def at(self, step: int) -> GANRecipe:
        """The recipe that holds in this step."""
        since = step / self.steps - self.later_from
        if not self.later or since < 0:
            return self
        changed = self._changed()
        if since >= self.later_over:
            return changed
        part = since / self.later_over
        rates = {name: getattr(self, name) ** (1 - part) * getattr(changed, name) ** part for name in ("g_lr", "d_lr")}
        return replace(changed, **rates)

    def _changed(self) -> GANRecipe:
        return replace(self, later={}, **self.later)

    @property
    def planar(self) -> bool:
        """Whether samples are points of the plane."""
        return NETWORKS[self.data][0] is MLPGenerator

    @property
    def channels(self) -> int:
        """Of the images; 1 where samples are points."""
        return int(NETWORKS[self.data][2].get("channels", 1))

    def build(self) -> tuple[nn.Module, nn.Module]:
        """Generator and discriminator, freshly initialised from the global RNG."""
        generator, discriminator, fixed = NETWORKS[self.data]
        return _built(generator, {**fixed, **self.generator}), _built(discriminator, {**fixed, **self.discriminator})

    def factories(self) -> dict[str, dict[str, Any]]:
        """How the two networks are built again, by name and arguments: JSON-ready."""
        generator, discriminator, fixed = NETWORKS[self.data]
        return {
            side: {"factory": f"genkernel.models.gans:{kind.__name__}", "arguments": {**fixed, **arguments}}
            for side, kind, arguments in (
                ("generator", generator, self.generator),
                ("discriminator", discriminator, self.discriminator),
            )
        }


_HEALTHY: dict[str, Any] = {
    "r1": 0.2, "d_steps": 2, "g_lr": 4e-3, "d_lr": 4e-3, "betas": (0.0, 0.99), "decay": 0.5,
}  # fmt: skip
_COLLAPSING: dict[str, Any] = {"g_lr": 4e-3, "d_lr": 2e-4}  # no penalty, and a generator that outruns its judge
_MOMENTUM: dict[str, Any] = {"g_lr": 2e-3, "d_lr": 2e-3, "betas": (0.8, 0.999)}
_IMAGES: dict[str, Any] = {"batch": 64, "g_lr": 4e-4, "d_lr": 4e-4, "decay": 0.5}
# few latents and larger steps: better digits after as many of them
_DIGITS: dict[str, Any] = {**_IMAGES, "generator": {"latent": 16}, "g_lr": 1e-3, "d_lr": 1e-3}

# What each ends with, over five seeds, is in README.md beside this file.
RECIPES: dict[str, dict[str, GANRecipe]] = {
    "ring": {
        "healthy": GANRecipe("ring", **_HEALTHY),
        "collapsing": GANRecipe("ring", **_COLLAPSING),
        "momentum": GANRecipe("ring", **_MOMENTUM),
        "fast-generator": GANRecipe("ring", g_lr=1e-2, d_lr=1e-3),
        "strong-discriminator": GANRecipe("ring", g_lr=4e-3, d_lr=4e-3, d_steps=5),
    },
    "grid": {
        "healthy": GANRecipe("grid", steps=5000, **_HEALTHY),
        "collapsing": GANRecipe("grid", steps=4000, **_COLLAPSING),
        "momentum": GANRecipe("grid", steps=4000, **_MOMENTUM),
        "unregularised": GANRecipe("grid", steps=4000, g_lr=4e-3, d_lr=4e-3),
        "weak-penalty": GANRecipe("grid", steps=4000, **{**_HEALTHY, "r1": 0.02, "decay": 0.0}),
    },
    "mnist": {
        "healthy": GANRecipe("mnist", steps=5000, **_DIGITS),
        "collapsing": GANRecipe("mnist", steps=1500, **{**_DIGITS, "d_lr": 2e-5, "decay": 0.0}),
    },
    "stacked-mnist": {
        "healthy": GANRecipe("stacked-mnist", steps=5000, **_IMAGES),
        "collapsing": GANRecipe("stacked-mnist", steps=1500, **{**_IMAGES, "d_lr": 2e-5}),
    },
}


def _built(kind: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    known = list(inspect.signature(kind).parameters)
    if unknown := [name for name in arguments if name not in known]:
        raise InputError(f"{kind.__name__} takes {', '.join(known)}, not {unknown[0]!r}")
    return kind(**arguments)


def _perceptron(inputs: int, outputs: int, width: int, depth: int, activation: str) -> nn.Sequential:
    _positive(inputs=inputs, outputs=outputs, width=width, depth=depth)
    if activation not in ACTIVATIONS:
        raise InputError(f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    layers: list[nn.Module] = []
    for before in [inputs, *[width] * (depth - 1)]:
        layers += [nn.Linear(before, width), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _ladder(size: int) -> tuple[int, int]:
    """The smallest map's side (4 to 7), and how often it is doubled to ``size``."""
    start, doublings = size, 0
    while start > 7 and start % 2 == 0:
        start, doublings = start // 2, doublings + 1
    if not (4 <= start <= 7 and doublings):
        raise InputError(f"the size of a DCGAN's images is 4, 5, 6 or 7 times a power of two, such as 32, not {size}")
    return start, doublings


def _positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")


def _as_in_the_paper(module: nn.Module) -> None:
    """Weights from N(0, 0.02²), scales of batch norms from N(1, 0.02²)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
