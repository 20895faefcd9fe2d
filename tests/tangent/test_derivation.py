"""Gradients of views go back to the entries of the parameter that the views saw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genkernel.tangent.derivation import geometry

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda p: p,
    "reshaped": lambda p: p.reshape(3, 2, 20),
    "axes of length one": lambda p: p[None, :, None],
    "transposed": lambda p: p.T,
    "permuted": lambda p: p.view(6, 4, 5).permute(2, 0, 1),
    "rows": lambda p: p[2:5],
    "columns": lambda p: p[:, 3:11],
    "every other": lambda p: p[::2, 1::3],
    "one entry": lambda p: p[3, 7],
    "expanded": lambda p: p[:, :1].expand(6, 4),
    "expanded in front": lambda p: p.expand(3, 6, 20),
    "windows": lambda p: p.reshape(-1).unfold(0, 7, 3),
    "diagonal": lambda p: p.diagonal(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_scatter(name: str) -> None:
    parameter = torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
    view = VIEWS[name](parameter)
    found = geometry(view, {parameter.untyped_storage()._cdata: "p"})
    assert found is not None
    gradients = torch.randn(4, *view.shape, dtype=torch.float64)
    true = torch.stack([torch.autograd.grad(view, parameter, g, retain_graph=True)[0] for g in gradients])
    given = gradients.clone()
    assert torch.allclose(found.scatter(gradients, 120), true.flatten(1), rtol=1e-14, atol=0)
    assert torch.equal(gradients, given)
    flat = gradients.reshape(4, -1)  # as factors hand them out
    assert torch.allclose(found.scatter(flat, 120), true.flatten(1), rtol=1e-14, atol=0)
