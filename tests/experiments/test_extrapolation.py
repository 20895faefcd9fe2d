"""The experiment on extrapolation, on small printed digits in the place of handwritten ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genkernel.data import printed_characters
from genkernel.experiments.extrapolation import experiment as study
from genkernel.experiments.extrapolation import measures
from genkernel.experiments.extrapolation import outcome as extrapolation_outcome
from genkernel.experiments.extrapolation import task as extrapolation_task
from genkernel.experiments.extrapolation.setting import Setting
from genkernel.experiments.rank_correlation import rank_correlation
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(
    per_class=6, seen=3, printed=3, letters=2, further=2, seeds=2, steps=20, looks=(5, 20), batch=16, turns=(0, 90),
    heights=(0.71, 0.35), mixtures=(0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small printed digits under the name of MNIST."""
    place = tmp_path_factory.mktemp("data")
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 8), ("test", 6)):
        made = printed_characters(count=count, size=12, shift=1, seed=count)
        assert made.labels is not None
        arrays |= {f"x_{split}": (255 * made.images[:, 0]).byte().numpy(), f"y_{split}": made.labels.numpy()}
    np.savez(place / "mnist.npz", **arrays)  # type: ignore[arg-type]
    return place


def test_what_ranks_say_beyond_other_ranks() -> None:
    draw = np.random.default_rng(0)
    cause, noise = draw.normal(size=4000), draw.normal(size=(2, 4000))
    a, b = cause + noise[0], cause + noise[1]
    plain, beyond = rank_correlation(a, b), rank_correlation(a, b, cause)
    assert plain == pytest.approx(0.48, abs=0.03) and abs(beyond) < 0.04  # alike for one reason, and for no other
    assert rank_correlation(np.exp(a), b**3) == pytest.approx(plain)  # of ranks alone
    r = np.array([[rank_correlation(one, two) for two in (a, b, cause)] for one in (a, b, cause)])
    formula = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert beyond == pytest.approx(formula)
    assert math.isnan(rank_correlation(a, np.ones(4000))) and math.isnan(rank_correlation(a, b, a))


def test_profiles_of_halves_correlate_where_classes_have_them() -> None:
    draw = np.random.default_rng(0)
    labels = np.tile(np.arange(20), 4)  # classes in turn
    noise = draw.normal(size=(80, 10))
    own = 3 * draw.normal(size=(20, 10))[labels] + noise
    level = 50 * draw.normal(size=20)[labels][:, None] + 9 * draw.normal(size=10) + noise  # no class-specific profile
    assert measures.structure(own, labels, 4)[0] > 0.9 > 0.3 > abs(measures.structure(level, labels, 4)[0])
    assert measures.structure(own, labels, 4)[1] == pytest.approx(3 * 0.925, abs=0.5)


def test_digits_turn_by_a_share_of_the_largest_angle() -> None:
    images = printed_characters(count=1, size=20, seed=0).images
    torch.testing.assert_close(extrapolation_task.turned(images, 0, 0), images, atol=1e-5, rtol=0)
    share = 2 * torch.rand(10, generator=torch.Generator().manual_seed(3)) - 1
    quarter = extrapolation_task.turned(images[:1], 90 / float(share[0]), 3)  # just a quarter, one way or the other
    assert any(torch.allclose(quarter, images[:1].rot90(k, (2, 3)), atol=1e-4) for k in (1, 3))


def test_families_begin_where_they_should(folder: Path) -> None:
    pool = extrapolation_task.read(folder)
    images = extrapolation_task.draw(pool, TINY, 5)
    assert images.y.tolist() == list(range(10)) * 6 and torch.equal(images.seen, images.x[:30])
    assert len(images.letters) == 2 * len(extrapolation_task.CAPITALS) == 48
    for family in images.families.values():
        assert all(y.tolist() == list(range(10)) * 2 for _, y in family.values())
    mixed, turned, printed, shrunk = (
        images.families[name]
        for name in (
            extrapolation_task.MIXED, extrapolation_task.TURNED, extrapolation_task.TURNED_PRINTED,
            extrapolation_task.SHRUNK,
        )
    )  # fmt: skip
    torch.testing.assert_close(mixed[0][0], turned[0][0], atol=1e-5, rtol=0)  # both are the held-out digits
    assert torch.equal(mixed[1][0], printed[0][0]) and torch.equal(mixed[1][0], shrunk[0.71][0])
    half = extrapolation_task.families(images.held, images.held_labels, replace(TINY, mixtures=(0.5,)), 5)
    between = half[extrapolation_task.MIXED][0.5][0]
    torch.testing.assert_close(between, (mixed[0][0] + mixed[1][0]) / 2)
    assert bool((shrunk[0.35][0].flatten(1).sum(1) < shrunk[0.71][0].flatten(1).sum(1)).all())


def test_similarities_are_mean_cosines_of_gradients(folder: Path) -> None:
    images = extrapolation_task.draw(extrapolation_task.read(folder), TINY, 0)
    images = replace(images, letters=images.letters[:1], letter_labels=images.letter_labels[:1])
    start, network = extrapolation_task.trained(
        images.x, images.y, steps=2, batch=16, rate=1e-3, dropout=0.3, seed=0
    )  # fmt: skip
    found = measures.reaches(network, images)[measures.LETTERS].similarity[0]

    def feature(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([
            torch.cat([g.flatten() for g in torch.autograd.grad(network(x[None])[0, o], list(network.parameters()))])
            for o in range(10)
        ])  # fmt: skip

    one, seen = feature(images.letters[0]), torch.stack([feature(x) for x in images.seen])
    cosines = torch.nn.functional.cosine_similarity(seen, one[None])
    want = [float(cosines[images.seen_labels == c].mean()) for c in range(10)]
    np.testing.assert_allclose(found, want, atol=1e-4)
    assert not any(torch.equal(a, b) for a, b in zip(start.parameters(), network.parameters(), strict=True))


def test_letters_are_without_structure_where_profiles_do_not_repeat_or_are_faint() -> None:
    def letters(repeats: float, amplitude: float) -> dict[str, np.ndarray]:
        about = np.array([-0.01, 0.0, 0.01])
        return {"repeats": repeats + about, "amplitude": amplitude + 0.1 * about}

    held = {"amplitude": np.full(3, 0.2)}
    cases = ((0.9, 0.15), (0.9, 0.01), (0.05, 0.15), (0.2, 0.15), (0.2, 0.01))
    said = [extrapolation_outcome._without_structure(letters(*case), held) for case in cases]
    assert said == [False, True, True, None, True]


def test_cosines_are_those_of_the_kernel(folder: Path) -> None:
    images = extrapolation_task.draw(extrapolation_task.read(folder), TINY, 5)
    start, _ = extrapolation_task.trained(images.x, images.y, steps=1, batch=8, rate=1e-3, dropout=0.0, seed=0)
    found = measures.cosines(start, images, 2)
    assert {name: each.shape for name, each in found.items()} == {
        "training digits": (20, 20), "printed digits": (20, 20), "letters": (48, 20),
    }  # fmt: skip
    assert np.allclose(found["training digits"].diagonal(), 1, atol=1e-5)
    reach = measures.reaches(start, images)["printed digits"]
    rows = np.concatenate([np.flatnonzero(images.printed_labels.numpy() == c)[:2] for c in range(10)])
    ten = measures.cosines(start, images, 3)["printed digits"].reshape(10, 3, 10, 3).mean(3)[:, :2].reshape(20, 10)
    assert np.allclose(reach.similarity[rows], ten, atol=1e-5)


def test_the_study(folder: Path) -> None:
    assert experiment("extrapolation") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, data=folder, setting=TINY, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert [one.claim for one in found.claims] == list(extrapolation_outcome.CLAIMS)
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert set(found.figures) == {
        "extrapolation", "extrapolation-beyond", "extrapolation-course", "extrapolation-domain", "extrapolation-images",
        "extrapolation-letters",
    }  # fmt: skip
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in found.figures.values())
    json.dumps(json_ready(found.numbers))


def test_without_images_nothing_is_decided() -> None:
    found = study.run(progress=False, quick=True)
    assert {one.holds for one in found.claims} == {"undecided"} and not found.figures
    assert all("mnist.npz" in one.measured for one in found.claims)
