"""What the machine could do: its measured rates, and the work a kernel cannot avoid.

    ideal seconds = (forward + backward + per-sample gradients) / float32 rate + products / rate of their dtype

where the float32 rate is the better of large matrix products and of a convolution (libraries
differ), and products of gradients go at the rate of matrix products. A contender's fraction of
the roofline is ideal / measured.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from genkernel.bench.workloads import Problem
from genkernel.tangent.precision import full_precision

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass
class Rates:
    """FLOP/s: matrix products in two dtypes, and a 3×3 convolution's forward and backward in float32."""

    float32: float
    float64: float
    convolution: float


def rates(device: torch.device, size: int = 2048, repeats: int = 15) -> Rates:
    """The best of a few repeats; TF32 is off.

    Args:
        size: of the square matrices.
    """
    with full_precision():
        products = {}
        for dtype in (torch.float32, torch.float64):
            a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
            out = torch.empty_like(a)
            products[dtype] = 2 * size**3 / _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, repeats)
        n, channels, side = 32, 128, max(4, size // 128)
        x = torch.randn(n, channels, side, side, device=device, requires_grad=True)
        weight = torch.randn(channels, channels, 3, 3, device=device, requires_grad=True)
        flops = 3 * 2 * n * side**2 * 9 * channels**2  # forward, and one product each for input and weight

        def convolve() -> None:
            torch.autograd.grad(nn.functional.conv2d(x, weight, padding=1).sum(), [x, weight])

        return Rates(products[torch.float32], products[torch.float64], flops / _best(convolve, device, repeats))


def _best(run: Any, device: torch.device, repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@dataclass
class Work:
    """FLOPs of one kernel: of the network, and of the products of per-sample gradients.

    Per weight with T positions, a inputs and b outputs the cheaper way counts: per-sample gradients
    (2nTab per cotangent) and a symmetric product (n(n+1)ab), or (AAᵀ)∘(BBᵀ), whose n(n+1)T²(a + b)
    are products.

    Attributes:
        forward: one forward pass over all samples.
        backward: q backward passes to the inputs of every layer, without weight gradients.
        gradients: per-sample weight gradients, where they are the cheaper way.
        products: from there to K.
        step: a forward and q plain backward passes with weight gradients.
    """

    forward: int
    backward: int
    gradients: int
    products: int
    step: int

    def ideal_seconds(self, found: Rates, accumulate: str) -> float:
        rate = max(found.float32, found.convolution)
        products = found.float64 if accumulate == "float64" else found.float32
        return (self.forward + self.backward + self.gradients) / rate + self.products / products

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def work(problem: Problem) -> Work:
    """Count the FLOPs of one kernel of ``problem``, on one sample; they grow with n as the formulas say."""
    n, q = problem.n, len(problem.vectors)
    one = _one_sample(problem)
    positions: dict[str, list[tuple[int, int, int]]] = {}  # weight → (T, a, b) of every use
    handles = [
        module.register_forward_hook(_recorder(positions, f"{name}.weight" if name else "weight"))
        for name, module in problem.module.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED))
    ]
    try:
        with FlopCounterMode(display=False) as forward:
            scalars = problem.scalars(problem.call(problem.module, one))[0]
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(scalars[0], list(problem.parameters.values()))
    finally:
        for handle in handles:
            handle.remove()
    weight_gradients = sum(2 * t * a * b for uses in positions.values() for t, a, b in uses)
    gradients = products = 0
    for name, parameter in problem.parameters.items():
        uses = positions.get(name, [])
        formed, product = q * sum(2 * n * t * a * b for t, a, b in uses), q * n * (n + 1) * parameter.numel()
        if uses:
            t, a, b = sum(use[0] for use in uses), uses[0][1], uses[0][2]
            structured = n * (n + 1) * t * t * (a + q * b)
            if structured < formed + product:
                formed, product = 0, structured
        gradients += formed
        products += product
    before, after = forward.get_total_flops(), backward.get_total_flops()
    inputs_only = n * q * max(0, after - weight_gradients)
    return Work(n * before, inputs_only, gradients, products, n * (before + q * after))


def _one_sample(problem: Problem) -> Any:
    from genkernel.tangent import batches

    return batches.copy(batches.take(problem.batch, slice(0, 1)))


def _recorder(positions: dict[str, list[tuple[int, int, int]]], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        x, weight = args[0], module.weight
        assert isinstance(weight, Tensor)
        if isinstance(module, nn.Linear):
            t, a, b = x.numel() // x.shape[-1], weight.shape[1], weight.shape[0]
        elif isinstance(module, TRANSPOSED):  # the roles of input and output are swapped
            t, a, b = x[0, 0].numel(), weight[0].numel(), weight.shape[0]
        else:
            t, a, b = out[0, 0].numel(), weight[0].numel(), weight.shape[0]
        positions.setdefault(name, []).append((t, a, b))

    return hook
