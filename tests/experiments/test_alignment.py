"""The experiment on alignment, on few points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.experiments import alignment as study
from genkernel.experiments.registry import experiment
from genkernel.plots.style import to_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = study.Setting(
    samples=40, width=8, steps=40, permuted_steps=20, seeds=2, neighbours=4, moments=(0, 40), folds=2, draws=3
)


def test_points_are_half_on_the_circle_and_half_inside() -> None:
    x, y = study.disk_and_circle(400, 0.9, 0)
    r = x.norm(dim=1)
    assert torch.allclose(r[y == 1], torch.ones(200, dtype=torch.float64)) and float(r[y == 0].max()) <= 0.9
    assert abs(float((r[y == 0] < 0.45).double().mean()) - 0.25) < 0.1  # uniform on the disk
    assert torch.equal(x, study.disk_and_circle(400, 0.9, 0)[0])
    assert not torch.equal(x, study.disk_and_circle(400, 0.9, 1)[0])


def test_training_is_from_the_seed_and_looked_at_from_the_start() -> None:
    x, y = study.disk_and_circle(40, 0.5, 0)
    seen = []
    net, loss, accuracy = study.trained(x, y, "squared", 16, 200, 0, lambda step, _: seen.append(step))
    assert seen == list(range(201)) and accuracy == 1 and loss < 0.3
    again = study.trained(x, y, "squared", 16, 200, 0)[0]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_the_whole_of_it() -> None:
    assert experiment("alignment") is study.run
    state = torch.get_rng_state()
    found = study.run(progress=False, setting=TINY)
    assert torch.equal(state, torch.get_rng_state())
    assert len(found.claims) == 9 and found.claims[-1].holds == "no"  # the biased CKA
    assert np.mean(found.numbers["independent"]["biased"]) == pytest.approx(0.667, abs=0.03)
    names = [row[0] for row in found.tables[1].rows]
    assert names[:7] == [
        "untrained", "untrained, without last layer", "untrained, permuted labels", "untrained, fresh points",
        "points, linear", "points, RBF", "points, RBF, fresh points",
    ]  # fmt: skip
    assert found.numbers["chance"] == pytest.approx(19 / 39)
    assert found.numbers["course"]["squared"]["CKA unbiased"][0][0] == pytest.approx(
        found.numbers["aligned"]["untrained"]["CKA unbiased"][0]
    )
    assert set(found.figures) == {"alignment", "alignment-planes"}
    assert to_bytes(found.figures["alignment-planes"], "png")[:4] == b"\x89PNG"


def test_verdicts_follow_the_intervals() -> None:
    up, down, none = np.array([0.4, 0.5, 0.45]), np.array([-0.4, -0.5, -0.45]), np.array([0.5, -0.4, 0.1])
    still = np.array([0.001, -0.002, 0.0])
    cases = ({"a": up, "b": up}, {"a": down, "b": still}, {"a": up, "b": still}, {"a": up, "b": none})
    assert [study.larger(case) for case in cases] == ["yes", "no", "partly", "partly"]
    assert study.larger({"a": up[:1]}) == "undecided"  # one seed has no error
    mean, low, high = study.interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == (2, pytest.approx(4.303 / 3**0.5, rel=1e-3)) and mean - low == high - mean
    assert study.larger({"a": np.array([0.010, 0.011, 0.012])}) == "no"  # surely above zero, and too small to matter


def test_thresholds_are_held_against_intervals() -> None:
    high, low, wide = np.array([0.99, 0.98, 0.99]), np.array([0.5, 0.55, 0.5]), np.array([0.9, 1.0, 0.99])
    assert [study._no_evidence({"a": v}) for v in (high, low, wide, high[:1])] == ["no", "yes", "partly", "undecided"]
    perfect = [study._reaches({"a": v}) for v in (np.ones(3), np.array([0.996, 0.997]), wide, low, np.ones(1))]
    assert perfect == ["yes", "yes", "undecided", "no", "undecided"]
    cases = ((0.0, -0.01, 0.01), (0.6, 0.5, 0.7), (0.0, -0.1, 0.1), (0.0, float("nan"), float("nan")))
    assert [study._near_zero(case) for case in cases] == ["yes", "no", "undecided", "undecided"]


def claims_of(held: dict[str, float]) -> dict[str, str]:
    """Verdicts, by the start of the claim, where accuracies held out are these and 0.7 elsewhere."""
    noise = np.array([-0.001, 0.0, 0.001])
    names = ["untrained", "points, RBF"]
    names += [f"{loss} loss" for loss in study.LOSSES]
    names += [f"{name}, fresh points" for name in names]
    names += [f"{loss} loss{of}, without last layer" for loss in study.LOSSES for of in ("", ", fresh points")]
    names += [
        "points, linear",
        "untrained, permuted labels",
        *(f"{loss} loss, permuted labels" for loss in study.LOSSES),
    ]
    separated = {
        name: {"held out": held.get(name, 0.7) + noise, "in-sample, largest C": 0.99 + noise} for name in names
    }
    aligned = {
        name: {m: 0.5 + noise for m in study.MEASURES}
        for name in ("untrained", *(f"{loss} loss{of}" for loss in study.LOSSES for of in ("", ", fresh points")))
    }
    course = {
        loss: {name: np.ones((3, 4)) * np.arange(4) for name in ("CKA unbiased", "loss")} for loss in study.LOSSES
    }
    found = study._claims(aligned, separated, course, (0, 1, 2, 3), {"biased": [0.6, 0.7], "unbiased": [0.0, 0.1]}, 0.5)
    return {claim.claim.split(" ")[0] + " " + claim.claim.split(" ")[1]: claim.holds for claim in found}


def test_separability_is_judged_on_points_that_the_network_never_saw() -> None:
    leaked = claims_of({f"{loss} loss": 1.0 for loss in study.LOSSES})
    assert [leaked[key] for key in ("the classes", "that is", "the tangent", "it hangs")] == ["no"] * 4
    real = claims_of({f"{loss} loss, fresh points": 1.0 for loss in study.LOSSES})
    assert [real[key] for key in ("the classes", "that is", "the tangent", "it hangs")] == ["yes"] * 4


def test_a_trend_alone_does_not_follow_the_loss() -> None:
    """Of two courses that go one way, but at other times, values correlate perfectly and differences do not."""
    steps = np.array([5.0, 4, 3, 2, 1, 0.5])
    loss = 20 - np.concatenate([[0], steps.cumsum()])[None]
    same, late = 3 * (20 - loss), np.concatenate([[0], steps[::-1].cumsum()])[None]
    assert study._tracking(same, loss).tolist() == [1] and study._tracking(late, loss).tolist() == [-1]
    assert np.isnan(study._tracking(0 * loss, loss)).all() and np.isnan(study._tracking(same[:, :3], loss[:, :3])).all()


def test_planes_show_all_points_in_equal_units() -> None:
    from genkernel.plots.tangent_embedding import tangent_planes
    from genkernel.spectra import embed

    points = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(
        [5, 1, 0.1]
    )
    planes = {name: embed(points @ points.T, name, seed=0) for name in ("pca", "tsne")}
    figure = tangent_planes(planes, torch.arange(24) % 3, ("a", "b", "c"), {}, outlined=(2,))
    to_bytes(figure, "png")
    for axes, plane in zip(figure.axes, planes.values(), strict=True):
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert right - left == pytest.approx(high - low) and axes.get_aspect() == 1
        inside = plane.points[:, :2].numpy()
        assert (inside > [left, low]).all() and (inside < [right, high]).all()
        assert [c.get_linewidth()[0] > 0 for c in axes.collections] == [False, False, True]
    assert figure.axes[0].xaxis.get_tick_params()["labelbottom"] is True
    assert figure.axes[1].xaxis.get_tick_params()["labelbottom"] is False  # positions of t-SNE mean nothing
