"""Arrays as callers give them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_labels, as_tensor, as_values, real_number, unit_of, whole_number


def test_arrays_of_any_layout_keep_their_dtype_and_values() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    frozen = x.copy()
    frozen.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (x, x[::-1], x[:, ::-1], x.T, x.astype(">f4"), frozen, x[::2]):
            found = as_tensor(given, "x")
            assert found.dtype == torch.float32 and np.array_equal(found.numpy(), given)
    assert as_tensor(x, "x").data_ptr() == torch.from_numpy(x).data_ptr()  # no copy where none is needed
    assert as_tensor([1, 2], "x").dtype == torch.int64 and as_tensor(np.float32(2), "x").dtype == torch.float32


def test_tensors_lose_their_graph() -> None:
    x = torch.ones(3, requires_grad=True)
    assert not as_tensor(2 * x, "x").requires_grad and x.requires_grad


@pytest.mark.parametrize("given", [["a"], np.array(["a"]), [[1], [1, 2]], np.array([None]), object()])
def test_what_is_no_array_is_said(given: object) -> None:
    with pytest.raises(InputError, match="the kernel is an array of numbers"):
        as_tensor(given, "the kernel")


def test_units_and_whole_numbers() -> None:
    assert unit_of(torch.tensor([-3.0, 2.0])) == 3 and unit_of(torch.zeros(2)) == 1 == unit_of(torch.zeros(0))
    assert whole_number(np.int64(3), "k") == 3 == whole_number(torch.tensor(3), "k")
    for given in (2.5, 2.0, "2", None):
        with pytest.raises(InputError, match="k is a whole number"):
            whole_number(given, "k")


def test_lists_keep_the_precision_of_their_numbers() -> None:
    assert as_tensor([0.1, 1e200], "x").tolist() == [0.1, 1e200] and as_tensor([[1.5]], "x").dtype == torch.float64
    with pytest.raises(InputError, match="x is an array of real numbers"):
        as_tensor([1j], "x")


def test_names_are_classes_and_no_values() -> None:
    for names in (["b", "a", "b"], np.array(["b", "a", "b"]), np.array([[b"b"], [b"a"], [b"b"]])):
        assert as_labels(names, "y").tolist() == [1, 0, 1]
    assert as_labels(torch.tensor([[3], [5]]), "y").tolist() == [3, 5]
    assert as_labels(torch.ones(2, 1), "y").shape == (2, 1) and as_labels([[1, 2], [3, 4]], "y").shape == (2, 2)
    for given, words in ((["a"], "one-hot"), (1.0, "not one number"), ([1.0, np.nan], "NaN"), (None, "array")):
        with pytest.raises(InputError, match=words):
            as_values(given, "y")


def test_one_number() -> None:
    for given in (2, 2.0, np.float32(2), torch.tensor(2), np.array(2)):
        assert real_number(given, "ridge") == 2.0
    for given in (None, "a", [1, 2], np.array([1.0]), torch.ones(2)):
        with pytest.raises(InputError, match="ridge is one number"):
            real_number(given, "ridge")
