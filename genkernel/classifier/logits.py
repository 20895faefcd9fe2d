"""The logits in whatever a classifier returns, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.tangent.model import call_module

_ROUNDING = 1e-3  # of sums of probabilities, in half precision too


def logits_of(module: nn.Module, batch: Any) -> Tensor:
    """The logits: the answer itself, its ``logits``, or its first entry."""
    out: Any = call_module(module, batch)
    if isinstance(out, Mapping) and "logits" in out:
        out = out["logits"]
    if isinstance(out, (tuple, list)) and out:
        out = out[0]
    return out


def squashed(logits: Tensor) -> str | None:
    """What outputs ``[n, C]`` seem to be that are no logits, in a sentence; None where they may well be logits."""
    single = logits.shape[1] == 1
    within = bool(((logits >= 0) & (logits <= 1)).all()) and bool((logits != logits[0, 0]).any())  # not all of them 0
    if not single and bool((logits.logsumexp(1).abs() < _ROUNDING).all()):
        return (
            "The outputs look like log-probabilities (a log-softmax), not like logits: the kernel is of these, and "
            "what raises one class in it lowers the others; give a network that answers with logits, or call="
        )
    if not within:
        return None
    exact = not single and bool(((logits.sum(1) - 1).abs() < _ROUNDING).all())
    kind = "the probabilities of a softmax" if exact else "probabilities of a sigmoid, all between 0 and 1"
    own = "; a single one counts as class 1 wherever it is positive" if single else ""
    return (
        f"The outputs look like {kind}, not like logits: the kernel is of probabilities, and fades where the network "
        f"is sure, and loss and confidence are not what they are called{own}; give a network that answers with "
        "logits, or call="
    )


def predicted(logits: Tensor) -> Tensor:
    """The most probable class ``[n]``; of a single logit ``[n, 1]``, class 1 where it is positive."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Of every sample ``[n]``; binary for a single logit ``[n, 1]``."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits), reduction="none")
    return F.cross_entropy(logits, labels, reduction="none")


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the logit of the label is above the largest other one ``[n]``; negative where the answer is wrong.

    Of a single logit it is that logit, with the sign of the label.
    """
    if logits.shape[1] == 1:
        return logits[:, 0] * (2 * labels - 1)
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -float("inf"))
    return own[:, 0] - others.amax(1)
