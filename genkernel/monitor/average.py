"""The running average (EMA) of the weights, beside the weights that are trained."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from genkernel.monitor.weights import sampled
from genkernel.tangent import TangentModel


class Average:
    """An average in any of the forms that :meth:`TangentModel.at` takes; read anew each time.

    Args:
        average: a module, ``AveragedModel``, diffusers' ``EMAModel``, weights by name, …
        model: whose weights are averaged.

    Raises:
        InputError: its weights do not fit the model.
    """

    def __init__(self, average: Any, model: TangentModel):
        self._given, self._model = average, model
        self.modules = [average] if isinstance(average, nn.Module) else []
        self.at()  # whether it fits
        self._own, self._theirs = Moves(), Moves()

    def at(self) -> TangentModel:
        """The model at the average as it is now."""
        return self._model.at(self._given)

    def read(self) -> dict[str, float]:
        """``ema/distance``: of the average from the weights, relative to their size; ``ema/follows``: how far it moved
        since the reading before, relative to the weights (NaN in the first reading, or where these did not move)."""
        averaged = self.at().parameters
        weights = self._model.parameters
        apart = math.sqrt(sum(_square(averaged[name] - weights[name]) for name in weights))
        size = math.sqrt(sum(_square(weight) for weight in weights.values()))
        own, theirs = self._own.since(weights), self._theirs.since(averaged)
        return {
            "ema/distance": apart / size if size else math.nan,
            "ema/follows": theirs / own if own and math.isfinite(own) else math.nan,
        }

    def forget(self) -> None:
        """The next reading has nothing to compare with."""
        self._own, self._theirs = Moves(), Moves()


class Moves:
    """Length of the way between two readings, over the entries that :class:`WeightProbe` looks at."""

    def __init__(self) -> None:
        self._before: dict[str, Tensor] | None = None

    def since(self, parameters: dict[str, Any]) -> float:
        """NaN the first time."""
        now = {name: sampled(parameter) for name, parameter in parameters.items()}
        before, self._before = self._before, now
        return math.nan if before is None else math.sqrt(sum(_square(now[name] - before[name]) for name in now))


def _square(values: Tensor) -> float:
    return float(values.detach().double().square().sum())
