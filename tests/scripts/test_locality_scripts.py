"""The thin scripts over ``gk.locality`` and ``gk.open_run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import genkernel as gk
from genkernel.errors import InputError
from genkernel.runs import Provenance
from genkernel.workflows import Report
from scripts import analyze_checkpoint, plot_locality
from tests.diffusion.fake_result import fake_result


def report() -> Report:
    record = Provenance(checkpoint={"name": "c", "sha256": "1"}, data={"sha256": "2"})
    return Report(fake_result(), None, record)


def test_analyze_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def locality(*args: Any, **kwargs: Any) -> Report:
        asked.update(kwargs, args=args)
        return report()

    monkeypatch.setattr(gk, "locality", locality)
    out = tmp_path / "run"
    analyze_checkpoint.main(["ckpt", "images", "--out", str(out), "--levels", "7", "--no-controls"])
    assert asked["args"] == ("ckpt", "images") and asked["levels"] == 7 and not asked["controls"]
    assert (out / "index.html").is_file()
    assert capsys.readouterr().out.endswith(f"saved {out}\n")


def test_plot_locality_draws_what_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = report().save(tmp_path / "run")
    out = tmp_path / "figures"
    plot_locality.main([str(run), "--out", str(out), "--only", "kernel", "controls", "--format", "svg"])
    assert sorted(p.name for p in out.iterdir()) == ["controls.svg", "kernel.svg"]
    assert (out / "kernel.svg").read_bytes() == (run / "figures" / "kernel.svg").read_bytes()
    assert capsys.readouterr().out.count("saved ") == 2
    with pytest.raises(InputError, match="has no figure 'nonsense': it has kernel, profile"):
        plot_locality.main([str(run), "--out", str(out), "--only", "nonsense"])
