"""``path_report()``: a recorded path as numbers, as a folder with a page, and read back from one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.checkpoints.digest import sha256
from genkernel.errors import InputError, MissingError
from genkernel.paths import PathDecomposition
from genkernel.runs import Provenance, RunFolder, json_ready, read_json, run_files
from genkernel.workflows.report import PAGE, PROVENANCE, RESULT, SUMMARY, BaseReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "path.npz"
TAPE, RECORDING = "tape.json", "recording.pt"  # what else a folder of a training run may hold
SCHEMA_VERSION = 1
SMALL = 20_000  # contributions up to which summary.json holds them all


@dataclass
class PathResult:
    """A decomposition, and what of it is looked at.

    Attributes:
        parts: the contributions.
        queries: numbers of those that have tables and figures of their own.
        direction: the number of the output along which contributions are read; None for each query's whole change.
        top: how many helpers and opponents are listed.

    Raises:
        InputError: there is no such query or output, or ``top`` is not positive.
    """

    parts: PathDecomposition
    queries: list[int] = field(default_factory=lambda: [0])
    direction: int | None = None
    top: int = 5

    def __post_init__(self) -> None:
        count, size = len(self.parts.final), int(self.parts.final[0].numel())
        for query in self.queries:
            if not 0 <= query < count:
                raise InputError(f"this path has {count} queries: query is 0 to {count - 1}, not {query}")
        if not self.queries:
            raise InputError("a report needs at least one query: give query=0")
        self.queries = list(dict.fromkeys(self.queries))
        if self.direction is not None and not 0 <= self.direction < size:
            raise InputError(
                f"this path has {size} outputs: direction is 0 to {size - 1}, or left out for the "
                f"change, not {self.direction}"
            )
        if self.top < 1:
            raise InputError(f"top is how many helpers and opponents are listed, at least 1, not {self.top}")

    def to_summary(self) -> dict[str, Any]:
        """Everything machine-readable, JSON-ready: shapes are ``[S]`` by source and ``[S, m]`` by source and query."""
        from genkernel.plots.path_axes import has_changed
        from genkernel.report.path import gap_verdict, overhead_factor

        parts = self.parts
        helpers: list[dict[str, Any]] = []
        opponents: list[dict[str, Any]] = []
        for query in self.queries:
            if self.direction is None and not has_changed(parts, query):
                continue
            for rows, found in zip((helpers, opponents), parts.top(query, self.direction, self.top), strict=True):
                rows += [
                    {"query": query, "source": p.source, "value": p.value, "share": p.share, "gross": p.gross}
                    for p in found
                ]
        small = parts.values.numel() <= SMALL
        return json_ready(
            {
                "schema_version": SCHEMA_VERSION,
                "kind": PathReport.kind,
                "sources": parts.sources,
                "data": parts.data,
                "samples": parts.samples.tolist(),
                "steps": parts.edges[-1] - parts.edges[0],
                "edges": parts.edges,
                "layers": parts.layers,
                "queries": len(parts.final),
                "direction": "change" if self.direction is None else self.direction,
                "initial": parts.initial.tolist() if small else None,
                "final": parts.final.tolist() if small else None,
                "values": parts.values.tolist() if small else None,
                "net": parts.net_size().tolist(),
                "gross": parts.gross_size().tolist(),
                "signed": parts.signed().tolist(),
                "cancellation": parts.cancellation().tolist(),
                "gap": {
                    "absolute": parts.gap_abs,
                    "relative": parts.gap_rel,
                    "verdict": gap_verdict(parts).label,
                    "by_window": parts.gap_by_window.tolist(),
                },
                "top_helpers": helpers,
                "top_opponents": opponents,
                "rule": parts.meta.get("rule"),
                "optimizer": parts.meta.get("optimizer"),
                "dtype": parts.meta.get("dtype"),
                "overhead_factor": overhead_factor(parts),
                "stopped": parts.meta.get("stopped"),
            }
        )


class PathReport(BaseReport["PathResult"]):
    """What a recording of a training run found, and where it came from. Made by :func:`path_report`.

    Attributes:
        result: the contributions and what of them is looked at (:class:`PathResult`).
        provenance: arguments, digest of the file, versions.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run.
    """

    kind = "path"

    @property
    def parts(self) -> PathDecomposition:
        """The contributions."""
        return self.result.parts

    @property
    def reading(self) -> list[str]:
        """Who moved each query that is looked at, and who was against it."""
        from genkernel.report.path import headline

        return [headline(self.parts, query, self.result.direction) for query in self.result.queries]

    @classmethod
    def _stored(cls) -> tuple[type[PathResult], int]:
        return PathResult, SCHEMA_VERSION

    def _claim(self, out: str | Path) -> RunFolder:
        """The folder in which the path itself was saved takes its report; of others it is asked what all runs are."""
        path = Path(out).expanduser()
        taken = [name for name in (PAGE, SUMMARY, PROVENANCE) if (path / name).exists()]
        if PROVENANCE in taken and run_files(path) is None:
            raise InputError(f"{path} holds a {PROVENANCE} that genkernel did not write: give another folder")
        if (path / FILE).is_file():
            held = _readable(path / FILE)
            if held is None or not held.equals(self.result.parts):
                raise InputError(
                    f"{path} holds the {FILE} of another recording, which cannot be made again without its training: "
                    "give another folder, or move it away first"
                )
            self.result.parts = replace(self.result.parts, meta={**held.meta, **self.result.parts.meta})
        return RunFolder.create(path, kind=None if (path / FILE).is_file() and not taken else self.kind)

    def _write(self, out: RunFolder) -> None:
        result = self.result
        out.write_json(RESULT, {"queries": result.queries, "direction": result.direction, "top": result.top})
        with out.placing(FILE) as path:
            result.parts.save(path)

    @classmethod
    def _read(cls, path: Path) -> PathResult:
        view = read_json(path / RESULT)
        try:
            return PathResult(
                PathDecomposition.load(path / FILE), list(view["queries"]), view["direction"], int(view["top"])
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path / RESULT} cannot be read by this version of genkernel: {error}") from error

    def _drawings(self) -> Mapping[str, Callable[[], Figure]]:
        from genkernel.plots.paths import path_figures

        return path_figures(self.parts, self.result.queries, self.result.direction)

    def _page(self, drawn: Mapping[str, bytes]) -> str:
        from genkernel.report.path import path_page

        result = self.result
        return path_page(
            result.parts,
            self.provenance.to_json(),
            drawn,
            queries=result.queries,
            direction=result.direction,
            top=result.top,
        )

    def __repr__(self) -> str:
        return f"PathReport({self.parts!r}{self._where()})"


def path_report(
    path: PathDecomposition | str | Path,
    *,
    query: int | Sequence[int] = 0,
    direction: int | None = None,
    top: int = 5,
    out: str | Path | None = None,
) -> PathReport:
    """Who moved the outputs at chosen queries, who was against it, and do the parts add up?

    A contribution is conditional on the path that training took and on the optimizer's preconditioner. It is not what
    deleting the samples would change, and a small gap certifies the sum, not the split.

    Args:
        path: what ``recording.contributions()`` gave, its file, or the folder that holds it as ``path.npz``.
        query: the number of one query, or of several: each has its tables and figures.
        direction: the number of an output; None for the direction of each query's whole change.
        top: how many helpers and opponents are listed.
        out: also save the report there; it may be the folder that holds ``path.npz``.

    Raises:
        MissingError: there is no such file or folder.
        InputError: neither a path nor the name of one, the file is no path, or there is no such query or output.
        OutputError: ``out`` cannot be written.

    Example:
        >>> path_report(parts, query=[0, 3], out="runs/path").summary()["gap"]["verdict"]  # doctest: +SKIP
        'complete'
    """
    source: dict[str, Any] = {}
    if not isinstance(path, PathDecomposition):
        file = path_file(path)
        path = PathDecomposition.load(file)
        source = {"name": file.resolve().parent.name if file.name == FILE else file.stem, "sha256": sha256(file)}
    queries = [query] if isinstance(query, int) else [int(one) for one in query]
    result = PathResult(path, queries, direction, top)
    meta = path.meta
    report = PathReport(
        result,
        None,
        Provenance(
            arguments={"query": result.queries, "direction": direction, "top": top},
            device=str(meta.get("device", "cpu")),
            dtype=str(meta.get("dtype", "unknown")),
            checkpoint=source,
        ),
    )
    if out is not None:
        report.save(out)
    return report


def _readable(file: Path) -> PathDecomposition | None:
    """What a file holds; None where it is no path."""
    try:
        return PathDecomposition.load(file)
    except InputError:
        return None


def path_file(path: str | Path) -> Path:
    """The file of a path: itself, or ``path.npz`` in a folder.

    Raises:
        MissingError: there is neither.
        InputError: not the name of a file or folder.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"a path report is of what recording.contributions() gave, its file or its folder, not of {path!r:.80}"
        )
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / FILE
        if not path.is_file() and (path.parent / TAPE).is_file():
            raise MissingError(
                f"{path.parent} holds a tape, not contributions: gk.replay('{path.parent}', …).contributions() makes "
                f"them of it, and .save('{path}') keeps them"
            )
        if not path.is_file() and (path.parent / RECORDING).is_file():
            raise MissingError(
                f"{path.parent} holds the state of an unfinished recording: continue it with gk.record(…, "
                f"store='{path.parent}'), and save its contributions"
            )
        if not path.is_file():
            raise MissingError(
                f"{path.parent} holds no {FILE}: record a training with gk.record(…) and save it with "
                f"recording.contributions().save('{path}')"
            )
    elif not path.is_file():
        raise MissingError(f"there is no folder or file {path}: give a folder with a {FILE}, or that file")
    return path
