"""Spectra of runs and kernels, to folders and back; and the command."""

from __future__ import annotations

import hashlib
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


def linear_kernel(n: int = 24) -> gk.Kernel:
    x = torch.randn(n, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return gk.kernel(torch.nn.Linear(30, 2).double(), x, cotangents=gk.exact_trace())


def test_groups_may_be_names(tmp_path: Path) -> None:
    K, names = linear_kernel(), ["b", "a", "c"] * 8
    expected = gk.spectrum(K, groups=[1, 0, 2] * 8, names=["a", "b", "c"]).summary()["groups"]
    np.save(tmp_path / "names.npy", np.array(names))
    for given in (names, np.array(names), np.array(names, dtype=object), tmp_path / "names.npy"):
        assert gk.spectrum(K, groups=given).summary()["groups"] == expected
    np.save(tmp_path / "objects.npy", np.array(names, dtype=object))
    np.savez(tmp_path / "objects.npz", groups=np.array(names, dtype=object))
    for name in ("objects.npy", "objects.npz"):
        with pytest.raises(InputError, match="dtype=str"):
            gk.spectrum(K, groups=tmp_path / name)
    with pytest.raises(InputError, match="leave names= out"):
        gk.spectrum(K, groups=names, names=["x", "y", "z"])
    with pytest.raises(InputError, match="there are 2 names, and numbers of groups go up to 2"):
        gk.spectrum(K, groups=[0, 1, 2] * 8, names=["a", "b"])
    with pytest.raises(InputError, match="groups="):
        gk.spectrum(K, names=["a", "b"])
    with pytest.raises(InputError, match="one number or name"):
        gk.spectrum(K, groups=[[0], [1, 2]])


def test_names_of_a_runs_groups_can_be_given(locality: Path) -> None:
    assert gk.spectrum(locality, names=list("abcd")).summary()["groups"]["names"] == list("abcd")
    with pytest.raises(InputError, match="there are 2 names"):
        gk.spectrum(locality, names=["a", "b"])


def test_whole_numbers_that_look_like_values_are_doubted() -> None:
    K = linear_kernel()

    def said(targets: object) -> str:
        return " ".join(gk.spectrum(K, targets=targets, ridge=0.1).summary()["reading"])

    assert "24 classes for 24 samples: whole numbers are taken for classes, give values as floats" in said(
        np.arange(24)
    )
    assert "13 classes for 24 samples: whole" in said(torch.arange(24).clamp(max=12))
    assert "classes for" not in said(torch.arange(24).clamp(max=11))  # half as many classes as samples
    assert "classes for" not in said(np.arange(24.0)) and "classes for" not in said(np.arange(24) % 3)
    assert "24 classes for 24 samples." in said([f"n{i:02}" for i in range(24)])  # names are no values


def test_the_files_of_groups_and_targets_are_on_the_page(tmp_path: Path, no_figures: None) -> None:
    np.save(tmp_path / "labels.npy", np.arange(24) % 3)
    np.save(tmp_path / "parts.npy", np.arange(24) % 2)
    given = {"groups": tmp_path / "parts.npy", "targets": tmp_path / "labels.npy"}
    report = gk.spectrum(linear_kernel(), groups=given["groups"], targets=given["targets"], out=tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    for name, path in given.items():
        assert report.provenance.arguments[f"{name}_file"] == path.name
        assert f"{name}_file={path.name}" in page and hashlib.sha256(path.read_bytes()).hexdigest() in page


def test_a_finished_report_is_replaced_whole_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.plots.spectrum import targets

    monkeypatch.setattr(
        "genkernel.plots.spectrum.spectrum_figures",
        lambda result: {"targets": lambda: targets(result)} if result.spectrum.targets is not None else {},
    )
    said: list[str] = []
    out = tmp_path / "out"
    gk.spectrum(linear_kernel(), targets=np.arange(24) % 3, out=out, say=said.append)
    assert (out / "figures" / "targets.png").is_file() and not said
    (out / "mine.txt").write_text("kept")
    gk.spectrum(linear_kernel(), out=out, say=said.append)
    assert not (out / "figures" / "targets.png").exists() and not (out / "figures" / "targets.svg").exists()
    assert (out / "mine.txt").is_file() and json.loads((out / "summary.json").read_text())["targets"] is None
    assert said == [f"replaces the finished report in {out}"]


def test_a_report_of_a_spectrum_names_the_kernel_in_it(tmp_path: Path, no_figures: None) -> None:
    gk.spectrum(linear_kernel(), out=tmp_path / "out")
    with pytest.raises(
        InputError, match=r"report of a spectrum.*give the kernel in it \(.*kernel.npz\), or the folder"
    ):
        gk.spectrum(tmp_path / "out")
    assert gk.spectrum(tmp_path / "out" / "kernel.npz").summary()["samples"] == 24


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
    assert len(summary["eigenvalues"]) == 12 and summary["modes"] == {"shown": 12, "of": 32}
    whole = json.loads(Path("two/summary.json").read_text())
    assert len(whole["eigenvalues"]) == 32 and whole["eigenvalues"][:12] == summary["eigenvalues"]
    assert len(summary["targets"]["power"]) == 12 and whole["groups"]["overlap"] == summary["groups"]["overlap"]
    assert genkernel(["spectrum", str(locality), "--data", "x"]) == 2
    complaint = capsys.readouterr().err
    assert "give --denoiser" in complaint and "denoiser=" not in complaint
    assert genkernel(["spectrum", str(locality), "--denoiser", "x"]) == 2 and "give --data" in capsys.readouterr().err
    assert genkernel(["spectrum", "nothing"]) == 2 and "no file or folder" in capsys.readouterr().err
