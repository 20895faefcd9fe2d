"""The study of the effective Gram matrix, on very little of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genkernel.errors import InputError, MissingError
from genkernel.experiments.effective_gram import experiment as effective_gram
from genkernel.experiments.effective_gram import measures as study
from genkernel.experiments.effective_gram import outcome as results
from genkernel.experiments.effective_gram import tasks
from genkernel.experiments.effective_gram.ranks import over_tasks
from genkernel.experiments.effective_gram.ranks import ranks as ranks_of
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = study.Setting(
    steps=8, rate=0.5, times=(0.5, 1.0), draws=2, narrow=1, shuffled=1, n=8, n_sine=8, width=4, width_sine=4,
    channels=4, few=5, held_out=20, held_out_digits=40, sizes=(6, 10), many=4, resamples=20,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("mnist", "fashion-mnist"):
        images = rng.integers(0, 256, (400, 28, 28), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=images, y_train=(np.arange(400) % 10).astype(np.uint8))
    return tmp_path


@pytest.fixture(scope="module")
def measured() -> study.Measured:
    case = study.Case(tasks.sine(0, 20), "tanh", 4, 8, None, 3)
    return study.measure(case, TINY, 0)


def test_training_sets_share_nothing_and_all_share_what_is_held_out(folder: Path) -> None:
    assert experiment("effective-gram") is effective_gram.run
    two = tasks.two_classes("two", folder / "mnist.npz", (4, 9), 0, 20)
    first, second = two.draw(10, 0), two.draw(10, 1)
    assert first.x.shape == (10, 1, 8, 8) and first.x.dtype == torch.float64
    assert not (first.x[:, None] == second.x[None]).flatten(2).all(2).any()
    assert torch.equal(first.x_test, second.x_test) and len(first.x_test) == 20
    assert float(first.x_test.mean(0).abs().max()) < 1e-12
    assert float(first.x_test.square().mean()) == pytest.approx(1)
    assert set(first.y.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(first.x, tasks.two_classes("two", folder / "mnist.npz", (4, 9), 0, 20).draw(10, 0).x)
    with pytest.raises(InputError, match="has no 7 training sets of 10 images"):
        two.draw(10, 6)
    mixed = first.shuffled(0)
    assert torch.equal(mixed.x, first.x) and not torch.equal(mixed.y, first.y)
    assert torch.equal(mixed.y.sort(0).values, first.y.sort(0).values)
    four = tasks.one_hot("four", folder / "mnist.npz", (0, 1, 2, 3), 0, 20)
    assert four.outputs == 4 and float(four.draw(10, 0).y.sum(1).abs().max()) < 1e-15


def test_generated_and_shipped_data() -> None:
    sine = tasks.sine(0, 500)
    one, other = sine.draw(2000, 0), sine.draw(2000, 1)
    assert not torch.equal(one.x, other.x) and torch.equal(one.x_test, other.x_test)
    assert float((one.y - torch.sin(3 * one.x)).std()) == pytest.approx(0.2, rel=0.1)
    digits = tasks.digits(0, 600)
    assert digits.most == 1197 and digits.draw(100, 10).x.shape == (100, 1, 8, 8)


def test_networks_are_of_the_seed_alone_and_rates_below_the_edge() -> None:
    state = torch.get_rng_state()
    task = tasks.digits(0, 600)
    x = task.draw(20, 0).x
    for kind in ("linear", "tanh", "ReLU", "CNN"):
        one, same, other = (tasks.network(kind, task, 4, seed) for seed in (0, 0, 1))
        assert torch.equal(one(x), same(x)) and not torch.equal(one(x), other(x)) and one(x).shape == (20, 1)
    assert torch.equal(state, torch.get_rng_state())
    net = tasks.network("linear", task, 1, 0)
    inputs = torch.cat([x.flatten(1), torch.ones(20, 1)], 1)
    top = float(torch.linalg.eigvalsh(inputs @ inputs.T / 20)[-1])
    assert tasks.rate(net, x, 0.5) == pytest.approx(0.5 / top)
    with pytest.raises(InputError, match="no network 'CNN' for samples of shape"):
        tasks.network("CNN", tasks.sine(0, 5), 4, 0)


def test_cases_and_data_that_is_missing(folder: Path, tmp_path: Path) -> None:
    found = study.cases(TINY, folder, 0, quick=False)
    assert len({case.name for case in found}) == len(found) == 17
    assert {case.left_out for case in found} == {None, 5} and found[-1].n == 10
    assert {case.task.name for case in study.cases(TINY, None, 0, quick=False)} == {"noisy sine", "digits, even or odd"}
    assert [case.kind for case in study.cases(TINY, folder, 0, quick=True)] == ["tanh", "linear", "tanh", "CNN"]
    with pytest.raises(MissingError, match="no folder"):
        effective_gram.run(data=tmp_path / "nothing", setting=TINY, progress=False)
    (folder / "mnist.npz").unlink()
    with pytest.raises(MissingError, match=r"no mnist\.npz"):
        effective_gram.run(data=folder, setting=TINY, progress=False)
    np.savez(folder / "mnist.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="no arrays x_train and y_train"):
        effective_gram.run(data=folder, setting=TINY, progress=False)


def test_contraction_factors_come_from_where_they_are_said_to(measured: study.Measured) -> None:
    found, runs = study.predictions(measured), measured.runs
    assert set(found) == set(study.SOURCES) and set(runs) == {(d, s) for d in range(3) for s in range(2)}
    key = (2, 1)
    for source, contraction in (
        (study.OWN, runs[key].contraction),
        (study.DATA, runs[0, 1].contraction),
        (study.SEED, runs[2, 0].contraction),
        (study.POOLED, study_pooled(runs[0, 1], runs[1, 1])),
    ):
        said, gap = found[source][key]
        np.testing.assert_allclose(said, runs[key].predicted_gap(contraction).numpy())
        np.testing.assert_allclose(gap, runs[key].gap.numpy())
    assert list(found[study.WIDTH]) == [(0, 0)]
    said, _ = found[study.WIDTH][0, 0]
    np.testing.assert_allclose(said, runs[0, 0].predicted_gap(measured.narrow[0].contraction).numpy())
    _, half = found[study.HALF][key]
    whole = runs[key].gap.numpy()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose((half + runs[key].among(order[:4]).gap.numpy()) / 2, whole)
    mean, own = study.gap_of_others(measured)[key]
    assert mean == pytest.approx(float(runs[0, 1].gap[-1] + runs[1, 1].gap[-1]) / 2)
    assert own == pytest.approx(float(runs[key].gap[-1]))


def study_pooled(*runs: Any) -> Any:
    from genkernel.spectra import pooled_contraction

    return pooled_contraction(list(runs))


def test_five_trainings_of_samples_that_are_all_alike_are_enough(measured: study.Measured) -> None:
    run = measured.runs[0, 0]
    assert study.few_left_out(run, 0) > 0.02
    run = type(run)(**{**vars(run), "excess": run.gap.expand(8, -1)})
    assert study.few_left_out(run, 0) < 1e-12


def test_numbers_of_a_case(measured: study.Measured) -> None:
    found = results.row(measured, TINY, 0)
    runs = measured.runs
    tests = torch.tensor([[float(runs[d, s].test_losses[k]) for k in (4, 8)] for d in range(3) for s in range(2)])  # type: ignore[index]
    assert found["losses"]["test"]["mean"] == pytest.approx(tests.mean(0).tolist(), rel=1e-5)
    by_draw = tests.view(3, 2, 2).mean(1)
    assert found["losses"]["test"]["stderr"] == pytest.approx((by_draw.std(0) / 3**0.5).tolist(), rel=1e-4)
    own = found["losses"][study.OWN]["mean"][-1]
    pairs = [(float((r.train_losses + r.predicted_gap())[-1]), float(r.test_losses[-1])) for r in runs.values()]  # type: ignore[index]
    assert found["single"][study.OWN] == pytest.approx(np.median([abs(a - b) / b for a, b in pairs]))
    assert found["error"] == pytest.approx(own / found["losses"]["test"]["mean"][-1] - 1)
    assert len(found["lower_share"]) == 3 and len(found["lower_share"][0]) == 2 and len(found["shuffled"]) == 1
    assert found["matched"] == [found["lower_share"][0][-1]]


def test_it_runs(folder: Path) -> None:
    outcome = effective_gram.run(data=folder, quick=True, setting=TINY, progress=False)
    assert [claim.holds in ("yes", "no", "partly", "undecided") for claim in outcome.claims] == [True] * 11
    assert json.loads(json.dumps(outcome.numbers))["cases"][0]["name"] == "noisy sine, tanh, n = 8"
    assert len(outcome.figures) == 5 and len(to_bytes(outcome.figures["effective-gram-alignment"], "png")) > 5000
    assert "– |" in outcome.markdown()  # a linear network has no width to halve
    axes = outcome.figures["effective-gram-predicted"].axes[0]
    assert axes.get_xlabel() == "test loss" and axes.get_xscale() == "log"


# ----------------------------------------------------------------------------- verdicts


def rows(error: float = 0.02, source: float = 0.05, share: float = 0.9, mixed: float = 0.6) -> list[dict[str, Any]]:
    """Cases whose predictions miss by ``error``, with c̄ of other data sets by ``source`` of the gap."""

    def loss(values: list[float]) -> dict[str, list[float]]:
        return {"mean": values, "stderr": [0.01, 0.01]}

    found = []
    for k in range(6):
        test = 0.2 + 0.05 * k
        losses = {"test": loss([test, test]), study.TRAIN: loss([test / 2, test / 2 - 0.08 * k + 0.1])}
        losses |= {name: loss([test, test * (1 + error)]) for name in (study.OWN, study.DATA, study.POOLED)}
        medians = {study.OWN: error / 10, study.POOLED: source, study.DATA: source, study.HALF: 0.3}
        medians |= {study.FEW: 0.3, study.OTHERS: 0.2}
        found.append(
            {
                "task": f"task {k % 4}", "n": 10, "left_out": 10, "losses": losses,
                "single": {study.OWN: error, study.TRAIN: 0.25},
                "errors": {name: {"median": value} for name, value in medians.items()},
                "lower_share": [[share, share], [share - 0.01, share]], "matched": [share], "shuffled": [mixed],
                "gap_ratio": [0.5, 0.52] if share > 0.5 else [1.5, 1.4], "shuffled_gap_ratio": [0.9],
            }
        )  # fmt: skip
    return found


def verdicts(found: list[dict[str, Any]], low: float = -0.3, high: float = 0.4) -> list[str]:
    ranks = ranks_of(found, 0, 20)
    over: list[dict[str, Any]] = [{"name": "a", "draws": 9, "correlation": 0.1, "low": low, "high": high}]
    bias = found[-1]["single"][study.OWN]
    over[0] |= {"bias": bias, "bias_interval": [bias - 0.02, bias + 0.02]}
    return [claim.holds for claim in results._claims(found, ranks, over)]


def test_verdicts_follow_what_is_measured() -> None:
    good = verdicts(rows())
    assert good[:6] + good[7:] == ["yes"] * 9 + ["undecided"]
    bad = verdicts(rows(error=0.3, source=0.5, share=0.4), low=-0.6, high=-0.1)
    assert bad[:6] + bad[7:] == ["no"] * 10
    assert verdicts(rows(), low=0.1, high=0.5)[-1] == "yes"
    some = rows()
    for one in some[:2]:
        one["single"] = {study.OWN: 0.2, study.TRAIN: 0.25}
    assert verdicts(some)[1] == "partly"
    assert verdicts(rows(mixed=0.95))[8] == "no"
    few = rows()
    for one in few:  # means on the right side of one half and of 1, and two training sets that leave it open
        one["lower_share"], one["gap_ratio"] = [[0.9, 0.9], [0.55, 0.55]], [0.5, 0.99]
    assert verdicts(few)[7] == verdicts(few)[9] == "undecided"


def test_two_standard_errors_are_not_enough_for_five_training_sets() -> None:
    found = rows()
    shares = 0.5 + 0.05 * (1.2 + np.array([-1.5, -0.5, 0.0, 0.5, 1.5]))
    assert (shares.mean() - 0.5) / (shares.std(ddof=1) / 5**0.5) == pytest.approx(2.4)  # of the 2.8 that it takes
    for one in found:
        one["lower_share"] = [[0.9, float(share)] for share in shares]
    assert verdicts(found)[7] == "undecided"


def test_intervals_of_rank_correlations_are_over_tasks() -> None:
    tasks = ["a", "a", "a", "b", "c"]
    values = np.array([0.0, 0.0, 0.0, 1.0, 2.0])
    whole, low, high = over_tasks(lambda index: float(values[index].mean()), tasks, 0, 4000, size=9.0)
    assert whole == pytest.approx(0.6) and low < 0 < 1.2 <= high  # one that draws cases has no more than 1.2
    seen = []
    over_tasks(lambda index: float(seen.append(tuple(index)) or 0), tasks, 0, 50)  # type: ignore[func-returns-value]
    assert all(drawn.count(0) == drawn.count(1) == drawn.count(2) for drawn in seen[1:])
    assert {len(drawn) for drawn in seen[1:]} == {3, 5, 7, 9}
    twice = rows() + rows()  # cases of known tasks once more say nothing new
    once, again = (ranks_of(part, 0, 200)[study.TRAIN] for part in (rows(), twice))
    assert once["tasks"] == again["tasks"] == 4 and again["units"] == 12
    assert [again[key] for key in ("spearman", "low", "high")] == pytest.approx(
        [once[key] for key in ("spearman", "low", "high")]
    )
    nothing = ranks_of([{**one, "task": "a"} for one in rows()], 0, 200)[study.OWN]
    assert np.isnan([nothing["low"], nothing["more_low"]]).all() and nothing["spearman"] == pytest.approx(1)


def test_shares_of_cases_and_signs_of_intervals() -> None:
    assert [results.mostly(parts) for parts in ([True] * 9 + [False], [True] * 6 + [False] * 4, [True, False], [])] == [
        "yes", "partly", "no", "undecided"
    ]  # fmt: skip
    yes, no = [True] * 4, [False] * 4
    assert [results.sure(*parts) for parts in ((yes, yes), (no, no), (no, yes), (yes[:3] + no[:1], yes), ([], []))] == [
        "yes", "no", "undecided", "partly", "undecided"
    ]  # fmt: skip
    nan = float("nan")
    ends: list[list[tuple[float, float]]] = [
        [(1, 2)], [(-2, -1), (-1, 1)], [(-1, 1)], [(1, 2), (-1, 1)], [(nan, 1)], []
    ]  # fmt: skip
    answers = ["yes", "no", "undecided", "partly", "undecided", "undecided"]
    assert [results.signs(one) for one in ends] == answers
    ends = [[(-0.05, 0.09)], [(0.2, 0.3), (-0.3, -0.2)], [(0.05, 0.15)], [(-0.05, 0.05), (0.2, 0.3)]]
    assert [results.within(one, 0.1) for one in ends] == ["yes", "no", "undecided", "partly"]
    assert results._range([0.001, 0.5, 0.02]) == "0.1 % to 50 %, median 2 %"


def test_correlations_over_training_sets() -> None:
    rng = np.random.default_rng(0)
    actual = rng.normal(size=50)
    case = study.Case(tasks.sine(0, 5), "tanh", 4, 8, None, 3)
    found = results.correlation(study.OverDraws(case, -actual + 0.1 * rng.normal(size=50), actual, actual + 10))
    assert found["correlation"] < -0.9 and found["high"] < -0.8 and found["draws"] == 50
    low, high = found["bias_interval"]
    assert (low + high) / 2 == pytest.approx(found["bias"])
    assert (high - low) / 2 == pytest.approx(2.0096 * found["bias_stderr"], rel=1e-4)  # t of 49 degrees of freedom
    short = study.many_draws(study.Case(tasks.digits(0, 1780), "linear", 1, 8, None, 3), TINY, 0)
    assert len(short.predicted) == 2  # there are no more
