"""``Monitor``: watches a model while it trains, within a share of the training's time, and speaks up."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from genkernel.errors import GenkernelError, InputError
from genkernel.monitor.cadence import Cadence
from genkernel.monitor.draws import DRAWN, Draws
from genkernel.monitor.losses import Losses, RunningLosses
from genkernel.monitor.rules import Judge, Rule, default_rules
from genkernel.monitor.rules.rule import QUIET
from genkernel.monitor.sinks import Sink, as_sinks
from genkernel.monitor.trace import Alert, Array, Header, Problem, Reading, Trace
from genkernel.monitor.untouched import untouched
from genkernel.monitor.unwrapped import rank
from genkernel.monitor.watch import NEW_AXES, Watch
from genkernel.monitor.watching import watch_of
from genkernel.runs.codec import json_ready
from genkernel.runs.provenance import machine, versions
from genkernel.tangent import workspace

log = logging.getLogger("genkernel")


class Monitor:
    """Reads a denoiser, a GAN or a classifier every so many steps, and judges what it reads.

    What is watched depends on what is given: ``scheduler=`` (or a :class:`~genkernel.Denoiser`) makes it a diffusion
    model, a discriminator or ``latent_shape=`` (or a :class:`~genkernel.gan.Generator`) a GAN, and ``targets=`` (or
    ``data=(inputs, classes)``) a classifier. Probes are fixed and seeded, so that readings differ by the weights alone.

    The training is not changed: weights, buffers, gradients, modes, hooks, the optimizer and all random states are
    bit-equal before and after a reading, also after an exception in it. A reading that fails does not stop the
    training either: what could not be read is a problem of the reading, with its reason.

    Args:
        model: the module that is trained (in ``torch.compile`` or ``DistributedDataParallel`` or as it is), a domain
            wrapper, or a :class:`~genkernel.monitor.watch.Watch` of your own.
        discriminator: of a GAN.
        every: steps between two readings, at least.
        max_overhead: share of the training's time that readings may take; they are taken less often where ``every``
            would exceed it. None for no bound.
        sink: where readings go (:mod:`genkernel.monitor.sinks`): one or several, or the path of a log.
        rules: what is judged; :func:`~genkernel.monitor.rules.default_rules` of the kind by default.
        seed: of the probes.
        memory: bound on what a reading holds beside the model (``"512MiB"``, bytes); by default what the training
            has held and freed, and at least 128 MiB.
        clock: seconds; one that stands still during validation keeps that out of the training's time.
        options: those of the kind's watch (:class:`~genkernel.monitor.denoiser_watch.DenoiserWatch`,
            :class:`~genkernel.monitor.gan_watch.GanWatch`,
            :class:`~genkernel.monitor.classifier_watch.ClassifierWatch`) and of its wrapper.

    Attributes:
        trace: all readings and alerts so far; those in the log that the run continues, too.
        latest: the newest reading, or None.
        watch: what is read.
        calls: steps so far, counted where they are not named.
        cadence: when it reads, and what that costs (``cadence.longest_wait``: steps without a reading).

    Raises:
        InputError: what is given is not enough to know what to watch, or does not fit.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> mon = gk.Monitor(net, data=torch.randn(24, 4), targets=torch.arange(24) % 3, every=10, max_overhead=None)
        >>> mon.step(0)
        >>> mon.latest.step, "loss/mean" in mon.latest.scalars
        (0, True)
    """

    def __init__(
        self,
        model: nn.Module | Watch | Any,
        discriminator: nn.Module | Any = None,
        *,
        every: int = 200,
        max_overhead: float | None = 0.02,
        sink: Any = None,
        rules: Iterable[Rule] | None = None,
        seed: int = 0,
        memory: str | int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ):
        self.cadence = Cadence(every, max_overhead, clock)
        started = time.perf_counter()
        self.watch: Watch = watch_of(model, discriminator, seed=seed, memory=memory, options=options)
        self._sinks: list[Sink] = as_sinks(sink) if rank() == 0 else []  # on other ranks nothing is read
        self._judge = Judge(
            default_rules(self.watch.kind) if rules is None else rules,
            lambda rule, error: self._say_once(f"rule {rule.name!r}", error),
        )
        settings = {
            "every": every, "max_overhead": max_overhead, "seed": seed, "memory": memory,
            "rules": [rule.name for rule in self._judge.rules], **self.watch.settings,
        }  # fmt: skip
        about = {"versions": versions(), "machine": machine(), "setup_seconds": time.perf_counter() - started}
        self.trace = Trace(Header(self.watch.kind, self.watch.axes, self.watch.arrays, json_ready(settings), about))
        self._losses = RunningLosses()
        self._draws = Draws({name: self.watch.axes[axes[0]] for name, axes in self._drawn()})
        self.calls = 0
        self._said: set[tuple[str, ...]] = set()
        if rank() == 0:
            self._open()

    def __repr__(self) -> str:
        readings, alerts = len(self.trace.readings), len(self.alerts)
        what = f"{self.watch.kind}, every {self.cadence.every} steps"
        return f"Monitor({what}: {readings} readings, {alerts} alerts, overhead {self.overhead:.1%})"

    # ------------------------------------------------------------------------ what is known

    @property
    def latest(self) -> Reading | None:
        return self.trace.readings[-1] if self.trace.readings else None

    @property
    def alerts(self) -> list[Alert]:
        """All that were raised, oldest first."""
        return self.trace.alerts

    @property
    def overhead(self) -> float:
        """Seconds of readings per second of everything else since the first step."""
        return self.cadence.overhead

    # ------------------------------------------------------------------------ in the loop

    def step(
        self, step: int | None = None, loss: Losses | None = None, *, timesteps: Any = None, classes: Any = None
    ) -> Alert | None:
        """Call this after every step of the training.

        Args:
            step: its number; by default the calls are counted, from 1 on, or from the last step in the log that the
                run continues. One that is smaller than an earlier one means that the training went back to a
                checkpoint: readings from there on are forgotten.
            loss: of this step, a number or several by name, such as ``{"generator": …, "discriminator": …}``. Their
                means between readings are recorded and judged; tensors are not waited for.
            timesteps: that this step has drawn, of a denoiser ``[b]``, as its scheduler counts them. How often which
                are drawn is recorded and judged; tensors are not waited for.
            classes: of the samples that this step has drawn ``[b]``, where the monitor knows those of its probes.

        Returns:
            Alert: the gravest that this reading raised; None between readings, and where nothing was found. All are
            in :attr:`alerts`. With ``torch.distributed`` only rank 0 reads, and all others get None.

        Raises:
            InputError: the step is no whole number, the loss none, or what was drawn is not what the monitor counts.
        """
        self.calls += 1
        number = self.calls if step is None else whole_step(step)
        if rank() == 0:
            self.report(loss, timesteps=timesteps, classes=classes)
        return self._read(number) if rank() == 0 and self.due(number) else None

    def report(self, loss: Losses | None = None, *, timesteps: Any = None, classes: Any = None) -> None:
        """What :meth:`step` does with the losses and the draws of a training step, for the next reading."""
        if loss is not None:
            self._losses.add(loss)
        self._draws.add(timesteps=timesteps, classes=classes)

    def due(self, step: int) -> bool:
        """Whether :meth:`step` would take a reading at this step; where the training went back, that is taken note of.

        For those who have to prepare something for a reading, on rank 0.
        """
        if self.trace.readings and (step < self.trace.last.step or (step == self.trace.last.step and self._fresh)):
            self._rewind(step)
        return self.cadence.due(step)

    def read(self, step: int | None = None) -> Reading:
        """A reading now, whether it is due or not; rules judge it like any other."""
        number = self.calls if step is None else whole_step(step)
        self.cadence.due(number)  # starts the clock where this is the first
        if self.trace.readings and number <= self.trace.last.step:
            self._rewind(number)
        self._read(number)
        return self.trace.last

    # ------------------------------------------------------------------------ internals

    @property
    def _fresh(self) -> bool:
        """Whether this process has taken no reading: all there are come from an earlier one."""
        return not self.cadence.readings

    def _read(self, step: int) -> Alert | None:
        _synchronize(self.watch.modules)
        started = self.cadence.now()
        scalars: dict[str, float] = {}
        arrays: dict[str, Array] = {}
        problems: list[Problem] = []

        def fail(name: str, error: Exception) -> None:
            problems.append(Problem(name, type(error).__name__, str(error)))
            self._say_once(name, error)

        def take(name: str, part: Callable[[], Any]) -> None:
            try:
                values = part()
            except Exception as error:  # of any kind: a training must not stop because it cannot be watched
                fail(name, error)
                return
            for key, value in values.items():
                if isinstance(value, np.ndarray):
                    arrays[key] = value
                else:
                    scalars[key] = float(value)

        take("training losses", self._losses.read)
        take("draws", self._draws.read)
        with untouched(self.watch.modules):
            try:
                parts = dict(self.watch.parts())
            except Exception as error:  # of a watch of the user's own
                parts = {}
                fail("parts", error)
            for name, part in parts.items():
                take(name, part)
            take("derived", lambda: self.watch.derived({**scalars, **arrays}, self.trace))
        workspace.give_back()  # else the steps up to the next reading run beside it
        scalars["health/problems"] = float(len(problems))
        scalars["monitor/overhead"] = self.cadence.overhead
        _synchronize(self.watch.modules)
        seconds = self.cadence.now() - started
        reading = Reading(step, self.cadence.elapsed, seconds, scalars, arrays, problems)
        self.trace.readings.append(reading)
        alerts = self._judge.judge(self.trace)
        self.trace.alerts += alerts
        self._tell(reading, alerts)
        self.cadence.took(step, self.cadence.now() - started)
        return min(alerts, key=lambda alert: alert.severity != "failure", default=None)

    def _drawn(self) -> list[tuple[str, list[str]]]:
        """What can be counted, by the name of its argument, and its axis."""
        return [(name.removeprefix(DRAWN), axes) for name, axes in self.watch.arrays.items() if name.startswith(DRAWN)]

    def _open(self) -> None:
        """Sinks learn what is coming: one that holds another run is an error of the call, a full disk is not."""
        for sink in self._sinks:
            try:
                earlier = sink.open(self.trace.header)
            except InputError:
                raise
            except Exception as error:
                self._say_once(f"sink {type(sink).__name__.strip('_')}", error)
                continue
            if isinstance(earlier, Trace) and not self.trace.readings:
                self._continue(earlier)

    def _continue(self, earlier: Trace) -> None:
        """Of a run whose log is there already; from the first step on, what it has read later does not count."""
        changed = self.trace.header.settings.get(NEW_AXES) or []
        own = [name for name, axes in self.trace.header.arrays.items() if not set(axes) & set(changed)]
        self.trace.readings = [
            replace(reading, arrays={name: reading.arrays[name] for name in own if name in reading.arrays})
            for reading in earlier.readings
        ]
        self.trace.alerts = earlier.alerts
        self.calls = earlier.readings[-1].step if earlier.readings else 0
        self._remember()

    def _remember(self) -> None:
        """What the last readings of the trace have shown is no news."""
        self._judge.forget()
        for count in range(max(1, len(self.trace) - QUIET), len(self.trace) + 1):
            self._judge.judge(self.trace.up_to(count))

    def _tell(self, reading: Reading, alerts: list[Alert]) -> None:
        for sink in self._sinks:
            try:
                sink.reading(reading)
                for alert in alerts:
                    sink.alert(alert)
            except Exception as error:  # a full disk or a lost connection is no reason to stop a training
                self._say_once(f"sink {type(sink).__name__.strip('_')}", error)

    def _rewind(self, step: int) -> None:
        before, last = len(self.trace), self.trace.last.step
        self.trace.rewind(step)
        self._say(
            f"the training went back from step {last} to {step}: {before - len(self.trace)} readings from there on are "
            "forgotten (step= is the number of steps since the training began, not within an epoch)",
            "rewind",
        )
        self._remember()
        self._losses.forget()
        self._draws.forget()
        self.cadence.rewind(self.trace.last.step if self.trace.readings else None)
        self.watch.forget()
        for sink in self._sinks:
            try:
                sink.rewind(step)
            except Exception as error:
                self._say_once(f"sink {type(sink).__name__.strip('_')}", error)

    def _say_once(self, what: str, error: Exception) -> None:
        kind = type(error).__name__
        words = f"the monitor could not do this part, and goes on without it: {what}: {kind}: {error}"
        self._say(words, what, kind, exc_info=None if isinstance(error, GenkernelError) else error)

    def _say(self, words: str, *about: str, exc_info: Exception | None = None) -> None:
        """Once for what it is about."""
        if about not in self._said:
            self._said.add(about)
            log.warning(words, exc_info=exc_info)


def whole_step(step: Any) -> int:
    """The number of a training step.

    Raises:
        InputError: it is no whole number.
    """
    try:
        number = float(step)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(step, (bool, str)) or not number.is_integer():
        raise InputError(f"step= is the number of a training step, not {step!r}")
    return int(step)


def _synchronize(modules: list[nn.Module]) -> None:
    """Wait for what the training has queued, so that it is not counted as ours."""
    for device in {p.device for module in modules for p in module.parameters() if p.device.type == "cuda"}:
        torch.cuda.synchronize(device)
