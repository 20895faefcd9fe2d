"""``Report``: a finished analysis, as numbers, as a folder, and read back from one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError, MissingError
from genkernel.runs import Provenance, RunFolder, Stopwatch, finished_files, pack, read_json, unpack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult
    from genkernel.tangent import Kernel

PAGE, SUMMARY, PROVENANCE, RESULT, KERNEL, WEIGHTING = (
    "index.html",
    "summary.json",
    "run.json",
    "result.json",
    "kernel.npz",
    "weighting.csv",
)


class Report:
    """What an analysis found, and where it came from.

    Attributes:
        result: the numbers (:class:`genkernel.diffusion.results.DiffusionResult`).
        provenance: versions, arguments, digests, timings.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run instead of being computed.
    """

    def __init__(
        self,
        result: DiffusionResult,
        kernel: Kernel | None = None,
        provenance: Provenance | None = None,
        *,
        stopwatch: Stopwatch | None = None,
    ):
        self.result = result
        self.provenance = provenance or Provenance()
        self.folder: Path | None = None
        self.reused = False
        self._kernel = kernel
        self._stopwatch = stopwatch or Stopwatch()

    @property
    def kernel(self) -> Kernel | None:
        """The sample kernel behind the result; of a saved run it is read from ``kernel.npz`` when asked for."""
        if self._kernel is None and self.folder is not None and (self.folder / KERNEL).is_file():
            from genkernel.tangent import Kernel

            self._kernel = Kernel.load(self.folder / KERNEL)
        return self._kernel

    def summary(self) -> dict[str, Any]:
        """The machine-readable summary, as in ``summary.json``; prints nothing."""
        return self.result.to_summary()

    def figures(self) -> dict[str, Figure]:
        """Every figure that this result can fill, by file name, in reading order."""
        from genkernel.plots import diffusion_figures

        return {name: draw() for name, draw in diffusion_figures(self.result).items()}

    def save(self, out: str | Path | RunFolder, *, layers: bool = False) -> Path:
        """Write the run folder: page, figures, summary, provenance, and the kernel.

        Args:
            out: a folder that is new, empty or that of an earlier run, or one that was claimed before the work.
            layers: keep every layer's kernel in ``kernel.npz`` too (as many matrices as layers).

        Returns:
            Path: the folder. It appears complete or not at all.

        Raises:
            InputError: the folder holds other files, or a run of another kind.
            OutputError: the folder cannot be written.
        """
        if not isinstance(out, RunFolder):
            with RunFolder.create(out, kind="diffusion") as folder:
                return self.save(folder, layers=layers)
        from genkernel.plots import to_bytes
        from genkernel.report import diffusion_page

        drawn: dict[str, bytes] = {}
        with self._stopwatch("figures"):
            for name, figure in self.figures().items():
                drawn[name] = to_bytes(figure, "png")
                out.write(f"figures/{name}.png", drawn[name])
                out.write(f"figures/{name}.svg", to_bytes(figure, "svg"))
        out.write_json(SUMMARY, self.summary())
        out.write_json(RESULT, pack(self.result))
        if self.result.weighting is not None:
            out.write(WEIGHTING, self.result.weighting.to_csv())
        if self.kernel is not None:
            kept = self.kernel if layers else dataclasses.replace(self.kernel, layers={})
            with out.placing(KERNEL) as path:
                kept.save(path)
        if not self.reused:
            self.provenance.complete(self._stopwatch)
        out.write(PAGE, diffusion_page(self.result, self.provenance.to_json(), drawn))
        self.provenance.files = sorted({*out.files(), PROVENANCE})
        out.write_json(PROVENANCE, self.provenance.to_json())
        self.folder = out.commit()
        return self.folder

    def __repr__(self) -> str:
        kernel = self.result.locality
        where = f", saved in {self.folder}" if self.folder else ""
        return f"Report(locality index {kernel.index:.3f} ± {kernel.index_stderr:.3f}{where})"


def open_run(path: str | Path) -> Report:
    """Read a run folder back.

    Raises:
        MissingError: the folder or one of its files is not there, or the run was never finished.
        InputError: it is a run of a kind, or of a version, that this one cannot read.
    """
    from genkernel.diffusion.results import SCHEMA_VERSION, DiffusionResult

    path = Path(path).expanduser()
    summary = read_json(path / SUMMARY)
    if not isinstance(summary, dict) or summary.get("kind") != "diffusion":
        kind = summary.get("kind") if isinstance(summary, dict) else None
        raise InputError(f"{path} holds a run of kind {kind!r}; this version reads diffusion runs")
    if summary.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path} was written with schema {summary.get('schema_version')}, this version reads {SCHEMA_VERSION}: "
            "run the analysis again"
        )
    if not finished_files(path):
        raise MissingError(f"the run in {path} is not complete (a file that it lists is missing): run it again")
    result = unpack(DiffusionResult, read_json(path / RESULT))
    known = {field.name for field in dataclasses.fields(Provenance)}
    stored = {k: v for k, v in read_json(path / PROVENANCE).items() if k in known}
    report = Report(result, None, Provenance(**stored))
    report.folder, report.reused = path, True
    return report
