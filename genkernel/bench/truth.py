"""The kernel every contender is checked against: the naive loop in float64.

Rows of several gigabytes are avoided by taking the parameters in groups, one pass over the
samples per group. The result is kept on disk under a digest of everything it depends on.
"""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from genkernel.bench.workloads import Problem
from genkernel.runs import write_atomic
from genkernel.tangent import batches


def kernel(problem: Problem, memory: int = 4 << 30) -> Tensor:
    """K ``[n, n]`` in float64 by one ``autograd.grad`` per sample and cotangent.

    Args:
        memory: bound on the bytes of gradients held at once.
    """
    module = copy.deepcopy(problem.module).double().eval().requires_grad_(False)
    vectors = problem.vectors.double().flatten(1)
    batch = batches.move(problem.batch, problem.device, torch.float64)
    named = dict(module.named_parameters())
    total = torch.zeros(problem.n, problem.n, dtype=torch.float64, device=problem.device)
    room = max(1, memory // (8 * problem.n * len(vectors)))
    for group in _groups({name: p.numel() for name, p in named.items()}, room):
        parameters = [named[name].requires_grad_(True) for name in group]
        width = sum(p.numel() for p in parameters)
        rows = torch.empty(problem.n, len(vectors), width, dtype=torch.float64, device=problem.device)
        for i in range(problem.n):
            sample = batches.copy(batches.take(batch, slice(i, i + 1)))
            scalars = vectors @ problem.call(module, sample).flatten()
            for k in range(len(scalars)):
                grads = torch.autograd.grad(scalars[k], parameters, retain_graph=k + 1 < len(scalars))
                torch.cat([g.reshape(-1) for g in grads], out=rows[i, k])
        flat = rows.flatten(1)
        total.addmm_(flat, flat.T)
        for p in parameters:
            p.requires_grad_(False)
    return problem.scale * total.cpu()


def _groups(sizes: dict[str, int], room: int) -> Iterator[list[str]]:
    """Parameters in order, in groups of at most ``room`` entries (or one parameter)."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > room:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def digest(problem: Problem) -> str:
    """sha256 over weights, buffers, samples and cotangents; the network's code stands for itself by its names."""
    found = hashlib.sha256(repr(problem.module).encode())
    for name, tensor in problem.module.state_dict().items():
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(_bytes(tensor))
    for tensor in (*batches.tensors(problem.batch), problem.vectors):
        found.update(_bytes(tensor))
    found.update(str(problem.scale).encode())
    return found.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def stored(problem: Problem, folder: Path) -> tuple[Tensor, Path]:
    """The truth and the file that holds it, computed only when the file is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"truth-{digest(problem)[:24]}.pt"
    if path.is_file():
        return read(path), path
    values = kernel(problem)
    stream = io.BytesIO()
    torch.save(values, stream)
    write_atomic(path, stream.getvalue())
    return values, path


def read(path: Path) -> Tensor:
    return torch.load(path, weights_only=True)


def relative_error(values: Tensor, truth: Tensor) -> float:
    """‖K − K₀‖ / ‖K₀‖ in the Frobenius norm; infinite for NaN."""
    error = float((values.detach().double().cpu() - truth).norm() / truth.norm())
    return error if error == error else float("inf")
