"""Reports: a finished analysis, as numbers, as a folder, and read back from one."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from genkernel.errors import MissingError
from genkernel.runs import Provenance, RunFolder, Stopwatch, pack, read_json, unpack
from genkernel.workflows.arrays import join_arrays, read_arrays, split_arrays, write_arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult
    from genkernel.gan.results import GanResult
    from genkernel.gan.verdict import Evidence
    from genkernel.tangent import Kernel

PAGE, SUMMARY, PROVENANCE, RESULT, ARRAYS, KERNEL, WEIGHTING = (
    "index.html",
    "summary.json",
    "run.json",
    "result.json",
    "arrays.npz",
    "kernel.npz",
    "weighting.csv",
)


class Result(Protocol):
    """What an analysis returns: a dataclass of numbers."""

    def to_summary(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Result)


class BaseReport(Generic[R]):
    """What an analysis found, and where it came from.

    Attributes:
        result: the numbers.
        provenance: versions, arguments, digests, timings.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run instead of being computed.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        result: R,
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
        """The engine's kernel behind the result; of a saved run it is read from ``kernel.npz`` when asked for."""
        if self._kernel is None and self.folder is not None and (self.folder / KERNEL).is_file():
            from genkernel.tangent import Kernel

            self._kernel = Kernel.load(self.folder / KERNEL)
        return self._kernel

    def summary(self) -> dict[str, Any]:
        """The machine-readable summary, as in ``summary.json``; prints nothing."""
        return self.result.to_summary()

    @property
    def reading(self) -> list[str]:
        """What the numbers say, in the sentences that head the page; the first one alone says the most."""
        return [str(sentence) for sentence in getattr(self.result, "meta", {}).get("reading") or []]

    def figures(self) -> dict[str, Figure]:
        """Every figure that this result can fill, by file name, in reading order."""
        return {name: draw() for name, draw in self._drawings().items()}

    def figure(self, name: str) -> Figure:
        """One of :meth:`figures`, without drawing the others.

        Raises:
            MissingError: this result has none of that name.
        """
        drawings = self._drawings()
        if name not in drawings:
            raise MissingError(f"there is no figure {name!r} of this result; there are {', '.join(drawings) or 'none'}")
        return drawings[name]()

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
            with self._claim(out) as folder:
                return self.save(folder, layers=layers)
        from genkernel.plots import to_bytes

        drawn: dict[str, bytes] = {}
        with self._stopwatch("figures"):
            for name, figure in self.figures().items():
                drawn[name] = to_bytes(figure, "png")
                out.write(f"figures/{name}.png", drawn[name])
                out.write(f"figures/{name}.svg", to_bytes(figure, "svg"))
        out.write_json(SUMMARY, self.summary())
        self._write(out)
        for name, content in self._tables().items():
            out.write(name, content)
        if self.kernel is not None:
            kept = self.kernel if layers else dataclasses.replace(self.kernel, layers={})
            with out.placing(KERNEL) as path:
                kept.save(path)
        if not self.reused:
            self.provenance.complete(self._stopwatch)
        out.write(PAGE, self._page(drawn))
        self.provenance.files = sorted({*out.files(), PROVENANCE})
        out.write_json(PROVENANCE, self.provenance.to_json())
        self.folder = out.commit()
        return self.folder

    def _repr_html_(self) -> str:
        """For notebooks: the reading, and the first figure."""
        from genkernel.plots import to_bytes

        first, *more = map(escape, self.reading or [repr(self)])
        shown = f"<p><strong>{first}</strong></p>" + (
            f"<ul>{''.join(f'<li>{one}</li>' for one in more)}</ul>" if more else ""
        )
        for name, draw in self._drawings().items():
            picture = f"data:image/png;base64,{b64encode(to_bytes(draw(), 'png')).decode()}"
            return f'{shown}<img alt="{escape(name)}" style="max-width: 48em; width: 100%" src="{picture}">'
        return shown

    # -------------------------------------------------------- what a kind may do its own way

    def _claim(self, out: str | Path) -> RunFolder:
        return RunFolder.create(out, kind=self.kind)

    def _write(self, out: RunFolder) -> None:
        """The numbers, for :meth:`_read`."""
        small, large = split_arrays(self.result)
        out.write_json(RESULT, pack(small))
        if large:
            with out.placing(ARRAYS) as path:
                write_arrays(path, large)

    @classmethod
    def _read(cls, path: Path) -> R:
        stored, _ = cls._stored()
        result = unpack(stored, read_json(path / RESULT))
        if (path / ARRAYS).is_file():
            join_arrays(result, read_arrays(path / ARRAYS))
        return result

    # ------------------------------------------------------------- what each kind has

    @classmethod
    def _stored(cls) -> tuple[type[R], int]:
        """The type of the result, and the version of its schema."""
        raise NotImplementedError

    def _drawings(self) -> Mapping[str, Callable[[], Figure]]:
        raise NotImplementedError

    def _page(self, drawn: Mapping[str, bytes]) -> str:
        raise NotImplementedError

    def _tables(self) -> dict[str, str]:
        """Further files by name."""
        return {}

    def _where(self) -> str:
        return f", saved in {self.folder}" if self.folder else ""


class Report(BaseReport["DiffusionResult"]):
    """What :func:`genkernel.locality` found, and where it came from.

    Attributes:
        result: the numbers (:class:`genkernel.diffusion.results.DiffusionResult`).
        provenance: versions, arguments, digests, timings.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run instead of being computed.
    """

    kind = "diffusion"

    @classmethod
    def _stored(cls) -> tuple[type[DiffusionResult], int]:
        from genkernel.diffusion.results import SCHEMA_VERSION, DiffusionResult

        return DiffusionResult, SCHEMA_VERSION

    def _drawings(self) -> Mapping[str, Callable[[], Figure]]:
        from genkernel.plots import diffusion_figures

        return diffusion_figures(self.result)

    def _page(self, drawn: Mapping[str, bytes]) -> str:
        from genkernel.report import diffusion_page

        return diffusion_page(self.result, self.provenance.to_json(), drawn)

    def _tables(self) -> dict[str, str]:
        weighting = self.result.weighting
        return {} if weighting is None else {WEIGHTING: weighting.to_csv()}

    def __repr__(self) -> str:
        kernel = self.result.locality
        return f"Report(locality index {kernel.index:.3f} ± {kernel.index_stderr:.3f}{self._where()})"


class GanReport(BaseReport["GanResult"]):
    """What :func:`genkernel.collapse` found, and where it came from.

    Attributes:
        result: the numbers (:class:`genkernel.gan.results.GanResult`).
        provenance: versions, arguments, digests, timings.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run instead of being computed.
    """

    kind = "gan"

    @property
    def verdict(self) -> str:
        """``"ok"``, ``"watch"``, ``"collapsing"`` or ``"unknown"``."""
        return "unknown" if self.result.verdict is None else self.result.verdict.label

    @property
    def evidence(self) -> list[Evidence]:
        """Every indicator with its value, its range in healthy runs, and what it says."""
        return [] if self.result.verdict is None else self.result.verdict.evidence

    @property
    def reasons(self) -> list[str]:
        """Sentences on what the verdict follows from; empty where there is none."""
        return [] if self.result.verdict is None else list(self.result.verdict.reasons)

    @property
    def reading(self) -> list[str]:
        """The verdict and what it follows from."""
        return [f"Verdict: {self.verdict}.", *self.reasons]

    @classmethod
    def _stored(cls) -> tuple[type[GanResult], int]:
        from genkernel.gan.results import SCHEMA_VERSION, GanResult

        return GanResult, SCHEMA_VERSION

    def _drawings(self) -> Mapping[str, Callable[[], Figure]]:
        from genkernel.plots import gan_figures

        return gan_figures(self.result)

    def _page(self, drawn: Mapping[str, bytes]) -> str:
        from genkernel.report import gan_page

        return gan_page(self.result, self.provenance.to_json(), drawn)

    def __repr__(self) -> str:
        table = self.result.clusters
        size = f"{len(table.labels)} latents, {len(table.names)} clusters"
        return f"GanReport(verdict {self.verdict!r}, {size}{self._where()})"

    def _repr_html_(self) -> str:
        """For notebooks: the verdict, its reasons, and a table of the evidence that it leans on."""
        from genkernel.report.gan import MARKS, MEANINGS
        from genkernel.report.gan_tables import evidence_rows

        label = self.verdict
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in self.reasons)
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td>{escape(str(cell))}</td>"
                for cell in (row.label, row.value, row.healthy, row.threshold, f"{MARKS[row.says]} {row.says}")
            )
            + "</tr>"
            for _, group in evidence_rows([evidence for evidence in self.evidence if evidence.counts])
            for row in group
        )
        heads = ("evidence", "value", "healthy", "collapse", "says")
        table = f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}"
        return (
            f"<p><strong>{MARKS[label]} verdict: {escape(label)}</strong> ({escape(MEANINGS[label])})</p>"
            + (f"<ul>{reasons}</ul>" if reasons else "")
            + (f"<table>{table}</table>" if rows else "")
        )
