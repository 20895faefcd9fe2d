"""Real samples from torch data sets and loaders, and labels that come with points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from genkernel.errors import InputError
from genkernel.gan import Generator
from genkernel.workflows.gan_inputs import read_real
from genkernel.workflows.loaders import gather

X, Y = torch.arange(40.0).reshape(20, 2), torch.arange(20) % 3


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(X)


class Photos(Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> Any:
        return Image.fromarray(np.full((6, 4, 3), i, dtype=np.uint8)), i % 2


class Broken(Photos):
    def __getitem__(self, i: int) -> Any:
        raise KeyError("no file")


def test_a_data_set_is_drawn_from_with_the_seed() -> None:
    found, labels, source = gather(TensorDataset(X, Y), 6, seed=1)
    rows = (found[:, 0] / 2).long()
    assert torch.equal(labels, Y[rows]) and len(set(rows.tolist())) == 6 and source == "a TensorDataset"
    again, given, _ = gather(TensorDataset(X), 6, seed=1, labels=list(range(20)))
    assert torch.equal(again, found) and torch.equal(given, rows)
    assert not torch.equal(gather(TensorDataset(X), 6, seed=2)[0], found)
    assert torch.equal(gather(Stream(), 6)[0], X[:6]) and len(gather(Stream(), 60)[0]) == 20


def test_a_loader_is_read_until_there_are_enough() -> None:
    asked = DataLoader(TensorDataset(X, Y), batch_size=4)
    found, labels, source = gather(asked, 6)
    assert torch.equal(found, X[:6]) and torch.equal(labels, Y[:6]) and source == "a DataLoader"
    state = torch.random.get_rng_state()
    shuffled = DataLoader(TensorDataset(X), batch_size=4, shuffle=True)
    assert torch.equal(gather(shuffled, 6, seed=3)[0], gather(shuffled, 6, seed=3)[0])
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(gather(DataLoader(X, batch_size=None), 6)[0], X[:6])


def test_pictures() -> None:
    found, labels, _ = gather(Photos(), 9)
    assert found.shape == (5, 3, 6, 4) and found.dtype == torch.uint8 and labels.tolist() == [0, 1, 0, 1, 0]
    net = nn.Sequential(nn.Linear(2, 3 * 64), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))
    real = read_real(Photos(), Generator(net, (2,)), 9)
    assert real.samples.shape == (5, 3, 8, 8) and real.description.startswith("5 real images 3×8×8 from a Photos (")
    assert real.labels.tolist() == labels.tolist() and real.source == "a Photos"


@pytest.mark.parametrize(
    ("given", "labels", "words"),
    [
        (Broken(), None, "the real samples of a Broken cannot be read: KeyError"),
        (DataLoader(TensorDataset(X)), [0] * 20, "real_labels= cannot be matched"),
        (TensorDataset(X), [0] * 3, "there are 3 for 20"),
        (DataLoader([{"image": X[0]}]), None, "tensors, alone or as"),
        (DataLoader(X[:, 0]), None, r"have shape \[b, …\]"),
        (TensorDataset(X[:0]), None, "is empty"),
    ],
)
def test_what_is_no_source_of_samples(given: Any, labels: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        gather(given, 6, labels=labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "there"),
    [
        ({"points": X, "y": Y}, True),
        ({"data": X, "labels": Y[:, None]}, True),
        ({"points": X, "y": Y[:5]}, False),
        ({"points": X, "y": Y / 2}, False),
        ({"points": X}, False),
    ],
)
def test_labels_lie_beside_points(tmp_path: Path, arrays: dict[str, torch.Tensor], there: bool) -> None:
    np.savez(tmp_path / "p.npz", **{name: array.numpy() for name, array in arrays.items()})
    found = read_real(str(tmp_path / "p.npz"), Generator(nn.Linear(2, 2), (2,)), 6)
    assert (found.labels is not None) == there
    if there:
        assert torch.equal(found.labels, Y[(found.samples[:, 0] / 2).long()])
