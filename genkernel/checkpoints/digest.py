"""One sha256 for a checkpoint, whether it is a file or a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from genkernel.checkpoints.layout import DENOISER_FOLDERS, ENCODER_FOLDERS
from genkernel.errors import MissingError

# what decides a diffusion checkpoint's behaviour; samples, read-mes and training states beside it do not
COUNTED_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt"})
COUNTED_NAMES = frozenset({"config.json", "model_index.json", "scheduler_config.json"})


def sha256(path: str | Path) -> str:
    """Hex digest of a file, or of the weights and configurations in a folder.

    A folder's digest is the sha256 over lines ``<digest>  <relative path>`` sorted by path, so
    it changes with any weight, any configuration, and any renaming, and with nothing else. Of a
    pipeline the parts that are used count (denoiser, scheduler, VAE): its text encoders are not read.

    Raises:
        MissingError: there is nothing at ``path``, or a folder holds no weights.
    """
    path = Path(path)
    if path.is_file():
        return _digest(path)
    if not path.is_dir():
        raise MissingError(f"{path} does not exist, so it has no sha256")
    parts = {*DENOISER_FOLDERS, *ENCODER_FOLDERS, "scheduler"} if (path / "model_index.json").is_file() else None
    files = sorted(
        p
        for p in path.rglob("*")
        if p.is_file() and _counts(p) and (parts is None or p.parent == path or p.relative_to(path).parts[0] in parts)
    )
    if not files:
        raise MissingError(f"{path} holds no weights, so it has no sha256")
    lines = "".join(f"{_digest(p)}  {p.relative_to(path).as_posix()}\n" for p in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _counts(path: Path) -> bool:
    # training.pt is the resumable state of a run, not the model
    return path.name in COUNTED_NAMES or (path.suffix in COUNTED_SUFFIXES and path.name != "training.pt")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
