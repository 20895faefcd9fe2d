"""Models that have no tangent kernel, and the error that each of them has to end in."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.errors import (
    BatchCouplingError,
    CaptureError,
    GenkernelError,
    NonFiniteError,
    RandomOutputError,
)
from genkernel.tangent import TangentModel
from tests.zoo.cases import BatchMaker, Net, floats


@dataclass(frozen=True)
class Refusal:
    """A model that has no kernel, the error it must end in, and words the message must hold."""

    name: str
    why: str
    error: type[GenkernelError]
    words: tuple[str, ...]
    make: Callable[[], tuple[TangentModel, BatchMaker]]

    def __repr__(self) -> str:
        return self.name


REFUSALS: list[Refusal] = []


def refusal(
    why: str, error: type[GenkernelError], words: tuple[str, ...], batch: BatchMaker
) -> Callable[[Callable[[], nn.Module | TangentModel]], Callable[[], nn.Module | TangentModel]]:
    """Register a function that builds a model without a kernel."""

    def register(build: Callable[[], nn.Module | TangentModel]) -> Callable[[], nn.Module | TangentModel]:
        def make() -> tuple[TangentModel, BatchMaker]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(zlib.crc32(build.__name__.encode()))
                built = build()
            model = built if isinstance(built, TangentModel) else TangentModel(built)
            model.module.double().eval()
            return model, batch

        REFUSALS.append(Refusal(build.__name__, why, error, words, make))
        return build

    return register


@refusal("batch norm asked for in train mode", BatchCouplingError, ("batch", "eval", "frozen"), floats(3, 4))
def train_mode_batch_norm() -> TangentModel:
    net = nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    return TangentModel(net, batch_norm="train")


@refusal(
    "batch norm that keeps no statistics uses the batch's own even in eval mode",
    BatchCouplingError,
    ("batch",),
    floats(3, 4),
)
def batch_norm_without_statistics() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Flatten(), nn.Linear(12, 2))


@refusal("softmax over the batch axis", BatchCouplingError, ("batch",), floats(3))
def softmax_over_batch() -> nn.Module:
    return Net(lambda net, x: net.layer(x).softmax(0), layer=nn.Linear(3, 2))


@refusal("the batch mean is subtracted", BatchCouplingError, ("batch",), floats(3))
def batch_mean() -> nn.Module:
    return Net(lambda net, x: net.layer(x - x.mean(0)), layer=nn.Linear(3, 2))


@refusal("minibatch discrimination: a faint sum over the other samples", BatchCouplingError, ("batch",), floats(3))
def minibatch_statistics() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.layer(x)
        return h + 1e-3 * h.std(0, unbiased=False).mean()

    return Net(forward, layer=nn.Linear(3, 2))


@refusal("attention among samples", BatchCouplingError, ("batch",), floats(4))
def attention_over_batch() -> nn.Module:
    return Net(lambda net, x: net.attention(x, x, x)[0], attention=nn.MultiheadAttention(4, 2))


@refusal("samples are read in the wrong order of axes", BatchCouplingError, ("batch",), floats(3, 4))
def scrambled_reshape() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, t, c = x.shape
        return net.layer(x.transpose(0, 1).reshape(n, t, c)).mean(1)

    return Net(forward, layer=nn.Linear(4, 2))


@refusal("a coin is tossed in eval mode", RandomOutputError, ("different", "evaluation"), floats(3))
def random_gate() -> nn.Module:
    return Net(lambda net, x: net.layer(x) * torch.bernoulli(torch.full_like(x[:, :2], 0.5)), layer=nn.Linear(3, 2))


@refusal("dropout that eval mode does not switch off", RandomOutputError, ("different", "evaluation"), floats(8))
def dropout_always() -> nn.Module:
    return Net(lambda net, x: F.dropout(net.layer(x), 0.5, training=True), layer=nn.Linear(8, 8))


@refusal("noise is added to the output", RandomOutputError, ("different", "evaluation"), floats(3))
def noisy_output() -> nn.Module:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.layer(x)
        return h + 0.1 * torch.randn_like(h)

    return Net(forward, layer=nn.Linear(3, 2))


@refusal("a parameter in a closure does not belong to the module", CaptureError, ("(3, 2)", "parameters()"), floats(3))
def closure_parameter() -> nn.Module:
    outside = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    return Net(lambda net, x: net.layer(x) + x @ outside, layer=nn.Linear(3, 2))


@refusal("a parameter in a plain list does not belong to the module", CaptureError, ("(3,)", "parameters()"), floats(3))
def listed_parameter() -> nn.Module:
    net = Net(lambda net, x: net.layer(x * net.hidden[0]), layer=nn.Linear(3, 2))
    net.hidden = [nn.Parameter(torch.randn(3, dtype=torch.float64))]
    return net


@refusal("another module is called through call=", CaptureError, ("parameters()",), floats(3))
def call_with_other_module() -> TangentModel:
    other = nn.Linear(3, 3).double()
    return TangentModel(nn.Linear(3, 2), call=lambda module, x: module(other(x)))


@refusal("NaN among the weights", NonFiniteError, ("NaN", "'2.weight'"), floats(3))
def nan_weights() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        net[2].weight[1, 2] = math.nan
    return net


@refusal("infinity among the statistics of a batch norm", NonFiniteError, ("infinite", "'1.running_mean'"), floats(3))
def infinite_statistics() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net[1].running_mean[0] = math.inf
    return net


def _one_bad_sample(n: int, seed: int) -> Tensor:
    x = floats(3)(n, seed).abs() + 0.5
    x[n - 1, 0] = -1.0
    return x


@refusal("NaN in the output for one sample", NonFiniteError, ("output", "sample 5"), _one_bad_sample)
def nan_output() -> nn.Module:
    return Net(lambda net, x: net.layer(x.sqrt()), layer=nn.Linear(3, 2))


def _one_zero_sample(n: int, seed: int) -> Tensor:
    x = floats(3)(n, seed).abs() + 0.5
    x[n - 1] = 0.0
    return x


@refusal("an infinite gradient behind a finite output", NonFiniteError, ("gradient", "sample 5"), _one_zero_sample)
def infinite_gradient() -> nn.Module:
    layer = nn.Linear(3, 2, bias=False)
    return Net(lambda net, x: net.layer(x).abs().sqrt(), layer=layer)
