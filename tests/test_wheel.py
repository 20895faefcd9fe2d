"""A wheel built from a clean copy works outside the checkout, with everything it needs inside."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = {".venv", ".git", "build", "dist", "runs", "out"}
NEEDED = {
    "genkernel/py.typed",
    "genkernel/models/ddpm.py",
    "genkernel/assets/__init__.py",
    "genkernel/assets/MANIFEST.sha256",
    "genkernel/assets/mnist-16.npz",
    "genkernel/assets/ddpm-mnist/model_index.json",
    "genkernel/assets/ddpm-mnist/unet/diffusion_pytorch_model.safetensors",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=not_source)
    build = [sys.executable, "-m", "pip", "wheel", str(folder / "source"), "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), "--quiet"], check=True)
    return next(folder.glob("*.whl"))


def not_source(folder: str, names: list[str]) -> set[str]:
    """What a clean checkout would not hold."""
    made = {name for name in names if name == "__pycache__" or name.endswith((".egg-info", "_cache"))}
    return made | (NOT_SOURCE & set(names) if Path(folder) == ROOT else set())


def run_outside(python: Path, code: str, cwd: Path) -> str:
    done = subprocess.run([python, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """A fresh environment with the wheel; the dependencies are borrowed from this one."""
    home = wheel.parent / "env"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--quiet", str(wheel)], check=True)
    packages = run_outside(python, "import site; print(site.getsitepackages()[0])", wheel.parent)
    Path(packages, "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def test_wheel_holds_what_it_needs_and_no_more(wheel: Path) -> None:
    assert wheel.stat().st_size <= 15e6
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names >= NEEDED
    assert all(name.startswith("genkernel/") for name in names)
    source = wheel.parent / "source"
    assert {p.relative_to(source).as_posix() for p in (source / "genkernel").rglob("*") if p.is_file()} <= names


def test_wheel_runs_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    where = run_outside(
        python, "import genkernel, genkernel.models.ddpm as m; print(genkernel.__file__, m.__file__)", tmp_path
    )
    assert str(ROOT) not in where and where.count(str(python.parents[1])) == 2
    asset = run_outside(python, "from genkernel import assets; print(assets.path('ddpm-mnist'))", tmp_path)
    assert Path(asset).is_relative_to(python.parents[1])
    run = subprocess.run(
        [python.parent / "genkernel", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "0.1.0" in run.stdout


def test_demo_runs_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    command = [
        python.parent / "genkernel",
        "demo",
        "--out",
        "first",
        "--levels",
        "4",
        "--samples",
        "3",
        "--probes",
        "2",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    page = tmp_path / "first" / "index.html"
    assert "first" in run.stdout and page.stat().st_size > 10_000
    assert (tmp_path / "first" / "summary.json").is_file() and str(ROOT) not in page.read_text(encoding="utf-8")
