"""Score differences: what an optimal discriminator would show, beside what this one shows (THEORY §7).

At the optimal discriminator the gradient of its logit is ∇l = ∇ log p_d − ∇ log p_g: samples are drawn toward
the data (attraction) and pushed away from each other (repulsion). p_d is a mixture with known parameters, or a
kernel density estimate of real samples; p_g is an estimate from generated samples, each of them left out of the
density at its own place. The cosine between ∇l and the difference measures how far the optimality that theorems
assume is from the truth. Everything else in this package is computed from ∇l itself, never from these estimates.

Kernel density estimates are refused above ten dimensions, where the number of samples that they need is out of
reach: 842,000 there, for a relative error of 0.1 at the centre of a normal density (Silverman 1986, table 4.2).
Images have to be described by a few features first, and the logit differentiated in these features as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from genkernel.errors import InputError, NonFiniteError

Array = NDArray[np.float64]

# samples for a relative mean square error of 0.1 at the centre of a normal density (Silverman 1986, table 4.2)
SAMPLES_NEEDED = (4, 19, 67, 223, 768, 2790, 10_700, 43_700, 187_000, 842_000)  # in 1, 2, … dimensions
MOST_DIMENSIONS = len(SAMPLES_NEEDED)  # of kernel density estimates
GRID = 2.0 ** np.arange(-8, 1.01, 0.25)  # bandwidths that are tried, in units of Scott's: narrow modes need small ones
_ENTRIES = 2**18  # of distances that are held at a time: they stay in the cache


class Density(Protocol):
    """What has a log density and its gradient, at points ``[n, d]`` or ``[n, *sample]``."""

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) ``[n]`` float64."""

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x) ``[n, d]`` float64."""


class Mixture:
    """A mixture of Gaussians Σ_c π_c N(μ_c, Σ_c) with known parameters.

    Args:
        means: ``[M, d]`` (``[M, *sample]`` is flattened).
        covariances: one variance, or one for each component ``[M]``, for isotropic components; else one matrix
            ``[d, d]`` for all, or ``[M, d, d]``.
        weights: ``[M]``, positive; they are divided by their sum. Equal by default.

    Raises:
        InputError: shapes do not fit, a weight is not positive, or a covariance is not positive definite.
        NonFiniteError: NaN or infinity in any of them.
    """

    @torch.inference_mode(False)
    def __init__(self, means: Any, covariances: Any, weights: Any = None):
        mu, cov = (_as_double(given) for given in (means, covariances))
        if mu.dim() < 2 or not mu.numel():
            raise InputError(f"the means of a mixture have shape [M, d], not {tuple(mu.shape)}")
        self.means = mu = mu.flatten(1)
        M, d = mu.shape
        pi = torch.ones(M).double() if weights is None else _as_double(weights)
        if not all(bool(torch.isfinite(t).all()) for t in (mu, cov, pi)):
            raise NonFiniteError("the parameters of the mixture hold NaN or infinity")
        if pi.shape != (M,) or not bool((pi > 0).all()):
            raise InputError(f"a mixture of {M} components needs {M} positive weights (leave out those of weight 0)")
        if cov.dim() < 2 and cov.shape in ((), (M,)):
            cov = cov.expand(M)[:, None, None] * torch.eye(d).double()
        elif cov.shape in ((d, d), (M, d, d)):
            cov = cov.expand(M, d, d)
        else:
            raise InputError(
                f"covariances are one variance, {M} variances, a matrix {(d, d)} or {(M, d, d)}, not {tuple(cov.shape)}"
            )
        root, failed = torch.linalg.cholesky_ex(cov)
        if bool(failed.any()) or not torch.allclose(cov, cov.mT):
            raise InputError("every covariance of a mixture has to be symmetric and positive definite")
        self.weights = pi / pi.sum()
        self._law = MixtureSameFamily(
            Categorical(self.weights, validate_args=False),
            MultivariateNormal(mu, scale_tril=root, validate_args=False),
            validate_args=False,
        )

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) ``[n]`` float64.

        Raises:
            InputError: x has another number of dimensions.
            NonFiniteError: x holds NaN or infinity.
        """
        points = _points(x, self.means.shape[1])
        return torch.cat([self._law.log_prob(part) for part in points.split(self._together())])

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x) ``[n, d]`` float64; raises as :meth:`log_density`."""
        points = _points(x, self.means.shape[1])
        found = []
        with torch.inference_mode(False), torch.enable_grad():
            for part in points.split(self._together()):
                leaf = part.clone().requires_grad_(True)
                found.append(torch.autograd.grad(self._law.log_prob(leaf).sum(), leaf)[0])
        return torch.cat(found)

    def _together(self) -> int:
        return max(1, _ENTRIES // self.means.numel())


class Kde:
    """A kernel density estimate: the mean of isotropic Gaussians of one width at the samples.

    At the samples themselves (x equal to ``samples``) each is left out of its own density. Otherwise every
    sample would stand on a peak of its own, where its own kernel pulls it nowhere.

    Args:
        samples: ``[n, d]``, n ≥ 2 (``[n, *sample]`` is flattened).
        bandwidth: the width h of the kernels, in the units of the samples; ``"cv"`` for the one of :data:`GRID` with
            the largest leave-one-out likelihood; ``"scott"`` for n^(−1/(d + 4)) times the root mean variance over
            dimensions (Scott 1992), which is meant for one bump: with several narrow modes it is many times too
            wide, and the score between two such estimates can point the wrong way.

    Attributes:
        bandwidth: h.
        rule: how it was found.
        at_edge: the likelihood was largest at an end of the grid, so that the best width may lie beyond. Samples
            that coincide do this: their likelihood grows without bound as h falls.

    Raises:
        InputError: more than ten dimensions, fewer than two samples, an unknown rule, or a bandwidth that is not
            positive; a rule for samples that are all the same.
        NonFiniteError: a sample holds NaN or infinity.
    """

    def __init__(self, samples: Tensor, bandwidth: str | float = "cv"):
        self.samples = _points(samples)
        n, d = self.samples.shape
        if d > MOST_DIMENSIONS:
            raise InputError(
                f"a kernel density estimate in {d} dimensions says nothing: give features of at most {MOST_DIMENSIONS} "
                "dimensions (and the gradient of the logit in these features)"
            )
        if n < 2:
            raise InputError("a kernel density estimate needs at least two samples")
        self.at_edge = False
        self.rule = bandwidth if isinstance(bandwidth, str) else "given"
        if not isinstance(bandwidth, str):
            if isinstance(bandwidth, bool) or not (math.isfinite(bandwidth) and bandwidth > 0):
                raise InputError(f"a bandwidth is a positive number, not {bandwidth!r}")
            self.bandwidth = float(bandwidth)
            return
        if bandwidth not in ("scott", "cv"):
            raise InputError(f"bandwidth is 'scott', 'cv' or a positive number, not {bandwidth!r}")
        self.bandwidth = scott(self.samples)
        if bandwidth == "cv":
            choices = self.bandwidth * GRID
            best = int(np.argmax(leave_one_out_likelihood(self.samples, choices)))
            self.bandwidth, self.at_edge = float(choices[best]), best in (0, len(choices) - 1)

    def scaled(self, factor: float) -> Kde:
        """The same samples with ``factor`` times the bandwidth."""
        return Kde(self.samples, factor * self.bandwidth)

    def redrawn(self, generator: torch.Generator) -> Kde:
        """As many samples drawn from this estimate, and the estimate from them by the same rule."""
        kept = torch.randint(len(self.samples), (len(self.samples),), generator=generator)
        noise = torch.randn(self.samples.shape, generator=generator, dtype=torch.float64)
        rule = self.bandwidth if self.rule == "given" else self.rule
        return Kde(self.samples[kept] + self.bandwidth * noise, rule)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) ``[n]`` float64.

        Raises:
            InputError: x has another number of dimensions than the samples.
            NonFiniteError: x holds NaN or infinity.
        """
        points = _points(x, self.samples.shape[1])
        own = self._own(points)
        scale = -0.5 / self.bandwidth**2
        found = [torch.logsumexp(scale * d2, 1) for _, d2 in _distances(points, self.samples, own)]
        size, d = self.samples.shape
        return torch.cat(found) + _normaliser(size - own, d, self.bandwidth)

    def score(self, x: Tensor) -> Tensor:
        """∇ log p(x) = Σ_i w_i(x) (x_i − x)/h² ``[n, d]`` float64, w = softmax(−‖x − x_i‖²/2h²).

        Raises as :meth:`log_density`.
        """
        points = _points(x, self.samples.shape[1])
        scale = -0.5 / self.bandwidth**2
        found = [
            torch.softmax(scale * d2, 1) @ self.samples - points[rows]
            for rows, d2 in _distances(points, self.samples, self._own(points))
        ]
        return torch.cat(found) / self.bandwidth**2

    def _own(self, points: Tensor) -> bool:
        return points.shape == self.samples.shape and torch.equal(points, self.samples)


def scott(samples: Tensor) -> float:
    """Scott's bandwidth for isotropic kernels: n^(−1/(d + 4)) √(mean variance over dimensions).

    Raises:
        InputError: all samples are the same.
    """
    points = _points(samples)
    n, d = points.shape
    spread = math.sqrt(float(points.var(0, unbiased=True).mean())) if n > 1 else 0.0
    if not spread > 1e-12 * float(points.abs().max()):
        raise InputError("all samples are the same, so that they suggest no bandwidth: give a number")
    return n ** (-1 / (d + 4)) * spread


def leave_one_out_likelihood(samples: Tensor, bandwidths: Any) -> Array:
    """Mean over samples of log p_{−i}(x_i), the density estimated from the others, for each bandwidth ``[k]``."""
    points, widths = _points(samples), np.asarray(bandwidths, dtype=np.float64)
    n, d = points.shape
    total = np.zeros(len(widths))
    for _, d2 in _distances(points, points, own=True):
        total += [float(torch.logsumexp(-0.5 / h**2 * d2, 1).sum()) for h in widths]
    return total / n + np.array([_normaliser(n - 1, d, h) for h in widths])


@dataclass
class ScoreDifference:
    """s = attraction − repulsion at n points.

    Attributes:
        attraction: ∇ log p_d ``[n, d]`` float64.
        repulsion: ∇ log p_g ``[n, d]`` float64; s has it with a minus.
    """

    attraction: Tensor
    repulsion: Tensor

    @property
    def difference(self) -> Tensor:
        """s ``[n, d]``."""
        return self.attraction - self.repulsion


@dataclass
class ScoreCosine:
    """Cosines between ∇l and the score difference.

    Attributes:
        per_sample: ``[n]``; NaN where one of the two is exactly zero.
        mean: over the samples that have a cosine; NaN without any. Samples where the two densities hardly differ
            count as much as others, although their direction is mostly error.
        pooled: ⟨∇l, s⟩/(‖∇l‖‖s‖) of the whole fields, in which long vectors count more.
        undefined: number of samples without a cosine.
    """

    per_sample: Array
    mean: float
    pooled: float
    undefined: int


@dataclass
class Attainable:
    """The cosine of an optimal discriminator, with estimates of this quality, over several draws.

    Attributes:
        mean, pooled: see :class:`ScoreCosine`, ``[draws]`` each.
    """

    mean: Array
    pooled: Array


@dataclass
class Sensitivity:
    """How much the bandwidth decides.

    Attributes:
        factors: ``[k]`` of the bandwidths of all estimates together.
        bandwidths: ``[k]`` of p_g, or of p_d where that alone is an estimate.
        mean, pooled: the cosines with ∇l ``[k]``, see :class:`ScoreCosine`.
        changes: ‖s_k − s‖/‖s‖ ``[k]``, of the score difference itself, relative to the one at factor 1.
    """

    factors: Array
    bandwidths: Array
    mean: Array
    pooled: Array
    changes: Array


def score_difference(x: Tensor, data: Density, generated: Density) -> ScoreDifference:
    """The score difference at x ``[n, *sample]``.

    Args:
        data, generated: p_d and p_g: a :class:`Mixture`, a :class:`Kde`, or any other :class:`Density`. With the
            samples that p_g was estimated from as x, each is left out at its own place.

    Raises:
        InputError: the densities are of other dimensions than x.
        NonFiniteError: x holds NaN or infinity.
    """
    return ScoreDifference(data.score(x), generated.score(x))


def score_cosine(logit_gradient: Tensor, scores: ScoreDifference) -> ScoreCosine:
    """The cosine between ∇l and the estimated score difference, sample by sample.

    Args:
        logit_gradient: ∇_x l ``[n, *sample]``: ``-discriminator.drive(x, "kl")``.

    Raises:
        InputError: the two are not of the same samples.
        NonFiniteError: NaN or infinity in the gradient.
    """
    gradient, s = _points(logit_gradient), scores.difference
    if gradient.shape != s.shape:
        raise InputError(
            f"the gradient of the logit has shape {tuple(gradient.shape)}, the score difference {tuple(s.shape)}"
        )
    # each divided by its largest entry, whose square could underflow
    gradient, s = (v / v.abs().amax(1, keepdim=True).clamp_min(1e-300) for v in (gradient, s))
    sizes = gradient.norm(dim=1) * s.norm(dim=1)
    cosines = torch.where(sizes > 0, (gradient * s).sum(1) / sizes, math.nan).clamp(-1, 1)
    known = cosines[~cosines.isnan()]
    whole, other = _points(logit_gradient).flatten(), scores.difference.flatten()
    length = float(whole.norm() * other.norm())
    return ScoreCosine(
        per_sample=cosines.numpy(),
        mean=float(known.mean()) if len(known) else math.nan,
        pooled=float(whole @ other) / length if length else math.nan,
        undefined=len(cosines) - len(known),
    )


def attainable(data: Density, generated: Kde, *, draws: int = 5, seed: int = 0) -> Attainable:
    """What the cosine would be if the discriminator were optimal: the reference that an actual cosine is held against.

    A score is a derivative, and where generated samples are nearly right the difference of two scores is small
    against its error: with a few hundred samples even the optimal discriminator has a cosine of 0.7 there, and it
    comes close to 1 only where attraction is much the stronger. So the estimate is taken for the truth: samples
    drawn from it (the smoothed bootstrap, Silverman and Young 1987) are estimated again by the same rule, and
    the true score difference is compared with the estimated one at them. An estimate that also stands for the data
    is drawn again as well.

    Args:
        generated: the estimate of p_g that the actual cosine was computed with.
        draws: number of repetitions.
        seed: of the draws.

    Raises:
        InputError: ``generated`` is no kernel density estimate, or no draw is asked for.
    """
    if not isinstance(generated, Kde) or draws < 1:
        raise InputError("the cosine that is attainable needs an estimate of the generated density, and draws ≥ 1")
    chance = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        again = generated.redrawn(chance)
        there = data.redrawn(chance) if isinstance(data, Kde) else data
        truth = score_difference(again.samples, data, generated).difference
        found.append(score_cosine(truth, score_difference(again.samples, there, again)))
    return Attainable(np.array([c.mean for c in found]), np.array([c.pooled for c in found]))


def sensitivity(
    x: Tensor,
    data: Density,
    generated: Density,
    logit_gradient: Tensor,
    factors: Sequence[float] = (0.5, 1.0, 2.0),
) -> Sensitivity:
    """The score difference and its cosine with ∇l at several bandwidths.

    Args:
        factors: of the bandwidth; every :class:`Kde` among the two densities is scaled alike.

    Raises:
        InputError: neither density is a kernel density estimate; or as :func:`score_difference`.
    """
    estimate = next((p for p in (generated, data) if isinstance(p, Kde)), None)
    if estimate is None:
        raise InputError("neither density is a kernel density estimate, so there is no bandwidth to vary")

    def at(factor: float) -> ScoreDifference:
        scaled = [p.scaled(factor) if isinstance(p, Kde) else p for p in (data, generated)]
        return score_difference(x, *scaled)

    base = at(1.0).difference
    fields = [at(factor) for factor in factors]
    cosines = [score_cosine(logit_gradient, found) for found in fields]
    size = float(base.norm())
    return Sensitivity(
        factors=np.array(factors, dtype=np.float64),
        bandwidths=estimate.bandwidth * np.array(factors, dtype=np.float64),
        mean=np.array([c.mean for c in cosines]),
        pooled=np.array([c.pooled for c in cosines]),
        changes=np.array([float((f.difference - base).norm()) / size if size else math.nan for f in fields]),
    )


def _as_double(given: Any) -> Tensor:
    return torch.as_tensor(given, dtype=torch.float64).detach().clone().cpu()


def _points(x: Tensor, dimensions: int | None = None) -> Tensor:
    """``[n, d]`` float64 on the CPU."""
    if not isinstance(x, Tensor) or x.dim() < 2 or not x.numel():
        have = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"points are a tensor [n, d] or [n, *sample], not {have}")
    points = x.detach().double().cpu().flatten(1)
    if dimensions is not None and points.shape[1] != dimensions:
        raise InputError(f"the points have {points.shape[1]} dimensions, the density has {dimensions}")
    if not torch.isfinite(points).all():
        raise NonFiniteError("the points hold NaN or infinity")
    return points


def _distances(points: Tensor, samples: Tensor, own: bool) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances ``[c, n]`` of some points at a time; infinite from a point to itself if they are ``own``."""
    from scipy.spatial.distance import cdist

    together = max(1, _ENTRIES // len(samples))
    for start in range(0, len(points), together):
        rows = slice(start, min(len(points), start + together))
        d2 = cdist(points[rows].numpy(), samples.numpy(), "sqeuclidean")
        if own:
            d2[np.arange(len(d2)), np.arange(rows.start, rows.stop)] = np.inf
        yield rows, torch.from_numpy(d2)


def _normaliser(n: int, d: int, h: float) -> float:
    return -math.log(n) - d / 2 * math.log(2 * math.pi * h**2)
