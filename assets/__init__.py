"""Small checkpoints and image samples; in an installed wheel this package is ``genkernel.assets``.

>>> from genkernel import assets
>>> assets.path("ddpm-mnist")  # a diffusers pipeline, on disk
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Where a shipped file or folder lies on disk.

    Args:
        name: relative to this folder: ``"ddpm-mnist"``, ``"mnist-16.npz"``.

    Raises:
        MissingError: nothing of that name is shipped.
    """
    from genkernel.errors import MissingError

    found = (_HERE / name).resolve()
    if not found.is_relative_to(_HERE) or not found.exists():
        raise MissingError(f"genkernel ships no asset {name!r}; it ships {', '.join(names()) or 'none'}")
    return found


def names() -> list[str]:
    """Everything that is shipped: checkpoints and samples of images."""
    return sorted(p.name for p in _HERE.iterdir() if p.suffix == ".npz" or (p / "training.json").exists())
