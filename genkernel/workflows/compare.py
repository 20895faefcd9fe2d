"""Two runs beside each other: what differs, by how much, and whether the comparison is fair."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.errors import InputError
from genkernel.runs import RunFolder
from genkernel.workflows.open_run import open_run
from genkernel.workflows.report import PAGE, PROVENANCE, SUMMARY, BaseReport, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult

SCHEMA_VERSION = 1


@dataclass
class Difference:
    """One quantity in both runs; ``stderr`` is None where a quantity has none."""

    name: str
    a: float | None
    a_stderr: float | None
    b: float | None
    b_stderr: float | None
    difference: float | None
    stderr: float | None
    comparable: bool = True  # False where the runs measured it at other levels or with other windows

    @property
    def clear(self) -> bool:
        """Larger than two standard errors, of a quantity that means the same in both runs."""
        if not self.comparable or self.difference is None or not self.stderr:
            return False
        return abs(self.difference) > 2 * self.stderr


@dataclass
class Comparison:
    """B against A.

    Attributes:
        names: what the runs are called, unique.
        rows: indices, floor, half-widths, mean loss.
        half_widths: per level of A: its time and log-SNR, and the half-widths in log-SNR of A and of B
            (B's interpolated in log-SNR where its levels differ).
        warnings: why the comparison may not be of like with like.
    """

    a: Report
    b: Report
    names: tuple[str, str]
    rows: list[Difference] = field(default_factory=list)
    half_widths: list[dict[str, float | None]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Everything but the figures, JSON-ready."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "comparison",
            "runs": list(self.names),
            "warnings": self.warnings,
            "differences": [{**asdict(row), "clear": row.clear} for row in self.rows],
            "half_widths": self.half_widths,
        }

    def figures(self) -> dict[str, Callable[[], Figure]]:
        """The figures that both runs can fill, each drawn when called."""
        from genkernel.plots import compare as draw

        a, b = self.a.result, self.b.result
        found: dict[str, Callable[[], Figure]] = {
            "compare_indices": lambda: draw.compare_indices(a, b, self.names),
            "compare_profiles": lambda: draw.compare_profiles(a, b, self.names),
            "compare_half_widths": lambda: draw.compare_half_widths(a, b, self.names),
        }
        if _same(a.levels.timesteps, b.levels.timesteps):
            found["compare_map"] = lambda: draw.compare_map(a, b, self.names)
        return found

    def save(self, out: str | Path) -> Path:
        """Write ``index.html``, ``summary.json``, ``run.json`` and the figures to a folder.

        Raises:
            InputError: the folder is that of one of the two runs, or holds a run of another kind or other files.
            OutputError: the folder cannot be written.
        """
        place = Path(out).expanduser().resolve()
        if any(report.folder is not None and report.folder.resolve() == place for report in (self.a, self.b)):
            raise InputError(f"{out} is one of the runs that are compared: give another folder for the comparison")
        from genkernel.plots import to_bytes
        from genkernel.report import compare_page
        from genkernel.runs import versions

        with RunFolder.create(out, kind="comparison") as folder:
            drawn = {}
            for name, draw in self.figures().items():
                figure = draw()
                drawn[name] = to_bytes(figure, "png")
                folder.write(f"figures/{name}.png", drawn[name])
                folder.write(f"figures/{name}.svg", to_bytes(figure, "svg"))
            folder.write_json(SUMMARY, self.summary())
            runs = [report.provenance.to_json() for report in (self.a, self.b)]
            folder.write(PAGE, compare_page(self.summary(), runs, drawn))
            record = {"runs": list(self.names), "versions": versions()}
            folder.write_json(PROVENANCE, {**record, "files": sorted({*folder.files(), PROVENANCE})})
            return folder.commit()


def compare(a: str | Path | Report, b: str | Path | Report) -> Comparison:
    """Compare two runs.

    Args:
        a, b: run folders, or reports.

    Raises:
        MissingError: a folder holds no finished run.
        InputError: a run is not of a diffusion model, or cannot be read.
    """
    first, second = (_diffusion(given) for given in (a, b))
    found = Comparison(first, second, _names(a, b, first, second))
    found.rows = _differences(first, second)
    found.half_widths = _half_widths(first, second)
    found.warnings = _warnings(first, second)
    return found


def _diffusion(given: Any) -> Report:
    report = given if isinstance(given, BaseReport) else open_run(given)
    if not isinstance(report, Report):
        name = report.folder or f"the {report.kind} run"
        raise InputError(f"{name} is a run of kind {report.kind}: compare works on diffusion runs")
    return report


def _differences(a: Report, b: Report) -> list[Difference]:
    from genkernel.plots.names import MAIN, control_title, kernels

    x, y = a.result, b.result
    rows = [
        _row("locality index", x.locality.index, x.locality.index_stderr, y.locality.index, y.locality.index_stderr),
        _row(
            "locality index, unnormalised",
            x.unnormalized.index, x.unnormalized.index_stderr, y.unnormalized.index, y.unnormalized.index_stderr,
        ),
    ]  # fmt: skip
    mine, theirs = kernels(x), kernels(y)
    for name in mine:
        if name != MAIN and name in theirs:
            p, q = mine[name], theirs[name]
            rows.append(_row(f"index, {control_title(name).lower()}", p.index, p.index_stderr, q.index, q.index_stderr))
    s, t = x.locality.by_timestep, y.locality.by_timestep
    rows.append(_row("far-lag floor", s.floor, s.floor_stderr, t.floor, t.floor_stderr))
    rows.append(_row("half-width (time)", s.half_width, None, t.half_width, None))
    s, t = x.locality.by_log_snr, y.locality.by_log_snr
    rows.append(_row("half-width (nats of log-SNR)", s.half_width, None, t.half_width, None))
    if not (_same(x.levels.timesteps, y.levels.timesteps) and _same_window(x, y)):
        for row in rows:  # all of them are means over pairs of levels
            row.comparable = False
    rows.append(_row("mean loss over the levels", *_mean_loss(a), *_mean_loss(b)))
    if x.interference is not None and y.interference is not None:
        rows.append(
            _row("conflicting pairs", len(x.interference.conflicting), None, len(y.interference.conflicting), None)
        )
    return rows


def _row(name: str, a: float | None, a_error: float | None, b: float | None, b_error: float | None) -> Difference:
    numbers = [None if v is None or not math.isfinite(v) else float(v) for v in (a, a_error, b, b_error)]
    p, p_error, q, q_error = numbers
    difference = None if p is None or q is None else q - p
    stderr = None if p_error is None or q_error is None else math.hypot(p_error, q_error)
    return Difference(name, p, p_error, q, q_error, difference, stderr)


def _mean_loss(report: Report) -> tuple[float, None]:
    return float(np.mean(report.result.loss_mean)), None  # levels share images: no error without the replicates


def _half_widths(a: Report, b: Report) -> list[dict[str, float | None]]:
    x, y = a.result, b.result
    same = _same(x.levels.timesteps, y.levels.timesteps)
    theirs = np.array(y.locality.half_width_log_snr, dtype=float)
    if not same:
        order = np.argsort(y.levels.log_snr)
        theirs = np.interp(x.levels.log_snr, y.levels.log_snr[order], theirs[order], left=np.nan, right=np.nan)
    return [
        {
            "timestep": float(t),
            "log_snr": float(snr),
            "a": None if mine is None else float(mine),
            "b": float(other) if math.isfinite(other) else None,
        }
        for t, snr, mine, other in zip(
            x.levels.timesteps, x.levels.log_snr, x.locality.half_width_log_snr, theirs, strict=True
        )
    ]


def _warnings(a: Report, b: Report) -> list[str]:
    x, y, p, q = a.result, b.result, a.provenance, b.provenance
    found = []
    if not _same(x.levels.timesteps, y.levels.timesteps):
        found.append(
            f"the noise levels differ ({_how_levels_differ(x.levels.timesteps, y.levels.timesteps)}): the maps are "
            "not subtracted, half-widths are compared at equal log-SNR, and no difference of indices, floors or "
            "half-widths is marked as clear, because each is a mean over its own levels"
        )
    if not _same_window(x, y):
        found.append(
            f"the windows of the locality index differ (|Δt| ≤ {x.levels.window_timesteps:g} of {x.levels.span:g} and "
            f"≤ {y.levels.window_timesteps:g} of {y.levels.span:g}): indices are not comparable as "
            "such, and no difference of theirs is marked as clear"
        )
    for key, what in (("images", "numbers of images"), ("probes", "numbers of probes"), ("dtype", "dtypes")):
        if x.meta.get(key) != y.meta.get(key):
            found.append(f"the {what} differ ({x.meta.get(key)} and {y.meta.get(key)})")
    if x.meta.get("prediction_type") != y.meta.get("prediction_type"):
        found.append(
            f"the networks predict different things ({x.meta.get('prediction_type')} and "
            f"{y.meta.get('prediction_type')}): kernels and losses are of the raw outputs"
        )
    if _digest(p.data) != _digest(q.data):
        found.append("the images differ")
    elif p.seed == q.seed:
        found.append(
            "both runs use the same images, noise and probes, so their errors are correlated: the standard errors of "
            "the differences, added as if independent, are probably too large"
        )
    if _digest(p.checkpoint) is not None and _digest(p.checkpoint) == _digest(q.checkpoint):
        found.append("both runs are of the same weights")
    if p.versions.get("genkernel") != q.versions.get("genkernel"):
        found.append(f"made by genkernel {p.versions.get('genkernel')} and {q.versions.get('genkernel')}")
    return found


def _digest(record: Mapping[str, Any]) -> Any:
    return (record or {}).get("sha256")


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b))


def _same_window(x: DiffusionResult, y: DiffusionResult) -> bool:
    return x.levels.window_timesteps == y.levels.window_timesteps and x.levels.span == y.levels.span


def _how_levels_differ(a: np.ndarray, b: np.ndarray) -> str:
    if a.shape != b.shape:
        return f"{len(a)} and {len(b)}"
    other = np.flatnonzero(~np.isclose(a, b))
    first = int(other[0])
    return f"{len(other)} of {len(a)} timesteps, the first of them {a[first]:g} in A and {b[first]:g} in B"


def _names(a: Any, b: Any, first: Report, second: Report) -> tuple[str, str]:
    """Short unique names: of the folders, else of the checkpoints, else A and B."""
    folders = [r.folder.resolve() if r.folder is not None else None for r in (first, second)]
    if folders[0] is not None and folders[1] is not None:
        if folders[0].name != folders[1].name:
            return folders[0].name, folders[1].name
        return f"{folders[0].parent.name}/{folders[0].name}", f"{folders[1].parent.name}/{folders[1].name}"
    names = [str(r.provenance.checkpoint.get("name") or "") for r in (first, second)]
    return (names[0], names[1]) if all(names) and names[0] != names[1] else ("A", "B")
