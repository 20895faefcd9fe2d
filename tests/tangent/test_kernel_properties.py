"""What every tangent kernel has to be, whatever the model and the samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import genkernel as gk
from genkernel.errors import InputError, MissingError
from genkernel.tangent import batches, kernel, reference
from tests.tangent.compare import BY_NAME, KINDS, relative_error
from tests.zoo import Case

SAME = 1e-12

few = settings.get_profile("tangent")
cases = st.sampled_from(
    ["mlp", "conv_bn_relu", "unet", "dit_block", "tied_embedding", "class_token", "merged_time_first", "einsum", "lora"]
).map(BY_NAME.__getitem__)
kinds = st.sampled_from(list(KINDS))
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)


def size(K: gk.Kernel) -> float:
    """What a cross block is small against: √(‖k(x,x)‖ ‖k(y,y)‖)."""
    return float(K.norms_x.norm() * K.norms_y.norm()) ** 0.5


@few
@given(cases, kinds, sizes, seeds)
def test_symmetric_and_positive_semidefinite(case: Case, kind: str, n: int, seed: int) -> None:
    K = kernel(case.model(), case.batch(n, seed), cotangents=KINDS[kind])
    assert torch.equal(K.values, K.values.T)
    assert float(torch.linalg.eigvalsh(K.values).min()) >= -1e-13 * n * float(K.values.trace())
    assert torch.equal(K.norms_x, K.values.diagonal())
    assert torch.equal(K.norms_x, K.norms_y)


@few
@given(cases, kinds, seeds, st.permutations(range(5)))
def test_permutation_equivariant(case: Case, kind: str, seed: int, order: list[int]) -> None:
    x, model = case.batch(5, seed), case.model()
    K = kernel(model, x, cotangents=KINDS[kind])
    moved = kernel(model, batches.take(x, order), cotangents=KINDS[kind])
    assert relative_error(moved, K.values[order][:, order]) < SAME
    for name in K.layers:
        assert float((moved.layers[name] - K.layers[name][order][:, order]).norm()) <= SAME * float(K.values.norm())


@few
@given(cases, kinds, seeds, st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_duplicates_have_equal_rows(case: Case, kind: str, seed: int, copies: list[int]) -> None:
    x, model = case.batch(4, seed), case.model()
    K = kernel(model, x, cotangents=KINDS[kind])
    repeated = kernel(model, batches.take(x, copies), cotangents=KINDS[kind])
    assert relative_error(repeated, K.values[copies][:, copies]) < SAME


@few
@given(cases, kinds, st.integers(1, 4), st.integers(1, 4), seeds)
def test_cross_is_a_block_of_the_whole(case: Case, kind: str, n: int, m: int, seed: int) -> None:
    x, y, model = case.batch(n, seed), case.batch(m, seed + 1), case.model()
    whole = kernel(model, batches.concatenate(x, y), cotangents=KINDS[kind])
    block = kernel(model, x, y, cotangents=KINDS[kind])
    assert float((block.values - whole.values[:n, n:]).norm()) <= SAME * size(block)
    assert relative_error(block.norms_x, whole.norms_x[:n]) < SAME
    assert relative_error(block.norms_y, whole.norms_y[n:]) < SAME
    turned = kernel(model, y, x, cotangents=KINDS[kind])
    assert float((turned.values.T - block.values).norm()) <= SAME * size(block)
    with_itself = kernel(model, x, x, cotangents=KINDS[kind])
    assert relative_error(with_itself, whole.values[:n, :n]) < SAME


@few
@given(cases.filter(lambda case: case.name != "einsum"), kinds, seeds)  # which has one parameter
def test_additive_over_parameters(case: Case, kind: str, seed: int) -> None:
    """Kernels of disjoint sets of parameters add up to the kernel of their union."""
    module, x = case.module(), case.batch(3, seed)
    names = [name for name, _ in module.named_parameters()]
    first = set(names[: len(names) // 2])
    whole = kernel(gk.TangentModel(module, case.call), x, cotangents=KINDS[kind])
    a = kernel(gk.TangentModel(module, case.call, params=lambda name: name in first), x, cotangents=KINDS[kind])
    b = kernel(gk.TangentModel(module, case.call, params=lambda name: name not in first), x, cotangents=KINDS[kind])
    assert relative_error(a.values + b.values, whole) < SAME


@few
@given(cases, seeds, st.floats(-3, 3).filter(lambda c: abs(c) > 1e-3))
def test_quadratic_in_the_cotangent(case: Case, seed: int, factor: float) -> None:
    x, model = case.batch(3, seed), case.model()
    plain = kernel(model, x, cotangents=gk.cotangent(lambda out: out.cos()))
    scaled = kernel(model, x, cotangents=gk.cotangent(lambda out: factor * out.cos()))
    assert relative_error(scaled, factor**2 * plain.values) < SAME


def test_normalized_diagonal_is_one_and_bounded() -> None:
    case = BY_NAME["unet"]
    for cotangents in (gk.total(), gk.probes(4)):
        C = kernel(case.model(), case.batch(5), cotangents=cotangents).normalized()
        assert float((C.values.diagonal() - 1).abs().max()) < 1e-12
        assert float(C.values.abs().max()) <= 1.0
        assert torch.equal(C.values, C.values.T)


def fields(K: gk.Kernel) -> dict[str, Any]:
    names = ("values", "stderr", "norms_x", "norms_y", "per_probe", "per_probe_norms_x", "per_probe_norms_y")
    return {name: getattr(K, name) for name in names} | {f"layer {name}": values for name, values in K.layers.items()}


@few
@given(cases, st.sampled_from(["total", "probes"]), st.booleans(), st.booleans(), seeds)
def test_saved_and_loaded_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, case: Case, kind: str, cross: bool, normalize: bool, seed: int
) -> None:
    y = case.batch(2, seed + 1) if cross else None
    K = kernel(case.model(), case.batch(3, seed), y, cotangents=KINDS[kind])
    K = K.normalized() if normalize else K
    path = tmp_path_factory.mktemp("kernel") / "kernel.npz"
    K.save(path)
    again = gk.Kernel.load(path)
    assert list(path.parent.iterdir()) == [path]  # nothing else is left behind
    before, after = fields(K), fields(again)
    assert list(before) == list(after)
    for name, value in before.items():
        assert (value is None) == (after[name] is None), name
        assert value is None or torch.equal(value, after[name]), name
    assert again.meta == json.loads(json.dumps(K.meta))
    if not normalize:
        assert torch.equal(again.normalized().values, K.normalized().values)


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="should be a kernel"):
        gk.Kernel.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="not a kernel"):
        gk.Kernel.load(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(x=torch.zeros(0, 3, dtype=torch.float64)), "empty"),
        (dict(y=torch.zeros(2, 4, dtype=torch.float64)), "shape"),
        (dict(y={"x": torch.zeros(2, 3, dtype=torch.float64)}), "structure"),
        (dict(accumulate="float16"), "accumulate"),
        (dict(by="module"), "by"),
        (dict(dtype="int8"), "dtype"),
        (dict(dtype="float33"), "dtype"),
        (dict(memory="lots"), "memory"),
        (dict(memory=0), "memory"),
        (dict(memory="-1GiB"), "memory"),
        (dict(cotangents="trace"), "cotangents"),
        (dict(cotangents=gk.output(3)), "output"),
        (dict(cotangents=gk.cotangent(lambda out: out[:, 0])), "shape"),
        (dict(precondition={"9.weight": torch.ones(2)}), "9.weight"),
        (dict(precondition={"0.bias": torch.ones(2)}), "0.bias"),
        (dict(precondition={"0.bias": -torch.ones(5)}), "0.bias"),
    ],
)
def test_wrong_arguments_get_one_clear_sentence(change: dict[str, Any], words: str) -> None:
    case = BY_NAME["mlp"]
    arguments = {"x": case.batch(3), "cotangents": gk.total()} | change
    with pytest.raises(InputError, match=words) as caught:
        kernel(case.model(), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda module, x: (module(x), x), "tensor"),
        (lambda module, x: module(x).sum(), "sample"),
        (lambda module, x: module(x)[:1], "sample"),
        (lambda module, x: module(x).t(), "sample"),
        (lambda module, x: (module(x) > 0).long(), "float"),
    ],
)
def test_wrong_outputs_get_one_clear_sentence(function: Any, words: str) -> None:
    case = BY_NAME["mlp"]
    with pytest.raises(InputError, match=words):
        kernel(gk.TangentModel(case.module(), function), case.batch(4), cotangents=gk.total())


def test_wrong_models_get_one_clear_sentence() -> None:
    x = torch.zeros(3, 3)
    with pytest.raises(InputError, match="no parameters"):
        kernel(torch.nn.Tanh(), x)
    with pytest.raises(InputError, match="requires gradients"):
        kernel(torch.nn.Linear(3, 2).requires_grad_(False), x)
    with pytest.raises(InputError, match="matches none"):
        gk.TangentModel(torch.nn.Linear(3, 2), params="head.*")
    with pytest.raises(InputError, match="batch_norm"):
        gk.TangentModel(torch.nn.Linear(3, 2), batch_norm="running")
    with pytest.raises(InputError, match="reference"):
        gk.TangentModel(torch.nn.Linear(3, 2), batch_norm="frozen")


def test_reference_and_engine_take_the_same_default() -> None:
    case = BY_NAME["mlp"]
    assert relative_error(kernel(case.model(), case.batch(4)), reference.kernel(case.model(), case.batch(4))) < 1e-10
