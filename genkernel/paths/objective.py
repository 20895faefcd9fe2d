"""Gradients of the training loss by group of samples, at the weights and in the mode of training.

The user's loss runs on detached aliases of the weights and clones of the buffers; random numbers, modes, buffers and
``.grad`` are as they were afterwards. Where samples do not see each other in the forward pass, every group runs by
itself, which costs as much as one ordinary backward pass in total. Where they do (batch normalisation in training
mode) or where the loss draws random numbers (dropout), there is one forward pass of the whole batch, from the random
state that the training's own forward pass will start from, and one backward pass per group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genkernel.errors import InputError, NonFiniteError
from genkernel.paths.coordinates import Coordinates
from genkernel.paths.losses import LossFunction, loss_model
from genkernel.paths.other_modules import OtherModules
from genkernel.paths.random_state import Seeded, State, generators_used_by, random_state, set_random_state
from genkernel.tangent import TangentModel, batches
from genkernel.tangent.jvp import Route
from genkernel.tangent.model import eagerly
from genkernel.tangent.restore import generators_held, generators_kept, generators_of, random_state_kept, restored

# how far losses of samples alone and in their batch may be apart, relative, per precision
_SAME = {torch.float64: 1e-9, torch.float32: 1e-4}
_SAME_COARSE = 2e-2


class Objective:
    """The training loss of one network, sample by sample.

    Args:
        module: the network that trains.
        loss: ``loss(module, batch) -> Tensor[b]``, one number per sample; deterministic given the batch, apart from
            random numbers that it draws in the same order as the training's own forward pass.
        coordinates: the parameters that train.
        others: further modules that the loss runs (a discriminator); they are left as they are.

    Attributes:
        joint: samples see each other, or the loss is random; None until a batch has shown it.
        vectorised: gradients of several samples can be made at a time; likewise.
        route: to directional derivatives of the losses; likewise.
    """

    def __init__(self, module: nn.Module, loss: LossFunction, coordinates: Coordinates, others: Sequence[nn.Module]):
        if not callable(loss):
            raise InputError("loss_fn is a function (model, batch) -> losses [b], one per sample")
        self.model = loss_model(module, loss, coordinates.names)
        self.coordinates, self.others = coordinates, OtherModules(module, others)
        self._of_loss = generators_used_by(loss)
        # those of the module first: they are what a tape knows
        self._generators = [
            *generators_of(module), *(one for one in self._of_loss if isinstance(one, torch.Generator))
        ]  # fmt: skip
        self.joint: bool | None = None
        self.vectorised: bool | None = None
        self.route: Route | None = None

    @contextmanager
    def training(self, random: State | None = None) -> Iterator[None]:
        """The network as it trains, from a random state if one is given; everything is put back on exit."""
        device = self.model.device
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
            stack.enter_context(random_state_kept())
            stack.enter_context(generators_kept(self._of_loss))
            stack.enter_context(restored(self.model.module))  # with the generators of its own
            stack.enter_context(self.others.found())  # a loss may begin to use others at any time
            stack.enter_context(eagerly(list(self.model.module.modules())))
            stack.enter_context(torch.enable_grad())
            if random is not None:
                set_random_state(random, device, self._generators)
            yield

    def random_state(self) -> State:
        """What the loss may draw from, as it is now."""
        return random_state(self.model.device, self._generators)

    def seeded(self, model: TangentModel, random: State | None) -> TangentModel:
        """A model that starts every run from a random state, if one is given."""
        return model if random is None else Seeded(model, random, self._generators)

    def group_gradients(
        self, batch: Any, weights: Tensor, groups: Tensor, labels: Sequence[int], random: State | None = None
    ) -> dict[int, Tensor]:
        """Σ over the samples of a group of weight × gradient of the loss.

        Args:
            batch: b samples.
            weights: one per sample ``[b]``.
            groups: the group of each sample ``[b]``.
            labels: the groups that occur.
            random: the random state to start from, the present one by default.

        Returns:
            group → gradient ``[P]``.

        Raises:
            InputError: the loss does not return one number per sample.
            NonFiniteError: a loss is NaN or infinite.
        """
        with self.training(random):
            batch = batches.move(batch, self.model.device)
            weights = weights.to(self.model.device)
            tensors = self.model.tensors()
            if self.joint is None and len(groups) > 1:
                self.joint = self.is_joint(self.model.tensors(), batch)
            if self.joint or len(groups) == 1:
                return self._jointly(tensors, batch, weights, groups, labels)
            found = {}
            for label in labels:
                rows = (groups == label).nonzero().flatten()
                part = batch if len(rows) == len(groups) else batches.take(batch, rows.to(self.model.device))
                losses = self.losses(tensors, part)
                found[label] = self.pull(tensors, losses, weights[rows.to(weights.device)])
            return found

    def look_again(self) -> None:
        """Find out anew, with the next batch, whether its samples see each other: losses may change on the way."""
        self.joint = self.joint or None

    def losses(self, tensors: dict[str, Tensor], batch: Any) -> Tensor:
        """Losses ``[b]`` with their graph."""
        out = self.model.run(tensors, batch)
        if not out.requires_grad and torch.is_grad_enabled() and self._trained():
            raise InputError(
                "loss_fn returned losses without a graph: it runs under torch.no_grad(), or detaches what it returns"
            )
        bad = (~torch.isfinite(out.detach())).nonzero().flatten()
        if len(bad):
            raise NonFiniteError(f"the loss is NaN or infinite for sample {int(bad[0])} of the batch")
        return out

    def pull(self, tensors: dict[str, Tensor], losses: Tensor, weights: Tensor, retain: bool = False) -> Tensor:
        """Σ weight × gradient of the loss ``[P]``; zero for parameters that are frozen now."""
        names = self._trained()
        if not losses.requires_grad or not names:
            return self.coordinates.flat({})
        leaves = [tensors[name] for name in names]
        found = torch.autograd.grad(losses, leaves, weights.to(losses), retain_graph=retain, allow_unused=True)
        return self.coordinates.flat(dict(zip(names, found, strict=True)))

    def _trained(self) -> list[str]:
        """Names of the parameters that are not frozen now."""
        now = dict(self.model.module.named_parameters())
        return [name for name in self.coordinates.names if now[name].requires_grad]

    def is_joint(self, tensors: dict[str, Tensor], batch: Any) -> bool:
        """Whether losses of half a batch differ from those in the whole batch, need random numbers, or write buffers.

        Args:
            tensors: stand-ins of their own, which are written to.
            batch: at least two samples.
        """
        # batch normalisation in training mode may refuse parts of a batch
        if any(module.training and isinstance(module, _BatchNorm) for module in self.model.module.modules()):
            return True
        before = self.random_state()
        try:
            with random_state_kept(), generators_kept([*generators_held(self.model.module), *self._of_loss]):
                return self._shows_joint(tensors, batch, before)
        finally:
            set_random_state(before, self.model.device, self._generators)

    def _shows_joint(self, tensors: dict[str, Tensor], batch: Any, before: State) -> bool:
        buffers = {name: tensors[name].clone() for name, _ in self.model.module.named_buffers()}
        whole = self.losses(tensors, batch).detach()
        if any(not torch.equal(value, tensors[name]) for name, value in buffers.items()):
            return True
        if not np.array_equal(before, self.random_state()):
            return True
        near = _SAME.get(self.model.dtype, _SAME_COARSE) * (float(whole.double().abs().max()) or 1.0)
        n = len(whole)
        for rows in (slice(0, n // 2), slice(n // 2, n)):
            alone = self.losses(tensors, batches.take(batch, rows)).detach()
            if float((alone - whole[rows]).double().abs().max()) > near:
                return True
        return False

    # --------------------------------------------------------------------------- private

    def _jointly(
        self, tensors: dict[str, Tensor], batch: Any, weights: Tensor, groups: Tensor, labels: Sequence[int]
    ) -> dict[int, Tensor]:
        losses = self.losses(tensors, batch)
        groups = groups.to(weights.device)
        last = labels[-1]
        return {
            label: self.pull(tensors, losses, torch.where(groups == label, weights, 0.0), retain=label != last)
            for label in labels
        }


def sample_weights(weight: float | Tensor | None, n: int) -> Tensor:
    """What every sample's loss counts ``[n]``.

    Raises:
        InputError: neither a finite number nor one per sample.
    """
    if isinstance(weight, Tensor) and weight.dim():
        if tuple(weight.shape) != (n,) or not torch.isfinite(weight).all():
            raise InputError(f"weight is a number, or one finite number per sample [{n}], not {tuple(weight.shape)}")
        return weight.detach().double()
    number = 1.0 if weight is None else float(weight)
    if not np.isfinite(number):
        raise InputError(f"weight is a finite number, not {number}")
    return torch.full((n,), number / n, dtype=torch.float64)
