"""Machines whose tangent kernel can be written down: linear regression, and networks with a linear last layer.

Sections 4.1 and 4.2 of Courtois et al., *Can neural networks extrapolate?*. A machine that is linear in its weights has
the kernel ⟨φ(x), φ(x')⟩ at all times, and the discrete formula leaves nothing out; networks that are not stand beside
it. A network with a linear last layer is itself a linear function of its tangent features, f = ⟨w, φ⟩ with the last
layer's own weights, so that one that is right everywhere has separable features; beside it stand the same features
without that layer, untrained networks and permuted labels. The paper gives no settings in these sections: all are ours.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genkernel.experiments.linear_machines import task
from genkernel.experiments.linear_machines.outcome import report
from genkernel.experiments.linear_machines.setting import QUICK, Setting
from genkernel.experiments.outcome import Outcome


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """The formula on linear machines, their kernels, and what the tangent features of networks span.

    Args:
        quick: two seeds, fewer points, step sizes and steps.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    rows = [_one(setting, seed + s) for s in tqdm(range(setting.seeds), disable=not progress, desc="linear-machines")]
    net, x, y = task.one_sine()
    sine = _features(net, x)
    made = {name: task.separable(phi, y) for name, phi in zip(("all", "without"), sine, strict=True)}
    outcome = Outcome("linear-machines", asdict(setting) | {"quick": quick, "seed": seed})
    report(outcome, setting, rows, made, seed)
    return outcome


def _one(setting: Setting, seed: int) -> dict[str, Any]:
    """Everything that is measured with one draw."""
    data = task.regression(setting, seed)
    gaps = {
        name: [_gap(setting, name, speed, "gradient descent", data, seed) for speed in setting.speeds]
        for name in (*task.LINEAR, *task.OTHERS)
    }
    optimizers = {
        name: {
            optimizer: _gap(setting, name, setting.speeds[-1], optimizer, data, seed)
            for optimizer in task.OPTIMIZERS
            if optimizer != "gradient descent"
        }
        for name in task.LINEAR
    }
    return {
        "gaps": gaps,
        "optimizers": optimizers,
        "cosines": _cosines(setting, data, seed),
        "networks": {name: _network(setting, name, seed) for name in task.NETWORKS},
    }


def _gap(
    setting: Setting, name: str, speed: float, optimizer: str, data: tuple[Tensor, Tensor, Tensor], seed: int
) -> float:
    net = task.machine(name, setting.inputs, setting.hidden, seed)
    steps = max(2, round(setting.horizon / speed))
    return task.gap(net, speed * task.edge(net, data[0]), steps, optimizer, data, seed)


def _cosines(setting: Setting, data: tuple[Tensor, Tensor, Tensor], seed: int) -> dict[str, Any]:
    """Kernels of the linear regressions beside x · x', before and after a training, and cosines of all pairs."""
    x = data[0]
    above = torch.triu_indices(len(x), len(x), 1)
    similarity = F.cosine_similarity(x[:, None], x[None], dim=2)[above[0], above[1]]
    found: dict[str, Any] = {"similarity": similarity.tolist()}
    for name, one in ((task.LINEAR[0], 0.0), (task.LINEAR[1], 1.0)):
        net = task.machine(name, setting.inputs, setting.hidden, seed)
        before = task.kernel(net, x)
        task.gap(net, setting.speeds[-1] * task.edge(net, x), 5, "gradient descent", data, seed)
        after = task.kernel(net, x)
        normalized = after.normalized().values[above[0], above[1]]
        found[name] = {
            "kernel": float((before.values - x @ x.T - one).abs().max()),
            "moved": float((after.values - before.values).abs().max()),
            "cosine": normalized.tolist(),
            "off": float((normalized - similarity).abs().mean()),
            "off_most": float((normalized - similarity).abs().max()),
        }
    return found


def _features(net: torch.nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """Tangent features ``[n, P]``, and those without the last layer's."""
    import genkernel as gk

    phi = gk.tangent_features(net, x)[:, 0]
    return phi, phi[:, ~task.of_the_last_layer(net)]


def _network(setting: Setting, name: str, seed: int) -> dict[str, Any]:
    """One kind of network on a disk and the circle around it, before and after the training."""
    from genkernel.experiments.fitting import accuracy, fit
    from genkernel.experiments.plane_points import disk_and_circle

    x, y = disk_and_circle(setting.points, setting.radius, seed)
    if name.endswith("no biases"):  # lines through 0 separate nothing here: the input brings a 1 instead
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    permuted = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    net = task.classifier(name, x.shape[1], setting.width, seed)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in net.parameters())}
    for when in ("untrained", "trained"):
        if when == "trained":
            optimizer = torch.optim.Adam(net.parameters(), lr=task.RATE)
            fit(net, x, y, _logistic, optimizer, setting.steps)
        every, rest = _features(net, x)
        with torch.no_grad():
            out = net(x)[:, 0]
        spoken = every @ task.own_weights(net)
        found[when] = {
            "accuracy": accuracy(net, x, y),
            "identity": float((spoken - out).norm() / out.norm().clamp_min(1e-300)),  # 0 of a silent network
            "right": float(((spoken > 0).long() == y).double().mean()),
            "outside": task.outside(out, rest),
            "outside, intercept": task.outside(out, rest, intercept=True),
            "separable": task.separable(every, y),
            "separable, rest": task.separable(rest, y),
            "separable, permuted": task.separable(every, permuted),
        }
    return found


def _logistic(outputs: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs[:, 0], y.double())
