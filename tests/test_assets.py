"""What is shipped is what is listed, small enough, and loads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from genkernel import assets
from genkernel.data import load_images
from genkernel.errors import MissingError

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = {"mnist-16.npz": (1, 16, 16), "fashion-16.npz": (1, 16, 16), "emoji-32.npz": (3, 32, 32)}


@pytest.fixture(scope="module")
def manifest() -> ModuleType:
    from scripts import manifest

    return manifest


def test_list_is_complete_and_true(manifest: ModuleType) -> None:
    assert manifest.read(ROOT / "assets" / manifest.NAME) == manifest.listing(ROOT / "assets")


def test_assets_stay_small(manifest: ModuleType) -> None:
    sizes = {name: (ROOT / "assets" / name).stat().st_size for name in manifest.listing(ROOT / "assets")}
    assert sum(sizes.values()) <= 25e6
    assert all(sizes[name] <= 200e3 for name in SAMPLES)
    assert max(size for name, size in sizes.items() if name.startswith("ddpm-mnist/")) <= 10e6


def test_changed_file_is_noticed(manifest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ASSETS", tmp_path)
    (tmp_path / "a.npz").write_bytes(b"1")
    assert manifest.main([]) == 0 and manifest.main(["--check"]) == 0
    (tmp_path / "a.npz").write_bytes(b"2")
    assert manifest.main(["--check"]) == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_images(name: str) -> None:
    found = load_images(assets.path(name))
    assert tuple(found.images.shape) == (64, *SAMPLES[name])
    assert found.images.max() > 0.9 and found.images.min() < 0.1
    if name != "emoji-32.npz":
        assert found.labels is not None and torch.bincount(found.labels).tolist() == [7] * 4 + [6] * 6


def test_shipped_denoiser_is_safe_and_averaged() -> None:
    from diffusers import DDPMPipeline

    folder = assets.path("ddpm-mnist")
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    pipeline = DDPMPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    assert (pipeline.unet.config.in_channels, pipeline.unet.config.sample_size) == (1, 16)
    assert all(torch.isfinite(p).all() for p in pipeline.unet.parameters())


def test_unknown_asset() -> None:
    with pytest.raises(MissingError, match=r"no asset 'nothing'; it ships .*mnist-16\.npz"):
        assets.path("nothing")
    with pytest.raises(MissingError):
        assets.path("../pyproject.toml")


def test_assets_are_found_as_a_package() -> None:
    assert importlib.util.find_spec("genkernel.assets") is not None
