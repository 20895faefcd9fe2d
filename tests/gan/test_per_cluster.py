"""The table of clusters: numbers by hand, and a conditional generator one of whose classes has collapsed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genkernel.gan import Discriminator, Generator
from genkernel.gan.analysis import analyze
from genkernel.gan.clusters import Clusters, k_means
from genkernel.gan.coverage import diversity
from genkernel.gan.per_cluster import per_cluster
from genkernel.gan.results import GanResult
from genkernel.gan.stages import Compared, Real

CLASSES, COLLAPSED, SWAPPED = 4, 2, 3
ANGLES = torch.arange(CLASSES) * math.tau / CLASSES
CENTRES = 2 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


class Conditional(nn.Module):
    """A bump for every class; that of one class is a thin line, and half of another lies in the first class's place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 + CLASSES, 16), nn.Tanh(), nn.Linear(16, 2))
        self.centres = nn.Parameter(CENTRES.clone())
        widths = torch.full((CLASSES, 2), 0.2)
        widths[COLLAPSED] = torch.tensor([0.02, 0.0002])
        self.register_buffer("widths", widths)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = z + 0.3 * self.net(torch.cat([z, F.one_hot(y, CLASSES).to(z)], 1))
        place = torch.where((y == SWAPPED) & (z[:, 0] > 0), 0, y)
        return self.centres[place] + self.widths[y] * h


class Judge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.net = nn.Embedding(CLASSES, 3), nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net(torch.cat([x, self.embed(y)], 1))


def analysed() -> GanResult:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gen = Generator(Conditional(), (2,), classes=CLASSES)
        disc = Discriminator(Judge(), (2,), classes=CLASSES)
    labels = torch.arange(120) % CLASSES
    real = CENTRES[labels] + 0.2 * torch.randn(120, 2, generator=torch.Generator().manual_seed(1))
    found, _ = analyze(
        gen, disc, latents=80, jacobians=24, fresh=0, check=False, real=real, real_labels=labels,
        classifier=lambda x: -torch.cdist(x, CENTRES.to(x)),
    )  # fmt: skip
    return found


def test_a_class_that_has_collapsed_within_itself_is_seen() -> None:
    result = analysed()
    table = result.per_cluster
    assert table is not None
    np.testing.assert_allclose(table.occupancy, 1 / CLASSES)  # as it was asked for: no sign of anything
    np.testing.assert_allclose(table.real_occupancy, 1 / CLASSES)
    assert table.relative_diversity[COLLAPSED] < 0.1
    assert (np.delete(table.relative_diversity, COLLAPSED) > 0.5).all()
    for name, worst in (
        ("diversity", np.argmin), ("log_volume", np.argmin), ("effective_rank", np.argmin),
        ("condition_number", np.argmax), ("kernel_within", np.argmax),
    ):  # fmt: skip
        assert worst(getattr(table, name)) == COLLAPSED, name
    # the class that is drawn in another's place
    asked = np.bincount(result.clusters.labels, minlength=CLASSES) / 80
    assert table.agreed[SWAPPED] < 0.8 and (np.delete(table.agreed, SWAPPED) > 0.95).all()
    assert table.recognised[SWAPPED] < asked[SWAPPED] < table.recognised[0]
    assert table.recognised.sum() == pytest.approx(1)
    summary = result.to_summary()["per_cluster"]
    assert summary["latents"] == [20] * CLASSES and summary["relative_diversity"][COLLAPSED] < 0.1


def test_the_numbers_are_those_of_the_parts() -> None:
    result = analysed()
    table, labels, kernel = result.per_cluster, result.clusters.labels, result.kernel.normalized
    assert table is not None and result.transport is not None and result.points is not None
    for c in range(CLASSES):
        mine = np.flatnonzero(labels == c)
        pairs = [(i, j) for i in mine for j in mine if i != j]
        assert table.kernel_within[c] == pytest.approx(np.mean([kernel[p] for p in pairs]))
        outside = [(i, j) for i in mine for j in np.flatnonzero(labels != c)]
        assert table.kernel_between[c] == pytest.approx(np.mean([kernel[p] for p in outside]))
        distances = [np.linalg.norm(result.points[i] - result.points[j]) for i, j in pairs]
        assert table.diversity[c] == pytest.approx(np.mean(distances), rel=1e-5)
    np.testing.assert_array_equal(table.share, result.transport.share)
    np.testing.assert_array_equal(table.log_volume, result.jacobian_by_cluster.log_volume)
    assert result.point_updates is not None
    total = torch.from_numpy(result.point_updates.sum(0)[labels == 0])
    unit = total / total.norm(dim=1, keepdim=True)
    expected = (unit @ unit.T - torch.eye(20)).sum() / (20 * 19)
    assert table.coherence[0] == pytest.approx(float(expected), rel=1e-4)
    assert (np.abs(table.raw_coherence) <= 1 + 1e-12).all() and (table.drive > 0).all()


def test_any_clusters_have_a_table() -> None:
    """Of k-means, real samples belong to the cluster that is nearest to them; a cluster may be empty or single."""
    draw = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(20, 2, generator=draw), 9 + 0.1 * torch.randn(20, 2, generator=draw)])
    real = torch.cat([torch.randn(10, 2, generator=draw), 9 + torch.randn(30, 2, generator=draw)])
    result = analysed()
    kernel = result.kernel
    kernel.normalized, kernel.by_cluster = np.eye(40), np.full((2, 2), 0.5)
    clusters = k_means(x, count=2)
    far = clusters.labels[-1]
    table = per_cluster(clusters, x, Compared(x, real, ""), kernel, result.jacobian_by_cluster, real=Real(real, None))
    assert table.real_occupancy[far] == 0.75 and table.relative_diversity[far] < 0.2
    assert table.real_diversity[far] == pytest.approx(diversity(real[10:]).distance)
    assert np.isnan(table.share).all() and np.isnan(table.recognised).all() and np.isnan(table.coherence).all()
    single = Clusters(np.array([0] * 39 + [2]), list("abc"), "given")
    kernel.by_cluster = np.full((3, 3), math.nan)
    table = per_cluster(single, x, Compared(x, None, ""), kernel, result.jacobian_by_cluster, drive=x)
    assert list(table.latents) == [39, 0, 1]
    assert math.isnan(table.diversity[2]) and math.isnan(table.kernel_between[1]) and table.kernel_between[2] == 0
    assert math.isnan(table.drive[1]) and math.isnan(table.raw_coherence[2]) and np.isnan(table.real_occupancy).all()


def test_a_classifier_of_other_classes_recognises_nothing() -> None:
    result, missing = analysed(), list[str]()
    x = torch.randn(80, 2)
    clusters = Clusters(result.clusters.labels, result.clusters.names, "labels", kind="labels")
    table = per_cluster(
        clusters, x, Compared(x, None, ""), result.kernel, result.jacobian_by_cluster,
        classifier=lambda images: images.repeat(1, 3), missing=missing,
    )  # fmt: skip
    assert missing == ["the classifier has 6 classes, the generator 4: what it recognises is not compared"]
    assert np.isnan(table.agreed).all()
