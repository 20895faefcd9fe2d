"""What callbacks of trainers share: a monitor or what builds one, its step, and who hears of its alerts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from genkernel.errors import InputError
from genkernel.monitor.monitor import Monitor
from genkernel.monitor.sharded import ShardedMonitor
from genkernel.monitor.trace import Alert, Reading
from genkernel.monitor.unwrapped import is_sharded

log = logging.getLogger("genkernel")

Watcher = Monitor | ShardedMonitor


class Attached:
    """A monitor that a trainer's callback steps.

    Args:
        given: a monitor, or a function that makes one from the trainer's module when the training begins.
        on_alert: is called with every alert; by default they are logged as warnings of the logger ``genkernel``.

    Attributes:
        monitor: None before the training begins, and on ranks that do not read.

    Raises:
        InputError: ``given`` is neither, or ``on_alert`` cannot be called.
    """

    def __init__(self, given: Watcher | Callable[[Any], Watcher], on_alert: Callable[[Alert], Any] | None = None):
        self._build = None if isinstance(given, (Monitor, ShardedMonitor)) else given
        if self._build is not None and (isinstance(given, nn.Module) or not callable(given)):
            raise InputError(
                f"a callback takes a Monitor, or a function that makes one from the module, not {type(given).__name__}"
            )
        if on_alert is not None and not callable(on_alert):
            raise InputError(f"on_alert= is called with every alert, and {type(on_alert).__name__} cannot be called")
        self.monitor: Watcher | None = given if isinstance(given, (Monitor, ShardedMonitor)) else None
        self._on_alert = on_alert or _say

    def begin(self, module: nn.Module, reads: bool) -> None:
        """The training begins.

        Args:
            reads: whether this is rank 0. A model that is spread over ranks needs a monitor on every rank.

        Raises:
            InputError: what was given made no monitor.
        """
        if self._build is None or self.monitor is not None or not (reads or is_sharded(module)):
            return
        made = self._build(module)
        if not isinstance(made, (Monitor, ShardedMonitor)):
            raise InputError(f"the function that a callback was given returns a Monitor, not {type(made).__name__}")
        self.monitor = made

    def step(self, number: int) -> Reading | None:
        """After a step of the training: the reading, where one was taken; its alerts are passed on."""
        if self.monitor is None:
            return None
        before = self._latest()
        self.monitor.step(number)
        latest = self._latest()
        if latest is None or latest is before:
            return None
        for alert in self.raised(latest):
            try:
                self._on_alert(alert)
            except Exception:  # a message that cannot be sent is no reason to stop a training
                log.warning("on_alert= failed; the alert was: %s", alert.message, exc_info=True)
        return latest

    def raised(self, reading: Reading) -> list[Alert]:
        """By this reading."""
        assert self.monitor is not None
        return [alert for alert in self.monitor.alerts if alert.step == reading.step]

    def _latest(self) -> Reading | None:
        inner = self.monitor.monitor if isinstance(self.monitor, ShardedMonitor) else self.monitor
        return None if inner is None else inner.latest


def _say(alert: Alert) -> None:
    log.warning(alert.message)
