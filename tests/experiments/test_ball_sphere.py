"""The study of ball and sphere, and of two sides of a line: boundaries, spreads, the kernel's metric, and all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.experiments.ball_sphere import experiment as study
from genkernel.experiments.ball_sphere.ball import MACHINES, ball, boundary, direction, drawn
from genkernel.experiments.ball_sphere.line import lattice_metric, spreads, tilt, turns
from genkernel.experiments.ball_sphere.metric import kernel_metric
from genkernel.experiments.ball_sphere.outcome import _all_right, _mixed
from genkernel.experiments.ball_sphere.setting import Setting
from genkernel.experiments.ball_sphere.training import Descent, nearest, nearest_euclidean, overlap
from genkernel.experiments.domingos import network
from genkernel.experiments.plane_networks import tangent_kernel
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes
from genkernel.runs import json_ready

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(
    samples=24, fresh=20, width=4, steps=4, moments=(0, 4), seeds=2, neighbours=6, radii=(0.0, 0.6, 1.2),
    distances=(0.1, 0.5), side=8, lattice=(7, 5), penalties=(0.1, 10.0),
)  # fmt: skip


class Rings(nn.Module):
    """Positive outside of a radius that depends on the direction."""

    def __init__(self, wave: float = 0.0) -> None:
        super().__init__()
        self.wave = wave

    def forward(self, x: Tensor) -> Tensor:
        turn = torch.atan2(x[:, 1], x[:, 0])
        return (x.norm(dim=1) - 0.8 - self.wave * (4 * turn).cos())[:, None]


def test_the_boundary_of_a_known_region_is_found() -> None:
    radius, spread, once = boundary(Rings())
    assert (radius, spread, once) == (pytest.approx(0.8), pytest.approx(0, abs=1e-9), 1.0)
    radius, spread, once = boundary(Rings(0.1))
    assert radius == pytest.approx(0.8, abs=1e-3) and spread == pytest.approx(0.1 / 2**0.5, abs=1e-3) and once == 1
    none = nn.Linear(2, 1).double()
    with torch.no_grad():
        none.weight.zero_()
        none.bias.fill_(1.0)
    assert boundary(none)[2] == 0 and np.isnan(boundary(none)[0])


def test_points_are_of_ball_and_sphere_and_directions_of_length_one() -> None:
    x, y = drawn(60, 0)
    r = x.norm(dim=1)
    assert torch.allclose(r[y == 1], torch.ones(30, dtype=torch.float64)) and float(r[y == 0].max()) <= 0.5
    assert float(direction(3).norm()) == pytest.approx(1) and not torch.equal(direction(3), direction(4))


def test_common_neighbours_are_counted() -> None:
    one, other = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]), torch.tensor([[4, 3, 9, 8], [1, 2, 3, 4]])
    assert overlap(one, other).tolist() == [0.5, 1.0]


def test_nearest_by_a_linear_kernel_are_those_of_the_smallest_angle() -> None:
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked = x[:3] + 0.1
    near = nearest(nn.Linear(2, 1, bias=False).double(), x, asked, 5)
    angles = torch.nn.functional.cosine_similarity(asked[:, None], x[None], dim=2)
    assert all(set(a.tolist()) == set(b.topk(5).indices.tolist()) for a, b in zip(near, angles, strict=True))
    far = nearest_euclidean(x, asked, 1)
    assert torch.allclose((asked - x[far[:, 0]]).norm(dim=1), torch.cdist(asked, x).min(1).values)


def test_the_metric_is_what_the_normalised_kernel_falls_by() -> None:
    net = network(12, nn.GELU, 0)
    x = torch.tensor([[0.3, -0.2], [0.8, 0.5]], dtype=torch.float64)
    frame = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    G = kernel_metric(net, x, frame)
    assert torch.allclose(G, G.mT) and float(torch.linalg.eigvalsh(G).min()) > 0
    delta = torch.tensor([2e-3, -1e-3], dtype=torch.float64)
    for point, g in zip(x, G, strict=True):
        moved = point + delta @ frame
        cosine = tangent_kernel(net, torch.stack([point, moved])).normalized().values[0, 1]
        assert 1 - float(cosine) == pytest.approx(float(0.5 * delta @ g @ delta), rel=1e-2)


def test_the_metric_of_a_linear_machine_is_that_of_angles() -> None:
    """φ = x: moving across x turns it by 1/|x| per unit of length, along x not at all."""
    x = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    G = kernel_metric(nn.Linear(2, 1, bias=False).double(), x, torch.eye(2, dtype=torch.float64))
    assert torch.allclose(G[0], torch.tensor([[0.0, 0.0], [0.0, 0.25]], dtype=torch.float64), atol=1e-7)


def test_tilts_are_angles_to_the_normal() -> None:
    turn = torch.tensor([0.0, 30.0, 60.0, 90.0]).deg2rad().double()
    fast = torch.stack([turn.cos(), turn.sin()], 1)
    metric = 3 * fast[:, :, None] * fast[:, None, :] + torch.eye(2)
    assert tilt(metric.reshape(1, 2, 2, 2, 2)).ravel() == pytest.approx([0, 30, 60, 90])
    assert turns(metric.reshape(1, 2, 2, 2, 2))[0, :, 0, 0] == pytest.approx([2, 1])


def test_spreads_are_taken_across_and_along() -> None:
    normal = torch.tensor([0.6, 0.8], dtype=torch.float64)
    along = torch.tensor([-0.8, 0.6], dtype=torch.float64)
    x = torch.stack(
        [0.5 * normal + 0.2 * along, 0.3 * normal - 0.2 * along, -0.4 * normal, -0.4 * normal + 0.2 * along]
    )
    y = (x @ normal > 0).long()
    found = spreads(x, y, torch.tensor([[0, 1], [2, 3]]), normal)
    assert found["own"].tolist() == [1.0]
    assert found["across"] == pytest.approx([0.05]) and found["along"] == pytest.approx([0.15])
    assert spreads(x, y, torch.tensor([[0, 2], [0, 3]]), normal)["own"].tolist() == [0.5]


def test_the_lattice_is_in_the_frame_of_the_line_and_within_the_disk() -> None:
    net = network(6, nn.GELU, 0)
    normal = torch.tensor([0.6, 0.8], dtype=torch.float64)
    found = lattice_metric(net, normal, (7, 5))
    assert found.shape == (5, 7, 2, 2) and bool(found[0, 0].isnan().all()) and not bool(found[2].isnan().any())
    own = kernel_metric(net, 0.9 * normal[None], torch.stack([normal, torch.tensor([-0.8, 0.6], dtype=torch.float64)]))
    assert torch.allclose(found[2, 6], own[0], atol=1e-9)  # the middle of the line, as far across as it goes


def test_columns_and_moments_that_count() -> None:
    assert _mixed(np.array([[1.0, 0.9, 0.4], [1.0, 0.96, 0.6]])) == [1, 2]

    def descent(*accuracy: list[float]) -> Descent:
        return Descent([], [], [], [], (0, 10, 20), np.array(accuracy), np.zeros(2))

    assert _all_right(descent([0.5, 1.0, 1.0], [0.5, 0.9, 1.0])) == 20
    assert _all_right(descent([0.5, 1.0, 0.9], [0.5, 1.0, 1.0])) is None


def test_compared_machines_have_the_largest_margin() -> None:
    """No penalty decides their boundary: any other that is large enough draws the same."""
    setting = Setting(
        samples=60, fresh=40, width=8, steps=200, moments=(0, 200), seeds=1, neighbours=6, radii=(0.6,), side=12,
        penalties=(1e-2, 1e5),
    )  # fmt: skip
    found = ball(setting, 0)
    for name in MACHINES:
        hard, soft = found.machines[name], found.soft[name]
        assert hard["hard"].tolist() == [1] and hard["in-sample"].tolist() == [1]
        assert soft["hard"].tolist() == [[0, 1]]
        assert soft["unlike the network"][:, 1].tolist() == hard["unlike the network"].tolist()


def test_the_whole_of_it() -> None:
    assert experiment("ball-sphere") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 12
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    json_ready(found.numbers)
    assert np.shape(found.numbers["ball"]["shared"]) == (2, 3) and np.shape(found.numbers["line"]["turn"]) == (2, 5, 7)
    assert set(found.numbers["line"]["across"]) == {"kernel", "untrained", "Euclidean"}
    assert set(found.figures) == {
        "ball-sphere-boundaries", "ball-sphere-penalties", "ball-sphere-neighbours", "line-neighbours",
        "line-deformation",
    }  # fmt: skip
    assert np.shape(found.numbers["ball"]["softer machines"]["tangent"]["unlike the network"]) == (2, 2)
    assert to_bytes(found.figures["ball-sphere-penalties"], "png")[:4] == b"\x89PNG"
    assert to_bytes(found.figures["line-deformation"], "png")[:4] == b"\x89PNG"
