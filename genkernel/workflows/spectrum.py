"""``spectrum()``: what the spectrum of a finished run's kernel says, as numbers and as a folder with a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genkernel.checkpoints.digest import sha256
from genkernel.diffusion.residual_spectra import residual_spectra
from genkernel.errors import InputError, MissingError
from genkernel.runs import Provenance, RunFolder, Stopwatch, data_sha256, finished_files
from genkernel.spectra.reading import read
from genkernel.spectra.results import SCHEMA_VERSION, SpectrumResult
from genkernel.spectra.spectrum import Spectrum, analyze
from genkernel.tangent import Kernel
from genkernel.workflows.arguments import say_nothing
from genkernel.workflows.open_run import open_run
from genkernel.workflows.report import KERNEL, SUMMARY, BaseReport, GanReport, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion import Denoiser

Array = NDArray[np.float64]

LEVELS = 6  # of a run's noise levels, at how many the residual is looked at


class SpectrumReport(BaseReport["SpectrumResult"]):
    """What :func:`genkernel.spectrum` found, and where it came from.

    Attributes:
        result: the numbers (:class:`SpectrumResult`).
        provenance: arguments, digests, versions.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run.
    """

    kind = "spectrum"

    @classmethod
    def _stored(cls) -> tuple[type[SpectrumResult], int]:
        return SpectrumResult, SCHEMA_VERSION

    def _drawings(self) -> Mapping[str, Callable[[], Figure]]:
        from genkernel.plots.spectrum import spectrum_figures

        return spectrum_figures(self.result)

    def _page(self, drawn: Mapping[str, bytes]) -> str:
        from genkernel.report.spectrum import spectrum_page

        return spectrum_page(self.result, self.provenance.to_json(), drawn)

    def __repr__(self) -> str:
        one = self.result.spectrum
        return f"SpectrumReport({one.samples} samples, effective rank {one.effective_rank:.1f}{self._where()})"


def spectrum(
    source: Kernel | str | Path,
    *,
    groups: Any = None,
    names: Sequence[str] | None = None,
    targets: Any = None,
    normalize: bool = True,
    ridge: float = 0.0,
    denoiser: Denoiser | str | Path | None = None,
    data: Any = None,
    images: int = 16,
    steps: int = 20,
    seed: int = 0,
    out: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool = False,
) -> SpectrumReport:
    """How many directions does a kernel have, which samples share them, and what can be learned along them?

    Args:
        source: a :class:`~genkernel.Kernel`, its file, or the folder of a finished ``locality`` or ``collapse`` run,
            whose noise levels or latent clusters are the groups.
        groups: number of the group of every sample ``[n]``, from 0; -1 for none. Or its name. A file (``.npy``, or
            ``.npz`` with ``groups``) will do.
        names: of the groups, where these are numbers.
        targets: classes ``[n]`` (whole numbers or names) or values (floats) ``[n]``, ``[n, d]``, or a file of them:
            what of them lies in which mode, and how much of them kernel regression on so many samples is expected to
            learn, with which error.
        normalize: bring entries to cosines first, so that samples of large gradients do not drown the others.
        ridge: δ of that regression, in units of the kernel's entries.
        denoiser: the denoiser of a ``locality`` run, or where it is loaded from: adds what of its residual lies where
            the kernel cannot learn, at the run's levels. Takes minutes.
        data: with it, images that it was not trained on: anything :func:`genkernel.load_images` reads.
        images: how many of them.
        steps: of the residual's spectrum (Lanczos), and of the regressions that its R² are from (conjugate gradients).
            More resolve smaller tolerances; regressions that they do not suffice for are called not converged.
        seed: of noise and random directions there.
        out: also save the report there; a finished one in it is replaced.
        say: called with one sentence for everything that was assumed.
        progress: show a bar.

    Raises:
        MissingError: there is no such file or folder, or the run kept no kernel.
        InputError: neither a kernel nor the name of one; groups, names or targets do not fit; a denoiser without data.

    Example:
        >>> gk.spectrum("runs/ddpm-mnist").summary()["effective_rank"]  # doctest: +SKIP
        31.4
    """
    if out is not None:
        with RunFolder.create(out, kind=SpectrumReport.kind) as folder:  # claimed before the work
            if finished_files(folder.out) and say is not None:
                say(f"replaces the finished report in {folder.out}")
            report = spectrum(
                source, groups=groups, names=names, targets=targets, normalize=normalize, ridge=ridge,
                denoiser=denoiser, data=data, images=images, steps=steps, seed=seed, say=say, progress=progress,
            )  # fmt: skip
            report.save(folder)
        return report
    say = say or say_nothing
    watch = Stopwatch()
    if (denoiser is None) != (data is None):
        missing = "data=: the residual of a denoiser is measured on images" if data is None else "denoiser= as well"
        raise InputError(f"denoiser and data go together: give {missing}")
    kernel, known, checkpoint = _kernel(source)
    if denoiser is not None and (known.timesteps is None or groups is not None):
        raise InputError("the residual of a denoiser is read at a locality run's noise levels: give such a run")
    if groups is not None:
        known = _Samples(labels=_array(groups, "groups"), meta=known.meta)
    if names is not None and known.labels is None:
        raise InputError("names are of groups: give groups= as well")
    if groups is not None or names is not None:
        known.labels, known.names = _labelled(known.labels, names)
    given = None if targets is None else _array(targets, "targets")
    with watch("spectrum"):
        found = analyze(
            kernel,
            groups=known.labels,
            names=known.names,
            targets=given,
            normalize=normalize,
            ridge=ridge,
        )
    if kernel.values.dim() == 4 and normalize:
        say("kernels with full blocks are taken as they are, not as cosines")
    _doubt_classes(found, given)
    result = SpectrumResult(found, known.of, known.timesteps, known.log_snr, known.discrete, meta=known.meta)
    source_data: dict[str, Any] = {}
    origin: dict[str, Any] = {}
    if denoiser is not None:
        with watch("residual"):
            source_data, origin = _add_residual(result, denoiser, data, images, steps, seed, say, progress)
    result.meta.update(
        dtype=kernel.meta.get("dtype"),
        probes=None if kernel.per_probe is None else len(kernel.per_probe),
        ridge=ridge,
    )
    result.meta["reading"] = read(result)
    provenance = Provenance(
        arguments={
            "source": checkpoint.get("name"),
            "groups": result.of if result.spectrum.groups is not None else None,
            **_origin(groups, "groups"),
            "targets": None if result.spectrum.targets is None else result.spectrum.targets.kind,
            **_origin(targets, "targets"),
            "normalize": normalize,
            "ridge": ridge,
            "denoiser": origin.get("name"),
            "denoiser_sha256": origin.get("sha256"),
            "images": images if denoiser is not None else None,
            "steps": steps if denoiser is not None else None,
        },
        seed=seed,
        device="cpu",
        dtype=str(kernel.meta.get("dtype", "unknown")),
        checkpoint=checkpoint,
        data=source_data,
    )
    return SpectrumReport(result, kernel, provenance, stopwatch=watch)


@dataclass
class _Samples:
    """What is known of the samples of a kernel."""

    labels: Any = None
    names: Sequence[str] | None = None
    of: str = "group"
    timesteps: Array | None = None
    log_snr: Array | None = None
    discrete: bool = True
    meta: dict[str, Any] = field(default_factory=dict)


def _kernel(source: Kernel | str | Path) -> tuple[Kernel, _Samples, dict[str, Any]]:
    """The kernel, what its run says of its samples, and where it came from."""
    if isinstance(source, Kernel):
        return source, _Samples(), {}
    if not isinstance(source, str | Path):
        raise InputError(f"a spectrum is of a genkernel.Kernel, its file, or a run's folder, not of {source!r:.80}")
    path = Path(source).expanduser()
    if path.is_file():
        return Kernel.load(path), _Samples(), {"name": path.stem, "sha256": sha256(path)}
    if not path.is_dir():
        raise MissingError(f"there is no file or folder {path}: give a kernel's .npz, or the folder of a finished run")
    if not (path / SUMMARY).is_file() and not (path / KERNEL).is_file():
        raise MissingError(f"{path} holds neither a finished run ({SUMMARY}) nor a kernel ({KERNEL})")
    if not (path / SUMMARY).is_file():
        return Kernel.load(path / KERNEL), _Samples(), {"name": path.name, "sha256": sha256(path / KERNEL)}
    report: Any = open_run(path)
    if not isinstance(report, Report | GanReport):
        kept = f"the kernel in it ({path / KERNEL}), or " if (path / KERNEL).is_file() else ""
        what = "the report of a spectrum" if report.kind == SpectrumReport.kind else f"a {report.kind} run"
        raise InputError(
            f"{path} holds {what}, and this needs a run with a kernel over samples: give {kept}the folder of a "
            "finished diffusion or gan run"
        )
    kernel = report.kernel
    if kernel is None:
        raise MissingError(f"the run in {path} kept no {KERNEL}: make it again with this version")
    return kernel, _of_run(report), {"name": path.name, "sha256": sha256(path / KERNEL)}


def _of_run(report: Report | GanReport) -> _Samples:
    """Which sample belongs to which level or cluster."""
    meta: dict[str, Any] = {
        "model": str((report.provenance.checkpoint or {}).get("name") or "").rstrip("/").split("/")[-1] or None,
        "seed": report.provenance.seed,
    }
    if isinstance(report, GanReport):
        table = report.result.clusters
        return _Samples(np.asarray(table.labels), list(table.names), "latent cluster", meta=meta)
    levels = report.result.levels
    count = int(report.result.meta["images"])
    return _Samples(
        np.repeat(np.arange(len(levels.timesteps)), count),
        [f"t = {t:g}" for t in levels.timesteps],
        "noise level",
        levels.timesteps,
        levels.log_snr,
        levels.discrete,
        {**meta, "images": count},
    )


def _add_residual(
    result: SpectrumResult,
    denoiser: Any,
    data: Any,
    images: int,
    steps: int,
    seed: int,
    say: Callable[[str], None],
    progress: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where the images and the denoiser come from; the residual goes into the result."""
    from tqdm import tqdm

    from genkernel.workflows.load import load
    from genkernel.workflows.locality import images_for

    assert result.timesteps is not None
    den = load(denoiser, kind="diffusion") if isinstance(denoiser, str | Path) else denoiser
    found = images_for(den, data, images, seed)
    say(found.describe())
    at = np.unique(np.linspace(0, len(result.timesteps) - 1, min(LEVELS, len(result.timesteps))).round().astype(int))
    with tqdm(total=4 * len(at), desc="residual", disable=not progress) as bar:
        result.residual = residual_spectra(
            den, found.images, result.timesteps[at], steps=steps, seed=seed, tick=lambda: bar.update()
        )
    source = {"source": found.source, "description": found.describe(), "sha256": data_sha256(found.images)}
    return source, {"name": den.checkpoint.get("name") or den.name, "sha256": den.checkpoint.get("sha256")}


def _array(given: Any, name: str) -> Any:
    """Numbers as they are, or those of a ``.npy`` or ``.npz`` file."""
    if not isinstance(given, str | Path):
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        raise MissingError(f"there is no file {path} of {name}")
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return held
        known = (name, "labels", "y", "y_test")
        keys = [key for key in known if key in held]
        if not keys:
            raise InputError(f"{path} holds {', '.join(held) or 'no array'}, and none of {', '.join(known)}")
        return held[keys[0]]
    except InputError:
        raise
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        if "Object arrays" in str(error):  # of Python's own strings, or of rows of different lengths
            raise InputError(
                f"{path} holds Python objects, which are not read because they can run code: save names as "
                "np.array(names, dtype=str), and numbers as an array of numbers"
            ) from error
        raise InputError(f"{path} is no .npy or .npz of numbers or names") from error


def _labelled(given: Any, names: Sequence[str] | None) -> tuple[Any, Sequence[str] | None]:
    """Numbers of groups and the groups' names; names for numbers where samples are given those.

    Raises:
        InputError: there are fewer names than groups, or groups have two names.
    """
    try:
        labels = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise InputError("groups are one number or name for every sample [n]") from error
    if labels.dtype.kind in "US" or (labels.dtype.kind == "O" and all(isinstance(one, str) for one in labels.flat)):
        if names is not None:
            raise InputError("the groups are names already: leave names= out, or give the groups as numbers")
        found, numbers = np.unique(labels.astype(str), return_inverse=True)
        return numbers.reshape(labels.shape), found.tolist()
    if names is not None and labels.dtype.kind in "iu" and labels.size and labels.max() >= len(names):
        raise InputError(
            f"there are {len(names)} names, and numbers of groups go up to {labels.max()}: give one for each, from "
            "group 0 on"
        )
    return given, names


def _doubt_classes(found: Spectrum, given: Any) -> None:
    """A note where whole numbers look like values and were taken for classes."""
    targets = found.targets
    if targets is None or targets.kind != "classes" or 2 * targets.outputs <= found.samples:
        return
    kind = "" if isinstance(given, Tensor) else np.asarray(given).dtype.kind
    how = "" if kind in ("U", "S") else ": whole numbers are taken for classes, give values as floats"
    targets.notes.append(f"the targets are {targets.outputs} classes for {found.samples} samples{how}")


def _origin(given: Any, name: str) -> dict[str, Any]:
    """The file that an array is from, and its digest."""
    if not isinstance(given, str | Path):
        return {}
    path = Path(given).expanduser()
    return {f"{name}_file": path.name, f"{name}_sha256": sha256(path)}
