"""The experiment on invariances, on few samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.experiments.invariances import experiment as study
from genkernel.experiments.invariances import networks as nets
from genkernel.experiments.invariances import outcome as results
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = study.Setting(
    seeds=2, samples=3, moves=2, trained=32, tested=20, steps=2, augmented_steps=2, starts=(1, 4, 16), replicates=3
)  # fmt: skip


@pytest.mark.parametrize("name", nets.CASES)
def test_kernels_are_invariant_where_it_is_said_and_only_there(name: str) -> None:
    case = nets.CASES[name]
    x, _ = study.task(case, 3, 0, 1)
    found = study.deviation(nets.build(case, 0), x, nets.transformations(case.symmetry, 3, 0, case.step))
    assert (found.one <= 1e-12) == case.exact and (found.both <= 1e-12) == case.both


def test_deviations_are_those_of_the_kernel() -> None:
    case = nets.CASES[nets.ZEROS]
    net, move = nets.build(case, 1), nets.shifted(1, 2)
    x, _ = nets.patterns(4, 0, 1)
    K, one, both = (
        gk.kernel(net, a, b, cotangents=gk.exact_trace(), progress=False, distributed=False).values
        for a, b in ((x, x), (move(x), x), (move(x), move(x)))
    )
    found = study.deviation(net, x, [move])
    assert found.one == pytest.approx(float((one - K).norm() / K.norm()), rel=1e-9)
    assert found.both == pytest.approx(float((both - K).norm() / K.norm()), rel=1e-9)


def test_the_dense_kernel_written_out_is_that_of_the_engine() -> None:
    net = nets.build(nets.CASES[nets.DENSE], 2)
    x, _ = nets.patterns(3, 0, 1)
    y, _ = nets.patterns(2, 0, 2)
    K = gk.kernel(net, x, y, cotangents=gk.exact_trace(), progress=False, distributed=False).values
    assert torch.allclose(study.dense_kernels([list(net.parameters())], x, y)[0], K, rtol=1e-10)


def test_shifts_are_a_group_and_transformations_are_not_the_identity() -> None:
    x, _ = nets.patterns(2, 0, 1)
    group = nets.every_shift()
    assert len(group) == 64 and torch.equal(group[0](x), x)
    assert torch.equal(nets.shifted(3, 5)(nets.shifted(5, 3)(x)), x)
    tokens, _ = nets.sets(2, 0)
    for symmetry, samples in ((nets.SHIFTS, x), (nets.PERMUTATIONS, tokens), (nets.REFLECTION, x)):
        for move in nets.transformations(symmetry, 5, 3):
            assert not torch.equal(move(samples), samples)
            assert torch.equal(move(samples).flatten(1).sort(1).values, samples.flatten(1).sort(1).values)
    assert torch.equal(nets.reflected(nets.reflected(x)), x)


def test_tasks_show_one_place_and_one_order() -> None:
    x, y = nets.patterns(400, 0, 1)
    outside = torch.ones(nets.SIDE, nets.SIDE, dtype=torch.bool)
    outside[2:5, 2:5] = False
    assert float(x[:, 0, outside].std()) == pytest.approx(0.2, abs=0.01)
    assert torch.bincount(y).tolist() == [100] * 4
    tokens, classes = nets.sets(50, 0)
    assert (tokens[:, 1:, 0] >= tokens[:, :-1, 0]).all()
    assert torch.equal(classes, tokens.square().mean(1).argmax(1))


def test_verdicts() -> None:
    small, large, wide = np.array([0.01, 0.02, 0.015]), np.array([0.5, 0.6, 0.55]), np.array([0.0, 0.2, 0.1])
    cases = ({"a": small}, {"a": large}, {"a": small, "b": large}, {"a": wide}, {"a": small[:1]})
    assert [results._below(case, 0.1) for case in cases] == ["yes", "no", "partly", "undecided", "undecided"]
    root, flat = [-0.5, -0.51, -0.49], [0.0, 0.01, -0.01]
    assert results._falls({"both": root, "one": flat}) == "yes"
    assert results._falls({"both": flat, "one": flat}) == "partly"
    assert results._falls({"both": flat, "one": root}) == "no"
    assert results._tiny(0.0) == "0" and results._size([0.0, 2e-16]) == "2e-16"


def test_the_whole_of_it() -> None:
    assert experiment("invariances") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY, seed=4)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 10
    assert [found.claims[i].holds for i in (0, 1, 3)] == ["yes"] * 3  # identities, whatever the training
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json.dumps(json_ready(found.numbers))
    assert to_bytes(found.figures["invariances"], "png")[:4] == b"\x89PNG"
