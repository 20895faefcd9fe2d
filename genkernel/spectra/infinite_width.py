"""Networks of infinite width: their tangent kernel in closed form, and finite networks that converge to it.

A fully connected network in NTK parametrisation, with weights and biases drawn from N(0, 1):

    h⁰ = x,   z^l = σ_w W^l h^{l-1} / √fan_in + σ_b b^l,   h^l = φ(z^l),   f = z^{L+1}       (L hidden layers)
    Σ¹ = σ_w² x·x' / d + σ_b²,          Σ^{l+1} = σ_w² E φ(u) φ(v) + σ_b²,     (u, v) ~ N(0, Σ^l)
    Θ¹ = Σ¹,                            Θ^{l+1} = Σ^{l+1} + σ_w² Θ^l E φ'(u) φ'(v)

(Jacot, Gabriel, Hongler 2018; Lee et al. 2019). Σ^{L+1} is the covariance of the outputs at initialisation (NNGP),
Θ^{L+1} the tangent kernel, of every output by itself; different outputs have none in common. The averages over (u, v)
are closed for ReLU (arc-cosine kernels; Cho and Saul 2009) and erf (arcsine; Williams 1997). For other activations they
are Hermite series in the correlation, Σ_k a_k(Σ_uu) a_k(Σ_vv) ρ^k, with coefficients from one-dimensional quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, real_number, whole_number

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "relu": torch.relu,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "silu": nn.functional.silu,
    "sin": torch.sin,
}

TOLERANCE = 1e-10  # what may be missing of a Hermite series, relative to its sum at ρ = 1
_TERMS = 512  # longest Hermite series
_REACH, _STEP = 12.52, 0.04  # nodes of the trapezoid rule in standard deviations: exact to rounding for all terms
_ONE = 1e-12  # correlations this near to 1 are 1
_SMOOTH, _LOOKED_AT = 1e-8, 4  # by which the first coefficients may differ where half of the nodes are left out
_CURE = (
    'it has a kink, or inputs are so large that it is one. Use "relu" or "erf", which are closed, smaller inputs, or a '
    "smaller weight_variance"
)
_PAIRS = 4096  # pairs of parallel samples whose averages are taken together


@torch.inference_mode(False)
def infinite_width_ntk(
    x: Tensor,
    y: Tensor | None = None,
    *,
    depth: int,
    activation: str | Activation = "relu",
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
) -> Tensor:
    """The tangent kernel of a fully connected network of infinite width, in NTK parametrisation.

    Args:
        x: n samples ``[n, ...]``; everything behind the first axis is one vector.
        y: m samples; None for x again.
        depth: hidden layers; 0 is the linear model.
        activation: ``"relu"``, ``"erf"`` (both closed), ``"tanh"``, ``"gelu"``, ``"sigmoid"``, ``"softplus"``,
            ``"silu"``, ``"sin"``, or a smooth function of a tensor, entry by entry.
        weight_variance: σ_w².
        bias_variance: σ_b².

    Returns:
        ``[n, m]`` in float64: of one output. Closed ones are exact to rounding (about 1e-8 for nearly parallel inputs
        and ReLU, whose kernel has a root there); Hermite series to 1e-10 of the diagonal.

    Raises:
        InputError: shapes do not fit, something is not finite, depth or variances make no sense, the activation is not
            known, or its series does not converge (a kink, or inputs so large that it is one).

    Example:
        >>> x = torch.eye(3)
        >>> infinite_width_ntk(x, depth=1, weight_variance=2.0).diagonal()
        tensor([1.3333, 1.3333, 1.3333], dtype=torch.float64)
    """
    return _kernels(x, y, depth, activation, weight_variance, bias_variance)[1]


@torch.inference_mode(False)
def infinite_width_nngp(
    x: Tensor,
    y: Tensor | None = None,
    *,
    depth: int,
    activation: str | Activation = "relu",
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
) -> Tensor:
    """The covariance of the outputs at initialisation of the same network, ``[n, m]``.

    Args, Raises: as for :func:`infinite_width_ntk`.
    """
    return _kernels(x, y, depth, activation, weight_variance, bias_variance)[0]


class NTKLinear(nn.Module):
    """σ_w W x / √fan_in + σ_b b, with W and b drawn from N(0, 1)."""

    def __init__(
        self, inputs: int, outputs: int, weight_variance: float, bias_variance: float, generator: torch.Generator
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator, dtype=torch.float64).float())
        self.bias: nn.Parameter | None = None
        if bias_variance:
            self.bias = nn.Parameter(torch.randn(outputs, generator=generator, dtype=torch.float64).float())
        self.weight_scale = math.sqrt(weight_variance / inputs)
        self.bias_scale = math.sqrt(bias_variance)

    def forward(self, x: Tensor) -> Tensor:
        found = self.weight_scale * nn.functional.linear(x, self.weight)
        return found if self.bias is None else found + self.bias_scale * self.bias


class _Entrywise(nn.Module):
    def __init__(self, function: Activation):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def ntk_mlp(
    inputs: int,
    width: int,
    *,
    depth: int,
    outputs: int = 1,
    activation: str | Activation = "relu",
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
    seed: int = 0,
) -> nn.Sequential:
    """A finite network whose tangent kernel converges to :func:`infinite_width_ntk` as its width grows.

    Args:
        inputs: numbers per sample; samples of any shape are flattened.
        width: of every hidden layer.
        depth: hidden layers.
        outputs: numbers that come out.
        activation, weight_variance, bias_variance: as for :func:`infinite_width_ntk`.
        seed: of the weights. The global random state stays as it is.

    Returns:
        A float32 module; ``.double()`` keeps the same weights.

    Raises:
        InputError: sizes are not positive, or options make no sense.
    """
    depth, weight_variance, bias_variance = _checked(depth, weight_variance, bias_variance)
    for name, value in (("inputs", inputs), ("width", width), ("outputs", outputs)):
        if whole_number(value, name) < 1:
            raise InputError(f"{name} has to be at least 1, not {value}")
    function = _function(activation)
    _try(function, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    sizes = [inputs, *[width] * depth, outputs]
    layers: list[nn.Module] = [nn.Flatten()]
    for number, (before, after) in enumerate(pairwise(sizes)):
        if number:
            layers.append(_Entrywise(function))
        layers.append(NTKLinear(before, after, weight_variance, bias_variance, generator))
    return nn.Sequential(*layers)


# ------------------------------------------------------------------------------------ recursion


def _kernels(
    x: Tensor, y: Tensor | None, depth: int, activation: str | Activation, weight_variance: float, bias_variance: float
) -> tuple[Tensor, Tensor]:
    """NNGP and NTK ``[n, m]`` each."""
    depth, weight_variance, bias_variance = _checked(depth, weight_variance, bias_variance)
    a = _samples(x, "x")
    b = a if y is None else _samples(y, "y")
    if a.shape[1] != b.shape[1]:
        raise InputError(f"samples of x have {a.shape[1]} numbers and those of y {b.shape[1]}")
    duals = _duals(activation)
    d = a.shape[1]
    covariance = weight_variance * (a @ b.T) / d + bias_variance
    left = weight_variance * a.square().sum(1) / d + bias_variance
    right = weight_variance * b.square().sum(1) / d + bias_variance
    tangent = covariance
    for _ in range(depth):
        size = (left[:, None] * right).sqrt()
        rho = torch.where(size > 0, covariance / size, 0.0).clamp(-1, 1)
        if y is None:
            rho.fill_diagonal_(1.0)  # not 1 - ε, at which ReLU's kernel has a root
        products, slopes = duals.pairs(rho, left, right)
        covariance = weight_variance * products + bias_variance
        tangent = covariance + weight_variance * slopes * tangent
        left, right = (weight_variance * duals.own(side) + bias_variance for side in (left, right))
    return covariance, tangent


class _Duals(Protocol):
    def pairs(self, rho: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Correlations ``[n, m]``, variances ``[n]`` and ``[m]`` → E φ(u) φ(v) and E φ'(u) φ'(v) ``[n, m]``."""
        ...

    def own(self, variance: Tensor) -> Tensor:
        """E φ(u)² ``[n]``."""
        ...


def _duals(activation: str | Activation) -> _Duals:
    if activation == "relu":
        return _ReLU()
    if activation == "erf":
        return _Erf()
    function = _function(activation)
    _try(function, torch.float64)
    return _Series(function)


class _ReLU:
    def pairs(self, rho: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        angle = torch.arccos(rho)
        size = (left[:, None] * right).sqrt()
        products = size * ((1 - rho.square()).clamp_min(0).sqrt() + (math.pi - angle) * rho) / (2 * math.pi)
        # a variance of 0 is a pre-activation that is 0: torch takes ReLU's slope there as 0
        slopes = torch.where(size > 0, (math.pi - angle) / (2 * math.pi), 0.0)
        return products, slopes

    def own(self, variance: Tensor) -> Tensor:
        return variance / 2


class _Erf:
    def pairs(self, rho: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        covariance = rho * (left[:, None] * right).sqrt()
        a, b = 1 + 2 * left[:, None], 1 + 2 * right
        products = 2 / math.pi * torch.arcsin((2 * covariance / (a * b).sqrt()).clamp(-1, 1))
        return products, 4 / math.pi / (a * b - 4 * covariance.square()).sqrt()

    def own(self, variance: Tensor) -> Tensor:
        return 2 / math.pi * torch.arcsin(2 * variance / (1 + 2 * variance))


class _Series:
    """E φ(u) φ(v) = Σ_k a_k(q) a_k(q') ρ^k with a_k(q) = E φ(√q z) h_k(z), h_k the orthonormal Hermite polynomials.

    Where |ρ| is 1 the average is over one variable, and is taken as such.
    """

    def __init__(self, function: Activation):
        self.function = function
        self.nodes = torch.arange(-_REACH, _REACH + _STEP / 2, _STEP, dtype=torch.float64)
        self.weights = _STEP * torch.exp(-self.nodes.square() / 2) / math.sqrt(2 * math.pi)
        rows = [torch.ones_like(self.nodes), self.nodes]
        for k in range(1, _TERMS - 1):
            rows.append((self.nodes * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
        self.polynomials = torch.stack(rows) * self.weights

    def pairs(self, rho: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        one = rho.abs() > 1 - _ONE
        i, j = one.nonzero(as_tuple=True)
        largest = float(torch.where(one, 0.0, rho.abs()).max())
        found = []
        for f, g in zip(self._at_nodes(left), self._at_nodes(right), strict=True):
            a, b = f @ self.polynomials.T, g @ self.polynomials.T
            terms = max(self._needed(f, a, largest), self._needed(g, b, largest))
            average = _horner(rho, a[:, :terms], b[:, :terms])
            for part in torch.arange(len(i)).split(_PAIRS):
                p, q = i[part], j[part]
                other = torch.where(rho[p, q, None] > 0, g[q], g[q].flip(1))  # the nodes are symmetric about 0
                average[p, q] = (f[p] * other) @ self.weights
            found.append(average)
        return found[0], found[1]

    def own(self, variance: Tensor) -> Tensor:
        return self._at_nodes(variance)[0].square() @ self.weights

    def _at_nodes(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """φ(√q z) and φ'(√q z) at the nodes ``[n, nodes]``."""
        with torch.enable_grad():
            z = (variance.sqrt()[:, None] * self.nodes).requires_grad_()
            values = self.function(z)
            (slopes,) = torch.autograd.grad(values.sum(), z)
        if not (torch.isfinite(values).all() and torch.isfinite(slopes).all()):
            raise InputError("the activation or its derivative is NaN or infinite at inputs of this size")
        values = values.detach()
        for f in (values, slopes):
            size = (f.square() @ self.weights).sqrt()[:, None]
            few = self.polynomials[:_LOOKED_AT]
            coarse = f[:, ::2] @ (2 * few[:, ::2].T)
            if bool(((f @ few.T - coarse).abs() > _SMOOTH * size).any()):
                raise InputError(f"the activation or its derivative is not smooth on this scale: {_CURE}")
        return values, slopes

    def _needed(self, values: Tensor, coefficients: Tensor, largest: float) -> int:
        """Terms after which what is missing is below the tolerance for every sample."""
        whole = values.square() @ self.weights
        power = largest ** torch.arange(1, _TERMS + 1, dtype=torch.float64)
        missing = (whole[:, None] - coefficients.square().cumsum(1)) * power
        good = (missing <= TOLERANCE * whole[:, None]).all(0)
        if not bool(good[-1]):
            worst = float((missing[:, -1] / whole).max())
            raise InputError(
                f"the Hermite series of the activation may miss {worst:.0e} of its sum after {_TERMS} terms: {_CURE}"
            )
        return int(good.double().argmax()) + 1


def _horner(rho: Tensor, a: Tensor, b: Tensor) -> Tensor:
    found = torch.zeros_like(rho)
    for k in range(a.shape[1] - 1, -1, -1):
        found.mul_(rho).addr_(a[:, k], b[:, k])
    return found


def _function(activation: str | Activation) -> Activation:
    if isinstance(activation, type):
        raise InputError(f"activation is a function of a tensor, not a class: {activation.__name__}() may be one")
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(f"activation is one of {', '.join(ACTIVATIONS)}, or a function, not {activation!r}")
    return ACTIVATIONS[activation]


@torch.inference_mode(False)
def _try(function: Activation, dtype: torch.dtype) -> None:
    """Refuse what does not take tensors that require gradients to tensors of their shape (NumPy's functions).

    Raises:
        InputError: it does not.
    """
    x = torch.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3).requires_grad_()
    try:
        with torch.enable_grad():
            found = function(x)
        fits = isinstance(found, Tensor) and found.shape == x.shape and found.requires_grad
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"activation is a function of a tensor, entry by entry, with a derivative (torch.tanh, not numpy.tanh): "
            f"this one fails with {error}"
        ) from error
    if not fits:
        raise InputError(
            "activation is a function of a tensor, entry by entry, with a derivative (torch.tanh, not numpy.tanh): "
            "this one returns something else"
        )


def _checked(depth: int, weight_variance: float, bias_variance: float) -> tuple[int, float, float]:
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise InputError(f"depth is the number of hidden layers, a whole number from 0, not {depth!r}")
    weights, biases = real_number(weight_variance, "weight_variance"), real_number(bias_variance, "bias_variance")
    if not 0 < weights < math.inf:
        raise InputError(f"weight_variance is finite and positive, not {weights}")
    if not 0 <= biases < math.inf:
        raise InputError(f"bias_variance is finite and not negative, not {biases}")
    return depth, weights, biases


def _samples(x: Tensor | Sequence[Sequence[float]], name: str) -> Tensor:
    found = as_tensor(x, name).double()
    if found.dim() < 2 or not found.numel():
        raise InputError(f"{name} has shape [samples, ...], not {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise InputError(f"{name} has NaN or infinite entries")
    return found.flatten(1)
