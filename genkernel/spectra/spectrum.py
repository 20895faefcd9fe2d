"""``analyze``: everything that is read off one kernel over n samples: spectrum, groups, targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.errors import InputError
from genkernel.spectra.alignment import cka, kernel_target_alignment
from genkernel.spectra.arrays import as_labels
from genkernel.spectra.groups import GroupSpectra, effective_rank_error, group_spectra
from genkernel.spectra.mercer import Mercer, mercer_decomposition
from genkernel.spectra.predicted_risk import predict_risk
from genkernel.tangent import Kernel
from genkernel.tangent.result import cosines, without

Array = NDArray[np.float64]

SHOWN = 6  # modes whose values at the samples are kept
SHUFFLES = 99  # of the targets, to compare with
LEAST = 4  # training samples from which predictions are made: with fewer they are rough
FEW = 0.5  # share of the samples up to which learning from them is predicted


@dataclass
class TargetSpectrum:
    """How targets lie in the eigenmodes, and what kernel regression learns of them. Targets are taken about their mean.

    Attributes:
        kind: ``"classes"`` (one-hot) or ``"values"``.
        outputs: numbers per sample.
        alignment: KTA of the kernel with the targets about their mean.
        alignment_shuffled: the same of shuffled targets, in the mean.
        alignment_cka: unbiased CKA, which is about 0 for shuffled targets; NaN where it does not exist.
        power: share of the targets' variance in each mode ``[r]``; what is in none is rounding.
        samples: numbers of training samples ``[S]``.
        learnability: share of the targets that is learned from so many ``[S]``.
        shuffled: of shuffled targets, at the last of these sizes: 2.5 % and 97.5 % ``[2]``.
        test_mse, test_mse_stderr: expected squared error relative to the variance ``[S]``.
        kappa: ``[S]``.
        notes: where the prediction is doubtful, in words.
    """

    kind: str
    outputs: int
    alignment: float
    alignment_shuffled: float
    alignment_cka: float
    power: Array
    samples: Array
    learnability: Array
    shuffled: Array
    test_mse: Array
    test_mse_stderr: Array
    kappa: Array
    notes: list[str]


@dataclass
class Spectrum:
    """A kernel's spectrum.

    Attributes:
        samples, outputs: n, and rows per sample.
        normalized: entries were brought to cosines first, so that samples of large gradients do not drown the others.
        eigenvalues: of the matrix over n, falling ``[r]``.
        stderr: over random probes ``[r]``; None where the kernel is exact.
        floor: eigenvalues at or below it are rounding noise.
        trace: mean k(x, x).
        rank: eigenvalues above the floor.
        effective_rank: e^H of the eigenvalues.
        effective_rank_stderr: over random probes; NaN where the kernel is exact.
        modes: eigenfunctions at the samples ``[n, k]``, of mean square 1.
        groups: None without groups.
        targets: None without targets.
    """

    samples: int
    outputs: int
    normalized: bool
    eigenvalues: Array
    stderr: Array | None
    floor: float
    trace: float
    rank: int
    effective_rank: float
    effective_rank_stderr: float
    modes: Array
    groups: GroupSpectra | None = None
    targets: TargetSpectrum | None = None


def analyze(
    kernel: Kernel,
    *,
    groups: Any = None,
    names: Sequence[str] | None = None,
    targets: Any = None,
    normalize: bool = True,
    ridge: float = 0.0,
) -> Spectrum:
    """The spectrum of a kernel, by groups of samples, and against targets.

    Args:
        kernel: of samples with themselves.
        groups: number of the group of every sample ``[n]``, from 0; -1 for none.
        names: of the groups.
        targets: classes ``[n]`` or ``[n, 1]`` (whole numbers or names) or values ``[n]``, ``[n, d]``.
        normalize: bring entries to cosines first. Not for full blocks.
        ridge: δ of the regression on targets, in units of the entries.

    Raises:
        InputError: the kernel is of different samples on its two sides, is not positive semi-definite, or holds NaN;
            groups or targets do not fit.
    """
    if not isinstance(kernel, Kernel):
        raise InputError(f"a spectrum is of a genkernel.Kernel, not of {type(kernel).__name__}")
    if kernel.values.dim() == 4:
        normalize = False
    if normalize and not kernel.is_normalized:
        kernel = _cosines(kernel)
    if not kernel.values.any():
        raise InputError("the kernel is zero: no parameter moves an output of these samples")
    whole = mercer_decomposition(kernel)
    keep = min(SHOWN, len(whole.values))
    return Spectrum(
        samples=whole.samples,
        outputs=whole.outputs,
        normalized=kernel.is_normalized,
        eigenvalues=whole.values.numpy(),
        stderr=None if whole.stderr is None else whole.stderr.numpy(),
        floor=whole.floor,
        trace=whole.trace,
        rank=whole.rank,
        effective_rank=whole.effective_rank,
        effective_rank_stderr=effective_rank_error(kernel.values, kernel.per_probe),
        modes=whole.modes[:, :keep].numpy().copy(),
        groups=None if groups is None else group_spectra(kernel, groups, names=names, whole=whole),
        targets=None if targets is None else target_spectrum(kernel, whole, targets, ridge=ridge),
    )


def target_spectrum(kernel: Kernel, whole: Mercer, targets: Any, *, ridge: float = 0.0) -> TargetSpectrum:
    """How targets lie in the modes of a kernel.

    Args:
        kernel: of n samples with themselves, one number per pair.
        whole: all of its modes.
        targets: classes ``[n]`` or values ``[n]``, ``[n, d]``.
        ridge: δ.

    Raises:
        InputError: targets do not fit, are not finite, or are all the same.
    """
    given = as_labels(targets, "targets")
    if whole.outputs != 1:
        raise InputError("targets are compared with kernels of one number per pair: not with full blocks")
    if not given.dim() or len(given) != whole.samples:
        raise InputError(
            f"targets are of {len(given) if given.dim() else 0} samples, and the kernel is of {whole.samples}"
        )
    classes = given.dim() == 1 and not given.is_floating_point()
    values = torch.nn.functional.one_hot(given.unique(return_inverse=True)[1]) if classes else given
    y = values.double().reshape(len(given), -1)
    if not torch.isfinite(y).all():
        raise InputError("targets have NaN or infinite entries")
    y = y - y.mean(0)
    variance = float(y.square().sum()) / len(y)
    if not variance:
        raise InputError("the targets are the same for all samples: there is nothing to learn")
    v = whole.coefficients(y).numpy()
    power = (v**2).sum(1) / variance
    # without a ridge the expected error is infinite where there are as many samples as modes
    sizes = [n for n in _sizes(len(y)) if ridge or n != whole.rank]
    if not sizes:
        raise InputError(f"{len(y)} samples are too few to say what {whole.rank} mode(s) teach: give more, or a ridge")
    curve = predict_risk(whole, y, sizes, ridge=ridge, reference="sample")
    draw = np.random.default_rng(0)
    shuffles = [torch.from_numpy(draw.permutation(len(y))) for _ in range(SHUFFLES)]
    learned = [
        predict_risk(whole, y[order], sizes[-1], ridge=ridge, reference="sample").learnability for order in shuffles
    ]
    Y = y @ y.T
    return TargetSpectrum(
        kind="classes" if classes else "values",
        outputs=y.shape[1],
        alignment=kernel_target_alignment(kernel, Y),
        alignment_shuffled=float(np.mean([kernel_target_alignment(kernel, Y[order][:, order]) for order in shuffles])),
        alignment_cka=cka(kernel, Y) if len(y) >= 4 else math.nan,
        power=power,
        samples=curve.samples,
        learnability=curve.learnability,
        shuffled=np.percentile(learned, [2.5, 97.5]),
        test_mse=curve.test_mse / variance,
        test_mse_stderr=curve.stderr / variance,
        kappa=curve.kappa,
        notes=list(curve.notes),
    )


def _sizes(n: int) -> list[int]:
    """Powers of two up to half of the samples, which are taken as a sample of all that there are."""
    return [2**k for k in range(2, int(math.log2(max(1.0, FEW * n))) + 1)] or [max(1, n // 2)]


def _cosines(kernel: Kernel) -> Kernel:
    """Entries over √(k(x, x) k(y, y)), which leaves a Gram matrix a Gram matrix.

    Without the correction of the probes' bias that :meth:`~genkernel.Kernel.normalized` makes: it does not. In the
    place of the probes' kernels stand jackknife pseudo-values, q C - (q - 1) C_p with C_p the cosines without probe p:
    their spread is the error of C, in which what all entries have in common with their norms cancels.
    """
    per_probe = kernel.per_probe
    whole = cosines(kernel.values, kernel.norms_x, kernel.norms_y)
    if per_probe is not None and len(per_probe) > 1 and kernel.per_probe_norms_x is not None:
        q, parts = len(per_probe), (per_probe, kernel.per_probe_norms_x, kernel.per_probe_norms_x)
        totals = kernel.values, kernel.norms_x, kernel.norms_x
        per_probe = torch.stack([q * whole - (q - 1) * cosines(*without(p, totals, parts)) for p in range(q)])
    else:
        per_probe = None
    return replace(
        kernel,
        values=whole,
        per_probe=per_probe,
        norms_x=(kernel.norms_x > 0).double(),
        norms_y=(kernel.norms_y > 0).double(),
        layers={},
        is_normalized=True,
    )
