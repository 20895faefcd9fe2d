"""Loops that went wrong once: learning rates of 0, autocast, other networks, averages looked at too early, and more."""

from __future__ import annotations

import copy
import functools
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import genkernel as gk
from genkernel.errors import InputError, RecordingError, RecordingWarning
from genkernel.paths.queries import Queries
from genkernel.paths.random_state import generators_used_by
from tests.paths.runs import loss_fn, mlp, problem, shuffled
from tests.paths.test_loops import bn_net, close, plain_steps, recording

pytestmark = pytest.mark.usefixtures("one_thread")


def loop(net: nn.Module, optimizer: Any, *beside: Any, each: Any = None, dtype: torch.dtype = torch.float64) -> None:
    """A plain loop with recordings and tapes beside it; ``each(step)`` before every optimizer step."""
    x, y, _, _ = problem(dtype)
    for step, ids in enumerate(shuffled()):
        batch = x[ids], y[ids]
        for one in beside:
            one.batch(batch, ids=ids) if hasattr(one, "contributions") else one.batch(ids)
        optimizer.zero_grad()
        loss_fn(net, batch).mean().backward()
        if each is not None:
            each(step)
        optimizer.step()


@pytest.mark.parametrize("at", ["start", "middle"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8),
        lambda p: torch.optim.RMSprop(p, lr=0.0005, momentum=0.7),
        lambda p: torch.optim.Adam(p, lr=0.01),
    ],
    ids=["nesterov", "momentum", "rmsprop", "adam"],
)
def test_steps_with_a_learning_rate_of_zero(tmp_path, make, at):
    x, y, _, q = problem()
    net = mlp()
    optimizer = make(net.parameters())
    rate = (lambda k: min(k, 4) / 4) if at == "start" else (lambda k: 0.0 if k in (4, 5) else 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    with recording(net, optimizer, q) as path, gk.tape(net, optimizer, tmp_path, every=5) as tape:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            tape.batch(ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
            schedule.step()
    assert path.contributions().gap_rel < 1e-10
    found = gk.replay(tmp_path, net, lambda ids: (x[ids], y[ids]), loss_fn, queries=q, rule="gauss4", progress=False)
    assert found.contributions().gap_rel < 1e-10


@pytest.mark.parametrize("named_inside", [False, True])
def test_autocast(named_inside):
    """In loss_fn, or around the forward pass with the batch named inside of it."""
    x, y, _, q = problem(torch.float32)
    net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)

    def losses(module: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss_fn(module, batch).float()

    with recording(net, optimizer, q, loss_fn=loss_fn if named_inside else losses, rule="midpoint") as path:
        for ids in shuffled():
            batch = x[ids], y[ids]
            if not named_inside:
                path.batch(batch, ids=ids)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                if named_inside:
                    path.batch(batch, ids=ids)
                loss = loss_fn(net, batch).float().mean()
            loss.backward()
            optimizer.step()
    assert path.stopped is None and path.contributions().gap_rel < 0.01


def test_wrappers_hand_on_a_closure_that_is_none():
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y, _, _ = problem()
    with recording(net, optimizer, q) as path:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step(None)
    assert path.contributions().gap_rel < 1e-10


@pytest.mark.parametrize("kind", ["parametrized", "legacy"])
def test_spectral_norm(kind):
    _, _, _, q = problem()
    wrap = parametrizations.spectral_norm if kind == "parametrized" else nn.utils.spectral_norm
    net = nn.Sequential(wrap(nn.Linear(2, 8)), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with recording(net, optimizer, q, rule="gauss6") as path:
        loop(net, optimizer, path)
    parts = path.contributions()
    assert parts.sources[-1] == "buffers" and parts.gap_rel < 1e-8


def test_contributions_before_the_average_is_updated():
    x, y, _, q = problem()
    net = mlp()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    with recording(net, optimizer, q, ema=average) as path:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
            if path.step > 1:
                path.contributions()
                path.state_dict()
            average.update_parameters(net)
    parts = path.contributions()
    close(parts.final, average.module(q).detach())
    assert parts.gap_rel < 1e-10


def test_a_scaler_skips_a_step_of_accumulated_batches_named_before_zero_grad():
    x, y, _, q = problem(torch.float32)
    net = mlp(torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with recording(net, optimizer, q) as path:
        for step, ids in enumerate(shuffled()):
            for number, part in enumerate(ids.split(3)):
                path.batch((x[part], y[part]), ids=part)
                if number == 0:
                    optimizer.zero_grad()
                loss = loss_fn(net, (x[part], y[part])).mean()
                scaler.scale(loss * (float("inf") if step == 4 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert path.stopped is None and path.step == len(shuffled()) - 1 and path.contributions().gap_rel < 1e-3


@pytest.mark.parametrize("limit", ["one", "all"])
def test_clipping_by_value_of_one_coordinate_and_of_all(limit):
    _x, _y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def clip(_: int) -> None:
        grads = torch.cat([p.grad.flatten().abs() for p in net.parameters()])
        grads = grads[grads > 0]
        two = grads.topk(2).values
        nn.utils.clip_grad_value_(net.parameters(), float(two.mean()) if limit == "one" else float(grads.min()) / 2)

    with recording(net, optimizer, q) as path:
        loop(net, optimizer, path, each=clip)
    assert path.stopped is None and path.contributions().gap_rel < 1e-10


def test_dropout_that_is_switched_on_later():
    _, _, _, q = problem()
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.0), nn.Linear(16, 3)).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    torch.manual_seed(3)
    x, y, _, _ = problem()
    with recording(net, optimizer, q) as path:
        for step, ids in enumerate(shuffled()):
            net[2].p = 0.3 if step >= 5 else 0.0
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    assert path.stopped is None and path.contributions().gap_rel < 1e-10


# ------------------------------------------------------------------ networks beside the one that trains


def test_other_networks_are_found_and_left_as_they_are():
    """A discriminator in training mode that nobody named, in the loss and in the queries."""
    x, _, _, q = problem()
    net, D = mlp(), nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    before = [b.clone() for b in D.buffers()]

    def losses(module: nn.Module, batch: Any) -> Tensor:
        return nn.functional.softplus(-D(module(batch[0]))).flatten()

    with recording(net, optimizer, q, loss_fn=losses, query_call=lambda m, z: m(z)[:, :2]) as path:
        path.batch((x, x), ids=torch.arange(len(x)))
        assert all(torch.equal(a, b) for a, b in zip(before, D.buffers(), strict=True))
        optimizer.zero_grad()
        losses(net, (x, x)).mean().backward()
        moved = [b.clone() for b in D.buffers()]
        optimizer.step()
    assert path.contributions().gap_rel < 1e-8
    with recording(net, optimizer, q, loss_fn=losses, query_call=lambda m, z: D.train()(m(z))):
        assert all(torch.equal(a, b) for a, b in zip(moved, D.buffers(), strict=True))


def test_queries_through_a_network_that_trains_are_noticed():
    _, _, _, q = problem()
    net, other = mlp(), nn.Linear(3, 1).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

    def drift(_: int) -> None:
        with torch.no_grad():
            other.weight.add_(0.05)

    with (
        pytest.warns(RecordingWarning, match="query_call uses something that moves"),
        recording(net, optimizer, q, query_call=lambda m, z: other(m(z))) as path,
    ):
        loop(net, optimizer, path, each=drift)
    with pytest.raises(RecordingError, match="at the same weights"):
        path.contributions()


def test_statistics_that_other_forward_passes_move_cannot_be_replayed(tmp_path):
    x, y, _, q = problem()
    net = bn_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with gk.tape(net, optimizer, tmp_path, every=4) as tape, recording(net, optimizer, q) as path:
        loop(net, optimizer, tape, path, each=lambda _: net(x + 1))
    assert path.contributions().gap_rel < 1e-8
    with pytest.raises(RecordingError, match="moved running statistics"):
        gk.replay(tmp_path, net, lambda ids: (x[ids], y[ids]), loss_fn, queries=q, progress=False)


# ------------------------------------------------------------------ what is checked, and how it is said


def test_a_step_is_checked_coordinate_by_coordinate():
    """One large weight does not hide what happens to the others."""
    _, _, _, q = problem(torch.float32)
    net = mlp(torch.float32)
    with torch.no_grad():
        net[4].bias[0] = 30.0
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-6)
    handle = optimizer.register_step_post_hook(lambda *_: net[0].weight.data.add_(3e-6))
    # the hook above runs first, as it was there first
    with (
        pytest.warns(RecordingWarning, match="do not sum to what the step did"),
        recording(net, optimizer, q) as path,
    ):
        loop(net, optimizer, path, dtype=torch.float32)
    handle.remove()
    assert path.stopped is not None


def test_more_groups_than_memory_are_refused_before_the_training():
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with (
        recording(net, optimizer, q, groups=lambda ids, _: ids, memory=20_000) as path,
        pytest.raises(InputError, match=r"22 groups of 173 parameters take .*gk\.tape"),
    ):
        path.batch((x, y), ids=torch.arange(22))


def test_warnings_as_errors_do_not_reach_the_training():
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        with recording(net, optimizer, q) as path:
            for p in net.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()  # no batch was named
    assert path.stopped is not None


def test_labels_of_numpy_and_other_windows(tmp_path):
    _, _, label, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    groups = lambda ids, _: [np.int64(i) for i in label[ids]]  # noqa: E731
    with recording(net, optimizer, q, groups=groups, store=tmp_path, windows=4) as path:
        plain_steps(net, optimizer, path)
        path.save()
    assert path.contributions().sources == [0, 1, 2, 3]
    with pytest.raises(InputError, match="other windows"):
        recording(net, optimizer, q, store=tmp_path, windows=8)


def test_a_tape_of_groups_with_options_of_their_own_and_a_scheduler_that_comes_later(tmp_path):
    x, y, _, q = problem()
    net = mlp()
    rest = [*net[2].parameters(), *net[4].parameters()]
    optimizer = torch.optim.AdamW([{"params": net[0].parameters(), "lr_scale": 0.5}, {"params": rest}], lr=0.01)
    with gk.tape(net, optimizer, tmp_path, every=5) as tape, recording(net, optimizer, q, rule="trapezoid") as path:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
        loop(net, optimizer, tape, path, each=lambda step: schedule.step() if step else None)
    assert tape.stopped is None
    found = gk.replay(tmp_path, net, lambda ids: (x[ids], y[ids]), loss_fn, queries=q, progress=False)
    recorded = path.contributions()
    close(found.contributions().values.sum(0), recorded.values.sum(0), 1e-9)


def test_the_overhead_is_that_of_the_loop_whatever_is_asked_later():
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gk.record(net, optimizer, loss_fn, queries=q, verbose=False) as path:
        loop(net, optimizer, path)
    found = [path.contributions().meta["overhead"] for _ in range(3)]
    assert found == [path.overhead] * 3


class Noisy(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = x + 0.1 * torch.randn(x.shape, generator=self.draw, dtype=x.dtype)
        return self.layer(x)


def test_generators_that_a_network_or_a_loss_own_are_left_as_they_are_and_followed(tmp_path):
    x = torch.randn(22, 4, dtype=torch.float64)
    draw = torch.Generator().manual_seed(1)

    def loss(module, batch):
        out = module(batch)
        return (out * torch.rand(out.shape, generator=draw, dtype=out.dtype)).square().mean(1)

    ends = []
    for recorded in (False, True):
        torch.manual_seed(0)
        draw.manual_seed(1)
        net = Noisy()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        path = gk.record(net, optimizer, loss, queries=x[:2], groups=lambda ids, _: ids % 3, verbose=False)
        with path if recorded else nullcontext():
            for ids in shuffled():
                if recorded:
                    path.batch(x[ids], ids=ids)
                optimizer.zero_grad()
                loss(net, x[ids]).mean().backward()
                optimizer.step()
        ends.append([net.layer.weight.detach().clone(), net.draw.get_state(), draw.get_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert path.stopped is None and path.contributions().gap_rel < 1e-3

    def plain(module, batch):
        return module(batch).square().mean(1)

    net = Noisy()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gk.tape(net, optimizer, tmp_path, every=4) as tape:
        for ids in shuffled():
            tape.batch(ids)
            optimizer.zero_grad()
            plain(net, x[ids]).mean().backward()
            optimizer.step()
    found = gk.replay(tmp_path, Noisy(), lambda ids: x[ids], plain, queries=x[:2], progress=False)
    assert found.contributions().gap_rel < 1e-3


def test_a_learning_rate_of_zero_keeps_what_rounding_left_in_the_momentum():
    """The key bias of attention has no gradient but rounding, which Adam enlarges once the rate is not zero."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    head = nn.Linear(8, 3)
    net = nn.ModuleList([attention, head])
    x, y = torch.randn(40, 5, 8), torch.arange(40) % 3

    def logits(module, batch):
        return module[1](module[0](batch, batch, batch, need_weights=False)[0].mean(1))

    def loss(module, batch):
        return nn.functional.cross_entropy(logits(module, batch[0]), batch[1], reduction="none")

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 5))
    with gk.record(net, optimizer, loss, queries=x[:2], query_call=logits, verbose=False) as path:
        for step in range(10):
            batch = x[4 * step : 4 * step + 4], y[4 * step : 4 * step + 4]
            path.batch(batch)
            optimizer.zero_grad()
            loss(net, batch).mean().backward()
            optimizer.step()
            warm_up.step()
    assert path.stopped is None and path.step == 10
    assert path.contributions().gap_rel < 1e-2


def test_what_can_show_nothing_is_refused_or_said():
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    options = {"queries": q, "verbose": False}
    with pytest.raises(InputError, match="do not depend on the recorded parameters"):
        gk.record(net, optimizer, loss_fn, query_call=lambda module, batch: module(batch).detach(), **options)
    with pytest.raises(InputError, match="does not run on the queries"):
        gk.record(net, optimizer, loss_fn, queries=q[:, :1])
    with (
        gk.record(net, optimizer, lambda m, b: loss_fn(m, b).detach(), **options) as path,
        pytest.raises(InputError, match="without a graph"),
    ):
        path.batch((x, y))
    with (
        gk.record(net, optimizer, lambda m, b: loss_fn(m, b).mean(), **options) as path,
        pytest.raises(InputError, match=r"loss_fn returned shape \(\)"),
    ):
        path.batch((x, y))
    elsewhere = copy.deepcopy(net)
    with (
        pytest.warns(RecordingWarning, match="never moved"),
        gk.record(net, optimizer, loss_fn, ema=elsewhere, **options) as path,
    ):
        loop(net, optimizer, path)


class Judge(nn.Module):
    """A discriminator with running statistics, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, dtype=torch.float64)
        self.out = nn.Linear(3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))


def test_networks_that_the_loss_uses_later_or_after_a_resume_are_left_as_they_are(tmp_path):
    x, _, _, q = problem()
    torch.manual_seed(0)
    judge, batches_seen = Judge(), []

    for split in (None, 2):  # without an interruption, and with one after two steps
        net, judge = mlp(), copy.deepcopy(judge)
        judge.norm.reset_running_stats()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        step = 0

        def loss(module, batch):
            return judge(module(batch)).squeeze(1) if step > 0 else module(batch).square().mean(1)  # noqa: B023

        for part in [shuffled()[:2], shuffled()[2:5]] if split else [shuffled()[:5]]:
            store = tmp_path / str(split)
            with gk.record(net, optimizer, loss, queries=q, store=store, verbose=False) as path:
                for ids in part:
                    path.batch(x[ids])
                    optimizer.zero_grad()
                    loss(net, x[ids]).mean().backward()
                    optimizer.step()
                    step += 1
            assert path.stopped is None
            path.save()
        batches_seen.append(int(judge.norm.num_batches_tracked))
    assert batches_seen == [4, 4]


def test_spectral_normalisation_with_dropout_is_recorded():
    _, _, _, q = problem()
    torch.manual_seed(0)
    net = nn.Sequential(
        torch.nn.utils.spectral_norm(nn.Linear(2, 10).double()), nn.Dropout(0.3), nn.Linear(10, 3).double()
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with gk.record(net, optimizer, loss_fn, queries=q, groups=lambda ids, _: ids % 2, verbose=False) as path:
        loop(net, optimizer, path)
    assert path.stopped is None


@pytest.mark.parametrize("groups", [1, 16])
def test_queries_that_depend_on_each_other_are_taken_together(groups):
    _, _, _, q = problem()

    def centred(module, batch):
        out = module(batch)[:, :1]
        return out - out.mean(0)

    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    options = {"query_call": centred, "groups": lambda ids, _: ids % groups, "verbose": False}
    with gk.record(net, optimizer, loss_fn, queries=q, **options) as path:
        loop(net, optimizer, path)
    assert path.contributions().gap_rel < 1e-3


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint"])
def test_a_step_that_failed_in_the_middle_leaves_the_windows_before_it(rule, monkeypatch):
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    options = {"queries": problem()[3], "rule": rule, "windows": range(12), "verbose": False}
    derivatives, failing = Queries.derivatives, 7

    def short_of_memory(self, *given):
        if path.step == failing:
            raise RuntimeError("out of memory")
        return derivatives(self, *given)

    monkeypatch.setattr(Queries, "derivatives", short_of_memory)
    with pytest.warns(RecordingWarning, match="out of memory"), gk.record(net, optimizer, loss_fn, **options) as path:
        loop(net, optimizer, path)
    found = path.contributions(partial=True)
    assert 5 <= found.edges[-1] <= failing and found.gap_rel < 1e-3


def test_outputs_that_are_gone_leave_what_was_before():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    broken = [1.0]

    def followed(module, batch):
        return module(batch) / broken[0]

    options = {"queries": problem()[3], "query_call": followed, "windows": range(12), "verbose": False}

    def each(step):
        broken[0] = 0.0 if step == 8 else 1.0 if step < 8 else broken[0]

    with pytest.warns(RecordingWarning, match="NaN or infinite"), gk.record(net, optimizer, loss_fn, **options) as path:
        loop(net, optimizer, path, each=each)
    found = path.contributions(partial=True)
    assert 6 <= found.edges[-1] <= 8 and found.gap_rel < 1e-3


def test_a_state_is_not_changed_by_what_comes_after_it_and_can_be_loaded_in_the_block():
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    options = {"queries": q, "groups": lambda ids, _: ids % 3, "verbose": False}
    with gk.record(net, optimizer, loss_fn, **options) as path:
        loop(net, optimizer, path)
        state = path.state_dict()
        weights, moments = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
        whole = path.contributions()
        loop(net, optimizer, path)
    for _ in range(2):
        again = mlp()
        again.load_state_dict(weights)
        other = torch.optim.Adam(again.parameters(), lr=0.01)
        other.load_state_dict(copy.deepcopy(moments))
        with gk.record(again, other, loss_fn, **options) as resumed:
            resumed.load_state_dict(state)
            assert torch.equal(resumed.contributions().values, whole.values)
            loop(again, other, resumed)
        assert torch.equal(resumed.contributions().values, path.contributions().values)


class Draws:
    """A loss that is an object, with a generator of its own."""

    def __init__(self) -> None:
        self.draw = torch.Generator().manual_seed(0)

    def __call__(self, module: nn.Module, batch: Any) -> Tensor:
        noise = torch.randn(len(batch[0]), generator=self.draw, dtype=torch.float64)
        return loss_fn(module, batch) * (1 + 0.1 * noise)

    def bound(self, module: nn.Module, batch: Any) -> Tensor:
        return self(module, batch)


@pytest.mark.parametrize("kind", ["object", "bound", "default", "partial"])
def test_generators_are_found_wherever_a_loss_holds_them(kind):
    owner = Draws()

    def by_default(module, batch, draw=owner.draw):
        return loss_fn(module, batch) * (1 + 0.1 * torch.randn(len(batch[0]), generator=draw, dtype=torch.float64))

    losses = {
        "object": owner,
        "bound": owner.bound,
        "default": by_default,
        "partial": functools.partial(by_default, draw=owner.draw),
    }
    assert generators_used_by(losses[kind]) == [owner.draw]


def test_steps_too_small_for_the_precision_of_the_outputs_take_one_node():
    _, _, _, q = problem(torch.float32)
    net = mlp(torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-7)
    with gk.record(net, optimizer, loss_fn, queries=q, rule="adaptive32", verbose=False) as path:
        loop(net, optimizer, path, dtype=torch.float32)
    assert path.contributions().meta["evaluations"] == path.step


def test_names_of_parameters_are_no_patterns():
    net = nn.ModuleDict({"a[0]": nn.Linear(2, 3).double(), "b*": nn.Linear(2, 3).double()})

    def call(module, batch):
        return module["a[0]"](batch) + module["b*"](batch)

    def loss(module, batch):
        return (call(module, batch[0]) - batch[1]).square().mean(1)

    x, y, _, q = problem()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with gk.record(net, optimizer, loss, queries=q, query_call=call, verbose=False) as path:
        path.batch((x, y))
        loss(net, (x, y)).mean().backward()
        optimizer.step()
    assert path.contributions().gap_rel < 1e-12
