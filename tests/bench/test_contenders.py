"""Whoever is compared computes the kernel, or says why not."""

from __future__ import annotations

import pytest

from genkernel.bench import WORKLOADS, contenders, truth
from genkernel.bench.contenders import chunks
from genkernel.bench.peers import PEERS
from genkernel.bench.roster import find
from genkernel.bench.trial import installed
from genkernel.errors import InputError

# on transformers, forward-mode AD stops at fused attention, and hooks at layers that they do not know
CANNOT = {("W4", name) for name in ("products", "nngeometry", "backpack")} | {
    ("W5", name) for name in ("products", "nngeometry", "backpack")
}
TORCH = ("genkernel", "genkernel-float32", "loop", "vmap", "jacobian", "products")


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("name", (*TORCH, *(peer.name for peer in PEERS)))
def test_the_kernel_is_right(workload: str, name: str) -> None:
    contender = find(name)
    if not installed(contender):
        pytest.skip(f"{contender.package} is not installed")
    if (workload, name) in CANNOT:
        pytest.skip(f"{name} cannot do {workload}")
    problem = WORKLOADS[workload].problem(**WORKLOADS[workload].sizes(quick=True))
    expected = truth.kernel(problem)
    for setting in contender.settings(problem)[-2:]:
        values = contender.prepare(problem, setting)().values
        assert values is not None and truth.relative_error(values, expected) < 1e-3
    assert not any(p.grad is not None for p in problem.parameters.values())


def test_chunks_are_the_batch_and_its_halves() -> None:
    problem = WORKLOADS["W1-500"].problem(**WORKLOADS["W1-500"].sizes(quick=True))
    assert [s["chunk"] for s in chunks(problem)] == [1, 2, 3, 5, 9]


def test_names() -> None:
    assert list(contenders())[:3] == ["genkernel", "genkernel-float32", "step"]
    assert find("tests.bench.strangers:wrong").name == "wrong"
    for name, words in (
        ("nobody", "there is no contender 'nobody'"),
        ("tests.bench.strangers:nobody", "cannot be imported"),
        ("math:pi", "is not a genkernel.bench.Contender"),
    ):
        with pytest.raises(InputError, match=words):
            find(name)
