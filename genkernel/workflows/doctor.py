"""``gk.doctor``: what is in a checkpoint, what would be used, what is unsafe, and is the gradient right.

Every finding is one item with a status; nothing a checkpoint can do wrong raises here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import GenkernelError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from genkernel.diffusion import Denoiser

STATUSES = ("ok", "note", "warn", "fail")
_SHOWN_SHARDS = 3
# relative errors of the finite differences below which they agree, or agree up to the precision
# of layers that compute in float32 whatever they are given
_AGREES, _AGREES_ROUGHLY = 1e-6, 1e-2


@dataclass(frozen=True)
class DoctorItem:
    """One finding."""

    section: str  # "checkpoint", "model", "schedule", "conditioning" or "gradient"
    status: str  # "ok", "note", "warn" or "fail"
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class DoctorReport:
    """What ``genkernel doctor`` prints."""

    subject: str
    items: list[DoctorItem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the model can be analysed."""
        return not any(item.status == "fail" for item in self.items)

    @property
    def needs_conditioning(self) -> bool:
        """Whether it can be analysed only with conditioning, which was not given."""
        return any(item.details.get("needed") for item in self.section("conditioning"))

    def add(self, section: str, status: str, message: str, **details: Any) -> None:
        assert status in STATUSES
        self.items.append(DoctorItem(section, status, message, details))

    def section(self, name: str) -> list[DoctorItem]:
        return [item for item in self.items if item.section == name]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"subject": self.subject, "ok": self.ok, "items": [asdict(item) for item in self.items]}

    def __str__(self) -> str:
        lines = [f"{item.status:<5} {item.section:<13} {item.message}" for item in self.items]
        return "\n".join([self.subject, *lines])


def doctor(source: Any, *, gradient: bool = True, download: bool = False, **options: Any) -> DoctorReport:
    """Examine a checkpoint or a model in memory.

    Args:
        source: what :func:`genkernel.load` takes, a :class:`Denoiser`, a module, or a pair
            ``(module, scheduler)``.
        gradient: also differentiate the model on a few samples, which takes a few passes in float64.
        download: allow the network for a hub id.
        options: further arguments of ``load`` or ``wrap``.

    Returns:
        DoctorReport: ``.ok`` is False when the model cannot be analysed as given.
    """
    from genkernel.diffusion import Denoiser

    report = DoctorReport(_subject(source))
    den: Denoiser | None = None
    if isinstance(source, Denoiser):
        den = source
    elif isinstance(source, (str, Path)):
        path = None
        with _found(report, "checkpoint"):
            path = _checkpoint(report, source, download, options)
        if path is not None:
            with _found(report, "model"):
                from genkernel.workflows.load import load

                den = _with_conditioning(report, lambda **given: load(path, **options, **given), options)
    else:
        with _found(report, "model"):
            from genkernel.workflows.wrap import wrap

            module, scheduler = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
            if scheduler is not None:
                options["scheduler"] = scheduler
            den = _with_conditioning(report, lambda **given: wrap(module, **options, **given), options)
    if den is not None:
        _model(report, den)
        _schedule(report, den)
        _conditioning(report, den)
        if gradient:
            with _found(report, "gradient"):
                _gradient(report, den)
    return report


def _with_conditioning(report: DoctorReport, make: Callable[..., Denoiser], options: dict[str, Any]) -> Denoiser:
    """The denoiser; where all it lacks is conditioning, with zeros, so that the rest can be examined."""
    try:
        return make()
    except InputError as error:
        if options.get("conditioning") is not None:
            raise
        try:
            den = make(conditioning="zeros")
        except GenkernelError:
            raise error from None
        report.add(
            "conditioning", "warn", f"{error}; examined here with zeros", error=type(error).__name__, needed=True
        )
        return den


@contextmanager
def _found(report: DoctorReport, section: str) -> Iterator[None]:
    """A user's error becomes a finding; ours stay exceptions."""
    try:
        yield
    except GenkernelError as error:
        report.add(section, "fail", str(error), error=type(error).__name__)


def _subject(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    first = source[0] if isinstance(source, tuple) and source else source
    return str(getattr(first, "name", None) or type(first).__name__)


# -------------------------------------------------------------------------- on disk


def _checkpoint(report: DoctorReport, source: str | Path, download: bool, options: dict[str, Any]) -> Path | None:
    from genkernel.checkpoints import detect, resolve, sha256, stored_dtypes, unsafe_globals

    path = resolve(source, download=download)
    layout = detect(path)
    weights = layout.weights
    files = [f.name for f in weights.files[:_SHOWN_SHARDS]] + (["…"] if len(weights.files) > _SHOWN_SHARDS else [])
    kind = {"pipeline": f"pipeline {layout.pipeline_class}", "model": "model folder", "file": "file of weights"}
    what = f"{kind[layout.kind]}, {layout.model_class}" if layout.model_class else kind[layout.kind]
    report.add("checkpoint", "ok", what, kind=layout.kind, model_class=layout.model_class)
    report.add(
        "checkpoint", "ok", f"{', '.join(files)} ({_size(weights.bytes)}, {weights.format})",
        files=[f.name for f in weights.files], bytes=weights.bytes, format=weights.format,
    )  # fmt: skip
    report.add("checkpoint", "ok", f"sha256 {(digest := sha256(path))[:16]}…", sha256=digest)
    if counts := stored_dtypes(weights.files):
        stored = ", ".join(f"{n:,} {dtype}" for dtype, n in sorted(counts.items(), key=lambda pair: -pair[1]))
        report.add("checkpoint", "ok", f"stored entries: {stored}", dtypes=counts)
    if weights.format == "pickle":
        named = sorted({name for file in weights.files for name in unsafe_globals(file)})
        if not named:
            message = "the weights are a pickle of tensors only, read without running code; safetensors is safer"
            report.add("checkpoint", "warn", message)
        elif options.get("trust_pickle"):
            message = f"the weights are a pickle that runs code ({', '.join(named[:5])}), trusted as asked"
            report.add("checkpoint", "warn", message, globals=named)
        else:
            message = f"the weights are a pickle that would run code ({', '.join(named[:5])}) and is not read"
            report.add("checkpoint", "fail", f"{message} unless --trust-pickle is given", globals=named)
            return None
    for note in layout.notes:
        report.add("checkpoint", "note", note)
    return path


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


# ------------------------------------------------------------------- what would be used


def _model(report: DoctorReport, den: Denoiser) -> None:
    total = sum(p.numel() for p in den.module.parameters())
    held = "" if total == den.parameters else f" of {total:,}"
    dtype = str(den.dtype).removeprefix("torch.")
    report.add(
        "model", "ok", f"{type(den.module).__name__}, {den.parameters:,}{held} parameters, {dtype} on {den.device}",
        parameters=den.parameters, total=total, dtype=dtype,
    )  # fmt: skip
    low, high = den.data_range
    shape = "×".join(map(str, den.sample_shape))
    images = "" if den.encode is None else f", encoded from images {'×'.join(map(str, den.image_shape))}"
    report.add("model", "ok", f"samples {shape} with data range {low:g} to {high:g}{images}")
    for note in den.notes:
        report.add("model", "note", note)
    if getattr(den.module, "is_gradient_checkpointing", False):
        report.add("model", "note", "gradient checkpointing is on: layers are run again for their gradients")


def _schedule(report: DoctorReport, den: Denoiser) -> None:
    from genkernel.diffusion.schedule import PREDICTION_TYPES

    schedule = den.schedule
    low, high = schedule.time_range
    times = f"integer times {low:g} to {high:g}" if schedule.discrete else f"continuous times {low:g} to {high:g}"
    report.add("schedule", "ok", f"{schedule.name}, {times}", **schedule.describe())
    report.add("schedule", "ok", f"the network predicts {PREDICTION_TYPES[schedule.prediction_type]}")
    snr = schedule.log_snr_range()
    report.add("schedule", "ok", f"log-SNR {snr[0]:.2f} to {snr[1]:.2f}")


def _conditioning(report: DoctorReport, den: Denoiser) -> None:
    if den.conditioning:
        report.add("conditioning", "ok", f"given: {', '.join(sorted(den.conditioning))}")
    else:
        report.add("conditioning", "ok", "none needed")
    if den.has_embedding:
        first = den.time_path.embedding[0]
        width = f", {first.width} entries" if first.width else ""
        report.add("conditioning", "ok", f"timestep embedding read at {first.path}{width}")
    else:
        message = "the timestep embedding was not found: name it with embedding= to have the embedding controls"
        report.add("conditioning", "warn", message)
    features = [call.path for call in den.time_path.features]
    if features:
        more = f" and {len(features) - 1} more" if len(features) > 1 else ""
        report.add("conditioning", "ok", f"time MLP read at {features[0]}{more}")
    else:
        message = "the time MLP was not found: name it with time_mlp= to have the embedding's cosine after it"
        report.add("conditioning", "warn", message)


# ----------------------------------------------------------------------------- gradient


def _gradient(report: DoctorReport, den: Denoiser) -> None:
    import torch

    from genkernel.tangent import kernel, probes
    from genkernel.tangent.probe import examine

    draw = torch.Generator().manual_seed(0)
    count = 3
    t = den.schedule.levels(count) if den.schedule.span >= count else den.schedule.levels(1).expand(count)
    x0 = torch.randn(count, *den.sample_shape, generator=draw).clamp(-1, 1)
    noise = torch.randn(count, *den.sample_shape, generator=draw)
    rows = torch.zeros(count, dtype=torch.long)
    batch = den.batch(den.noisy(x0, t, noise), t, rows=rows)

    coverage = examine(den.tangent, batch)
    uses = sum(coverage.uses.values())
    message = f"{uses} uses of parameters captured, the largest disagreement with autograd {coverage.error:.1e}"
    report.add("gradient", "ok", message, **coverage.summary())
    if coverage.generic:
        named = _some(coverage.generic)
        report.add("gradient", "note", f"{named} differentiated through the whole model, sample by sample (slower)")
    if coverage.by_call:
        report.add("gradient", "note", f"{_some(coverage.by_call)} differentiated call by call (slower)")
    if coverage.silent:
        report.add("gradient", "note", f"{_some(coverage.silent)} do not influence the output")

    probe = probes(1, seed=0)
    captured = torch.as_tensor(kernel(den.tangent, batch, cotangents=probe, dtype=torch.float64).norms_x)
    norms, relative = _by_autograd(den, batch, probe)
    if not bool(norms.any()):
        report.add("gradient", "fail", "every gradient is exactly zero, so there is no kernel to speak of")
        return
    error = float(((captured - norms).abs() / norms.clamp(min=float(norms.max()) * 1e-12)).max())
    status = "ok" if error < _AGREES else "fail"
    message = f"squared gradient norms agree with autograd to {error:.1e} (float64, {count} samples)"
    report.add("gradient", status, message, relative_error=error)
    if relative < _AGREES:
        message, status = f"a directional derivative agrees with finite differences to {relative:.1e}", "ok"
    elif relative < _AGREES_ROUGHLY:
        message, status = (
            f"a directional derivative agrees with finite differences to {relative:.1e}: part of the network computes "
            "in lower precision than float64, or has kinks",
            "note",
        )
    else:
        message, status = f"a directional derivative disagrees with finite differences by {relative:.1e}", "fail"
    report.add("gradient", status, message, relative_error=relative)


def _by_autograd(den: Denoiser, batch: dict[str, Any], probe: Any) -> tuple[Tensor, float]:
    """Squared norms of Jᵀv per sample, and the error of v·J·u against finite differences, in float64."""
    import torch

    from genkernel.tangent import batches

    tangent = den.tangent
    tensors = tangent.tensors(torch.float64)
    batch = batches.move(batch, tangent.device, torch.float64)
    names = tangent.parameter_names
    with tangent.evaluating(), torch.enable_grad():
        out = tangent.run(tensors, batch)
        vector = next(iter(probe.vectors(out.detach(), batch)))
        wanted = [tensors[name] for name in names]
        per_sample = [
            torch.autograd.grad((out[i] * vector[i]).sum(), wanted, retain_graph=True, allow_unused=True)
            for i in range(out.shape[0])
        ]
    squares = [sum(float(g.square().sum()) for g in grads if g is not None) for grads in per_sample]
    norms = torch.tensor(squares, dtype=torch.float64)
    draw = torch.Generator().manual_seed(1)
    steps: dict[str, Tensor] = {}
    slopes = []
    for position, name in enumerate(names):
        weight = tensors[name].detach()
        # every parameter moves in proportion to its size
        size = float(weight.square().mean().sqrt()) or 1e-2
        steps[name] = size * torch.randn(weight.shape, generator=draw, dtype=torch.float64).to(weight.device)
        gradients = [grads[position] for grads in per_sample if grads[position] is not None]
        slopes.append(sum(float((g * steps[name]).sum()) for g in gradients))

    def along(h: float) -> float:
        moved = {name: tensors[name].detach() + h * step for name, step in steps.items()}
        with tangent.evaluating(), torch.no_grad():
            return float((tangent.run({**tensors, **moved}, batch) * vector).sum())

    def central(h: float) -> float:
        return (along(h) - along(-h)) / (2 * h)

    h = 1e-4
    estimate = (4 * central(h / 2) - central(h)) / 3  # Richardson: the h² error cancels
    # not the sum itself, in which terms may cancel
    scale = sum(slope**2 for slope in slopes) ** 0.5
    return norms, abs(estimate - sum(slopes)) / scale if scale else 0.0


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
