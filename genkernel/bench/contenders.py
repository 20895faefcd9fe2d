"""Who is compared: genkernel, the ways PyTorch alone offers, and the floor of one plain step.

A contender turns a problem into a function of no arguments that computes the whole kernel from
scratch. Products of gradients are in float32 for all but genkernel's default, as a user would
write them. Third-party packages are in :mod:`genkernel.bench.peers`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from genkernel.bench.workloads import Problem
from genkernel.tangent import batches

Setting = dict[str, Any]


@dataclass
class Outcome:
    """What one run gave: values ``[n, n]`` (None for the floor) and, where known, seconds by part."""

    values: Tensor | None
    timing: dict[str, float] = field(default_factory=dict)


Run = Callable[[], Outcome]


class UnsupportedError(RuntimeError):
    """A peer that cannot compute this kernel, and why."""


def no_settings(problem: Problem) -> list[Setting]:
    return [{}]


def chunks(problem: Problem) -> list[Setting]:
    """Chunk sizes worth trying: the whole batch and its halves down to a sixteenth, smallest first."""
    sizes = sorted({-(-problem.n // 2**k) for k in range(5)})
    return [{"chunk": size} for size in sizes]


@dataclass(frozen=True)
class Contender:
    """One way to compute the kernel.

    Attributes:
        name: for tables and the command line.
        what: one line for readers.
        prepare: (problem, setting) → the function that is timed.
        settings: those worth trying; the fastest is used.
        package: the distribution it needs besides genkernel.
        kernel: False for the floor, which computes no kernel.
        tolerance: the relative error above which its kernel is wrong.
        device: the kind of device it makes sense on; None for any.
    """

    name: str
    what: str
    prepare: Callable[[Problem, Setting], Run]
    settings: Callable[[Problem], list[Setting]] = no_settings
    package: str | None = None
    kernel: bool = True
    tolerance: float = 1e-3
    device: str | None = None


# ------------------------------------------------------------------------------ genkernel


def _genkernel(
    accumulate: str, share: float | None = None, again: bool = False, **further: Any
) -> Callable[[Problem, Setting], Run]:
    def prepare(problem: Problem, setting: Setting) -> Run:
        from genkernel.tangent.engine import kernel
        from genkernel.tangent.model import TangentModel
        from genkernel.tangent.probe import examine

        if lacking := set(further) - set(inspect.signature(kernel).parameters):
            raise UnsupportedError(f"gk.kernel has no option {', '.join(sorted(lacking))}")
        model = TangentModel(problem.module, call=problem.call)
        options = {"by": None, "accumulate": accumulate, "progress": False, **further}
        if share is not None:
            options["memory"] = int(share * 4 * problem.n * problem.numel)
        if again:
            options["coverage"] = examine(model, problem.batch)

        def run() -> Outcome:
            K = kernel(model, problem.batch, cotangents=problem.cotangents, **options)
            timing = K.meta.get("timing") or {}
            return Outcome(K.values, {part: float(seconds) for part, seconds in timing.items()})

        return run

    return prepare


# -------------------------------------------------------------------------- torch as it is


def _step(problem: Problem, setting: Setting) -> Run:
    parameters = list(problem.parameters.values())

    def run() -> Outcome:
        scalars = problem.scalars(problem.call(problem.module, problem.batch)).sum(0)
        for k in range(len(scalars)):
            torch.autograd.grad(scalars[k], parameters, retain_graph=k + 1 < len(scalars))
        return Outcome(None)

    return run


def _loop(problem: Problem, setting: Setting) -> Run:
    parameters = list(problem.parameters.values())

    def run() -> Outcome:
        rows = torch.empty(problem.n, len(problem.vectors), problem.numel, device=problem.device)
        for i in range(problem.n):
            sample = batches.take(problem.batch, slice(i, i + 1))
            scalars = problem.scalars(problem.call(problem.module, sample))[0]
            for k in range(len(scalars)):
                grads = torch.autograd.grad(scalars[k], parameters, retain_graph=k + 1 < len(scalars))
                torch.cat([g.reshape(-1) for g in grads], out=rows[i, k])
        flat = rows.flatten(1)
        return Outcome(problem.scale * (flat @ flat.T))

    return run


def single(problem: Problem) -> tuple[Callable[[Any, Any], Tensor], dict[str, Tensor]]:
    """f(parameters, sample) → ``[q]`` for ``torch.func``, and the parameters."""

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = problem.module

        def forward(self, sample: Any) -> Tensor:
            return problem.call(self.module, sample)

    caller = Caller()
    buffers = {f"module.{name}": b for name, b in problem.module.named_buffers()}

    def function(parameters: dict[str, Tensor], sample: Any) -> Tensor:
        one = {k: v[None] for k, v in sample.items()} if isinstance(sample, dict) else sample[None]
        return problem.scalars(functional_call(caller, (parameters, buffers), (one,)))[0]

    return function, {f"module.{name}": p.detach() for name, p in problem.parameters.items()}


def _vmap(problem: Problem, setting: Setting) -> Run:
    function, parameters = single(problem)

    def run() -> Outcome:
        total = torch.zeros(problem.n, problem.n, device=problem.device)
        for k in range(len(problem.vectors)):
            each = vmap(grad(lambda p, x, k=k: function(p, x)[k]), in_dims=(None, 0), chunk_size=setting["chunk"])
            for g in each(parameters, problem.batch).values():
                flat = g.flatten(1)
                total.addmm_(flat, flat.T)
        return Outcome(problem.scale * total)

    return run


def _jacobian(problem: Problem, setting: Setting) -> Run:
    """``empirical_ntk_jacobian_contraction`` of PyTorch's tutorial "Neural Tangent Kernels", one side computed once."""
    function, parameters = single(problem)

    def run() -> Outcome:
        jacobians = vmap(jacrev(function), in_dims=(None, 0), chunk_size=setting["chunk"])(parameters, problem.batch)
        terms = [torch.einsum("Naf,Maf->NM", j.flatten(2), j.flatten(2)) for j in jacobians.values()]
        return Outcome(problem.scale * torch.stack(terms).sum(0))

    return run


def _products(problem: Problem, setting: Setting) -> Run:
    """``empirical_ntk_ntk_vps`` of the same tutorial: a vjp and a jvp per pair of samples."""
    function, parameters = single(problem)

    def pair(x: Any, y: Any) -> Tensor:
        pulled: Any = vjp(lambda p: function(p, x), parameters)
        out, pull = pulled

        def column(vector: Tensor) -> Tensor:
            return jvp(lambda p: function(p, y), (parameters,), pull(vector))[1]

        return vmap(column)(torch.eye(len(out), dtype=out.dtype, device=out.device))

    def run() -> Outcome:
        each = vmap(vmap(pair, (None, 0)), (0, None), chunk_size=setting["chunk"])
        blocks = each(problem.batch, problem.batch)
        return Outcome(problem.scale * torch.einsum("NMKK->NM", blocks))

    return run


OWN = (
    Contender("genkernel", "gk.kernel as it comes: products summed in float64", _genkernel("float64")),
    Contender("genkernel-float32", 'gk.kernel(accumulate="float32")', _genkernel("float32")),
)
AGAIN = (
    Contender("genkernel-again", "a further call, spared the proof by coverage=", _genkernel("float64", again=True)),
    Contender("genkernel-float32-again", "both of these options", _genkernel("float32", again=True)),
    Contender(
        "genkernel-float32-third",
        "with memory= a third of what samples × parameters take",
        _genkernel("float32", 1 / 3),
    ),
)
FLOOR = Contender(
    "step", "one forward, one backward with weight gradients per cotangent: the floor", _step, kernel=False
)
TORCH = (
    Contender("loop", "a loop of torch.autograd.grad over samples, one matrix product", _loop),
    Contender("vmap", "torch.func: vmap(grad)", _vmap, chunks),
    Contender("jacobian", "torch.func: jacrev, contracted (PyTorch's tutorial)", _jacobian, chunks),
    Contender(
        "products", "torch.func: a vjp and a jvp per pair (PyTorch's tutorial)", _products,
        lambda problem: [{"chunk": size} for size in sorted({1, min(4, problem.n)})],
    ),
)  # fmt: skip


@contextmanager
def _tf32() -> Iterator[None]:
    """Matrix products and convolutions in TF32 on CUDA."""
    backends: Any = torch.backends
    value: Any = True
    homes, name = [backends.cuda.matmul, backends.cudnn], "allow_tf32"
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # torch from 2.9 on
        homes, name, value = [backends.cuda.matmul, backends.cudnn.conv], "fp32_precision", "tf32"
    before = [getattr(home, name) for home in homes]
    try:
        for home in homes:
            setattr(home, name, value)
        yield
    finally:
        for home, old in zip(homes, before, strict=True):
            setattr(home, name, old)


def _in_tf32(contender: Contender) -> Contender:
    def prepare(problem: Problem, setting: Setting) -> Run:
        run = contender.prepare(problem, setting)

        def reduced() -> Outcome:
            with _tf32():
                return run()

        return reduced

    return replace(
        contender, name=f"{contender.name}-tf32", what=f"{contender.what}, in TF32", prepare=prepare, tolerance=3e-2,
        device="cuda",
    )  # fmt: skip


TF32 = (
    Contender(
        "genkernel-tf32", "gk.kernel with TF32 allowed", _genkernel("float32", tf32=True), tolerance=3e-2, device="cuda"
    ),
    *(_in_tf32(contender) for contender in (FLOOR, TORCH[0], TORCH[1])),
)
