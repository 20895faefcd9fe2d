"""Training losses that leave their course."""

from __future__ import annotations

from genkernel.monitor.losses import TRAIN
from genkernel.monitor.rules.change_point import LEVELS, ChangePoint, Transform
from genkernel.monitor.trace import Alert, Trace

LEAST = 0.1  # of a logarithm: a smaller rise is not worth a message


class TrainingLoss:
    """Change points of whatever losses the training reports (``mon.step(step, loss=…)``).

    Args:
        both: also where they fall: a game has no bad direction.
        rate: of false alarms in a hundred readings, shared out over losses and directions.
    """

    name = "training loss"

    def __init__(self, both: bool = False, rate: float = 0.01):
        self.both, self.rate = both, rate

    def check(self, trace: Trace) -> list[Alert]:
        names = [name for name in trace.names if name.startswith(TRAIN)]
        ways = (1, -1) if self.both else (1,)
        share = max(self.rate / max(1, len(names) * len(ways)), min(LEVELS))
        found = []
        for name in names:
            for way in ways:
                says = f"step {{step}}: the loss {name.removeprefix(TRAIN)!r} of the training "
                says += f"{'rises' if way > 0 else 'falls'}, from {{before:.3g}} to {{now:.3g}} since step {{since}}."
                positive = not self.both and not (trace.scalar(name) < 0).any()
                transform: Transform = "log" if positive else "as it is"
                floor = LEAST if positive else 0.0
                rule = ChangePoint(self.name, name, way, says, transform=transform, rate=share, floor=floor)
                found += rule.check(trace)
        return found
