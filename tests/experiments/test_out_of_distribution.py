"""Scores of novelty of classifiers, on few made-up images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from genkernel.data import printed_characters
from genkernel.errors import InputError, MissingError
from genkernel.experiments.out_of_distribution import areas, claims, task
from genkernel.experiments.out_of_distribution import experiment as study
from genkernel.experiments.out_of_distribution import scores as measured
from genkernel.experiments.out_of_distribution.tables import shares
from genkernel.experiments.outcome import Outcome
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = task.Setting(per_class=4, count=20, seeds=2, steps=60, batch=16, lr=3e-3, ranked=(20, 6), resamples=60)


def digits(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = printed_characters(count=count, size=12, height=(0.8, 0.9), rotation=5, shift=0.5, seed=seed)
    return found.images, found.labels


@pytest.fixture(scope="module")
def images() -> task.Images:
    pool, seen, other = (digits(count, seed) for count, seed in ((6, 0), (2, 1), (2, 2)))
    upside = digits(2, 3)
    sets = {
        task.SEEN: seen[0],
        task.OTHER: other[0],
        task.PRINTED: upside[0].flip(2),
        task.LETTERS: digits(2, 4)[0].flip(3),
        task.FASHION: torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0)).round(),
        task.NOISE: task.noise(20, 12, 0),
    }
    return task.Images(*pool, sets, {task.SEEN: seen[1], task.OTHER: other[1], task.PRINTED: upside[1]})


@pytest.fixture(scope="module")
def outcome(images: task.Images) -> Outcome:
    state = torch.get_rng_state()
    found = study.run(progress=False, images=images, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    return found


def test_it_is_in_the_registry() -> None:
    assert experiment("out-of-distribution") is study.run


def test_every_score_of_every_set_is_in_one_table(outcome: Outcome) -> None:
    table = outcome.tables[0]
    assert table.columns[2:] == (task.OTHER, *task.FOREIGN)
    assert [row[:2] for row in table.rows] == [
        (kind, score) for kind in task.ARCHITECTURES for score in (*measured.TANGENT, *measured.BASELINES)
    ]
    for kind in task.ARCHITECTURES:
        for name in (task.OTHER, *task.FOREIGN):
            for one in outcome.numbers["auroc"][kind][name].values():
                assert 0 <= one["low"] <= one["mean"] <= one["high"] <= 1 and len(one["each"]) == 2
        easy = outcome.numbers["auroc"][kind][task.NOISE]
        assert easy[measured.DISTANCE]["mean"] > 0.9  # noise is far from everything that was learned
    assert len(outcome.claims) == 18 and all("nan" not in claim.measured for claim in outcome.claims[:5])
    assert outcome.markdown().count("|") > 500


def test_the_same_seed_gives_the_same_numbers(images: task.Images) -> None:
    one, again, other = (study._one(images, TINY, "CNN", False, seed)["scores"] for seed in (0, 0, 1))
    for score, sets in one.items():
        for name, values in sets.items():
            assert np.array_equal(values, again[score][name])
    assert not np.array_equal(one[measured.DISTANCE][task.SEEN], other[measured.DISTANCE][task.SEEN])
    assert np.array_equal(one[measured.LEVERAGE][task.SEEN].shape, (20,))


def test_networks_without_eight_and_nine_meet_them_as_new(images: task.Images) -> None:
    found = study._one(images, TINY, "MLP", True, 0)
    assert set(found["scores"][measured.DISTANCE]) == {task.SEEN, task.OTHER, task.UNSEEN}
    sizes = {name: len(values) for name, values in found["scores"][measured.DISTANCE].items()}
    assert sizes == {task.SEEN: 16, task.OTHER: 16, task.UNSEEN: 8}
    near = found["clusters"]
    assert set(near["cosines"]) == {"untrained", "trained"}
    for state in measured.STATES:
        old, new = shares(near, state)
        assert len(near[state]) == 20 and 0 <= min(near[state]) <= max(near[state]) <= 1
        assert old * 16 + new * 4 == pytest.approx(near[state].sum()) and new == pytest.approx(
            near[state][[8, 9, 18, 19]].mean()
        )
    assert len(found["right"][task.SEEN]) == 16 and task.PRINTED not in found["cosine"]


def test_a_network_that_learned_nothing_new_finds_its_own_images_at_distance_zero(images: task.Images) -> None:
    net = task.train(*(t[:40] for t in (images.pool, images.pool_labels)), "MLP", TINY, 0)
    scores, cosine = measured.scores(net, images.pool[:40], images.pool_labels[:40], images.pool[:45])
    assert scores[measured.DISTANCE][:40].max() < 1e-5 < 0.01 < scores[measured.DISTANCE][40:].min()
    assert np.allclose(cosine[:40], 1) and np.allclose(scores[measured.PIXELS][:40], 0, atol=1e-6)
    assert scores[measured.LEVERAGE][:40].sum() == pytest.approx(40)
    own = scores[measured.NORM]
    for ridge in measured.RIDGES:
        raw, relative = (scores[f"{name}, λ = {ridge:g}"] for name in ("ridge variance", "the same / k(x, x)"))
        assert np.allclose(raw, relative * own) and (relative >= scores[measured.DISTANCE] ** 2 - 1e-9).all()


def test_gaps_in_one_basis_are_those_of_the_features(images: task.Images) -> None:
    import genkernel as gk
    from genkernel.spectra import tangent_rank_gap

    net = task.train(images.pool, images.pool_labels, "CNN", TINY, 0)
    found = measured.gaps(net, images.pool, {task.SEEN: images.sets[task.SEEN][:6]}, (20, 6))[task.SEEN]
    cotangents = measured.cotangents("predicted logit")
    phi, star = (gk.tangent_features(net, t, cotangents=cotangents)[:, 0] for t in (
        images.pool[:20], images.sets[task.SEEN][:6]))  # fmt: skip
    assert found[1:] == [tangent_rank_gap(phi, star, t).gap / 6 for t in measured.TOLERANCES]
    assert found[0] == 1 and found == sorted(found, reverse=True)


def test_pairs_and_resamples_are_areas_under_curves() -> None:
    draw = np.random.default_rng(0)
    known, new = draw.normal(size=(3, 40)).round(1), draw.normal(size=(3, 30)).round(1) + 0.5
    pairs = np.stack([areas.ranked_pairs(a, b) for a, b in zip(known, new, strict=True)])
    expected = [
        roc_auc_score(np.repeat([0, 1], [40, 30]), np.concatenate([a, b])) for a, b in zip(known, new, strict=True)
    ]
    assert np.allclose(pairs.mean((1, 2)), expected)
    drawn = areas.resampled(np.stack([pairs, pairs], 1), 400, 0)
    assert drawn.shape == (400, 2) and np.array_equal(drawn[:, 0], drawn[:, 1])  # paired
    assert abs(drawn.mean() - np.mean(expected)) < 0.02 and 0.01 < drawn[:, 0].std() < 0.1
    with pytest.raises(InputError, match="NaN"):
        areas.ranked_pairs(np.array([np.nan]), np.array([1.0]))


def test_intervals_count_networks_and_images() -> None:
    from scipy.stats import norm, t

    draw = np.random.default_rng(0)
    each = np.array([0.8, 0.9, 0.85, 0.95])
    alone = each[draw.integers(4, size=(40_000, 4))].mean(1)  # no image matters: Student's t over networks
    mean, low, high = areas.interval(each, alone)
    assert (mean, high - mean) == (
        pytest.approx(0.875),
        pytest.approx(t.ppf(0.975, 3) * each.std(ddof=1) / 2, rel=0.02),
    )
    assert mean - low == pytest.approx(high - mean)
    same = np.full(4, 0.8)  # no network matters: the bootstrap over images
    _, low, high = areas.interval(same, 0.8 + 0.01 * draw.normal(size=40_000))
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * 0.01, rel=0.02)
    assert areas.interval(same, np.full(9, 0.8)) == (0.8, 0.8, 0.8)
    assert all(np.isnan(areas.interval(each[:1], alone)[1:]))


def test_few_networks_are_not_taken_for_many() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for seed in range(150):
        values = draw.normal(size=(4, 1)) + draw.normal(size=(4, 40))
        drawn = areas.resampled_means([values], 150, seed)[:, 0]
        _, low, high = areas.interval(values.mean(1), drawn)
        covered += low < 0 < high
    assert covered >= 0.9 * 150  # percentiles of these resamples cover .8


def test_errors_are_ranked_within_networks() -> None:
    draw = np.random.default_rng(0)
    scores, right = draw.normal(size=(3, 2, 40)).round(1), draw.random((3, 40)) < 0.7
    each, drawn = areas.resampled_errors(scores, right, 300, 0)
    expected = [[roc_auc_score(~r, s) for s in both] for both, r in zip(scores, right, strict=True)]
    assert np.allclose(each, expected) and drawn.shape == (300, 2)
    assert np.allclose(drawn.mean(0), each.mean(0), atol=0.03)
    same = areas.resampled_errors(np.stack([scores[:, 0]] * 2, 1), right, 20, 0)[1]
    assert np.array_equal(same[:, 0], same[:, 1])  # paired


def test_verdicts_follow_the_intervals() -> None:
    yes, no, open_ = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
    cases = (
        [yes, yes],
        [no, no],
        [yes, no],
        [yes, open_],
        [open_, no],
        [yes, no, open_],
        [(-0.01, 0.01)],
        [(0.001, 0.01)],
    )
    assert [claims.above(*case) for case in cases] == [
        "yes", "no", "partly", "partly", "no", "partly", "no", "no",
    ]  # fmt: skip
    assert claims.above((float("nan"), float("nan"))) == "undecided"


def test_rank_gaps_are_held_against_test_digits() -> None:
    def networks(seen: float, new: float) -> list[dict[str, object]]:
        gaps = {name: [1.0, 1.0, 1.0, new, 0, 0] for name in task.FOREIGN} | {task.SEEN: [1.0, 1.0, 1.0, seen, 0, 0]}
        return [
            {"kind": kind, "without": some, "gaps": gaps} for kind in task.ARCHITECTURES for some in (False, True)
        ] * 2

    rounding, coarse = claims._gap_claims(networks(0.4, 0.9))
    assert (rounding.holds, coarse.holds) == ("no", "yes")
    assert claims._gap_claims(networks(0.9, 0.4))[1].holds == "no"


def test_figures_have_every_set(outcome: Outcome) -> None:
    dots, pictures = (outcome.figures[f"out-of-distribution{end}"] for end in ("", "-gallery"))
    assert [axes.get_title(loc="left") for axes in dots.axes] == [task.OTHER, *task.FOREIGN]
    assert len(pictures.axes) == 8 and to_bytes(pictures, "png")[:4] == b"\x89PNG"


def test_what_is_missing_is_said(tmp_path: Path, images: task.Images) -> None:
    with pytest.raises(MissingError, match="give data="):
        study.run(quick=True, progress=False)
    with pytest.raises(MissingError, match=r"holds no mnist\.npz"):
        study.run(quick=True, progress=False, data=tmp_path)
    with pytest.raises(InputError, match="8 images of the class 0 are needed, and there are 6"):
        study._one(images, replace(TINY, per_class=8), "MLP", False, 0)
    with pytest.raises(InputError, match="MLP or CNN"):
        task.Classifier("ViT")


def test_images_are_read_from_archives(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("mnist.npz", "fashion-mnist.npz"):
        arrays = {
            f"x_{part}": draw.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in (("train", 80), ("test", 60))
        }
        arrays |= {f"y_{part}": np.arange(n, dtype=np.uint8) % 10 for part, n in (("train", 80), ("test", 60))}
        np.savez(tmp_path / name, **arrays)
    found = task.read(tmp_path, replace(TINY, count=20), 0)
    assert {name: tuple(part.shape) for name, part in found.sets.items()} == dict.fromkeys(
        (task.SEEN, task.OTHER, *task.FOREIGN[:4]), (20, 1, 28, 28)
    )
    assert found.labels[task.SEEN].tolist() == [*range(10), *range(10)] == found.labels[task.PRINTED].tolist()
    assert not (found.sets[task.SEEN][:, None] == found.sets[task.OTHER][None]).flatten(2).all(2).any()
