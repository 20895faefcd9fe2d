"""Several processes for one kernel: who does what, and one result on every rank.

Ranks meet before anything else: ``kernel()`` may have been called on rank 0 alone, in the middle
of a training step of all, and would wait forever in a collective. After that they talk over
groups of their own, so the user's default group and its order of collectives are left alone.
Control messages and host tensors go over gloo, large tensors over NCCL where each rank has a GPU.

Results do not depend on the number of ranks: every rank adds the same tasks in the same order
(:meth:`Workers.in_order`), whoever computed them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from genkernel import errors
from genkernel.errors import DistributedError, InputError
from genkernel.tangent.store import TileStore

if TYPE_CHECKING:
    from torch.distributed import Store

log = logging.getLogger("genkernel")

T = TypeVar("T")

MEETING = 300.0  # seconds that ranks wait for each other at the start
_FOREVER = timedelta(days=30)  # a rank may be at work for long; a dead one is noticed by its closed connection
_CHUNK = 1 << 25  # bytes sent at a time
_environment: Store | None = None  # of torchrun, when nothing else has set torch.distributed up


class Workers:
    """The processes of one run; made by :func:`current_workers`, and a context manager.

    Every method that says *all ranks* has to be called by all of them, in the same order. When one
    rank leaves the context with an exception, the others stop with a DistributedError that names it.

    Attributes:
        rank: number of this process, from 0.
        world: number of processes.
    """

    def __init__(self, rank: int = 0, world: int = 1, store: Store | None = None, timeout: float = MEETING):
        self.rank, self.world = rank, world
        self._store = store
        self._group: Any = None
        self._data: Any = None
        self._staging: Tensor | None = None
        if world > 1:
            from torch.distributed import PrefixStore, ProcessGroupGloo

            assert store is not None
            try:
                self._group = ProcessGroupGloo(PrefixStore("gloo", store), rank, world, timedelta(seconds=timeout))
            except RuntimeError as error:
                raise DistributedError(f"rank {rank} cannot connect to the other ranks: {_first(error)}") from error

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    # ------------------------------------------------------------------- small messages

    def broadcast(self, value: T, source: int = 0) -> T:
        """The value that rank ``source`` holds, on all ranks."""
        if self.world == 1:
            return value
        payload = pickle.dumps(value) if self.rank == source else b""
        size = torch.tensor([len(payload)])
        self._broadcast(size, source)
        held = torch.empty(int(size), dtype=torch.uint8)
        if self.rank == source:
            held.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
        self._broadcast(held, source)
        # from a process of this same run, never from a file
        return value if self.rank == source else pickle.load(io.BytesIO(held.numpy().tobytes()))

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on all ranks."""
        return [self.broadcast(value, source) for source in range(self.world)]

    def lead(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0, on all ranks; what it raises there, too."""
        if self.world == 1:
            return work()
        value, error = _attempt(work) if self.is_leader else (None, None)
        said, value = self.broadcast((_described(error), value))
        self._raise_first([said], error)
        return value  # type: ignore[return-value]

    def together(self, work: Callable[[], T]) -> list[T]:
        """``work`` on all ranks and what each returned; when it raises on one, all raise."""
        if self.world == 1:
            return [work()]
        value, error = _attempt(work)
        results = self.gather((_described(error), value))
        self._raise_first([said for said, _ in results], error)
        return [value for _, value in results]  # type: ignore[misc]

    def _raise_first(self, said: Sequence[tuple[str, str] | None], own: Exception | None) -> None:
        """Raise what went wrong here, or else on the first rank where something did."""
        if own is not None:
            raise own
        for rank, failure in enumerate(said):
            if failure is not None:
                kind, text = failure
                family = getattr(errors, kind, None)
                raise (
                    family(f"{text} (rank {rank})")
                    if family
                    else DistributedError(f"rank {rank} stopped: {kind}: {text}")
                )

    def agree(self, entries: Mapping[str, Any]) -> None:
        """Raise on all ranks unless all hold the same entries (digests of model, inputs, options).

        Raises:
            InputError: which rank differs from rank 0, and in what.
        """
        held = self.gather(dict(entries))
        for rank, theirs in enumerate(held):
            differ = [name for name in {**held[0], **theirs} if held[0].get(name) != theirs.get(name)]
            if differ:
                raise InputError(
                    f"rank {rank} was called with other {', '.join(differ)} than rank 0: give all ranks the same, "
                    "or distributed=False for a kernel of each rank's own"
                )

    # --------------------------------------------------------------------- the results

    def in_order(
        self, owners: Mapping[str, int], get: Callable[[str], Mapping[str, Tensor]]
    ) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """Every task's tensors on all ranks, in the order of ``owners``.

        Sums built from these have the same bits on every rank and for every number of ranks.

        Args:
            owners: task → the rank that holds its tensors.
            get: called for the tasks this rank holds.
        """
        for task, owner in owners.items():
            if self.world == 1:
                yield task, get(task)
                continue
            held: dict[str, Tensor] = {}
            if owner == self.rank:
                held = {name: t.detach().cpu().contiguous() for name, t in get(task).items()}
            shapes = self.broadcast({name: (t.shape, t.dtype) for name, t in held.items()}, owner)
            if owner != self.rank:
                held = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
            for name in shapes:
                self._send(held[name], owner)
            yield task, held

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors in place by their sums over ranks, added in float64.

        The order of the additions is up to the library; :meth:`in_order` is for sums that must not
        depend on the number of ranks.

        Raises:
            DistributedError: the ranks hold tensors of different shapes.
        """
        if self.world == 1:
            return
        from torch.distributed import AllreduceOptions

        tensors = list(tensors)
        shapes = [tuple(t.shape) for t in tensors]
        if any(theirs != shapes for theirs in self.gather(shapes)):
            raise DistributedError("the ranks of a sum hold tensors of different shapes")
        options = AllreduceOptions()
        options.timeout = _FOREVER
        group, device = (self._group, torch.device("cpu")) if self._data is None else self._data
        for tensor in tensors:
            flat = tensor.detach().reshape(-1)  # a copy where the memory is not contiguous
            for part in flat.split(_CHUNK // 8):
                staged = part.to(device, torch.float64, copy=True)
                self._finish(group.allreduce([staged], options))
                part.copy_(staged)
            if flat.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(flat.reshape(tensor.shape))

    def use_gpus(self, device: torch.device) -> None:
        """Send large tensors over NCCL from now on, where every rank computes on a GPU of its own. All ranks."""
        if self.world == 1:
            return
        places = self.gather(_place(device))
        if any(place is None for place in places):
            return
        if len(set(places)) < self.world:
            first = next(r for r, place in enumerate(places) if places.count(place) > 1)
            second = places.index(places[first], first + 1)
            log.warning(
                f"ranks {first} and {second} compute on the same GPU ({device}): put the model of each rank on "
                "the GPU numbered by its LOCAL_RANK"
            )
            return
        from torch.distributed import PrefixStore, is_nccl_available

        if is_nccl_available():
            from torch.distributed import ProcessGroupNCCL

            assert self._store is not None
            make: Any = ProcessGroupNCCL  # its stub asks for options, which have defaults
            self._data = (make(PrefixStore("nccl", self._store), self.rank, self.world), device)

    def open_store(self, path: str | Path, manifest: Mapping[str, Any], *, resume: bool = True) -> TileStore:
        """The tile store in ``path``, opened by rank 0 and joined by the others. All ranks."""
        if self.world == 1:
            return TileStore.open(path, manifest, resume=resume)
        opened: list[TileStore] = []

        def open_() -> str:
            opened.append(TileStore.open(path, manifest, resume=resume, shared=True))
            return opened[0].token

        def join() -> None:
            if not self.is_leader:
                opened.append(TileStore.join(path, manifest, token))

        try:
            token = self.lead(open_)
            self.together(join)
        except BaseException:
            for store in opened:
                store.close()
            raise
        return opened[0]

    # ------------------------------------------------------------------------ failures

    def check(self) -> None:
        """Raise when another rank has failed. Cheap: for the time between two tasks.

        Raises:
            DistributedError: which rank, and why.
        """
        if self._store is None:
            return
        try:
            said = self._store.get("failed").decode() if self._store.check(["failed"]) else None
        except RuntimeError as error:
            raise DistributedError(f"rank {self.rank} lost the connection to rank 0: {_first(error)}") from error
        if said is not None:
            raise DistributedError(said)

    def _finish(self, work: Any) -> None:
        """Wait for a collective without being deaf to Ctrl-C and to ranks that fail."""
        looked, pause = time.monotonic(), 0.0
        while not work.is_completed():
            time.sleep(pause)
            pause = min(0.02, pause + 1e-4)
            if time.monotonic() - looked > 1:
                self.check()
                looked = time.monotonic()
        try:
            work.wait()
        except RuntimeError as error:
            for _ in range(20):  # the rank that left says why at about the same time
                self.check()
                time.sleep(0.05)
            raise DistributedError(
                f"rank {self.rank} lost the connection to another rank, which was killed or has crashed "
                f"(its own output says more): {_first(error)}"
            ) from error

    def _broadcast(self, tensor: Tensor, source: int) -> None:
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = source, 0, _FOREVER
        group = self._group if tensor.device.type == "cpu" else self._data[0]
        self._finish(group.broadcast([tensor], options))

    def _send(self, tensor: Tensor, source: int) -> None:
        """Broadcast a contiguous host tensor, in parts."""
        for part in tensor.reshape(-1).view(torch.uint8).split(_CHUNK):
            if self._data is None:
                self._broadcast(part, source)
                continue
            staged = part.to(self._data[1])
            self._broadcast(staged, source)
            if self.rank != source:
                part.copy_(staged)

    def close(self) -> None:
        """Leave the groups; ranks that still wait for this one stop with an error."""
        if self._data is not None and hasattr(self._data[0], "abort"):
            self._data[0].abort()
        self._data = self._group = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._store is not None and not isinstance(error, DistributedError):
            said = f"rank {self.rank} stopped: {type(error).__name__}: {_first(error)}"
            with contextlib.suppress(RuntimeError):
                self._store.compare_set("failed", "", said)
        self.close()


def current_workers(
    enabled: bool | None = None, device: torch.device | None = None, timeout: float = MEETING
) -> Workers:
    """The processes that share this call.

    Args:
        enabled: None shares when ``torch.distributed`` is initialised with several ranks, or this
            process was started by torchrun as one of several; False never; True insists.
        device: where this rank computes; with a GPU for each rank, NCCL is used.
        timeout: seconds to wait for the other ranks to make the same call.

    Raises:
        InputError: ``enabled`` is True and there is nothing to share with.
        DistributedError: not all ranks made the call in time.
    """
    if enabled is False:
        return Workers()
    found = _ranks(timeout)
    if found is None:
        if enabled:
            raise InputError(
                "distributed=True needs several processes: start them with torchrun, or initialise torch.distributed"
            )
        return Workers()
    store, rank, world = found
    if world == 1:
        return Workers()
    workers = Workers(rank, world, _meet(store, rank, world, timeout), timeout)
    if device is not None:
        try:
            workers.use_gpus(device)
        except BaseException:
            workers.close()
            raise
    return workers


def local_device() -> torch.device:
    """The GPU that belongs to this process under torchrun (``LOCAL_RANK``), the first one otherwise, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def share(costs: Mapping[str, float], world: int) -> dict[str, int]:
    """Who does what: task → rank, in the order of ``costs``.

    Longest task first, each to the rank with the least to do so far: at most 4/3 of the best
    possible time (Graham 1969), and the same on every rank.
    """
    load = [0.0] * world
    owner: dict[str, int] = {}
    for task in sorted(costs, key=lambda task: -costs[task]):  # stable: ties keep their order
        if not math.isfinite(costs[task]) or costs[task] < 0:
            raise InputError(f"the cost of task {task!r} is {costs[task]}: it has to be finite and not negative")
        rank = min(range(world), key=lambda r: (load[r], r))
        owner[task] = rank
        load[rank] += costs[task]
    return {task: owner[task] for task in costs}


def _ranks(timeout: float) -> tuple[Store, int, int] | None:
    """A key-value store that all ranks see, this rank, and their number; None when there is one process."""
    global _environment
    import torch.distributed as dist

    if not dist.is_available():
        return None
    if dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
        return (dist.distributed_c10d._get_default_store(), rank, world) if world > 1 else None
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(os.environ.get(name) for name in names):
        return None
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if world > 1 and _environment is None:
            _environment = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=timeout))))[0]
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"the other processes that WORLD_SIZE={os.environ['WORLD_SIZE']} promises cannot be reached at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({_first(error)}): start all of them, "
            "or pass distributed=False"
        ) from error
    return (_environment, rank, world) if _environment is not None else None


def _meet(store: Store, rank: int, world: int, timeout: float) -> Store:
    """Wait until every rank has made the same call.

    Each call has a place of its own in ``store``. One compare-and-set there decides between "go", by
    the rank that comes last, and "abandoned", by the first one that is tired of waiting; later ranks
    pass over an abandoned call, so that calls stay in step afterwards.

    Returns:
        Store: the part of ``store`` that belongs to this call.

    Raises:
        DistributedError: which ranks did not come.
    """
    from torch.distributed import PrefixStore

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    calls = PrefixStore(f"genkernel/{attempt}", store)
    try:
        while True:
            call = PrefixStore(f"call-{calls.add(f'position-{rank}', 1)}", calls)
            if not _decided(call):
                break
        call.set(f"rank-{rank}", "here")
        if call.add("arrived", 1) == world:
            call.compare_set("decision", "", "go")
        begun, said = time.monotonic(), False
        while not _decided(call):
            waited = time.monotonic() - begun
            if waited > timeout:
                call.compare_set("decision", "", "abandoned")
            elif waited > 10 and not said:
                said = True
                log.warning(
                    f"rank {rank} waits for ranks {_missing(call, world)} to make the same call; "
                    "if only this rank should compute, pass distributed=False"
                )
            time.sleep(0.002 if waited < 1 else 0.05)
        if call.get("decision") == b"go":
            return call
        missing = _missing(call, world)
    except RuntimeError as error:
        raise DistributedError(f"rank {rank} lost the connection to the other ranks: {_first(error)}") from error
    raise DistributedError(
        f"of {world} ranks, {missing} did not make the same call within {timeout:g} seconds: call it on all "
        "ranks, or pass distributed=False to compute on this one alone"
    )


def _decided(call: Store) -> bool:
    return bool(call.check(["decision"]))


def _missing(call: Store, world: int) -> str:
    return ", ".join(str(r) for r in range(world) if not call.check([f"rank-{r}"])) or "none"


def _place(device: torch.device) -> tuple[str, str] | None:
    """Which GPU of which machine; None for other devices."""
    if device.type != "cuda":
        return None
    index = device.index if device.index is not None else torch.cuda.current_device()
    return platform.node(), str(getattr(torch.cuda.get_device_properties(index), "uuid", index))


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _described(error: Exception | None) -> tuple[str, str] | None:
    return None if error is None else (type(error).__name__, str(error))


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]
