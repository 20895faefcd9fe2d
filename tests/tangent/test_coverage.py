"""The proof of capture: everyday networks need no generic path, and what takes it is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import genkernel as gk
from genkernel.tangent import examine, kernel
from tests.tangent.compare import BY_NAME
from tests.zoo import CASES, Case


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("filled_buffer", "token"),
        ("autograd_function", "beta"),
        ("scripted", "a."),
    ],
)
def test_what_is_not_captured_is_named(name: str, named: str) -> None:
    case = BY_NAME[name]
    K = kernel(case.model(), case.batch(4), cotangents=gk.total())
    expected = [n for n in case.model().parameter_names if n.startswith(named)]
    assert sorted(K.coverage.generic) == sorted(expected)
    assert sorted(K.meta["coverage"]["generic"]) == sorted(expected)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_every_parameter_is_accounted_for(case: Case) -> None:
    """Captured, differentiated call by call, through the forward, or shown to have no influence."""
    model = case.model()
    found = examine(model, case.batch(4))
    names = set(model.parameter_names)
    captured = {name for plan in found.plans if plan is not None for slot in plan.slots for name in slot.parameters}
    assert captured | set(found.generic) | set(found.silent) == names
    assert set(found.generic) | set(found.by_call) | set(found.silent) <= names
    assert not set(found.generic) & set(found.by_call)
    assert found.error < 1e-10  # relative to the gradient of each parameter, some of which all but cancel
    if case.common:
        assert found.generic == [], "networks in everyday use need no generic path"
        assert found.uses


def test_silent_parameters() -> None:
    assert set(examine(BY_NAME["unused_parameter"].model(), BY_NAME["unused_parameter"].batch(4)).silent) == {
        "never", "layer.weight", "layer.bias",
    }  # fmt: skip
    assert set(examine(BY_NAME["dead_end"].model(), BY_NAME["dead_end"].batch(4)).silent) == {"b.weight", "b.bias"}
    zero = BY_NAME["lora_zero"]  # a has no gradient at B = 0, and yet it has influence
    assert examine(zero.model(), zero.batch(4)).silent == []


def test_uses_are_counted_by_function() -> None:
    uses = examine(BY_NAME["called_three_times"].model(), BY_NAME["called_three_times"].batch(4)).uses
    assert uses["linear"] == 4
    uses = examine(BY_NAME["diffusers_unet"].model(), BY_NAME["diffusers_unet"].batch(4)).uses
    module = BY_NAME["diffusers_unet"].module()
    for kind, function in [(nn.Linear, "linear"), (nn.Conv2d, "conv2d"), (nn.GroupNorm, "group_norm")]:
        assert uses[function] == sum(isinstance(m, kind) for m in module.modules()), function


def test_coverage_is_part_of_the_kernel() -> None:
    case = BY_NAME["unet"]
    K = kernel(case.model(), case.batch(4), cotangents=gk.total())
    assert K.coverage.generic == []
    summary = K.meta["coverage"]
    assert summary["uses"] == K.coverage.uses
    assert summary["checked_in"] == "float64"
    assert 0 <= summary["largest_disagreement_with_autograd"] < 1e-12


def test_a_model_that_cannot_run_in_float64_is_checked_in_its_own_precision() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.to(torch.float32))

    found = examine(gk.TangentModel(Single()), torch.randn(4, 3))
    assert found.generic == []
    assert found.dtype == torch.float32
