"""Filling planar shapes, on few small ones."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from genkernel.errors import InputError
from genkernel.experiments.registry import experiment
from genkernel.experiments.shape_filling import experiment as study
from genkernel.experiments.shape_filling import outcome as shape_filling_outcome
from genkernel.experiments.shape_filling import shapes as planar_shapes
from genkernel.experiments.shape_filling import task
from genkernel.experiments.shape_filling.setting import Setting
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(
    size=16, samples=16, tested=5, channels=2, seeds=2, batch=8, epochs=2, compared=6, measured=4, probes=2
)  # fmt: skip


def test_a_boundary_is_what_has_a_neighbour_outside() -> None:
    mask = np.zeros((7, 7), dtype=bool)
    mask[1:6, 1:6] = True
    edge = planar_shapes.boundary(mask)
    assert edge.sum() == 16 and not edge[2:5, 2:5].any()
    assert planar_shapes.halved(np.ones((1, 4, 4), dtype=bool)).tolist() == [[[[1, 1], [1, 1]]]]


@pytest.mark.parametrize("kind", list(planar_shapes.KINDS))
def test_shapes_are_those_of_their_kind(kind: str) -> None:
    from scipy.ndimage import binary_fill_holes, label

    draw = np.random.default_rng(0)
    for _ in range(6):
        mask = planar_shapes.KINDS[kind](64, draw)
        assert not mask[0].any() and not mask[-1].any() and not mask[:, 0].any() and not mask[:, -1].any()
        parts = label(mask)[1]
        inside = mask & ~planar_shapes.boundary(mask)
        assert inside.any()
        if kind == "nested":
            assert parts == 2 and not np.array_equal(binary_fill_holes(mask), mask)
        else:
            assert np.array_equal(binary_fill_holes(mask), mask)
            assert 1 < parts <= 4 if kind == "several" else parts == 1


def test_shapes_are_from_the_seed() -> None:
    x, y = planar_shapes.shapes("branched", 3, 16, 1)
    assert x.shape == y.shape == (3, 1, 16, 16) and float(x.min()) >= 0 and float(y.max()) == 1
    assert torch.equal(x, planar_shapes.shapes("branched", 3, 16, 1)[0])
    assert not torch.equal(x, planar_shapes.shapes("branched", 3, 16, 2)[0])
    assert bool((x <= y).all())  # a boundary is part of its shape
    with pytest.raises(InputError, match="a kind of shape"):
        planar_shapes.shapes("square", 1, 16, 0)


def test_intersection_over_union() -> None:
    truth = torch.zeros(2, 1, 4, 4)
    truth[0, 0, :2] = 1
    guess = torch.zeros(2, 1, 4, 4)
    guess[0, 0, 1:3] = 0.9
    assert planar_shapes.intersection_over_union(guess, truth).tolist() == [pytest.approx(4 / 12), 0]


def test_lookahead_follows_halfway_every_k_steps() -> None:
    """Of a parameter that SGD moves by -1 in every step."""
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = task.Lookahead([p], torch.optim.SGD([p], lr=1.0), every=3, share=0.5)
    course = []
    for _ in range(6):
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
        course.append(float(p.detach()))
    assert course == [-1, -2, -1.5, -2.5, -3.5, -3]


def test_flips_move_image_and_truth_together() -> None:
    x, y = planar_shapes.shapes("branched", 12, 16, 0)
    a, b = task.flipped(x, y, torch.Generator().manual_seed(0))
    moved = 0
    for before, after, truth, new in zip(x, a, y, b, strict=True):
        ways = [dims for dims in ((), (1,), (2,), (1, 2)) if torch.equal(before.flip(dims), after)]
        assert any(torch.equal(truth.flip(dims), new) for dims in ways)
        moved += () not in ways
    assert 0 < moved < 12


def test_correlations_are_of_being_near() -> None:
    iou = {"a": np.array([0.9, 0.8, 0.7]), "b": np.array([0.3, 0.2, 0.1])}
    scores = {kind: {"distance": 1 - v, "pixels": np.ones(3)} for kind, v in iou.items()}
    one = study.Filling([], np.ones(1), iou, scores, {})
    assert shape_filling_outcome.correlations(one, "distance") == pytest.approx((1, 1))
    assert np.isnan(shape_filling_outcome.correlations(one, "pixels")).all()
    draw = np.random.default_rng(0)
    iou = {kind: draw.integers(8, size=12) / 8 for kind in ("a", "b")}  # with ties
    scores = {kind: {"similarity": draw.normal(size=12)} for kind in iou}
    one = study.Filling([], np.ones(1), iou, scores, {})
    pairs = [(scores[kind]["similarity"], iou[kind]) for kind in iou]
    every = spearmanr(*(np.concatenate(side) for side in zip(*pairs, strict=True))).statistic
    within = np.mean([spearmanr(*two).statistic for two in pairs])
    assert shape_filling_outcome.correlations(one, "similarity") == pytest.approx((every, within))


def test_pixels_are_compared_with_all_training_images() -> None:
    x, _ = planar_shapes.shapes("branched", 9, 16, 0)
    new = {kind: planar_shapes.shapes(kind, 3, 16, 1)[0] for kind in ("branched", "spiral")}
    new["spiral"][0] = x[8]  # a training image that the kernel is not computed of
    nets = task.unet(2, 0), task.unet(2, 1)
    found = study.scores(dataclasses.replace(TINY, compared=4), *nets, x, new, 0)
    for kind, images in new.items():
        for m, image in enumerate(images.double().numpy().reshape(3, -1)):
            known = x.double().numpy().reshape(9, -1)
            cosines = known @ image / np.linalg.norm(known, axis=1) / np.linalg.norm(image)
            assert found[kind]["pixels"][m] == pytest.approx(cosines.max(), abs=1e-6)
            assert found[kind]["same pixels"][m] == pytest.approx(cosines[:4].max(), abs=1e-6)
    assert found["spiral"]["pixels"][0] == pytest.approx(1) and found["spiral"]["same pixels"][0] < 0.99
    again = study.scores(dataclasses.replace(TINY, compared=4), *nets, x[:4], new, 0)
    assert np.array_equal(again["spiral"]["similarity"], found["spiral"]["similarity"])


def test_filled_has_two_levels() -> None:
    def holds(*values: float) -> str:
        return shape_filling_outcome._filled(values)

    assert [holds(0.995, 0.996, 0.997), holds(0.97, 0.971, 0.972), holds(0.9, 0.91, 0.92)] == ["yes", "partly", "no"]
    assert holds(0.97, 0.99, 0.98) == "partly" and holds(0.9, 0.999, 0.999) == holds(0.995) == "undecided"


def test_the_whole_of_it() -> None:
    assert experiment("shape-filling") is study.run
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state()) and (numpy_state == np.random.get_state()[1]).all()
    assert len(found.claims) == 6
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    scores = found.numbers["scores"][0]["spiral"]
    assert all(-1e-6 <= s <= 1 + 1e-6 for name in ("similarity", "distance", "pixels") for s in scores[name])
    json.dumps(json_ready(found.numbers))
    assert set(found.figures) == {"shape-filling", "shape-filling-examples"}
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in found.figures.values())
