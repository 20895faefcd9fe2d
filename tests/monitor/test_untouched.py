"""A training that is watched is bit for bit the training that is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.monitor import Monitor
from tests.monitor.states import differences, state_of

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, EVERY = 12, 3
PARTS = {
    "denoiser": {"weights", "loss", "ema", "gradient", "kernel", "time"},
    "gan": {"weights", "samples", "kernel", "jacobian", "drive", "transport", "ema"},
    "classifier": {"weights", "loss", "kernel", "holdout", "holdout loss", "ema"},
}


@dataclass
class Training:
    """Networks, their optimizers, one step, and the monitor that may watch it."""

    modules: list[nn.Module]
    optimizers: list[torch.optim.Optimizer]
    step: Callable[[], None]
    monitor: Callable[[], Monitor]


class Noisy(nn.Module):
    """A denoiser of [1, 4, 4] with batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 1, 3, padding=1),
        )
        self.time, self.drop = nn.Linear(1, 4), nn.Dropout(0.2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.norm(self.first(x)) + self.time(t.to(x)[:, None] / 1000)[:, :, None, None]
        return self.last(self.drop(F.silu(h)))


def adam(module: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), 1e-2)


def average_of(module: nn.Module) -> Any:
    return torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def denoiser() -> Training:
    net = Noisy()
    optimizer, average, images = adam(net), average_of(net), torch.rand(16, 1, 4, 4)

    def step() -> None:
        x, t, noise = images[torch.randint(16, (8,))], torch.randint(1000, (8,)), torch.randn(8, 1, 4, 4)
        mix = (t / 1000)[:, None, None, None]
        descend(optimizer, F.mse_loss(net((1 - mix) * x + mix * noise, t), noise))
        average.update_parameters(net)

    def monitor() -> Monitor:
        return Monitor(
            net, schedule=NoiseSchedule.vp(), sample_shape=(1, 4, 4), data=images[:4].clone(), ema=average, levels=4,
            every=EVERY, max_overhead=None,
        )  # fmt: skip

    return Training([net, average], [optimizer], step, monitor)


def gan() -> Training:
    maker = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    judge = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 8)), nn.BatchNorm1d(8), nn.Dropout(0.2),
                          nn.LeakyReLU(0.2), nn.Linear(8, 1))  # fmt: skip
    optimizers, average, real = (adam(maker), adam(judge)), average_of(maker), torch.randn(64, 2)

    def step() -> None:
        fake = maker(torch.randn(16, 3))
        true = judge(real[torch.randint(64, (16,))])
        descend(optimizers[1], F.softplus(-true).mean() + F.softplus(judge(fake.detach())).mean())
        descend(optimizers[0], F.softplus(-judge(fake)).mean())
        average.update_parameters(maker)

    def monitor() -> Monitor:
        return Monitor(
            maker, judge, latent_shape=(3,), latents=12, samples=40, clusters=3, real=real, ema=average,
            every=EVERY, max_overhead=None,
        )  # fmt: skip

    return Training([maker, judge, average], list(optimizers), step, monitor)


def classifier() -> Training:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer, average = adam(net), average_of(net)
    x, y = torch.randn(48, 4), torch.arange(48) % 3

    def step() -> None:
        rows = torch.from_numpy(np.random.permutation(40)[:16])
        descend(optimizer, F.cross_entropy(net(x[rows]), y[rows]))
        average.update_parameters(net)

    def monitor() -> Monitor:
        return Monitor(
            net, data=x[:20], targets=y[:20], holdout=(x[40:], y[40:]), ema=average, every=EVERY, max_overhead=None
        )

    return Training([net, average], [optimizer], step, monitor)


def run(make: Callable[[], Training], watched: bool) -> tuple[dict[str, Any], Monitor | None]:
    """The state after a seeded training, and numbers that are drawn after it."""
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    training = make()
    monitor = training.monitor() if watched else None
    for step in range(STEPS):
        training.step()
        if monitor is not None:
            monitor.step(step)
    state = state_of(*training.modules, optimizers=training.optimizers)
    found = {name: value for name, value in state.items() if not name.endswith(" at")}  # another run lies elsewhere
    return found | {"drawn": torch.randn(3), "and": random.random(), "also": float(np.random.rand())}, monitor


@pytest.mark.parametrize("make", [denoiser, gan, classifier], ids=lambda make: make.__name__)
def test_a_watched_training_ends_where_the_other_does(make: Callable[[], Training]) -> None:
    with torch.random.fork_rng(devices=[]):
        alone, _ = run(make, watched=False)
        watched, monitor = run(make, watched=True)
    assert monitor is not None and monitor.watch.kind == make.__name__
    assert monitor.trace.steps.tolist() == list(range(0, STEPS, EVERY))
    assert set(monitor.watch.parts()) == PARTS[make.__name__]
    assert [reading.problems for reading in monitor.trace.readings] == [[]] * 4
    assert differences(alone, watched) == []


@pytest.mark.parametrize("make", [denoiser, gan, classifier], ids=lambda make: make.__name__)
@pytest.mark.parametrize("inference", [False, True])
def test_an_interrupt_within_a_reading_leaves_all_as_it_was(make: Callable[[], Training], inference: bool) -> None:
    """Ctrl-C is no part's failure: it ends the reading, and what it was about is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        training = make()
        monitor = training.monitor()
        training.step()
        before = state_of(*training.modules, optimizers=training.optimizers)
        calls = []
        layer = next(m for m in training.modules[0].modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d))
        original = layer.forward

        def interrupting(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 8:
                raise KeyboardInterrupt
            return original(*args)

        layer.forward = interrupting
        with pytest.raises(KeyboardInterrupt), torch.inference_mode(inference):
            monitor.read(0)
        del layer.forward
        assert differences(before, state_of(*training.modules, optimizers=training.optimizers)) == []
