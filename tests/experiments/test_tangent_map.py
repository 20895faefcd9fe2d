"""The experiment on maps of tangent features, on small printed digits in the place of handwritten ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from genkernel.data import printed_characters
from genkernel.experiments.registry import experiment
from genkernel.experiments.tangent_map import experiment as study
from genkernel.experiments.tangent_map import measures
from genkernel.experiments.tangent_map import outcome as tangent_map_outcome
from genkernel.experiments.tangent_map.setting import ALL, LOWER, Setting
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(per_class=6, shown=5, seeds=2, steps=15, batch=16, neighbours=3, folds=2, starts=2)


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


def blobs(spread: float, each: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised kernel of points about ten orthogonal directions, one for every digit."""
    labels = torch.arange(10).repeat(each)
    noise = torch.randn(len(labels), 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.eye(10, 30, dtype=torch.float64)[labels] + spread * noise
    points = torch.nn.functional.normalize(points, dim=1)
    return points @ points.T, labels


def test_what_is_separated_and_what_is_not() -> None:
    tight, labels = blobs(0.01)
    found = measures.groups(tight, labels, LOWER, TINY, 0)
    assert found["clusters"] == found["neighbours"] == found["separation"] == 1 and found["silhouette"] > 0.9
    loose = measures.groups(blobs(100.0)[0], labels, LOWER, TINY, 0)
    assert abs(loose["clusters"]) < 0.2 and loose["neighbours"] < 0.5 and abs(loose["silhouette"]) < 0.1


def test_clusters_of_a_kernel_are_those_of_its_points() -> None:
    from sklearn.cluster import KMeans

    draw = np.random.default_rng(0)
    points = np.concatenate([draw.normal(at, 0.1, (6, 3)) for at in (0, 2, 5)])
    got = measures.kernel_means(torch.from_numpy(points @ points.T), 3, 3, 0)
    want = KMeans(3, n_init=3, random_state=0).fit_predict(points)
    assert ((got[:, None] == got) == (want[:, None] == want)).all()


def test_who_the_neighbours_are() -> None:
    K, labels = blobs(0.01)
    np.testing.assert_array_equal(measures.neighbours_of(K, labels, 3), np.eye(10))
    merged = labels.clone()
    merged[labels == 7] = 1
    assert np.array(measures.neighbours_of(K, merged, 3))[1, 1] == 1
    K[labels == 7] = K[labels == 1]  # sevens look like ones, and do not know one another
    K[:, labels == 7] = K[:, labels == 1]
    shares = np.array(measures.neighbours_of(K, labels, 10))[7]
    assert shares[1] + shares[7] == pytest.approx(1)


def test_the_kernel_of_pixels_is_cosines() -> None:
    images = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    flat = torch.nn.functional.normalize(images.double().flatten(1), dim=1)
    torch.testing.assert_close(measures.gram_of(None, images), flat @ flat.T)


def test_maps_are_of_umap_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.spectra import embed

    class UMAP:
        def __init__(self, **options: object) -> None:
            assert options["metric"] == "precomputed"

        def fit_transform(self, distances: np.ndarray) -> np.ndarray:
            return distances[:, :2]

    fake = ModuleType("umap")
    fake.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", fake)
    assert measures.map_method() == "umap"
    assert embed(blobs(0.1)[0], measures.map_method()).method == "umap"
    monkeypatch.setitem(sys.modules, "umap", None)  # as where it is not installed
    assert measures.map_method() == "tsne"


def made(learned: float, others: float, start: float) -> list[dict[str, object]]:
    """Three seeds with these agreements."""
    found = []
    for noise in (-0.005, 0.0, 0.005):

        def of(value: float, by: float = noise) -> dict[str, float]:
            return dict.fromkeys((*tangent_map_outcome.MEASURES, "within", "between"), value + by)

        values = {
            "pixels": (start, start), "untrained": (start, start), "trained on 0 to 4": (learned, others),
            "trained on 5 to 9": (others, learned), "trained on all": (learned, learned),
        }  # fmt: skip
        shares = {case: np.diag([low] * 5 + [high] * 5).tolist() for case, (low, high) in values.items()}
        found.append({
            "groups": {case: {"0 to 4": of(low), "5 to 9": of(high)} for case, (low, high) in values.items()},
            "neighbours": shares,
        })  # fmt: skip
    return found  # type: ignore[return-value]


def test_verdicts_follow_intervals() -> None:
    as_told = tangent_map_outcome.claims(made(0.95, 0.3, 0.3))
    assert [one.holds for one in as_told] == ["yes"] * 10
    otherwise = tangent_map_outcome.claims(made(0.95, 0.96, 0.92))  # all are separated, before the training too
    assert [otherwise[i].holds for i in (0, 4, 6, 7, 8)] == ["no"] * 5


def test_the_study(folder: Path) -> None:
    assert experiment("tangent-map") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, data=folder, setting=TINY, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert [one.claim for one in found.claims] == list(tangent_map_outcome.CLAIMS)
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert [row[0] for row in found.tables[1].rows] == list(ALL)
    assert set(found.figures) == {"tangent-map", "tangent-map-measures", "tangent-map-classes"}
    assert all(to_bytes(figure, "png")[:4] == b"\x89PNG" for figure in found.figures.values())
    json.dumps(json_ready(found.numbers))
    again = study.measured(study.read(folder), TINY, 3)
    for case, groups in again["groups"].items():
        for name, measured in groups.items():
            assert measured == pytest.approx(found.numbers["groups"][0][case][name], abs=1e-6)


def test_without_images_nothing_is_decided() -> None:
    found = study.run(progress=False, quick=True)
    assert {one.holds for one in found.claims} == {"undecided"} and not found.figures
