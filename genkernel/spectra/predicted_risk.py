"""``predict_risk()``: errors of kernel regression from a kernel and targets, before any regression is done.

m reference samples show the eigenvalues and modes of the integral operator (:mod:`genkernel.spectra.mercer`) and the
coefficients of the target; eigenlearning (:mod:`genkernel.spectra.eigenlearning`) says what n training samples make of
them. Either the m samples stand for the density (``reference="domain"``: they are all there is, or m ≫ n), or they are
a sample of it, and what is lost with their finite number is made up for (``reference="sample"``;
:mod:`genkernel.spectra.finite_reference`).

Kernels of O outputs (full blocks): n samples give nO equations. With modes of mean square 1 summed over outputs,

    nO = Σ_j λ_j / (λ_j + κ) + O δ / κ,      E_0 = nO / (nO - Σ L_j²)

and errors summed over outputs (from one sample's O×O share of the resolvent being a multiple of the identity, which
holds where outputs are exchangeable and uncoupled, as in networks at initialisation). Where Σ_j L_j E ψ_j ψ_jᵀ is far
from a multiple of the identity, the result says so in its notes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, unit_of
from genkernel.spectra.eigenlearning import InfiniteRisk, Risk, expected_risk
from genkernel.spectra.finite_reference import SampledReference
from genkernel.spectra.mercer import Mercer, as_matrix, mercer_decomposition, precision_of
from genkernel.tangent import Kernel, TangentOperator

Array = NDArray[np.float64]

_UNEVEN = 0.25  # of the mean: beyond it outputs are not exchangeable


@dataclass(frozen=True)
class LearningCurve(Sequence[Risk]):
    """What eigenlearning says of several numbers of samples: a sequence of :class:`Risk`.

    Attributes:
        risks: one per number of samples, in the order asked for.
    """

    risks: tuple[Risk, ...]

    def __len__(self) -> int:
        return len(self.risks)

    @overload
    def __getitem__(self, index: int) -> Risk: ...
    @overload
    def __getitem__(self, index: slice) -> LearningCurve: ...
    def __getitem__(self, index: int | slice) -> Risk | LearningCurve:
        return LearningCurve(self.risks[index]) if isinstance(index, slice) else self.risks[index]

    def __iter__(self) -> Iterator[Risk]:
        return iter(self.risks)

    @property
    def samples(self) -> Array:
        """n ``[s]``."""
        return self._each("samples")

    @property
    def test_mse(self) -> Array:
        """Expected squared error on fresh noisy labels ``[s]``."""
        return self._each("test_mse")

    @property
    def train_mse(self) -> Array:
        """Expected squared error on the training labels ``[s]``."""
        return self._each("train_mse")

    @property
    def stderr(self) -> Array:
        """Of ``test_mse``, from the choice of reference samples alone ``[s]``; NaN where they are the density."""
        return self._each("stderr")

    @property
    def learnability(self) -> Array:
        """Of the target ``[s]``."""
        return self._each("learnability")

    @property
    def kappa(self) -> Array:
        """κ ``[s]``."""
        return self._each("kappa")

    @property
    def overfitting(self) -> Array:
        """E_0 ``[s]``."""
        return self._each("overfitting")

    @property
    def learnabilities(self) -> Array:
        """Of every mode ``[s, r]``."""
        return np.stack([risk.learnabilities for risk in self.risks])

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all of them, each once."""
        return tuple(dict.fromkeys(note for risk in self.risks for note in risk.notes))

    def _each(self, name: str) -> Array:
        return np.array([getattr(risk, name) for risk in self.risks])


@overload
def predict_risk(
    kernel: Kernel | TangentOperator | Mercer | Tensor | ArrayLike,
    targets: Tensor | ArrayLike,
    samples: float,
    *,
    ridge: float = ...,
    noise: float = ...,
    modes: int | None = ...,
    seed: int = ...,
    reference: Literal["domain", "sample"] = ...,
) -> Risk: ...
@overload
def predict_risk(
    kernel: Kernel | TangentOperator | Mercer | Tensor | ArrayLike,
    targets: Tensor | ArrayLike,
    samples: Sequence[float] | Array | Tensor | None = ...,
    *,
    ridge: float = ...,
    noise: float = ...,
    modes: int | None = ...,
    seed: int = ...,
    reference: Literal["domain", "sample"] = ...,
) -> LearningCurve: ...
def predict_risk(
    kernel: Any,
    targets: Any,
    samples: Any = None,
    *,
    ridge: float = 0.0,
    noise: float = 0.0,
    modes: int | None = None,
    seed: int = 0,
    reference: Literal["domain", "sample"] = "domain",
) -> Risk | LearningCurve:
    """Expected errors of kernel regression with n samples (Simon et al.; THEORY §9).

    The predictor is k_xᵀ (K + δ I)⁻¹ y with this kernel. Errors are summed over outputs, and hold for fresh samples of
    the density that the m reference samples come from.

    Args:
        kernel: of m reference samples: a :class:`Kernel` (one number per pair, or full blocks), a matrix ``[m, m]``,
            blocks ``[m, m, O, O]``, an operator (:func:`genkernel.operator`), or the :class:`Mercer` of one.
        targets: at the reference samples: ``[m]``, ``[m, d]`` with d targets that one kernel of one number per pair
            regresses on (one-hot labels), or ``[m, O]`` for a kernel of O outputs.
        samples: n, or several; by default powers of two up to m/2, less those at which the expected error is infinite
            (as many equations as modes, without a ridge). What is above m is refused.
        ridge: δ.
        noise: ε², variance of noise on top of the targets, summed over outputs. What of the targets is in no mode is
            added to it (``Risk.rest``). Noise that is in the targets already is found in modes that are hardly
            learned, and must not be given once more.
        modes: how many of the largest eigenvalues; all for matrices and 16 for operators by default. The trace of the
            others acts as a ridge, in κ alone.
        seed: of the iteration for operators.
        reference: what the reference samples are. ``"domain"``: everything there is, or so many that they stand for
            it (their eigenvalues are taken as the density's, and errors come out too low where n/m is not small).
            ``"sample"``: independent draws from the density, whose finite number is accounted for through κ (Jacot et
            al., 2020; the module's formulas). With draws that depend on one another (frames of a film, augmented
            copies) the estimate is off and ``stderr`` too small. It needs all modes to be exact (others share the
            rest evenly), counts the noise in the targets as noise, and gives ``stderr``: the error from the choice of
            reference samples alone. It neither mends nor covers what eigenlearning itself gets wrong: for a smooth
            kernel in 4 dimensions it gave .020 ± .003 where .048 is measured, and the default .032
            (docs/eigenlearning.md). Not for a domain that is listed whole, where it would be wrong.

    Returns:
        A :class:`Risk` for one number, a :class:`LearningCurve` for several; their ``notes`` say in words where the
        estimate is doubtful.

    Raises:
        InputError: the kernel is not symmetric positive semi-definite (a two-time kernel or one between different
            samples has no eigenlearning), shapes do not fit, something is not finite, n is not between 0 and m, the
            expected error is infinite at an n that was asked for, or ``reference`` is neither of the two.

    Example:
        >>> import torch
        >>> x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> K = torch.exp(-torch.cdist(x, x).square() / 8)
        >>> curve = predict_risk(K, x[:, 0].sin(), [10, 40, 160], ridge=1e-3)
        >>> bool((curve.test_mse[1:] < curve.test_mse[:-1]).all()), curve.learnabilities.shape
        (True, (3, 400))
    """
    if reference not in ("domain", "sample"):
        raise InputError(
            f"reference is 'domain' (the samples are all there is) or 'sample' (draws from it), not {reference!r}"
        )
    mercer = kernel if isinstance(kernel, Mercer) else mercer_decomposition(_given(kernel), modes, seed=seed)
    if isinstance(kernel, Mercer) and modes is not None:
        raise InputError("modes= chooses among those of a kernel; a Mercer decomposition has its own: leave it out")
    y = as_tensor(targets, "targets").double()
    if not torch.isfinite(y).all():
        raise InputError("a target is NaN or infinite")
    if y.dim() not in (1, 2):
        raise InputError(f"targets have shape [m] or [m, outputs], not {tuple(y.shape)}")
    m, outputs, r = mercer.samples, mercer.outputs, mercer.rank
    if not r:
        raise InputError("the kernel is zero: there is nothing to learn")
    v = mercer.coefficients(y)[:r].numpy()
    unit = unit_of(y)  # squares of targets beyond 1e±160 overflow or vanish
    rest = max(0.0, float((y / unit).square().sum()) / m - float(((v / unit) ** 2).sum())) * unit * unit
    lam = mercer.values[:r].clamp_min(0).numpy()
    missing = mercer.missing_trace
    if missing <= mercer.floor * m * outputs:  # rounding
        missing = 0.0
    several, sizes = _sizes(samples, m)
    if not 0 <= ridge < math.inf:
        raise InputError(f"ridge is finite and not negative, not {ridge}")
    if not 0 <= noise < math.inf:
        raise InputError(f"noise is a variance, finite and not negative, not {noise}")
    general = _notes(kernel, mercer, missing, reference)
    sampled = SampledReference.of(mercer, y) if reference == "sample" else None
    risks: list[Risk] = []
    infinite: list[float] = []
    for n in sizes:
        try:
            if sampled is not None:
                found = sampled.risk(n, ridge=float(ridge), noise=float(noise))
            else:
                found = expected_risk(
                    lam, v, n * outputs, ridge=ridge * outputs, noise=noise + rest, missing_trace=missing
                )  # nO equations; see the module
        except InfiniteRisk:
            if samples is not None or (n == sizes[-1] and not risks):  # asked for, or nothing else to say
                raise
            infinite.append(n)
            continue
        few = sampled is not None and missing > 0 and n * outputs > r
        notes = [*general, *_notes_at(n, m, reference), *_uneven(mercer, found.learnabilities)]
        if few:
            notes.append(
                f"n = {n:g} samples learn more than the {r} modes that were asked for, and the others are taken as "
                "equal: ask for more modes"
            )
        risks.append(replace(found, samples=n, ridge=float(ridge), noise=float(noise), rest=rest, notes=tuple(notes)))
    if infinite:
        left_out = (
            f"n = {', '.join(f'{n:g}' for n in infinite)} is left out: with as many equations as modes ({r}) and no "
            "ridge the expected error is infinite"
        )
        risks = [replace(risk, notes=(*risk.notes, left_out)) for risk in risks]
    return LearningCurve(tuple(risks)) if several else risks[0]


def dataset_learnabilities(
    kernel: Kernel | Tensor | ArrayLike, train: Sequence[int] | Tensor | Array, *, ridge: float = 0.0
) -> Tensor:
    """Learnability of every mode for one training set, exactly.

    L_j = ⟨ψ̂_j, f̂_j⟩ / ⟨ψ̂_j, ψ̂_j⟩ with f̂_j the regression of ψ̂_j on the training points, over the whole domain: the
    leverage of column j of √λ_j ψ̂_j at the training points. With δ = 0 and distinct points they sum to their number
    (times O), whatever the kernel (Simon et al., theorem on conservation; THEORY §9). Single ones of modes with the
    same eigenvalue depend on the basis; their sum does not.

    Without a ridge the smallest eigenvalue of the training points' kernel has to be above its rounding, rows times the
    precision times the largest: below it coinciding points cannot be told from points that are close together.

    Args:
        kernel: of all m points of the domain: ``[m, m]``, blocks ``[m, m, O, O]``, or a :class:`Kernel`.
        train: places of the n training points in it, each once.
        ridge: δ.

    Returns:
        ``[m · O]``, in the order of falling eigenvalues, each between 0 and 1.

    Raises:
        InputError: places repeat or are not there, the kernel of the training points is singular without a ridge, or
            the kernel is no kernel.
    """
    if not 0 <= ridge < math.inf:
        raise InputError(f"ridge is finite and not negative, not {ridge}")
    given = _given(kernel)
    if isinstance(given, TangentOperator):
        raise InputError("learnabilities of one training set need all modes: give a kernel and not an operator")
    mercer = mercer_decomposition(given)
    m, outputs = mercer.samples, mercer.outputs
    places = as_tensor(train, "train")
    if places.dim() != 1 or not len(places) or places.is_floating_point() or places.dtype == torch.bool:
        raise InputError("train is a list of places (whole numbers) of training points, not empty")
    places = places.long()
    if int(places.min()) < 0 or int(places.max()) >= m:
        raise InputError(f"the kernel is of {m} points: places are 0 to {m - 1}")
    if len(places.unique()) < len(places):
        raise InputError("a training point is named twice: repeated points make the kernel singular and teach nothing")
    rows = (places[:, None] * outputs + torch.arange(outputs)).reshape(-1)
    values = torch.where(mercer.values > mercer.floor, mercer.values, 0.0)
    features = (mercer.vectors[rows] * (values * m).sqrt()).T  # [r, nO]; their Gram matrix is K_DD
    singular = False
    if ridge:
        features = torch.cat([features, math.sqrt(ridge) * torch.eye(len(rows), dtype=torch.float64)])
    else:  # by the kernel: modes near the rounding floor tell points apart that coincide
        K = as_matrix(given.values if isinstance(given, Kernel) else given)[0][rows][:, rows]
        own = torch.linalg.eigvalsh((K + K.T) / 2)
        singular = float(own[0]) <= len(rows) * precision_of(given) * float(own[-1])
    Q, R = torch.linalg.qr(features)
    size = R.diagonal().abs()
    if singular or float(size.min()) <= len(mercer.values) * torch.finfo(torch.float64).eps * float(size.max()):
        raise InputError(
            "the kernel of the training points is singular to rounding: points coincide or nearly so, or there are "
            "more of them than modes. Add a ridge, or leave some out"
        )
    return Q[: len(values)].square().sum(1)


# ------------------------------------------------------------------------------------ parts


def _given(kernel: Any) -> Kernel | TangentOperator | Tensor:
    if isinstance(kernel, (Kernel, TangentOperator)):
        return kernel
    return as_tensor(kernel, "the kernel")  # in its own dtype, which says what its rounding is


def _sizes(samples: Any, m: int) -> tuple[bool, list[float]]:
    """Whether several numbers of samples were asked for, and these."""
    if samples is None:
        if m < 4:
            raise InputError(f"a learning curve from {m} reference samples says nothing: give more of them")
        return True, [float(2**k) for k in range(1 + int(math.log2(m / 2)))]
    several = np.ndim(samples) > 0
    sizes = [float(n) for n in np.atleast_1d(np.asarray(samples, dtype=np.float64))]
    if not sizes:
        raise InputError("samples is a number of training samples, or several, not an empty list")
    for n in sizes:
        if not 0 < n <= m:
            raise InputError(
                f"the kernel is of {m} reference samples: it can speak of up to {m} training samples, and not of {n:g}"
            )
    return several, sizes


def _notes(kernel: Any, mercer: Mercer, missing: float, reference: str) -> list[str]:
    notes = []
    if isinstance(kernel, Kernel) and kernel.is_normalized:
        notes.append("the kernel is normalised: this is for regression with cosines, and the ridge is in their units")
    if mercer.stderr is not None:
        worst = float((mercer.stderr / mercer.values.clamp_min(mercer.floor))[: mercer.rank].max())
        notes.append(
            f"the kernel is estimated with random probes: single eigenvalues have standard errors of up to {worst:.0%} "
            "and small ones are too large"
        )
    if missing > 0.5 * mercer.trace:
        notes.append(
            f"{missing / mercer.trace:.0%} of the trace is in modes that were not asked for, "
            + ("which are taken as a ridge" if reference == "domain" else "which are taken as equal")
        )
    if missing > 0 and mercer.trace_stderr > 0.1 * missing:
        notes.append(f"the trace of the modes that were not asked for is known to {mercer.trace_stderr / missing:.0%}")
    return notes


def _notes_at(n: float, m: int, reference: str) -> list[str]:
    if n <= m / 2:
        return []
    if reference == "sample":
        return [
            f"n = {n:g} is more than half of the m = {m} reference samples: the estimate rests on the smallest "
            "eigenvalues and varies with them"
        ]
    return [
        f"n = {n:g} is more than half of the m = {m} reference samples: they stand for the density only where m is "
        "much larger than n, or where they are the whole domain"
    ]


def _uneven(mercer: Mercer, learned: Array) -> list[str]:
    """Whether Σ_j L_j E ψ_j ψ_jᵀ ``[O, O]`` is far from a multiple of the identity."""
    if mercer.outputs == 1:
        return []
    r = len(learned)
    parts = mercer.vectors[:, :r] * torch.from_numpy(learned).sqrt()
    parts = parts.reshape(mercer.samples, mercer.outputs, r).transpose(0, 1).reshape(mercer.outputs, -1)
    each = torch.linalg.eigvalsh(parts @ parts.T).numpy()
    spread = float(np.abs(each / each.mean() - 1).max())
    if spread <= _UNEVEN:
        return []
    return [
        f"outputs take unequal shares of the learnabilities, or move together (up to {spread:.0%} off their mean): the "
        "theory for blocks is of exchangeable, uncoupled outputs, and errors are rough here"
    ]
