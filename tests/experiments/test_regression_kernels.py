"""The experiment on kernels of functions of one variable, on small networks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from genkernel.experiments.fitting import fit
from genkernel.experiments.registry import experiment
from genkernel.experiments.regression_kernels import experiment as study
from genkernel.experiments.regression_kernels import outcome as results
from genkernel.experiments.regression_kernels import task
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = task.Setting(seeds=3, width=12, points=40, steps=60, distances=(0.1, 0.2, 1.0))


def test_each_wave_jumps_in_the_middle_of_a_plateau_of_the_other() -> None:
    eps = torch.tensor([-1e-6, 1e-6], dtype=torch.float64)
    for wave, places in task.PLACES.items():
        for place in places:
            left, right = task.TARGETS[wave](place + eps)
            assert left * right == -1
            reach = torch.linspace(-1.2, 1.2, 50, dtype=torch.float64)  # beyond half the largest distance
            assert len(task.TARGETS[task.OTHER[wave]](place + reach).unique()) == 1
    assert max(task.Setting().distances) / 2 <= 1.2
    x = task.inputs(200)
    assert len(x) == 200 and float(x.abs().min()) > 0 and float(x[-1]) == math.pi


def test_networks_trained_together_are_networks_trained_alone() -> None:
    x, y = task.inputs(20), task.TARGETS[task.SMOOTH](task.inputs(20))
    starts = task.networks(6, (3, 4))
    together = task.learn(starts, x, y, 25, 1e-2)
    for seed, net in zip((3, 4), together, strict=True):
        alone = task.networks(6, (seed,))[0]
        optimizer = torch.optim.Adam(alone.parameters(), lr=1e-2)
        fit(alone, x[:, None], y[:, None], lambda out, to: (out - to).square().mean(), optimizer, 25)
        for a, b in zip(net.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_similarity_is_the_cosine_of_the_gradients_written_out() -> None:
    """Of Σ v_j tanh(w_j x + b_j) + c: tanh, v (1 - tanh²) x, v (1 - tanh²) and 1."""
    net = task.networks(5, (0,))[0]
    x = torch.tensor([-1.3, 0.4, 2.0], dtype=torch.float64)
    w, b, v = net[0].weight[:, 0], net[0].bias, net[2].weight[0]
    h = torch.tanh(x[:, None] * w + b)
    slope = v * (1 - h.square())
    phi = torch.cat([h, slope * x[:, None], slope, torch.ones(3, 1, dtype=torch.float64)], 1).detach()
    phi = phi / phi.norm(dim=1, keepdim=True)
    assert torch.allclose(task.similarities(net, x), phi @ phi.T, atol=1e-12)
    centre = (x[:1] + x[1:2]) / 2
    assert float(task.across(net, centre, float(x[1] - x[0]))[0]) == pytest.approx(float(phi[0] @ phi[1]), abs=1e-12)


def test_verdicts_follow_the_intervals() -> None:
    low, high, wide = np.array([0.1, 0.11, 0.12]), np.array([0.95, 0.96, 0.95]), np.array([0.2, 0.9, 0.6])
    assert results._far({"a": low}, {"a": high}) == "yes"
    assert results._far({"a": high}, {"a": high}) == "partly"  # farther than on a plateau, and still similar
    assert results._far({"a": high}, {"a": -high}) == "no" and results._far({"a": wide}, {"a": -high}) == "no"
    assert results._far({"a": wide}, {"a": high}) == "partly" and results._far({"a": wide}, {"a": wide}) == "undecided"


def test_the_whole_of_it() -> None:
    assert experiment("regression-kernels") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY, seed=5)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 5
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json.dumps(json_ready(found.numbers))
    assert set(found.figures) == {"regression-kernels", "regression-kernels-profiles"}
    for figure in found.figures.values():
        assert to_bytes(figure, "png")[:4] == b"\x89PNG"
    again = study.run(progress=False, setting=TINY, seed=5)
    assert json_ready(again.numbers) == json_ready(found.numbers)
