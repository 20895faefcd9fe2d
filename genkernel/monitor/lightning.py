"""Lightning's side of a monitor, for ``lightning`` and ``pytorch_lightning``.

from genkernel.monitor.lightning import MonitorCallback

watch = MonitorCallback(lambda module: gk.Monitor(module.unet, scheduler=module.scheduler, data=images, every=500))
trainer = L.Trainer(callbacks=[watch], ...)
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from genkernel.errors import MissingError
from genkernel.monitor.attached import Attached, Watcher
from genkernel.monitor.sinks import PREFIX
from genkernel.monitor.trace import Alert, Header, Reading, flat_scalars

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class _Callback:
    """Steps a monitor after every batch that the weights move in, on rank 0.

    Steps are counted here, because ``trainer.global_step`` counts the steps of all optimizers, two for a batch of a
    GAN. Batches whose gradients are only accumulated (``accumulate_grad_batches=``) do not count. The count is kept in
    checkpoints, and is the axis that Lightning's own loggers have.

    Args:
        monitor: a :class:`~genkernel.Monitor`, or a function that makes one from the LightningModule when ``fit``
            begins, on the device where it is trained; on rank 0 only, except for a module that is spread over ranks,
            where it returns a :class:`~genkernel.monitor.sharded.ShardedMonitor` on all.
        on_alert: is called with every alert; by default they are logged as warnings of the logger ``genkernel``.
        log: whether readings and alerts go to the trainer's loggers too, as ``genkernel/...``.
        name: of the count in checkpoints, where one trainer has several monitors.

    Attributes:
        monitor: None before ``fit`` begins, and on ranks that do not read.

    Raises:
        InputError: ``monitor`` is neither, or ``on_alert`` cannot be called.
    """

    def __init__(
        self,
        monitor: Watcher | Callable[[Any], Watcher],
        on_alert: Callable[[Alert], Any] | None = None,
        *,
        log: bool = True,
        name: str = "monitor",
    ):
        super().__init__()
        self._attached = Attached(monitor, on_alert)
        self._log, self._name = log, name
        self._batches = 0

    @property
    def monitor(self) -> Watcher | None:
        return self._attached.monitor

    @property
    def state_key(self) -> str:
        return f"genkernel.MonitorCallback({self._name})"

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches = int(state_dict["batches"])

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._attached.begin(pl_module, reads=trainer.is_global_zero)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        each = trainer.accumulate_grad_batches
        if (batch_idx + 1) % each and not trainer.is_last_batch:
            return
        self._batches += 1
        reading = self._attached.step(self._batches)
        if reading is not None and self._log:
            self._to_loggers(trainer, reading)

    def _to_loggers(self, trainer: Any, reading: Reading) -> None:
        found = {**flat_scalars(self._header(), reading)}
        found |= {f"alerts/{alert.rule}": 1.0 for alert in self._attached.raised(reading)}
        for logger in trainer.loggers:
            logger.log_metrics({f"{PREFIX}{name}": value for name, value in found.items()}, step=reading.step)

    def _header(self) -> Header:
        from genkernel.monitor.sharded import ShardedMonitor

        monitor = self.monitor.monitor if isinstance(self.monitor, ShardedMonitor) else self.monitor
        assert monitor is not None
        return monitor.trace.header


if TYPE_CHECKING:
    from lightning.pytorch import Callback

    class MonitorCallback(_Callback, Callback):
        pass


def __getattr__(name: str) -> Any:
    """``MonitorCallback`` needs Lightning's base class, which is imported when it is first asked for."""
    if name != "MonitorCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    bases = [importlib.import_module(package).Callback for package in _packages()]
    words = {"__module__": __name__, "__qualname__": name, "__doc__": _Callback.__doc__}
    globals()[name] = type(name, (_Callback, *dict.fromkeys(bases)), words)
    return globals()[name]


def _packages() -> list[str]:
    """Those that are in use, else the first that is installed: both have a ``Callback`` of their own."""
    used = [package for package in _PACKAGES if package in sys.modules]
    there = [package for package in _PACKAGES if importlib.util.find_spec(package.split(".")[0]) is not None]
    if not (used or there):
        raise MissingError("MonitorCallback needs Lightning: pip install lightning")
    return used or there[:1]
