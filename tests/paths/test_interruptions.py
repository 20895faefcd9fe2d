"""Recordings whose loop stops, skips, fails or is asked on the way, and what moves beside the steps."""

from __future__ import annotations

import copy
import random
import warnings
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import genkernel as gk
from genkernel.errors import RecordingError, RecordingWarning
from tests.paths.runs import loss_fn, mlp, problem, shuffled
from tests.paths.test_hard_loops import loop
from tests.paths.test_loops import bn_net, close, plain_steps, recording

pytestmark = pytest.mark.usefixtures("one_thread")


def test_samples_that_begin_to_see_each_other_are_noticed_though_sums_stay():
    x, y, _, q = problem()
    found = []
    for known in (False, True):
        share = [0.0]

        def coupled(module, batch, share=share):
            losses = loss_fn(module, batch)
            return losses + share[0] * (losses - losses.mean())

        net = mlp()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
        with recording(net, optimizer, q, loss_fn=coupled, groups=lambda ids, _: ids % 3) as path:
            for step, ids in enumerate(shuffled()[:8]):
                share[0] = 0.0 if step < 3 else 2.0
                if known:
                    path._objective.joint = True
                path.batch((x[ids], y[ids]), ids=ids)
                optimizer.zero_grad()
                coupled(net, (x[ids], y[ids])).mean().backward()
                optimizer.step()
        found.append(path.contributions())
    close(found[0].values[:3], found[1].values[:3], 1e-10)


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint", "adaptive", "gauss4"])
def test_what_happens_after_the_block_is_not_in_it(rule):
    """A head that is trained in a second phase, statistics that go on moving, another precision."""
    x, _, _, q = problem()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.SGD([*net[0].parameters(), *net[1].parameters()], lr=0.1)
    with recording(net, optimizer, q, rule=rule) as path:
        plain_steps(net, optimizer, path)
    before = path.contributions()
    with torch.no_grad():
        net[3].weight.add_(0.5)
    net.train()(x * 5 + 3)
    net.float()
    after = path.contributions()
    assert torch.equal(before.values, after.values) and torch.equal(before.final, after.final)
    assert path.stopped is None and before.gap_rel < 0.05


def test_a_head_that_moves_inside_of_the_block_leaves_the_windows_before_it():
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD([*net[0].parameters(), *net[2].parameters()], lr=0.1)
    with pytest.warns(RecordingWarning, match=r"'4\.weight' is not the recorded optimizer's, and moved"):  # noqa: SIM117
        with recording(net, optimizer, q, rule="trapezoid", windows=100) as path:
            plain_steps(net, optimizer, path, order=shuffled()[:6])
            with torch.no_grad():
                net[4].weight.add_(0.5)
            plain_steps(net, optimizer, path, order=shuffled()[6:])
    parts = path.contributions(partial=True)
    assert parts.edges[-1] == 5 and parts.gap_rel < 1e-3


@pytest.mark.parametrize("call", [20, 27, 40])
def test_an_interrupted_recording_has_stopped(call):
    """Most of the time is spent in the recording, so this is where Ctrl-C lands."""
    _, _, _, q = problem()
    calls = [0]

    def interrupted(module, batch):
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return module(batch)

    net = mlp()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    path = recording(net, optimizer, q, rule="trapezoid", query_call=interrupted, windows=100)
    with pytest.raises(KeyboardInterrupt), pytest.warns(RecordingWarning, match="KeyboardInterrupt"), path:
        plain_steps(net, optimizer, path)
    assert path.stopped == "KeyboardInterrupt"
    with pytest.raises(RecordingError, match="stopped after"):
        path.contributions()
    parts = path.contributions(partial=True)
    assert parts.edges[-1] >= path.step - 1 and parts.gap_rel < 1e-2


def test_a_loss_that_is_not_finite_may_be_skipped():
    x, y, _, q = problem()
    for skipped in (True, False):
        net = mlp()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        quiet = nullcontext() if skipped else pytest.warns(RecordingWarning, match="NaN or infinite for sample 0")
        with quiet, recording(net, optimizer, q) as path:  # type: ignore[attr-defined]
            for step, ids in enumerate(shuffled()):
                target = y[ids] if step != 4 else torch.full_like(y[ids], torch.nan)
                path.batch((x[ids], target), ids=ids)
                optimizer.zero_grad()
                loss = loss_fn(net, (x[ids], target)).mean()
                if not loss.isfinite() and skipped:
                    path.skip()
                    continue
                loss.backward()
                if not loss.isfinite():
                    break
                optimizer.step()
            if not skipped:
                optimizer.step()
        if skipped:
            assert path.skipped == 1 and path.contributions().gap_rel < 1e-10
        else:
            assert path.contributions(partial=True).edges[-1] == 4


def test_labels_of_batches_that_were_skipped_are_no_sources():
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with recording(
        net, optimizer, q, groups=lambda ids, _: ["skipped" if len(ids) == 4 else "seen"] * len(ids)
    ) as path:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            if len(ids) == 4:
                path.skip()
                continue
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    assert path.contributions().sources == ["seen"]


def test_an_average_that_fails_at_once_leaves_nothing(tmp_path):
    _, _, _, q = problem()
    net = mlp()
    ema = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters())

    def uneven(step):
        with torch.no_grad():
            for i, (a, p) in enumerate(zip(ema.parameters(), net.parameters(), strict=True)):
                a.lerp_(p, 0.1 * (1 + i % 2))

    with pytest.warns(RecordingWarning), recording(net, optimizer, q, ema=ema) as path:
        loop(net, optimizer, path, each=lambda step: uneven(step) if step else None)
    with pytest.raises(RecordingError, match="no step was followed"):
        path.contributions(partial=True)


def test_a_recording_is_not_saved_between_micro_batches(tmp_path):
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with recording(net, optimizer, q, store=tmp_path) as path:
        path.batch((x[:4], y[:4]), ids=torch.arange(4))
        with pytest.raises(RecordingError, match="between two steps"):
            path.save()


def test_networks_may_draw_from_numpy():
    _, _, _, q = problem()

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + (
                torch.from_numpy(np.random.randn(len(x), 3)) * self.layer.bias if self.training else 0
            )

    torch.manual_seed(0)
    net = Noisy()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    with recording(net, optimizer, q) as path:
        plain_steps(net, optimizer, path)
    assert path.contributions().gap_rel < 1e-10


class Drawing(nn.Module):
    """A linear layer whose outputs are shaken by a generator of its own."""

    def __init__(self, generator: Any, draw: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = nn.Linear(2, 3).double()
        self.generator, self.draw = generator, draw

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.as_tensor(self.draw(self.generator, x.shape[0])) if self.training else 0.0
        return self.layer(x) + noise * self.layer.bias


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (lambda: np.random.default_rng(0), lambda g, n: g.normal(size=(n, 3))),
        (lambda: np.random.RandomState(0), lambda g, n: g.normal(size=(n, 3))),
        (lambda: random.Random(0), lambda g, n: [[g.gauss(0, 1) for _ in range(3)] for _ in range(n)]),
    ],
    ids=["numpy", "numpy, old", "python"],
)
def test_generators_of_numpy_and_python_are_left_where_they_were(make, draw):
    _, _, _, q = problem()
    ends = []
    for recorded in (False, True):
        net = Drawing(make(), draw)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
        path = recording(net, optimizer, q)
        with path if recorded else nullcontext():
            loop(net, optimizer, *([path] if recorded else []))
        ends.append(net.layer.weight.detach().clone())
    assert torch.equal(*ends) and path.contributions().gap_rel < 1e-10


def averaged_bn(each: Any, **options: Any) -> tuple[gk.PathDecomposition, Any]:
    """A network with running statistics and an average of its weights alone; ``each(path, k)`` after every step."""
    from diffusers.training_utils import EMAModel

    x, y, _, q = problem()
    net = bn_net()
    ema = EMAModel(net.parameters(), decay=0.7)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    with recording(net, optimizer, q, ema=ema, rule="midpoint", **options) as path:
        for k, ids in enumerate(shuffled()):
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
            each(path, k, 0)
            ema.step(net.parameters())
            each(path, k, 1)
    return path.contributions(), path


def test_asking_on_the_way_changes_nothing_where_an_average_has_no_statistics():
    plain, _ = averaged_bn(lambda *_: None)
    asked, path = averaged_bn(lambda path, k, after: path.contributions() if after else None)
    assert path.stopped is None
    for name in ("net", "outputs"):
        assert torch.equal(getattr(plain, name), getattr(asked, name))
    asked, path = averaged_bn(lambda path, k, after: None if after else path.contributions() if k else None)
    assert path.stopped is None and torch.equal(plain.net, asked.net) and torch.equal(plain.outputs, asked.outputs)
    # before the average took in the first step
    early, path = averaged_bn(lambda path, k, after: path.state_dict() if (k, after) == (0, 0) else None)
    assert path.stopped is None and torch.equal(early.net, plain.net)


def test_asking_between_the_forward_pass_and_the_step_changes_nothing():
    x, y, _, q = problem()
    found = []
    for asked in (False, True):
        net = bn_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with recording(net, optimizer, q) as path:
            for k, ids in enumerate(shuffled()):
                path.batch((x[ids], y[ids]), ids=ids)
                optimizer.zero_grad()
                loss = loss_fn(net, (x[ids], y[ids])).mean()
                if asked and k:
                    path.contributions()
                loss.backward()
                optimizer.step()
        found.append(path.contributions())
    assert torch.equal(found[0].net, found[1].net)


@pytest.mark.parametrize("fused", [False, True])
def test_an_average_that_is_updated_where_a_scaler_skips_the_step(fused):
    x, y, _, q = problem(torch.float32)
    net = mlp(torch.float32)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=1000)
    with recording(net, optimizer, q, ema=ema, rule="midpoint") as path:
        for k, ids in enumerate(shuffled()):
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            scaler.scale(loss_fn(net, (x[ids], y[ids])).mean()).backward()
            if k == 5:
                net[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            ema.update_parameters(net)
    parts = path.contributions()
    assert path.stopped is None and parts.edges[-1] == 11 and parts.gap_rel < 1e-3
    torch.testing.assert_close(parts.final, ema.module(q).detach().double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_a_batch_without_a_finite_loss_that_a_scaler_skips(fused):
    x, y, _, q = problem(torch.float32)
    net = mlp(torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=1000)
    with recording(net, optimizer, q, rule="midpoint") as path:
        for k, ids in enumerate(shuffled()):
            batch = x[ids], y[ids] if k != 5 else torch.full_like(y[ids], torch.nan)
            path.batch(batch, ids=ids)
            optimizer.zero_grad()
            scaler.scale(loss_fn(net, batch).mean()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert path.stopped is None and path.skipped == 1 and path.contributions().gap_rel < 1e-3


def test_a_micro_batch_without_a_finite_loss_may_be_left_out():
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with recording(net, optimizer, q) as path:
        for k, ids in enumerate(shuffled()):
            optimizer.zero_grad()
            for part in ids.split(2):
                bad = k == 3 and part is not ids and bool(part[0] == ids[2])
                batch = x[part], torch.full_like(y[part], torch.nan) if bad else y[part]
                path.batch(batch, ids=part)
                loss = loss_fn(net, batch).mean()
                if loss.isfinite():
                    loss.backward()
            optimizer.step()
    assert path.stopped is None and path.contributions().gap_rel < 1e-10


def test_what_was_whole_when_a_recording_stopped_stays():
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD([*net[0].parameters(), *net[2].parameters()], lr=0.1)
    path = recording(net, optimizer, q, rule="trapezoid", windows=1)
    with path:
        plain_steps(net, optimizer, path)
    whole = path.contributions()
    with torch.no_grad():
        net[4].weight.mul_(5)
    with pytest.warns(RecordingWarning, match="not the recorded optimizer's"), path:
        plain_steps(net, optimizer, path)
    with warnings.catch_warnings(), path:
        pass
    assert torch.equal(path.contributions(partial=True).net, whole.net) and whole.gap_rel < 1e-3


@pytest.mark.parametrize("how", ["break", "raise", "scaler"])
def test_statistics_of_a_batch_without_a_step_are_in_the_end(tmp_path, how):
    x, y, _, q = problem()
    net = bn_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=1000)
    with suppress(RuntimeError), recording(net, optimizer, q, store=tmp_path) as path:
        for k, ids in enumerate(shuffled()[:6]):
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss = loss_fn(net, (x[ids], y[ids])).mean()
            if k == 5 and how == "break":
                break
            if k == 5 and how == "raise":
                raise RuntimeError
            scaler.scale(loss).backward()
            if k == 5:
                net[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
    parts = path.contributions()
    torch.testing.assert_close(parts.final, net.eval()(q).detach())
    net.train()
    path.save()
    assert recording(net, optimizer, q, store=tmp_path).step == 5


def test_statistics_that_move_between_steps_are_those_of_the_weights_before():
    """Asked or not: a skipped step, a discriminator's step through the network."""
    x, y, _, q = problem()
    found = []
    for asked in (False, True):
        net = bn_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with recording(net, optimizer, q, windows=list(range(12))) as path:
            for k, ids in enumerate(shuffled()):
                path.batch((x[ids], y[ids]), ids=ids)
                optimizer.zero_grad()
                loss = loss_fn(net, (x[ids], y[ids])).mean()
                if k in (3, 4):
                    path.skip()
                else:
                    loss.backward()
                    optimizer.step()
                net(2 * x[:5])
                if asked and k:
                    path.contributions()
        found.append(path.contributions())
    for name in ("net", "outputs"):
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name), rtol=1e-10, atol=1e-13)
