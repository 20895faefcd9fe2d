"""Networks of one shape trained side by side, each on its own points: independent replicates at nearly one's price."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from genkernel.errors import InputError


class SideBySide(nn.Module):
    """Fully connected networks ``[b, R, d]`` → ``[b, R]``: sample i of a batch is another one for every network.

    Parameters of all networks are entries of the same tensors. Optimizers that treat every entry alone (SGD with and
    without momentum, RMSprop, Adam) therefore do to each network, given the sum of the losses over networks, what
    they would do to it alone.

    Args:
        networks: linear layers with one kind of activation between them, one output; their weights are copied.

    Raises:
        InputError: there is none, or they are of other shapes.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise InputError("there is no network")
        layers = [_linear(one) for one in networks]
        shapes = {tuple(tuple(layer.weight.shape) for layer in each) for each in layers}
        if len(shapes) != 1 or layers[0][-1].out_features != 1:
            raise InputError("networks side by side have the same layers and one output")
        self._form = (copy.deepcopy(networks[0]),)  # in a tuple: its parameters are not of those that are trained
        self._activation = next(one for one in networks[0].children() if not isinstance(one, nn.Linear))
        stacked = list(zip(*layers, strict=True))
        self.weights = nn.ParameterList(torch.stack([one.weight.detach() for one in each]) for each in stacked)
        self.biases = nn.ParameterList(torch.stack([one.bias.detach() for one in each]) for each in stacked)

    def forward(self, x: Tensor) -> Tensor:
        h = x.transpose(0, 1)
        last = len(self.weights) - 1
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias[:, None], h, weight.mT)
            h = self._activation(h) if k < last else h
        return h[:, :, 0].T

    def networks(self) -> list[nn.Module]:
        """Copies of the networks as they are now."""
        found = []
        for r in range(len(self.weights[0])):
            one = copy.deepcopy(self._form[0])
            with torch.no_grad():
                for layer, weight, bias in zip(_linear(one), self.weights, self.biases, strict=True):
                    layer.weight.copy_(weight[r])
                    layer.bias.copy_(bias[r])
            found.append(one)
        return found


def _linear(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.children() if isinstance(layer, nn.Linear)]


def summed(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """An objective of outputs ``[b, R]``: the sum over networks of the mean over samples of a loss ``[b, R]``."""
    return lambda outputs, y: loss(outputs, y).mean(0).sum()


def squared(outputs: Tensor, y: Tensor) -> Tensor:
    """(f - y)², entry by entry; labels are -1 and 1."""
    return (outputs - y).square()


def logistic(outputs: Tensor, y: Tensor) -> Tensor:
    """log(1 + exp(-y f)), entry by entry; labels are -1 and 1."""
    return nn.functional.softplus(-y * outputs)
