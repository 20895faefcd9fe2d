"""Where a network turns its time into an embedding, found by watching one forward pass.

Two samples with different times are run and every submodule is observed. A submodule that is
handed nothing but a multiple of those two times and answers with one vector per sample, without
trainable weights of its own (or as a lookup table), is the raw timestep embedding; the outermost
submodule that is handed that vector, or the times, and has weights, is the time MLP. Nothing
depends on class names, so a module called for the time *and* for a guidance scale, or once per
transformer block, is read correctly.

Replacing an embedding is done by forward hooks that live for one call and are always removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.errors import InputError


@dataclass(frozen=True)
class TimeCall:
    """One call of a submodule within a forward pass."""

    path: str
    index: int | None  # which of its calls; None: every one
    ratio: float | None = None  # argument / network time
    width: int | None = None  # entries of the embedding


@dataclass(frozen=True)
class TimePath:
    """The calls that embed the time, and those that process the embedding."""

    embedding: tuple[TimeCall, ...] = ()
    features: tuple[TimeCall, ...] = ()

    @property
    def width(self) -> int | None:
        return self.embedding[0].width if self.embedding else None


class _Enough(Exception):
    """Ends a forward pass whose remainder is not needed."""


@dataclass
class _Seen:
    path: str
    index: int
    depth: int
    arguments: list[Tensor]
    output: Any = None


def observe(module: nn.Module, run: Callable[[], Tensor], times: Tensor) -> tuple[Tensor, TimePath]:
    """Run once and find the time path.

    Args:
        module: the network.
        run: one forward pass of it over two samples.
        times: the two different, nonzero times it is given, ``[2]``.

    Returns:
        The output of ``run`` and what was found (possibly nothing).
    """
    times = times.detach().to("cpu", torch.float64)
    seen: list[_Seen] = []
    stack: list[_Seen] = []
    counts: dict[str, int] = {}
    handles = []

    def enter(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensors = [a.detach() for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            call = _Seen(path, counts.get(path, 0), len(stack), tensors)
            counts[path] = call.index + 1
            seen.append(call)
            stack.append(call)

        return hook

    def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        stack.pop().output = output.detach() if isinstance(output, Tensor) else None

    try:
        for path, submodule in module.named_modules():
            if path:
                handles.append(submodule.register_forward_pre_hook(enter(path), with_kwargs=True))
                handles.append(submodule.register_forward_hook(leave, with_kwargs=True))
        out = run()
    finally:
        for handle in handles:
            handle.remove()
    return out, _read(module, seen, times)


def _read(module: nn.Module, seen: list[_Seen], times: Tensor) -> TimePath:
    of_time = [(call, ratio) for call in seen if (ratio := _ratio(call, times)) is not None and _is_vector(call.output)]
    raw = [(call, ratio) for call, ratio in of_time if _is_raw(module.get_submodule(call.path))]
    # a container around a raw embedding also matches when it has no weights: keep the innermost
    raw = [
        (call, ratio) for call, ratio in raw
        if not any(other is not call and other.path.startswith(f"{call.path}.") for other, _ in raw)
    ]  # fmt: skip
    embedding = tuple(TimeCall(c.path, c.index, ratio, c.output.shape[-1]) for c, ratio in raw)
    inside = tuple(c.path for c, _ in raw)
    processed = []
    for call in seen:
        submodule = module.get_submodule(call.path)
        if not _is_vector(call.output) or not any(p.numel() for p in submodule.parameters()) or call.path in inside:
            continue
        takes_time = any(call is other for other, _ in of_time)
        takes_embedding = len(call.arguments) == 1 and any(_same(call.arguments[0], c.output) for c, _ in raw)
        # a bare linear layer is the beginning of an MLP, not the whole of it
        if (takes_time or takes_embedding) and any(True for _ in submodule.children()):
            processed.append(call)
    outer = [c for c in processed if not any(c.path.startswith(f"{o.path}.") for o in processed)]
    return TimePath(embedding, tuple(TimeCall(c.path, c.index) for c in outer))


def _ratio(call: _Seen, times: Tensor) -> float | None:
    """argument / time when the call is handed a multiple of the two times and nothing else."""
    if len(call.arguments) != 1 or call.arguments[0].numel() != 2 or call.arguments[0].dim() > 2:
        return None
    values = call.arguments[0].to("cpu", torch.float64).flatten()
    ratio = values / times
    mean = float(ratio.mean())
    # half-precision times are good to three digits
    if not torch.isfinite(ratio).all() or mean == 0 or float((ratio[0] - ratio[1]).abs()) > 2e-3 * abs(mean):
        return None
    return mean


def _is_vector(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 2 and output.shape[0] == 2 and output.shape[1] > 1


def _is_raw(submodule: nn.Module) -> bool:
    return isinstance(submodule, nn.Embedding) or not any(p.requires_grad for p in submodule.parameters())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-2, atol=1e-2)


# --------------------------------------------------------------------- during one call


@contextmanager
def replaced(module: nn.Module, calls: tuple[TimeCall, ...], emb: Tensor) -> Iterator[None]:
    """Within the block those calls answer with ``emb`` ``[n, d]``.

    Raises:
        InputError: ``emb`` has another width than the embedding it stands for, or none of the
            calls took place.
    """
    counts: dict[str, int] = {}
    replacements = 0
    wanted: dict[str, set[int | None]] = {}
    for call in calls:
        wanted.setdefault(call.path, set()).add(call.index)

    def answer(path: str) -> Callable[..., Tensor | None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
            nonlocal replacements
            index = counts.get(path, 0)
            counts[path] = index + 1
            if index not in wanted[path] and None not in wanted[path]:
                return None
            if not isinstance(output, Tensor) or output.shape != emb.shape:
                have = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise InputError(f"emb has shape {tuple(emb.shape)}, the embedding {path!r} has {have}")
            replacements += 1
            return emb.to(output.dtype)

        return hook

    handles = [module.get_submodule(path).register_forward_hook(answer(path)) for path in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not replacements:
        raise InputError(f"the network did not call {calls[0].path!r}, so its embedding could not be replaced")


def capture(module: nn.Module, calls: tuple[TimeCall, ...], run: Callable[[], Any]) -> list[Tensor]:
    """Outputs of those calls, in order; the forward pass ends after the last of them.

    Raises:
        InputError: one of the calls did not take place.
    """
    counts: dict[str, int] = {}
    found: dict[tuple[str, int | None], Tensor] = {}
    wanted = {(call.path, call.index if call.index is not None else 0) for call in calls}

    def record(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            key = (path, counts.get(path, 0))
            counts[path] = key[1] + 1
            if key in wanted:
                if not isinstance(output, Tensor):
                    raise InputError(f"{path!r} returns {type(output).__name__}, not a tensor, so it is no embedding")
                found[key] = output.detach()
            if len(found) == len(wanted):
                raise _Enough

        return hook

    handles = [module.get_submodule(path).register_forward_hook(record(path)) for path in {c.path for c in calls}]
    try:
        run()
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = [call.path for call in calls if (call.path, call.index or 0) not in found]
    if missing:
        raise InputError(f"the network did not call {missing[0]!r} on its way, so there is no embedding to read there")
    return [found[call.path, call.index or 0] for call in calls]
