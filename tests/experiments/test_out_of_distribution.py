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
from genkernel.experiments import out_of_distribution as study
from genkernel.experiments.outcome import Outcome, experiment
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = study.Setting(per_class=4, count=20, seeds=2, steps=60, batch=16, lr=3e-3, ranked=(20, 6), resamples=60)


def digits(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = printed_characters(count=count, size=12, height=(0.8, 0.9), rotation=5, shift=0.5, seed=seed)
    return found.images, found.labels


@pytest.fixture(scope="module")
def images() -> study.Images:
    pool, seen, other = (digits(count, seed) for count, seed in ((6, 0), (2, 1), (2, 2)))
    upside = digits(2, 3)
    sets = {
        study.SEEN: seen[0],
        study.OTHER: other[0],
        study.PRINTED: upside[0].flip(2),
        study.LETTERS: digits(2, 4)[0].flip(3),
        study.FASHION: torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0)).round(),
        study.NOISE: study.noise(20, 12, 0),
    }
    return study.Images(*pool, sets, {study.SEEN: seen[1], study.OTHER: other[1], study.PRINTED: upside[1]})


@pytest.fixture(scope="module")
def outcome(images: study.Images) -> Outcome:
    state = torch.get_rng_state()
    found = study.run(progress=False, images=images, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    return found


def test_it_is_in_the_registry() -> None:
    assert experiment("out-of-distribution") is study.run


def test_every_score_of_every_set_is_in_one_table(outcome: Outcome) -> None:
    table = outcome.tables[0]
    assert table.columns[2:] == (study.OTHER, *study.FOREIGN)
    assert [row[:2] for row in table.rows] == [
        (kind, score) for kind in study.ARCHITECTURES for score in (*study.TANGENT, *study.BASELINES)
    ]
    for kind in study.ARCHITECTURES:
        for name in (study.OTHER, *study.FOREIGN):
            for one in outcome.numbers["auroc"][kind][name].values():
                assert 0 <= one["low"] <= one["mean"] <= one["high"] <= 1 and len(one["each"]) == 2
        easy = outcome.numbers["auroc"][kind][study.NOISE]
        assert easy[study.DISTANCE]["mean"] > 0.9  # noise is far from everything that was learned
    assert len(outcome.claims) == 16 and all("nan" not in claim.measured for claim in outcome.claims[:5])
    assert outcome.markdown().count("|") > 500


def test_the_same_seed_gives_the_same_numbers(images: study.Images) -> None:
    one, again, other = (study._one(images, TINY, "CNN", False, seed)["scores"] for seed in (0, 0, 1))
    for score, sets in one.items():
        for name, values in sets.items():
            assert np.array_equal(values, again[score][name])
    assert not np.array_equal(one[study.DISTANCE][study.SEEN], other[study.DISTANCE][study.SEEN])
    assert np.array_equal(one[study.LEVERAGE][study.SEEN].shape, (20,))


def test_networks_without_eight_and_nine_meet_them_as_new(images: study.Images) -> None:
    found = study._one(images, TINY, "MLP", True, 0)
    assert set(found["scores"][study.DISTANCE]) == {study.SEEN, study.OTHER, study.UNSEEN}
    sizes = {name: len(values) for name, values in found["scores"][study.DISTANCE].items()}
    assert sizes == {study.SEEN: 16, study.OTHER: 16, study.UNSEEN: 8}
    near = found["clusters"]
    assert all(0 <= share <= 1 for state in study.STATES for share in near[state]) and set(near["cosines"]) == {
        "untrained", "trained",
    }  # fmt: skip
    assert len(found["right"][study.SEEN]) == 16 and study.PRINTED not in found["cosine"]


def test_a_network_that_learned_nothing_new_finds_its_own_images_at_distance_zero(images: study.Images) -> None:
    net = study.train(*(t[:40] for t in (images.pool, images.pool_labels)), "MLP", TINY, 0)
    scores, cosine = study._scores(net, images.pool[:40], images.pool_labels[:40], images.pool[:45])
    assert scores[study.DISTANCE][:40].max() < 1e-5 < 0.01 < scores[study.DISTANCE][40:].min()
    assert np.allclose(cosine[:40], 1) and np.allclose(scores[study.PIXELS][:40], 0, atol=1e-6)
    assert scores[study.LEVERAGE][:40].sum() == pytest.approx(40)
    own = scores[study.NORM]
    for ridge in study.RIDGES:
        raw, relative = (scores[f"{name}, λ = {ridge:g}"] for name in ("ridge variance", "the same / k(x, x)"))
        assert np.allclose(raw, relative * own) and (relative >= scores[study.DISTANCE] ** 2 - 1e-9).all()


def test_gaps_in_one_basis_are_those_of_the_features(images: study.Images) -> None:
    import genkernel as gk
    from genkernel.spectra import tangent_rank_gap

    net = study.train(images.pool, images.pool_labels, "CNN", TINY, 0)
    found = study._gaps(net, images.pool, {study.SEEN: images.sets[study.SEEN][:6]}, (20, 6))[study.SEEN]
    cotangents = study._cotangents("predicted logit")
    phi, star = (gk.tangent_features(net, t, cotangents=cotangents)[:, 0] for t in (
        images.pool[:20], images.sets[study.SEEN][:6]))  # fmt: skip
    assert found[1:] == [tangent_rank_gap(phi, star, t).gap / 6 for t in study.TOLERANCES]
    assert found[0] == 1 and found == sorted(found, reverse=True)


def test_pairs_and_resamples_are_areas_under_curves() -> None:
    draw = np.random.default_rng(0)
    known, new = draw.normal(size=(3, 40)).round(1), draw.normal(size=(3, 30)).round(1) + 0.5
    pairs = np.stack([study.ranked_pairs(a, b) for a, b in zip(known, new, strict=True)])
    expected = [
        roc_auc_score(np.repeat([0, 1], [40, 30]), np.concatenate([a, b])) for a, b in zip(known, new, strict=True)
    ]
    assert np.allclose(pairs.mean((1, 2)), expected)
    drawn = study.resampled(np.stack([pairs, pairs], 1), 400, 0)
    assert drawn.shape == (400, 2) and np.array_equal(drawn[:, 0], drawn[:, 1])  # paired
    assert abs(drawn.mean() - np.mean(expected)) < 0.02 and 0.01 < drawn[:, 0].std() < 0.1
    with pytest.raises(InputError, match="NaN"):
        study.ranked_pairs(np.array([np.nan]), np.array([1.0]))


def test_verdicts_follow_the_intervals() -> None:
    yes, no, open_ = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
    cases = ([yes, yes], [no, no], [yes, no], [yes, open_], [open_, no], [yes, no, open_], [(-0.01, 0.01)])
    assert [study.above(*case) for case in cases] == [
        "yes", "no", "partly", "undecided", "undecided", "partly", "no",
    ]  # fmt: skip
    assert study.above((float("nan"), float("nan"))) == "undecided"


def test_figures_have_every_set(outcome: Outcome) -> None:
    dots, pictures = (outcome.figures[f"out-of-distribution{end}"] for end in ("", "-gallery"))
    assert [axes.get_title(loc="left") for axes in dots.axes] == [study.OTHER, *study.FOREIGN]
    assert len(pictures.axes) == 8 and to_bytes(pictures, "png")[:4] == b"\x89PNG"


def test_what_is_missing_is_said(tmp_path: Path, images: study.Images) -> None:
    with pytest.raises(MissingError, match="give data="):
        study.run(quick=True, progress=False)
    with pytest.raises(MissingError, match=r"holds no mnist\.npz"):
        study.run(quick=True, progress=False, data=tmp_path)
    with pytest.raises(InputError, match="8 images of the class 0 are needed, and there are 6"):
        study._one(images, replace(TINY, per_class=8), "MLP", False, 0)
    with pytest.raises(InputError, match="MLP or CNN"):
        study.Classifier("ViT")


def test_images_are_read_from_archives(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("mnist.npz", "fashion-mnist.npz"):
        arrays = {
            f"x_{part}": draw.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in (("train", 80), ("test", 60))
        }
        arrays |= {f"y_{part}": np.arange(n, dtype=np.uint8) % 10 for part, n in (("train", 80), ("test", 60))}
        np.savez(tmp_path / name, **arrays)
    found = study.read(tmp_path, replace(TINY, count=20), 0)
    assert {name: tuple(part.shape) for name, part in found.sets.items()} == dict.fromkeys(
        (study.SEEN, study.OTHER, *study.FOREIGN[:4]), (20, 1, 28, 28)
    )
    assert found.labels[study.SEEN].tolist() == [*range(10), *range(10)] == found.labels[study.PRINTED].tolist()
    assert not (found.sets[study.SEEN][:, None] == found.sets[study.OTHER][None]).flatten(2).all(2).any()
