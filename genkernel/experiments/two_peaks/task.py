"""Sequences with peaks: is the central place inside, the network that learns it, and what its kernel says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.experiments import domingos
from genkernel.experiments.fitting import accuracy, fit
from genkernel.experiments.side_by_side import SideBySide, squared, summed
from genkernel.experiments.two_peaks.setting import Case as Case
from genkernel.experiments.two_peaks.setting import Setting


def sequences(length: int, peaks: int, count: int, seed: int) -> Tensor:
    """Different sequences of zeros with so many ones, in random order ``[count, length]``; all where there are fewer.

    Raises:
        InputError: more peaks than places.
    """
    if not 0 < peaks <= length:
        raise InputError(f"{length} places have 1 to {length} peaks, not {peaks}")
    draw = torch.Generator().manual_seed(seed)
    total = comb(length, peaks)
    if total <= 4 * count:
        places = torch.tensor(list(combinations(range(length), peaks)))
        places = places[torch.randperm(total, generator=draw)[:count]]
    else:
        found: dict[tuple[int, ...], None] = {}
        while len(found) < count:
            found[tuple(sorted(torch.randperm(length, generator=draw)[:peaks].tolist()))] = None
        places = torch.tensor(list(found))
    return torch.zeros(len(places), length, dtype=torch.float64).scatter_(1, places, 1.0)


def inside(x: Tensor) -> Tensor:
    """Whether the last place of the first half is inside after filling ``[n]``: cumulative sum modulo 2 (eq. 10)."""
    return (x.cumsum(1)[:, x.shape[1] // 2 - 1].round() % 2).long()


def regions(x: Tensor) -> Tensor:
    """How many peaks are in the second half ``[n]``."""
    return x[:, x.shape[1] // 2 :].sum(1).round().long()


def shared(x: Tensor, other: Tensor) -> Tensor:
    """How many peaks two sequences have in common ``[n, m]``."""
    return (x @ other.T).round().long()


@dataclass(frozen=True)
class Data:
    """Seen and unseen sequences of one kind, and whether their centre is inside."""

    x: Tensor
    y: Tensor
    new: Tensor
    new_y: Tensor


def drawn(setting: Setting, peaks: int, samples: int, seed: int) -> Data:
    """Training sequences and others."""
    x = sequences(setting.length, peaks, samples + setting.unseen, seed)
    if len(x) <= samples:
        raise InputError(f"{setting.length} places with {peaks} peaks leave no unseen sequences beside {samples}")
    return Data(x[:samples], inside(x[:samples]), x[samples:], inside(x[samples:]))


def network(inputs: int, width: int, seed: int) -> nn.Sequential:
    """The network of the points on the plane, on sequences."""
    return domingos.network(width, nn.GELU, seed, inputs)


def train_together(
    starts: Sequence[nn.Module],
    data: Sequence[Data],
    optimizer: Callable[..., torch.optim.Optimizer],
    rate: float,
    steps: int,
) -> tuple[list[nn.Module], list[dict[str, float]]]:
    """Networks trained side by side, each on its own data, all samples in every step.

    Returns:
        The networks; and accuracies on ``seen`` and ``unseen`` sequences, and the ``loss``, of each.
    """
    stack = SideBySide(starts)
    x, y = (torch.stack([v for v in each], 1) for each in ([d.x for d in data], [2.0 * d.y - 1 for d in data]))
    fit(stack, x, y, summed(squared), optimizer(stack.parameters(), lr=rate), steps)
    nets = stack.networks()
    with torch.no_grad():
        losses = squared(stack(x), y).mean(0)
    return nets, [
        {"seen": accuracy(net, d.x, d.y), "unseen": accuracy(net, d.new, d.new_y), "loss": float(loss)}
        for net, d, loss in zip(nets, data, losses, strict=True)
    ]


def kernel(net: nn.Module, x: Tensor, y: Tensor | None = None) -> Any:
    """The tangent kernel, exact."""
    import genkernel as gk

    return gk.kernel(net, x, y, cotangents=gk.total(), dtype="float64", progress=False, distributed=False)


def nearest_share(cosines: Tensor, x: Tensor, peaks: int, k: int | None = None) -> tuple[float, float]:
    """How many of the k nearest have all peaks but one in common, and how many of all others do.

    Args:
        cosines: normalised kernel ``[n, n]``.
        x: sequences ``[n, length]`` with so many peaks.
        k: by default, for each sequence, the number of those that do: 1 is then a perfect separation.
    """
    off = ~torch.eye(len(x), dtype=torch.bool)
    wanted = (shared(x, x) == peaks - 1) & off
    order = torch.where(off, cosines, -torch.inf).argsort(dim=1, descending=True)
    hit = wanted.gather(1, order)
    count = wanted.sum(1) if k is None else torch.full((len(x),), k)
    among = torch.arange(len(x))[None, :] < count[:, None]
    rows = count > 0
    share = (hit & among).sum(1)[rows] / count[rows]
    return float(share.double().mean()), float(wanted.sum()) / float(off.sum())


def first_neighbour_accuracy(similarity: Tensor, y: Tensor, new_y: Tensor) -> float:
    """Of the label of the most similar training sequence; ties count by their share of right labels.

    Args:
        similarity: of unseen with seen sequences ``[m, n]``.
    """
    best = similarity >= similarity.max(1, keepdim=True).values - 1e-9
    right = (y[None, :] == new_y[:, None]) & best
    return float((right.sum(1) / best.sum(1)).double().mean())


def regression_accuracy(K: Tensor, cross: Tensor, y: Tensor, new_y: Tensor, ridge: float = 1e-6) -> float:
    """Of kernel regression to -1 and 1 from the training sequences, with a ridge relative to the mean of k(x, x)."""
    signs = 2.0 * y.double() - 1
    weights = torch.linalg.solve(K + ridge * K.diagonal().mean() * torch.eye(len(K), dtype=K.dtype), signs)
    return float((((cross @ weights) > 0).long() == new_y).double().mean())


def by_pair(cosines: Tensor, x: Tensor) -> dict[str, list[float]]:
    """Mean normalised kernel of pairs by peaks in common, for sequences of one label and of two."""
    common, same = shared(x, x), inside(x)[:, None] == inside(x)[None, :]
    off = ~torch.eye(len(x), dtype=torch.bool)
    found: dict[str, list[float]] = {}
    for name, of in (("same label", same), ("other label", ~same)):
        groups = [cosines[(common == k) & of & off] for k in range(int(x[0].sum()))]
        found[name] = [float(g.mean()) if len(g) else float("nan") for g in groups]
    return found


# ---------------------------------------------------------------------------------- Adam, recorded


@dataclass(frozen=True)
class Parts:
    """An Adam training, taken apart.

    Attributes:
        gap: what the parts miss, relative to the largest change of an output.
        seen, unseen: accuracies of the network at the end.
        margin: mean over unseen sequences of their sign times the contributions of training sequences with 0, 1, …
            peaks in common, then times the output at the start ``[peaks + 1]``.
        each: the same per training sequence ``[peaks]``, for training sequences of the same label and of the other
            ``[2, peaks]``.
        alone: accuracy of the sum of contributions with 0, 1, … peaks in common alone ``[peaks]``.
        sharing, none: accuracy from all that share a peak, and from all others (without the start).
        counts: mean number of training sequences with so many peaks in common ``[peaks]``.
    """

    gap: float
    seen: float
    unseen: float
    margin: np.ndarray
    each: np.ndarray
    alone: np.ndarray
    sharing: float
    none: float
    counts: np.ndarray


def recorded(setting: Setting, peaks: int, samples: int, seed: int) -> Parts:
    """Train with Adam, all sequences in every step, and follow what each of them does to unseen ones.

    Which sequences share peaks is another matter for every query, so contributions are wanted sequence by sequence: the
    training is taped, and replayed with a row per query.
    """
    from tempfile import TemporaryDirectory

    from genkernel.paths.replay import replay
    from genkernel.paths.tape import tape

    data = drawn(setting, peaks, samples, seed)
    followed, answers = data.new[: setting.followed], 2.0 * data.new_y[: setting.followed] - 1
    net = network(setting.length, setting.width, seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=setting.adam_rate)
    ids, targets = torch.arange(len(data.x)), 2.0 * data.y[:, None] - 1

    def batch_of(chosen: Tensor) -> tuple[Tensor, Tensor]:
        return data.x[chosen], targets[chosen]

    def losses(module: nn.Module, batch: Any) -> Tensor:
        return (module(batch[0]) - batch[1]).square().sum(1)

    with TemporaryDirectory() as folder:
        with tape(net, optimizer, folder, steps=setting.recorded_steps) as run:
            for _ in range(setting.recorded_steps):
                run.batch(ids)
                optimizer.zero_grad()
                losses(net, batch_of(ids)).mean().backward()
                optimizer.step()
        found = replay(folder, net, batch_of, losses, queries=followed, rule=setting.rule, progress=False)
    names, per_sample = found.per_sample()
    whole = found.contributions(groups=lambda ids: np.zeros(len(ids), dtype=int))
    order = torch.from_numpy(np.argsort(names))
    parts = torch.from_numpy(per_sample)[order, :, 0] * answers  # [n, m]: towards the right sign
    common = shared(data.x, followed)
    same = data.y[:, None] == data.new_y[None, : setting.followed]
    sums = torch.stack([(parts * (common == k)).sum(0) for k in range(peaks)])  # [peaks, m]
    each = [
        [float(parts[(common == k) & of].mean()) if bool(((common == k) & of).any()) else float("nan")
         for k in range(peaks)] for of in (same, ~same)
    ]  # fmt: skip
    start = whole.initial[:, 0] * answers
    return Parts(
        gap=whole.gap_rel,
        seen=accuracy(net, data.x, data.y),
        unseen=accuracy(net, data.new, data.new_y),
        margin=torch.cat([sums.mean(1), start.mean()[None]]).numpy(),
        each=np.array(each),
        alone=(sums > 0).double().mean(1).numpy(),
        sharing=float((sums[1:].sum(0) > 0).double().mean()),
        none=float((sums[0] > 0).double().mean()),
        counts=np.array([float((common == k).sum(0).double().mean()) for k in range(peaks)]),
    )
