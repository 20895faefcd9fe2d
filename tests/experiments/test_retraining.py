"""Trainings many at a time, what is compared with contributions, and the comparison as a whole on a small case."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import cross_entropy

from genkernel.data import ImageSet
from genkernel.errors import InputError
from genkernel.experiments.rank_agreement import agreement, attainable, chance, difference, pooled
from genkernel.experiments.registry import experiment
from genkernel.experiments.retraining import experiment as study
from genkernel.experiments.retraining import outcome
from genkernel.experiments.retraining import predictions as methods
from genkernel.experiments.retraining import task as setup
from genkernel.experiments.retraining.baselines import FinalWeights, trak
from genkernel.experiments.retraining.groups import (
    Optimisation,
    accuracies,
    batch_orders,
    half_subsets,
    left_out,
    loss_and_margin,
    outputs_of,
    retrain,
    sample_losses,
)
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = setup.Setting(
    samples=60, queries=3, groups=6, subsets=12, orders=2, steps=(4, 8), batch=12, width=6, checkpoints=2, resamples=10
)


@pytest.fixture(scope="module")
def task() -> setup.Task:
    return setup.synthetic_task(TINY, 0)


def test_it_is_in_the_registry() -> None:
    assert experiment("retraining") is study.run
    with pytest.raises(InputError, match=r"did you mean 'path-costs'\?"):
        experiment("path_costs")


@pytest.mark.parametrize("optimisation", setup.OPTIMISATIONS.values(), ids=setup.OPTIMISATIONS.keys())
def test_replicas_train_as_torch_does(task: setup.Task, optimisation: Optimisation) -> None:
    net = setup.network(task, 6, 0)
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


def test_losses_follow_from_margins(task: setup.Task) -> None:
    net = setup.network(task, 6, 0)
    found = loss_and_margin(net, task.queries)
    logits = net(task.queries[0])
    torch.testing.assert_close(found[:, 0], cross_entropy(logits, task.queries[1], reduction="none"))
    right = logits[0, task.queries[1][0]]
    others = torch.cat([logits[0, : task.queries[1][0]], logits[0, task.queries[1][0] + 1 :]])
    torch.testing.assert_close(found[0, 1], right - others.logsumexp(0))


def test_contributions_of_groups_and_of_classes_are_of_the_same_samples(task: setup.Task) -> None:
    net = setup.network(task, 6, 0)
    order = batch_orders(60, 12, 12, 0)
    found, _ = methods.predict(task, net, order, setup.OPTIMISATIONS["Adam"], TINY)
    assert found.gap < 1e-2
    whole = retrain(net, task.data, order, torch.ones(1, 60, dtype=torch.float64), setup.OPTIMISATIONS["Adam"])
    change = outputs_of(net, whole, task.queries)[0] - loss_and_margin(net, task.queries).detach()
    total = found.groups[methods.OURS].sum(0)
    np.testing.assert_allclose(total, change.numpy(), atol=2e-2 * float(change.abs().max()))
    for method, groups in found.groups.items():
        np.testing.assert_allclose(groups.sum(0), found.classes[method].sum(0), rtol=1e-8, atol=1e-10)


def test_influence_is_the_damped_solution(task: setup.Task) -> None:
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


def test_trak_is_its_formula(task: setup.Task) -> None:
    """Without projection: φ_q (ΦᵀΦ)⁻¹ Φᵀ (1 - p), with φ the gradients of margins."""
    torch.manual_seed(0)
    net = nn.Linear(20, 10, bias=False).double()
    net.weight.data[3:] = -4.0  # three classes matter, so that 60 samples span the gradients that are not alike
    final = FinalWeights(net, task.data, task.queries)

    def gradient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        margin = loss_and_margin(net, (x[None], y[None]))[0, 1]
        return torch.autograd.grad(margin, net.weight)[0].flatten()

    draw = torch.Generator().manual_seed(0)
    project = (2 * torch.randint(2, (200, 8), generator=draw) - 1).double() / 8**0.5
    phi = torch.stack([gradient(x, y) for x, y in zip(*task.data, strict=True)]) @ project
    own = torch.stack([gradient(x, y) for x, y in zip(*task.queries, strict=True)]) @ project
    right = net(task.data[0]).softmax(-1)[range(60), task.data[1]]
    expected = (own @ torch.linalg.solve(phi.T @ phi, phi.T) * (1 - right)).T
    scores = trak([final.trak_features(8, 0)], final.wrong_at_queries())
    np.testing.assert_allclose(scores[..., 1], expected.detach().numpy(), rtol=1e-6)
    wrong = 1 - net(task.queries[0]).softmax(-1)[range(3), task.queries[1]]
    np.testing.assert_allclose(scores[..., 0], -(wrong.detach().numpy() * scores[..., 1]))


def test_predictions_and_trainings_have_one_sign() -> None:
    """A class that is taken away takes its own queries' margins with it, and so say contributions and the rest."""
    setting = setup.Setting(
        samples=120, queries=10, groups=6, subsets=24, orders=2, steps=(40,), batch=24, width=8, checkpoints=4
    )
    task = setup.synthetic_task(setting, 3)
    net = setup.network(task, 8, 0)
    kind = setup.OPTIMISATIONS["momentum"]
    orders = [batch_orders(120, 24, 40, s) for s in range(2)]
    actual = methods.truth(task, net, orders, kind, setting, 0)
    runs = methods.predictions(task, net, orders, kind, setting, 0)
    own = task.queries[1]
    effects = actual.effects["classes"].mean(0)[..., 1]  # what each class added to the margins
    assert effects[own, range(10)].mean() > max(0.0, 2 * effects.mean())
    for method in (methods.OURS, methods.TRACIN, methods.LAST, methods.TRAK, methods.influence_name(1.0)):
        said = np.mean([one.classes[method][..., 1] for one in runs], 0)
        assert said[own, range(10)].mean() > 0, method
    for change in methods.TRUTHS:
        said = np.mean([methods.forecast(one, methods.OURS, change, actual.halves) for one in runs], 0)[..., 1]
        assert agreement(said, actual.effects[change].mean(0)[..., 1]).spearman > 0.4, change


def test_forecasts_of_halves_sum_the_groups_that_are_in(task: setup.Task) -> None:
    groups = np.arange(6.0)[:, None, None] * np.ones((1, 2, 2))
    one = methods.Predicted({methods.OURS: groups}, {}, 0.0)
    halves = np.array([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    assert methods.forecast(one, methods.OURS, "halves", halves)[:, 0, 0].tolist() == [3, 12]
    assert methods.forecast(one, methods.OURS, "less", halves) is groups


def test_preconditioners_are_those_of_their_checkpoints(task: setup.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    import genkernel.paths as paths

    given: list[list[float]] = []

    def spy(*args: Any, preconditioners: Any = None, **options: Any) -> Any:
        if preconditioners is not None:
            given.append([float(next(iter(p._roots.values())).mean()) for p in preconditioners])
        return plain(*args, preconditioners=preconditioners, **options)

    plain = paths.checkpoint_path
    monkeypatch.setattr(paths, "checkpoint_path", spy)
    setting = setup.Setting(**{**vars(TINY), "checkpoints": 3})
    methods.predict(task, setup.network(task, 6, 0), batch_orders(60, 12, 6, 0), setup.OPTIMISATIONS["Adam"], setting)
    assert given[0][0] == given[0][1] != given[0][2]


def test_accuracy_is_that_of_the_largest_logit() -> None:
    net = nn.Linear(4, 4, bias=False).double()
    net.weight.data = torch.eye(4, dtype=torch.float64)
    p = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.1, 0.6, 0.2, 0.1]], dtype=torch.float64)
    stacked = {"weight": net.weight.detach()[None]}
    assert accuracies(net, stacked, (p.log(), torch.tensor([0, 2]))).tolist() == [0.5]


def test_agreement_is_the_mean_of_spearmans() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=(20, 4))
    b = a + 0.5 * draw.normal(size=a.shape)
    found = agreement(a, b, resamples=50)
    assert found.spearman == pytest.approx(np.mean([spearmanr(a[:, k], b[:, k]).statistic for k in range(4)]))
    assert found.low < found.spearman < found.high and found.slope == pytest.approx(1, abs=0.2)
    assert pooled(a, b, resamples=20)[0] == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert abs(chance(b, draws=50).spearman) < 0.1
    assert np.isnan(agreement(np.ones((5, 1)), b[:5, :1]).spearman)


def test_intervals_cover() -> None:
    """Of a mean of rank correlations over queries that share their units: a quarter of 60 may miss at the most."""
    draw = np.random.default_rng(1)

    def pair(units: int) -> tuple[Any, Any]:
        shared = draw.normal(size=(units, 1))
        a = shared + draw.normal(size=(units, 4))
        return a, a + 0.5 * (0.5 * shared + draw.normal(size=a.shape))

    truth = agreement(*pair(20_000), resamples=0).spearman
    found = [agreement(*pair(24), seed=k, resamples=60) for k in range(60)]
    assert sum(one.low <= truth <= one.high for one in found) >= 51
    assert np.mean([one.high - one.low for one in found]) < 0.2


def test_a_difference_is_paired() -> None:
    draw = np.random.default_rng(0)
    actual = draw.normal(size=(40, 3))
    near, far = actual + 0.3 * draw.normal(size=(40, 3)), actual + draw.normal(size=(40, 3))
    value, low, high = difference(near, far, actual)
    alone = agreement(near, actual).spearman - agreement(far, actual).spearman
    assert value == pytest.approx(alone) and 0 < low < value < high
    assert difference(near, near, actual)[1:] == (0, 0)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_attainable_is_what_the_expectation_reaches(noise: float) -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(400, 8))
    effects = truth + noise * draw.normal(size=(4, 400, 8))
    assert attainable(effects) == pytest.approx(agreement(truth, effects.mean(0), resamples=0).spearman, abs=0.03)
    assert np.isnan(attainable(np.stack([truth, -truth])))


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
        setup.Setting(orders=1)


def test_images_are_a_task_where_they_have_labels() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(70, 1, 28, 28, generator=draw)
    found = setup.image_task(ImageSet(images, torch.arange(70) % 3), TINY, 0)
    assert found.data[0].shape == (60, 49) and found.classes == 3 and len(found.queries[1]) == 3
    with pytest.raises(InputError, match="63 labelled images"):
        setup.image_task(ImageSet(images), TINY, 0)


@pytest.mark.slow
def test_the_whole_comparison() -> None:
    found = study.run(quick=True, progress=False, setting=TINY)
    assert set(found.figures) == {"retraining_scatter", "retraining_bars"}
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in found.figures.values())
    assert len(found.claims) == 7 and found.claims[0].holds == "yes"
    assert any("conditional on the path" in claim.claim for claim in found.claims)
    assert set(found.numbers["agreement"]) == {f"{o}, {n} steps" for o in ("momentum", "Adam") for n in (4, 8)}
    row = found.numbers["agreement"]["Adam, 8 steps"]["halves"]["margin"]
    assert {methods.OURS, outcome.ATTAINABLE, methods.TRAK, "TracIn-CP with P", "chance"} <= set(row)
    assert row["TracIn-CP"]["units"] == 12 and -1 <= row[methods.OURS]["spearman"] <= 1
    json.dumps(found.numbers, allow_nan=True)
    assert "Spearman" in found.markdown()
