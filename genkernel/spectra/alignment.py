"""How a kernel is aligned with targets, or with another kernel: KTA, CKA, neighbours.

    KTA(K, Y) = ⟨K, Y⟩_F / (‖K‖_F ‖Y‖_F)
    CKA(K, L) = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L))

The biased HSIC is tr(K H L H) / (n - 1)², H = I - 11ᵀ/n. It is far from 0 for independent features of more dimensions
than samples; the unbiased one (Song et al., 2012; Nguyen et al., 2021) leaves the diagonals out and is the default. It
may be negative (THEORY §8).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_labels, unit_of
from genkernel.tangent import Kernel


def gram(given: Any, name: str = "kernel") -> Tensor:
    """A Gram matrix ``[n, n]`` in float64: of a :class:`Kernel`, a matrix, or labels.

    Args:
        given: a symmetric kernel or matrix ``[n, n]``; class labels ``[n]`` or ``[n, 1]`` (whole numbers, booleans or
            names: 1 where two samples share theirs); real targets ``[n]`` or ``[n, d]`` with d ≠ n (their inner
            products).

    Raises:
        InputError: it is none of these, not symmetric, or not finite.
    """
    if isinstance(given, Kernel):
        K = given.values
        if K.dim() != 2:
            raise InputError(f"{name} has one number per pair of samples, not blocks {tuple(K.shape)}")
        if not given.symmetric:
            raise InputError(f"{name} is between different samples on its two sides: alignment needs the same")
    else:
        t = as_labels(given, name)
        if not t.dim() or not t.numel():
            raise InputError(f"{name} is a Gram matrix, labels or targets of n samples, not of shape {tuple(t.shape)}")
        if t.dim() == 1 and not t.is_floating_point():
            return (t[:, None] == t[None, :]).double()
        if t.dim() == 4 and t.shape[0] == t.shape[1] and t.shape[2] == t.shape[3]:
            raise InputError(
                f"{name} has one number per pair of samples, not blocks {tuple(t.shape)}; features of this shape are "
                "flattened first: .flatten(1)"
            )
        if t.dim() == 1:
            t = t[:, None]
        t = t.double()
        K = t if t.dim() == 2 and t.shape[0] == t.shape[1] else t.flatten(1) @ t.flatten(1).T
    K = K.detach().double().cpu()
    if not torch.isfinite(K).all():
        raise InputError(f"{name} has NaN or infinite entries")
    off = float((K - K.T).abs().max())
    if off > 1e-6 * float(K.abs().max()):
        raise InputError(f"{name} is not symmetric (by {off:.1e}): alignment is of Gram matrices")
    return (K + K.T) / 2


def class_numbers(labels: Any, samples: int) -> Tensor:
    """Classes 0 … C - 1 ``[n]`` of labels of any whole numbers, or of names.

    Raises:
        InputError: not one whole number or name per sample, or all samples are of one class.
    """
    t = as_labels(labels, "labels")
    if tuple(t.shape) != (samples,):
        raise InputError(f"labels are one per sample, [{samples}], not {tuple(t.shape)}")
    if t.is_floating_point() and not bool((t == t.round()).all()):
        raise InputError("labels are whole numbers, one for each class")
    classes, found = torch.unique(t, return_inverse=True)
    if len(classes) < 2:
        raise InputError("all samples are of one class: there is nothing to tell apart")
    return found


def kernel_target_alignment(kernel: Any, targets: Any) -> float:
    """⟨K, Y⟩_F / (‖K‖_F ‖Y‖_F), between -1 and 1 (Cristianini et al., 2001).

    Args:
        kernel, targets: anything that :func:`gram` takes; one-hot labels and class numbers are the same.

    Raises:
        InputError: as for :func:`gram`; sizes differ; one of them is zero.
    """
    K, Y = _pair(kernel, targets)
    size = float(K.norm() * Y.norm())
    if not size:
        raise InputError("a kernel or the targets are zero: there is nothing to align")
    return float((K * Y).sum()) / size


def cka(one: Any, other: Any, *, unbiased: bool = True) -> float:
    """Centred kernel alignment of two kernels, or of a kernel and targets.

    Args:
        one, other: anything that :func:`gram` takes.
        unbiased: with the unbiased HSIC (n ≥ 4); may be negative.

    Returns:
        NaN where an HSIC of a kernel with itself is not positive (constant kernels, labels all alike).

    Raises:
        InputError: as for :func:`gram`; sizes differ; too few samples.
    """
    K, L = _pair(one, other)
    n = len(K)
    if n < (4 if unbiased else 2):
        raise InputError(f"CKA needs at least {4 if unbiased else 2} samples, not {n}")
    hsic = _unbiased if unbiased else _biased
    own, theirs = hsic(K, K), hsic(L, L)
    rounding = 1e-13 * float(K.square().mean()), 1e-13 * float(L.square().mean())
    if own <= rounding[0] or theirs <= rounding[1]:
        return float("nan")
    return hsic(K, L) / (own * theirs) ** 0.5


def _biased(K: Tensor, L: Tensor) -> float:
    n = len(K)
    return float((_centred(K) * _centred(L)).sum()) / (n - 1) ** 2


def _centred(K: Tensor) -> Tensor:
    return K - K.mean(0, keepdim=True) - K.mean(1, keepdim=True) + K.mean()


def _unbiased(K: Tensor, L: Tensor) -> float:
    n = len(K)
    K, L = K - torch.diag(K.diagonal()), L - torch.diag(L.diagonal())
    k, total = K.sum(1), float(K.sum()) * float(L.sum())
    return float(((K * L).sum() + total / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k * L.sum(1)).sum()) / (n * (n - 3)))


def _pair(one: Any, other: Any) -> tuple[Tensor, Tensor]:
    """Both Gram matrices, over their largest entries: alignments do not know their units, but squares of squares do."""
    K, L = gram(one), gram(other, "the other")
    if K.shape != L.shape:
        raise InputError(f"the two are of {len(K)} and {len(L)} samples: give the same samples, in the same order")
    return K / unit_of(K), L / unit_of(L)
