"""Recorded contributions against their definition, for every optimizer and every kind of loop."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import nn

import genkernel as gk
from genkernel.paths.quadrature import MISSED
from genkernel.paths.queries import Queries
from tests.paths.runs import train

SGD, RMS, Adam, AdamW, Adagrad = (
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adagrad,
)
CONFIGURATIONS = {
    "sgd": partial(SGD, lr=0.1),
    "sgd, decay": partial(SGD, lr=0.1, weight_decay=0.1),
    "momentum": partial(SGD, lr=0.05, momentum=0.8),
    "momentum, dampening, decay": partial(SGD, lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.1),
    "nesterov, decay": partial(SGD, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.05),
    "sgd, maximize, decay": partial(SGD, lr=0.02, momentum=0.5, maximize=True, weight_decay=0.1),
    "rmsprop": partial(RMS, lr=0.001),
    "rmsprop, centered, decay": partial(RMS, lr=0.001, centered=True, weight_decay=0.1),
    "rmsprop, momentum": partial(RMS, lr=0.0005, momentum=0.7),
    "rmsprop, maximize": partial(RMS, lr=0.0005, momentum=0.7, centered=True, maximize=True, weight_decay=0.1),
    "adam": partial(Adam, lr=0.02),
    "adam, amsgrad, decay": partial(Adam, lr=0.02, amsgrad=True, weight_decay=0.1),
    "adam, maximize": partial(Adam, lr=0.01, maximize=True, weight_decay=0.1),
    "adamw": partial(AdamW, lr=0.02, weight_decay=0.2),
    "adamw, amsgrad": partial(AdamW, lr=0.02, weight_decay=0.2, amsgrad=True),
    "adagrad": partial(Adagrad, lr=0.01, lr_decay=0.05, weight_decay=0.05),
}


# decay is added after clipping where it is coupled, and passes through momentum and preconditioner
CLIPPED = (
    "momentum, dampening, decay",
    "sgd, maximize, decay",
    "rmsprop, centered, decay",
    "adam, amsgrad, decay",
    "adamw",
)
CASES = [(name, None) for name in CONFIGURATIONS] + [(name, 0.05) for name in CLIPPED]


@pytest.mark.parametrize("name, clip", CASES, ids=str)
def test_every_optimizer_is_decomposed_as_the_definition_says(name, clip):
    path, tape, q = train(CONFIGURATIONS[name], clip=clip, cosine=True, rule="gauss4")
    parts = path.contributions()
    expected = tape.contributions(lambda module, x: module(x), q)
    assert set(parts.sources) == {a for a, c in expected.items() if bool(c.any())}
    for a, source in enumerate(parts.sources):
        torch.testing.assert_close(parts.values[a], expected[source], rtol=1e-9, atol=1e-12)
    assert parts.gap_rel < 1e-11
    assert parts.meta["step_error"] < 1e-14


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_rules_converge_at_their_order(name):
    gaps = {}
    for rule in ("left", "trapezoid", "midpoint"):
        halvings = [
            train(CONFIGURATIONS[name], lr_scale=0.5**k, repeat=2**k, rule=rule, naive=False)[0].contributions().gap_abs
            for k in (1, 2)
        ]
        gaps[rule] = halvings
        ratios = [a / b for a, b in itertools.pairwise(halvings)]
        low, high = (1.6, 2.6) if rule == "left" else (3.0, 5.5)
        assert all(low < r < high for r in ratios), (rule, ratios)
    assert 1.6 < gaps["trapezoid"][-1] / gaps["midpoint"][-1] < 2.5  # the midpoint's constant is half as large


def test_a_linear_model_is_exact_with_the_left_rule():
    net = nn.Linear(2, 3).double()
    x, y = torch.randn(12, 2).double(), torch.randn(12, 3).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    with gk.record(
        net, optimizer, lambda m, b: (m(b[0]) - b[1]).square().sum(1), queries=x, rule="left", verbose=False
    ) as path:
        for _ in range(10):
            path.batch((x, y))
            optimizer.zero_grad()
            (net(x) - y).square().sum(1).mean().backward()
            optimizer.step()
    assert path.contributions().gap_abs < 1e-13


def test_the_adaptive_rule_refines_the_steps_that_the_midpoint_misses():
    coarse = {"lr_scale": 3.0, "naive": False, "windows": range(12)}
    plain, parts, exact = (
        train(CONFIGURATIONS["adam"], rule=rule, **coarse)[0].contributions()
        for rule in ("midpoint", "adaptive", "gauss8")
    )

    def missed(found):  # in every step
        change = (found.outputs[1:] - found.outputs[:-1]).norm(dim=2).max(1).values
        return (found.gap_by_window.max(1).values / change).max()

    assert missed(plain) > MISSED >= missed(parts)
    assert 12 < parts.meta["evaluations"] < 48  # of 12 steps, not all with four nodes
    assert float((parts.values - exact.values).abs().max()) < 0.2 * float((plain.values - exact.values).abs().max())
    calm = train(CONFIGURATIONS["adam"], rule="adaptive", lr_scale=0.05, naive=False)[0].contributions()
    assert calm.meta["evaluations"] == calm.meta["steps"]


@pytest.mark.parametrize("layers", [False, True])
def test_the_adaptive_rule_chooses_alike_from_rows_and_from_directions(monkeypatch, layers):
    found = []
    for rows in (False, True):
        monkeypatch.setattr(Queries, "rows_pay", lambda self, count, rows=rows: rows)
        path = train(CONFIGURATIONS["adamw"], rule="adaptive", lr_scale=3.0, naive=False, layers=layers)[0]
        found.append(path.contributions())
    one, other = found
    assert 12 < one.meta["evaluations"] == other.meta["evaluations"]
    torch.testing.assert_close(one.net, other.net, rtol=1e-9, atol=1e-12)
