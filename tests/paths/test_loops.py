"""Training loops as people write them: averages, accumulation, dropout, batch norm, late parameters, skipped steps."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import genkernel as gk
from genkernel.errors import InputError, RecordingError, RecordingWarning
from tests.paths.runs import loss_fn, mlp, problem, shuffled


def close(a: Tensor, b: Tensor, tol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def recording(net: nn.Module, optimizer: Any, q: Tensor, **options: Any) -> Any:
    _, _, label, _ = problem()
    options = {"groups": lambda ids, _: label[ids], "rule": "gauss4", "verbose": False} | options
    return gk.record(net, optimizer, options.pop("loss_fn", loss_fn), queries=q, **options)


def plain_steps(net: nn.Module, optimizer: Any, path: Any, *, clip: float | None = None, order: Any = None) -> None:
    x, y, _, _ = problem()
    for ids in order or shuffled():
        batch = x[ids], y[ids]
        path.batch(batch, ids=ids)
        optimizer.zero_grad()
        loss_fn(net, batch).mean().backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()


# ------------------------------------------------------------------ what a group is


def test_one_group_per_sample_refines_the_groups():
    x, _, label, q = problem()
    parts = []
    for groups in (lambda ids, _: ids, lambda ids, _: label[ids]):
        net = mlp()
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)
        with recording(net, optimizer, q, groups=groups) as path:
            plain_steps(net, optimizer, path, clip=0.05)
        parts.append(path.contributions())
    fine, coarse = parts
    assert fine.sources[:-1] == list(range(len(x)))
    close(fine.regroup(lambda i: int(label[i])).of(slice(None)).values.sum(0), coarse.values.sum(0))
    merged = fine.regroup(lambda i: int(label[i]))
    for a, source in enumerate(coarse.sources):
        close(merged.values[merged.sources.index(source)], coarse.values[a])
    assert coarse.samples[:4].sum() == 3 * len(x)


def test_samples_do_not_move_with_the_order_they_come_in():
    """Permuted within their batches, and a sample twice in one batch."""
    x, _y, _, q = problem()
    order = [torch.cat([ids, ids[:1]]) for ids in shuffled()]  # a duplicate in every batch
    found = []
    for flipped in (False, True):
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        with recording(net, optimizer, q, groups=lambda ids, _: ids) as path:
            plain_steps(net, optimizer, path, order=[ids.flip(0) if flipped else ids for ids in order])
        found.append(path.contributions())
    assert found[0].sources == found[1].sources == list(range(len(x)))
    close(found[0].values, found[1].values, 1e-9)
    assert int(found[0].samples.sum()) == sum(map(len, order))


def test_accumulated_micro_batches_make_one_step():
    x, y, _label, q = problem()
    whole = mlp()
    one = torch.optim.Adam(whole.parameters(), lr=0.02)
    with recording(whole, one, q) as path:
        for ids in shuffled(size=8):
            path.batch((x[ids], y[ids]), ids=ids)
            one.zero_grad()
            loss_fn(whole, (x[ids], y[ids])).mean().backward()
            one.step()
    expected = path.contributions()

    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    with recording(net, optimizer, q) as path:
        for ids in shuffled(size=8):
            optimizer.zero_grad()
            for part in ids.split(3):  # 3 + 3 + 2, each by its share
                path.batch((x[part], y[part]), ids=part, weight=len(part))
                (loss_fn(net, (x[part], y[part])).mean() * len(part) / len(ids)).backward()
            optimizer.step()
    parts = path.contributions()
    assert parts.sources == expected.sources
    close(parts.values, expected.values)
    assert torch.equal(parts.samples, expected.samples)


# ------------------------------------------------------------------ averages


@pytest.mark.parametrize("rule", ["gauss4", "trapezoid"])
def test_the_path_of_an_average_adds_up(rule):
    x, y, _label, q = problem()
    net = mlp()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    with recording(net, optimizer, q, ema=average, rule=rule) as path:
        for step, ids in enumerate(shuffled()):
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            optimizer.step()
            if step % 3 != 1:  # not after every step
                average.update_parameters(net)
    parts = path.contributions()
    close(parts.final, average.module(q).detach())
    close(parts.initial, mlp()(q).detach())
    assert parts.gap_rel < (1e-11 if rule == "gauss4" else 0.05)
    assert parts.sources == [0, 1, 2, 3]


def test_an_average_that_starts_elsewhere_has_a_source_for_it():
    x, y, _, q = problem()
    net, average = mlp(), AveragedModel(mlp(seed=5), multi_avg_fn=get_ema_multi_avg_fn(0.8))
    average.n_averaged.fill_(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with recording(net, optimizer, q, ema=average, rule="gauss8") as path:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
            average.update_parameters(net)
    parts = path.contributions()
    assert "before recording" in parts.sources
    close(parts.final, average.module(q).detach())
    assert parts.gap_rel < 1e-9


# ------------------------------------------------------------------ networks whose samples see each other


def bn_net(p: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Dropout(p), nn.Linear(10, 3)).double()


@pytest.mark.parametrize("rule", ["gauss6", "trapezoid", "midpoint"])
def test_batch_normalisation_has_its_buffers_as_a_source(rule):
    _x, _y, _label, q = problem()
    net = bn_net()
    start = copy.deepcopy(net).eval()(q).detach()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)
    with recording(net, optimizer, q, rule=rule) as path:
        plain_steps(net, optimizer, path)
    parts = path.contributions()
    assert parts.sources == [0, 1, 2, 3, "buffers"] and path.stopped is None
    close(parts.initial, start)
    close(parts.final, copy.deepcopy(net).eval()(q).detach())
    assert parts.gap_rel < (1e-10 if rule == "gauss6" else 0.01)
    assert float(parts.values[-1].abs().max()) > 0.01


def test_dropout_uses_the_masks_of_the_training():
    _x, _y, _label, q = problem()
    net = bn_net(0.4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    torch.manual_seed(4)
    with recording(net, optimizer, q) as path:
        plain_steps(net, optimizer, path)
    assert path.contributions().gap_rel < 1e-8
    # the bias before the normalisation has no gradient but rounding, which Adam enlarges
    assert path.contributions().sources == [0, 1, 2, 3, "rounding", "buffers"]


# ------------------------------------------------------------------ steps that are not plain


def test_momentum_from_before_is_a_source():
    _, _, _, q = problem()
    for optimizer_of in (
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.0005, momentum=0.9),
    ):
        net = mlp()
        optimizer = optimizer_of(net.parameters())
        x, y, _, _ = problem()
        for _ in range(5):
            optimizer.zero_grad()
            loss_fn(net, (x, y)).mean().backward()
            optimizer.step()
        with recording(net, optimizer, q) as path:
            plain_steps(net, optimizer, path)
        parts = path.contributions()
        assert parts.sources[-1] == "before recording"
        assert parts.gap_rel < 1e-10
        assert float(parts.values[-1].abs().max()) > 1e-3


def test_parameter_groups_late_parameters_and_frozen_ones():
    x, y, _label, q = problem()

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.frozen = nn.Linear(2, 8), nn.Linear(8, 3), nn.Linear(2, 3)
            self.frozen.requires_grad_(False)
            self.late = nn.Linear(2, 3)
            self.active = False

        def forward(self, x: Tensor) -> Tensor:
            out = self.second(self.first(x).tanh()) + self.frozen(x)
            return out + self.late(x).sin() if self.active else out

    torch.manual_seed(1)
    for kind, options in ((torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.3})):
        net = Late().double()
        optimizer = kind(
            [
                {"params": net.first.parameters(), "lr": 0.01},
                {"params": [*net.second.parameters(), *net.late.parameters()], "weight_decay": 0.1},
            ],
            lr=0.02,
            **options,
        )
        queries = {"x": q}
        net_call = lambda module, batch: module.second(module.first(batch["x"]).tanh()) + module.late(batch["x"]).sin()  # noqa: E731
        with recording(net, optimizer, queries, query_call=net_call) as path:
            for step, ids in enumerate(shuffled()):
                net.active = step >= 4
                path.batch((x[ids], y[ids]), ids=ids)
                optimizer.zero_grad()
                loss_fn(net, (x[ids], y[ids])).mean().backward()
                optimizer.step()
        parts = path.contributions()
        assert path.stopped is None and parts.gap_rel < 1e-10
        assert "weight decay" in parts.sources


def test_clipping_by_value_is_recognised():
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with recording(net, optimizer, q) as path:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            nn.utils.clip_grad_value_(net.parameters(), 0.01)
            optimizer.step()
    assert path.stopped is None
    assert path.contributions().gap_rel < 1e-10


@pytest.mark.parametrize("named_first", [True, False])
def test_skipped_steps_leave_nothing(named_first):
    """A gradient scaler does not call ``step()`` at all."""
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    taken = 0
    with recording(net, optimizer, q) as path:
        for step, ids in enumerate(shuffled()):
            if named_first:
                path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            if not named_first:
                path.batch((x[ids], y[ids]), ids=ids)
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            if step % 4 != 2:
                optimizer.step()
                taken += len(ids)
    parts = path.contributions()
    assert path.stopped is None and path.skipped == 3
    assert parts.gap_rel < 1e-10 and int(parts.samples.sum()) == taken


def test_a_gradient_scaler_does_no_harm():
    x, y, _, q = problem(torch.float32)
    net = mlp(torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    with recording(net, optimizer, q) as path:
        for step, ids in enumerate(shuffled()):
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss = loss_fn(net, (x[ids], y[ids])).mean()
            scaler.scale(loss * (float("inf") if step == 5 else 1.0)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
    assert path.stopped is None and path.step == len(shuffled()) - 1
    assert path.contributions().gap_rel < 1e-4


# ------------------------------------------------------------------ resolution


def test_layers_and_windows_add_up_to_the_whole():
    _, _, _, q = problem()
    plain = None
    for call in (None, lambda m, z: m(z)[:, :1]):  # directions, then rows of the Jacobian
        for rule in ("trapezoid", "gauss2"):
            results = []
            for options in ({"windows": 1}, {"windows": 4, "layers": True}, {"windows": [5, 9]}):
                net = mlp()
                optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)
                with recording(net, optimizer, q, query_call=call, rule=rule, **options) as path:
                    plain_steps(net, optimizer, path)
                results.append(path.contributions())
            plain, layered, chosen = results
            close(layered.values, plain.values)
            close(chosen.values, plain.values)
            assert layered.layers == ["0", "2", "4", "buffers"]
            assert layered.edges == [0, 4, 8, 12] and chosen.edges == [0, 5, 9, 12]
            # every window is complete by itself
            for parts in (layered, chosen):
                change = (parts.outputs[1:] - parts.outputs[:-1]).flatten(2).norm(dim=2).max()
                assert float(parts.gap_by_window.max() / change) < (0.05 if rule == "trapezoid" else 1e-4)


def test_gross_is_at_least_net_and_shares_sum_to_one():
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with recording(net, optimizer, q) as path:
        plain_steps(net, optimizer, path)
    parts = path.contributions()
    assert bool((parts.gross_size() >= parts.net_size() - 1e-12).all())
    close(parts.signed().sum(0), torch.ones(len(q), dtype=torch.float64), 1e-8)
    helpers, opponents = parts.top(2, k=2)
    assert helpers[0].value >= helpers[-1].value > 0
    assert all(part.value < 0 for part in opponents)
    close(parts.along(1).sum((0, 1)), (parts.final - parts.initial)[:, 1], 1e-9)


def test_saved_and_loaded(tmp_path):
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with recording(net, optimizer, q) as path:
        plain_steps(net, optimizer, path)
    parts = path.contributions()
    again = gk.PathDecomposition.load(parts.save(tmp_path / "path.npz"))
    assert again.sources == parts.sources and again.edges == parts.edges and again.meta == parts.meta
    for name in ("net", "gross", "outputs", "samples"):
        assert torch.equal(getattr(again, name), getattr(parts, name))
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a path decomposition"):
        gk.PathDecomposition.load(tmp_path / "other.npz")


# ------------------------------------------------------------------ the training is not touched


def test_the_training_ends_with_the_same_bits():
    x, y, _, q = problem(torch.float32)
    ends = []
    for recorded in (False, True):
        net = bn_net(0.3).float()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        torch.manual_seed(9)
        path = recording(net, optimizer, q, rule="trapezoid")
        if recorded:
            path.__enter__()
        for ids in shuffled():
            if recorded:
                path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
        if recorded:
            path.__exit__(None, None, None)
            assert path.stopped is None
        assert net.training and not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
        grads = [p.grad.clone() for p in net.parameters()]
        ends.append([*net.state_dict().values(), *grads, torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_recording_goes_on_where_it_was_saved(tmp_path):
    x, y, _, q = problem()

    def run(stop: int | None) -> gk.PathDecomposition:
        net = mlp()
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)

        def part(batches: list[Tensor], **options: Any) -> Any:
            with recording(net, optimizer, q, ema=average, rule="trapezoid", windows=4, **options) as path:
                for ids in batches:
                    path.batch((x[ids], y[ids]), ids=ids)
                    optimizer.zero_grad()
                    loss_fn(net, (x[ids], y[ids])).mean().backward()
                    optimizer.step()
                    average.update_parameters(net)
                if options:
                    path.save()
            return path

        if stop is None:
            return part(shuffled()).contributions()
        part(shuffled()[:stop], store=tmp_path / str(stop))
        return part(shuffled()[stop:], store=tmp_path / str(stop)).contributions()

    whole = run(None)
    for stop in (5, 8):
        resumed = run(stop)
        assert resumed.sources == whole.sources and resumed.edges == whole.edges
        close(resumed.values, whole.values, 1e-12)
        close(resumed.gross, whole.gross, 1e-12)


# ------------------------------------------------------------------ bad input


def test_unsupported_optimizers_are_named():
    net = mlp()
    _, _, _, q = problem()
    for optimizer in (torch.optim.Rprop(net.parameters()), torch.optim.LBFGS(net.parameters())):
        with pytest.raises(InputError, match=f"{type(optimizer).__name__} cannot be recorded.*SGD, Adagrad"):
            recording(net, optimizer, q)

    class Own(torch.optim.Adam):
        def step(self, closure: Any = None) -> None:
            pass

    with pytest.raises(InputError, match="Own cannot be recorded"):
        recording(net, Own(net.parameters()), q)
    with pytest.raises(InputError, match="holds none of the model's parameters"):
        recording(mlp(), torch.optim.SGD(net.parameters()), q)


def test_wrong_labels_and_losses_are_refused_before_the_first_step():
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with (
        recording(net, optimizer, q, groups=lambda ids, _: ids[:2]) as path,
        pytest.raises(InputError, match="2 labels for a batch of 22 samples"),
    ):
        path.batch((x, y), ids=torch.arange(22))
    with recording(net, optimizer, q, loss_fn=lambda m, b: loss_fn(m, b).mean()) as path, pytest.raises(InputError):
        path.batch((x, y), ids=torch.arange(22))
    with (
        recording(net, optimizer, q, loss_fn=lambda m, b: (m(b[0]) - b[1]).square()) as path,
        pytest.raises(InputError, match=r"one loss per sample, shape \(22,\)"),
    ):
        path.batch((x, y), ids=torch.arange(22))
    with pytest.raises(InputError, match="rule is"):
        recording(net, optimizer, q, rule="simpson")
    with pytest.raises(RecordingError, match="with-block"):
        recording(net, optimizer, q).batch((x, y), ids=torch.arange(22))


def faulty(what: str) -> tuple[Any, nn.Module, list[Tensor]]:
    """A run with a fault from its fourth step on; the weights after every step."""
    x, y, label, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)
    weights = []
    with recording(
        net, optimizer, q, groups=lambda ids, b: label[ids] if what != "labels" or path.step < 3 else [1]
    ) as path:
        for step, ids in enumerate(shuffled()):
            late = step >= 3
            if not (what == "unnamed" and late):
                path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss = loss_fn(net, (x[ids], y[ids])).mean()
            if what == "other loss" and late:
                loss = loss + 0.1 * net(x[ids]).square().mean()
            loss.backward()
            if what == "closure" and late:
                optimizer.step(lambda: None)
            else:
                optimizer.step()
            if what == "outside" and late:
                with torch.no_grad():
                    net[0].weight.clamp_(-0.1, 0.1)
            weights.append(torch.cat([p.detach().reshape(-1).clone() for p in net.parameters()]))
    return path, net, weights


@pytest.mark.parametrize(
    "what, said",
    [
        ("unnamed", "without path.batch"),
        ("other loss", "not a multiple of the sum over the groups"),
        ("outside", "'0.weight' was changed outside of the optimizer"),
        ("closure", "step\\(closure\\)"),
        ("labels", "1 labels for a batch"),
    ],
)
def test_a_fault_stops_the_recording_and_not_the_training(what, said):
    with pytest.warns(RecordingWarning, match="the training goes on"):
        path, _, weights = faulty(what)
    assert len(weights) == len(shuffled())
    with pytest.raises(RecordingError, match=said):
        path.contributions()
    parts = path.contributions(partial=True)
    assert parts.edges[-1] == path.step in (3, 4)
    assert parts.gap_rel < 1e-10


def test_resuming_with_another_model_is_refused(tmp_path):
    _, _, _, q = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    with recording(net, optimizer, q, store=tmp_path) as path:
        plain_steps(net, optimizer, path)
        path.save()
    other = mlp(seed=3)
    with pytest.raises(InputError, match="other weights"):
        recording(other, torch.optim.Adam(other.parameters(), lr=0.02), q, store=tmp_path)
    wide = nn.Linear(2, 3).double()
    with pytest.raises(InputError, match="another model"):
        recording(wide, torch.optim.Adam(wide.parameters(), lr=0.02), q, store=tmp_path)
    with pytest.raises(InputError, match="load its state"):
        recording(net, torch.optim.Adam(net.parameters(), lr=0.02), q, store=tmp_path)
    with pytest.raises(InputError, match="other queries"):
        recording(net, optimizer, q + 1, store=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recording(net, optimizer, q, store=tmp_path)


def test_frozen_parameters_in_the_optimizer_and_unfrozen_later():
    x, y, _, q = problem()
    net = mlp()
    net[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    with recording(net, optimizer, q) as path:
        for step, ids in enumerate(shuffled()):
            if step == 5:
                net[0].requires_grad_(True)
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    assert path.stopped is None and path.contributions().gap_rel < 1e-10


def test_sparse_gradients():
    _x, y, _label, _q = problem()

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(22, 6, sparse=True), nn.Linear(6, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids).tanh())

    net = Bag().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    ids_all = torch.arange(22)
    with recording(net, optimizer, ids_all[:4]) as path:
        for ids in shuffled():
            path.batch((ids, y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (ids, y[ids])).mean().backward()
            optimizer.step()
    assert path.stopped is None and path.contributions().gap_rel < 1e-10


def test_sixteen_bit_weights_have_their_rounding_as_a_source():
    x, y, _, q = problem(torch.bfloat16)
    net = mlp(torch.bfloat16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    with recording(net, optimizer, q, rule="midpoint") as path:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    parts = path.contributions()
    assert "rounding" in parts.sources and parts.gap_rel < 0.1  # outputs are rounded as well


@pytest.mark.parametrize("what, said", [("added", "added to the optimizer"), ("other", "not the recorded optimizer's")])
def test_parameters_that_move_unseen_stop_the_recording(what, said):
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD([*net[0].parameters(), *net[2].parameters()], lr=0.05)
    other = torch.optim.SGD(net[4].parameters(), lr=0.05)
    with pytest.warns(RecordingWarning, match=said), recording(net, optimizer, q) as path:
        for step, ids in enumerate(shuffled()):
            path.batch((x[ids], y[ids]), ids=ids)
            net.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            if what == "added" and step == 4:
                optimizer.add_param_group({"params": list(net[4].parameters())})
            optimizer.step()
            if what == "other" and step == 4:
                other.step()
    with pytest.raises(RecordingError, match=said):
        path.contributions()
