"""Spectra of runs and kernels, to folders and back; and the command."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.cli.app import run as genkernel
from genkernel.errors import InputError, MissingError
from genkernel.workflows.spectrum import SpectrumReport
from tests.diffusion.tiny import tiny_denoiser, tiny_images


@pytest.fixture(scope="module")
def locality(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run of a denoiser."""
    place = tmp_path_factory.mktemp("runs") / "mine"
    gk.locality(tiny_denoiser(), tiny_images(8), levels=4, samples=8, probes=3, controls=False, bootstrap=10, out=place)
    return place


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genkernel.plots.spectrum.spectrum_figures", lambda result: {})


def test_a_run_brings_its_noise_levels_and_reads_back(locality: Path, tmp_path: Path) -> None:
    report = gk.spectrum(
        locality, denoiser=tiny_denoiser(), data=tiny_images(8), images=8, steps=12, out=tmp_path / "out"
    )
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {"eigenvalues", "effective_ranks", "mode_shares", "overlap", "residual", "learnability"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["kind"] == "spectrum" and summary["groups"]["of"] == "noise level" and summary["samples"] == 32
    assert len(summary["levels"]["timesteps"]) == 4 and np.shape(summary["groups"]["mode_share"])[1] == 4
    assert len(summary["residual"]["rayleigh"]) == 4
    back = gk.open_run(tmp_path / "out")
    assert isinstance(back, SpectrumReport) and back.summary() == report.summary() and back.kernel is not None
    page = (tmp_path / "out" / "index.html").read_text()
    assert "out of the kernel&#39;s reach" in page and "effective rank" in page


def test_a_kernel_and_its_file_take_groups_and_targets(tmp_path: Path, no_figures: None) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    K = gk.kernel(net, torch.randn(12, 3, dtype=torch.float64), cotangents=gk.exact_trace())
    K.save(tmp_path / "kernel.npz")
    labels = np.arange(12) % 2
    np.save(tmp_path / "labels.npy", labels)
    one = gk.spectrum(K, groups=labels, names=["even", "odd"], targets=labels)
    other = gk.spectrum(tmp_path / "kernel.npz", groups=tmp_path / "labels.npy", targets=tmp_path / "labels.npy")
    a, b = one.summary(), other.summary()
    assert a["eigenvalues"] == b["eigenvalues"] and a["targets"] == b["targets"]
    assert a["groups"]["names"] == ["even", "odd"] and b["groups"]["names"] == ["0", "1"]
    assert gk.spectrum(K).summary()["groups"] is None


def test_bad_sources_are_refused_in_words(tmp_path: Path, locality: Path) -> None:
    with pytest.raises(MissingError, match="no file or folder"):
        gk.spectrum(tmp_path / "nowhere")
    with pytest.raises(InputError, match="Kernel"):
        gk.spectrum(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="denoiser"):
        gk.spectrum(locality, data=tiny_images(8))
    with pytest.raises(InputError, match="data="):
        gk.spectrum(locality, denoiser=tiny_denoiser())
    with pytest.raises(MissingError, match="targets"):
        gk.spectrum(locality, targets=tmp_path / "none.npy")


def test_a_place_that_is_taken_is_refused_before_the_work(
    locality: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    module = importlib.import_module("genkernel.workflows.spectrum")  # the package's attribute is the function
    monkeypatch.setattr(module, "analyze", lambda *given, **options: pytest.fail("worked first"))
    with pytest.raises(InputError):
        gk.spectrum(locality, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_denoiser_is_in_the_provenance(locality: Path, no_figures: None) -> None:
    report = gk.spectrum(locality, denoiser=tiny_denoiser(), data=tiny_images(8), images=8, steps=3)
    assert report.provenance.arguments["denoiser"] == tiny_denoiser().name
    assert report.provenance.arguments["images"] == 8 and report.provenance.data["sha256"]


def test_the_command(
    locality: Path,
    tmp_path: Path,
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert genkernel(["spectrum", str(locality)]) == 0
    said = capsys.readouterr()
    assert "effective rank" in said.out and said.out.endswith("report: genkernel-mine-spectrum/index.html\n")
    np.save("y.npy", np.arange(32) % 4)
    assert genkernel(["spectrum", str(locality), "--targets", "y.npy", "--raw", "--json", "--out", "two"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["targets"]["outputs"] == 4 and not summary["normalized"]
    assert genkernel(["spectrum", "nothing"]) == 2 and "no file or folder" in capsys.readouterr().err
