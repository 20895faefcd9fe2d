"""Monitors of models whose parameters are spread over ranks (``fully_shard``, FSDP2; tensor parallelism).

No rank holds the weights, so that a reading needs all of them. Rank 0 keeps a plain copy of the modules; where a
reading is due, all ranks gather the weights, parameter by parameter, and rank 0 reads its copy while the others go on
to their next collective operation and wait there.

mon = ShardedMonitor(lambda net: gk.Monitor(net, scheduler=scheduler, data=images, sink="monitor.jsonl"), model)
for step, batch in enumerate(loader):
    train_step(batch)
    mon.step(step)      # on every rank, with the same step
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from genkernel.errors import DistributedError, InputError
from genkernel.monitor.losses import Losses
from genkernel.monitor.monitor import Monitor, whole_step
from genkernel.monitor.trace import Alert
from genkernel.monitor.unwrapped import innermost, rank

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

log = logging.getLogger("genkernel")

_HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_SHARDING = ("__composable_api_", "_is_fsdp_managed_module", "_fsdp_use_orig_params")  # attributes of fully_shard
_RUNS = ("forward", "_original_forward", "_compiled_call_impl")  # what wrappers put in place of a module's forward


class ShardedMonitor:
    """A :class:`Monitor` of modules that are sharded; made and called on every rank.

    Memory: rank 0 holds all weights a second time. While they are gathered every rank holds one parameter in full.

    Args:
        build: makes the monitor from plain modules, in the order of ``modules``. It is called on rank 0 only.
        modules: what is trained, and what else the monitor reads (a discriminator, an average of the weights).
            Attributes that are neither weights nor buffers are copied now; what changes later is not seen.

    Attributes:
        monitor: on rank 0; None on the others.

    Raises:
        InputError: ``build`` returned something else, or a module holds what cannot be copied.
        DistributedError: there is no process group, or rank 0 could not make its monitor.
    """

    def __init__(self, build: Callable[..., Monitor], *modules: nn.Module):
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise DistributedError("a ShardedMonitor needs torch.distributed: call init_process_group first")
        self._sources = [innermost(module) for module in modules]
        self._replicas: list[nn.Module] = []
        self.monitor: Monitor | None = None
        self._asked: int | None = None  # the step at which the ranks last exchanged a flag
        failure: Exception | None = None
        if rank() == 0:
            try:
                self._replicas = [_replica(source) for source in self._sources]
            except Exception as error:  # the others are waiting to hear of it
                failure = error
        _agree(failure)
        _agree(self._gather())
        if rank() == 0:
            try:
                self.monitor = build(*self._replicas)
                if not isinstance(self.monitor, Monitor):
                    raise InputError(f"build= returns a Monitor, not {type(self.monitor).__name__}")
            except Exception as error:
                failure = error
        _agree(failure)
        told = [0, 0] if self.monitor is None else [self.monitor.cadence.every, self.monitor.calls]
        torch.distributed.broadcast_object_list(told, src=0)
        self._every, self._calls = told

    @property
    def alerts(self) -> list[Alert]:
        """All that were raised, oldest first; none on other ranks than 0."""
        return [] if self.monitor is None else self.monitor.alerts

    def step(
        self, step: int | None = None, loss: Losses | None = None, *, timesteps: Any = None, classes: Any = None
    ) -> Alert | None:
        """Call this on every rank after every step of the training, with the same step.

        The ranks exchange one flag every ``every`` steps, and gather the weights where a reading is due.

        Args:
            step: its number; by default the calls are counted, from 1 on, or from the last step in the log that the
                run continues.
            loss, timesteps, classes: as :meth:`Monitor.step` takes them; those of rank 0 count.

        Returns:
            Alert: the gravest that this reading raised, on rank 0; None otherwise.

        Raises:
            DistributedError: another step than that of rank 0.
        """
        self._calls += 1
        number = self._calls if step is None else whole_step(step)
        if self.monitor is not None:
            self.monitor.report(loss, timesteps=timesteps, classes=classes)
        if self._asked is not None and self._asked <= number < self._asked + self._every:
            return None
        self._asked = number
        due = bool(self.monitor is not None and self.monitor.due(number))
        said: list[Any] = [number, due]
        torch.distributed.broadcast_object_list(said, src=0)
        if said[0] != number:
            raise DistributedError(f"rank {rank()} is at step {number}, rank 0 is at step {said[0]}")
        if not said[1]:
            return None
        started = time.perf_counter()
        failure = self._gather()
        if self.monitor is None:
            return None
        if failure is not None:  # no reason to stop a training
            log.warning(
                "the monitor goes on without a reading at step %d: the weights could not be copied: %s", number, failure
            )
            return None
        self.monitor.cadence.charge(time.perf_counter() - started)
        return self.monitor.step(number)

    @torch.no_grad()
    def _gather(self) -> Exception | None:
        """Rank 0 copies the weights as they are now; all ranks take part in every parameter, come what may.

        Returns:
            Exception: why it could not, on rank 0.
        """
        failure: Exception | None = None
        for i, source in enumerate(self._sources):
            targets = _tensors(self._replicas[i]) if self._replicas else {}
            for name, tensor in _tensors(source).items():
                whole = _whole(tensor)
                try:
                    if targets:
                        targets[name].copy_(whole)
                except Exception as error:  # the other ranks are in the gathers to come
                    failure = failure or error
        return failure


def _agree(failure: Exception | None) -> None:
    """All ranks go on, or none."""
    said = [None if failure is None else f"{type(failure).__name__}: {failure}"]
    torch.distributed.broadcast_object_list(said, src=0)
    if failure is not None:
        raise failure
    if said[0] is not None:
        raise DistributedError(f"rank 0 could not make its monitor: {said[0]}")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor in full, which all ranks have to ask for; any other as it is."""
    return tensor.full_tensor().detach() if _is_sharded(tensor) else tensor.detach()


def _is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _replica(source: nn.Module) -> nn.Module:
    """The module as it was before it was sharded, with tensors of its own that hold nothing yet.

    ``fully_shard`` gives modules a class, hooks and attributes of its own and forbids ``copy.deepcopy``. Submodules,
    parameters and buffers that are used in several places stay shared.

    Raises:
        InputError: an attribute cannot be copied.
    """
    memo: dict[int, Any] = {}
    made = {}
    for module in source.modules():
        blank: nn.Module = object.__new__(_own_class(type(module)))
        made[id(module)] = memo[id(module)] = blank
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = nn.Parameter(_empty(parameter), parameter.requires_grad)
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                memo[id(buffer)] = _empty(buffer)
    for name, module in source.named_modules():
        vars(made[id(module)]).update(_attributes(module, memo, name or type(source).__name__))
    found: nn.Module = made[id(source)]
    return found


def _attributes(module: nn.Module, memo: dict[int, Any], name: str) -> dict[str, Any]:
    found = {}
    for key, value in vars(module).items():
        if key.startswith(_SHARDING) or key in _RUNS:
            continue
        if key in _HOOKS:  # those of the user stay: spectral_norm is one
            value = type(value)((k, hook) for k, hook in value.items() if not _is_of_sharding(hook))
        if isinstance(value, Tensor) and id(value) not in memo:  # what a hook computes, for one, is no leaf
            memo[id(value)] = _empty(value) if _is_sharded(value) else value.detach().clone()
        try:
            found[key] = copy.deepcopy(value, memo)
        except Exception as error:
            raise InputError(f"{key!r} of {name} cannot be copied for the monitor: {error}") from error
    return found


def _is_of_sharding(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed")


def _own_class(kind: type) -> type:
    """Of a module, before ``fully_shard`` gave it a subclass."""
    from torch.distributed.fsdp import FSDPModule

    while FSDPModule in kind.__bases__:
        kind = next(base for base in kind.__bases__ if base is not FSDPModule)
    return kind


def _empty(tensor: Tensor) -> Tensor:
    """As large as the whole tensor, where this rank holds its part."""
    local = tensor.to_local() if _is_sharded(tensor) else tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=local.device)
