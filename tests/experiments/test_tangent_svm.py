"""The study of linear machines on tangent features: the machines, and the whole of it on few points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.experiments.domingos import network
from genkernel.experiments.outcome import experiment
from genkernel.experiments.plane_networks import of_layers, tangent_kernel
from genkernel.experiments.plane_points import around_an_ellipse
from genkernel.experiments.support_vectors import on_features, on_points
from genkernel.experiments.tangent_svm import experiment as study
from genkernel.experiments.tangent_svm.outcome import _below
from genkernel.experiments.tangent_svm.setting import TASKS, Setting
from genkernel.experiments.tangent_svm.task import MACHINES
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(samples=24, fresh=20, width=4, steps=4, permuted_steps=6, seeds=2, folds=2, side=8)


def test_a_machine_on_products_is_the_machine_on_features() -> None:
    from sklearn.svm import SVC

    draw = torch.Generator().manual_seed(0)
    features, new = (torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (40, 9))
    y = (features[:, 0] + 0.3 * features[:, 1] > 0).long()
    found = on_features(features @ features.T, y, new @ features.T, None, 0)
    plain = SVC(kernel="linear", C=1.0).fit(features.numpy(), y.numpy())
    assert found.values == pytest.approx(plain.decision_function(new.numpy()), abs=2e-3)  # libsvm's tolerance
    assert found.constants == {"C": 1.0} and found.in_sample == plain.score(features.numpy(), y.numpy())
    scaled = [on_features(c * features @ features.T, y, c * new @ features.T, 3, 0).values for c in (1.0, 100.0)]
    assert scaled[0] == pytest.approx(scaled[1], abs=1e-9)  # a chosen penalty does not hang on the kernel's scale


def test_rbf_machines_choose_their_width() -> None:
    x, y = around_an_ellipse(120, (0.5, 0.5), 0)
    new, answer = around_an_ellipse(200, (0.5, 0.5), 1)
    usual, chosen = (on_points(x, y, new, folds, 0) for folds in (None, 4))
    assert usual.constants["gamma"] == pytest.approx(1 / (2 * float(x.var(correction=0))))
    assert chosen.constants["gamma"] / usual.constants["gamma"] in (0.25, 1.0, 4.0, 16.0, 64.0)
    assert ((chosen.values > 0) == answer.bool().numpy()).mean() > 0.85


def test_the_output_lies_in_the_span_of_the_last_layers_features() -> None:
    """Courtois et al., section 4.2: f = <φ, w> with the last layer's own weights, and no other feature needed."""
    import genkernel as gk

    net = network(6, nn.GELU, 0)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features = gk.tangent_features(net, x, cotangents=gk.total())[:, 0]
    weights = torch.cat([p.detach().flatten() for p in net.parameters()])
    weights[: -len(net[4].weight[0]) - 1] = 0
    assert torch.allclose(features @ weights, net(x)[:, 0].detach(), atol=1e-12)
    kernel = tangent_kernel(net, x)
    own = features[:, -7:]
    assert torch.allclose(of_layers(kernel, last=True), features @ features.T, atol=1e-10)
    assert torch.allclose(of_layers(kernel, last=False), features @ features.T - own @ own.T, atol=1e-10)


def test_the_two_regions_have_one_area() -> None:
    assert len({round(a * b, 12) for a, b in TASKS.values()}) == 1


def test_levels_are_held_against_intervals() -> None:
    low, high = np.array([0.010, 0.012, 0.011]), np.array([0.5, 0.52, 0.51])
    assert [_below(v, 0.1) for v in (low, high, np.array([0.0, 0.5]), low[:1])] == [True, False, None, None]


def test_the_whole_of_it() -> None:
    assert experiment("tangent-svm") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 9
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json_ready(found.numbers)
    for task in TASKS:
        machines = found.numbers[task]["machines"]
        assert tuple(machines) == MACHINES
        assert all(0 <= v <= 1 for one in machines.values() for each in one.values() for v in each)
        assert machines["the network itself"]["from_network"] == [0, 0]
        assert len(found.numbers[task]["training loss"][0]) == 2
    assert set(found.figures) == {"tangent-svm", "tangent-svm-areas"}
    assert to_bytes(found.figures["tangent-svm"], "png")[:4] == b"\x89PNG"
