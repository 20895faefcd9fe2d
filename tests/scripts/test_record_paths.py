"""The scripts that record trainings, on the smallest of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import genkernel as gk

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

pytestmark = pytest.mark.usefixtures("one_thread")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(name: str, *arguments: str) -> None:
    script(name).main(list(arguments))


def test_a_gan_by_cluster(tmp_path, capsys):
    main("record_gan", "ring", "--steps", "12", "--batch", "48", "--out", str(tmp_path), "--quiet")
    assert "effective number of driving clusters" in capsys.readouterr().out
    parts = gk.PathDecomposition.load(tmp_path / "path.npz")
    assert parts.meta["map"]["kind"] == "clusters" and (tmp_path / "map_gross.png").is_file()
    found = json.loads((tmp_path / "outcome.json").read_text())
    identity = json.loads((tmp_path / "identity.json").read_text())
    assert found["settings"] == identity | {"images": None, "classifier": None, "limit": None}
    assert (found["settings"]["rule"], found["settings"]["queries"], found["settings"]["windows"]) == (
        "adaptive",
        20,
        32,
    )
    assert found["numbers"]["evaluations"] == parts.meta["evaluations"]
    assert found["provenance"]["versions"]["torch"] and found["provenance"]["date"]


def test_a_ddpm_by_noise_level(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, x_test=images)
    run = ("--steps", "3", "--batch", "6", "--size", "8", "--buckets", "2", "--per-bucket", "1", "--quiet")
    main("record_ddpm", str(tmp_path / "images.npz"), "--out", str(tmp_path / "run"), *run)
    assert "Locality indices of the kernel" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "comparison.json").read_text())
    identity = json.loads((tmp_path / "run" / "identity.json").read_text())
    assert identity.items() <= found["settings"].items() and found["settings"]["data"] == "images.npz"
    assert found["provenance"]["threads"] == 1 and found["numbers"]["steps"] == 3
    report = gk.path_report(tmp_path / "run", out=tmp_path / "page")
    assert report.parts.meta["map"]["kind"] == "noise levels"
    assert (tmp_path / "page" / "figures" / "map_net.png").is_file()


def test_a_check_against_the_naive_recording(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (40, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images)
    data = ("--data", str(tmp_path / "images.npz"), "--steps", "2", "--batch", "4")
    main("check_paths", "dcgan", *data, "--out", str(tmp_path / "check.json"))
    found = json.loads((tmp_path / "check.json").read_text())["dcgan"]
    assert found["worst"] < 1e-9 and found["rounding_over_change"] < 1e-9
    # running statistics moved, and what they did is compared as well
    assert found["sizes_over_change"]["buffers"] > 1e-3 and "buffers" in found["relative_differences"]
    assert {*found["relative_differences"], "rounding"} == set(found["sources"])
    assert found["provenance"]["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("off", "rounding", "expected", "said"),
    [
        (1e-3, 0.0, (0, "buffers"), "differs from the naive one"),
        (0.0, 1e-3, (0, "buffers"), "rounding is said to have made"),
        (0.0, 0.0, (0,), "only one of the recordings has the sources .'buffers'."),
        (0.0, 0.0, (0, "buffers", 1), "only one of the recordings has the sources .'1'."),
    ],
)
def test_a_check_that_does_not_come_out(tmp_path, monkeypatch, off, rounding, expected, said):
    np.savez(tmp_path / "images.npz", x_train=np.zeros((4, 28, 28), dtype=np.uint8))
    value = torch.ones(2, 3, dtype=torch.float64)
    parts = gk.PathDecomposition(
        sources=[0, "rounding", "buffers"],
        net=torch.stack([value * (1 + off), value * rounding, value])[None, :, None],
        gross=torch.ones(1, 3, 1, 2, dtype=torch.float64),
        layers=["all"],
        edges=[0, 2],
        outputs=torch.stack([0 * value, 2 * value]),
        samples=torch.tensor([4, 0, 0]),
        data=[True, False, False],
        meta={"parameters": 3, "rule": "midpoint"},
    )
    check = script("check_paths")
    monkeypatch.setattr(check, "_ddpm", lambda *_: (parts, dict.fromkeys(expected, value)))
    with pytest.raises(SystemExit, match=said):
        check.main(["ddpm", "--data", str(tmp_path / "images.npz")])
