"""Maps of noise levels and of clusters that a decomposition carries."""

from __future__ import annotations

import numpy as np
import pytest

from genkernel.plots.group_maps import cluster_map, group_map_figures, level_map
from genkernel.plots.paths import path_figures
from tests.paths.fake_parts import fake_parts


def carried(kind: str, count: int = 4):
    parts = fake_parts(groups=count)
    draw = np.random.default_rng(0)
    maps = {k: draw.random((4, count, count)).tolist() for k in ("net", "gross")}
    found = {"kind": kind, "stretches": [[0, 90], [0, 30], [30, 60], [60, 90]], **maps}
    found["signed"] = (draw.normal(size=(4, count, count)) / count).tolist()
    if kind == "noise levels":
        edges = np.linspace(-0.5, 999.5, count + 1)
        found |= {"edges": edges.tolist(), "centres": ((edges[1:] + edges[:-1]) / 2).tolist()}
        found |= {
            "log_snr": np.linspace(5, -9, count).tolist(),
            "edges_log_snr": np.linspace(8, -10, count + 1).tolist(),
        }
        found |= {"index_net": [0.1, 0.2, -0.3, 0.4], "index_gross": [0.1] * 4}
    else:
        found |= {"names": [f"mode {i}" for i in range(count)], "queries": list(range(count - 1))}
    parts.meta["map"] = found
    return parts


@pytest.mark.parametrize("kind, draw", [("noise levels", level_map), ("clusters", cluster_map)])
def test_a_panel_for_the_whole_and_every_third(kind, draw):
    parts = carried(kind)
    panels = [axes for axes in draw(parts, "gross").axes if axes.get_images() or axes.collections]
    assert len(panels) >= 4
    assert set(group_map_figures(parts)) == {"map_gross", "map_net", "map_signed"}
    assert set(group_map_figures(parts)) <= set(path_figures(parts))
    for figure in group_map_figures(parts).values():
        figure().canvas.draw()


def test_rows_of_sizes_sum_to_a_hundred_percent():
    image = next(axes.get_images()[0] for axes in cluster_map(carried("clusters"), "net").axes if axes.get_images())
    np.testing.assert_allclose(np.asarray(image.get_array()).sum(1), 100)


def test_indices_are_in_the_names_of_the_panels():
    words = [text.get_text() for axes in level_map(carried("noise levels"), "net").axes for text in axes.texts]
    assert any("index −0.30" in word for word in words)
