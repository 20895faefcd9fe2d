"""Digests: equal for what computes the same numbers, different for what may not."""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.errors import InputError
from genkernel.tangent import batches
from genkernel.tangent.fingerprint import (
    fingerprint,
    fingerprint_batch,
    fingerprint_call,
    fingerprint_code,
    fingerprint_model,
)
from tests.tangent.snapshot import Snapshot
from tests.zoo import CASES, Case

SCALE = 2.0
OPTIONS = argparse.Namespace(scale=2.0, out="here")


def net(seed: int = 0, stride: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(2, 3, 3, stride), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    module = nn.Sequential(*layers)
    module(torch.zeros(2, 2, 8, 8))
    return module


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_builds_of_a_model_agree(case: Case) -> None:
    assert fingerprint_model(case.model()) == fingerprint_model(case.model())


def test_the_model_is_left_as_it_was() -> None:
    model = gk.TangentModel(net().train(), batch_norm="frozen", reference=torch.randn(4, 2, 8, 8))
    before = Snapshot(model.module, model.reference)
    fingerprint_model(model)
    before.check()


def _weights(module: nn.Module) -> gk.TangentModel:
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] += 1e-7
    return gk.TangentModel(module)


def _buffers(module: nn.Module) -> gk.TangentModel:
    module[1].running_mean += 1
    return gk.TangentModel(module)


def _slope(module: nn.Module) -> gk.TangentModel:
    module[1].eps = 1e-3
    return gk.TangentModel(module)


def _tensor_attribute(module: nn.Module) -> gk.TangentModel:
    module.offset = torch.ones(2)
    return gk.TangentModel(module)


CHANGES: dict[str, tuple[str | list[str], Callable[[nn.Module], gk.TangentModel]]] = {
    "one weight": ("weights", _weights),
    "a buffer": ("weights", _buffers),
    "an epsilon": ("architecture", _slope),
    "a plain tensor": ("architecture", _tensor_attribute),
    "another activation": ("architecture", lambda m: gk.TangentModel(nn.Sequential(*m[:2], nn.GELU(), *m[3:]))),
    "the call": ("call", lambda m: gk.TangentModel(m, call=lambda module, x: module(x * 2))),
    "the selection": ("parameters", lambda m: gk.TangentModel(m, params="0.*")),
    "batch norm": ("batch_norm", lambda m: gk.TangentModel(m, batch_norm="train")),
    "the reference": (
        ["weights", "batch_norm"],  # running statistics are no longer used
        lambda m: gk.TangentModel(m, batch_norm="frozen", reference=torch.ones(3, 2, 8, 8)),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_named(change: str) -> None:
    entry, make = CHANGES[change]
    before, after = fingerprint_model(gk.TangentModel(net())), fingerprint_model(make(net()))
    assert [name for name in before if before[name] != after[name]] == ([entry] if isinstance(entry, str) else entry)


def test_code_of_a_users_own_forward_counts() -> None:
    def build(source: str) -> nn.Module:
        space: dict[str, Any] = {"nn": nn}
        exec(f"class Own(nn.Module):\n    __module__ = 'own'\n    def forward(self, x):\n        {source}", space)
        module = space["Own"]()
        module.weight = nn.Parameter(torch.ones(3))
        return module

    one, same, other = (
        fingerprint_model(gk.TangentModel(build(source)))["architecture"]
        for source in ("return x * self.weight", "return x  *  self.weight  # the product", "return x + self.weight")
    )
    assert one == same != other


def test_frozen_statistics_are_judged_by_weights_and_reference_alone() -> None:
    """Their last bits follow from the number of threads, which is no other model."""
    model = gk.TangentModel(net(), batch_norm="frozen", reference=torch.randn(4, 2, 8, 8))
    before = fingerprint_model(model)
    model.module[1].running_mean += 1  # not used
    assert fingerprint_model(model) == before


def test_batches() -> None:
    x, t = torch.randn(3, 2), torch.arange(3)
    one = fingerprint_batch({"x": x, "t": t, "scale": 2.0})
    assert one == fingerprint_batch({"t": t.clone(), "scale": 2.0, "x": x.t().contiguous().t()})
    for other in (
        {"x": x, "t": t, "scale": 3.0},
        {"x": x, "t": t.flip(0), "scale": 2.0},
        {"x": x.double(), "t": t, "scale": 2.0},
        {"x": x.reshape(2, 3), "t": t, "scale": 2.0},
        {"y": x, "t": t, "scale": 2.0},
        (x, t, 2.0),
    ):
        assert fingerprint_batch(other) != one
    assert fingerprint_batch((x, t)) != fingerprint_batch((t, x))
    assert fingerprint_batch(batches.take(x, [0, 1, 2])) == fingerprint_batch(x)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.zeros(0, 3),
        torch.randn(4, 4).bfloat16(),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.eye(3).to_sparse(),
        torch.tensor([True, False]),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(6)[::2],
    ],
    ids=lambda t: f"{t.dtype} {tuple(t.shape)}",
)
def test_tensors_of_all_kinds(tensor: Tensor) -> None:
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    if tensor.numel():
        changed = tensor.to_dense().clone().contiguous()
        changed.view(-1)[-1] = 7 if tensor.dtype != torch.bool else ~changed[-1]
        assert fingerprint(changed) != fingerprint(tensor)


def test_a_tensor_without_values_is_refused() -> None:
    with pytest.raises(InputError, match="meta device"):
        fingerprint(torch.empty(2, device="meta"))


def scaled(by: float) -> Callable[[Tensor], Tensor]:
    return lambda outputs: outputs * by


def by_global(outputs: Tensor) -> Tensor:
    return outputs * SCALE


def by_option(outputs: Tensor) -> Tensor:
    return outputs * OPTIONS.scale


def test_functions_by_what_they_close_over() -> None:
    assert fingerprint(scaled(2)) == fingerprint(scaled(2)) != fingerprint(scaled(3))
    targets = torch.ones(2)
    assert fingerprint(lambda o: o - targets) != fingerprint(lambda o: o + targets)
    one = fingerprint(gk.cotangent(lambda o: o - targets))
    targets[0] = 5
    assert one != fingerprint(gk.cotangent(lambda o: o - targets))
    assert fingerprint(functools.partial(torch.mul, other=2)) != fingerprint(functools.partial(torch.mul, other=3))
    assert fingerprint(nn.Linear(2, 2).forward) != fingerprint(nn.Linear(2, 2).forward)  # other weights


def test_functions_by_globals_and_by_the_attributes_they_use(monkeypatch: pytest.MonkeyPatch) -> None:
    values, options = fingerprint(by_global), fingerprint(by_option)
    monkeypatch.setattr(OPTIONS, "out", "elsewhere")
    assert fingerprint(by_option) == options
    monkeypatch.setattr(OPTIONS, "scale", 3.0)
    assert fingerprint(by_option) != options
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert fingerprint(by_global) != values


def test_arguments() -> None:
    kinds = [gk.total(), gk.output(0), gk.output(1), gk.exact_trace(), gk.probes(2), gk.probes(3), gk.probes(2, seed=1)]
    assert len({fingerprint(kind) for kind in kinds}) == len(kinds)
    assert fingerprint(gk.probes(2)) == fingerprint(gk.probes(2))
    assert fingerprint({"a": torch.ones(2), "b": 1}) == fingerprint({"b": 1, "a": torch.ones(2)})
    assert fingerprint([1, "2"]) != fingerprint(["1", 2])
    assert fingerprint(np.arange(3)) != fingerprint(np.arange(3.0))
    circle: list[Any] = []
    circle.append(circle)
    assert fingerprint(circle) == fingerprint(circle)


def test_another_process_finds_the_same() -> None:
    """Neither addresses nor the order of sets may enter."""
    probe = """
import torch, genkernel as gk
from genkernel.tangent.fingerprint import fingerprint, fingerprint_code, fingerprint_model
torch.manual_seed(0)
f = lambda o: o * (1, 2)[0] if o in {"a", "b", "c"} else o
model = gk.TangentModel(torch.nn.Linear(3, 2), call=lambda m, x: m(x) if x is not f else f)
said = str((fingerprint_model(model), fingerprint({"x", "y", "z"}), fingerprint_code()))
"""
    here: dict[str, Any] = {"__name__": "__main__"}
    exec(probe, here)
    there = subprocess.run([sys.executable, "-c", f"{probe}print(said)"], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here["said"]


def test_a_whole_call() -> None:
    model, x = gk.TangentModel(net()), torch.randn(3, 2, 8, 8)
    plain: dict[str, Any] = {"cotangents": gk.probes(2), "by": "layer", "dtype": torch.float64, "precondition": None}
    entries = fingerprint_call(model, x, **plain)
    assert entries == json.loads(json.dumps(entries)) == fingerprint_call(model, x.clone(), **plain)
    assert (entries["dtype"], entries["by"], entries["precondition"], entries["y"]) == ("float64", "layer", None, None)
    assert entries["cotangents"].startswith("2 rademacher probes, seed 0 ")

    def changed(*args: Any, **options: Any) -> set[str]:
        other = fingerprint_call(*args, **{**plain, **options})
        return {name for name in {**entries, **other} if entries.get(name) != other.get(name)}

    assert changed(model, x + 1) == {"x"}
    assert changed(model, x, x) == {"y"}
    assert changed(model, x, cotangents=gk.probes(2, seed=1)) == {"cotangents"}
    assert changed(model, x, cotangents=gk.cotangent(lambda o: o)) == {"cotangents"}
    assert changed(model, x, precondition={"0.weight": torch.ones(3, 2, 3, 3)}) == {"precondition"}
    assert changed(model, x, model_y=gk.TangentModel(net(1))) >= {"weights of model_y"}


def test_code() -> None:
    assert fingerprint_code() == fingerprint_code()
    assert gk.__version__ in fingerprint_code() and torch.__version__ in fingerprint_code()
