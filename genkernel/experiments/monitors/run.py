"""What all monitored trainings of the study share: their files, and an optimizer with a group of its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.runs import write_atomic

if TYPE_CHECKING:
    import torch
    from torch import nn


def losses_beside(log: Path) -> Path:
    """The file with the losses of every step; it is written last, so that a training with one is finished."""
    return log.with_suffix(".losses.json")


def begin(log: str | Path) -> tuple[Path, bool]:
    """The log, and whether there is something to do: one that is finished is left as it is, half of one is removed."""
    log = Path(log)
    if losses_beside(log).is_file():
        return log, False
    log.unlink(missing_ok=True)
    return log, True


def finish(log: Path, run: Any, losses: list[Any], **more: Any) -> Path:
    """Write the recipe and the losses beside the log."""
    write_atomic(losses_beside(log), json.dumps({"run": asdict(run), "losses": losses, **more}))
    return log


def two_groups(net: nn.Module, prefix: str, lr: float) -> torch.optim.Adam:
    """Adam with the parameters whose names begin so as its second group."""
    import torch

    grouped = [(name.startswith(prefix), p) for name, p in net.named_parameters()]
    return torch.optim.Adam([{"params": [p for mine, p in grouped if mine == which]} for which in (False, True)], lr=lr)
