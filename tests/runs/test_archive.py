"""Tensors and a header in one file, and files that are something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.errors import InputError, MissingError
from genkernel.runs.archive import load_archive, save_archive


def test_what_is_saved_is_read_back(tmp_path):
    path = save_archive(tmp_path / "a.npz", "genkernel.thing", {"name": "x", "more": [1]}, {"t": torch.arange(3)})
    head, tensors = load_archive(path, "genkernel.thing", "a thing", ("name", "more"), ("t",), ("u",))
    assert head == {"name": "x", "more": [1]} and torch.equal(tensors["t"], torch.arange(3))


def test_other_files_are_refused_in_words(tmp_path):
    path = save_archive(tmp_path / "a.npz", "genkernel.thing", {}, {})
    with pytest.raises(InputError, match="is not a kernel saved by genkernel, but"):
        load_archive(path, "genkernel.kernel", "a kernel", (), ())
    with pytest.raises(InputError, match="is not a thing saved by genkernel"):
        load_archive(path, "genkernel.thing", "a thing", ("name",), ())
    np.savez(tmp_path / "b.npz", header=np.array([object()], dtype=object))
    with pytest.raises(InputError, match="is not a thing"):  # pickles are not read
        load_archive(tmp_path / "b.npz", "genkernel.thing", "a thing", (), ())
    with pytest.raises(MissingError, match="should be a thing"):
        load_archive(tmp_path / "none.npz", "genkernel.thing", "a thing", (), ())


def test_incomplete_and_later_files_are_refused_in_words(tmp_path):
    path = save_archive(tmp_path / "a.npz", "genkernel.thing", {"name": "x"}, {"t": torch.arange(3)})
    with pytest.raises(InputError, match="lacks more, u"):
        load_archive(path, "genkernel.thing", "a thing", ("name", "more"), ("t", "u"))
    with pytest.raises(InputError, match="nothing is known of t in it"):
        load_archive(path, "genkernel.thing", "a thing", ("name",), ())
    head = np.array('{"format": "genkernel.thing", "version": 2}')
    np.savez(tmp_path / "later.npz", header=head)
    with pytest.raises(InputError, match="format version 2, and this genkernel reads version 1"):
        load_archive(tmp_path / "later.npz", "genkernel.thing", "a thing", (), ())
