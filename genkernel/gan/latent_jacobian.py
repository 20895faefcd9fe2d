"""Latent Jacobians J_z = ∂G/∂z: how a generator stretches its latent space (THEORY §7).

Singular values σ of J_z at each latent, and what is read off them: condition number σ_1/σ_d, log-volume
Σ log σ, effective rank e^{H(σ²/Σσ²)} and the metric J_zᵀ J_z with the length of paths in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import InputError
from genkernel.gan.generator import Generator
from genkernel.tangent import batches
from genkernel.tangent.input_jacobian import InputJacobian
from genkernel.tangent.plan import parse_memory

Array = NDArray[np.float64]

EXACT_UP_TO = 256  # singular values that are found one by one: min(d_z, outputs)


@dataclass
class LatentSpectra:
    """Singular values of J_z and what follows from them, float64.

    Attributes:
        singular_values: ``[n, k]``, in decreasing order; k = min(d_z, O) when exact.
        exact: all of them; otherwise the k largest, by random projection where there are more than 256.
        log_volume: Σ log σ ``[n]``, where a σ below the noise of the run counts as that noise: an upper bound for
            those (see ``rank``), −∞ where all are zero. Over the k largest when not exact.
        condition_number: σ_1/σ_k ``[n]``; infinite where σ_k is noise.
        effective_rank: e^{H(σ²/Σσ²)} ``[n]``.
        rank: ``[n]`` singular values above the noise of the run.
        latents: ``[n]`` positions in the batch they were computed at.
        noise: relative to the largest, singular values below it are rounding.
        method: how J_z was multiplied: ``"backward"``, or the verified route to J·u.
    """

    singular_values: Array
    exact: bool
    log_volume: Array
    condition_number: Array
    effective_rank: Array
    rank: NDArray[np.int64]
    latents: NDArray[np.int64]
    noise: float
    method: str = ""

    def by_cluster(self, labels: NDArray[np.int64], clusters: int) -> dict[str, Array]:
        """Medians per cluster ``[clusters]``; NaN where a cluster has no latent among these.

        Args:
            labels: cluster of every latent of the whole batch.

        Raises:
            InputError: there are fewer labels than latents in the batch.
        """
        if len(labels) <= self.latents.max():
            raise InputError(f"latent {self.latents.max()} has no cluster: there are {len(labels)} labels")
        mine = labels[self.latents]
        found = {}
        for name in ("log_volume", "condition_number", "effective_rank"):
            values = getattr(self, name)
            found[name] = np.array(
                [np.median(values[mine == c]) if (mine == c).any() else math.nan for c in range(clusters)]
            )
        return found


def latent_jacobian(generator: Generator, batch: dict[str, Any], **options: Any) -> InputJacobian:
    """J_z of a generator on a batch of latents, by its products; see :class:`InputJacobian`."""
    return InputJacobian(generator.tangent, batch, "z", **options)


def latent_spectra(
    generator: Generator,
    batch: dict[str, Any],
    latents: Any = None,
    *,
    top: int | None = None,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "1GiB",
) -> LatentSpectra:
    """Singular values of J_z at some latents of a batch.

    Args:
        latents: positions in the batch ``[m]``; all by default.
        top: how many singular values; by default all where there are up to 256, and else the 64 largest. Of more than
            256, the largest are found by random projection with one power iteration: exact when the rest is small.
        seed: of the random projection.
        dtype: of the run; by default the generator's own.
        memory: bound on activations, and on the matrices held at a time.

    Raises:
        InputError: no such latent, or more singular values than there are.
        NonFiniteError: an output or a derivative is NaN or infinite.
        CaptureError: no route gives J·u of this network.
    """
    chosen = _positions(latents, batches.size(batch))
    # a quarter for the matrices as they come; the rest for their factors in float64
    jacobian = latent_jacobian(
        generator, batches.take(batch, torch.from_numpy(chosen)), dtype=dtype, memory=max(1, parse_memory(memory) // 4)
    )
    inputs, outputs = math.prod(jacobian.input_shape), math.prod(generator.output_shape)
    most = min(inputs, outputs)
    if top is not None and not 1 <= top <= most:
        raise InputError(f"there are {most} singular values, so top lies in 1 … {most}, not at {top}")
    count = top or (most if most <= EXACT_UP_TO else min(64, most))
    if most <= EXACT_UP_TO or count == most:
        values = np.concatenate([_singular_values(J)[:, :count] for _, J in jacobian.dense()])
    else:
        values = _largest(jacobian, count, outputs, inputs, seed, parse_memory(memory))
    noise = torch.finfo(jacobian.dtype).eps * math.sqrt(max(inputs, outputs))
    method = "backward" if outputs < inputs and most <= EXACT_UP_TO else jacobian.method
    return summarise(values, count == most, noise, chosen, method)


def summarise(values: Array, exact: bool, noise: float, latents: NDArray[np.int64], method: str = "") -> LatentSpectra:
    """What singular values ``[n, k]`` say.

    Args:
        noise: relative to the largest: below it a singular value is rounding.
    """
    largest = values[:, :1]
    real = (values > noise * largest) & (largest > 0)
    safe = np.where(real, values, 1.0)
    with np.errstate(divide="ignore"):
        condition = np.where(real[:, -1], values[:, 0] / safe[:, -1], np.inf)
        volume = np.log(np.maximum(values, noise * largest)).sum(1)
    square = values**2
    total = square.sum(1, keepdims=True)
    p = np.divide(square, total, out=np.zeros_like(square), where=total > 0)
    entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)
    return LatentSpectra(
        singular_values=values,
        exact=exact,
        log_volume=volume,
        condition_number=condition,
        effective_rank=np.where(total[:, 0] > 0, np.exp(entropy), 0.0),
        rank=real.sum(1).astype(np.int64),
        latents=latents,
        noise=noise,
        method=method,
    )


def metric(generator: Generator, batch: dict[str, Any], **options: Any) -> Tensor:
    """The metric tensors J_zᵀ J_z, ``[n, d, d]`` float64: squared lengths of small steps in latent space."""
    parts = [J.double().transpose(1, 2) @ J.double() for _, J in latent_jacobian(generator, batch, **options).dense()]
    return torch.cat(parts)


def path_length(generator: Generator, start: dict[str, Any], end: dict[str, Any], points: int = 33) -> Tensor:
    """∫ ‖J_z ż‖ along straight lines in latent space, ``[n]`` float64, by the trapezoid rule.

    Args:
        start, end: batches of n latents each, alike but for ``z`` (and, in w, for the labels that it was mapped with).
        points: where the speed is evaluated.

    Raises:
        InputError: fewer than two points, or batches that differ in more than their latents.
    """
    if points < 2:
        raise InputError(f"a path needs at least two points, not {points}")
    n = batches.size(start)
    if start.keys() != end.keys() or start["z"].shape != end["z"].shape:
        raise InputError(
            f"a path leads from {n} latents to as many others of the same shape, not from {tuple(start['z'].shape)} to "
            f"{tuple(end['z'].shape)}"
        )
    if "y" in start and generator.space == "z" and not torch.equal(start["y"], end["y"]):
        raise InputError("a path in latent space stays within a class: give both ends the same labels")
    along = torch.linspace(0, 1, points, dtype=torch.float64)
    together = max(1, 1024 // points)  # of the latents, whose whole paths run as one batch
    lengths = []
    for first in range(0, n, together):
        rows = torch.arange(first, min(n, first + together))
        velocity = end["z"][rows] - start["z"][rows]
        steps = along.to(velocity).reshape(-1, *[1] * velocity.dim())
        places = batches.take(start, rows.repeat(points))
        places["z"] = (start["z"][rows] + steps * velocity).flatten(0, 1)
        moved = latent_jacobian(generator, places).jvp(velocity.repeat(points, *[1] * (velocity.dim() - 1)))
        speed = moved.double().flatten(1).norm(dim=1).reshape(points, len(rows))
        lengths.append(torch.trapezoid(speed, dx=1 / (points - 1), dim=0))
    return torch.cat(lengths)


def _singular_values(J: Tensor) -> Array:
    """``[c, min(O, d)]`` float64 from ``[c, O, d]``, through a triangular factor where the matrix is long."""
    J = J.double()
    if J.shape[1] < J.shape[2]:
        J = J.transpose(1, 2)
    if J.shape[1] > 2 * J.shape[2]:
        J = torch.linalg.qr(J, mode="r").R
    return torch.linalg.svdvals(J).cpu().numpy()


def _largest(jacobian: InputJacobian, count: int, outputs: int, inputs: int, seed: int, budget: int) -> Array:
    """The largest singular values by a randomised range finder with a power iteration (Halko et al. 2011, alg. 4.4)."""
    width = min(inputs, outputs, count + max(8, count // 4))
    together = max(1, budget // (4 * 8 * width * max(outputs, inputs)))  # the products, twice, and their factors
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn((inputs, width), generator=draw, dtype=torch.float64)  # the same for every latent
    shape = jacobian.output_shape
    found = []
    for first in range(0, jacobian.n, together):
        part = jacobian.take(slice(first, min(jacobian.n, first + together)))
        V = start.expand(part.n, -1, -1)
        for _ in range(2):
            U = torch.linalg.qr(part.jvps(_columns(V, jacobian.input_shape)).double().flatten(2).transpose(1, 2)).Q
            back = part.vjps(_columns(U, shape)).double().flatten(2).transpose(1, 2)  # [c, d, width]
            V = torch.linalg.qr(back).Q
        found.append(torch.linalg.svdvals(back)[:, :count].cpu().numpy())
    return np.concatenate(found)


def _columns(matrices: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """The columns of ``[c, size, k]`` as k tensors ``[c, *shape]``."""
    return [column.reshape(-1, *shape) for column in matrices.unbind(2)]


def _positions(latents: Any, n: int) -> NDArray[np.int64]:
    if latents is None:
        return np.arange(n)
    chosen = np.asarray(latents)
    if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
        raise InputError(f"latents are positions in the batch, at least one, not {chosen.dtype} of {chosen.shape}")
    if chosen.min() < 0 or chosen.max() >= n:
        raise InputError(f"positions of latents lie in 0 … {n - 1}, these reach from {chosen.min()} to {chosen.max()}")
    return chosen.astype(np.int64)
