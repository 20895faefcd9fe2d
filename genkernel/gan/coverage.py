"""What the samples cover: the plain question that no kernel answers.

Modes that are known are counted by distance, classes by a classifier; samples of which neither is known are compared
with real ones by their neighbours, their spread and their first two moments. None of these looks at the network.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError, MissingError, NonFiniteError
from genkernel.gan.answers import Features, answers
from genkernel.models.coverage import FAIR
from genkernel.spectra.effective_number import entropy_number

Array = NDArray[np.float64]

_ENTRIES = 2**22  # of distances that are held at a time
_NAMES = {"generated": "the generated samples", "real": "the real samples", "modes": "the modes"}


@dataclass
class ModeCoverage:
    """Samples counted by the mode that they belong to.

    A sample counts for its nearest mode (or most probable class) if it is close enough (or sure enough): these are
    the high-quality samples, and the occupancy is their distribution.

    Attributes:
        counts: ``[M]`` high-quality samples of each mode.
        occupancy: ``[M]`` their shares, which sum to 1; NaN without any high-quality sample.
        modes: M.
        covered: number of modes with at least ``at_least`` high-quality samples.
        high_quality: share of all samples that are of high quality.
        entropy_number: e^{H(occupancy)}, the effective number of modes; 0 without any high-quality sample.
        nearest_number: the same of all samples, each counted for its nearest mode (or most probable class) however far
            it is: a generator that misses all modes may still spread over them.
        kl: KL(occupancy ‖ weights) in nats, weights being uniform unless given.
        js: Jensen-Shannon divergence of the two in nats, at most log 2.
        at_least: how many samples make a mode covered.
        samples: number of all samples.
        rule: what high quality means here, in words.
    """

    counts: NDArray[np.int64]
    occupancy: Array
    covered: int
    high_quality: float
    entropy_number: float
    nearest_number: float
    kl: float
    js: float
    at_least: int
    samples: int
    rule: str

    @property
    def modes(self) -> int:
        return len(self.counts)


@dataclass
class Neighbours:
    """Comparison of two sets of features by balls around each point that reach to its k-th neighbour.

    Attributes:
        precision: share of generated samples within a ball of a real one (Kynkäänniemi et al. 2019).
        recall: share of real samples within a ball of a generated one (the same).
        density: mean number of real balls that hold a generated sample, over k; may exceed 1 (Naeem et al. 2020).
        coverage: share of real balls with a generated sample in them (the same).
        k: the neighbour that balls reach to.
        real, generated: numbers of samples. Figures are comparable at equal numbers and equal k only.
        recall_stderr: standard error of the recall over draws of real samples.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    real: int
    generated: int
    recall_stderr: float = math.nan


@dataclass
class Diversity:
    """Mean distances between samples.

    Attributes:
        distance: mean Euclidean distance over pairs of generated samples.
        real: the same for real ones; NaN without any.
        relative: distance/real, which is 1 for samples as diverse as the data.
        relative_stderr: its standard error over draws of both kinds of samples.
    """

    distance: float
    real: float
    relative: float
    relative_stderr: float = math.nan


def mode_coverage(
    samples: Tensor,
    modes: Tensor,
    std: float | Tensor,
    *,
    sigmas: float = 3.0,
    at_least: int | None = 1,
    weights: Any = None,
) -> ModeCoverage:
    """Counts at known isotropic modes (Srivastava et al. 2017: three standard deviations, one sample).

    Args:
        samples: ``[n, *sample]``.
        modes: their centres ``[M, *sample]``.
        std: standard deviation of the data around a mode, in each dimension: one number or ``[M]``.
        sigmas: a sample within this many of them is of high quality. (In d dimensions the data themselves lie about
            √d away.)
        at_least: high-quality samples that make a mode covered; None for a tenth of the fair share of all samples, so
            that single strays do not count.
        weights: ``[M]`` that the occupancy is compared with; equal by default.

    Raises:
        InputError: shapes do not fit, or a number that has to be positive is not.
        NonFiniteError: samples or modes hold NaN or infinity.
    """
    points, centres = _features(samples, "generated", fewest=1), _features(modes, "modes", fewest=1)
    if points.shape[1] != centres.shape[1]:
        raise InputError(f"the samples have {points.shape[1]} dimensions, the modes {centres.shape[1]}")
    widths = torch.as_tensor(std, dtype=torch.float64).detach().cpu().numpy()
    if widths.shape not in ((), (len(centres),)) or not (np.isfinite(widths) & (widths > 0)).all():
        raise InputError(f"std is one positive number, or {len(centres)}, one for each mode")
    if not (math.isfinite(sigmas) and sigmas > 0):
        raise InputError(f"sigmas is a positive number, not {sigmas!r}")
    distances = _distances(torch.from_numpy(points), torch.from_numpy(centres)).numpy()
    nearest = distances.argmin(1)
    close = distances.min(1) <= sigmas * np.broadcast_to(widths, len(centres))[nearest]
    rule = f"within {sigmas:g} standard deviations of the nearest mode"
    return _counted(nearest, close, len(centres), at_least, weights, rule)


def class_coverage(
    images: Tensor,
    classifier: Features,
    *,
    threshold: float = 0.5,
    at_least: int | None = 1,
    weights: Any = None,
    batch_size: int = 256,
) -> ModeCoverage:
    """Counts by a classifier.

    Args:
        images: ``[n, *sample]``.
        classifier: ``classifier(images) -> logits [n, M]``; a module is run in evaluation mode and left in its own.
        threshold: probability (softmax of the logits) from which an image counts for its class. At the default the
            class is more probable than all others together.
        at_least: such images that make a class covered; None for a tenth of the fair share of all images.
        weights: ``[M]`` that the occupancy is compared with, such as the data's classes; equal by default.

    Raises:
        InputError: the classifier does not answer with one row of at least two logits per image, or a number is
            out of range.
        NonFiniteError: a logit is NaN or infinite.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"the threshold is a probability below 1, not {threshold!r}")
    if not isinstance(images, Tensor) or not images.dim() or not len(images):
        raise InputError("a classifier counts at least one image [n, *sample]")
    probabilities = torch.softmax(_logits(images, classifier, batch_size), 1).numpy()
    sure = probabilities.max(1) >= threshold
    rule = f"a probability of at least {threshold:g} for the most probable class"
    return _counted(probabilities.argmax(1), sure, probabilities.shape[1], at_least, weights, rule)


def neighbours(real: Tensor, generated: Tensor, k: int = 5) -> Neighbours:
    """Precision, recall, density and coverage, by the ``prdc`` package of Naeem et al.

    It holds all distances between the samples at once: 1.6 GB for 10,000 of each.

    Args:
        real, generated: features ``[n, f]`` and ``[m, f]`` (or samples, which are flattened).
        k: the neighbour that balls reach to.

    Raises:
        MissingError: the package is not installed.
        InputError: too few samples for k, or features of different dimensions.
        NonFiniteError: a feature is NaN or infinite.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k is a whole number from 1 on, not {k!r}")
    one, other = _pair(real, generated, "real", "generated", fewest=k + 2)
    try:
        package = importlib.import_module("prdc")
    except ImportError:
        raise MissingError(
            "precision, recall, density and coverage are computed by the package prdc, which is not installed: "
            "pip install prdc"
        ) from None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the numbers of samples
        found = package.compute_prdc(one, other, nearest_k=k)
    names = "precision", "recall", "density", "coverage"
    share = float(found["recall"])
    return Neighbours(
        **{name: float(found[name]) for name in names},
        k=k,
        real=len(one),
        generated=len(other),
        recall_stderr=math.sqrt(max(share * (1 - share), 1 / len(one)) / len(one)),
    )


def diversity(generated: Tensor, real: Tensor | None = None) -> Diversity:
    """Mean distance between generated samples, and relative to real ones.

    Args:
        generated: ``[m, f]`` features, or samples ``[m, *sample]``.
        real: ``[n, f]`` of the same kind.

    Raises:
        InputError: a single sample, or different dimensions.
        NonFiniteError: a feature is NaN or infinite.
    """
    if real is None:
        return Diversity(float(_mean_distances(_features(generated, "generated")).mean()), math.nan, math.nan)
    means, parts = [], []
    for points in _pair(generated, real, "generated", "real"):
        found = _mean_distances(points)
        means.append(float(found.mean()))
        # of a mean over pairs: twice that of the means over partners
        parts.append(2 * float(found.std()) / math.sqrt(len(found)) / max(means[-1], 1e-300))
    relative = means[0] / means[1] if means[1] else math.nan
    return Diversity(means[0], means[1], relative, relative * math.hypot(*parts))


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al. 2017).

    ‖μ − μ′‖² + tr Σ + tr Σ′ − 2 tr (ΣΣ′)^{1/2}. With Σ = AᵀA and Σ′ = BᵀB the last trace is the sum of the
    singular values of A Bᵀ, which needs no square root of a matrix that is singular for fewer samples than features.
    It is biased upward by the number of samples: compare at equal numbers.

    Args:
        generated, real: ``[m, f]`` and ``[n, f]``.

    Raises:
        InputError: a single sample, or different dimensions.
        NonFiniteError: a feature is NaN or infinite.
    """
    from scipy.linalg import qr, svdvals

    one, other = _pair(generated, real, "generated", "real")
    roots = [
        qr((p - p.mean(0)) / math.sqrt(len(p) - 1), mode="r", check_finite=False)[0][: p.shape[1]] for p in (one, other)
    ]
    means = float(np.sum((one.mean(0) - other.mean(0)) ** 2))
    spread = sum(float(np.sum(root**2)) for root in roots)
    return max(0.0, means + spread - 2 * float(svdvals(roots[0] @ roots[1].T).sum()))


def _counted(
    labels: NDArray[np.int64], good: NDArray[np.bool_], modes: int, at_least: int | None, weights: Any, rule: str
) -> ModeCoverage:
    from scipy.special import rel_entr

    if at_least is None:
        at_least = max(1, math.ceil(FAIR * len(labels) / modes))
    if isinstance(at_least, bool) or not isinstance(at_least, int) or at_least < 1:
        raise InputError(f"at_least is a whole number from 1 on, not {at_least!r}")
    w = np.ones(modes) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (modes,) or not (np.isfinite(w) & (w > 0)).all():
        raise InputError(f"the occupancy of {modes} modes is compared with {modes} positive weights")
    counts = np.bincount(labels[good], minlength=modes).astype(np.int64)
    w = w / w.sum()
    occupancy = counts / counts.sum() if counts.any() else np.full(modes, math.nan)
    middle = (occupancy + w) / 2
    return ModeCoverage(
        counts=counts,
        occupancy=occupancy,
        covered=int((counts >= at_least).sum()),
        high_quality=float(good.mean()),
        entropy_number=entropy_number(counts.astype(np.float64)),
        nearest_number=entropy_number(np.bincount(labels, minlength=modes).astype(np.float64)),
        kl=float(rel_entr(occupancy, w).sum()),
        js=float(rel_entr(occupancy, middle).sum() + rel_entr(w, middle).sum()) / 2,
        at_least=at_least,
        samples=len(labels),
        rule=rule,
    )


def _logits(images: Tensor, classifier: Features, batch_size: int) -> Tensor:
    """``[n, M]`` float64 on the CPU."""
    found = answers(classifier, images, batch_size, fewest=2).double()
    if not torch.isfinite(found).all():
        raise NonFiniteError("the logits of the classifier hold NaN or infinity")
    return found


def _features(x: Tensor, what: str, fewest: int = 2) -> Array:
    """``[n, f]`` float64."""
    if not isinstance(x, Tensor) or x.dim() < 2 or not x[:1].numel():
        have = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"{_NAMES[what]} are a tensor [n, f], not {have}")
    if len(x) < fewest:
        raise InputError(f"at least {fewest} of {_NAMES[what]} are needed, not {len(x)}")
    points = x.detach().double().cpu().flatten(1).numpy()
    if not np.isfinite(points).all():
        row = int((~np.isfinite(points)).any(1).argmax())
        raise NonFiniteError(f"{_NAMES[what]} hold NaN or infinity, first in row {row}")
    return points


def _pair(x: Tensor, y: Tensor, name_x: str, name_y: str, fewest: int = 2) -> tuple[Array, Array]:
    one, other = _features(x, name_x, fewest), _features(y, name_y, fewest)
    if one.shape[1] != other.shape[1]:
        raise InputError(
            f"{_NAMES[name_x]} have {one.shape[1]} dimensions, {_NAMES[name_y]} have {other.shape[1]}: they are "
            "compared in the same features"
        )
    return one, other


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_distances(points: Array) -> Array:
    """Of every row to the others ``[n]``; from differences, so that close pairs keep their digits."""
    every = torch.from_numpy(points)
    n = len(every)
    together = max(1, _ENTRIES // n)
    sums = [_distances(part, every).sum(1).numpy() for part in every.split(together)]
    return np.concatenate(sums) / (n - 1)
