"""The same numbers on a GPU, and its flags left as they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

import genkernel as gk
from genkernel.tangent import kernel, reference
from tests.tangent.compare import BY_NAME, relative_error
from tests.tangent.snapshot import Snapshot
from tests.zoo import CASES, Case

pytestmark = pytest.mark.gpu

NETWORKS = [
    "mlp", "conv_bn_relu", "resnet", "unet", "dit_block", "dcgan", "diffusers_unet", "diffusers_dit",
    "diffusers_unet_condition", "transformer_pre_norm", "merged_time_first", "spectral_norm", "conv2d_reflect",
    "conv3d_grouped_dilated", "embedding", "gru_batch_first",
]  # fmt: skip


def on_gpu(case: Case, dtype: torch.dtype) -> tuple[gk.TangentModel, Any, Any]:
    def move(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to("cuda", dtype if leaf.is_floating_point() else leaf.dtype)

    model = case.model()
    model.module.to("cuda").to(dtype)
    return model, tree_map(move, case.batch(4)), tree_map(move, case.batch(3, seed=1))


@pytest.fixture
def tf32_asked_for() -> Iterator[None]:
    """A user who has TF32 on: kernels are computed without it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_matches_reference_in_float64(case: Case) -> None:
    try:
        model, x, y = on_gpu(case, torch.float64)
        model.forward(x)
    except (RuntimeError, AssertionError) as error:  # built on the CPU inside of its forward
        pytest.skip(str(error).splitlines()[0])
    for second in (None, y):
        true = reference.kernel(case.model(), case.batch(4), None if second is None else case.batch(3, seed=1))
        assert relative_error(kernel(model, x, second), true) < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
def test_cpu_and_gpu_agree_in_float32(name: str, tf32_asked_for: None) -> None:
    case = BY_NAME[name]
    model, x, _ = on_gpu(case, torch.float32)
    host = case.model()
    host.module.float()
    inputs = tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf, x)
    there, here = kernel(model, x), kernel(host, inputs)
    assert relative_error(there, here) < 1e-5
    assert relative_error(there.per_probe, here.per_probe) < 1e-5
    assert there.values.device.type == "cpu"


@pytest.mark.parametrize("name", ["conv_bn_relu", "unet", "diffusers_unet"])
def test_flags_and_random_state_are_restored(name: str, tf32_asked_for: None) -> None:
    model, x, y = on_gpu(BY_NAME[name], torch.float32)
    torch.backends.cudnn.benchmark = True
    try:
        before = Snapshot(model.module, x, y)
        kernel(model, x, y, memory=1)
        before.check()

        def fail(outputs: torch.Tensor) -> torch.Tensor:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            kernel(model, x, cotangents=gk.cotangent(fail))
        before.check()
    finally:
        torch.backends.cudnn.benchmark = False


def test_batches_on_the_cpu_are_moved() -> None:
    case = BY_NAME["conv_bn_relu"]
    model, x, _ = on_gpu(case, torch.float64)
    assert relative_error(kernel(model, case.batch(4)), kernel(model, x)) < 1e-12


@pytest.mark.parametrize("name", ["conv_bn_relu", "unet"])
def test_any_budget_gives_the_same_numbers(name: str) -> None:
    model, x, y = on_gpu(BY_NAME[name], torch.float64)
    for second in (None, y):
        whole, tiles = kernel(model, x, second), kernel(model, x, second, memory=1)
        assert relative_error(tiles, whole) < 1e-11


def test_peak_memory_stays_within_the_budget() -> None:
    """A network whose batch of all samples would not fit is run in tiles that do."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 32, 3, padding=1)]
    for _ in range(6):
        layers += [torch.nn.SiLU(), torch.nn.Conv2d(32, 32, 3, padding=1)]
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 64 * 64, 1)).cuda()
    x = torch.randn(96, 3, 64, 64, device="cuda")
    kernel(net, x[:4], cotangents=gk.total())  # libraries allocate their workspaces once
    torch.cuda.empty_cache()
    for budget in (2**29, 2**30):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        K = kernel(net, x, cotangents=gk.total(), memory=budget)
        assert torch.cuda.max_memory_allocated() - held <= budget, K.meta["plan"]
        assert K.meta["tasks"] > 1
