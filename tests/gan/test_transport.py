"""Kernel transport against dense Jacobians, and what is read off it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from genkernel.errors import InputError, NonFiniteError, ZeroGradientError
from genkernel.gan import Discriminator, Generator
from genkernel.gan.clusters import Clusters, nearest_mode
from genkernel.gan.transport import summarise, transport
from genkernel.tangent import Preconditioner


def smooth(seed: int = 0, outputs: int = 3) -> Generator:
    torch.manual_seed(seed)
    return Generator(nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, outputs)).double(), (4,))


def critic(inputs: int = 3) -> Discriminator:
    torch.manual_seed(1)
    return Discriminator(nn.Sequential(nn.Linear(inputs, 10), nn.Tanh(), nn.Linear(10, 1)).double(), (inputs,))


def dense_jacobian(gen: Generator, batch: dict[str, Tensor]) -> Tensor:
    """``[n, O, P]``, one row of one sample after the other."""
    parameters = dict(gen.module.named_parameters())
    names = list(gen.tangent.parameter_names)
    leaves = [parameters[name] for name in names]
    rows = []
    for z in batch["z"]:
        out = functional_call(gen.module, parameters, (z[None],))[0].flatten()
        rows.append(
            torch.stack(
                [torch.cat([g.flatten() for g in torch.autograd.grad(o, leaves, retain_graph=True)]) for o in out]
            )
        )
    return torch.stack(rows)


@pytest.fixture
def parts() -> tuple[Generator, dict[str, Tensor], Tensor, Clusters]:
    gen = smooth()
    batch = gen.draw(11, seed=3)
    drive = critic().drive(gen.images(batch), "non-saturating")
    labels = np.array([0, 2, 1, 0, 2, 2, 1, 0, 0, 2, 1])
    return gen, batch, drive, Clusters(labels, ["a", "b", "c", "never"], "given")


@pytest.mark.parametrize("preconditioned", [False, True])
def test_updates_are_those_of_dense_jacobians(parts, preconditioned: bool) -> None:  # type: ignore[no-untyped-def]
    gen, batch, drive, clusters = parts
    fresh = gen.draw(5, seed=3, stream=1)
    P = None
    scale = torch.ones(gen.parameters, dtype=torch.float64)
    if preconditioned:
        diagonal = {name: torch.rand(p.shape, dtype=torch.float64) + 0.1 for name, p in gen.tangent.parameters.items()}
        P, scale = Preconditioner.diagonal(diagonal), torch.cat([d.flatten() for d in diagonal.values()])
    found = transport(gen, batch, drive, clusters, fresh=fresh, precondition=P, keep_parts=True)
    J, F = dense_jacobian(gen, batch), dense_jacobian(gen, fresh)
    pulled = torch.einsum("nop,no->np", J, drive) / len(drive) * scale
    U = -torch.einsum("nop,p->no", J, pulled.sum(0))
    torch.testing.assert_close(found.total, U, rtol=1e-10, atol=1e-14)
    assert found.fresh_total is not None and found.parts is not None and found.fresh_norms is not None
    torch.testing.assert_close(found.fresh_total, -torch.einsum("nop,p->no", F, pulled.sum(0)), rtol=1e-10, atol=1e-14)
    for c in range(clusters.count):
        mine = torch.from_numpy(clusters.labels == c)
        part = -torch.einsum("nop,p->no", J, pulled[mine].sum(0))
        there = -torch.einsum("nop,p->no", F, pulled[mine].sum(0))
        torch.testing.assert_close(found.parts[c], part, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(found.norms[c], part.norm(dim=1), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(found.inner[c], (part * U).sum(1), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(found.fresh_norms[c], there.norm(dim=1), rtol=1e-10, atol=1e-14)
        assert found.cluster_gradient_norms[c] == pytest.approx(float(pulled[mine].sum(0).norm()), rel=1e-10)
    assert found.gap < 1e-14
    assert found.gradient_norm == pytest.approx(float(pulled.sum(0).norm()), rel=1e-10)


def test_summary_by_hand(parts) -> None:  # type: ignore[no-untyped-def]
    gen, batch, drive, clusters = parts
    found = transport(gen, batch, drive, clusters, fresh=gen.draw(6, seed=9), keep_parts=True)
    summary = summarise(found, gen.images(batch), drive, clusters)
    assert found.parts is not None
    norms = found.parts.flatten(2).norm(dim=2).numpy()
    share = norms.sum(1) / norms.sum()
    np.testing.assert_allclose(summary.share, share, rtol=1e-12)
    assert summary.share[3] == 0 and np.isnan(summary.matrix[:, 3]).all()
    assert summary.matrix[0, 2] == pytest.approx(norms[0, clusters.labels == 2].mean())
    assert summary.signed_share.sum() == pytest.approx(1)
    entropy = -sum(s * math.log(s) for s in share if s > 0)
    assert summary.effective_clusters == pytest.approx(math.exp(entropy))
    assert summary.driving_dominance == pytest.approx(1 - math.exp(entropy) / 4)
    occupancy = np.array([4, 3, 4, 0]) / 11
    assert summary.occupancy_dominance == pytest.approx(
        1 - math.exp(-sum(p * math.log(p) for p in occupancy if p > 0)) / 4
    )
    own = sum(norms[c, i] for i, c in enumerate(clusters.labels))
    assert summary.foreign_share == pytest.approx(1 - own / norms.sum())
    assert summary.foreign_baseline == pytest.approx(1 - (occupancy**2).sum())
    assert -1 - 1e-12 <= summary.inheritance_share <= 1 + 1e-12
    assert 0 <= summary.inheritance_alignment <= 1 + 1e-12


def test_a_generator_of_constants_moves_all_alike() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, z: Tensor) -> Tensor:
            return z + self.shift

    gen = Generator(Shift(), (2,))
    batch = gen.draw(20, seed=0)
    drive = torch.tensor([1.0, 2.0], dtype=torch.float64).expand(20, 2)
    modes = nearest_mode(gen.images(batch), torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
    found = transport(gen, batch, drive, modes)
    summary = summarise(found, gen.images(batch), drive, modes)
    torch.testing.assert_close(found.total, -drive.clone())
    assert summary.axial_coherence == pytest.approx(1) and summary.coherence == pytest.approx(1)
    assert summary.spread_gain == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(summary.share, modes.occupancy)  # each drives by its number, wherever it is


def test_what_is_refused(parts) -> None:  # type: ignore[no-untyped-def]
    gen, batch, drive, clusters = parts
    with pytest.raises(InputError, match="the drive has shape"):
        transport(gen, batch, drive[:, :2], clusters)
    with pytest.raises(InputError, match="11 latents and 3 cluster labels"):
        transport(gen, batch, drive, Clusters(np.zeros(3, dtype=np.int64), ["a"], "given"))
    with pytest.raises(NonFiniteError, match="NaN"):
        transport(gen, batch, drive * math.nan, clusters)
    with pytest.raises(ZeroGradientError, match="constant, or saturated"):
        transport(gen, batch, drive * 0, clusters)
