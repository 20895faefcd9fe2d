"""What a case of the zoo is, and the pieces that cases are made of."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.tangent import TangentModel

BatchMaker = Callable[[int, int], Any]


@dataclass(frozen=True)
class Case:
    """A model, how it is called, and batches for it.

    Attributes:
        name, trap: what it is, and what an engine gets wrong about it.
        module: builds the module.
        call: how it is called on a batch; None for the default.
        batches: ``batches(n, seed)`` is a pytree of n samples.
        params: the parameter filter of the TangentModel.
        common: a layer or network in everyday use: it must need no generic path.
    """

    name: str
    trap: str
    module: Callable[[], nn.Module]
    call: Callable[..., Tensor] | None
    batches: BatchMaker
    params: Any = None
    common: bool = False

    def model(self) -> TangentModel:
        return TangentModel(self.module(), self.call, params=self.params)

    def batch(self, n: int, seed: int = 0) -> Any:
        return self.batches(n, seed)

    def __repr__(self) -> str:
        return self.name


CASES: list[Case] = []


def case(
    trap: str,
    batch: BatchMaker,
    *,
    name: str | None = None,
    call: Callable[..., Tensor] | None = None,
    params: Any = None,
    common: bool = False,
    scramble: bool = True,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a function that builds a module. ``scramble`` moves all parameters off ones and zeros."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        label = name or build.__name__

        def make() -> nn.Module:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # the hooks of the old spectral and weight norm
                torch.manual_seed(zlib.crc32(label.encode()))
                module = build().double().eval()
                if scramble:
                    _scramble(module)
            return module

        assert label not in {c.name for c in CASES}, label
        CASES.append(Case(label, trap, make, call, batch, params, common))
        return build

    return register


def _scramble(module: nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
        for name, b in module.named_buffers():
            if name.endswith("running_mean"):
                b.normal_()
            elif name.endswith("running_var"):
                b.uniform_(0.5, 2.0)


class Net(nn.Module):
    """A module whose forward is a function of it: ``Net(lambda net, x: net.a(x) * net.b, a=…, b=…)``."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.function(self, *args, **kwargs)


def P(*shape: int) -> nn.Parameter:
    """A random parameter."""
    return nn.Parameter(torch.randn(shape))


# batches ------------------------------------------------------------------------------------------


def floats(*shape: int) -> BatchMaker:
    def batch(n: int, seed: int) -> Tensor:
        return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return batch


def integers(high: int, *shape: int) -> BatchMaker:
    def batch(n: int, seed: int) -> Tensor:
        return torch.randint(0, high, (n, *shape), generator=torch.Generator().manual_seed(seed + 1))

    return batch


def both(*makers: BatchMaker) -> BatchMaker:
    return lambda n, seed: tuple(maker(n, seed + 100 * i) for i, maker in enumerate(makers))


def named(**makers: BatchMaker) -> BatchMaker:
    return lambda n, seed: {name: maker(n, seed + 100 * i) for i, (name, maker) in enumerate(makers.items())}
