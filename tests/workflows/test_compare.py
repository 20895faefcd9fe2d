"""Two runs beside each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from genkernel.errors import InputError
from genkernel.runs import Provenance
from genkernel.workflows import Report
from genkernel.workflows.compare import compare
from tests.diffusion.fake_result import fake_kernel, fake_result


def report(count: int = 12, *, weights: str = "1", seed: int = 0, images: str = "2") -> Report:
    record = Provenance(
        arguments={}, seed=seed, checkpoint={"name": weights, "sha256": weights}, data={"sha256": images}
    )
    return Report(fake_result(count), None, record)


def test_differences_are_b_minus_a_with_errors_in_quadrature() -> None:
    a, b = report(), report(weights="3")
    b.result.locality = fake_kernel(b.result.levels, scale=6.0, seed=5)
    b.result.locality.index_stderr = 0.02
    row = compare(a, b).rows[0]
    assert row.name == "locality index"
    assert row.difference == pytest.approx(b.result.locality.index - a.result.locality.index)
    assert row.stderr == pytest.approx(math.hypot(0.015, 0.02))
    assert row.clear == (abs(row.difference or 0) > 2 * (row.stderr or 0))


def test_a_run_against_itself_differs_in_nothing_and_says_why() -> None:
    found = compare(report(), report())
    assert all(row.difference in (0, None) and not row.clear for row in found.rows)
    words = " ".join(found.warnings)
    assert "same weights" in words and "correlated" in words


def test_quantities_that_only_one_run_has_are_left_out_or_none() -> None:
    a, b = report(), report()
    del b.result.controls["untrained"]
    b.result.locality.by_timestep.half_width = None
    found = compare(a, b)
    assert not [row for row in found.rows if "untrained" in row.name]
    row = next(row for row in found.rows if row.name == "half-width (time)")
    assert row.b is None and row.difference is None and not row.clear


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 13}, "the noise levels differ (12 and 13)"),
        ({"count": 13}, "the windows of the locality index differ"),
        ({"images": "other"}, "the images differ"),
    ],
)
def test_unlike_runs_are_warned_about(change: dict[str, object], words: str) -> None:
    assert any(words in warning for warning in compare(report(), report(**change)).warnings)  # type: ignore[arg-type]


def test_differences_of_unlike_measures_are_never_clear() -> None:
    import dataclasses

    import numpy as np

    a, b = report(), report(weights="3")
    b.result.locality = dataclasses.replace(b.result.locality, index=a.result.locality.index + 10)
    assert compare(a, b).rows[0].clear
    times = np.array(b.result.levels.timesteps)
    times[2] += 1
    b.result.levels = dataclasses.replace(b.result.levels, timesteps=times)
    found = compare(a, b)
    assert not any(row.clear for row in found.rows if "index" in row.name or "half" in row.name)
    assert f"1 of 12 timesteps, the first of them {times[2] - 1:g} in A" in found.warnings[0]
    assert "no difference of indices" in found.warnings[0]


def test_probes_dtype_and_prediction_are_compared() -> None:
    b = report()
    b.result.meta |= {"probes": 2, "dtype": "float64", "prediction_type": "flow"}
    words = " ".join(compare(report(), b).warnings)
    assert "probes differ (8 and 2)" in words and "dtypes differ" in words and "predict different things" in words


def test_other_levels_are_compared_at_equal_log_snr_and_without_a_map() -> None:
    found = compare(report(12), report(24))
    assert "compare_map" not in found.figures()
    assert len(found.half_widths) == 12
    inner = [row for row in found.half_widths if row["a"] is not None and row["b"] is not None]
    assert inner and all(row["a"] == pytest.approx(row["b"]) for row in inner)


def test_page_summary_and_figures_are_written(tmp_path: Path) -> None:
    b = report(weights="3")
    b.result.locality = fake_kernel(b.result.levels, scale=6.0, top=0.9, seed=5)
    out = compare(report(), b).save(tmp_path / "out")
    assert sorted(p.name for p in (out / "figures").glob("*.png")) == [
        "compare_half_widths.png",
        "compare_indices.png",
        "compare_map.png",
        "compare_profiles.png",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["kind"] == "comparison" and summary["schema_version"] == 1 and summary["differences"][0]["clear"]
    page = (out / "index.html").read_text()
    assert "quantities differ by more than two standard errors" in page and "http" not in page.split("</style>")[1]


def test_runs_are_named_by_their_folders(tmp_path: Path) -> None:
    a, b = report(), report()
    a.folder, b.folder = tmp_path / "x" / "run", tmp_path / "y" / "run"
    assert compare(a, b).names == ("x/run", "y/run")
    b.folder = tmp_path / "y" / "other"
    assert compare(a, b).names == ("run", "other")
    assert compare(report(weights="p"), report(weights="q")).names == ("p", "q")


def test_a_comparison_never_replaces_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkernel.plots.diffusion_figures", lambda result: {})  # they take longer than all the rest
    for name in ("a", "b", "c"):
        report(weights=name).save(tmp_path / name)
    found = compare(tmp_path / "a", tmp_path / "b")
    cases = (("a", "is one of the runs"), ("b/../b", "is one of the runs"), ("c", "a finished diffusion run"))
    for name, words in cases:
        before = (tmp_path / name / "index.html").read_bytes()
        with pytest.raises(InputError, match=words):
            found.save(tmp_path / name)
        assert (tmp_path / name / "index.html").read_bytes() == before
    found.save(tmp_path / "d")
    found.save(tmp_path / "d")  # an earlier comparison is replaced
    with pytest.raises(InputError, match="a finished comparison run"):
        report().save(tmp_path / "d")
