"""The experiment on denoisers beside GANs, on few points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.experiments.contrast import coupling, models
from genkernel.experiments.contrast import experiment as study
from genkernel.experiments.contrast import outcome as read
from genkernel.experiments.contrast.setting import GAN, MODES, RECORDINGS, STEPPED, Setting
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(seeds=1, blocks=4, steps=8, batch=24, width=8, told_width=6, queries=1, judged=2, once=48)


def test_kappa_is_zero_for_separate_blocks_and_one_where_blocks_do_not_matter() -> None:
    mass = np.array([0.1, 0.2, 0.3, 0.4])
    assert coupling.coupling(np.eye(4), range(4), mass) == pytest.approx(np.zeros(4))
    assert coupling.coupling(np.tile(mass, (4, 1)), range(4), mass) == pytest.approx(np.ones(4))
    assert (coupling.coupling(1 - np.eye(4), range(4), mass) > 1).all()
    # beside the last block of a ring is the first
    beside = np.roll(np.eye(4), 1, axis=1)
    assert coupling.coupling(beside, range(4), mass, reach=1, ring=True) == pytest.approx(np.zeros(4))
    assert coupling.coupling(beside, range(4), mass, reach=1)[3] > 1


class _PerBlock(nn.Module):
    """One number per block, or one for all, as two outputs."""

    def __init__(self, blocks: int, shared: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1 if shared else blocks))

    def forward(self, block: Tensor) -> Tensor:
        w = self.weight.expand(4) if len(self.weight) == 1 else self.weight
        return torch.stack([w[block[:, 0].long()], 2 * w[block[:, 0].long()]], 1)


@pytest.mark.parametrize(("shared", "wanted"), [(False, 0.0), (True, 1.0)])
def test_recordings_of_known_coupling(shared: bool, wanted: float) -> None:
    """Parameters of their own: nothing crosses. One parameter and equal gradients: all blocks act on all alike."""
    network = _PerBlock(4, shared)
    everyone = torch.arange(4.0).repeat(3)[:, None]

    def losses(module: nn.Module, batch: Tensor) -> Tensor:
        return (module(batch) - 1).square().mean(1)

    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def advance(_: int, announce: Any) -> None:
        announce(everyone)
        optimizer.zero_grad()
        losses(network, everyone).mean().backward()
        optimizer.step()

    model = models.Model(network, optimizer, losses, advance, lambda n, key: everyone, [])
    queries = torch.arange(4.0)[:, None, None].expand(4, 2, 1)
    blocks = coupling.Blocks(4, lambda batch: batch[:, 0].long(), queries, range(4), ring=False)
    single = coupling.one_step(model, blocks, everyone)
    assert single.kappa() == pytest.approx(wanted, abs=1e-6) and float(network.weight.detach().abs().max()) == 0
    for adam, parts in ((False, 3), (False, 12)):  # blocks of one sample each, and whole rounds: all the same
        several = coupling.one_step(model, blocks, everyone, adam=adam, parts=parts)
        assert several.kappa() == pytest.approx(wanted, abs=1e-3) and several.mass.tolist() == [0.25] * 4
    for found in coupling.recorded(model, blocks, 10):
        assert found.kappa() == pytest.approx(wanted, abs=1e-6)
        assert found.mass.tolist() == [0.25] * 4
        assert found.own_signed() == pytest.approx(0.25 if shared else 1.0, abs=1e-5)
        assert found.gap < 1e-5


def test_sectors_are_equally_likely_and_queries_are_of_their_blocks() -> None:
    z = models.latents(8000, 1)
    label = models.sector(z, 8)
    assert np.allclose(np.bincount(label, minlength=8) / 8000, 1 / 8, atol=0.02)
    turn = torch.tensor([[1.0, 0.1], [-1.0, 0.1], [-1.0, -0.1], [1.0, -0.1]])
    assert models.sector(turn, 4).tolist() == [0, 1, 2, 3]
    picked, present = models.chosen(torch.tensor([2, 0, 2, 0, 1, 2]), 4, 2)
    assert picked.tolist() == [1, 3, 0, 2] and present == [0, 2]


def test_all_models_start_alike_and_the_judge_alone_learns() -> None:
    trained, training = models.gan(TINY, 5)
    before = [p.detach().clone() for p in trained.module.parameters()]
    ready = models.judged(TINY, 5)
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(before, ready.module.parameters(), strict=True))
    judge = next(iter(ready.others[0].parameters()))
    assert not torch.allclose(judge, next(iter(training.discriminator.parameters())))
    training.step(0)
    assert not torch.allclose(before[0], next(iter(trained.module.parameters())))
    copy = models.regression(TINY, 5, trained.module)
    assert all(torch.equal(a, b) for a, b in zip(before, copy.module.parameters(), strict=True))
    batch = copy.draw(7, 1)
    assert torch.equal(batch["y"], trained.module(batch["z"]).detach())
    denoiser, _ = models.diffusion(TINY, 5)
    seen = denoiser.draw(500, 2)
    assert float((seen["clean"].norm(dim=1) - 2).abs().max()) < 1.0  # around the circle of the modes


def test_both_networks_have_about_as_many_parameters() -> None:
    full = Setting()
    sizes = [
        sum(p.numel() for p in model.module.parameters())
        for model in (models.gan(full, 0)[0], models.diffusion(full, 0)[0])
    ]
    assert abs(sizes[1] / sizes[0] - 1) < 0.05


def test_verdicts_follow_the_intervals() -> None:
    def about(value: float) -> np.ndarray:
        return value + np.array([-0.01, 0.0, 0.01])

    cases = ((0.2,), (0.01,), (-0.2, 0.01), (0.2, 0.01), (0.05, 0.01), (0.05,))
    verdicts = [read.larger(*map(about, case)) for case in cases]
    assert verdicts == ["yes", "no", "no", "partly", "no", "undecided"]  # what is surely above zero can be too small
    assert read.larger(about(0.2)[:1]) == "undecided"


def test_the_whole_of_it() -> None:
    assert experiment("contrast") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 12 and found.claims[-1].holds == "yes"  # contributions add up
    assert {claim.holds for claim in found.claims[:-1]} == {"undecided"}  # one seed has no error
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert len(found.tables[0].rows) == len(RECORDINGS)
    numbers = json_ready(found.numbers)
    assert sum(numbers["masses"][f"{GAN}, {MODES}"]) == pytest.approx(1)
    kappa = numbers["kappa"]
    assert all(np.isfinite(kappa[f"{model}, {blocks}"]["gross, start"]).all() for model, blocks in RECORDINGS)
    for model, blocks in STEPPED:
        taken = [kappa[f"{model}, {blocks}"][f"gross, {when}, Adam"] for when in ("start", "end")]
        assert np.isfinite(taken).all() and taken[1] != kappa[f"{model}, {blocks}"]["gross, end"]
    assert set(found.figures) == {"contrast", "contrast-maps"}
    for figure in found.figures.values():
        assert to_bytes(figure, "png")[:4] == b"\x89PNG"
