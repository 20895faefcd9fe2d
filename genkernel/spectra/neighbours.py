"""Whose labels the nearest neighbours have: in the kernel's eyes, and in those of the inputs.

    agreement = mean_i (share of the k nearest of i, without i, with the label of i)
    chance    = Σ_c p_c (n_c - 1) / (n - 1)

Nearest is by the normalised kernel (cosines of tangent features), or by Euclidean distance of the inputs. Ten classes
of ten samples have a chance of 1/11 and not of 1/10, because a sample is not its own neighbour (THEORY §8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.alignment import class_numbers, gram
from genkernel.spectra.arrays import as_tensor, unit_of, whole_number
from genkernel.tangent import Kernel
from genkernel.tangent.result import cosines

TIED = 1e-10  # relative to the largest distance: neighbours this close to the k-th share its place


@dataclass(frozen=True)
class Agreement:
    """How often neighbours share the label.

    Attributes:
        value: mean over samples.
        stderr: standard deviation over samples / √n. Samples share neighbours, so repeat with other samples where it
            matters.
        per_sample: ``[n]``.
    """

    value: float
    stderr: float
    per_sample: Tensor


@dataclass(frozen=True)
class NeighbourAgreement:
    """Neighbours by the kernel and by the inputs, side by side.

    Attributes:
        kernel: by the normalised kernel; None where none was given.
        euclidean: by distances of the inputs; None where none were given.
        chance: of neighbours drawn at random.
        k: neighbours per sample.
    """

    kernel: Agreement | None
    euclidean: Agreement | None
    chance: float
    k: int

    @property
    def gain(self) -> tuple[float, float]:
        """Kernel minus Euclidean, and its standard error from differences sample by sample.

        Raises:
            InputError: only one of the two is there.
        """
        if self.kernel is None or self.euclidean is None:
            raise InputError("a gain is of the kernel over the inputs: give both")
        found = _mean(self.kernel.per_sample - self.euclidean.per_sample)
        return found.value, found.stderr


def knn_label_agreement(kernel: Any, labels: Any, k: int = 10, *, points: Any = None) -> NeighbourAgreement:
    """Mean share of the k nearest that share the label, with the sample itself left out.

    Where several samples are equally far at the k-th place, each counts with the probability that it is among the k
    when ties are broken at random: nothing hangs on the order of the samples.

    Args:
        kernel: symmetric :class:`Kernel`, or Gram matrix ``[n, n]``; it is normalised here. None for points alone. A
            sample without gradient is equally far from all others.
        labels: classes ``[n]``, whole numbers or names.
        k: neighbours, at most n - 1.
        points: inputs ``[n, ...]`` for Euclidean neighbours beside it.

    Raises:
        InputError: nothing to measure by; sizes differ; not finite; k outside 1 … n - 1; labels all alike.
    """
    if kernel is None and points is None:
        raise InputError("neighbours are by a kernel or by points: give one of them")
    k = whole_number(k, "k")
    near = None if kernel is None else cosine_matrix(kernel)
    far = None if points is None else _distances(points)
    n = len(near) if near is not None else len(far)  # type: ignore[arg-type]
    if near is not None and far is not None and len(near) != len(far):
        raise InputError(f"the kernel is of {len(near)} samples and the points are {len(far)}")
    found = class_numbers(labels, n)
    if not 1 <= k <= n - 1:
        raise InputError(f"{n} samples have up to {n - 1} neighbours each, not k = {k}")
    counts = torch.bincount(found).double()
    return NeighbourAgreement(
        kernel=None if near is None else _agreement(1 - near, found, k),
        euclidean=None if far is None else _agreement(far, found, k),
        chance=float((counts * (counts - 1)).sum()) / (n * (n - 1)),
        k=k,
    )


def cosine_matrix(kernel: Any) -> Tensor:
    """The normalised kernel ``[n, n]``: cosines of tangent features, 0 for samples without gradient.

    Raises:
        InputError: as for :func:`genkernel.spectra.alignment.gram`; a negative diagonal.
    """
    if isinstance(kernel, Kernel):
        return gram(kernel.normalized())  # probes: with their bias removed
    K = gram(kernel)
    own = K.diagonal()
    if float(own.min()) < 0:
        raise InputError("the kernel has a negative diagonal: it is no Gram matrix")
    unit = unit_of(K)  # norms are multiplied
    return cosines(K / unit, own / unit, own / unit).clamp(-1, 1)


def _distances(points: Any) -> Tensor:
    t = as_tensor(points, "points").double()
    if t.dim() < 1 or not torch.isfinite(t).all():
        raise InputError("points are finite, one row for each sample")
    flat = t.reshape(len(t), -1) / unit_of(t)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")


def _agreement(distance: Tensor, labels: Tensor, k: int) -> Agreement:
    distance = distance.clone()
    margin = TIED * float(distance.abs().max())
    distance.fill_diagonal_(torch.inf)
    same = (labels[:, None] == labels[None, :]).double()
    last = distance.kthvalue(k, dim=1).values[:, None]
    closer, tied = (distance < last - margin).double(), ((distance - last).abs() <= margin).double()
    places = k - closer.sum(1)
    share = (closer * same).sum(1) + places * (tied * same).sum(1) / tied.sum(1)
    return _mean(share / k)


def _mean(each: Tensor) -> Agreement:
    return Agreement(float(each.mean()), float(each.std()) / len(each) ** 0.5, each)
