"""Trainings many at a time, what is compared with contributions, and the comparison as a whole on a small case."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import cross_entropy

from genkernel.data import ImageSet
from genkernel.errors import InputError
from genkernel.experiments import retraining as study
from genkernel.experiments.attribution_baselines import FinalWeights, trak
from genkernel.experiments.group_retraining import (
    Optimisation,
    batch_orders,
    half_subsets,
    left_out,
    loss_and_margin,
    outputs_of,
    retrain,
    sample_losses,
)
from genkernel.experiments.outcome import experiment
from genkernel.experiments.rank_agreement import agreement, chance, pooled
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = study.Setting(
    samples=60, queries=3, groups=6, subsets=12, orders=2, steps=(4, 8), batch=12, width=6, checkpoints=2, resamples=10
)


@pytest.fixture(scope="module")
def task() -> study.Task:
    return study.synthetic_task(TINY, 0)


def test_it_is_in_the_registry() -> None:
    assert experiment("retraining") is study.run
    with pytest.raises(InputError, match=r"did you mean 'path-costs'\?"):
        experiment("path_costs")


@pytest.mark.parametrize("optimisation", study.OPTIMISATIONS.values(), ids=study.OPTIMISATIONS.keys())
def test_replicas_train_as_torch_does(task: study.Task, optimisation: Optimisation) -> None:
    net = study.network(task, 6, 0)
    order = batch_orders(60, 12, 12, 0)
    weights = torch.cat([torch.ones(1, 60, dtype=torch.float64), left_out(task.group, 6)])
    stacked = retrain(net, task.data, order, weights, optimisation)
    outputs = outputs_of(net, stacked, task.queries)
    for replica in (0, 3):
        module = copy.deepcopy(net)
        optimizer = optimisation.make(module)
        for ids in order:
            batch = task.data[0][ids], task.data[1][ids]
            optimizer.zero_grad()
            (weights[replica, ids] * sample_losses(module, batch)).mean().backward()
            optimizer.step()
        for name, p in module.named_parameters():
            torch.testing.assert_close(stacked[name][replica], p.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(outputs[replica], loss_and_margin(module, task.queries).detach())
    assert float((stacked["0.weight"][0] - stacked["0.weight"][3]).abs().max()) > 1e-6


def test_losses_follow_from_margins(task: study.Task) -> None:
    net = study.network(task, 6, 0)
    found = loss_and_margin(net, task.queries)
    logits = net(task.queries[0])
    torch.testing.assert_close(found[:, 0], cross_entropy(logits, task.queries[1], reduction="none"))
    right = logits[0, task.queries[1][0]]
    others = torch.cat([logits[0, : task.queries[1][0]], logits[0, task.queries[1][0] + 1 :]])
    torch.testing.assert_close(found[0, 1], right - others.logsumexp(0))


def test_contributions_of_groups_and_of_classes_are_of_the_same_samples(task: study.Task) -> None:
    net = study.network(task, 6, 0)
    order = batch_orders(60, 12, 12, 0)
    found, _ = study.predict(task, net, order, study.OPTIMISATIONS["Adam"], TINY)
    assert found.gap < 1e-2
    whole = retrain(net, task.data, order, torch.ones(1, 60, dtype=torch.float64), study.OPTIMISATIONS["Adam"])
    change = outputs_of(net, whole, task.queries)[0] - loss_and_margin(net, task.queries).detach()
    total = found.groups[study.OURS].sum(0)
    np.testing.assert_allclose(total, change.numpy(), atol=2e-2 * float(change.abs().max()))
    for method, groups in found.groups.items():
        np.testing.assert_allclose(groups.sum(0), found.classes[method].sum(0), rtol=1e-8, atol=1e-10)


def test_influence_is_the_damped_solution(task: study.Task) -> None:
    """Of a linear classifier, where Gauss-Newton is the Hessian."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 10).double()
    final = FinalWeights(linear, task.data, task.queries)

    def mean_loss(flat: torch.Tensor) -> torch.Tensor:
        weight, bias = flat[:200].view(10, 20), flat[200:]
        return cross_entropy(task.data[0] @ weight.T + bias, task.data[1])

    flat = torch.cat([linear.weight.detach().flatten(), linear.bias.detach()])
    H = torch.autograd.functional.hessian(mean_loss, flat)
    torch.testing.assert_close(final.gauss_newton(), H, rtol=1e-8, atol=1e-12)
    damped = H + 0.3 * H.diagonal().mean() * torch.eye(210, dtype=torch.float64)
    expected = -(final.gradients @ torch.linalg.solve(damped, final.rows.flatten(0, 1).T)) / 60
    np.testing.assert_allclose(final.influence(0.3).reshape(60, -1), expected.numpy(), rtol=1e-7, atol=1e-12)


def test_trak_gives_samples_with_equal_gradients_equal_scores(task: study.Task) -> None:
    net = study.network(task, 6, 0)
    twice = tuple(torch.cat([part[:30], part[:30]]) for part in task.data)
    scores = trak([FinalWeights(net, twice, task.queries).trak_features(8, s) for s in (0, 1)], np.ones(3))  # type: ignore[arg-type]
    assert scores.shape == (60, 3, 2)
    np.testing.assert_allclose(scores[:30], scores[30:], rtol=1e-6)
    np.testing.assert_allclose(scores[..., 0], -scores[..., 1])


def test_agreement_is_the_mean_of_spearmans() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=(20, 4))
    b = a + 0.5 * draw.normal(size=a.shape)
    found = agreement(a, b, resamples=50)
    assert found.spearman == pytest.approx(np.mean([spearmanr(a[:, k], b[:, k]).statistic for k in range(4)]))
    assert found.low < found.spearman < found.high + 0.05 and found.slope == pytest.approx(1, abs=0.2)
    assert pooled(a, b, resamples=20)[0] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert abs(chance(b, draws=50).spearman) < 0.1
    assert np.isnan(agreement(np.ones((5, 1)), b[:5, :1]).spearman)


def test_groups_and_halves() -> None:
    group = torch.tensor([0, 1, 1, 2])
    assert left_out(group, 3, 0.5).tolist() == [[0.5, 1, 1, 1], [1, 0.5, 0.5, 1], [1, 1, 1, 0.5]]
    halves = half_subsets(6, 10, 0)
    assert halves.shape == (10, 6) and (halves.sum(1) == 3).all()
    with pytest.raises(InputError, match="1 to 4 samples"):
        batch_orders(4, 5, 1, 0)
    with pytest.raises(InputError, match="not 'lion'"):
        Optimisation("lion", 0.1)
    with pytest.raises(InputError, match="two or more batch orders"):
        study.Setting(orders=1)


def test_images_are_a_task_where_they_have_labels() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(70, 1, 28, 28, generator=draw)
    found = study.image_task(ImageSet(images, torch.arange(70) % 3), TINY, 0)
    assert found.data[0].shape == (60, 49) and found.classes == 3 and len(found.queries[1]) == 3
    with pytest.raises(InputError, match="63 labelled images"):
        study.image_task(ImageSet(images), TINY, 0)


def test_the_whole_comparison() -> None:
    found = study.run(quick=True, progress=False, setting=TINY)
    assert set(found.figures) == {"retraining_scatter", "retraining_bars"}
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in found.figures.values())
    assert len(found.claims) == 7 and found.claims[0].holds == "yes"
    assert any("conditional on the path" in claim.claim for claim in found.claims)
    assert set(found.numbers["agreement"]) == {f"{o}, {n} steps" for o in ("momentum", "Adam") for n in (4, 8)}
    row = found.numbers["agreement"]["Adam, 8 steps"]["halves"]["margin"]
    assert {study.OURS, study.CEILING, study.TRAK, "TracIn-CP with P", "chance"} <= set(row)
    assert row["TracIn-CP"]["units"] == 12 and -1 <= row[study.OURS]["spearman"] <= 1
    json.dumps(found.numbers, allow_nan=True)
    assert "Spearman" in found.markdown()
