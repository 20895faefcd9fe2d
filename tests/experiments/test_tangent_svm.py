"""The study of linear machines on tangent features: the machines, and the whole of it on few points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.experiments.domingos import network
from genkernel.experiments.plane_networks import of_layers, tangent_kernel
from genkernel.experiments.plane_points import around_an_ellipse
from genkernel.experiments.registry import experiment
from genkernel.experiments.support_vectors import (
    WIDTHS,
    chosen_on_features,
    chosen_on_points,
    on_features,
    on_points,
)
from genkernel.experiments.tangent_svm import experiment as study
from genkernel.experiments.tangent_svm.setting import QUICK, TASKS, Setting
from genkernel.experiments.tangent_svm.task import (
    MACHINES,
    REST,
    TANGENT,
    UNTRAINED,
    UNTRAINED_REST,
    WRONG,
    answers,
)
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready
from genkernel.spectra.separability import PENALTIES

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(samples=24, fresh=20, width=4, steps=4, permuted_steps=6, seeds=2, folds=2, side=8)


def normal(*sizes: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(n, 5, generator=draw, dtype=torch.float64) + 1 for n in sizes]


def test_a_machine_on_products_is_the_machine_on_features() -> None:
    from sklearn.svm import SVC

    features, new = normal(40, 9)
    y = (features[:, 0] + 0.3 * features[:, 1] > 1.3).long()
    found = on_features((features @ features.T, new @ features.T), y)
    plain = SVC(kernel="linear", C=1.0).fit(features.numpy(), y.numpy())
    assert found.values == pytest.approx(plain.decision_function(new.numpy()), abs=5e-3)  # libsvm's tolerance
    assert found.constants == {"C": 1.0} and found.in_sample == plain.score(features.numpy(), y.numpy())
    rbf, usual = on_points(features, y, new), SVC(C=1.0).fit(features.numpy(), y.numpy())
    assert rbf.values == pytest.approx(usual.decision_function(new.numpy()), abs=5e-3)


def test_scaled_products_do_not_hang_on_their_size() -> None:
    features, new = normal(40, 9)
    y = (features[:, 0] > 1).long()
    own, cross = features @ features.T, new @ features.T
    found = [
        on_features((c * own + a, c * cross + a), y, 10.0, scaled=True).values for c, a in ((1, 0), (100, 0), (1, 50))
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-7) and found[2] == pytest.approx(found[0], abs=1e-7)
    hard = on_features((own, cross), y, 1e6, scaled=True, exact=True)
    assert hard.hard and hard.solved and hard.in_sample == 1
    assert not on_features((own, cross), y, 1e-3, scaled=True).hard


def test_constants_are_chosen_on_points_of_their_own() -> None:
    """The best on them, the smallest of several; the others are answered alike, whatever their labels."""
    x, y = around_an_ellipse(120, (0.5, 0.5), 0)
    check, known = around_an_ellipse(100, (0.5, 0.5), 1)
    new, answer = around_an_ellipse(200, (0.5, 0.5), 2)
    lifted = [torch.cat([p, p.square()], 1) for p in (x, torch.cat([check, new]))]
    products = lifted[0] @ lifted[0].T, lifted[1] @ lifted[0].T
    found = chosen_on_features(products, y, known)
    alone = [on_features(products, y, C, scaled=True) for C in PENALTIES]
    right = [int(((one.values[:100] > 0) == known.bool().numpy()).sum()) for one in alone]
    assert found.constants == {"C": PENALTIES[int(np.argmax(right))]} and found.at_edge == ()
    assert found.values == pytest.approx(alone[int(np.argmax(right))].values[100:]) and len(found.values) == 200
    rbf = chosen_on_points(x, y, torch.cat([check, new]), known)
    usual = 1 / (2 * float(x.var(correction=0)))
    assert any(rbf.constants["gamma"] == pytest.approx(usual * width) for width in WIDTHS)
    for one in (found, rbf):
        assert ((one.values > 0) == answer.bool().numpy()).mean() > 0.93


def test_choices_at_an_end_of_the_list_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.experiments import support_vectors

    x, y = around_an_ellipse(120, (0.5, 0.5), 0)
    check, known = around_an_ellipse(100, (0.5, 0.5), 1)
    lifted = [torch.cat([p, p.square()], 1) for p in (x, check)]
    products = lifted[0] @ lifted[0].T, lifted[1] @ lifted[0].T
    monkeypatch.setattr(support_vectors, "PENALTIES", (1e-3, 1e-2, 1e-1))
    assert chosen_on_features(products, y, known).at_edge == ("C",)
    monkeypatch.setattr(support_vectors, "PENALTIES", (10.0,))
    monkeypatch.setattr(support_vectors, "WIDTHS", (64.0, 256.0))
    assert "gamma" in chosen_on_points(x, y, check, known).at_edge


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


def test_the_penalties_of_the_quick_study_are_within_their_list() -> None:
    for axes in TASKS.values():
        found = answers(axes, QUICK, 0)
        linear = (TANGENT, UNTRAINED, REST, UNTRAINED_REST, WRONG)
        assert not any(edge for name in linear for edge in found.at_edge[name])
        assert all(min(PENALTIES) < c["C"] < max(PENALTIES) for name in linear for c in found.constants[name])
        assert all(all(found.solved[name]) for name in MACHINES)


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
