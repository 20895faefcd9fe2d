"""k-means and principal components on tensors.

scikit-learn has both. Importing it takes 90 MiB, a tenth of what training a small GAN on a CPU does, and monitors need
them inside of trainings that must not notice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STARTS = 10
MORE = 10  # directions than asked for: the last ones of a random subspace are the least exact
MOST = 300  # passes over the points; a few dozen are usual


@dataclass
class Fit:
    """Centres ``[k, d]``, the nearest of them to each point ``[n]``, and the sum of squared distances to these."""

    centres: Tensor
    labels: Tensor
    inertia: float


def lloyd(points: Tensor, count: int, seed: int = 0) -> Fit:
    """The best of ten runs of Lloyd's algorithm from k-means++ centres (Arthur and Vassilvitskii, 2007).

    Args:
        points: ``[n, d]`` float64.
        count: centres, at most n. Centres without points stay where they began.
        seed: of the starting centres.
    """
    draw = torch.Generator().manual_seed(seed)
    return min((_descend(points, _spread(points, count, draw)) for _ in range(STARTS)), key=lambda fit: fit.inertia)


def principal_axes(points: Tensor, count: int, seed: int = 0) -> Tensor:
    """Directions ``[d, count]`` in which points ``[n, d]`` vary most."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.pca_lowrank(points, min(count + MORE, *points.shape), niter=6)[2][:, :count]


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances ``[n]`` to the nearest centre, and which it is; from differences, so that digits are kept."""
    distances, labels = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return distances.square(), labels


def _descend(points: Tensor, centres: Tensor) -> Fit:
    squares, labels = nearest(points, centres)
    for _ in range(MOST):
        sizes = torch.bincount(labels, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
        before = labels
        squares, labels = nearest(points, centres)
        if torch.equal(labels, before):
            break
    return Fit(centres, labels, float(squares.sum()))


def _spread(points: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """Points drawn one after the other, each with a probability that grows with its distance to the ones before."""
    chosen = [int(torch.randint(len(points), (1,), generator=draw))]
    squares, _ = nearest(points, points[chosen])
    while len(chosen) < count:
        weights = squares if float(squares.sum()) > 0 else torch.ones_like(squares)  # no further points are different
        chosen.append(int(torch.multinomial(weights, 1, generator=draw)))
        squares = torch.minimum(squares, nearest(points, points[chosen[-1:]])[0])
    return points[chosen].clone()
