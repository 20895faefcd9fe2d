"""The architecture zoo: is the kernel of a given network what the naive reference says it is?

An :class:`Architecture` knows how to build a network and batches for it. :func:`check` computes
its kernel in float64 and compares it, in total and parameter by parameter, with
:mod:`genkernel.tangent.reference`, and says how the uses of its parameters were taken:

* by rule: the per-sample gradient of the call is known in closed form, or as a contraction;
* by call: that one call is differentiated per sample;
* generic: parameters that the capture did not see, differentiated through the whole forward.

Networks are built untrained. Every parameter that holds one number throughout (zeros of adaLN-zero
and of zero convolutions, ones of norms, constants of layer scales) is moved by small random
numbers, and running statistics are drawn: a kernel of zeros would prove nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from genkernel.errors import BatchCouplingError, RandomOutputError
from genkernel.tangent import TangentModel, cotangent, kernel, reference
from genkernel.tangent.cotangents import Cotangents
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.fingerprint import fingerprint_code
from genkernel.tangent.result import Kernel

TOLERANCE = 1e-9  # relative error allowed against the reference
SPREAD = 0.02  # standard deviation of what is added to parameters that are constant
LARGE = 30_000_000  # from here on 2 samples instead of 3, and the reference in blocks of parameters
BLOCK = 40_000_000  # parameters whose reference gradients are held together
SMALL_SHARE = 1e-6  # a parameter whose kernel is smaller than this part of the total is rounding to it

#: modules that define ``architectures()``
SOURCES = (
    "genkernel.bench.zoo.classifiers",
    "genkernel.bench.zoo.unets",
    "genkernel.bench.zoo.images",
    "genkernel.bench.zoo.videos",
    "genkernel.bench.zoo.autoencoders",
    "genkernel.bench.zoo.others",
)

BatchMaker = Callable[[int], Any]


@dataclass(frozen=True)
class Built:
    """A network, how it is called on a batch, and batches of n samples for it."""

    module: nn.Module
    batch: BatchMaker
    call: Callable[[nn.Module, Any], Tensor] | None = None
    note: str = ""


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        name: of the model, class or trap.
        group: ``"torchvision"``, ``"diffusers"``, …: the heading it comes under.
        build: makes the network; None when there is none to make, ``reason`` says why.
        size: number of parameters where that is known without building.
        samples: number of samples; None for 3 (2 in large networks).
        reason: why there is nothing to build.
        ranks: also compare numerical ranks of the kernel at 1e-12, 1e-9 and 1e-6.
    """

    name: str
    group: str
    build: Callable[[], Built] | None
    size: int = 0
    samples: int | None = None
    reason: str = ""
    ranks: bool = False


@dataclass
class Row:
    """What was found for one architecture.

    Attributes:
        status: ``"ok"``, ``"wrong"`` (error above the tolerance), ``"failed"`` (raised), ``"skipped"``
            (not built), ``"refused"`` (its output for one sample depends on others, or on chance).
        note: input size, or what went wrong.
        error: ‖K − K_ref‖ / ‖K_ref‖ in the Frobenius norm.
        worst: the same for the worst single parameter with a share of at least ``SMALL_SHARE``.
        by_rule, by_call: uses (call and parameter) taken by a rule, and call by call.
        functions: the functions taken call by call, with the number of uses.
        generic: parameters taken through the whole forward.
        seconds, reference_seconds: processor time of the kernel, proof included, and of the reference.
        versions, engine: of torch and the network's library; digest of the engine's code.
    """

    name: str
    group: str
    status: str
    note: str = ""
    parameters: int = 0
    samples: int = 0
    by_rule: int = 0
    by_call: int = 0
    functions: dict[str, int] = field(default_factory=dict)
    generic: list[str] = field(default_factory=list)
    silent: int = 0
    error: float | None = None
    worst: float | None = None
    seconds: float = 0.0
    reference_seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    engine: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def architectures(sources: Sequence[str] = SOURCES) -> dict[str, Architecture]:
    """Every architecture of the given modules by name, in order."""
    found: dict[str, Architecture] = {}
    for source in sources:
        for architecture in importlib.import_module(source).architectures():
            found[architecture.name] = architecture
    return found


def versions(architecture: Architecture) -> dict[str, str]:
    """What a row was computed with, as far as it decides what the network is."""
    packages = ("torch", architecture.group) if architecture.group in ("torchvision", "diffusers") else ("torch",)
    return {package: importlib.metadata.version(package) for package in packages}


def check(architecture: Architecture) -> Row:
    """Build one architecture and compare its kernel with the reference.

    Nothing is raised: a network that cannot be built, or an engine that raises, is a row, too.
    """
    row = Row(architecture.name, architecture.group, "failed", versions=versions(architecture))
    row.engine = fingerprint_code()
    if architecture.build is None:
        row.status, row.note = "skipped", architecture.reason
        return row
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(zlib.crc32(architecture.name.encode()))
            built = architecture.build()
            module = built.module.double().eval().requires_grad_(True)
            move_off_constants(module)
            _fill(row, architecture, built, module)
    except (BatchCouplingError, RandomOutputError) as error:
        row.status, row.note = "refused", str(error)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        row.note = f"{type(error).__name__}: {lines[0][:300]}"
    return row


def _fill(row: Row, architecture: Architecture, built: Built, module: nn.Module) -> None:
    model = TangentModel(module, built.call)
    row.parameters = sum(p.numel() for p in model.parameters.values())
    row.samples = architecture.samples or (3 if row.parameters < LARGE else 2)
    row.note = built.note
    x = built.batch(row.samples)
    started = time.process_time()
    K = kernel(model, x, cotangents=phases(), by="parameter", memory="4GiB", progress=False)
    row.seconds = time.process_time() - started
    assert K.coverage is not None
    row.by_rule, row.functions = count_uses(K.coverage)
    row.by_call = sum(row.functions.values())
    row.generic, row.silent = list(K.coverage.generic), len(K.coverage.silent)
    started = time.process_time()
    true = _reference(model, x, phases())
    row.reference_seconds = time.process_time() - started
    total = torch.stack(list(true.values())).sum(0)
    row.error = relative(K.values, total)
    size = float(total.norm())
    row.worst = max(relative(K.layers[name], t) for name, t in true.items() if float(t.norm()) >= SMALL_SHARE * size)
    row.status = "ok" if max(row.error, row.worst) <= TOLERANCE else "wrong"
    if architecture.ranks:
        _compare_ranks(row, K, total)


def _reference(model: TangentModel, x: Any, cotangents: Cotangents) -> dict[str, Tensor]:
    """The reference kernel of every parameter, a few million parameters at a time."""
    terms: dict[str, Tensor] = {}
    for block in blocks({name: p.numel() for name, p in model.parameters.items()}):
        part = TangentModel(model.module, model.call, params=set(block).__contains__)
        found = reference.per_parameter(part, x, cotangents=cotangents)
        terms.update({name: each.sum(0) for name, each in found.items()})
    return terms


def blocks(sizes: dict[str, int], limit: int = BLOCK) -> list[list[str]]:
    """Consecutive names whose sizes add up to at most ``limit`` (at least one name each)."""
    found: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not found or size > room:
            found.append([])
            room = limit
        found[-1].append(name)
        room -= size
    return found


def relative(found: Tensor, true: Tensor) -> float:
    """‖found − true‖ / ‖true‖."""
    return float((found - true).norm() / true.norm().clamp_min(torch.finfo(torch.float64).tiny))


def _compare_ranks(row: Row, K: Kernel, true: Tensor) -> None:
    tolerances = (1e-12, 1e-9, 1e-6)
    mine, theirs = (ranks(values, tolerances) for values in (K.values, true))
    row.note = f"ranks at 1e-12/1e-9/1e-6: {'/'.join(map(str, mine))}, reference {'/'.join(map(str, theirs))}"
    if mine != theirs:
        row.status = "wrong"


def ranks(values: Tensor, tolerances: Iterable[float]) -> list[int]:
    """Eigenvalues above each tolerance times the largest."""
    spectrum = torch.linalg.eigvalsh((values + values.T) / 2)
    return [int((spectrum > t * spectrum[-1]).sum()) for t in tolerances]


def count_uses(coverage: Coverage) -> tuple[int, dict[str, int]]:
    """Uses taken by rule, and functions taken call by call with their number."""
    by_rule, functions = 0, dict[str, int]()
    for plan in coverage.plans:
        for slot in plan.slots if plan is not None else ():
            if slot.by_rule:
                by_rule += 1
            else:
                functions[plan.name] = functions.get(plan.name, 0) + 1  # type: ignore[union-attr]
    return by_rule, dict(sorted(functions.items()))


# ------------------------------------------------------------------ what is differentiated


def phases() -> Cotangents:
    """A cotangent per sample: cosines whose phases depend on the output index and on the sample.

    v_i[o] = cos(φ_o + ω_o c_i) with random φ, ω and c_i the mean over the entries of sample i.
    """
    return cotangent(_phases)


def _phases(outputs: Tensor, batch: Any) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    shape = outputs.shape[1:]
    phase = 6.28 * torch.rand(shape, generator=draw, dtype=torch.float64).to(outputs)
    rate = 1 + torch.rand(shape, generator=draw, dtype=torch.float64).to(outputs)
    leaves = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)]
    mean = sum(leaf.reshape(len(leaf), -1).to(outputs).mean(1) for leaf in leaves)
    assert isinstance(mean, Tensor)
    return torch.cos(phase + rate * mean.reshape(-1, *[1] * len(shape)))


def move_off_constants(module: nn.Module) -> None:
    """Add small random numbers to parameters that are constant, and draw running statistics."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() and bool((parameter == parameter.reshape(-1)[0]).all()):
                parameter.add_(SPREAD * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)


class Double(TorchFunctionMode):
    """Casts of float64 tensors to a coarser type stay in float64.

    Many networks compute norms, softmax and rotations in float32 whatever their own type is.
    Rounding there differs between a batch and a sample alone by 1e-7, which would hide what is
    compared here. Constants that come in float32 follow in products.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, first = getattr(func, "__name__", ""), args[0] if args else None
        if isinstance(first, Tensor) and first.dtype in (torch.float64, torch.complex128):
            if name in ("float", "half", "bfloat16"):
                return first
            if name in ("to", "type"):
                args = (first, *(_double(a) for a in args[1:]))
            if kwargs.get("dtype") is not None:
                kwargs["dtype"] = _double(kwargs["dtype"])
        elif isinstance(first, Tensor) and name == "float":
            return first.double()
        if name in _PRODUCTS and torch.float64 in {a.dtype for a in args if isinstance(a, Tensor)}:
            args = tuple(_double(a) if isinstance(a, Tensor) else a for a in args)
        return func(*args, **kwargs)


_PRODUCTS = {"einsum", "matmul", "__matmul__", "mm", "bmm", "linear"}


def _double(value: Any) -> Any:
    if value in (torch.float32, torch.float16, torch.bfloat16):
        return torch.float64
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.double()  # x.to(other)
    return torch.complex128 if value is torch.complex64 else value
