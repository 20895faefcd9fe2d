"""When a monitor takes its next reading: every so many steps, and never for more than its share of the time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from genkernel.errors import InputError

#: A reading costs so many times what it took: the step after it takes memory anew (measured: 4 % of a reading), and
#: what else it costs cannot be seen from here. With 1.1, trainings beside other work took up to 1.13 times as much
#: longer as their readings had taken.
AFTERMATH = 1.2
PAUSE = 10.0  # times the longest of the last steps: of a longer pause the rest does not count
_GAPS = 16  # steps that are looked back at for it
_REMEMBERED = 3  # readings whose longest is what the next is expected to take


class Cadence:
    """Decides which steps are read, and measures what that costs.

    A reading is due ``every`` steps. It waits while taking it would raise the share of time spent on readings,
    Σ seconds of readings / seconds of everything else since the first step, above ``max_overhead``, or rather 1/1.2 of
    it (:data:`AFTERMATH`). The first reading is taken in any case, since nothing is known of its cost; the ones after
    it pay it back. Of a pause that is longer than :data:`PAUSE` times the longest of the last steps, such as a
    validation or a machine that slept, only so much counts as time of the training: readings are not made up for in a
    burst.

    Args:
        every: steps between two readings, at least 1.
        max_overhead: the largest share, such as 0.02; None for no bound.
        clock: seconds.

    Attributes:
        spent: seconds of all readings.
        longest_wait: the largest number of steps between two readings so far.
        readings: how many were taken.

    Raises:
        InputError: ``every`` is no whole number from 1 on, or the share is not positive.
    """

    def __init__(self, every: int, max_overhead: float | None, clock: Callable[[], float] = time.perf_counter):
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(f"every= is a number of steps, at least 1, not {every!r}")
        if max_overhead is not None and not (math.isfinite(max_overhead) and max_overhead > 0):
            raise InputError(f"max_overhead= is a share of the training's time such as 0.02, not {max_overhead!r}")
        self.every, self.max_overhead = every, max_overhead
        self.spent = 0.0
        self.longest_wait = 0
        self._clock = clock
        self._began: float | None = None
        self._last: int | None = None
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._owed = 0.0
        self.readings = 0
        self._idle = 0.0
        self._asked: float | None = None
        self._gaps: deque[float] = deque(maxlen=_GAPS)

    @property
    def elapsed(self) -> float:
        """Seconds since the first step."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def overhead(self) -> float:
        """Seconds of readings per second of everything else since the first step; NaN before any time has passed."""
        rest = self._training
        return self.spent / rest if rest > 0 else math.nan

    @property
    def _training(self) -> float:
        """Seconds of everything else, without long pauses."""
        return self.elapsed - self.spent - self._idle

    def now(self) -> float:
        """The clock."""
        return self._clock()

    def due(self, step: int) -> bool:
        """Whether this step is read. The first call starts the clock."""
        self._notice_pause()
        if self._last is not None and step - self._last < self.every:
            return False
        if self.max_overhead is None or not self.readings:
            return True
        return AFTERMATH * (self.spent + max(self._recent)) <= self.max_overhead * self._training

    def _notice_pause(self) -> None:
        now = self._clock()
        if self._began is None:
            self._began = now
        if self._asked is not None:
            gap = now - self._asked
            if len(self._gaps) == _GAPS:
                self._idle += max(0.0, gap - PAUSE * max(self._gaps))
            self._gaps.append(gap)
        self._asked = now

    def charge(self, seconds: float) -> None:
        """Time that was spent on the reading to come before it began, such as on fetching the weights."""
        self._owed += seconds

    def took(self, step: int, seconds: float) -> None:
        """A reading was taken."""
        seconds, self._owed = seconds + self._owed, 0.0
        if self._last is not None:
            self.longest_wait = max(self.longest_wait, step - self._last)
        self._last = step
        self._asked = self._clock()  # a reading is no pause
        self.spent += seconds
        self.readings += 1
        if self.readings == 2:  # the first prepares what the others use, and says little about them
            self._recent.clear()
        self._recent.append(seconds)

    def rewind(self, last: int | None) -> None:
        """The training went back: it is read when ``every`` steps have passed since ``last``, the last one kept."""
        self._last = last
