"""A few samples of every cluster."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.gan.clusters import Clusters
from genkernel.gan.sheet import CLUSTERS, EACH, SIDE, images_of, sample_sheet


def clusters(labels: list[int], count: int) -> Clusters:
    return Clusters(np.array(labels), [f"class {k}" for k in range(count)], "by hand")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-3.0, 7.0)])
def test_images_come_back_to_the_nearest_of_256_shades(low: float, high: float) -> None:
    shades = torch.rand(5, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    shades.view(-1)[:2] = torch.tensor([0.0, 1.0])
    sheet = sample_sheet(low + (high - low) * shades, clusters([0, 2, 2, 0, 2], 3))
    assert sheet is not None and sheet.clusters == [0, 2] and sheet.counts == [2, 3]
    found = images_of(sheet, 1)
    assert found.shape == (3, 8, 6, 3)
    expected = shades[[1, 2, 4]].permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(found - expected).max() <= 0.51


def test_the_fullest_clusters_are_shown_and_large_images_are_made_smaller() -> None:
    labels = [c for c in range(CLUSTERS + 3) for _ in range(c + 1)]
    sheet = sample_sheet(torch.rand(len(labels), 1, 2 * SIDE, SIDE), clusters(labels, CLUSTERS + 3))
    assert sheet is not None and sheet.clusters == list(range(3, CLUSTERS + 3))
    assert max(sheet.counts) == EACH and sheet.counts[0] == 4
    assert images_of(sheet, 0).shape == (4, SIDE, SIDE // 2)


def test_other_channels_than_colours_show_the_first() -> None:
    sheet = sample_sheet(torch.rand(2, 5, 8, 8), clusters([0, 0], 1))
    assert sheet is not None and images_of(sheet, 0).shape == (2, 8, 8)


def test_points_have_no_sheet() -> None:
    assert sample_sheet(torch.rand(4, 2), clusters([0] * 4, 1)) is None
