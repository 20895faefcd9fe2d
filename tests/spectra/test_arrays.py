"""Arrays as callers give them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, unit_of, whole_number


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
