"""Files that are either there and whole, or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from genkernel.errors import OutputError


def write_atomic(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` to a temporary neighbour of ``path`` and rename it into place.

    Args:
        path: the file; its folder has to exist.
        data: the whole content; text is encoded as UTF-8.

    Returns:
        Path: ``path``.

    Raises:
        OutputError: the file cannot be written. Nothing is left behind, and a file that was
            there before is still there unchanged.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, path)
    except OSError as error:
        raise OutputError(explain(error, path)) from error
    finally:
        if part is not None:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
    return path


def explain(error: OSError, path: str | Path) -> str:
    """One sentence for an error met while writing ``path``."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file would exceed the file-size limit of this process or file system",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "the file system is read-only",
        errno.ENOTDIR: "a part of that path is a file, not a folder",
        errno.ENOENT: "its folder does not exist",
        errno.EISDIR: "a folder of that name is in the way",
        errno.ENAMETOOLONG: "the name is too long",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return f"cannot write {path}: {reason}"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
