"""Results that wait: in memory as far as they may, then in files of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch import Tensor


class Spool:
    """Named tensors by task name, until the end of a ``with`` block.

    Args:
        most: bytes to hold in memory.
    """

    def __init__(self, most: int):
        self._left = most
        self._held: dict[str, Mapping[str, Tensor]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, Path] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def put(self, task: str, result: Mapping[str, Tensor]) -> None:
        """Keep CPU tensors.

        Raises:
            OSError: the temporary folder is full.
        """
        from safetensors.torch import save_file

        size = sum(tensor.nbytes for tensor in result.values())
        if size <= self._left:
            self._left -= size
            self._held[task] = result
            return
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="genkernel-")
        file = self._files[task] = Path(self._folder.name) / f"{len(self._files)}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in result.items()}, file)

    def take(self, task: str) -> Mapping[str, Tensor]:
        """Hand over what was put, once."""
        from safetensors.torch import load_file

        if task in self._held:
            return self._held.pop(task)
        file = self._files.pop(task)
        found = load_file(file)
        file.unlink()
        return found
