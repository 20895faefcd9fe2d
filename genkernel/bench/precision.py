"""Which modes of a kernel survive which precision: ranks and noise floors on the papers' CNN (W1)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.bench import truth
from genkernel.bench.record import SCHEMA_VERSION, provenance
from genkernel.bench.roster import find
from genkernel.bench.workloads import WORKLOADS, Problem
from genkernel.tangent import TangentModel, kernel

Say = Callable[[str], None]

#: ranks count the eigenvalues above these shares of the largest
TOLERANCES = (1e-12, 1e-9, 1e-6)
#: an eigenvalue that is off by more than this share of itself is noise
NOISE = 0.1
#: shares of the way from one image to another on which samples lie: the nearer, the faster the spectrum decays
SHARES = (1.0, 0.1, 0.01)
TRAINING_STEPS = 200


# ------------------------------------------------------------------------------ ways


def _engine(**options: Any) -> Callable[[Problem], Tensor]:
    def compute(problem: Problem) -> Tensor:
        model = TangentModel(problem.module, call=problem.call)
        options_ = {"cotangents": problem.cotangents, "by": None, "progress": False, **options}
        return kernel(model, problem.batch, **options_).values

    return compute


def _gram(problem: Problem) -> Tensor:
    values = find("loop").prepare(problem, {})().values
    assert values is not None
    return values


REFERENCE = "reference"
CLAIM = "float32, float64 sums"

#: name → how the kernel is computed
WAYS: dict[str, Callable[[Problem], Tensor]] = {
    REFERENCE: truth.kernel,
    "float64": _engine(dtype="float64"),
    CLAIM: _engine(),
    "float32, float32 sums": _engine(accumulate="float32"),
    "float32 J Jᵀ": _gram,
    "bfloat16, float64 sums": _engine(dtype="bfloat16"),
}


# ------------------------------------------------------------------------- questions


@dataclass(frozen=True)
class Question:
    """One kernel: weights and samples, in words, and the problem."""

    weights: str
    samples: str
    problem: Problem


def questions(n: int, **sizes: Any) -> Iterator[Question]:
    """W1 with random and with trained weights, on images that have nothing to do with each other and on near ones.

    Args:
        n: samples; of the digits, as many as are shipped.
        sizes: as for ``WORKLOADS["W1"].problem``.
    """
    problem = WORKLOADS["W1"].problem(n=max(n, 2), **sizes)
    yield from _questions("random", problem, n)
    images, labels = _digits(problem)
    module = _trained(problem.module, images, labels)
    yield from _questions("trained", replace(problem, module=module, batch=images), n)


def _questions(weights: str, problem: Problem, n: int) -> Iterator[Question]:
    yield Question(weights, "images", replace(problem, batch=problem.batch[:n]))
    first, second = problem.batch[:2]
    steps = torch.linspace(0, 1, n).view(-1, *[1] * first.dim())
    for share in SHARES:
        batch = first + share * steps * (second - first)
        yield Question(weights, f"{share:.0%} of a segment", replace(problem, batch=batch))


def _digits(problem: Problem) -> tuple[Tensor, Tensor]:
    """The shipped digits at the size of the problem's images, of as many classes as it has outputs."""
    from genkernel import assets
    from genkernel.data import load_images

    found = load_images(assets.path("mnist-16.npz"), size=problem.batch.shape[-1], channels=problem.batch.shape[1])
    assert found.labels is not None
    keep = found.labels < problem.vectors.shape[-1]
    return found.images[keep], found.labels[keep].long()


def _trained(module: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    """A copy after Adam on all images at once; the user's random state is left alone."""
    net = copy.deepcopy(module).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        for _ in range(TRAINING_STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return net.eval()


# --------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Figures:
    """What is measured of one kernel beside the reference.

    Attributes:
        error: relative Frobenius distance.
        ranks: eigenvalues above each of ``TOLERANCES`` times the largest.
        floor: the largest eigenvalue of the reference that is missed by more than ``NOISE``, relative to the
            largest of all; None when there is none.
        lowest: the smallest eigenvalue, relative to the largest.
    """

    error: float
    ranks: tuple[int, ...]
    floor: float | None
    lowest: float


def figures(values: Tensor, reference: Tensor) -> Figures:
    """Compare a kernel ``[n, n]`` with the reference; both are symmetric."""
    found, true = (torch.linalg.eigvalsh(k.detach().double().cpu()) for k in (values, reference))
    missed = true[(found - true).abs() > NOISE * true.abs()]
    top, true_top = float(found[-1]), float(true[-1])
    return Figures(
        error=truth.relative_error(values, reference),
        ranks=tuple(int((found > tolerance * top).sum()) for tolerance in TOLERANCES),
        floor=float(missed.max()) / true_top if len(missed) else None,
        lowest=float(found[0]) / top,
    )


def check(counts: Iterable[int], say: Say = lambda message: None, **sizes: Any) -> dict[str, Any]:
    """Every question at every number of samples, in every way, as a record.

    Args:
        sizes: as for :func:`questions`.
    """
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "precision",
        "what": "W1, trace kernel over all outputs. reference: a loop of autograd.grad in float64. error: relative "
        "Frobenius distance from it; ranks: eigenvalues above the tolerances, relative to the largest; floor: the "
        f"largest eigenvalue of the reference that is missed by more than {NOISE:.0%}, lowest: the smallest "
        "eigenvalue, both relative to the largest",
        "tolerances": TOLERANCES,
        "provenance": provenance(torch.device("cpu")),
        "rows": [],
    }
    for count in counts:
        for question in questions(count, **sizes):
            reference: Tensor | None = None
            for way, compute in WAYS.items():
                started = time.perf_counter()
                values = compute(question.problem)
                seconds = time.perf_counter() - started
                reference = values if reference is None else reference
                row = {"weights": question.weights, "samples": question.samples, "n": question.problem.n, "way": way}
                row |= {**asdict(figures(values, reference)), "seconds": seconds}
                record["rows"].append(row)
                say(line(row))
    return record


HEAD = (
    f"{'weights':9}{'samples':20}{'n':>4}  {'gradients, sums':24}{'error':>9}"
    + "".join(f"{f'>{tolerance:.0e}':>8}" for tolerance in TOLERANCES)
    + f"{'floor':>9}{'lowest':>10}{'s':>8}"
)


def line(row: dict[str, Any]) -> str:
    """A row for a terminal."""
    ranks = "".join(f"{rank:8d}" for rank in row["ranks"])
    floor = "none" if row["floor"] is None else f"{row['floor']:.0e}"
    return (
        f"{row['weights']:9}{row['samples']:20}{row['n']:4d}  {row['way']:24}{row['error']:9.0e}{ranks}"
        f"{floor:>9}{row['lowest']:10.0e}{row['seconds']:8.3g}"
    )


def broken(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of float32 gradients with float64 sums whose ranks are not the reference's."""
    true = {_key(row): row["ranks"] for row in record["rows"] if row["way"] == REFERENCE}
    return [row for row in record["rows"] if row["way"] == CLAIM and tuple(row["ranks"]) != tuple(true[_key(row)])]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["weights"], row["samples"], row["n"]
