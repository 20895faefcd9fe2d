"""Folders of unfinished recordings: what they accept, and what a state in them has to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.experiments import recorded_training as kept
from genkernel.experiments.outcome import adds_up
from genkernel.paths import PathDecomposition


@pytest.fixture
def parts() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"net": nn.Linear(3, 2), "average": nn.Linear(3, 2)}


def test_a_state_comes_back(tmp_path: Path, parts: dict[str, nn.Module]) -> None:
    assert kept.resume_training(tmp_path, parts) == kept.Saved(0, [], None)
    kept.save_training(tmp_path / kept.UNFINISHED, parts, 7, [0.5, 0.25], {"step": 7})
    weight = parts["net"].weight.detach().clone()
    nn.init.zeros_(parts["net"].weight)
    assert kept.resume_training(tmp_path, parts) == kept.Saved(7, [0.5, 0.25], {"step": 7})
    assert torch.equal(parts["net"].weight, weight)
    kept.finish_training(tmp_path)
    kept.finish_training(tmp_path)
    assert not list(tmp_path.iterdir())


def other_shapes(path: Path, parts: dict[str, nn.Module]) -> None:
    kept.save_training(path, {name: nn.Linear(5, 2) for name in parts}, 1, [], {})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, _: path.write_bytes(b"not a file of torch"),
        lambda path, _: path.write_bytes(b""),
        lambda path, _: torch.save([1, 2], path),
        lambda path, _: torch.save({"parts": {}, "step": 1}, path),
        lambda path, parts: torch.save({"parts": {n: p.state_dict() for n, p in parts.items()}}, path),
        other_shapes,
    ],
)
def test_a_file_that_is_no_such_state_is_named(
    tmp_path: Path, parts: dict[str, nn.Module], spoil: Callable[[Path, dict[str, nn.Module]], None]
) -> None:
    spoil(tmp_path / kept.UNFINISHED, parts)
    with pytest.raises(InputError, match=r"training\.pt is not the state of a training with this recipe"):
        kept.resume_training(tmp_path, parts)


def test_a_training_without_a_recording_is_not_gone_on_from(tmp_path: Path, parts: dict[str, nn.Module]) -> None:
    """As ``train_ddpm`` leaves it: the parts beside the step."""
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | {"step": 4, "losses": [1.0]}, tmp_path / kept.UNFINISHED)
    assert kept.load_training(tmp_path / kept.UNFINISHED, parts).step == 4
    with pytest.raises(InputError, match="without a recording"):
        kept.resume_training(tmp_path, parts)


def test_a_folder_is_of_one_run(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    kept.claim_folder(out, {"widths": (1, 2)})
    written = (out / kept.IDENTITY).read_bytes()
    kept.claim_folder(out, {"widths": [1, 2]})
    assert (out / kept.IDENTITY).read_bytes() == written and json.loads(written) == {"widths": [1, 2]}
    with pytest.raises(InputError, match="holds a recording of another run"):
        kept.claim_folder(out, {"widths": [1]})
    with pytest.raises(InputError, match="holds something else: choose"):
        kept.claim_folder(out, {}, "something else")


def test_sizes_beside_the_changes() -> None:
    net = torch.tensor([[[3.0, 4.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]]])  # [S, m, out]
    outputs = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[5.0, 0.0], [0.0, 4.0]]])
    found = kept.path_numbers(
        PathDecomposition(
            sources=[0, 1, "weight decay"],
            net=net[None, :, None].double(),
            gross=torch.tensor([[10.0, 8.0], [5.0, 2.0], [99.0, 99.0]])[None, :, None].double(),
            layers=["all"],
            edges=[5, 25],
            outputs=outputs.double(),
            samples=torch.tensor([3, 3, 0]),
            data=[True, True, False],
            meta={"evaluations": 31, "overhead": 2.5, "rule": "adaptive"},
        ),
        torch.tensor([1, 0]),
        ["clean", "noisy"],
    )
    assert (found["steps"], found["evaluations"], found["overhead"]) == (20, 31, 2.5)
    assert found["changes"] == [{"group": "noisy", "norm": 5.0}, {"group": "clean", "norm": 4.0}]
    assert found["gross_over_change"]["by_source"]["0"] == {"min": 2.0, "mean": 2.0, "max": 2.0}
    assert found["gross_over_change"]["by_source"]["1"] == {"min": 0.5, "mean": 0.75, "max": 1.0}
    assert found["gross_over_change"]["means"] == {"min": 0.75, "mean": 1.375, "max": 2.0}
    assert found["net_over_change"]["by_source"]["0"] == {"min": 0.5, "mean": 0.75, "max": 1.0}
    assert (found["net_over_change"]["min"], found["net_over_change"]["max"]) == (0.0, 1.0)
    assert "weight decay" not in found["net_over_change"]["by_source"]
    assert found["recording"] == {"rule": "adaptive"}


@pytest.mark.parametrize(
    ("gap", "holds"), [(0.0, "yes"), (0.01, "yes"), (0.011, "partly"), (0.05, "partly"), (0.06, "no")]
)
def test_whether_parts_add_up(gap: float, holds: str) -> None:
    assert adds_up(gap) == holds
    assert adds_up(float("nan")) == "undecided"
