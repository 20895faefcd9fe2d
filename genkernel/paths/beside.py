"""What stands beside a training loop: hooks around ``optimizer.step()`` that never harm it, and a clock."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import torch

from genkernel.errors import GenkernelError, RecordingError, RecordingWarning
from genkernel.paths.clock import Clock


class Beside:
    """Watches the steps of an optimizer inside of a with-block.

    Whatever goes wrong in the watching ends it with a warning, and the training goes on.

    Args:
        what: "recording", "tape": for messages.
        optimizer: whose steps are watched.
        device: where the training runs.

    Attributes:
        step: optimizer steps that were watched.
        stopped: why the watching ended before the training did; None while it goes on.
    """

    def __init__(self, what: str, optimizer: torch.optim.Optimizer, device: torch.device):
        self._what, self._watched = what, optimizer
        self._handles: list[Any] = []
        self._clock = Clock(device)
        self.step = 0
        self.stopped: str | None = None

    # ------------------------------------------------------------------ for each kind to say

    def _at_start(self) -> None:
        """The loop begins."""

    def _look(self) -> None:
        """Right before a step."""
        raise NotImplementedError

    def _take(self) -> None:
        """Right after a step."""
        raise NotImplementedError

    def _at_end(self) -> None:
        """The loop has ended."""

    # ------------------------------------------------------------------------------- the frame

    def __enter__(self) -> Self:
        if self._handles:
            raise RecordingError(f"this {self._what} is in progress already")
        self._at_start()
        self._handles = [
            self._watched.register_step_pre_hook(self._before_step),
            self._watched.register_step_post_hook(self._after_step),
        ]
        self._clock.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        with self._clock.ours():
            self._guarded(self._at_end)
        self._clock.close()

    @property
    def overhead(self) -> float:
        """Time of the watching relative to the loop's own, from the start of the with-block on."""
        return self._clock.overhead

    def _name(self, first: bool, work: Callable[[], None]) -> None:
        """Take in a batch that the loop names: errors before the first step are raised, as nothing is lost then."""
        if self.stopped is not None:
            return
        if not self._handles:
            raise RecordingError(f"batches are named inside of the with-block of the {self._what}")
        with self._clock.ours():
            if first:
                work()
            else:
                self._guarded(work)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        def look() -> None:
            # the first is the optimizer itself, and wrappers hand on a closure that is None
            if any(one is not None for one in (*args[1:], *kwargs.values())):
                raise RecordingError("step(closure) computes gradients inside of the step, where they cannot be seen")
            self._look()

        with self._clock.ours():
            self._guarded(look)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        with self._clock.ours():
            self._guarded(self._take)

    def _guarded(self, work: Callable[[], None]) -> None:
        if self.stopped is not None:
            return
        try:
            work()
        except BaseException as error:  # whatever it is, the training goes on
            self.stopped = str(error) if isinstance(error, GenkernelError) else f"{type(error).__name__}: {error}"
            self._let_go()
            if not isinstance(error, Exception):  # Ctrl-C is for the loop
                self.stopped = self.stopped.removesuffix(": ")
                raise
            with suppress(RecordingWarning):  # where warnings are errors, it is in ``stopped`` alone
                warnings.warn(
                    f"the {self._what} stopped at step {self.step}, the training goes on: {self.stopped}",
                    RecordingWarning,
                    stacklevel=4,
                )

    def _let_go(self) -> None:
        """It stopped, or the block was left: keep what is whole, free what only a going watch needs."""
