"""The same network before training: the baseline without which no kernel should be read."""

from __future__ import annotations

import copy

import torch
from torch import nn


def reinitialised(module: nn.Module, seed: int = 0) -> tuple[nn.Module, list[str]]:
    """A freshly initialised copy on the same device, in the same dtype, with the same flags.

    A diffusers model is built again from its configuration. Any other module is copied, and
    ``reset_parameters()`` is called on every submodule that has it; a parameter that nothing
    resets is refilled with normal numbers of its own mean and standard deviation, and named.
    The global random state is put back.

    Returns:
        The copy, and plain sentences on what was done.
    """
    device = next(module.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        rebuilt = _from_config(module)
        fresh, notes = rebuilt if rebuilt is not None else _reset(module)
    for (_, mine), (_, theirs) in zip(module.named_parameters(), fresh.named_parameters(), strict=True):
        theirs.requires_grad_(mine.requires_grad)
        if theirs.dtype != mine.dtype or theirs.device != mine.device:
            theirs.data = theirs.data.to(mine.device, mine.dtype)
    for (_, ours), (_, new) in zip(module.named_buffers(), fresh.named_buffers(), strict=True):
        new.data = new.data.to(ours.device, ours.dtype)
    return fresh.eval(), notes


def _from_config(module: nn.Module) -> tuple[nn.Module, list[str]] | None:
    config = getattr(module, "config", None)
    build = getattr(type(module), "from_config", None)
    if config is None or build is None:
        return None
    try:
        fresh = build(config)
    except Exception:
        return None  # not diffusers' from_config: fall back to resetting a copy
    same = isinstance(fresh, nn.Module) and (
        {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in module.named_parameters()}
    )
    return (fresh, [f"built again from the configuration of {type(module).__name__}"]) if same else None


def _reset(module: nn.Module) -> tuple[nn.Module, list[str]]:
    fresh = copy.deepcopy(module)
    before = {name: p.detach().clone() for name, p in fresh.named_parameters()}
    covered: set[int] = set()
    for submodule in fresh.modules():
        # nn.MultiheadAttention and nn.Transformer spell it with an underscore
        reset = getattr(submodule, "reset_parameters", None) or getattr(submodule, "_reset_parameters", None)
        if callable(reset):
            reset()
            covered |= {id(p) for p in submodule.parameters(recurse=False)}
    refilled = []
    for name, parameter in fresh.named_parameters():
        if id(parameter) in covered or not torch.equal(parameter.detach(), before[name]):
            continue
        values = before[name].double()
        spread = values.std(unbiased=False)
        with torch.no_grad():
            drawn = torch.randn(values.shape, dtype=torch.float64).to(values.device)
            parameter.copy_(values.mean() + spread * drawn)
        refilled.append(name)
    notes = ["a copy of the model, reset submodule by submodule"]
    if refilled:
        shown = ", ".join(refilled[:4]) + (f" and {len(refilled) - 4} more" if len(refilled) > 4 else "")
        notes.append(f"nothing resets {shown}: refilled with normal numbers of the same mean and standard deviation")
    return fresh, notes
