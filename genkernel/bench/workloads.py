"""The workloads: a network, a batch, and the cotangents of one kernel, the same ones every time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.bench import networks
from genkernel.errors import InputError
from genkernel.tangent import batches
from genkernel.tangent.cotangents import Cotangents, exact_trace, probes
from genkernel.tangent.model import Call

Sizes = Mapping[str, Any]


@dataclass
class Problem:
    """One kernel to compute: K = scale · Σ_k ⟨J(x_i)ᵀ v_k, J(x_j)ᵀ v_k⟩ over all parameters.

    Attributes:
        module: the network in evaluation mode, float32.
        call: ``call(module, batch) -> Tensor[n, *out]``.
        batch: n samples, a tensor or a dict of tensors.
        cotangents: genkernel's name for the vectors.
        vectors: ``[q, *out]``, the same for all samples.
    """

    module: nn.Module
    call: Call
    batch: Any
    cotangents: Cotangents
    vectors: Tensor
    scale: float

    @property
    def n(self) -> int:
        return batches.size(self.batch)

    @property
    def device(self) -> torch.device:
        return self.vectors.device

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    @property
    def numel(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    def scalars(self, outputs: Tensor) -> Tensor:
        """⟨v_k, f(x_i)⟩ as ``[n, q]`` from outputs ``[n, *out]``."""
        return outputs.flatten(1) @ self.vectors.flatten(1).T


@dataclass(frozen=True)
class Workload:
    """How to make a :class:`Problem`, at its full and at its quick size."""

    name: str
    title: str
    cotangents: str
    build: Callable[..., tuple[nn.Module, Call, Any, Cotangents]]
    full: Sizes
    quick: Sizes

    def sizes(self, quick: bool = False) -> dict[str, Any]:
        return dict(self.quick if quick else self.full)

    def problem(self, device: str | torch.device = "cpu", seed: int = 0, **sizes: Any) -> Problem:
        """The problem at the given sizes; the user's random state is left alone.

        Args:
            sizes: the arguments of the workload's builder; the full ones by default.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, call, batch, cotangents = self.build(**{**self.full, **sizes})
        module.eval().to(device)
        batch = batches.move(batch, torch.device(device))
        with torch.no_grad():
            out = call(module, batches.copy(batches.take(batch, slice(0, 1))))
        shape = tuple(out.shape[1:])
        vectors = torch.stack([v[0] for v in cotangents.vectors(out, batch)])
        return Problem(module, call, batch, cotangents, vectors, cotangents.scale(shape))


def _classifier(n: int, side: int, channels: int, width: int, outputs: int) -> Any:
    net = networks.papers_cnn(side, channels, width, outputs)
    return net, networks.call_plain, torch.rand(n, channels, side, side), exact_trace()


def _resnet(n: int, side: int, width: int) -> Any:
    net, x = networks.resnet18(width), torch.randn(n, 3, side, side)
    networks.settle(net, x)
    return net, networks.call_plain, x, probes(1, seed=0)


def _generator(n: int, width: int) -> Any:
    net, z = networks.dcgan_generator(width=width), torch.randn(n, 100, 1, 1)
    networks.settle(net, z)
    return net, networks.call_plain, z, probes(1, seed=0)


def _unet(n: int, side: int, widths: tuple[int, ...], layers: int) -> Any:
    batch = {"x": torch.randn(n, 3, side, side), "t": torch.randint(0, 1000, (n,))}
    return networks.ddpm_unet(side, tuple(widths), layers), networks.call_denoiser, batch, probes(1, seed=0)


def _transformer(n: int, side: int, depth: int, heads: int, head_width: int) -> Any:
    batch = {
        "x": torch.randn(n, 4, side, side),
        "t": torch.randint(0, 1000, (n,)),
        "y": torch.randint(0, 1000, (n,)),
    }
    return networks.dit(side, depth, heads, head_width), networks.call_denoiser, batch, probes(1, seed=0)


_CNN = {"side": 28, "channels": 1, "width": 16, "outputs": 10}
_SMALL_CNN = {"side": 12, "channels": 1, "width": 4, "outputs": 3}
_ONE = "one Rademacher probe"

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "W1", "the papers' CNN on MNIST-sized images", "exact trace over the outputs", _classifier,
            full={"n": 100, **_CNN}, quick={"n": 6, **_SMALL_CNN},
        ),
        Workload(
            "W1-500", "the papers' CNN on MNIST-sized images", "exact trace over the outputs", _classifier,
            full={"n": 500, **_CNN}, quick={"n": 9, **_SMALL_CNN},
        ),
        Workload(
            "W2", "ResNet-18, CIFAR style", _ONE, _resnet,
            full={"n": 64, "side": 32, "width": 64}, quick={"n": 4, "side": 8, "width": 4},
        ),
        Workload(
            "W3", "DCGAN-64 generator with batch norm", _ONE, _generator,
            full={"n": 64, "width": 64}, quick={"n": 4, "width": 2},
        ),
        Workload(
            "W4", "the UNet of google/ddpm-cifar10-32, random weights, on (x_t, t)", _ONE, _unet,
            full={"n": 32, "side": 32, "widths": (128, 256, 256, 256), "layers": 2},
            quick={"n": 3, "side": 16, "widths": (32, 32, 32, 32), "layers": 1},
        ),
        Workload(
            "W5", "a transformer of the size of DiT-S/2 on (x_t, t, class)", _ONE, _transformer,
            full={"n": 32, "side": 32, "depth": 12, "heads": 6, "head_width": 64},
            quick={"n": 4, "side": 8, "depth": 1, "heads": 2, "head_width": 8},
        ),
    )
}  # fmt: skip


def choose(names: Iterable[str] | None = None) -> list[Workload]:
    """Workloads by name; ``W1`` stands for itself and ``W1-500``; all of them for None.

    Raises:
        InputError: a name is unknown.
    """
    if names is None:
        return list(WORKLOADS.values())
    chosen: dict[str, Workload] = {}
    for name in names:
        found = {key: w for key, w in WORKLOADS.items() if key == name or key.startswith(f"{name}-")}
        if not found:
            raise InputError(f"there is no workload {name!r}: choose from {', '.join(WORKLOADS)}")
        chosen |= found
    return list(chosen.values())
