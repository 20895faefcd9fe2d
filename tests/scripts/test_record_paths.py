"""The scripts that record trainings, on the smallest of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import genkernel as gk

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

pytestmark = pytest.mark.usefixtures("one_thread")


def main(name: str, *arguments: str) -> None:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(list(arguments))


def test_a_gan_by_cluster(tmp_path, capsys):
    main("record_gan", "ring", "--steps", "12", "--batch", "48", "--out", str(tmp_path), "--quiet")
    assert "effective number of driving clusters" in capsys.readouterr().out
    parts = gk.PathDecomposition.load(tmp_path / "path.npz")
    assert parts.meta["map"]["kind"] == "clusters" and json.loads((tmp_path / "outcome.json").read_text())["numbers"]
    assert (tmp_path / "map_gross.png").is_file()


def test_a_ddpm_by_noise_level(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, x_test=images)
    run = ("--steps", "3", "--batch", "6", "--size", "8", "--buckets", "2", "--per-bucket", "1", "--quiet")
    main("record_ddpm", str(tmp_path / "images.npz"), "--out", str(tmp_path / "run"), *run)
    assert "Locality indices of the kernel" in capsys.readouterr().out
    report = gk.path_report(tmp_path / "run", out=tmp_path / "page")
    assert report.parts.meta["map"]["kind"] == "noise levels"
    assert (tmp_path / "page" / "figures" / "map_net.png").is_file()


def test_a_check_against_the_naive_recording(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (40, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images)
    data = ("--data", str(tmp_path / "images.npz"), "--steps", "2", "--batch", "4")
    main("check_paths", "dcgan", *data, "--out", str(tmp_path / "check.json"))
    assert json.loads((tmp_path / "check.json").read_text())["dcgan"]["worst"] < 1e-9
