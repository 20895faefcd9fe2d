"""Monitors on several ranks: one reads, none waits in vain, and the training is the one without a monitor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import genkernel as gk
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import DistributedError, InputError
from genkernel.monitor.sharded import ShardedMonitor
from tests.diffusion.tiny import TinyDenoiser, tiny_images
from tests.tangent.ranks import on_ranks, process_group

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("one_thread")]
STEPS = 6


@pytest.fixture(autouse=True, scope="module")
def _loaded_before_processes_fork() -> None:
    import torch.distributed.fsdp
    import torch.distributed.tensor  # noqa: F401

    monitor(network()).read(0)


def network() -> TinyDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyDenoiser()


def monitor(net: nn.Module, **options: Any) -> gk.Monitor:
    options = {"every": 2, "max_overhead": None, "levels": 2, "images_per_level": 3, **options}
    return gk.Monitor(
        net, schedule=NoiseSchedule.vp(timesteps=1000), sample_shape=(1, 4, 4), data=tiny_images(4), **options
    )


def sharded(net: nn.Module, parts: tuple[str, ...] = ("time_mlp", "inner")) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for part in parts:
        fully_shard(net.get_submodule(part))
    return fully_shard(net)


def train(net: nn.Module, rank: int, each: Any = None) -> list[Any]:
    """A few steps, on other images on each rank; what ``each(step)`` returned."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(rank)
    said = []
    for step in range(STEPS):
        x, t = torch.rand(8, 1, 4, 4, generator=draw), torch.randint(0, 1000, (8,), generator=draw)
        optimizer.zero_grad()
        (net(x, t) - x).square().mean().backward()
        optimizer.step()
        said.append(each(step) if each else None)
    return said


def weights(net: nn.Module) -> dict[str, Tensor]:
    """In full, on every rank."""
    full = {n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in net.named_parameters()}
    return {name.removeprefix("module."): value.detach().clone() for name, value in full.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_data_parallel_is_read_on_rank_0_alone() -> None:
    def work(rank: int) -> Any:
        with process_group(rank, 2):
            bare = DistributedDataParallel(network())
            train(bare, rank)
            watched = DistributedDataParallel(network())
            mon = monitor(watched)
            said = train(watched, rank, lambda step: mon.step(step))
            return equal(weights(bare), weights(watched)), mon.trace.steps.tolist(), said, weights(watched)

    first, second = on_ranks(2, work)
    assert first[0] and second[0] and equal(first[3], second[3])
    assert first[1] == [0, 2, 4] and second[1] == []
    assert second[2] == [None] * STEPS


def test_gans_and_classifiers_are_read_on_rank_0_alone() -> None:
    """Whatever a reading computes, it does not wait for the other ranks."""
    draw = torch.Generator().manual_seed(0)
    data, classes = torch.randn(24, 2, generator=draw), torch.arange(24) % 3

    def work(rank: int) -> Any:
        with process_group(rank, 2):
            torch.manual_seed(0)
            made = [nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, out)) for out in (2, 1, 3)]
            generator, discriminator, net = (DistributedDataParallel(module) for module in made)
            options = {"every": 1, "max_overhead": None}
            gan = gk.Monitor(
                generator, discriminator, latent_shape=2, real=data, clusters=2, latents=16, samples=32, **options
            )
            classifier = gk.Monitor(net, data=data, targets=classes, holdout=data[:6] + 0.1, **options)
            for mon in (gan, classifier):
                mon.step(0)
            torch.distributed.barrier()
            readings = [mon.latest for mon in (gan, classifier)]
            return [reading and [problem.message for problem in reading.problems] for reading in readings]

    first, second = on_ranks(2, work)
    assert first == [[], []] and second == [None, None]


def test_a_reading_that_takes_long_is_waited_for() -> None:
    class Slow:
        kind, modules, axes, arrays, settings = "denoiser", [], {}, {}, {}

        def parts(self) -> dict[str, Any]:
            return {"slow": lambda: time.sleep(0.3) or {"loss/mean": 1.0}}

        def derived(self, values: Any, before: Any) -> dict[str, float]:
            return {}

        def forget(self) -> None:
            pass

    def work(rank: int) -> Any:
        with process_group(rank, 2):
            net = DistributedDataParallel(network())
            mon = gk.Monitor(Slow(), every=3, max_overhead=None, rules=[])
            began = time.perf_counter()
            train(net, rank, lambda step: mon.step(step))
            torch.distributed.barrier()
            return len(mon.trace), time.perf_counter() - began, weights(net)

    first, second = on_ranks(2, work)
    assert (first[0], second[0]) == (2, 0)
    assert second[1] > 0.5 and equal(first[2], second[2])


def test_sharded_training_is_the_one_without_a_monitor(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        with process_group(rank, 2):
            bare = sharded(network())
            train(bare, rank)
            watched = sharded(network())
            mon = ShardedMonitor(lambda net: monitor(net, sink=tmp_path / "log.jsonl"), watched)
            replicas = []

            def each(step: int) -> None:
                mon.step(step)
                now = weights(watched)
                if rank == 0 and mon.monitor.latest.step == step:
                    replicas.append(equal(now, dict(mon.monitor.watch.modules[0].named_parameters())))

            train(watched, rank, each)
            same = equal(weights(bare), weights(watched))
            return same, replicas, len(mon.alerts), mon.monitor is None, weights(watched)

    first, second = on_ranks(2, work)
    assert first[0] and second[0] and equal(first[4], second[4])
    assert first[1] == [True, True, True] and second[1] == []
    assert second[2] == 0 and second[3]
    trace = gk.monitor.read_log(tmp_path / "log.jsonl")
    assert trace.steps.tolist() == [0, 2, 4] and not any(reading.problems for reading in trace.readings)

    def plain(rank: int) -> Any:  # the same numbers as of a module that was never sharded
        net = network()
        net.load_state_dict(first[4])
        return monitor(net).read(0)

    (alone,) = on_ranks(1, plain)

    def again(rank: int) -> Any:
        with process_group(rank, 2):
            net = network()
            net.load_state_dict(first[4])
            mon = ShardedMonitor(monitor, sharded(net))
            mon.step(0)
            return mon.monitor and mon.monitor.latest

    spread, nothing = on_ranks(2, again)
    assert nothing is None
    assert spread.scalars.keys() == alone.scalars.keys()
    for name in ("loss/level", "gradient/cosine", "kernel/level"):
        assert (spread.arrays[name] == alone.arrays[name]).all(), name


def test_a_step_back_is_read_anew() -> None:
    def work(rank: int) -> Any:
        with process_group(rank, 2):
            mon = ShardedMonitor(lambda net: monitor(net, every=10), sharded(network()))
            for step in (5, 15, 24, 25, 3, 13, 14, 24):
                mon.step(step)
            return mon.monitor and mon.monitor.trace.steps.tolist()

    first, second = on_ranks(2, work)
    # after going back to 3, ten steps have to pass since there
    assert first == [13, 24] and second is None


def test_no_rank_waits_for_one_that_failed() -> None:
    def build(net: nn.Module) -> gk.Monitor:
        raise InputError("there are no images")

    def work(rank: int) -> Any:
        with process_group(rank, 2):
            try:
                ShardedMonitor(build, sharded(network()))
            except (InputError, DistributedError) as error:
                return type(error).__name__, str(error)

    first, second = on_ranks(2, work, seconds=30)
    assert first == ("InputError", "there are no images")
    assert second[0] == "DistributedError" and "there are no images" in second[1]


def test_ranks_at_different_steps_are_told() -> None:
    def work(rank: int) -> Any:
        with process_group(rank, 2):
            mon = ShardedMonitor(monitor, sharded(network()))
            try:
                mon.step(rank)
            except DistributedError as error:
                return str(error)

    _, second = on_ranks(2, work, seconds=30)
    assert second == "rank 1 is at step 1, rank 0 is at step 0"


def test_weights_that_changed_their_shape_leave_the_training_alone(caplog: pytest.LogCaptureFixture) -> None:
    def work(rank: int) -> Any:
        with process_group(rank, 2):
            net = sharded(network())
            mon = ShardedMonitor(monitor, net)
            mon.step(0)
            net.middle.register_parameter("later", nn.Parameter(torch.zeros(3)))
            mon.step(2)
            del net.middle.later
            mon.step(4)
            return mon.monitor and mon.monitor.trace.steps.tolist()

    first, second = on_ranks(2, work, seconds=30)
    assert first == [0, 4] and second is None


def test_shared_weights_hooks_and_buffers_of_a_copy() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.norm = nn.utils.spectral_norm(nn.Linear(4, 4))
            self.batch = nn.BatchNorm1d(4)
            self.order = [self.a, self.norm]  # used where it is not registered
            self.a.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            for part in self.order:
                x = part(x)
            return self.batch(self.b(x))

    def work(rank: int) -> Any:
        from torch.distributed.fsdp import FSDPModule

        from genkernel.monitor.sharded import _replica

        torch.manual_seed(0)
        plain = Odd()
        x = torch.randn(5, 4)
        plain(x)
        with process_group(rank, 2):
            state = {name: value.clone() for name, value in plain.state_dict().items()}
            expected = plain.eval()(x)
            replica = _replica(sharded(plain, parts=()))
        replica.load_state_dict(state)
        replica.eval()
        assert type(replica) is Odd and not any(isinstance(m, FSDPModule) for m in replica.modules())
        assert replica.b.weight is replica.a.weight and replica.order[0] is replica.a
        assert not replica.a.bias.requires_grad and replica.b.bias.requires_grad
        return torch.equal(replica(x), expected)

    assert on_ranks(2, work) == [True, True]


def test_a_sharded_model_is_not_taken_for_a_plain_one() -> None:
    def work(rank: int) -> Any:
        with process_group(rank, 2):
            net = sharded(network())
            try:
                monitor(net)
            except InputError as error:
                return str(error)

    for said in on_ranks(2, work):
        assert "ShardedMonitor" in said


def test_without_a_process_group() -> None:
    with pytest.raises(DistributedError, match="init_process_group"):
        ShardedMonitor(monitor, network())
