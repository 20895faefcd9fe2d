"""Where a checkpoint is: a path, or a hub id that is already in the Hugging Face cache.

The network is used only when the caller says ``download=True``. A mistyped path looks like a
hub id (``runs/ddpm`` and ``google/ddpm`` have the same shape), so anything else would turn a
typing error into a long wait.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from genkernel.errors import InputError, MissingError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# a pipeline's denoiser, scheduler and VAE; never its text encoders, and never Python files
_WANTED = (
    "model_index.json",
    "config.json",
    "scheduler_config.json",
    "diffusion_pytorch_model*",
    *[f"{part}/*" for part in ("unet", "transformer", "prior", "decoder", "scheduler", "vae", "vqvae")],
)
_WANTED_SUFFIXES = (".json", ".safetensors")


def resolve(source: str | Path, *, download: bool = False) -> Path:
    """The local path of a checkpoint.

    Args:
        source: a file or folder, or a hub id ``owner/name``.
        download: fetch a hub id that is not in the cache (denoiser, scheduler and VAE only).

    Raises:
        MissingError: nothing is there; the sentence says what was looked for.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    text = str(source)
    if not _HUB_ID.fullmatch(text):
        if download and "/" not in text:
            raise InputError(f"{text!r} is neither a path nor a hub id (owner/name), so there is nothing to download")
        raise MissingError(f"no checkpoint at {text!r}: the path does not exist{_suggestion(path)}")
    return _from_hub(text, path, download)


def _from_hub(repo: str, path: Path, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError, ValueError):
        pass
    if not download:
        raise MissingError(
            f"no checkpoint at {repo!r}: no such path{_suggestion(path)}, and no such model in the Hugging Face cache "
            "(allow the network with download=True or --download)"
        )
    patterns = [p if p.endswith(".json") else f"{p}{suffix}" for p in _WANTED for suffix in _WANTED_SUFFIXES]
    try:
        return Path(snapshot_download(repo, allow_patterns=sorted(set(patterns))))
    except RepositoryNotFoundError as error:
        raise MissingError(f"the hub has no model {repo!r} that this machine may read") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingError(f"{repo!r} could not be downloaded ({reason})") from error


def _suggestion(path: Path) -> str:
    """ " (did you mean …)" when a sibling, or what comes with genkernel, has nearly the same name."""
    from genkernel import assets

    parent = path.parent
    try:
        names = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    except OSError:
        names = []
    if parent == Path():
        names += assets.names()
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {str(parent / close[0])!r}?)" if close else ""
