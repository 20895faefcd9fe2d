"""What contributions are compared with: other predictions of what training samples do to outputs, in their units.

All are signed like contributions, as "what the samples added to the output": taking them away is predicted to take it
away again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.functional import cross_entropy

from genkernel.experiments.retraining.groups import asked_of, margins

Array = NDArray[np.float64]
Pair = tuple[Tensor, Tensor]
_CHUNK = 256


class FinalWeights:
    """Gradients at the end of a training, each ``[…, P]`` float64.

    Args:
        module: the trained network.
        data: training inputs and labels.
        queries: held-out ones.

    Attributes:
        gradients: of every training sample's loss ``[n, P]``.
        rows: of every query's loss and margin ``[m, 2, P]``.
    """

    def __init__(self, module: nn.Module, data: Pair, queries: Pair):
        self._module, self._data, self._queries = module, data, queries
        self._parameters = {name: p.detach() for name, p in module.named_parameters()}
        self.gradients = self._per_sample(
            lambda own, x, y: cross_entropy(functional_call(module, own, (x[None],)), y[None]), data
        )

        def asked(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return asked_of(functional_call(module, own, (x[None],)), y[None])[0]

        self.rows = self._flat(vmap(jacrev(asked), in_dims=(None, 0, 0))(self._parameters, *queries), 2)

    def gauss_newton(self) -> Tensor:
        """(1/n) Σ_i J_iᵀ (diag p - p pᵀ) J_i ``[P, P]``: the Fisher information of the model's own labels."""
        x, _ = self._data
        total: Tensor | float = 0.0

        def logits(own: dict[str, Tensor], one: Tensor) -> Tensor:
            found: Tensor = functional_call(self._module, own, (one[None],))[0]
            return found

        for part in x.split(_CHUNK):
            J = self._flat(vmap(jacrev(logits), in_dims=(None, 0))(self._parameters, part), 2)
            p = vmap(logits, in_dims=(None, 0))(self._parameters, part).softmax(-1)
            centred = (J - (p[..., None] * J).sum(1, keepdim=True)) * p.sqrt()[..., None]
            flat = centred.flatten(0, 1)
            total = total + flat.T @ flat
        assert isinstance(total, Tensor)
        return total / len(x)

    def influence(self, damping: float) -> Array:
        """-(1/n) J_q (H + λ)⁻¹ ∇ℓ_i ``[n, m, 2]`` with H of Gauss-Newton and λ = damping × its mean eigenvalue."""
        H = self._gauss_newton_once()
        scale = damping * float(H.diagonal().mean())
        factor = cho_factor(H.numpy() + scale * np.eye(len(H)), lower=True, overwrite_a=True, check_finite=False)
        solved = cho_solve(factor, self.rows.flatten(0, 1).numpy().T, check_finite=False)  # [P, 2m]
        found = -(self.gradients.numpy() @ solved) / len(self.gradients)
        return np.asarray(found.reshape(len(found), -1, 2))

    def _gauss_newton_once(self) -> Tensor:
        if not hasattr(self, "_H"):
            self._H = self.gauss_newton()
        return self._H

    def trak_features(self, dimension: int, seed: int) -> tuple[Array, Array]:
        """TRAK's two factors: ``[m, n]`` from projected gradients of margins, and 1 - p of every sample ``[n]``."""
        draw = torch.Generator().manual_seed(seed)
        P = self.gradients.shape[1]
        project = (2 * torch.randint(2, (P, dimension), generator=draw) - 1).double() / dimension**0.5
        phi = self._per_sample(
            lambda own, x, y: margins(functional_call(self._module, own, (x[None],)), y[None])[0], self._data
        )
        features = (phi @ project).numpy()
        own = (self.rows[:, 1] @ project).numpy()
        solved = np.linalg.solve(features.T @ features, features.T)
        with torch.no_grad():
            wrong = torch.sigmoid(-margins(self._module(self._data[0]), self._data[1]))
        return own @ solved, wrong.numpy()

    def wrong_at_queries(self) -> Array:
        """1 - p of every query ``[m]``: a margin's derivative of the loss, with the sign turned."""
        with torch.no_grad():
            found: Array = torch.sigmoid(-margins(self._module(self._queries[0]), self._queries[1])).numpy()
        return found

    def _per_sample(self, of_one: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor], batch: Pair) -> Tensor:
        each = vmap(grad(of_one), in_dims=(None, 0, 0))
        parts = [
            self._flat(each(self._parameters, x, y), 1)
            for x, y in zip(batch[0].split(_CHUNK), batch[1].split(_CHUNK), strict=True)
        ]
        return torch.cat(parts)

    @staticmethod
    def _flat(by_name: dict[str, Tensor], lead: int) -> Tensor:
        return torch.cat([g.detach().flatten(lead) for g in by_name.values()], lead).double()


def trak(ensemble: list[tuple[Array, Array]], wrong_at_queries: Array) -> Array:
    """TRAK's scores ``[n, m, 2]`` of several trainings: means of both factors, then their product.

    The score is of the margin; that of the loss is its derivative by the margin times it.
    """
    kernel = np.mean([one for one, _ in ensemble], 0)  # [m, n]
    wrong = np.mean([one for _, one in ensemble], 0)  # [n]
    margin = (kernel * wrong).T
    return np.stack([-wrong_at_queries * margin, margin], -1)
