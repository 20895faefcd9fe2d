"""The study of neighbours: networks side by side, what is read from courses, and the whole of it on few points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.experiments.domingos import network
from genkernel.experiments.fitting import fit
from genkernel.experiments.learning_rates import lowest
from genkernel.experiments.neighbours import experiment as study
from genkernel.experiments.neighbours.measures import at_level, detour, mean_over_steps
from genkernel.experiments.neighbours.setting import ANCHORS, OPTIMIZERS, PARTNERS, Setting
from genkernel.experiments.neighbours.training import Task, euclidean_nearest, optimizer_of, seen
from genkernel.experiments.plane_maps import outputs_on, square
from genkernel.experiments.registry import experiment
from genkernel.experiments.side_by_side import SideBySide, logistic, squared, summed
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(
    samples=40, width=6, batch=10, steps=4, moments=(0, 4), neighbours=10, seeds=2, tuning_seeds=1,
    losses=("squared",), levels=(0.9,),
)  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_networks_side_by_side_train_as_if_alone(optimizer: str) -> None:
    task = Task.drawn(30, (3, 4, 5))
    stack = SideBySide([network(6, nn.GELU, seed) for seed in task.seeds])
    fit(stack, task.x, task.y, summed(squared), optimizer_of(optimizer, stack.parameters(), 0.01), 8, batch=7, seed=1)
    for r, found in enumerate(stack.networks()):
        alone = network(6, nn.GELU, task.seeds[r])
        fit(
            alone, task.x[:, r], task.y[:, r], lambda out, y: (out[:, 0] - y).square().mean(),
            optimizer_of(optimizer, alone.parameters(), 0.01), 8, batch=7, seed=1,
        )  # fmt: skip
        for a, b in zip(found.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-12)


def test_networks_side_by_side_are_of_one_shape_and_are_copied() -> None:
    nets = [network(4, nn.Tanh, seed) for seed in (0, 1)]
    stack = SideBySide(nets)
    x = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = torch.cat([net(x[:, r]) for r, net in enumerate(nets)], 1)
    assert torch.allclose(stack(x), apart, atol=1e-14)
    with torch.no_grad():
        stack.weights[0].zero_()
    first, second = (one.get_parameter("0.weight").detach().abs().max() for one in (nets[0], stack.networks()[1]))
    assert float(first) > 0 and float(second) == 0
    with pytest.raises(InputError):
        SideBySide([nets[0], network(5, nn.Tanh, 0)])
    with pytest.raises(InputError):
        SideBySide([])


def test_losses_are_those_of_labels_of_two_signs() -> None:
    out, y = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    assert squared(out, y).tolist() == [[1, 4]]
    assert torch.allclose(logistic(out, y), torch.log1p(torch.exp(-y * out)))
    assert torch.allclose(summed(squared)(out, y), torch.tensor(5.0))


def test_the_search_for_a_rate_ends_where_both_sides_are_worse() -> None:
    rates = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    asked: list[float] = []

    def value(rate: float) -> float:
        asked.append(rate)
        return abs(np.log(rate / 3.0)) if rate < 20 else float("inf")

    best, found = lowest(rates, 0.3, value)
    assert best == 3.0 and list(found) == [0.1, 0.3, 1.0, 3.0, 10.0] and sorted(asked) == list(found)
    assert lowest(rates, 30.0, value)[0] == 3.0 and lowest(rates, 0.1, lambda rate: rate)[0] == 0.1


def test_means_over_steps_are_areas() -> None:
    moments = (0, 1, 3, 10)
    assert mean_over_steps([2.0, 2, 2, 2], moments) == pytest.approx(2)
    assert mean_over_steps(np.array([[0.0, 1, 3, 10]]), moments)[0] == pytest.approx(5)  # a straight line
    early, late = mean_over_steps([[0.0, 1, 1, 1], [0.0, 0, 0, 1]], moments)
    assert early > late


def test_values_at_a_loss_are_between_the_moments_around_it() -> None:
    loss, values = np.array([[1.0, 0.1, 0.01], [1.0, 0.9, 0.8]]), np.array([[0.0, 1, 2], [0.0, 1, 2]])
    found = at_level(loss, values, 10**-1.5)
    assert found[0] == pytest.approx(1.5) and np.isnan(found[1])
    assert at_level(loss, values, 1.0).tolist() == [0, 0]
    again = at_level(np.array([[1.0, 0.1, 0.5, 0.05]]), np.array([[0.0, 1, 2, 3]]), 0.1)
    assert again[0] == pytest.approx(1)  # the first time


def test_detours_are_twice_what_is_taken_back() -> None:
    assert detour([0.9, 0.5, 0.1]) == 0
    assert detour([0.9, 0.2, 0.5, 0.1]) == pytest.approx(0.6)
    assert detour(np.zeros((2, 3, 4))).shape == (2, 3)


def test_what_is_seen_of_a_network_is_what_its_features_say() -> None:
    task = Task.drawn(40, (0,))
    net = network(8, nn.GELU, 0)
    row = seen(net, task, 0, TINY, ends=True)
    x, labels = task.x[:, 0], task.y[:, 0] > 0

    def feature(point: tuple[float, float]) -> torch.Tensor:
        value = net(torch.tensor([point], dtype=torch.float64))[0, 0]
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(net.parameters()))])

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    start = feature((1.0, 0.0))
    expected = [cosine(start, feature(place)) for place, _ in PARTNERS.values()]
    assert row.pairs == pytest.approx(expected, abs=1e-10) and row.pairs[0] == pytest.approx(1)
    for a, (place, label) in enumerate(ANCHORS.values()):
        own = feature(place)
        cosines = [cosine(own, feature((float(p), float(q)))) for p, q in x]
        near = np.argsort(cosines)[-10:].copy()
        assert set(row.nearest[a]) == set(near)
        assert row.anchored[a] == pytest.approx(float((labels[near] == bool(label)).double().mean()))
    assert set(row.extra) == {"fresh", "without last layer", "Euclidean", "Euclidean, fresh"}
    assert len(row.regions) == 70 * 70


def test_nearest_in_distance_and_cells_of_a_square() -> None:
    x = Task.drawn(40, (0,)).x[:, 0]
    near = euclidean_nearest(x, 5)
    for row, (place, _) in zip(near, ANCHORS.values(), strict=True):
        distance = (x - torch.tensor(place)).norm(dim=1)
        assert float(distance[row].max()) <= float(distance.sort().values[4]) + 1e-12
    cells = square(2.0, 4)
    assert cells[0].tolist() == [-1.5, -1.5] and cells[1].tolist() == [-0.5, -1.5] and cells[-1].tolist() == [1.5, 1.5]
    assert float((square(1.0, 200).norm(dim=1) < 0.5).double().mean()) == pytest.approx(np.pi / 16, abs=2e-3)
    net = network(4, nn.GELU, 0)
    assert outputs_on(net, cells) == pytest.approx(net(cells)[:, 0].detach().numpy())


def test_the_whole_of_it() -> None:
    assert experiment("neighbours") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 12
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json_ready(found.numbers)
    assert set(found.numbers["courses"]) == {f"{loss}, {o}" for loss in TINY.losses for o in OPTIMIZERS}
    purity = found.numbers["courses"]["squared, Adam"]["purity"]
    assert np.shape(purity) == (2, 2) and found.numbers["chance"] == pytest.approx(19 / 39)
    starts = [c["pairs"][0][0] for c in found.numbers["courses"].values()]
    assert all(np.allclose(one, starts[0]) for one in starts)  # all optimizers start from the same networks
    assert set(found.figures) == {"neighbours", "neighbours-optimizers", "neighbours-pairs", "neighbours-course"}
    assert to_bytes(found.figures["neighbours-pairs"], "png")[:4] == b"\x89PNG"
