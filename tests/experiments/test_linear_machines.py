"""Machines that are linear in their weights, on few points."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.errors import InputError
from genkernel.experiments.linear_machines import experiment as study
from genkernel.experiments.linear_machines import task
from genkernel.experiments.linear_machines.outcome import _last_layer_claims
from genkernel.experiments.linear_machines.setting import Setting
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(
    seeds=2, inputs=3, samples=12, queries=4, hidden=4, speeds=(1.25, 0.2, 0.1), horizon=0.5, points=60, width=3,
    steps=60,
)  # fmt: skip


def test_the_recorded_gap_is_that_of_the_sum_over_kernels() -> None:
    """Gradient descent by hand: f_N - f_0 + η/n Σ_k Σ_i K(x, x_i) r_i, with K at the start of every step."""
    x, y, fresh = task.regression(TINY, 0)
    for name in ("linear, bias", "two linear layers"):
        net = task.machine(name, 3, 4, 0)
        with torch.no_grad():
            first = net(fresh)[:, 0].clone()
        total, rate = torch.zeros(len(fresh), dtype=torch.float64), 0.3
        for _ in range(7):
            phi, new = (gk.tangent_features(net, points)[:, 0] for points in (x, fresh))
            r = (net(x) - y)[:, 0].detach()
            total -= rate / len(x) * (new @ phi.T) @ r
            g = torch.autograd.grad(task.losses(net, (x, y)).mean(), list(net.parameters()))
            with torch.no_grad():
                for p, part in zip(net.parameters(), g, strict=True):
                    p -= rate * part
        change = net(fresh)[:, 0].detach() - first
        missed = float((change - total).norm() / change.norm())
        found = task.gap(task.machine(name, 3, 4, 0), rate, 7, "gradient descent", (x, y, fresh), 0)
        assert found == pytest.approx(missed, rel=1e-6, abs=1e-14)
        assert (missed < 1e-13) == (name == "linear, bias")


def test_a_network_is_a_linear_function_of_its_features_and_relu_networks_of_those_of_every_layer() -> None:
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in task.NETWORKS:
        net = task.classifier(name, 3, 4, 1)
        phi, out = gk.tangent_features(net, x)[:, 0], net(x)[:, 0].detach()
        assert torch.allclose(phi @ task.own_weights(net), out, atol=1e-14)
    weights = torch.cat([p.detach().flatten() for p in net.parameters()])  # no biases: Euler, layer by layer
    begin = 0
    for p in net.parameters():
        block = slice(begin, begin + p.numel())
        assert torch.allclose(phi[:, block] @ weights[block], out, atol=1e-14)
        begin += p.numel()
    with pytest.raises(InputError, match="a network is one of"):
        task.classifier("sigmoid", 3, 4, 1)


def test_distances_from_a_span_are_those_of_geometry() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    out = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert task.outside(out, features) == pytest.approx(0.8)
    assert task.outside(out, features, intercept=True) < 1e-15
    assert task.outside(features[:, 0], features) < 1e-15
    assert task.outside(out, torch.zeros(3, 2)) == 1 and task.outside(0 * out, features) == 0


def test_separable_is_what_a_hyperplane_can_do() -> None:
    square = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    exclusive, both = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 0])
    assert not task.separable(square, exclusive) and task.separable(square, both)
    products = torch.cat([square, square.prod(1, keepdim=True)], 1)
    assert task.separable(products, exclusive)


def test_one_sine_is_right_everywhere_and_needs_its_last_layer() -> None:
    net, x, y = task.one_sine()
    assert torch.equal(y, ((3 * x[:, 0]).sin() > 0).long()) and 0 < int(y.sum()) < len(y)
    phi = gk.tangent_features(net, x)[:, 0]
    expected = torch.stack([x[:, 0] * (3 * x[:, 0]).cos(), (3 * x[:, 0]).cos()], 1)
    assert torch.allclose(phi[:, ~task.of_the_last_layer(net)], expected, atol=1e-12)
    assert task.separable(phi, y) and not task.separable(expected, y)


def test_what_is_due_to_the_training_is_decided_for_every_kind_of_network() -> None:
    """Where features were separable before, training added nothing; no mean over kinds of networks overrides that."""

    def found(**separable: list[float]) -> dict[str, Any]:
        return {
            name: {
                key: np.array(separable[name.replace(", no biases", "0")] if key == "separable" else [1.0, 1, 1, 1])
                for key in (
                    "accuracy", "identity", "right", "outside", "outside, intercept", "separable", "separable, rest",
                    "separable, permuted",
                )
            }
            for name in task.NETWORKS
        }  # fmt: skip

    ones, none, some = [1.0] * 4, [0.0] * 4, [1.0, 0, 1, 0]
    made = {"all": True, "without": False}

    def holds(untrained: dict[str, Any], trained: dict[str, Any]) -> str:
        return _last_layer_claims({"untrained": untrained, "trained": trained}, made)[-1].holds

    after = found(GELU=ones, tanh=ones, ReLU=ones, ReLU0=ones)
    assert holds(found(GELU=none, tanh=none, ReLU=none, ReLU0=none), after) == "yes"
    assert holds(found(GELU=ones, tanh=ones, ReLU=ones, ReLU0=none), after) == "partly"
    assert holds(found(GELU=ones, tanh=ones, ReLU=some, ReLU0=some), after) == "no"
    assert holds(found(GELU=some, tanh=some, ReLU=some, ReLU0=some), after) == "undecided"


def test_the_whole_of_it() -> None:
    assert experiment("linear-machines") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    holds = [claim.holds for claim in found.claims]
    assert len(holds) == 10 and holds[0] == holds[1] == holds[3] == holds[5] == "yes"
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    for name in task.LINEAR:
        assert max(max(row) for row in found.numbers["gaps"][name]) < 1e-13
    assert not math.isnan(found.numbers["kernels"][0]["linear, bias"]["off"])
    json.dumps(json_ready(found.numbers))
    assert to_bytes(found.figures["linear-machines"], "png")[:4] == b"\x89PNG"
