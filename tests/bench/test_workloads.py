"""The workloads are what they are said to be, and the naive float64 kernel is the reference's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genkernel.bench import WORKLOADS, networks, truth
from genkernel.bench.workloads import choose
from genkernel.errors import InputError
from genkernel.tangent import TangentModel, reference


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (networks.papers_cnn, 98_442),
        (networks.resnet18, 11_173_962),
        (networks.dcgan_generator, 3_576_704),
        (networks.ddpm_unet, 35_746_307),
        (networks.dit, 39_805_088),
    ],
)
def test_full_networks_have_their_size(build: object, count: int) -> None:
    with torch.device("meta"):
        net = build()  # type: ignore[operator]
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_naive_kernel_is_the_references(name: str) -> None:
    workload = WORKLOADS[name]
    before = torch.get_rng_state()
    problem = workload.problem(**workload.sizes(quick=True))
    assert torch.equal(torch.get_rng_state(), before)
    model = TangentModel(problem.module, call=problem.call)
    expected = reference.kernel(model, problem.batch, cotangents=problem.cotangents)
    found = truth.kernel(problem)
    assert truth.relative_error(found, expected) < 1e-10
    third = 8 * problem.n * len(problem.vectors) * problem.numel // 3
    in_groups = truth.kernel(problem, memory=third)
    assert truth.relative_error(in_groups, expected) < 1e-10
    gradients = reference.gradients(model, problem.batch, problem.cotangents)
    still = {p for p, g in gradients.items() if not g.any()}
    assert all("class_embedder" not in p or p.startswith("trans") for p in still)
    assert len(still) <= len(gradients) / 10  # the network is alive


def test_a_problem_is_the_same_every_time() -> None:
    one, two = (WORKLOADS["W3"].problem(**WORKLOADS["W3"].sizes(quick=True)) for _ in range(2))
    assert truth.digest(one) == truth.digest(two)
    other = WORKLOADS["W3"].problem(seed=1, **WORKLOADS["W3"].sizes(quick=True))
    assert truth.digest(one) != truth.digest(other)


def test_the_naive_kernel_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = WORKLOADS["W1"].problem(**WORKLOADS["W1"].sizes(quick=True))
    values, path = truth.stored(problem, tmp_path / "new")
    monkeypatch.setattr(truth, "kernel", None)
    again, same = truth.stored(problem, tmp_path / "new")
    assert torch.equal(values, again) and path == same


def test_error_figures() -> None:
    expected = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert truth.relative_error(expected * 1.01, expected) == pytest.approx(0.01)
    assert truth.relative_error(expected + torch.tensor([[0.0, 1.0], [1.0, 0.0]]), expected) == pytest.approx(0.4**0.5)
    assert truth.relative_error(expected * float("nan"), expected) == float("inf")


def test_choice_by_name() -> None:
    assert [w.name for w in choose(["W1"])] == ["W1", "W1-500"]
    assert [w.name for w in choose(["W1-500", "W2"])] == ["W1-500", "W2"]
    assert len(choose(None)) == len(WORKLOADS)
    with pytest.raises(InputError, match="no workload 'W9'"):
        choose(["W9"])
