"""Kernels over random training runs, against runs trained and differentiated one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.paths.stochastic.iid_batches import IIDBatchSampler
from genkernel.paths.stochastic.kernel_ensemble import KernelEnsemble, kernel_ensemble
from genkernel.paths.stochastic.sde import SGD
from genkernel.tangent import exact_trace
from genkernel.tangent import reference as naive

pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def loss(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (module(x) - y).square().mean(1)


GENERATOR = torch.Generator().manual_seed(0)
DATA = tuple(torch.randn(10, 2, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
X, Y = (torch.randn(k, 2, generator=GENERATOR, dtype=torch.float64) for k in (3, 4))
ETA = 0.2


def trained(module: nn.Module, seed: int, steps: int) -> nn.Module:
    descent = torch.optim.SGD(module.parameters(), lr=ETA)
    if steps:
        for batch in IIDBatchSampler(10, 2, steps=steps, seed=seed):
            descent.zero_grad()
            loss(module, (DATA[0][batch], DATA[1][batch])).mean().backward()
            descent.step()
    return module


def ensemble(steps: tuple[int, int] = (3, 8), **arguments: Any) -> KernelEnsemble:
    given: dict[str, Any] = {"batch_seeds": (4, 9, 1), **arguments}
    return kernel_ensemble(network(), loss, DATA, X, Y, optimizer=SGD(), eta=ETA, steps=steps, batch_size=2, **given)


@pytest.mark.parametrize("steps", [(3, 8), (8, 3), (5, 5), (0, 4), (0, 0)])
def test_runs_one_by_one(steps: tuple[int, int]) -> None:
    found = ensemble(steps)
    assert found.kernels.shape == (3, 3, 4) and found.steps == steps
    for row, seed in enumerate((4, 9, 1)):
        early, late = trained(network(), seed, steps[0]), trained(network(), seed, steps[1])
        expected = naive.kernel(early, X, Y, model_y=late, cotangents=exact_trace())
        np.testing.assert_allclose(found.kernels[row], expected.numpy(), rtol=1e-12)
        norms = naive.kernel(late, Y, cotangents=exact_trace()).diagonal()
        np.testing.assert_allclose(found.norms_y[row], norms.numpy(), rtol=1e-12)


def test_two_ensembles() -> None:
    def start(seed: int) -> dict[str, Tensor]:
        return network(seed).state_dict()

    batches = ensemble()
    assert batches.init_seeds is None and batches.randomness == "batch order, at fixed initial weights"
    starts = ensemble(batch_seeds=[4], init_seeds=(0, 1, 2), init=start)
    assert starts.randomness == "initial weights, at a fixed batch order"
    assert starts.batch_seeds == (4, 4, 4) and starts.init_seeds == (0, 1, 2)
    np.testing.assert_allclose(starts.kernels[0], batches.kernels[0], rtol=1e-12)  # the network itself is seed 0
    other = naive.kernel(trained(network(1), 4, 3), X, Y, model_y=trained(network(1), 4, 8), cotangents=exact_trace())
    np.testing.assert_allclose(starts.kernels[1], other.numpy(), rtol=1e-12)
    both = ensemble(batch_seeds=(4, 9, 1), init_seeds=(0, 1, 2), init=start)
    assert both.randomness == "initial weights and batch order"
    assert ensemble(init_seeds=[0], init=start).randomness == batches.randomness
    same = (
        ensemble(batch_seeds=[4]),
        ensemble(batch_seeds=[4, 4]),
        ensemble(batch_seeds=[4], init_seeds=[0], init=start),
    )
    for one in same:
        assert one.randomness.startswith("nothing")
    untrained = ensemble((0, 0), batch_seeds=[4], init_seeds=(0, 1, 2), init=start)
    assert untrained.sd.min() > 0


def test_before_the_first_step_batches_make_no_difference() -> None:
    assert ensemble((0, 0)).sd.max() == pytest.approx(0, abs=1e-12)


def test_the_two_ways_to_normalise() -> None:
    raw, each, mean = (ensemble(normalize=how, batch_seeds=range(6)) for how in ("none", "each", "mean"))
    size = np.sqrt(raw.norms_x[:, :, None] * raw.norms_y[:, None, :])
    np.testing.assert_allclose(each.kernels, raw.kernels / size, rtol=1e-12)
    np.testing.assert_allclose(each.mean, (raw.kernels / size).mean(0), rtol=1e-12)
    scale = np.sqrt(raw.norms_x.mean(0)[:, None] * raw.norms_y.mean(0)[None, :])
    np.testing.assert_allclose(mean.mean, raw.kernels.mean(0) / scale, rtol=1e-12)
    np.testing.assert_allclose(mean.kernels, raw.kernels)
    assert np.abs(each.mean - mean.mean).max() > 1e-6
    assert np.abs(each.mean).max() <= 1 and len({raw.meaning, each.meaning, mean.meaning}) == 3
    for one in (raw, each):
        np.testing.assert_allclose(one.sd, one.kernels.std(0, ddof=1), rtol=1e-10)
    for one in (raw, each, mean):
        np.testing.assert_allclose(one.stderr, one.sd / np.sqrt(6), rtol=1e-12)
    # the jackknife of a ratio: without each of the runs in turn
    left_out = []
    for run in range(6):
        kept = [k for k in range(6) if k != run]
        size = np.sqrt(raw.norms_x[kept].mean(0)[:, None] * raw.norms_y[kept].mean(0)[None, :])
        left_out.append(raw.kernels[kept].mean(0) / size)
    away = np.array(left_out) - np.mean(left_out, 0)
    np.testing.assert_allclose(mean.stderr, np.sqrt(5 / 6 * np.square(away).sum(0)), rtol=1e-8)


def test_the_jackknife_is_the_error_of_the_mean() -> None:
    """Against the spread of the ratio's linear part over runs, from which it differs by O(1/R)."""
    one = ensemble(normalize="mean", batch_seeds=range(40))
    left, right = one.norms_x[:, :, None], one.norms_y[:, None, :]
    parts = one.kernels / one.kernels.mean(0) - left / left.mean(0) / 2 - right / right.mean(0) / 2
    expected = np.abs(one.mean) * parts.std(0, ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(one.stderr, expected, rtol=0.15)


def test_one_side_and_one_run() -> None:
    found = kernel_ensemble(
        network(), loss, DATA, X, optimizer=SGD(), eta=ETA, steps=(4, 4), batch_size=2, batch_seeds=[0]
    )
    np.testing.assert_allclose(found.mean, found.mean.T, rtol=1e-12)
    assert np.isnan(found.sd).all()


def test_the_network_and_the_generators_are_untouched() -> None:
    module = network().train()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in module.state_dict().items()}
    kernel_ensemble(module, loss, DATA, X, optimizer=SGD(), eta=ETA, steps=(1, 2), batch_size=2, batch_seeds=[0, 1])
    assert torch.equal(torch.get_rng_state(), before) and module.training
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize": "yes"}, "'none', 'each' or 'mean'"),
        ({"steps": (1, -1)}, r"give \(s, t\)"),
        ({"batch_seeds": ()}, "at least one seed"),
        ({"init_seeds": [0]}, "belong together"),
        ({"init": lambda seed: None}, "belong together"),
        ({"init_seeds": [0, 1], "init": lambda seed: network(seed).state_dict()}, "pair them one by one"),
        ({"normalize": "mean", "batch_seeds": [0]}, "at least two"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ensemble(**change)
