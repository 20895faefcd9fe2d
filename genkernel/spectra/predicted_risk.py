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
from genkernel.spectra.arrays import as_tensor, as_values, unit_of
from genkernel.spectra.eigenlearning import InfiniteRisk, Risk, expected_risk, not_negative
from genkernel.spectra.finite_reference import SampledReference
from genkernel.spectra.mercer import LEADING, Mercer, as_matrix, mercer_decomposition, precision_of
from genkernel.tangent import Kernel, TangentOperator

Array = NDArray[np.float64]

_UNEVEN = 0.25  # of the mean: beyond it outputs are not exchangeable
_OPEN = 0.1  # of the error: by how much modes that were not asked for may change it unsaid
_EACH = 2  # modes per equation, by default: on networks' kernels what is beyond changes the error by some percent
_WRITTEN = 2048  # rows up to which an operator's matrix is written out where that is cheaper
_CHEAPER = 4  # the matrix takes one product per row, all at once; the iteration some three per mode, one by one
_MODES = 512  # most that an iteration is asked for by default
_HELD = 2**24  # numbers in the modes that it is asked for by default (it holds some three times as many)


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
            regresses on (one-hot labels), or ``[m, O]`` for a kernel of O outputs. They are values: whole numbers
            ``[m]`` are regressed on as such, which the notes say, and for classes give one-hot rows.
        samples: n, or several; by default powers of two up to m/2, less those at which the expected error is infinite
            (as many equations as modes, without a ridge). What is above m is refused.
        ridge: δ.
        noise: ε², variance of noise on top of the targets, summed over outputs. What of the targets is in no mode is
            added to it (``Risk.rest``). Noise that is in the targets already is found in modes that are hardly
            learned, and must not be given once more.
        modes: how many of the largest eigenvalues. The trace of the others acts as a ridge, in κ alone, and the notes
            say where they might change the error by a tenth. By default all for matrices; for operators twice as many
            as equations (2 n O of the largest n, 16 to 512, and fewer than 512 beyond 32,768 rows, for memory), or all
            where writing the matrix out is cheaper: up to 2048 rows, no more than four times as many as these modes.
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
            samples has no eigenlearning), shapes do not fit, something is not finite, targets are names, n is not
            between 0 and m, the expected error is infinite at an n that was asked for, or ``reference`` is neither of
            the two.

    Example:
        >>> import torch
        >>> x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> K = torch.exp(-torch.cdist(x, x).square() / 8)
        >>> curve = predict_risk(K, x[:, 0].sin(), [10, 40, 160], ridge=1e-3)
        >>> bool((curve.test_mse[1:] < curve.test_mse[:-1]).all()), curve.samples.tolist()
        (True, [10.0, 40.0, 160.0])
    """
    if reference not in ("domain", "sample"):
        raise InputError(
            f"reference is 'domain' (the samples are all there is) or 'sample' (draws from it), not {reference!r}"
        )
    y = as_values(targets, "targets")
    if y.dim() not in (1, 2):
        raise InputError(f"targets have shape [m] or [m, outputs], not {tuple(y.shape)}")
    ridge, noise = not_negative(ridge, "ridge"), not_negative(noise, "noise")
    if isinstance(kernel, Mercer):
        if modes is not None:
            raise InputError("modes= chooses among those of a kernel; a Mercer decomposition has its own: leave it out")
        mercer = kernel
    else:
        given = _given(kernel)
        if isinstance(given, TangentOperator) and modes is None:
            modes = _enough(given, samples)
        mercer = mercer_decomposition(given, modes, seed=seed)
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
    general = [*_notes(kernel, mercer, missing, reference), *_whole_numbers(targets, y)]
    sampled = SampledReference.of(mercer, y) if reference == "sample" else None
    risks: list[Risk] = []
    infinite: list[float] = []
    for n in sizes:
        try:
            if sampled is not None:
                found = sampled.risk(n, ridge=ridge, noise=noise)
            else:
                found = expected_risk(
                    lam, v, n * outputs, ridge=ridge * outputs, noise=noise + rest, missing_trace=missing
                )  # nO equations; see the module
        except InfiniteRisk:
            if samples is not None or (n == sizes[-1] and not risks):  # asked for, or nothing else to say
                raise
            infinite.append(n)
            continue
        notes = [*general, *_notes_at(n, m, reference), *_uneven(mercer, found.learnabilities)]
        if missing:
            notes += _beyond(
                mercer, lam, v, n, ridge=ridge, noise=noise, rest=rest, missing=missing, reference=reference
            )
        risks.append(replace(found, samples=n, ridge=ridge, noise=noise, rest=rest, notes=tuple(notes)))
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
    ridge = not_negative(ridge, "ridge")
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
    asked = as_tensor(samples, "samples").double()
    if asked.dim() > 1:
        raise InputError(f"samples is a number of training samples, or a list of several, not {tuple(asked.shape)}")
    several, sizes = asked.dim() > 0, [float(n) for n in asked.reshape(-1)]
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
    if mercer.stderr is not None and bool(mercer.stderr.any()):  # probes of a single output are exact
        worst = float((mercer.stderr / mercer.values.clamp_min(mercer.floor))[: mercer.rank].max())
        notes.append(
            f"the kernel is estimated with random probes: single eigenvalues have standard errors of "
            f"{'less than 1%' if worst < 0.01 else f'up to {worst:.0%}'} and small ones are too large"
        )
    if missing > 0.5 * mercer.trace:
        notes.append(
            f"{missing / mercer.trace:.0%} of the trace is in modes that were not asked for, "
            + ("which are taken as a ridge" if reference == "domain" else "which are taken as equal")
        )
    if missing > 0 and mercer.trace_stderr > 0.1 * missing:
        notes.append(f"the trace of the modes that were not asked for is known to {mercer.trace_stderr / missing:.0%}")
    return notes


def _enough(operator: TangentOperator, samples: Any) -> int | None:
    """How many modes of an operator tell what the most samples that are asked for learn, as far as they are affordable.

    None (so many as :func:`mercer_decomposition` takes) where it is not symmetric, which is refused there.
    """
    if not operator.symmetric:
        return None
    rows, outputs = operator.shape[0], operator.rows_per_sample
    most = max(_sizes(samples, rows // outputs)[1])
    wanted = max(LEADING, math.ceil(_EACH * most * outputs))
    if rows <= min(_WRITTEN, _CHEAPER * wanted):
        return rows
    return min(wanted, rows, max(LEADING, min(_MODES, _HELD // rows)))


def _whole_numbers(targets: Any, y: Tensor) -> list[str]:
    """Whether targets may be numbers of classes, which other functions take them for."""
    if as_tensor(targets, "targets").is_floating_point() or y[0].numel() > 1:
        return []
    return [
        "the targets are whole numbers, and are regressed on as values (cka, kernel_target_alignment and gk.spectrum "
        "take them as classes): for classes give one-hot rows [m, classes]"
    ]


def _beyond(
    mercer: Mercer,
    lam: Array,
    v: Array,
    n: float,
    *,
    ridge: float,
    noise: float,
    rest: float,
    missing: float,
    reference: str,
) -> list[str]:
    """Whether the modes that were not asked for could change the error.

    Of these the trace is known, and that none exceeds the smallest that was found. They hardly learn, and are a ridge,
    where they are many and small. They learn most where they are as large as they can be and hold what is left of the
    targets. The truth is in between.
    """
    outputs, r, least = mercer.outputs, len(lam), float(lam[-1])
    equations = n * outputs
    count = min(int(missing / least), len(mercer.vectors) - r)
    largest = np.full(count + 1, least)
    largest[-1] = min(least, max(0.0, missing - count * least))
    held = np.zeros((count + 1, *v.shape[1:]))
    held.reshape(count + 1, -1)[0, 0] = math.sqrt(rest)
    small = expected_risk(lam, v, equations, ridge=ridge * outputs, noise=noise + rest, missing_trace=missing).test_mse
    try:
        large = expected_risk(
            np.concatenate([lam, largest]), np.concatenate([v, held]), equations, ridge=ridge * outputs, noise=noise
        ).test_mse
    except InfiniteRisk:
        large = math.inf
    if reference == "sample":
        if equations <= r and abs(large - small) <= _OPEN * small:
            return []
        return [
            f"n = {n:g} samples learn more than the {r} modes that were asked for show, and the others are taken as "
            "equal: ask for more modes"
        ]
    if abs(large - small) <= _OPEN * small:
        return []
    return [
        f"n = {n:g} samples learn more than the {r} modes show: the others are taken as a ridge, and depending on what "
        f"they are the error is between {min(small, large):.3g} and {max(small, large):.3g}: ask for more modes"
    ]


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
