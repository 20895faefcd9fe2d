"""All trainings of the study of neighbours, and words for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.neighbours.measures import detour
from genkernel.experiments.neighbours.setting import ADAM, OPTIMIZERS, RMSPROP, SGD, SGDM, Setting
from genkernel.experiments.neighbours.training import Course, Task
from genkernel.experiments.replicates import above, around, pair

Array = NDArray[np.float64]

SHORT = {SGD: "SGD", SGDM: "SGDM", RMSPROP: "RMSprop", ADAM: "Adam"}


@dataclass
class Found:
    """Everything that was trained.

    Attributes:
        task, setting, seed: on what.
        courses: (loss, optimizer) → course at the rate that was chosen.
        tried: (loss, optimizer) → rate → training loss at the end, on points of its own.
        matched: SGD and SGD with momentum at one rate, and SGD at that rate over 1 - momentum, first loss.
    """

    task: Task
    setting: Setting
    seed: int
    courses: dict[tuple[str, str], Course] = field(default_factory=dict)
    tried: dict[tuple[str, str], dict[float, float]] = field(default_factory=dict)
    matched: list[Course] = field(default_factory=list)

    def by_loss(self, of: Callable[[Course], Array]) -> str:
        """Means ± standard errors of something, optimizer by optimizer, for every loss."""
        return "; ".join(
            f"{loss} loss: " + ", ".join(f"{SHORT[o]} {pair(of(self.courses[loss, o]))}" for o in OPTIMIZERS)
            for loss in self.setting.losses
        )

    def each(self, of: Callable[[Course], Array]) -> str:
        """Whether something is above zero, over losses and optimizers."""
        return above(*(around(of(c)) for c in self.courses.values()))

    @property
    def chance(self) -> float:
        """Share of other points with the own label, of two halves."""
        return (self.setting.samples // 2 - 1) / (self.setting.samples - 1)


def detours(c: Course) -> Array:
    """Of K̃(x0, x): mean over the four partners other than x0 itself ``[R]``."""
    return detour(c.pairs[:, :, 1:].swapaxes(1, 2)).mean(1)
