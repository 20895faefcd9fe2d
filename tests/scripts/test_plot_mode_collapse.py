"""The thin script over ``gk.open_run`` for GAN runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from genkernel.errors import InputError
from genkernel.runs import Provenance
from genkernel.workflows import GanReport, Report
from scripts import plot_locality, plot_mode_collapse
from tests.diffusion.fake_result import fake_result
from tests.gan.fake_result import alone_result


def test_figures_are_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = GanReport(alone_result(), None, Provenance()).save(tmp_path / "run")
    out = tmp_path / "figures"
    plot_mode_collapse.main([str(run), "--out", str(out), "--only", "kernel", "occupancy", "--format", "svg"])
    assert sorted(p.name for p in out.iterdir()) == ["kernel.svg", "occupancy.svg"]
    assert (out / "kernel.svg").read_bytes() == (run / "figures" / "kernel.svg").read_bytes()
    assert capsys.readouterr().out.count("saved ") == 2
    with pytest.raises(InputError, match="has no figure 'amplification': it has kernel"):
        plot_mode_collapse.main([str(run), "--out", str(out), "--only", "amplification"])
    with pytest.raises(InputError, match="holds a gan run, and this needs a diffusion run"):
        plot_locality.main([str(run), "--out", str(out)])


def test_a_run_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkernel.plots.diffusion_figures", lambda result: {})
    run = Report(fake_result(), None, Provenance()).save(tmp_path / "run")
    with pytest.raises(InputError, match="holds a diffusion run, and this needs a gan run"):
        plot_mode_collapse.main([str(run), "--out", str(tmp_path)])
