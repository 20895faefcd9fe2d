"""A lock on a folder that one run writes to.

The system drops it with the process that holds it, however that ends. The file of the lock says who holds it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

from genkernel.errors import OutputError
from genkernel.runs.atomic import explain

log = logging.getLogger("genkernel")

LOCK = "lock"


def take(path: Path, what: str, *, shared: bool) -> int | None:
    """Lock a folder; None where that cannot be done (Windows, file systems without locks).

    Args:
        what: the folder is, in messages: ``"tile store"``.
        shared: with others that only read.

    Raises:
        OutputError: another run holds it, or the folder cannot be written.
    """
    try:
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if shared and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return None  # a finished store that may only be read
        raise OutputError(explain(error, path)) from error
    try:
        locked = hold(handle, path, what, shared=shared)
    except BaseException:
        release(handle)
        raise
    if locked:
        return handle
    release(handle)
    return None


def hold(handle: int, path: Path, what: str, *, shared: bool) -> bool:
    """Lock an open file, or change how it is locked; False where files cannot be locked.

    Raises:
        OutputError: another run holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            said = signature(path)
            who = f" (process {said['process']} on {said['machine']})" if said else ""
            raise OutputError(
                f"another run{who} is using the {what} {path}: wait for it to end, or give store= another folder"
            ) from None
        log.warning(f"{path} cannot be locked ({error.strerror}): make sure that no other run writes to it")
        return False
    return True


def sign(handle: int, path: Path, token: str) -> None:
    """Say who holds the lock."""
    import platform

    said = json.dumps({"token": token, "process": os.getpid(), "machine": platform.node()}).encode()
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, said, 0)
    except OSError as error:
        raise OutputError(explain(error, path)) from error


def signature(path: Path) -> dict[str, Any]:
    """Who held the lock last: token, process and machine; nothing where it does not say."""
    try:
        said = json.loads((path / LOCK).read_bytes())
        return said if {"token", "process", "machine"} <= said.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def release(handle: int | None) -> None:
    """Let others have it."""
    if handle is not None:
        os.close(handle)
