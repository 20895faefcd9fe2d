"""What precision buys: modes that are real, and none that are not (ENGINE notes, "Precision")."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.tangent import kernel, reference
from tests.tangent.compare import BY_NAME, relative_error

THRESHOLDS = (1e-12, 1e-9, 1e-6)


def smooth_family(kind: str) -> tuple[nn.Module, Tensor]:
    """A float32 network along a curve of inputs: the spectrum of its kernel decays over all digits."""
    torch.manual_seed(0)
    t = torch.linspace(-1, 1, 48)
    if kind == "mlp":
        net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        return net, torch.stack([t, t * t], 1)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(288, 1),
    )
    a, b, c = torch.randn(3, 1, 6, 6)
    t = t[:, None, None, None]
    return net, a + t * b + 0.3 * torch.sin(3 * t) * c


def modes(k: Tensor) -> list[int]:
    values = torch.linalg.eigvalsh(k)
    return [int((values > threshold * values.max()).sum()) for threshold in THRESHOLDS]


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_float64_accumulation_of_float32_gradients_keeps_the_modes(kind: str) -> None:
    net, x = smooth_family(kind)
    true = reference.kernel(net, x, cotangents=gk.total())
    fine = kernel(net, x, cotangents=gk.total())
    coarse = kernel(net, x, cotangents=gk.total(), accumulate="float32")
    assert modes(fine.values) == modes(true)
    assert modes(coarse.values)[0] > modes(true)[0], "float32 products make modes up"
    assert relative_error(fine, true) < relative_error(coarse, true) / 2
    assert relative_error(coarse, true) < 1e-6
    lowest = torch.linalg.eigvalsh(fine.values)
    assert float(lowest.min()) > -1e-14 * float(lowest.max())


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_tiles_do_not_cost_modes(kind: str) -> None:
    net, x = smooth_family(kind)
    x = x[::6]
    whole = kernel(net, x, cotangents=gk.total())
    tiles = kernel(net, x, cotangents=gk.total(), memory=1)
    assert tiles.meta["tasks"] > 1
    assert modes(tiles.values)[1:] == modes(whole.values)[1:]
    assert relative_error(tiles, whole) < 1e-6  # batched float32 activations round differently


@pytest.mark.parametrize(
    "name", ["mlp", "conv_bn_relu", "unet", "dit_block", "diffusers_unet", "transformer_pre_norm", "lora"]
)
def test_float64_on_a_float32_model(name: str) -> None:
    case = BY_NAME[name]
    model = case.model()
    model.module.float()
    x, y = case.batch(4), case.batch(2, seed=1)
    for second in (None, y):
        true = reference.kernel(model, x, second, cotangents=gk.probes(3))
        assert relative_error(kernel(model, x, second, cotangents=gk.probes(3), dtype="float64"), true) < 1e-9
        assert relative_error(kernel(model, x, second, cotangents=gk.probes(3), dtype=torch.float64), true) < 1e-9
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["mlp", "conv_bn_relu", "unet", "dit_block", "dcgan", "spectral_norm", "embedding", "gru_batch_first"]
)
def test_float32_is_near(name: str) -> None:
    case = BY_NAME[name]
    model = case.model()
    model.module.float()
    x = torch.utils._pytree.tree_map(lambda t: t.float() if t.is_floating_point() else t, case.batch(4))
    true = reference.kernel(model, x, cotangents=gk.probes(3))
    K = kernel(model, x, cotangents=gk.probes(3))
    assert K.values.dtype == torch.float64
    assert 1e-12 < relative_error(K, true) < 1e-5
    assert relative_error(kernel(model, x, cotangents=gk.probes(3), accumulate="float32"), true) < 1e-5
    assert K.meta["dtype"] == "float32"
    assert K.meta["accumulate"] == "float64"


def test_precision_flags_are_stated_and_restored() -> None:
    case = BY_NAME["mlp"]
    torch.set_float32_matmul_precision("medium")
    try:
        kernel(case.model(), case.batch(3))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
