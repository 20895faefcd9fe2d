"""A DDPM's training, continued from one state under several weightings of its noise levels, and two forecasts of it.

The levels are the buckets of :class:`genkernel.diffusion.contributions.NoiseBuckets`; a weighting multiplies the loss
of a sample by the number of its bucket. All continuations see the same batches and the same noise. Forecasts are affine
in the weights, ΔL ≈ M w + c with ΔL the changes of the levels' losses on held-out images:

- *interference*: M = -Σ_k γ_k ∇L_t · P ∇L_b p_b at the state, with AdamW's P and the share p_b of the samples;
- *contributions*: M = what the samples of every bucket did along one recorded continuation with all weights 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.diffusion.contributions import NoiseBuckets
    from genkernel.models.ddpm import DDPMTraining
    from genkernel.paths import PathDecomposition

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """ΔL ≈ effect · w + rest.

    Attributes:
        effect: what a bucket at weight 1 does to the loss of a level ``[levels, buckets]``.
        rest: what no weight changes (weight decay, momentum from before) ``[levels]``.
    """

    effect: Array
    rest: Array

    def of(self, weights: Array) -> Array:
        """Changes ``[W, levels]`` under weightings ``[W, buckets]``."""
        found: Array = weights @ self.effect.T + self.rest
        return found


def weightings(levels: NoiseBuckets, boosted: tuple[int, ...], without: tuple[int, ...]) -> dict[str, Array]:
    """Name → weights of the buckets ``[B]``, of mean one.

    Args:
        levels: the buckets.
        boosted, without: buckets that alone count four times as much, or not at all.
    """
    from genkernel.diffusion.weighting import MIN_SNR_GAMMA, min_snr, p2

    count = levels.count
    t = torch.from_numpy(levels.centres)
    ramp = np.linspace(0.25, 1.75, count)
    found = {
        "uniform": np.ones(count),
        f"min-SNR-{MIN_SNR_GAMMA:g}": min_snr(levels.schedule, t),
        "P2": p2(levels.schedule, t),
        "more on low noise": ramp[::-1],
        "more on high noise": ramp,
    }
    for factor, numbers, words in ((4.0, boosted, "4 × level"), (0.0, without, "without level")):
        for b in numbers:
            if not 0 <= b < count:
                raise InputError(f"levels are numbered 0 to {count - 1}, not {b}")
            weights = np.ones(count)
            weights[b] = factor
            found[f"{words} {b}"] = weights
    return {name: weights / weights.mean() for name, weights in found.items()}


class State:
    """Everything a training goes on from, to be put back as often as is needed.

    Args:
        training: as it is now.
    """

    def __init__(self, training: DDPMTraining):
        self._training = training
        self._held = {name: copy.deepcopy(part.state_dict()) for name, part in training.parts.items()}

    def restore(self) -> None:
        """Put the training back."""
        for name, part in self._training.parts.items():
            part.load_state_dict(copy.deepcopy(self._held[name]))  # optimizers go on in the tensors they are given


class HeldOut:
    """Noisy held-out images by level, at which losses are followed.

    Args:
        training: whose noise schedule they follow.
        images: in [0, 1] ``[n, C, H, W]``, used in turn.
        levels: the buckets.
        per_level: noisy images of each.
        seed: of their noise and times.

    Attributes:
        batch: x, t and target, each ``[levels, per_level, …]``.
    """

    def __init__(self, training: DDPMTraining, images: Tensor, levels: NoiseBuckets, per_level: int, seed: int):
        draw = torch.Generator().manual_seed(seed)
        shape = (levels.count, per_level)
        low, high = (torch.from_numpy(edge.copy())[:, None] for edge in (levels.edges[:-1], levels.edges[1:]))
        share = (torch.arange(per_level) + 0.5) / per_level
        first, last = levels.schedule.time_range
        t = (low + share * (high - low)).round().clamp(first, last).long()
        which = torch.randint(len(images), shape, generator=draw)
        noise = torch.randn((*shape, *images.shape[1:]), generator=draw)
        x0 = (images * 2 - 1)[which.flatten()]
        noisy = training.scheduler.add_noise(x0, noise.flatten(0, 1), t.flatten())
        self.batch = {"x": noisy.view_as(noise), "t": t, "target": noise}

    def losses(self, unet: nn.Module) -> Array:
        """Mean loss of every level ``[levels]`` float64."""
        training = unet.training
        unet.eval()
        try:
            with torch.no_grad():
                found: Array = level_losses(unet, self.batch).double().numpy()
        finally:
            unet.train(training)
        return found


def level_losses(unet: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean loss of every level ``[levels]``, for ``query_call=``."""
    from genkernel.models.ddpm import ddpm_losses

    levels, each = batch["t"].shape
    found: Tensor = ddpm_losses(unet, {name: part.flatten(0, 1) for name, part in batch.items()})
    return found.view(levels, each).mean(1)


def continued(
    training: DDPMTraining, first: int, steps: int, levels: NoiseBuckets, weights: Array,
    tick: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Go on under a weighting ``[B]`` with the batches of steps ``first`` and later."""
    of_bucket = torch.from_numpy(weights).float()
    for step in range(first, first + steps):
        batch = training.batch(step)
        training.descend(batch, of_bucket[levels.of(batch["t"])])
        tick()


@dataclass
class Baseline:
    """The recorded continuation with all weights 1.

    Attributes:
        parts: contributions of the buckets to the losses of the levels.
        rates: learning rates of its steps.
        clips: factors of clipping of its steps.
        mass: share of the samples in every bucket ``[B]``.
    """

    parts: PathDecomposition
    rates: list[float]
    clips: list[float]
    mass: Array


def recorded(
    training: DDPMTraining, first: int, steps: int, levels: NoiseBuckets, held_out: HeldOut,
    tick: Callable[[], None] = lambda: None,
) -> Baseline:  # fmt: skip
    """Go on with all weights 1, recorded by bucket."""
    from genkernel.models.ddpm import ddpm_losses
    from genkernel.paths import record

    rates, clips = [], []
    counts = np.zeros(levels.count)
    with record(
        training.unet, training.optimizer, ddpm_losses, queries=held_out.batch, query_call=level_losses,
        groups=levels.groups(), rule="adaptive", windows=1, verbose=False,
    ) as path:  # fmt: skip
        for step in range(first, first + steps):
            batch = training.batch(step)
            path.batch(batch, ids=batch["ids"])
            rates.append(float(training.optimizer.param_groups[0]["lr"]))  # the schedule moves on in descend
            clips.append(training.descend(batch).clip)
            counts += np.bincount(levels.of(batch["t"]).numpy(), minlength=levels.count)
            tick()
    return Baseline(path.contributions(), rates, clips, counts / counts.sum())


def by_contributions(baseline: Baseline, count: int) -> Forecast:
    """The forecast that a recorded continuation makes for other weights: its buckets' parts, reweighted."""
    parts = baseline.parts
    values = parts.values.numpy()
    effect, rest = np.zeros((values.shape[1], count)), np.zeros(values.shape[1])
    for source, is_data, value in zip(parts.sources, parts.data, values, strict=True):
        if is_data:
            effect[:, int(source)] = value
        else:
            rest += value
    return Forecast(effect, rest)


def by_interference(training: DDPMTraining, held_out: HeldOut, seen: HeldOut, baseline: Baseline) -> Forecast:
    """The first-order forecast at the present state.

    Args:
        training: at the state.
        held_out: whose losses are forecast.
        seen: noisy training images by bucket, whose gradients stand for those of the coming batches.
        baseline: for learning rates, clipping and the shares of the buckets.
    """
    from genkernel.tangent import Preconditioner
    from genkernel.tangent.model import as_tangent_model

    model = as_tangent_model(training.unet)
    P = Preconditioner.from_optimizer(training.optimizer, model, learning_rates="exclude")
    of_queries = _gradients(training.unet, held_out.batch)
    of_buckets = _gradients(training.unet, seen.batch)
    shapes = {name: p.shape for name, p in training.unet.named_parameters()}
    rows = {
        name: part.view(len(of_buckets), *shape)
        for (name, shape), part in zip(
            shapes.items(), of_buckets.split([s.numel() for s in shapes.values()], 1), strict=True
        )
    }
    moved = P.apply(rows)
    pulled = torch.cat([moved[name].flatten(1) for name in shapes], 1).double()
    products = (of_queries.double() @ pulled.T).numpy()
    total = float(np.dot(baseline.rates, baseline.clips))
    theta = torch.cat([p.detach().flatten() for p in training.unet.parameters()]).double()
    decay = float(training.optimizer.param_groups[0]["weight_decay"]) * sum(baseline.rates)
    return Forecast(-total * products * baseline.mass, -decay * (of_queries.double() @ theta).numpy())


def _gradients(unet: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Of every level's mean loss ``[levels, P]``."""
    parameters = list(unet.parameters())
    found = []
    for level in range(len(batch["t"])):
        loss = level_losses(unet, {name: part[level : level + 1] for name, part in batch.items()})[0]
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


def blobs(n: int, size: int, seed: int) -> Tensor:
    """Made-up images ``[n, 1, size, size]`` in [0, 1]: one to three soft spots each."""
    draw = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    centre = 1.4 * torch.rand(n, 3, 2, generator=draw) - 0.7
    width = 0.12 + 0.18 * torch.rand(n, 3, generator=draw)
    there = torch.arange(3) < torch.randint(1, 4, (n, 1), generator=draw)
    across = (axis - centre[..., :1]).square()[..., None, :]
    down = (axis - centre[..., 1:]).square()[..., :, None]
    spots = torch.exp(-(across + down) / (2 * width.square())[..., None, None]) * there[..., None, None]
    return spots.sum(1, keepdim=True).clamp(0, 1)
