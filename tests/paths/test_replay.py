"""A tape played backwards says of every sample what a recording with one group per sample says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError, MissingError, RecordingError, RecordingWarning
from tests.paths.runs import loss_fn, mlp, problem, shuffled
from tests.paths.test_loops import bn_net
from tests.paths.test_recorder import CASES, CONFIGURATIONS

HEAVY = ("momentum, dampening, decay", "rmsprop, momentum", "adam, amsgrad, decay", "nesterov, decay", "adamw")


def both(
    folder: Path,
    optimizer_of: Any,
    net: nn.Module,
    *,
    clip: float | None = None,
    micro: int = 0,
    rule: str = "gauss3",
    call: Any = None,
    layers: bool = False,
    cosine: bool = True,
    warm: int = 0,
    skip: tuple[int, ...] = (),
    every: int = 5,
    replayed: nn.Module | None = None,
) -> tuple[gk.PathDecomposition, Any, nn.Module]:
    """The same loop recorded sample by sample and taped; the tape is replayed."""
    x, y, _, q = problem()
    optimizer = optimizer_of(net.parameters())
    for _ in range(warm):
        optimizer.zero_grad()
        loss_fn(net, (x, y)).mean().backward()
        optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12) if cosine else None
    with (
        gk.tape(net, optimizer, folder, every=every) as tape,
        gk.record(
            net,
            optimizer,
            loss_fn,
            groups=lambda ids, _: ids,
            queries=q,
            query_call=call,
            rule=rule,
            layers=layers,
            verbose=False,
        ) as path,
    ):
        for step, ids in enumerate(shuffled()):
            optimizer.zero_grad()
            parts = ids.split(micro) if micro else [ids]
            for part in parts:
                tape.batch(part, weight=len(part) if micro else None, level=part.double() / 10, epoch=step // 4)
                path.batch((x[part], y[part]), ids=part, weight=len(part) if micro else None)
                (loss_fn(net, (x[part], y[part])).mean() * len(part) / len(ids)).backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            if step not in skip:
                optimizer.step()
            if schedule is not None:
                schedule.step()
    assert tape.stopped is None and path.stopped is None
    found = gk.replay(
        folder,
        replayed or net,
        lambda ids, level, epoch: (x[ids], y[ids]),
        loss_fn,
        queries=q,
        query_call=call,
        rule=rule,
        layers=layers,
        progress=False,
    )
    return path.contributions(), found, net


def assert_same(recorded: gk.PathDecomposition, found: Any, tol: float = 1e-10) -> None:
    parts = found.contributions()
    assert parts.sources == [s for s in recorded.sources if s != "rounding"]
    for a, source in enumerate(parts.sources):
        expected = recorded.values[recorded.sources.index(source)]
        torch.testing.assert_close(parts.values[a], expected, rtol=tol, atol=tol)
    torch.testing.assert_close(parts.initial, recorded.initial)
    torch.testing.assert_close(parts.final, recorded.final)
    assert int(parts.samples.sum()) == found.visits


@pytest.mark.parametrize("name, clip", CASES, ids=str)
def test_every_optimizer_replays_to_the_recording(tmp_path, name, clip):
    recorded, found, _ = both(tmp_path, CONFIGURATIONS[name], mlp(), clip=clip, rule="trapezoid")
    assert_same(recorded, found)
    assert found.visits == 66 and found.copies == [0, 5, 10, 12]


@pytest.mark.parametrize("name", HEAVY)
def test_micro_batches_skipped_steps_and_momentum_from_before(tmp_path, name):
    recorded, found, _ = both(tmp_path, CONFIGURATIONS[name], mlp(), clip=0.05, micro=3, warm=3, skip=(1, 6))
    assert_same(recorded, found)
    if name != "adamw":
        assert "weight decay" in recorded.sources or name == "rmsprop, momentum"
    assert "before recording" in found.others


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_batch_normalisation_and_dropout(tmp_path, p):
    torch.manual_seed(2)
    optimizer_of = CONFIGURATIONS["momentum"]
    recorded, found, _ = both(tmp_path, optimizer_of, bn_net(p), rule="midpoint")
    assert_same(recorded, found, 1e-9)
    assert "buffers" in found.others


def test_layers_and_scalar_queries(tmp_path):
    recorded, found, _ = both(
        tmp_path, CONFIGURATIONS["adamw"], mlp(), layers=True, call=lambda m, z: m(z)[:, :1], rule="trapezoid"
    )
    parts = found.contributions(edges=[5])
    assert parts.layers == recorded.layers and parts.edges == [0, 5, 12]
    torch.testing.assert_close(parts.by_layer, recorded.by_layer, rtol=1e-10, atol=1e-12)


def test_visits_are_grouped_by_anything_the_tape_says(tmp_path):
    _recorded, found, _ = both(tmp_path, CONFIGURATIONS["adam"], mlp())
    ids, per_sample = found.per_sample()
    assert ids.tolist() == list(range(22))
    by_epoch = found.contributions(lambda ids, level, epoch: epoch)
    assert by_epoch.sources == [0, 1, 2]
    by_level = found.contributions(lambda ids, level, epoch: np.where(level < 1.0, "low", "high"), edges=[10])
    np.testing.assert_allclose(by_level.values[1], per_sample[:10].sum(0), rtol=1e-10, atol=1e-12)
    assert by_epoch.gap_rel < 1e-8
    with pytest.raises(InputError, match="one per visit"):
        found.contributions(lambda ids, **_: ids[:3])
    with pytest.raises(InputError, match="edges are among"):
        found.contributions(edges=[3])


def test_the_gross_part_is_that_of_the_steps(tmp_path):
    recorded, found, _ = both(tmp_path, CONFIGURATIONS["sgd"], mlp(), rule="midpoint")
    parts = found.contributions()
    torch.testing.assert_close(parts.gross_size(), recorded.gross_size(), rtol=1e-9, atol=1e-12)


def test_neither_the_training_nor_the_model_is_touched(tmp_path):
    x, y, _, q = problem()
    ends = []
    for taped in (False, True):
        net = bn_net(0.3)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        torch.manual_seed(5)
        tape = gk.tape(net, optimizer, tmp_path, steps=12)
        if taped:
            tape.__enter__()
        for ids in shuffled():
            if taped:
                tape.batch(ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
        if taped:
            tape.__exit__(None, None, None)
        ends.append([*(t.clone() for t in net.state_dict().values()), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    before = [t.clone() for t in net.state_dict().values()]
    found = gk.replay(tmp_path, net, lambda ids: (x[ids], y[ids]), loss_fn, queries=q, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True)) and net.training
    assert found.contributions().gap_rel < 0.01


def taped(folder: Path, *, stop: int | None = None, every: int = 4) -> nn.Module:
    x, y, _, _ = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    tape = gk.tape(net, optimizer, folder, every=every)
    tape.__enter__()
    for step, ids in enumerate(shuffled()):
        if step == stop:
            return net  # killed: nothing is closed
        tape.batch(ids)
        optimizer.zero_grad()
        loss_fn(net, (x[ids], y[ids])).mean().backward()
        optimizer.step()
    tape.__exit__(None, None, None)
    return net


def play(folder: Path, net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Any:
    _, _, _, q = problem()
    return gk.replay(folder, net, lambda ids: (x[ids], y[ids]), options.pop("loss", loss_fn), queries=q, progress=False)


def test_other_data_other_losses_and_other_models_are_refused(tmp_path):
    x, y, _, _ = problem()
    net = taped(tmp_path)
    play(tmp_path, net, x, y)
    moved = y.clone()
    moved[4] += 1
    with pytest.raises(RecordingError, match=r"gradient of step \d+ is not the tape's.*data behind its ids"):
        play(tmp_path, net, x, moved)
    with pytest.raises(RecordingError, match="not the tape's"):
        play(tmp_path, net, x.flip(0), y.flip(0))
    with pytest.raises(RecordingError, match="not the tape's"):
        play(tmp_path, net, x, y, loss=lambda m, b: (m(b[0]) - b[1]).abs().mean(1))
    with pytest.raises(InputError, match="another model"):
        play(tmp_path, nn.Linear(2, 3).double(), x, y)
    with pytest.raises(InputError, match="batch_of"):
        play(tmp_path, net, x[:5], y)
    with pytest.raises(MissingError, match="no tape"):
        play(tmp_path / "nothing", net, x, y)
    head = (tmp_path / "tape.json").read_text()
    (tmp_path / "tape.json").write_text(head.replace('"version": 1', '"version": 2'))
    with pytest.raises(InputError, match="format version 2, and this genkernel reads version 1"):
        play(tmp_path, net, x, y)
    (tmp_path / "tape.json").write_text(head)
    (tmp_path / "steps-00000004.npz").unlink()
    with pytest.raises(MissingError, match=r"lacks steps-00000004\.npz"):
        play(tmp_path, net, x, y)


def test_a_killed_run_is_there_up_to_its_last_copy_and_goes_on(tmp_path):
    x, y, _, _ = problem()
    net = taped(tmp_path, stop=10)
    found = play(tmp_path, net, x, y)
    assert found.copies == [0, 4, 8]
    # from the copy at step 8 on
    again = mlp()
    optimizer = torch.optim.Adam(again.parameters(), lr=0.02)
    for ids in shuffled()[:8]:
        optimizer.zero_grad()
        loss_fn(again, (x[ids], y[ids])).mean().backward()
        optimizer.step()
    with gk.tape(again, optimizer, tmp_path, every=4) as tape:
        assert tape.step == 8
        for ids in shuffled()[8:]:
            tape.batch(ids)
            optimizer.zero_grad()
            loss_fn(again, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    whole = play(tmp_path, net, x, y)
    other = tmp_path / "other"
    taped(other)
    np.testing.assert_allclose(whole.values, play(other, net, x, y).values, rtol=1e-9, atol=1e-14)
    with pytest.raises(InputError, match="never had these weights"):
        gk.tape((fresh := mlp(seed=7)), torch.optim.Adam(fresh.parameters()), tmp_path, every=4)


def test_a_fault_stops_the_tape_and_not_the_training(tmp_path):
    x, y, _, _ = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.warns(RecordingWarning, match="without tape.batch"), gk.tape(net, optimizer, tmp_path, steps=9) as tape:
        for step, ids in enumerate(shuffled()):
            if step < 7:
                tape.batch(ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    assert tape.step == 7
    assert "steps" not in json.loads((tmp_path / "tape.json").read_text())
    assert play(tmp_path, net, x, y).copies == [0, 3, 6, 7]  # nothing that was taped is lost


def test_bad_arguments():
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(InputError, match="how many steps"):
        gk.tape(net, optimizer, "nowhere")
    with pytest.raises(InputError, match="Rprop cannot be recorded"):
        gk.tape(net, torch.optim.Rprop(net.parameters()), "nowhere", every=3)


def test_a_denoiser_in_float32_from_noise_seeds_with_little_memory(tmp_path):
    from tests.diffusion.tiny import tiny_denoiser, tiny_images

    den = tiny_denoiser(dtype=torch.float32)
    net = den.module.train()
    x0 = den.prepare(tiny_images(64))

    def batch_of(ids: Tensor, t: Tensor, seed: int) -> Any:
        noise = torch.randn(len(ids), 1, 4, 4, generator=torch.Generator().manual_seed(int(seed)))
        return {"x": den.noisy(x0[ids], t, noise).float(), "t": t, "target": noise}

    def losses(module: nn.Module, batch: Any) -> Tensor:
        return (module(batch["x"], batch["t"]) - batch["target"]).square().flatten(1).mean(1)

    def query_call(module: nn.Module, batch: Any) -> Tensor:
        return losses(module, batch)

    queries = batch_of(torch.arange(3), torch.tensor([50, 500, 950]), 999)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=30)  # moves the betas as well
    draw = torch.Generator().manual_seed(0)
    with (
        gk.tape(net, optimizer, tmp_path, every=7) as tape,
        gk.record(net, optimizer, losses, groups=lambda ids, b: b["t"] // 250, queries=queries,
                  query_call=query_call, verbose=False) as path,
    ):  # fmt: skip
        for step in range(30):
            ids, t = torch.randint(64, (8,), generator=draw), torch.randint(1000, (8,), generator=draw)
            batch = batch_of(ids, t, step)
            tape.batch(ids, t=t, seed=step)
            path.batch(batch, ids=ids)
            optimizer.zero_grad()
            losses(net, batch).mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            schedule.step()
    found = gk.replay(
        tmp_path, net, batch_of, losses, queries=queries, query_call=query_call, memory=40_000, progress=False
    )
    parts, recorded = found.contributions(lambda ids, t, seed: t // 250), path.contributions()
    assert parts.sources[:4] == recorded.sources[:4] == [0, 1, 2, 3]
    size = float(recorded.values.abs().max())
    torch.testing.assert_close(parts.values[:4], recorded.values[:4], rtol=1e-3, atol=1e-4 * size)
    assert parts.gap_rel < 0.02 and found.extras["t"].shape == found.ids.shape


def taped_loop(net, optimizer, tape, steps):
    x, y, _, _ = problem()
    for ids in shuffled()[steps]:
        tape.batch(ids)
        optimizer.zero_grad()
        loss_fn(net, (x[ids], y[ids])).mean().backward()
        optimizer.step()


def test_clipping_by_value_is_replayed(tmp_path):
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    options = {"queries": q, "groups": lambda ids, batch: ids, "verbose": False}
    with gk.record(net, optimizer, loss_fn, **options) as path, gk.tape(net, optimizer, tmp_path, every=5) as tape:
        for ids in shuffled():
            path.batch((x[ids], y[ids]), ids=ids)
            tape.batch(ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            nn.utils.clip_grad_value_(net.parameters(), 0.02)
            optimizer.step()
    assert path.stopped is None
    assert_same(path.contributions(), play(tmp_path, mlp(), x, y), 1e-9)


def test_a_tape_goes_on_where_it_was_saved_and_only_with_the_state_of_then(tmp_path):
    x, y, _, _ = problem()
    whole = mlp()
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    with gk.tape(whole, optimizer, tmp_path / "whole", every=5) as tape:
        taped_loop(whole, optimizer, tape, slice(None))
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with gk.tape(net, optimizer, tmp_path / "halves", every=5) as tape:
        taped_loop(net, optimizer, tape, slice(0, 7))
        tape.save()
        saved = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
        taped_loop(net, optimizer, tape, slice(7, 9))
        tape.batch(shuffled()[9])
        with pytest.raises(RecordingError, match="between two steps"):
            tape.save()
    net.load_state_dict(saved[0])
    without = torch.optim.Adam(net.parameters(), lr=0.01)
    with pytest.raises(InputError, match=r"those of step 7 .* and the optimizer's state is not"):
        gk.tape(net, without, tmp_path / "halves", every=5)
    without.load_state_dict(saved[1])
    with gk.tape(net, without, tmp_path / "halves", every=5) as tape:
        taped_loop(net, without, tape, slice(7, None))
    once, twice = (play(tmp_path / name, mlp(), x, y).per_sample()[1] for name in ("whole", "halves"))
    np.testing.assert_allclose(once, twice, rtol=1e-9, atol=1e-12)
    other = mlp(seed=5)
    with pytest.raises(InputError, match="steps 0, 5, 7, 12"):
        gk.tape(other, torch.optim.Adam(other.parameters()), tmp_path / "halves", every=5)


def test_replays_that_cannot_be_say_why(tmp_path):
    x, y, _, q = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with gk.tape(net, optimizer, tmp_path, every=5) as tape:
        taped_loop(net, optimizer, tape, slice(None))
    with pytest.raises(InputError, match="a replay runs in the precision of the run"):
        play(tmp_path, mlp(torch.float32), x, y)
    with pytest.raises(InputError, match="made 5 samples of 6 ids"):
        gk.replay(tmp_path, net, lambda ids: (x[ids][1:], y[ids][1:]), loss_fn, queries=q, progress=False)
    for steps in (0, -1, 2.5):
        with pytest.raises(InputError, match="whole number from 1"):
            gk.tape(net, optimizer, tmp_path / "other", steps=steps)


def test_autocast_with_dropout_is_replayed(tmp_path):
    x, y, _, q = problem(torch.float32)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 24), nn.SiLU(), nn.Dropout(0.1), nn.Linear(24, 3))

    def loss(module, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return loss_fn(module, batch)

    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with gk.tape(net, optimizer, tmp_path, every=5) as tape:
        for ids in shuffled():
            tape.batch(ids)
            optimizer.zero_grad()
            loss(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    found = gk.replay(tmp_path, net, lambda ids: (x[ids], y[ids]), loss, queries=q, progress=False)
    assert found.contributions().gap_rel < 0.05


def test_a_state_that_was_lost_on_the_way_is_noticed(tmp_path):
    x, y, _, _ = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with gk.tape(net, optimizer, tmp_path, every=5) as tape:
        taped_loop(net, optimizer, tape, slice(0, 5))
        optimizer.state.clear()
        taped_loop(net, optimizer, tape, slice(5, None))
    with pytest.raises(RecordingError, match="momentum at step 5"):
        play(tmp_path, mlp(), x, y)


def test_gradients_clipped_in_every_entry_are_replayed(tmp_path):
    x, y, _, _ = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with gk.tape(net, optimizer, tmp_path, every=5) as tape:
        for ids in shuffled():
            tape.batch(ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            nn.utils.clip_grad_value_(net.parameters(), 1e-7)
            optimizer.step()
    assert play(tmp_path, mlp(), x, y).contributions().gap_rel < 1e-3


def test_a_tape_keeps_what_it_has_when_it_stops(tmp_path):
    x, y, _, _ = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with pytest.warns(RecordingWarning, match="NaN"), gk.tape(net, optimizer, tmp_path / "a", every=100) as tape:
        taped_loop(net, optimizer, tape, slice(0, 7))
        tape.batch(torch.arange(3))
        next(net.parameters()).grad[:] = float("nan")
        optimizer.step()
    assert play(tmp_path / "a", mlp(), x, y).copies == [0, 7]
    groups = [{"params": list(net[0].parameters())}, {"params": [*net[2].parameters(), *net[4].parameters()]}]
    with pytest.raises(InputError, match="other parameter groups"):
        gk.tape(net, torch.optim.SGD(groups, lr=0.01), tmp_path / "a", every=100)


def test_a_step_without_gradients_is_taped(tmp_path):
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with gk.tape(net, optimizer, tmp_path, every=100) as tape:
        tape.batch(torch.arange(3))
        optimizer.zero_grad()
        optimizer.step()
        taped_loop(net, optimizer, tape, slice(0, 3))
    assert tape.stopped is None and tape.step == 4


class Adapted(nn.Module):
    """A frozen layer with a low-rank one beside it."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.base = nn.Linear(2, 3).double()
        self.A = nn.Parameter(0.3 * torch.randn(2, 2, generator=draw, dtype=torch.float64))
        self.B = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.A @ self.B


def test_what_was_frozen_in_a_step_is_frozen_in_its_replay(tmp_path):
    x, y, _, _ = problem()
    net = Adapted()
    net.base.requires_grad_(False)
    with gk.tape(net, (optimizer := torch.optim.AdamW(net.parameters(), lr=1e-2)), tmp_path / "lora", every=3) as tape:
        taped_loop(net, optimizer, tape, slice(0, 6))
    model = Adapted()
    assert play(tmp_path / "lora", model, x, y).contributions().gap_rel < 1e-4
    assert all(p.requires_grad for p in model.parameters())

    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    with gk.tape(net, optimizer, tmp_path / "thawed", every=4) as tape:
        for step, ids in enumerate(shuffled()):
            net[0].requires_grad_(step >= 3)
            tape.batch(ids)
            optimizer.zero_grad()
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    assert play(tmp_path / "thawed", mlp(), x, y).contributions().gap_rel < 1e-3


def test_what_is_said_of_batches_is_alike_for_all(tmp_path):
    x, y, _, q = problem()
    net = mlp()
    with gk.tape(net, torch.optim.SGD(net.parameters(), lr=0.1), tmp_path / "crop", every=2) as tape:  # noqa: SIM117
        with pytest.raises(InputError, match="crop is one value for the batch, or one per sample"):
            tape.batch(torch.arange(6), crop=(3, 4))
    for extras, words in (
        (lambda k: {"t": k} if k < 3 else {}, "the same names and shapes"),
        (lambda k: {"t": k} if k < 3 else {"t": torch.zeros(6, 2)}, "the same names and shapes"),
    ):
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.warns(RecordingWarning, match=words), gk.tape(net, optimizer, folder, every=2) as tape:
            for step, ids in enumerate(shuffled()[:6]):
                ids = torch.arange(6) if len(ids) < 6 else ids
                tape.batch(ids, **extras(step))
                optimizer.zero_grad()
                loss_fn(net, (x[ids], y[ids])).mean().backward()
                optimizer.step()
    # a continued tape with other names
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for part in (0, 1):
        with gk.tape(net, optimizer, tmp_path / "continued", every=3) as tape:
            for ids in shuffled()[3 * part : 3 * part + 3]:
                tape.batch(ids, **({"t": 1} if part else {"s": 1, "level": 2}))
                optimizer.zero_grad()
                loss_fn(net, (x[ids], y[ids])).mean().backward()
                optimizer.step()
    with pytest.raises(InputError, match=r"says level, s of the batches of step 0, and t of others"):
        gk.replay(tmp_path / "continued", net, lambda ids, **_: (x[ids], y[ids]), loss_fn, queries=q, progress=False)


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("weights-00000004.safetensors", None, r"lacks weights-00000004\.safetensors"),
        ("steps-00000004.npz", b"PK\x03\x04 cut short", r"steps-00000004\.npz is damaged"),
        ("weights-00000004.safetensors", b"\x08\0\0\0\0\0\0\0{}", r"weights-00000004\.safetensors is damaged"),
    ],
)
def test_damaged_tapes_are_refused_in_words(tmp_path, name, bad, words):
    x, y, _, _ = problem()
    net = taped(tmp_path)
    (tmp_path / name).unlink() if bad is None else (tmp_path / name).write_bytes(bad)
    with pytest.raises((InputError, MissingError), match=words):
        play(tmp_path, net, x, y)


@pytest.mark.parametrize("keeps_the_sum", [True, False])
def test_samples_that_see_each_other_in_some_batches_only(tmp_path, keeps_the_sum):
    x, y, _, q = problem()

    def losses(module, batch):
        alone = loss_fn(module, batch[:2])
        other = alone.flip(0)
        return ((alone + other) / 2 if keeps_the_sum else alone * other.sqrt()) if bool(batch[2][0]) else alone

    def batch_of(ids, k):
        return x[ids], y[ids], torch.full((len(ids),), k < 6)

    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    one = {"queries": q, "rule": "gauss3"}
    with (
        gk.tape(net, optimizer, tmp_path, every=5) as tape,
        gk.record(net, optimizer, losses, groups=lambda ids, _: ids, verbose=False, windows=100, **one) as path,
    ):
        for k, ids in enumerate(shuffled()):
            tape.batch(ids, k=k)
            path.batch(batch_of(ids, k), ids=ids)
            optimizer.zero_grad()
            losses(net, batch_of(ids, k)).mean().backward()
            optimizer.step()
    found = gk.replay(tmp_path, net, batch_of, losses, progress=False, **one)
    recorded = path.contributions()
    parts = found.contributions(lambda ids, k: ids)
    for a, source in enumerate(parts.sources):
        expected = recorded.values[recorded.sources.index(source)]
        torch.testing.assert_close(parts.values[a], expected, rtol=1e-9, atol=1e-11)


def test_a_loop_that_fails_inside_of_a_step_leaves_the_copies_before_it(tmp_path):
    x, y, _, _ = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    plain, steps = optimizer._init_group, [0]

    def failing(*args: Any) -> Any:
        steps[0] += 1
        if steps[0] == 9:
            with torch.no_grad():
                net[0].weight.add_(1.0)
            raise RuntimeError("inside")
        return plain(*args)

    optimizer._init_group = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="inside"), gk.tape(net, optimizer, tmp_path, every=4) as tape:
        taped_loop(net, optimizer, tape, slice(None))
    found = play(tmp_path, mlp(), x, y)
    assert found.meta["steps"] == 8 and found.contributions().gap_rel < 1e-3


def test_a_frozen_parameter_whose_gradient_is_zero_is_frozen_in_the_replay(tmp_path):
    x, y, _, _ = problem()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with gk.tape(net, optimizer, tmp_path, every=4) as tape:
        for k, ids in enumerate(shuffled()):
            net[0].requires_grad_(k < 5)
            tape.batch(ids)
            optimizer.zero_grad(set_to_none=False)
            loss_fn(net, (x[ids], y[ids])).mean().backward()
            optimizer.step()
    assert play(tmp_path, mlp(), x, y).contributions().gap_rel < 1e-3


def test_a_finished_tape_without_its_end_is_not_whole(tmp_path):
    x, y, _, _ = problem()
    net = taped(tmp_path)
    last = sorted(tmp_path.glob("weights-*"))[-1]
    last.unlink()
    with pytest.raises(MissingError, match=f"lacks {last.name}"):
        play(tmp_path, net, x, y)
    (tmp_path / "tape.json").write_text("[]")
    with pytest.raises(InputError, match="is not a tape"):
        play(tmp_path, net, x, y)
