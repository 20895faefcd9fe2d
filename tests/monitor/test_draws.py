"""What the training draws is counted, and gaps in it are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from genkernel.monitor import Axis, Header, Reading, Trace, replay
from genkernel.monitor.draws import BINS, Draws, time_axis
from genkernel.monitor.rules.undrawn import RareClass, UndrawnLevels

CLASSES = Axis("class", ["class 0", "class 1", "class 2"], [0.0, 1.0, 2.0], "class")


@pytest.mark.parametrize(("low", "high", "discrete"), [(0.0, 999.0, True), (1.0, 7.0, True), (0.0, 1.0, False)])
def test_every_time_of_a_schedule_counts_once(low: float, high: float, discrete: bool) -> None:
    axis = time_axis(low, high, discrete)
    draws = Draws({"timesteps": axis})
    every = torch.arange(low, high + 1) if discrete else torch.linspace(low, high, 6401, dtype=torch.float64)
    draws.add(timesteps=every)
    counts = draws.read()["drawn/timesteps"]
    assert counts.sum() == len(every)
    assert counts.max() - counts.min() <= (1 if discrete else 2)
    assert len(axis) == (7 if high == 7 else BINS)


def test_counts_add_up_over_steps_and_what_is_beyond_the_axis_counts_for_none() -> None:
    draws = Draws({"timesteps": time_axis(0, 999, True), "classes": CLASSES})
    draws.add(timesteps=torch.tensor([[0, 7], [8, 999]]), classes=[0, 2, 2, 5, -1])
    draws.add(timesteps=np.array([-40.0, 2000.0, math.nan, 999.0]), classes=None)
    found = draws.read()
    assert found["drawn/classes"].tolist() == [1, 0, 2]
    counts = found["drawn/timesteps"]
    assert (counts[0], counts[1], counts[-1], counts.sum()) == (2, 1, 2, 5)
    assert draws.read() == {}


@pytest.mark.parametrize("drawn", [{"levels": [1]}, {"classes": "many"}, {"classes": [None]}, {"classes": [1j]}])
def test_what_cannot_be_counted_is_an_error(drawn: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(drawn))):
        Draws({"classes": CLASSES}).add(**drawn)


def drawn(name: str, axis: Axis, batches: list[torch.Tensor]) -> Trace:
    draws, readings = Draws({name: axis}), []
    for k, batch in enumerate(batches):
        draws.add(**{name: batch})
        readings.append(Reading(10 * k, float(k), 0.1, {}, draws.read()))
    return Trace(Header("denoiser", {axis.name: axis}, {f"drawn/{name}": [axis.name]}), readings)


def uniform(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1000, (count,), generator=torch.Generator().manual_seed(seed))


def test_a_range_that_is_never_drawn_is_found_from_when_it_is_missing() -> None:
    axis = time_axis(0, 999, True)
    batches = [uniform(640, k) for k in range(12)]
    batches[5:] = [t[(t < 300) | (t > 600)] for t in batches[5:]]
    [alert] = replay(drawn("timesteps", axis, batches), [UndrawnLevels()])
    assert alert.since in (40, 50) and alert.step <= 90
    assert "t = 305 to 593" in alert.message and alert.where == axis.labels[39:76]
    assert not replay(drawn("timesteps", axis, [uniform(640, k) for k in range(100)]), [UndrawnLevels()])


def test_a_gap_that_begins_and_ends_within_a_part_of_the_schedule_is_found() -> None:
    t = uniform(8000)
    batches = [t[(t < 99) | (t > 401)]] * 2
    [alert] = replay(drawn("timesteps", time_axis(0, 999, True), batches), [UndrawnLevels()])
    assert "t = 102 to 398" in alert.message


def test_both_ends_of_the_schedule_can_be_missing() -> None:
    axis = time_axis(0, 999, True)
    [alert] = replay(drawn("timesteps", axis, [uniform(2000) // 2 + 200] * 2), [UndrawnLevels()])
    assert "t = 0 to 195" in alert.message and "t = 704 to 999" in alert.message


@pytest.mark.parametrize("seed", range(5))
def test_a_sampler_that_thins_out_towards_the_ends_is_not_reported(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    batches = [torch.sigmoid(torch.randn(256, generator=draw, dtype=torch.float64)) for _ in range(40)]
    assert not replay(drawn("timesteps", time_axis(0.0, 1.0, False), batches), [UndrawnLevels()])


def test_a_class_that_is_hardly_drawn_is_found_and_an_uneven_share_is_not() -> None:
    axis = Axis("class", [f"class {c}" for c in range(10)], [float(c) for c in range(10)], "class")
    weights = torch.ones(10)
    weights[3] = 0.02
    draw = torch.Generator().manual_seed(0)
    batches = [torch.multinomial(weights, 512, True, generator=draw) for _ in range(8)]
    [alert] = replay(drawn("classes", axis, batches), [RareClass()])
    assert alert.where == ["class 3"] and alert.step == 30 and alert.evidence["usual"] > 180
    weights[3] = 0.2
    batches = [torch.multinomial(weights, 512, True, generator=draw) for _ in range(60)]
    assert not replay(drawn("classes", axis, batches), [RareClass()])


@pytest.mark.parametrize("steps", [4, 10, 26, 32, 50, 64])
def test_a_grid_of_few_timesteps_has_no_gaps_of_note(steps: int) -> None:
    draw = torch.Generator().manual_seed(0)
    times = torch.arange(1, steps + 1) * (1000 // steps) - 1
    batches = [times[torch.randint(steps, (4000,), generator=draw)] for _ in range(3)]
    assert not replay(drawn("timesteps", time_axis(0, 999, True), batches), [UndrawnLevels()])


def test_a_gap_with_a_few_draws_at_its_edge_is_told_once() -> None:
    batches = []
    for k in range(60):
        t = uniform(2000, k)
        batches.append(t[(t < 297) | (t > 592)])
    assert len(replay(drawn("timesteps", time_axis(0, 999, True), batches), [UndrawnLevels()])) == 1


def test_classes_without_probes_are_not_judged() -> None:
    axis = Axis("class", [f"class {c}" for c in range(11)], [float(c) for c in range(11)], "class")  # labels from 1 on
    made = drawn("classes", axis, [1 + uniform(4000, k) % 10 for k in range(3)])
    assert replay(made, [RareClass()])
    for reading in made.readings:
        reading.arrays["loss/class"] = np.r_[np.nan, np.ones(10)]
    assert not replay(made, [RareClass()])


def test_one_hot_classes_and_half_precision() -> None:
    draws = Draws({"classes": CLASSES})
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        for _ in range(600):
            draws.add(classes=torch.nn.functional.one_hot(torch.tensor([2, 2, 0]), 3))
    finally:
        torch.set_default_dtype(before)
    assert draws.read()["drawn/classes"].tolist() == [600, 0, 1200]


def test_a_monitor_counts_what_a_step_says_it_has_drawn() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    mon = gk.Monitor(net, data=torch.randn(24, 4), targets=torch.arange(24) % 3, every=2, max_overhead=None)
    mon.step(0, classes=torch.tensor([0, 0, 1]))
    mon.step(1, classes=torch.tensor([2]))
    mon.step(2, classes=torch.tensor([2, 2]))
    mon.step(4)
    first, second, third = (reading.arrays.get("drawn/classes") for reading in mon.trace.readings)
    assert first is not None and second is not None and third is None
    assert first.tolist() == [2, 1, 0] and second.tolist() == [0, 0, 3]
    with pytest.raises(InputError, match="timesteps= is not counted here"):
        mon.step(5, timesteps=[1])
