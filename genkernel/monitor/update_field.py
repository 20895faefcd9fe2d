"""What one step of the generator does to its samples, cluster by cluster (THEORY §7), at the price of a monitor.

The same numbers as :func:`genkernel.gan.transport.transport`, whose caller can wait: there the network is proved in
every call, every latent is driven and read, and a cluster runs all latents. Here the route to J·u is verified once,
a cluster runs its own latents, and updates are read at some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkernel.errors import NonFiniteError, ZeroGradientError
from genkernel.gan.clusters import Clusters
from genkernel.monitor.trace import Array
from genkernel.tangent import TangentModel, batches
from genkernel.tangent.jvp import Vector, faster
from genkernel.tangent.passes import guarded
from genkernel.tangent.side import Proof, Side, prove

#: The latents of a cluster are filled up to a multiple of this. Their number is another one in every reading, and
#: convolutions are compiled, and kept, for each number of samples: 30 MiB for a small generator.
TOGETHER = 8
_VERIFIED_ON = 2  # samples, and directions, that the faster of two routes is compared on


@dataclass(frozen=True)
class Updates:
    """Updates per unit of learning rate at r latents.

    Attributes:
        total: U(z) ``[r, *out]``, the sum over clusters.
        norms: ‖U_c(z)‖ ``[M, r]``; 0 for clusters without latents.
    """

    total: Tensor
    norms: Array


class UpdateField:
    """U_c(z) = −J(z) (1/n) Σ_{z′ in c} J(z′)ᵀ δ(z′), time and again for one network as its weights change.

    Args:
        model: the generator as a function of its parameters.
        receivers: r, the number of latents at which updates are read: the first ones.
    """

    def __init__(self, model: TangentModel, receivers: int):
        self._model, self._receivers = model, receivers
        self._proof: Proof | None = None
        self._compared = False

    def read(self, batch: Any, drive: Tensor, clusters: Clusters, memory: int) -> Updates:
        """The updates by the present weights.

        Args:
            batch: n latents that drive.
            drive: δ ``[n, *out]``.
            clusters: of these latents.
            memory: bytes, for activations and directions.

        Raises:
            NonFiniteError: a gradient or an update is NaN or infinite.
            ZeroGradientError: the drive is zero everywhere, or moves no sample.
            CaptureError: no route gives J·u of this network.
        """
        if not drive.any():
            raise ZeroGradientError(
                "the gradient of the loss at the samples is zero everywhere: the discriminator is constant, or "
                "saturated"
            )
        model = self._model
        proof = prove(model, batch, model.dtype, "auto", None) if self._proof is None else self._proof.renewed(model)
        self._proof = proof
        n, members = len(drive), np.flatnonzero(clusters.sizes)
        few = batches.take(batch, slice(0, self._receivers))
        received = Side(model, few, None, model.dtype, proof, None, memory, False)
        parts = torch.zeros(clusters.count, received.n, received.outputs, dtype=received.summed)
        for first in range(0, len(members), received.together):
            some = members[first : first + received.together]
            along = [self._direction(batch, drive / n, np.flatnonzero(clusters.labels == c), memory) for c in some]
            received.proof = self._fastest(few, along)
            products = received.forward([(0, k) for k in range(len(some))], along)
            parts[torch.from_numpy(some)] = -products.T.reshape(len(some), received.n, -1).to(parts)
        if not torch.isfinite(parts).all():
            raise NonFiniteError("an update of the samples is NaN or infinite")
        if not parts.any():
            raise ZeroGradientError("the drive moves no sample of the generator: its gradients are zero")
        total = parts.sum(0).reshape(received.n, *drive.shape[1:])
        return Updates(total, parts.double().norm(dim=2).numpy())

    def _direction(self, batch: Any, drive: Tensor, rows: Any, memory: int) -> Vector:
        """Σ Jᵀδ over the latents of one cluster, which alone are run."""
        assert self._proof is not None
        more = -len(rows) % TOGETHER
        mine = torch.from_numpy(np.append(rows, np.repeat(rows[:1], more)))
        side = Side(self._model, batches.take(batch, mine), None, self._model.dtype, self._proof, None, memory, False)
        sent = drive[mine.to(drive.device)]
        sent[len(rows) :] = 0
        return side.vjp(sent)

    def _fastest(self, batch: Any, along: list[Vector]) -> Proof:
        """Several directions at a time, where that gives what they are one by one; found out once."""
        assert self._proof is not None
        if not self._compared and len(along) >= _VERIFIED_ON:
            self._compared = True
            model = self._model
            few = batches.move(batches.take(batch, slice(0, _VERIFIED_ON)), model.device, model.dtype)
            with guarded(model), model.evaluating():
                route = faster(model, model.tensors(model.dtype), few, self._proof.route, along)
            self._proof = replace(self._proof, route=route)
        return self._proof
