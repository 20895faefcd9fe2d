"""What is read of a classifier, against per-sample gradients and plain counting."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.monitor import Monitor
from genkernel.monitor.classifier_watch import KEPT, ClassifierWatch, neighbour_votes
from genkernel.spectra import cka
from tests.monitor.states import differences, state_of

pytestmark = pytest.mark.usefixtures("one_thread")


def network(outputs: int = 3, width: int = 6) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def samples(n: int = 20, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return torch.randn(n, 4, generator=draw, dtype=torch.float64) + 1.5 * F.one_hot(y, 4), y


def read(watch: ClassifierWatch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in watch.parts().values():
        found |= part()
    return found


def features(module: nn.Module, x: Tensor) -> Tensor:
    """∂f(x_i)/∂θ by autograd, ``[n, C, P]``."""
    rows = []
    for one in x:
        out = module(one[None])[0]
        weights = list(module.parameters())
        each = [torch.autograd.grad(value, weights, retain_graph=True) for value in out]
        rows.append(torch.stack([torch.cat([g.flatten() for g in gradient]) for gradient in each]))
    return torch.stack(rows)


def cosines(phi: Tensor) -> Tensor:
    K = torch.einsum("aop,bop->ab", phi, phi)
    return K / torch.outer(K.diagonal(), K.diagonal()).sqrt()


# -------------------------------------------------------------------------------- values


def test_losses_are_those_of_each_class() -> None:
    net, (x, y) = network(), samples()
    x_new, y_new = samples(9, seed=2)
    watch = ClassifierWatch(net, x, y, holdout=(x_new, y_new), names=["a", "b", "c", "d"])
    found = read(watch)
    losses, right = F.cross_entropy(net(x), y, reduction="none").detach(), (net(x).argmax(1) == y).double()
    assert found["loss/mean"] == pytest.approx(float(losses.mean()), rel=1e-12)
    assert found["accuracy/mean"] == pytest.approx(float(right.mean()))
    for name, values in (("loss/class", losses), ("accuracy/class", right)):
        expected = [float(values[y == c].mean()) for c in range(3)]
        np.testing.assert_allclose(found[name], [*expected, math.nan], rtol=1e-12)  # no sample is of the last class
    assert found["loss/holdout"] == pytest.approx(float(F.cross_entropy(net(x_new), y_new).detach()), rel=1e-12)
    assert found["accuracy/holdout"] == pytest.approx(float((net(x_new).argmax(1) == y_new).double().mean()))
    assert watch.axes["class"].labels == ["a", "b", "c", "d"]


def test_the_kernel_and_what_it_makes_of_labels() -> None:
    net, (x, y) = network(), samples()
    found = read(ClassifierWatch(net, x, y))
    phi = features(net, x)
    k = cosines(phi)
    np.testing.assert_allclose(found["kernel/samples"], k, rtol=1e-9, atol=1e-12)
    K = torch.einsum("aop,bop->ab", phi, phi)
    assert found["kernel/label_alignment"] == pytest.approx(cka(K, y), rel=1e-9)
    same, off = y[:, None] == y[None, :], ~torch.eye(20, dtype=torch.bool)
    assert found["kernel/within"] == pytest.approx(float(k[same & off].mean()), rel=1e-9)
    assert found["kernel/between"] == pytest.approx(float(k[~same].mean()), rel=1e-9)
    for a in range(3):
        for b in range(3):
            mine = (y[:, None] == a) & (y[None, :] == b) & off
            assert found["kernel/class"][a, b] == pytest.approx(float(k[mine].mean()), rel=1e-9)
    disagree: list[bool] = []
    suspicion: list[float] = []
    for i in range(20):
        order = [j for j in torch.argsort(k[i], descending=True).tolist() if j != i][:5]
        counts = Counter(int(y[j]) for j in order)
        disagree.append(counts[int(y[i])] < max(counts.values()))
        suspicion.append(1 - counts[int(y[i])] / 5)
    assert 0 < np.mean(disagree) < 1
    assert found["kernel/label_disagreement"] == pytest.approx(np.mean(disagree))
    np.testing.assert_allclose(found["kernel/suspicion"], suspicion, atol=1e-12)


def test_a_wrong_label_is_the_most_suspicious_one() -> None:
    x, y = samples(30)
    x = 0.1 * x + 3 * F.one_hot(y, 4)
    wrong = y.clone()
    wrong[7] = (y[7] + 1) % 3
    found = read(ClassifierWatch(network(), x, wrong))
    assert int(found["kernel/suspicion"].argmax()) == 7 and found["kernel/suspicion"][7] == 1
    assert found["kernel/label_disagreement"] == pytest.approx(1 / 30)
    assert read(ClassifierWatch(network(), x, y))["kernel/label_disagreement"] == 0


def test_votes_of_equally_near_neighbours_are_shared() -> None:
    k = np.array([[1, 0.5, 0.5, 0.5], [0.5, 1, 0.9, 0.1], [0.5, 0.9, 1, 0.1], [0.5, 0.1, 0.1, 1]])
    votes = neighbour_votes(k, np.array([0, 0, 1, 1]), 2, 2)
    np.testing.assert_allclose(votes, [[2 / 3, 4 / 3], [1, 1], [2, 0], [1.5, 0.5]])
    np.testing.assert_array_equal(np.diag(k), 1)  # what was given is not written to


def test_five_logits_take_probes_and_four_the_exact_trace() -> None:
    x, y = samples()
    for outputs, exact in ((4, True), (5, False)):
        net = network(outputs)
        one, other = (read(ClassifierWatch(net, x, y, seed=seed))["kernel/samples"] for seed in (0, 1))
        assert np.array_equal(one, other) == exact
        assert np.array_equal(read(ClassifierWatch(net, x, y))["kernel/samples"], one)


def test_the_rank_gap_counts_new_directions() -> None:
    """A linear layer with one input per sample: gradients of the sum of logits are spanned by the inputs."""
    net = nn.Linear(6, 2, bias=False).double()
    x = torch.zeros(8, 6, dtype=torch.float64)
    x[:, :3] = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    new = torch.zeros(4, 6, dtype=torch.float64)
    new[0, :3] = torch.tensor([1.0, -2.0, 0.5])  # in the span
    new[1, 3], new[2, 4], new[3, 4] = 1, 2, 3  # two directions outside of it
    found = read(ClassifierWatch(net, x, torch.arange(8) % 2, holdout=new))
    assert (found["rank/gap"], found["rank/share"], found["rank/trained"]) == (2, 0.5, 3)
    assert found["rank/alone"] == 0 and "loss/holdout" not in found
    known = read(ClassifierWatch(net, x, torch.arange(8) % 2, holdout=new[:1]))
    assert known["rank/gap"] == 0 and math.isnan(known["rank/alone"])


def test_later_readings_are_of_the_present_weights_though_proofs_are_kept() -> None:
    net, (x, y) = network(), samples()
    kept = ClassifierWatch(net, x, y, holdout=samples(6, 2))
    read(kept)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.4)
    later, anew = read(kept), read(ClassifierWatch(net, x, y, holdout=samples(6, 2)))
    for name in anew.keys() - {"weights/moved"}:
        np.testing.assert_allclose(later[name], anew[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert (later["weights/moved"] > 0).all()


# ------------------------------------------------------------------------ kinds of classifiers


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module, how: str) -> None:
        super().__init__()
        self.net, self.how = net, how

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
        logits = self.net(x if scale is None else x * scale)
        return {
            "object": SimpleNamespace(logits=logits), "tuple": (logits, x), "mapping": {"loss": None, "logits": logits},
        }[self.how]  # fmt: skip


@pytest.mark.parametrize("how", ["object", "tuple", "mapping"])
def test_logits_are_found_in_what_a_network_returns(how: str) -> None:
    x, y = samples()
    plain, wrapped = read(ClassifierWatch(network(), x, y)), read(ClassifierWatch(Wrapped(network(), how), x, y))
    assert plain.keys() == wrapped.keys()
    for name in plain:
        np.testing.assert_allclose(wrapped[name], plain[name], rtol=1e-12, err_msg=name)


def test_inputs_may_be_arguments_by_name_or_in_order() -> None:
    x, y = samples()
    scale = torch.full((20, 1), 0.5).double()
    expected = read(ClassifierWatch(network(), 0.5 * x, y, holdout=(0.5 * x, y)))["loss/holdout"]
    for data in ({"x": x, "scale": scale}, (x, scale)):
        net = Wrapped(network(), "tuple")
        assert read(ClassifierWatch(net, data, y, holdout=(data, y)))["loss/holdout"] == pytest.approx(expected)
        assert "rank/gap" in read(ClassifierWatch(net, data, y, holdout=data))


def test_frozen_statistics_are_those_of_the_data() -> None:
    x, y = samples()
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    frozen, running = (read(ClassifierWatch(net, x, y, batch_norm=how))["loss/mean"] for how in ("frozen", "eval"))
    with torch.no_grad():
        assert frozen == pytest.approx(float(F.cross_entropy(net.train()(x), y)), rel=1e-9)
        assert running != pytest.approx(frozen)


def test_an_average_is_read_beside_the_weights() -> None:
    net, (x, y) = network(), samples()
    average = {name: 0.5 * p.detach() for name, p in net.named_parameters()}
    found = read(ClassifierWatch(net, x, y, ema=average))
    half = network()
    half.load_state_dict(average)
    assert found["ema/loss"] == pytest.approx(float(F.cross_entropy(half(x), y).detach()), rel=1e-12)
    assert found["ema/distance"] == pytest.approx(0.5)


# -------------------------------------------------------------------------------- over time


@pytest.mark.parametrize("n", [20, KEPT + 1])
def test_drift_whether_or_not_the_kernel_is_kept(n: int) -> None:
    net, (x, y) = network(), samples(n)
    mon = Monitor(net, data=x, targets=y)
    start = mon.read(0)
    assert ("kernel/samples" in start.arrays) == (n <= KEPT) and "kernel/drift" not in start.scalars
    with torch.no_grad():
        net[0].weight.add_(0.5)
    moved = mon.read(1).scalars
    assert moved["kernel/drift"] == moved["kernel/drift_last"] > 1e-3
    still = mon.read(2).scalars
    assert still["kernel/drift"] == pytest.approx(moved["kernel/drift"]) and abs(still["kernel/drift_last"]) < 1e-12
    mon.watch.forget()
    back = mon.read(3).scalars
    assert "kernel/drift_last" not in back and back["kernel/drift"] == pytest.approx(moved["kernel/drift"])


def test_arrays_have_the_shapes_of_their_axes() -> None:
    watch = ClassifierWatch(network(), *samples())
    arrays = {name: value for name, value in read(watch).items() if isinstance(value, np.ndarray)}
    assert arrays.keys() == watch.arrays.keys() - {"drawn/classes"}  # which the training reports
    for name, value in arrays.items():
        assert value.shape == tuple(len(watch.axes[axis]) for axis in watch.arrays[name]), name


# ------------------------------------------------------------------------- what goes wrong


def test_weights_that_are_not_finite_are_located() -> None:
    net, (x, y) = network(), samples()
    mon = Monitor(net, data=x, targets=y, holdout=samples(5, 2), ema=network())
    with torch.no_grad():
        net[2].bias[1] = math.inf
    reading = mon.read(0)
    assert {p.part for p in reading.problems} == {"loss", "kernel", "holdout", "holdout loss"}
    assert all(p.error == "NonFiniteError" and "'2.bias' holds 1 NaN" in p.message for p in reading.problems)
    assert reading.arrays["weights/nonfinite"].tolist() == [0, 0, 0, 1] and "ema/loss" in reading.scalars


def test_a_sample_whose_logits_overflow_is_named() -> None:
    x, y = samples()
    x[13] = 1e308
    net = nn.Sequential(nn.Linear(4, 3)).double()
    with torch.no_grad():
        net[0].weight.fill_(5.0)
    (problem,) = [p for p in Monitor(net, data=x, targets=y).read(0).problems if p.part == "loss"]
    assert problem.error == "NonFiniteError" and "first of 13" in problem.message


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_touched(broken: bool) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))
    x, y = samples()
    net(x.float()).sum().backward()
    net[4].bias.requires_grad_(False)
    average = torch.optim.swa_utils.AveragedModel(net)
    mon = Monitor(net, data=x.float(), targets=y, holdout=samples(5)[0].float(), ema=average)
    if broken:
        with torch.no_grad():
            net[4].weight[0, 0] = math.nan
    before = state_of(net, average)
    for step in range(2):
        problems = {p.part for p in mon.read(step).problems}
        assert problems == ({"loss", "kernel", "holdout"} if broken else set())
    assert differences(before, state_of(net, average)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": torch.zeros(20, dtype=torch.long)}, "at least two classes"),
        ({"targets": torch.arange(19) % 3}, "20 probes and 19 labels"),
        ({"targets": torch.arange(20) % 5}, "3 logits, and there are labels up to 4"),
        ({"targets": torch.rand(20)}, "whole numbers"),
        ({"data": torch.zeros(3, 4).double(), "targets": torch.arange(3)}, "at least 4 samples"),
        ({"data": torch.zeros(20, 7).double()}, "does not run on samples"),
        ({"holdout": torch.zeros(5, 7).double()}, "shape"),
        ({"holdout": (torch.zeros(5, 4).double(), torch.full((5,), 3))}, "labels up to 3"),
        ({"probes": 0}, "probes= is"),
        ({"batch_norm": "train"}, "batch_norm= is"),
        ({"names": ["a"]}, "3 classes among the labels and 1 names"),
        ({"module": nn.Linear(4, 1).double()}, "logits \\[n, C\\]"),
    ],
)
def test_wrong_inputs_are_refused(change: dict[str, Any], words: str) -> None:
    x, y = samples()
    given = {"module": network(), "data": x, "targets": y, **change}
    with pytest.raises(InputError, match=words):
        ClassifierWatch(given.pop("module"), given.pop("data"), given.pop("targets"), **given)


def test_inputs_with_their_classes_are_a_classifiers() -> None:
    net, (x, y) = network(), samples(8)
    pair, apart = Monitor(net, data=(x, y)), Monitor(net, data=x, targets=y)
    assert pair.read(0).scalars == apart.read(0).scalars and pair.trace.header.settings == apart.trace.header.settings
    assert repr(pair).startswith("Monitor(classifier, every 200 steps: 1 readings, 0 alerts")
    with pytest.raises(InputError, match=r"data=\(inputs, classes\)"):
        Monitor(net, data=(x, x))
