"""The leading modes of a kernel over many samples: through products, within a memory budget, and from the matrix."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.bench.memory import peak_memory
from genkernel.bench.record import SCHEMA_VERSION, provenance
from genkernel.tangent.plan import parse_memory

WIDTH, STEPS, BATCH = 256, 300, 128


def network(x: Tensor, y: Tensor, seed: int = 0) -> nn.Module:
    """A perceptron of one output that was trained for a moment to tell odd digits from even ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(STEPS):
            at = torch.randint(len(x), (BATCH,))
            optimizer.zero_grad()
            (net(x[at])[:, 0] - y[at]).square().mean().backward()
            optimizer.step()
    return net


def measure(
    images: Tensor,
    labels: Tensor,
    modes: int,
    memory: str,
    *,
    dense: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time, memory and errors of the leading modes of the kernel over all images.

    Args:
        images: ``[n, C, H, W]``.
        labels: digits ``[n]``.
        modes: how many.
        memory: bound for the operator.
        dense: also take the modes from the whole matrix, to compare.
        say: called with a line for each part.

    Returns:
        Everything that JSON can hold. ``within`` says whether the peak stayed below the budget.
    """
    from genkernel.spectra import mercer_decomposition
    from genkernel.tangent import kernel, operator
    from genkernel.tangent.cotangents import output

    net = network(images, (labels % 2).float() * 2 - 1)
    operator(net, images[:16]).eigsh(2)  # what libraries load once belongs to nobody
    with peak_memory(torch.device("cpu")) as peak:
        started = time.perf_counter()
        op = operator(net, images, memory=memory, progress=False)
        found = mercer_decomposition(op, modes)
        seconds = time.perf_counter() - started
    budget = parse_memory(memory)
    error = float((found.residuals / found.values).max())
    say(f"products: {seconds:.0f} s, peak {(peak.host or 0) / 2**20:.0f} MiB of {memory}, residuals {error:.1e}")
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(torch.device("cpu")),
        "samples": len(images),
        "modes": modes,
        "parameters": sum(p.numel() for p in net.parameters()),
        "memory": memory,
        "seconds": seconds,
        "peak_bytes": peak.host,
        "within": peak.host is None or peak.host <= budget,
        "matrix_bytes": 8 * len(images) ** 2,
        "eigenvalues": found.values.tolist(),
        "largest_relative_residual": error,
        "dense": None,
    }
    if dense:
        with peak_memory(torch.device("cpu")) as peak:
            started = time.perf_counter()
            K = kernel(net, images, cotangents=output(0), progress=False).values
            built = time.perf_counter() - started
            exact = _leading(K, modes) / len(images)
            seconds = time.perf_counter() - started
        off = float(((found.values - exact).abs() / exact).max())
        record["dense"] = {
            "seconds": seconds,
            "seconds_matrix": built,
            "peak_bytes": peak.host,
            "largest_relative_difference": off,
        }
        say(f"matrix: {seconds:.0f} s, peak {(peak.host or 0) / 2**20:.0f} MiB; eigenvalues differ by {off:.1e}")
    return record


def _leading(K: Tensor, modes: int) -> Tensor:
    from scipy.sparse.linalg import eigsh

    values = eigsh(K.numpy(), k=modes, which="LA", return_eigenvectors=False)
    return torch.from_numpy(values.copy()).flip(0)
