"""Numerical ranks of tangent features, and by how much new samples raise them (the rank gap).

    Φ = [φ(x_1) … φ(x_n)],   Φ_mix = [Φ, φ(x*_1) …],   gap = rank Φ_mix - rank Φ ≥ 0
    d(x) = ‖(I - Π) φ(x)‖ / ‖φ(x)‖                       Π onto the span of the training features

with one absolute tolerance τ σ_1(Φ_mix) for both ranks (Definition 5.1 of Guo, He, Morel; THEORY §5). Ranks are of
features, by singular values: eigenvalues of a kernel are their squares, so features below √ε of the largest vanish in
it. Where parameters outnumber the features' rows, every new row generically raises the rank: the gap then counts
rows, and d(x) says how new they are. Whether that is so is measured on the training samples, each left out in turn: a
sample outside of the span of the others did to the rank what the new ones do. Row i is, where e_i lies in the column
space of Φ (leverage 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, unit_of
from genkernel.tangent import Sketch
from genkernel.tangent.model import as_tangent_model
from genkernel.tangent.plan import parse_memory

STEPS = (1e-2, 1.0, 1e2)  # factors of the tolerance over which a gap has to stay the same
_SMALL = 5  # squares of the smaller side that a decomposition by divide and conquer holds
NEAR_CAP = 0.9  # ranks of sketched features from this share of the sketch's size on are refused
_ALONE = 1e-6  # below 1, a leverage is that of a row that others make up, with coefficients of up to a thousand


@dataclass(frozen=True)
class Rank:
    """A numerical rank, and what it was read from.

    Attributes:
        value: singular values above the tolerance.
        tolerance: absolute.
        floor: absolute; singular values below it are rounding.
        singular_values: falling ``[min(rows, P)]``.
        notes: what a reader has to know about the tolerance, in words.
    """

    value: int
    tolerance: float
    floor: float
    singular_values: Tensor
    notes: tuple[str, ...] = ()

    def curve(self, tolerances: Sequence[float] | Tensor) -> Tensor:
        """Ranks ``[t]`` at tolerances relative to the largest singular value."""
        levels = _relative(tolerances) * self.singular_values[0]
        return (self.singular_values[None, :] > levels[:, None]).sum(1)


@dataclass(frozen=True)
class RankGap:
    """By how much new samples raise the rank of the tangent features.

    Attributes:
        gap: rank of the mixture minus that of the training features.
        trained, mixed: the two ranks.
        tolerance: absolute, of both.
        by_factor: factor on the tolerance → gap.
        stable: the gap is the same for all of these.
        vacuous: new rows raise the rank, and so did at least half of the training samples, each added to the others
            (of copies one is counted, of samples without gradient none): the gap counts rows.
        alone: the share of training samples that lie outside of the span of the others, at the tolerance; NaN where
            the gap is 0 and nothing hangs on it.
        directions: orthonormal directions in parameter space ``[gap, P]`` of the mixture's features outside of the
            training features' span; None where the gap is vacuous, or the features are a sketch.
        notes: what a reader has to know, in words.
    """

    gap: int
    trained: Rank
    mixed: Rank
    tolerance: float
    by_factor: dict[float, int]
    stable: bool
    vacuous: bool
    alone: float
    directions: Tensor | None
    notes: tuple[str, ...] = ()

    def curve(self, tolerances: Sequence[float] | Tensor) -> Tensor:
        """Gaps ``[t]`` at tolerances relative to the largest singular value of the mixture."""
        levels = _relative(tolerances) * self.mixed.singular_values[0]
        own, both = ((one.singular_values > levels[:, None]).sum(1) for one in (self.trained, self.mixed))
        return both - own

    @property
    def coordinates(self) -> Tensor:
        """How much of each parameter the new directions hold ``[P]``: 0 to 1, and the gap in sum.

        Raises:
            InputError: there are no directions.
        """
        if self.directions is None:
            raise InputError("a vacuous gap, or one of sketches, has no directions in parameter space")
        return self.directions.square().sum(0)

    def located(self, model: Any, least: float = 0.01) -> list[tuple[str, float]]:
        """The parameters that the gap lives in, by name and index: ``("a[4]", 1.0)``.

        Args:
            model: the one whose features these are, with the same selection of parameters.
            least: shares below it are left out.

        Returns:
            Names and shares, falling; all shares sum to the gap.

        Raises:
            InputError: there are no directions, or the model has another number of parameters.
        """
        shares = self.coordinates
        found = []
        for name, size, first in _layout(model, len(shares)):
            part = shares[first : first + size.numel()]
            for flat in (part >= least).nonzero()[:, 0].tolist():
                place = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(flat), size))
                found.append((f"{name}[{place}]" if len(size) else name, float(part[flat])))
        return sorted(found, key=lambda one: -one[1])

    def by_parameter(self, model: Any) -> dict[str, float]:
        """The same summed over every tensor of parameters: name → share, the gap in sum.

        Raises:
            InputError: as for :meth:`located`.
        """
        shares = self.coordinates
        places = _layout(model, len(shares))
        return {name: float(shares[first : first + size.numel()].sum()) for name, size, first in places}


def numerical_rank(
    features: Tensor | Sketch,
    tolerance: float | None = None,
    *,
    cap: int | None = None,
    memory: str | int = "8GiB",
) -> Rank:
    """Singular values above a tolerance.

    Beside the features it holds a float64 copy of them, where they are not float64, and the QR decomposition's two
    copies of that.

    Args:
        features: one feature per row ``[rows, P]``, any leading axes (sample, output) before P, in the dtype that they
            were computed in: the noise floor follows from it. Or a :class:`Sketch`, which knows its cap.
        tolerance: relative to the largest singular value; by default the larger dimension times the precision.
        cap: the size of the sketch that features were projected to, if they were.
        memory: bound on what is held beside the features (``"8GiB"``, bytes).

    Raises:
        InputError: not finite, no row, more than ``memory`` is needed, or a rank within 10 % of the cap, which then is
            the sketch's and not the features'.
    """
    afford(2, memory, features)
    phi, size, eps, said = _opened(features, cap)
    values = _singular_values(phi)
    floor = max(phi.shape) * eps
    relative = _checked(tolerance, floor)
    return _rank(values, relative * float(values[0]), floor * float(values[0]), eps, size, said)


def tangent_rank_gap(
    trained: Tensor | Sketch,
    new: Tensor | Sketch,
    tolerance: float | None = None,
    *,
    cap: int | None = None,
    memory: str | int = "8GiB",
) -> RankGap:
    """The rank that new samples add (Definition 5.1 of Guo, He, Morel; THEORY §5, algorithm 5A).

    Features of several outputs are stacked: one row per sample and output. For the gap of one output, give its
    features alone, ``trained[:, o]`` and ``new[:, o]``.

    Beside the features it holds float64 copies of those that are not float64, and up to three times the size of the
    mixture in float64: the mixture, its QR decomposition or an orthonormal basis of the training features, and what is
    left of the rows outside of it.

    Args:
        trained: tangent features of training samples ``[n, P]`` or ``[n, O, P]``, or their :class:`Sketch`.
        new: of new samples, likewise.
        tolerance, cap, memory: as for :func:`numerical_rank`, relative to the largest singular value of the mixture.

    Raises:
        InputError: as there; the numbers of parameters differ, or sketches are not of one projection.
    """
    if isinstance(trained, Sketch) != isinstance(new, Sketch):
        raise InputError("a sketch mixes with a sketch: give both samples' features, or both samples' sketches")
    if isinstance(trained, Sketch) and isinstance(new, Sketch):
        if trained.parameters != new.parameters:
            raise InputError("sketches of different parameters do not mix")
        Sketch.merge([trained, new])  # refuses other projections, cotangents, preconditioners and weights
    afford(3, memory, trained, new)
    phi, own_cap, own_eps, said = _opened(trained, cap)
    star, _, new_eps, _ = _opened(new, None)
    if phi.shape[1] != star.shape[1]:
        raise InputError(f"features of {phi.shape[1]} and of {star.shape[1]} parameters do not mix")
    rows, eps = len(phi) + len(star), max(own_eps, new_eps)
    mix_cap = _cap_of(new, rows, cap)
    core = torch.linalg.qr(phi, mode="r")[1] if len(phi) > phi.shape[1] else phi  # the same singular values and span
    own, both = _singular_values(core), _singular_values(torch.cat([core, star]))
    top = float(both[0])
    relative_floor = max(rows, phi.shape[1]) * eps
    floor, absolute = relative_floor * top, _checked(tolerance, relative_floor) * top
    by_factor = {f: int((both > f * absolute).sum()) - int((own > f * absolute).sum()) for f in STEPS}
    before = _rank(own, absolute, floor, eps, own_cap, ())
    after = _rank(both, absolute, floor, eps, mix_cap, said)
    gap = by_factor[1.0]
    held, samples = _alone(phi, _rows_per_sample(trained), before.value, eps) if gap > 0 else (0, 0)
    vacuous = 0 < samples <= 2 * held
    directions = None
    if not vacuous and not isinstance(trained, Sketch):
        directions = _outside(core, star, before.value, gap, floor)
    stable = len(set(by_factor.values())) == 1
    return RankGap(
        gap=gap,
        trained=before,
        mixed=after,
        tolerance=absolute,
        by_factor=by_factor,
        stable=stable,
        vacuous=vacuous,
        alone=held / samples if samples else math.nan,
        directions=directions,
        notes=(*after.notes, *_gap_notes(by_factor, stable, vacuous, absolute, floor, held, samples, star)),
    )


def projection_distance(
    trained: Tensor, new: Tensor, tolerance: float | None = None, *, memory: str | int = "8GiB"
) -> Tensor:
    """d(x): the share of a new feature's length that lies outside of the span of the training features.

    Take this one where tangent features fit into memory: by singular vectors, it keeps all digits, and there is one d
    per row (per output, for ``[m, O, P]``, from the span of all outputs' gradients). :func:`novelty` has the same from
    kernels, for networks whose features do not fit: distances below the root of its tolerance are rounding, and d is
    one per sample over its outputs (``"stacked"``), or of every output in the span of its own (``"each"``). THEORY §5.

    Beside the features it holds float64 copies of those that are not float64, and up to twice the size of all of them
    in float64: an orthonormal basis of the training features, and the new features without their parts in its span.

    Args:
        trained: tangent features of training samples ``[n, P]`` or ``[n, O, P]``.
        new: of new samples ``[m, P]`` or ``[m, O, P]``.
        tolerance, memory: as for :func:`numerical_rank`, of the training features.

    Returns:
        ``[m]`` or ``[m, O]``: 0 inside of the span, 1 orthogonal to it; 0 also where it is below max(rows, P) times the
        precision, which is rounding, and for a feature that is zero.

    Raises:
        InputError: not finite, more than ``memory`` is needed, or the numbers of parameters differ.
    """
    afford(2, memory, trained, new)
    phi, star = rows_of(trained), rows_of(new)
    if phi.shape[1] != star.shape[1]:
        raise InputError(f"features of {phi.shape[1]} and of {star.shape[1]} parameters do not mix")
    values, small, Q = _right_singular(phi)
    eps = max(precision_of_features(trained), precision_of_features(new))
    floor = max(phi.shape) * eps
    relative = _checked(tolerance, floor)
    inside = _basis(small, Q, int((values > relative * float(values[0])).sum()))
    del small, Q
    units = star.abs().amax(1, keepdim=True)  # lengths are of squares
    star = star / torch.where(units > 0, units, 1.0)
    size = star.norm(dim=1)
    found = torch.where(size > 0, _without(star, inside).norm(dim=1) / size.clamp_min(1), 0.0)
    return torch.where(found > floor, found, 0.0).reshape(as_tensor(new, "features").shape[:-1])


# ---------------------------------------------------------------------------------- features


def rows_of(features: Tensor) -> Tensor:
    """``[rows, P]`` in float64.

    Raises:
        InputError: not finite, or empty.
    """
    phi = as_tensor(features, "features")
    if phi.dim() < 2 or not phi.numel():
        raise InputError(f"features have one row per sample [n, P] or [n, O, P], not {tuple(phi.shape)}")
    if phi.is_complex() or not torch.isfinite(phi).all():
        raise InputError("features are real and finite: these have NaN, infinite or complex entries")
    return phi.reshape(-1, phi.shape[-1]).double()


def afford(copies: int, memory: str | int, *features: Tensor | Sketch) -> None:
    """Refuse features of which no copies in float64 fit into a budget, before one is made.

    The singular vectors of the triangle, of the smaller side squared, and what LAPACK needs for them are counted, too.

    Args:
        copies: held in float64 beside the features, those to float64 (where they are of another dtype) not counted.
        memory: the budget (``"8GiB"``, bytes).
        features: all of them.

    Raises:
        InputError: they do not fit.
    """
    given = [f.values if isinstance(f, Sketch) else as_tensor(f, "features") for f in features]
    needed = sum(8 * f.numel() * (copies + (f.dtype != torch.float64)) for f in given)
    columns = max((f.shape[-1] for f in given if f.dim()), default=1) or 1
    needed += 8 * _SMALL * min(columns, sum(f.numel() for f in given) // columns) ** 2
    if needed > parse_memory(memory):
        shapes = " and ".join(str(list(f.shape)) for f in given)
        raise InputError(
            f"features {shapes} need {needed / 2**30:.3g} GiB for copies in float64, more than memory={memory!r}: take "
            "fewer samples or parameters (params=), a sketch or a kernel, or a larger memory="
        )


def precision_of_features(features: Tensor) -> float:
    """The relative rounding error of their dtype; that of float64 for whole numbers."""
    dtype = as_tensor(features, "features").dtype
    return float(torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps)


def floor_note(floor: float, eps: float) -> str | None:
    """What a precision other than float64 means for singular values; None in float64."""
    exact = torch.finfo(torch.float64).eps
    if eps <= exact:
        return None
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    name = next((str(d).removeprefix("torch.") for d in kinds if torch.finfo(d).eps == eps), "low precision")
    return (
        f"in {name} singular values below {floor:.0e} of the largest are rounding; in float64, those below "
        f"{floor * exact / eps:.0e}"
    )


def _opened(features: Tensor | Sketch, cap: int | None) -> tuple[Tensor, int | None, float, tuple[str, ...]]:
    """Rows, cap, precision and notes."""
    if not isinstance(features, Sketch):
        return rows_of(features), cap, precision_of_features(features), ()
    if cap is not None:
        raise InputError("a sketch knows its size: leave cap out")
    rows = rows_of(features.rows.transpose(0, 1))
    d = features.projection.dim
    said = [f"of a sketch: singular values are those of the features up to factors of about 1 ± √(rank/{d})"]
    if features.random:
        said.append("of random probes: the rank is at most samples × probes, however many outputs there are")
    return rows, _cap_of(features, len(rows), None), precision_of_features(features.values), tuple(said)


def _cap_of(features: Tensor | Sketch, rows: int, cap: int | None) -> int | None:
    """The most that a rank can be for reasons that are not the features'."""
    if not isinstance(features, Sketch):
        return cap
    return min(features.projection.dim, rows) if features.random else features.projection.dim


def _rows_per_sample(features: Tensor | Sketch) -> int:
    shape = features.rows.transpose(0, 1).shape if isinstance(features, Sketch) else torch.as_tensor(features).shape
    return math.prod(shape[1:-1])


def _layout(model: Any, count: int) -> list[tuple[str, torch.Size, int]]:
    """Name, shape and first column of every tensor of parameters."""
    parameters = as_tangent_model(model).parameters
    total = sum(p.numel() for p in parameters.values())
    if total != count:
        raise InputError(f"the model has {total} selected parameters, and the features {count} columns")
    places, first = [], 0
    for name, p in parameters.items():
        places.append((name, p.shape, first))
        first += p.numel()
    return places


# -------------------------------------------------------------------------------- tolerances


def _relative(tolerances: Sequence[float] | Tensor) -> Tensor:
    found = as_tensor(tolerances, "tolerances").double().reshape(-1)
    if not len(found) or not bool(((found > 0) & (found < 1)).all()):
        raise InputError("tolerances are relative to the largest singular value, between 0 and 1")
    return found


def _checked(tolerance: float | None, floor: float) -> float:
    """The one that was asked for, or the floor, max(rows, P) ε."""
    if tolerance is None:
        return floor
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is relative to the largest singular value, between 0 and 1, not {tolerance}")
    return float(tolerance)


def _rank(values: Tensor, absolute: float, floor: float, eps: float, cap: int | None, said: tuple[str, ...]) -> Rank:
    rank = int((values > absolute).sum())
    if cap is not None and rank >= NEAR_CAP * cap:
        raise InputError(
            f"a rank of {rank} is within 10 % of the sketch's size, {cap}: it may be the sketch's and not the "
            "features'. Take a larger sketch, or exact features"
        )
    top = float(values[0])
    notes = list(said)
    if not top:
        notes.append("all features are zero: the rank is 0 at any tolerance")
        return Rank(rank, absolute, floor, values, tuple(notes))
    coarse = floor_note(floor / top, eps)
    if coarse:
        notes.append(coarse)
    if absolute < floor * (1 - 1e-9):
        counted = int(((values > absolute) & (values <= floor)).sum())
        notes.append(
            f"the tolerance, {absolute / top:.0e} of the largest singular value, is below the noise floor, "
            f"{floor / top:.0e}"
            + (f": {counted} singular values between them count and are rounding" if counted else "")
        )
    left = int(((values <= absolute) & (values > floor)).sum())
    if left:
        notes.append(
            f"{left} singular values between the noise floor, {floor / top:.0e} of the largest, and the tolerance, "
            f"{absolute / top:.0e}, are resolved and do not count: the rank is one of this tolerance"
        )
    return Rank(rank, absolute, floor, values, tuple(notes))


def _gap_notes(
    by_factor: dict[float, int],
    stable: bool,
    vacuous: bool,
    absolute: float,
    floor: float,
    held: int,
    samples: int,
    star: Tensor,
) -> list[str]:
    notes = []
    if not stable:
        said = ", ".join(f"{gap} at {factor:g} τ" for factor, gap in by_factor.items())
        notes.append(f"tolerance-dependent, not a finding: the gap is {said}")
        if by_factor[1.0] == by_factor[1e2] and STEPS[0] * absolute < floor * (1 - 1e-9):
            notes.append(
                f"it changes only at {STEPS[0]:g} τ, which is below the noise floor and so may be rounding: the gap "
                "at a larger tolerance may be stable"
            )
    if vacuous:
        notes.append(
            f"vacuous: {held} of {samples} training samples lie outside of the span of the others, in {star.shape[1]} "
            f"parameters, so more of the same samples would raise the rank as these {len(star)} rows do; the "
            "projection distance says how new they are"
        )
    elif held:
        notes.append(
            f"{held} of {samples} training samples lie outside of the span of the others, so a share of about "
            f"{held / samples:.0%} of more samples of the same kind would raise the rank, too"
        )
    return notes


# ---------------------------------------------------------------------------- decompositions


def _singular_values(phi: Tensor) -> Tensor:
    return torch.linalg.svdvals(phi if phi.shape[1] <= len(phi) else torch.linalg.qr(phi.T, mode="r")[1])


def _right_singular(phi: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Singular values ``[k]``, and what right singular vectors are made of (:func:`_basis`).

    A wide matrix is turned to a triangle first: by QR, which is backward stable, so no digit is lost, and several times
    as fast as an SVD of the wide matrix.
    """
    wide = phi.shape[1] > len(phi)
    Q, R = torch.linalg.qr(phi.T) if wide else (None, phi.T)
    _, values, Vh = torch.linalg.svd(R.T, full_matrices=False)
    return values, Vh, Q


def _alone(phi: Tensor, each: int, rank: int, eps: float) -> tuple[int, int]:
    """How many samples, of ``each`` rows, lie outside of the span of the others, and of how many.

    Leaving rows out takes as many from the rank as their block of the hat matrix U Uᵀ has eigenvalues 1. Copies of a
    sample are left out together: their blocks add up. U is orthonormal to rounding where small singular values are not
    known, so this is of the rank at the tolerance.
    """
    samples = len(phi) // each
    if rank == len(phi):
        return samples, samples
    one = phi.reshape(samples, -1)
    kind, copies = _copies(one, eps)
    blocks = _left_singular(phi)[:, :rank].reshape(samples, each, rank)
    top = torch.linalg.eigvalsh(blocks @ blocks.mT)[:, -1]
    top = torch.zeros(copies, dtype=top.dtype).scatter_add(0, kind, top)[kind]
    first = torch.full((copies,), samples).scatter_reduce(0, kind, torch.arange(samples), "amin")
    living = first[one[first].any(1)]
    return int((top[living] > 1 - _ALONE).sum()), len(living)


def _copies(one: Tensor, eps: float) -> tuple[Tensor, int]:
    """Which rows are multiples of one another up to rounding: numbers ``[n]``, and how many different ones there are.

    By the directions of three projections of each, on a grid of √ε.
    """
    draw = torch.Generator().manual_seed(0)
    unit = unit_of(one)
    marks = torch.stack([one @ (torch.randn(one.shape[1], generator=draw, dtype=one.dtype) / unit) for _ in range(3)])
    marks = marks / torch.linalg.vector_norm(marks, dim=0).clamp_min(torch.finfo(marks.dtype).tiny)
    leading = marks.gather(0, marks.abs().argmax(0, keepdim=True))
    grid = (marks * torch.where(leading < 0, -1.0, 1.0) / eps**0.5).round()
    found, kind = torch.unique(grid, dim=1, return_inverse=True)
    return kind, found.shape[1]


def _left_singular(phi: Tensor) -> Tensor:
    """Left singular vectors ``[rows, min(rows, P)]``, from a triangle as in :func:`_right_singular`."""
    if phi.shape[1] > len(phi):
        return torch.linalg.svd(torch.linalg.qr(phi.T, mode="r")[1].T)[0]
    Q, R = torch.linalg.qr(phi)
    return Q @ torch.linalg.svd(R)[0]


def _basis(Vh: Tensor, Q: Tensor | None, count: int) -> Tensor:
    """The first right singular vectors ``[P, count]``; no more of them, since all are as large as the features."""
    if Q is None:
        return Vh[:count].T
    return Q if count == Q.shape[1] else Q @ Vh[:count].T  # where all count, Q spans the same


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows without their parts in the span of orthonormal columns; twice, since one pass leaves rounding in it."""
    rows = rows.clone()
    for _ in range(2):
        rows.addmm_(rows @ basis, basis.T, alpha=-1)
    return rows


def _outside(core: Tensor, star: Tensor, rank: int, count: int, floor: float) -> Tensor:
    """The ``count`` strongest directions ``[count, P]`` of new rows, outside of the first ``rank`` of the trained."""
    if not count:
        return star.new_zeros(0, star.shape[1])
    basis = _basis(*_right_singular(core)[1:], rank)
    values, small, Q = _right_singular(_without(star, basis))
    if int((values > floor).sum()) < count:  # training rows below the tolerance are part of what is new
        del small, Q
        values, small, Q = _right_singular(_without(torch.cat([core, star]), basis))
    return (small[:count] if Q is None else (Q @ small[:count].T).T).contiguous()
