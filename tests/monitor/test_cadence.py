"""When readings are taken: never for more than their share, whatever they cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

import genkernel as gk
from genkernel.errors import InputError
from genkernel.monitor.cadence import AFTERMATH, Cadence
from tests.monitor.toy import ToyWatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def simulate(
    cadence: Cadence, clock: Clock, steps: int, cost: Callable[[int], float], step_time: float = 0.01
) -> tuple[list[int], list[float]]:
    """Steps that were read, and the share of readings right after each."""
    read, shares = [], []
    for step in range(steps):
        clock.now += step_time
        if cadence.due(step):
            clock.now += cost(step)
            cadence.took(step, cost(step))
            read.append(step)
            shares.append(cadence.overhead)
    return read, shares


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("cost", [0.001, 0.05, 0.5])
def test_the_share_is_kept(share: float, cost: float) -> None:
    clock = Clock()
    cadence = Cadence(10, share, clock)
    read, shares = simulate(cadence, clock, 40_000, lambda _: cost)
    assert read[0] == 0 and max(shares[1:]) <= share / AFTERMATH + 1e-12
    # it is taken as often as the share and ``every`` allow, once the first has been paid back
    expected = max(10, math.ceil(AFTERMATH * cost / (share * 0.01)))
    gaps = [b - a for a, b in pairwise(read)]
    assert max(gaps[1:]) <= expected + 1 and gaps[0] <= 2 * expected + 1 and min(gaps) >= 10
    assert cadence.longest_wait == max(gaps)
    assert cadence.spent == pytest.approx(cost * len(read))


def test_the_first_reading_is_paid_back() -> None:
    clock = Clock()
    cadence = Cadence(1, 0.02, clock)
    read, shares = simulate(cadence, clock, 30_000, lambda step: 2.0 if step == 0 else 0.01)
    assert read[1] == pytest.approx(AFTERMATH * 4.0 / 0.02 / 0.01, abs=2) and max(shares[1:]) <= 0.02 + 1e-12
    assert read[2] == read[1] + 1  # the first has no say in what is expected of the others


def test_every_step_and_no_bound() -> None:
    clock = Clock()
    cadence = Cadence(1, None, clock)
    read, _ = simulate(cadence, clock, 50, lambda _: 10.0)
    assert read == list(range(50)) and cadence.longest_wait == 1
    assert Cadence(7, None, clock).due(3)


def test_a_reading_that_becomes_slower() -> None:
    """It cannot be foreseen, so that one reading may exceed the share; nothing follows until it is paid back."""
    clock = Clock()
    cadence = Cadence(10, 0.02, clock)
    read, shares = simulate(cadence, clock, 60_000, lambda step: 0.01 if step < 20_000 else 0.2)
    over = [step for step, share in zip(read, shares, strict=True) if share > 0.02 + 1e-12 and step]
    assert len(over) <= 1
    later = [step for step in read if step > 20_500]
    assert min(b - a for a, b in pairwise(later)) >= 999


def test_what_is_charged_counts() -> None:
    clock = Clock()
    cadence = Cadence(1, 0.1, clock)
    cadence.due(0)
    cadence.charge(0.5)
    clock.now += 1.0
    cadence.took(0, 0.5)
    assert cadence.spent == 1.0 and not cadence.due(1)
    clock.now += AFTERMATH * 20 - 0.01
    assert not cadence.due(2)
    clock.now += 0.02
    assert cadence.due(3)
    cadence.took(3, 0.25)
    assert cadence.spent == 1.25  # charged once


def test_going_back() -> None:
    clock = Clock()
    cadence = Cadence(10, None, clock)
    simulate(cadence, clock, 35, lambda _: 0.0)
    cadence.rewind(10)
    assert [step for step in range(12, 25) if cadence.due(step)] == [20, 21, 22, 23, 24]
    cadence.rewind(None)
    assert cadence.due(0)


def test_a_long_pause_is_not_made_up_for_in_a_burst() -> None:
    clock = Clock()
    cadence = Cadence(1, 0.02, clock)
    simulate(cadence, clock, 500, lambda _: 1.0, step_time=1.0)
    before = cadence.readings
    clock.now += 3600.0  # a validation, or a machine that slept
    simulate(cadence, clock, 100, lambda _: 1.0, step_time=1.0)
    assert 8 <= before <= 11 and cadence.readings - before <= 4
    assert cadence.overhead <= 0.02


def test_before_time_has_passed() -> None:
    cadence = Cadence(1, 0.02, Clock())
    assert math.isnan(cadence.overhead) and cadence.elapsed == 0.0


def test_a_monitor_reports_it() -> None:
    mon = gk.Monitor(ToyWatch(), every=3, max_overhead=None, rules=[])
    for step in range(10):
        mon.step(step)
    assert mon.trace.steps.tolist() == [0, 3, 6, 9]
    assert mon.overhead > 0 and mon.cadence.longest_wait == 3
    assert mon.trace.scalar("monitor/overhead")[1:].min() > 0


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "10"])
def test_not_a_number_of_steps(every: object) -> None:
    with pytest.raises(InputError, match="every= is a number of steps, at least 1"):
        Cadence(every, 0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, -0.1, math.nan, math.inf])
def test_not_a_share(share: float) -> None:
    with pytest.raises(InputError, match="share of the training's time"):
        Cadence(10, share)
