"""Third-party packages that can compute the kernel, each used as its documentation says.

None is a dependency: whoever is not installed is reported as absent. They run on a copy of the
network whose in-place activations are made ordinary ones, because their module hooks do not
survive in-place writes.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.bench.contenders import Contender, Outcome, Run, Setting, UnsupportedError, chunks
from genkernel.bench.workloads import Problem
from genkernel.tangent import batches


def _own_copy(problem: Problem) -> Problem:
    module = copy.deepcopy(problem.module)
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    return replace(problem, module=module)


def _slices(problem: Problem, size: int) -> list[Any]:
    return [batches.take(problem.batch, slice(i, i + size)) for i in range(0, problem.n, size)]


# ------------------------------------------------------------------------------ nngeometry


def _nngeometry(problem: Problem, setting: Setting) -> Run:
    from nngeometry import GramMatrix, Jacobian
    from nngeometry.object import FMatDense, PFMapDense
    from torch.utils.data import DataLoader, TensorDataset

    problem = _own_copy(problem)
    names = list(problem.batch) if isinstance(problem.batch, dict) else None

    def function(*inputs: Tensor) -> Tensor:
        batch = dict(zip(names, inputs, strict=True)) if names is not None else inputs[0]
        return problem.scalars(problem.call(problem.module, batch))

    def run() -> Outcome:
        loader = DataLoader(TensorDataset(*batches.tensors(problem.batch)), batch_size=setting["chunk"])
        options: dict[str, Any] = {"model": problem.module, "loader": loader, "function": function}
        if setting["route"] == "gram":
            blocks = GramMatrix(representation=FMatDense, **options).to_torch().detach()
            return Outcome(problem.scale * torch.einsum("aNaM->NM", blocks))
        rows = Jacobian(representation=PFMapDense, **options).to_torch().detach()  # [q, n, P]
        return Outcome(problem.scale * sum(r @ r.T for r in rows))

    return run


def _nngeometry_settings(problem: Problem) -> list[Setting]:
    part = -(-problem.n // 4)
    return [
        {"route": "jacobian", "chunk": part},
        {"route": "jacobian", "chunk": problem.n},
        {"route": "gram", "chunk": problem.n},
    ]


# -------------------------------------------------------------------------------- BackPACK


def _extended(problem: Problem) -> Problem:
    """A copy that BackPACK can hook: as it is, or rewritten by its converter where that fails (``out += x``)."""
    from backpack import extend

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = batches.take(problem.batch, slice(0, 2))
        for converter in (False, True):
            found = _own_copy(problem)
            with contextlib.suppress(Exception):
                found.module = extend(found.module, use_converter=converter).eval()
                torch.autograd.grad(found.call(found.module, few).sum(), list(found.parameters.values())[:1])
                return found
        found = _own_copy(problem)
        extend(found.module)
    return found


def _backpack(problem: Problem, setting: Setting) -> Run:
    from backpack import backpack
    from backpack.extensions import BatchGrad

    problem = _extended(problem)
    parameters = problem.parameters

    def run() -> Outcome:
        total = torch.zeros(problem.n, problem.n, device=problem.device)
        for k in range(len(problem.vectors)):
            rows: dict[str, list[Tensor]] = {name: [] for name in parameters}
            for part in _slices(problem, setting["chunk"]):
                with backpack(BatchGrad()):
                    problem.scalars(problem.call(problem.module, part))[:, k].sum().backward()
                for name, p in parameters.items():
                    found = getattr(p, "grad_batch", None)
                    if found is not None:
                        rows[name].append(found.flatten(1))
                        delattr(p, "grad_batch")
                    p.grad = None
            if lacking := [name for name, found in rows.items() if not found]:
                raise UnsupportedError(
                    f"gives no gradients for {len(lacking)} of {len(parameters)} parameters, such as {lacking[0]}"
                )
            for parts in rows.values():
                flat = torch.cat(parts)
                total.addmm_(flat, flat.T)
        return Outcome(problem.scale * total)

    return run


# ---------------------------------------------------------------------------------- traker


def _traker(problem: Problem, setting: Setting) -> Run:
    """Its per-sample gradients without projection: TRAK itself multiplies projected ones."""
    from trak.gradient_computers import FunctionalGradientComputer
    from trak.modelout_functions import AbstractModelOutput
    from trak.utils import vectorize

    problem = _own_copy(problem)
    names = list(problem.batch) if isinstance(problem.batch, dict) else None

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = problem.module

        def forward(self, *inputs: Tensor) -> Tensor:
            batch = dict(zip(names, inputs, strict=True)) if names is not None else inputs[0]
            return problem.scalars(problem.call(self.module, batch))

    class One(AbstractModelOutput):
        def __init__(self, which: int) -> None:
            self.which = which

        def get_output(self, model: Any, weights: Any, buffers: Any, *sample: Tensor) -> Tensor:
            out = torch.func.functional_call(model, (weights, buffers), tuple(s[None] for s in sample))
            return out[0, self.which]

        def get_out_to_loss_grad(self, *args: Any) -> Tensor:  # TRAK's scores need it, the kernel does not
            raise NotImplementedError

    caller = Caller()

    def run() -> Outcome:
        total = torch.zeros(problem.n, problem.n, device=problem.device)
        rows = torch.empty(problem.n, problem.numel, device=problem.device)
        for k in range(len(problem.vectors)):
            computer = FunctionalGradientComputer(caller, One(k), problem.numel, torch.float32, problem.device)
            done = 0
            for part in _slices(problem, setting["chunk"]):
                rows_here = rows[done : done + batches.size(part)]
                vectorize(computer.compute_per_sample_grad(batches.tensors(part)), rows_here, problem.device)
                done += len(rows_here)
            total.addmm_(rows.detach(), rows.detach().T)
        return Outcome(problem.scale * total)

    return run


# ------------------------------------------------------------------------------ curvlinops


def _curvlinops(problem: Problem, setting: Setting) -> Run:
    """Columns of Jᵀ by its linear operator, whose every product runs over all samples; then one matrix product."""
    from curvlinops import TransposedJacobianLinearOperator

    problem = _own_copy(problem)

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = problem.module

        def forward(self, batch: Any) -> Tensor:
            return problem.scalars(problem.call(self.module, batch))

    caller = Caller()
    n, q = problem.n, len(problem.vectors)

    def run() -> Outcome:
        parameters = [p for p in caller.parameters() if p.requires_grad]
        transposed = TransposedJacobianLinearOperator(
            caller, parameters, [(problem.batch, torch.zeros(n, q, device=problem.device))],
            check_deterministic=False, num_data=n, batch_size_fn=batches.size,
        )  # fmt: skip
        rows = torch.empty(n * q, problem.numel, device=problem.device)
        basis = torch.eye(n * q, device=problem.device)
        for start in range(0, n * q, setting["columns"]):
            columns = basis[:, start : start + setting["columns"]]
            rows[start : start + columns.shape[1]] = (transposed @ columns).T
        flat = rows.reshape(n, -1)
        return Outcome(problem.scale * (flat @ flat.T))

    return run


PEERS = (
    Contender(
        "nngeometry", "its Gram matrix, or its Jacobian and one product", _nngeometry, _nngeometry_settings,
        "nngeometry",
    ),
    Contender("backpack", "BatchGrad, then one product per parameter", _backpack, chunks, "backpack-for-pytorch"),
    Contender("traker", "its per-sample gradients, unprojected, then one product", _traker, chunks, "traker"),
    Contender(
        "curvlinops", "its transposed Jacobian operator on all basis vectors, then one product", _curvlinops,
        lambda problem: [{"columns": 1}, {"columns": 4}], "curvlinops-for-pytorch",
    ),
)  # fmt: skip
