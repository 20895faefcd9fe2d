"""Leave-one-out trainings against plain loops, the effective Gram matrix against their gap, and alignments."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.errors import BatchCouplingError, InputError, NonFiniteError, RandomOutputError
from genkernel.spectra import (
    EffectiveGram,
    LeaveOneOut,
    effective_gram_matrix,
    leave_one_out_gap,
    pooled_contraction,
    predicted_gap,
    residual_alignment,
)
from genkernel.spectra.descent import descent
from genkernel.tangent import TangentModel

pytestmark = pytest.mark.usefixtures("one_thread")


def net(outputs: int = 1, inputs: int = 1, width: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def sine(n: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(n, 1, generator=draw, dtype=torch.float64) - 1
    return x, torch.sin(3 * x) + 0.2 * torch.randn(n, 1, generator=draw, dtype=torch.float64)


def several(loss: str, outputs: int, n: int = 7) -> tuple[nn.Module, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(n, 2, generator=draw, dtype=torch.float64)
    classes = torch.randint(outputs, (n,), generator=draw)
    y = classes if loss == "cross-entropy" else torch.randn(n, outputs, generator=draw, dtype=torch.float64)
    return net(outputs, inputs=2), x, y


def losses_of(module: nn.Module, x: Tensor, y: Tensor, loss: str) -> Tensor:
    f = module(x)
    return F.cross_entropy(f, y, reduction="none") if loss == "cross-entropy" else 0.5 * (f - y).square().sum(1)


def flat_gradient(module: nn.Module, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
    return torch.cat([g.reshape(-1) for g in found])


def by_loops(make: nn.Module, x: Tensor, y: Tensor, loss: str, lr: float, steps: int) -> dict[str, Tensor]:
    """Everything by plain autograd, one training after another."""
    n = len(x)

    def train(without: int | None) -> tuple[Tensor, Tensor, Tensor]:
        module = copy.deepcopy(make)
        kept, pulls, squares = [], [], []
        for _ in range(steps):
            each = losses_of(module, x, y, loss)
            g = torch.stack([flat_gradient(module, one) for one in each])
            R = (g.sum(0) if without is None else g.sum(0) - g[without]) / n
            kept.append(each.detach())
            pulls.append(g @ R if without is not None else torch.stack([g[i] @ (R - g[i] / n) for i in range(n)]))
            squares.append(g.square().sum(1))
            with torch.no_grad():
                for p, part in zip(module.parameters(), R.split([p.numel() for p in module.parameters()]), strict=True):
                    p.sub_(lr * part.view_as(p))
        kept.append(losses_of(module, x, y, loss).detach())
        return torch.stack(kept), torch.stack(pulls), torch.stack(squares)

    whole = train(None)
    excess, pull = [], []
    for i in range(n):
        kept, pulls, _ = train(i)
        excess.append(kept[:, i] - whole[0][:, i])
        pull.append(pulls[:, i] - whole[1][:, i])
    return {
        "excess": torch.stack(excess), "pull": torch.stack(pull), "train": whole[0].mean(1),
        "perturbation": whole[2].sum(1) / n**2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs() -> LeaveOneOut:
    return leave_one_out_gap(net(), *sine(), lr=0.2, steps=300)


@pytest.fixture(scope="module")
def gram(runs: LeaveOneOut) -> EffectiveGram:
    return effective_gram_matrix(net(), *sine(), lr=0.2, steps=300, contraction=runs.contraction, snapshots=[1, 60])


# ------------------------------------------------------------------------------ trainings


@pytest.mark.parametrize(("loss", "outputs"), [("squared", 1), ("squared", 3), ("cross-entropy", 3)])
def test_trainings_are_those_of_plain_loops(loss: str, outputs: int) -> None:
    module, x, y = several(loss, outputs)
    found = leave_one_out_gap(module, x, y, lr=0.3, steps=12, loss=loss, held_out=(x[:3] + 1, y[:3]))
    truth = by_loops(module, x, y, loss, 0.3, 12)
    for name, value in (
        ("excess", found.excess), ("pull", found.pull), ("train", found.train_losses),
        ("perturbation", found.perturbation),
    ):  # fmt: skip
        torch.testing.assert_close(value, truth[name], rtol=1e-10, atol=1e-12)
    assert found.test_losses is not None and found.test_losses.shape == (13,)
    assert float(found.test_losses[0]) == pytest.approx(losses_of(module, x[:3] + 1, y[:3], loss).mean().item())
    assert float(found.gap[0]) == 0 == float(found.contraction[0])
    torch.testing.assert_close(found.contraction[1:] * found.gap[1:-1], found.pull.mean(0)[1:])


def test_groups_of_trainings_and_single_ones_are_the_same() -> None:
    module, x, y = several("squared", 2)
    whole = leave_one_out_gap(module, x, y, lr=0.3, steps=6)
    with descent(module, x, y, 0.3, "squared", "float64", "1GiB") as problem:
        one = 6 * problem.size * 8 + 3 * problem.n * problem._held
    narrow = leave_one_out_gap(module, x, y, lr=0.3, steps=6, memory=2 * one)
    torch.testing.assert_close(narrow.excess, whole.excess, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(narrow.pull, whole.pull, rtol=1e-11, atol=1e-14)
    some = leave_one_out_gap(module, x, y, lr=0.3, steps=6, left_out=[5, 0])
    assert torch.allclose(some.excess, whole.excess[[5, 0]]) and torch.allclose(some.gap, whole.among([0, 5]).gap)
    assert torch.allclose(some.perturbation, whole.perturbation)  # of all samples
    with pytest.raises(InputError, match="one training on 7 samples takes"):
        leave_one_out_gap(module, x, y, lr=0.3, steps=6, memory=one - 1)
    with pytest.raises(InputError, match="no training without sample 3"):
        some.among([3])


def test_the_standard_error_is_that_of_a_sample_without_replacement(runs: LeaveOneOut) -> None:
    assert not runs.gap_stderr.any()
    draw = torch.Generator().manual_seed(0)
    parts = [runs.among(torch.randperm(12, generator=draw)[:8]) for _ in range(2000)]
    spread = torch.stack([part.gap[-1] for part in parts]).std()
    said = torch.stack([part.gap_stderr[-1] for part in parts]).square().mean().sqrt()
    assert float(said / spread) == pytest.approx(1, abs=0.06)
    assert runs.among([2]).gap_stderr.isnan().all()


def test_gaps_follow_from_factors(runs: LeaveOneOut) -> None:
    eps = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    assert predicted_gap(eps, [0.0, 0.0, 0.0], 0.5).tolist() == [0, 0.5, 1.5, 3.5]
    assert predicted_gap(eps, [9.0, 1.0, 2.0], 0.5).tolist() == [0, 0.5, 1.25, 2.0]
    with pytest.raises(InputError, match="one finite number per step"):
        predicted_gap(eps, [0.0, float("nan"), 0.0], 0.5)
    torch.testing.assert_close(pooled_contraction([runs, runs]), runs.contraction)
    halves = [runs.among(range(6)), runs.among(range(6, 12))]
    torch.testing.assert_close(pooled_contraction(halves)[5:], runs.contraction[5:])
    torch.testing.assert_close(runs.predicted_test_loss(), runs.train_losses + runs.predicted_gap())
    with pytest.raises(InputError, match="the same number of steps"):
        pooled_contraction([runs, replace(runs, lr=0.1)])


# ------------------------------------------------------------------------------ the matrix


def test_the_form_is_the_gap_and_the_matrix_is_positive(gram: EffectiveGram, runs: LeaveOneOut) -> None:
    gap = float(runs.gap[-1])
    assert gram.quadratic == pytest.approx(gap, rel=1e-3)
    assert gram.quadratic == pytest.approx(float(runs.predicted_gap()[-1]), rel=1e-5)
    assert gram.predicted_test_loss == pytest.approx(float(runs.train_losses[-1]) + gap, rel=1e-3)
    assert gram.propagator_error < 1e-4
    assert gram.non_negative and torch.equal(gram.matrix, gram.matrix.T)
    values = torch.linalg.eigvalsh(gram.matrix)
    assert float(values[0]) > -1e-12 * float(values[-1])
    r = gram.residual
    for step in (1, 60):
        assert float(r @ gram.snapshots[step] @ r) == pytest.approx(float(runs.predicted_gap()[step]), rel=1e-4)
    torch.testing.assert_close(gram.perturbation, runs.perturbation)
    torch.testing.assert_close(gram.train_losses, runs.train_losses)


def test_exponential_weights_miss_the_gap_by_the_step_size() -> None:
    misses = []
    for lr in (0.2, 0.1):
        found = leave_one_out_gap(net(), *sine(), lr=lr, steps=round(20 / lr))
        c, gap = found.contraction, float(found.gap[-1])
        after = c.flip(0).cumsum(0).flip(0)  # of the steps from s on
        exponential = float((lr * found.perturbation * torch.exp(-lr * after)).sum())
        misses.append(exponential / gap - 1)
        assert abs(float(found.predicted_gap()[-1]) / gap - 1) < abs(misses[-1]) / 20
    assert 1.7 < misses[0] / misses[1] < 2.4 and abs(misses[0]) > 0.02


def test_of_a_linear_model_it_is_a_sum_of_powers() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x[:, :1] ** 2
    module = nn.Linear(3, 1, bias=False).double()
    lr, steps, n = 0.3, 9, 6
    c = torch.linspace(-0.5, 0.8, steps, dtype=torch.float64)
    found = effective_gram_matrix(module, x, y, lr=lr, steps=steps, contraction=c)
    assert found.runs is None
    A, D = torch.eye(n, dtype=torch.float64) - lr / n * x @ x.T, torch.diag(x.square().sum(1))
    K = torch.zeros(n, n, dtype=torch.float64)
    for s in range(steps):
        P = torch.linalg.matrix_power(A, s)
        K += lr * torch.prod(1 - lr * c[s + 1 :]) / n**2 * P.T @ D @ P
    torch.testing.assert_close(found.matrix, K, rtol=1e-12, atol=1e-14)
    assert found.propagator_error < 1e-14


@pytest.mark.parametrize(("loss", "outputs"), [("squared", 3), ("cross-entropy", 3)])
def test_several_outputs_and_cross_entropy(loss: str, outputs: int) -> None:
    module, x, y = several(loss, outputs)
    found = effective_gram_matrix(module, x, y, lr=0.1, steps=150, loss=loss)
    assert found.runs is not None and found.matrix.shape == (21, 21)
    assert found.propagator_error < 1e-4
    assert found.quadratic == pytest.approx(float(found.runs.predicted_gap()[-1]), rel=1e-4)
    assert found.quadratic == pytest.approx(float(found.runs.gap[-1]), rel=5e-3)
    basis = found.basis()
    if loss == "squared":
        assert basis is None
        return
    assert basis is not None and basis.shape == (21, 14)
    torch.testing.assert_close(basis.T @ basis, torch.eye(14, dtype=torch.float64))
    assert float(basis.view(7, 3, 14).sum(1).abs().max()) < 1e-14
    assert float(found.matrix.view(7, 3, 21).sum(1).abs().max()) < 1e-14
    assert len(residual_alignment(found).eigenvalues) == 14


def test_secants_turn_changes_of_logits_into_changes_of_residuals() -> None:
    module, x, y = several("cross-entropy", 3)
    with descent(module, x, y, 0.1, "cross-entropy", "float64", "1GiB") as problem:
        before = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        after = before + torch.tensor([0.7, -0.4, 0.1], dtype=torch.float64)
        change = problem.residuals(after, problem.y) - problem.residuals(before, problem.y)
        secant = problem.secant(before, after)
        assert secant is not None
        torch.testing.assert_close((secant @ (after - before)[:, :, None])[:, :, 0], change, rtol=1e-10, atol=1e-12)


def test_own_trainings_are_the_default_and_few_are_enough(gram: EffectiveGram, runs: LeaveOneOut) -> None:
    few = effective_gram_matrix(net(), *sine(), lr=0.2, steps=20, left_out=[1, 4, 7])
    assert few.runs is not None and few.runs.left_out.tolist() == [1, 4, 7]
    torch.testing.assert_close(few.contraction, few.runs.contraction)
    expected = predicted_gap(runs.perturbation[:20], runs.among([1, 4, 7]).contraction[:20], 0.2)[-1]
    assert few.quadratic == pytest.approx(float(expected), rel=1e-4)
    other = effective_gram_matrix(net(), *sine(), lr=0.2, steps=20, left_out=[1], contraction=torch.zeros(20))
    assert other.runs is not None and not other.contraction.any()
    assert other.quadratic == pytest.approx(0.2 * float(runs.perturbation[:20].sum()), rel=1e-4)


# ------------------------------------------------------------------------------ manners


def test_the_module_is_left_alone() -> None:
    module = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1))
    module.eval()
    module[0].train()
    x, y = sine(5)
    x, y = x.float(), y.float()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    random = torch.get_rng_state()
    effective_gram_matrix(module, x, y, lr=0.1, steps=3)
    with pytest.raises(NonFiniteError):
        leave_one_out_gap(module, x, y, lr=1e6, steps=80)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert modes == [m.training for m in module.modules()] and torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert leave_one_out_gap(module, x, y, lr=0.1, steps=3, dtype=None).gap.dtype == torch.float64


def test_frozen_parameters_stay_where_they_are() -> None:
    module, (x, y) = net(), sine(5)
    module[0].requires_grad_(False)
    found = leave_one_out_gap(module, x, y, lr=0.1, steps=8)
    features = module[:2](x).detach()
    last = nn.Linear(8, 1).double()
    last.load_state_dict(module[2].state_dict())
    torch.testing.assert_close(found.excess, leave_one_out_gap(last, features, y, lr=0.1, steps=8).excess)
    named = leave_one_out_gap(TangentModel(net(), params="2.*"), x, y, lr=0.1, steps=8)
    torch.testing.assert_close(named.excess, found.excess)


def test_noise_and_coupled_samples_are_refused() -> None:
    x, y = sine(5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropping = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1)).double()
        normed = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    with pytest.raises(InputError, match="'1' has dropout in training mode"):
        leave_one_out_gap(dropping, x, y, lr=0.1, steps=2)
    with pytest.raises(InputError, match="'1' is a batch norm in training mode"):
        effective_gram_matrix(normed, x, y, lr=0.1, steps=2)
    with pytest.raises(BatchCouplingError):
        leave_one_out_gap(TangentModel(normed, batch_norm="train"), x, y, lr=0.1, steps=2)
    # small weights come out of a batch norm large: a step of .1 diverges
    leave_one_out_gap(TangentModel(normed, batch_norm="frozen", reference=x), x, y, lr=1e-3, steps=2)
    with pytest.raises(RandomOutputError):
        noisy = TangentModel(net(), call=lambda m, batch: m(batch) + torch.rand(len(batch), 1))
        leave_one_out_gap(noisy, x, y, lr=0.1, steps=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr is a positive number"),
        ({"lr": float("nan")}, "lr is a positive number"),
        ({"steps": 0}, "steps is a whole number"),
        ({"loss": "hinge"}, "'squared' or 'cross-entropy'"),
        ({"loss": "cross-entropy"}, "two outputs or more"),
        ({"y": torch.zeros(12, 2)}, r"targets have shape \[12, 1\]"),
        ({"y": torch.zeros(5, 1)}, r"targets have shape \[12, 1\]"),
        ({"y": torch.full((12, 1), float("nan"))}, "targets hold NaN"),
        ({"x": torch.zeros(1, 1), "y": torch.zeros(1, 1)}, "two samples or more"),
        ({"left_out": [0, 12]}, "left_out names samples from 0 to 11"),
        ({"left_out": [3, 3]}, "names a sample twice"),
        ({"left_out": [0.5]}, "left_out names samples"),
        ({"contraction": [0.0]}, r"one finite number per step \[2\]"),
        ({"contraction": [0.0, float("inf")]}, r"one finite number per step \[2\]"),
        ({"snapshots": [3]}, "snapshots are steps from 1 to 2"),
        ({"memory": "1KB"}, "an effective Gram matrix of 12 rows"),
        ({"memory": "1KiB"}, "memory= allows 1 KiB"),
        ({"lr": True}, "lr is a positive number"),
        ({"lr": "0.1"}, "lr is a positive number"),
        ({"steps": 2.0}, "steps is a whole number"),
        ({"snapshots": [1.5]}, "whole number"),
        ({"held_out": torch.zeros(2, 1)}, r"held_out is \(x, y\).*not Tensor"),
        ({"held_out": {"x": torch.zeros(2, 1)}}, r"held_out is \(x, y\).*not dict"),
        ({"held_out": (torch.zeros(2, 1),) * 3}, r"held_out is \(x, y\).*not 3 things"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    x, y = sine()
    given: dict[str, Any] = {"x": x, "y": y, "lr": 0.1, "steps": 2} | change
    with pytest.raises(InputError, match=message):
        effective_gram_matrix(net(), **given)


def test_rates_and_steps_are_numbers_of_any_type() -> None:
    x, y = sine(4)
    plain = leave_one_out_gap(net(), x, y, lr=0.25, steps=2, held_out=(x, y))
    other = leave_one_out_gap(net(), x, y, lr=np.float32(0.25), steps=np.int64(2), held_out=[x, y])  # type: ignore[arg-type]
    assert torch.equal(plain.gap, other.gap) and other.test_losses is not None


def test_weights_and_targets_that_are_no_numbers_or_fit_already() -> None:
    x, y = sine(5)
    broken = net()
    with torch.no_grad():
        next(broken.parameters())[0] = float("nan")
    with pytest.raises(NonFiniteError):
        leave_one_out_gap(broken, x, y, lr=0.1, steps=2)
    fitting = net()
    with pytest.raises(InputError, match="no residual to start from"):
        effective_gram_matrix(fitting, x, fitting(x).detach(), lr=0.1, steps=2)
    module, x, y = several("cross-entropy", 3)
    with pytest.raises(InputError, match="whole numbers"):
        leave_one_out_gap(module, x, y + 1, lr=0.1, steps=2, loss="cross-entropy")


# ------------------------------------------------------------------------------ alignment


def of_matrix(gram: EffectiveGram, values: list[float], residual: list[float]) -> EffectiveGram:
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    lam, r = torch.tensor(values, dtype=torch.float64), torch.tensor(residual, dtype=torch.float64)
    return replace(gram, matrix=turn @ torch.diag(lam) @ turn.T, residual=turn @ r, snapshots={})


def test_shares_are_of_eigenvectors(gram: EffectiveGram) -> None:
    made = of_matrix(gram, [4.0, 0.1, 2.0, 1.0, 0.5], [1.0, 3.0, 1.0, 0.0, 2.0])
    found = residual_alignment(made, top=2)
    assert found.eigenvalues.tolist() == pytest.approx([4, 2, 1, 0.5, 0.1])
    assert found.energy.tolist() == pytest.approx([1 / 15, 1 / 15, 0, 4 / 15, 9 / 15])
    assert found.lower_share == pytest.approx(13 / 15) and found.random_lower_share == pytest.approx(2 / 5)
    total = 4 + 2 + 0 + 4 * 0.5 + 9 * 0.1
    assert found.top_share == pytest.approx(2 / 15) and found.top_gap_share == pytest.approx(6 / total)
    assert found.random_top_gap_share < 6 / 7.6 - 0.02  # the ratio of means is no mean of ratios
    assert found.gap_ratio == pytest.approx(total / (15 * 7.6 / 5))
    assert found.random_interval[0] < 2 / 5 < found.random_interval[1] and found.shuffled_lower_share is None
    mixed = residual_alignment(made, shuffled=of_matrix(gram, [5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 0.0, 0.0, 1.0, 0.0]))
    assert mixed.shuffled_lower_share == pytest.approx(0.5)


def test_random_directions_have_what_is_said_of_them(gram: EffectiveGram) -> None:
    draw = torch.Generator().manual_seed(3)
    values = [4.0, 0.1, 2.0, 1.0, 0.5]
    found = [
        residual_alignment(of_matrix(gram, values, torch.randn(5, generator=draw).tolist()), top=1, draws=2)
        for _ in range(400)
    ]
    shares = torch.tensor([one.lower_share for one in found])
    interval = residual_alignment(of_matrix(gram, values, [1.0] * 5), draws=4000).random_interval
    assert float(shares.mean()) == pytest.approx(2 / 5, abs=0.05)
    assert float(((shares > interval[0]) & (shares < interval[1])).float().mean()) == pytest.approx(0.95, abs=0.03)
    assert float(torch.tensor([one.gap_ratio for one in found]).mean()) == pytest.approx(1, abs=0.1)


def test_gap_shares_of_random_directions_are_means_of_ratios(gram: EffectiveGram) -> None:
    made = of_matrix(gram, [100.0, 5.0, 1.0, 0.05, 0.05], [1.0] * 5)
    found = residual_alignment(made, top=1, draws=20_000).random_top_gap_share
    noise = np.random.default_rng(1).standard_normal((200_000, 5)) ** 2 * [100, 5, 1, 0.05, 0.05]
    assert found == pytest.approx((noise[:, 0] / noise.sum(1)).mean(), abs=0.01)
    assert found < 0.9 < 100 / 106.1  # their share of the trace is .94
    draw = torch.Generator().manual_seed(3)
    each = [
        residual_alignment(replace(made, residual=torch.randn(5, generator=draw, dtype=torch.float64)), top=1, draws=2)
        for _ in range(2000)
    ]
    assert found == pytest.approx(float(np.mean([one.top_gap_share for one in each])), abs=0.02)
    flat = of_matrix(gram, [1.0] * 5, [1.0] * 5)
    assert residual_alignment(flat, top=2, draws=20_000).random_top_gap_share == pytest.approx(2 / 5, abs=0.01)


def test_alignments_that_cannot_be(gram: EffectiveGram) -> None:
    assert residual_alignment(gram, step=60).lower_share != residual_alignment(gram).lower_share
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"step": 7}, "no snapshot of step 7"), ({"top": 13}, "1 to 12 eigenvectors"), ({"draws": 1}, "two draws"),
    )  # fmt: skip
    for options, message in refused:
        with pytest.raises(InputError, match=message):
            residual_alignment(gram, **options)
    with pytest.raises(InputError, match="matrix is zero"):
        residual_alignment(replace(gram, matrix=torch.zeros(12, 12, dtype=torch.float64)))


@pytest.mark.parametrize(("lr", "steps"), [(100.0, 50), (1e3, 20), (30.0, 2000)])
def test_trainings_that_diverge_are_refused_before_they_overflow(lr, steps):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x, y = torch.randn(8, 2, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
    for take in (effective_gram_matrix, leave_one_out_gap):
        with pytest.raises(NonFiniteError, match="diverged"):
            take(net, x, y, lr=lr, steps=steps)
