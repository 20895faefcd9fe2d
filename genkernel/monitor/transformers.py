"""The side of a monitor that Hugging Face's ``Trainer`` calls.

from genkernel.monitor.transformers import MonitorCallback

watch = MonitorCallback(lambda model: gk.Monitor(model, data=images, targets=labels, every=500))
trainer = Trainer(model, arguments, callbacks=[watch], ...)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from genkernel.errors import MissingError
from genkernel.monitor.attached import Attached, Watcher
from genkernel.monitor.trace import Alert
from genkernel.monitor.unwrapped import innermost


class _Callback:
    """Steps a monitor after every step of the optimizer, on rank 0, with the trainer's ``global_step``.

    Args:
        monitor: a :class:`~genkernel.Monitor`, or a function that makes one from the model when the training begins, on
            the device where it is trained; on rank 0 only, except for a model that is spread over ranks, where it
            returns a :class:`~genkernel.monitor.sharded.ShardedMonitor` on all.
        on_alert: is called with every alert; by default they are logged as warnings of the logger ``genkernel``.

    Attributes:
        monitor: None before the training begins, and on ranks that do not read.

    Raises:
        InputError: ``monitor`` is neither, or ``on_alert`` cannot be called.
    """

    def __init__(self, monitor: Watcher | Callable[[Any], Watcher], on_alert: Callable[[Alert], Any] | None = None):
        super().__init__()
        self._attached = Attached(monitor, on_alert)

    @property
    def monitor(self) -> Watcher | None:
        return self._attached.monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._attached.begin(innermost(model), reads=state.is_world_process_zero)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._attached.step(state.global_step)


if TYPE_CHECKING:
    from transformers import TrainerCallback

    class MonitorCallback(_Callback, TrainerCallback):
        pass


def __getattr__(name: str) -> Any:
    """``MonitorCallback`` needs the base class of transformers, which is imported when it is first asked for."""
    if name != "MonitorCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec("transformers") is None:
        raise MissingError("MonitorCallback needs Hugging Face's Trainer: pip install 'transformers[torch]'")
    from transformers import TrainerCallback

    words = {"__module__": __name__, "__qualname__": name, "__doc__": _Callback.__doc__}
    globals()[name] = type(name, (_Callback, TrainerCallback), words)
    return globals()[name]
