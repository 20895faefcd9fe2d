"""The table of architectures: rows are computed one at a time, kept in a file, and written as Markdown."""

from __future__ import annotations

import fnmatch
import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from genkernel.bench.architectures import LARGE, SOURCES, TOLERANCE, Architecture, Row, architectures, check, versions
from genkernel.errors import InputError
from genkernel.runs import write_atomic

HEAD = """\
# Architectures that the engine was checked on

Made by `make zoo` (`scripts/check_architectures.py`). The rows are in `benchmarks/architectures.json`; a second run
fills gaps only.

{good} of {computed} networks agree with the naive reference to {tolerance}. In {whole} of them every use of every
parameter is taken by a rule.

**What a row says.** The kernel `gk.kernel` of the network in float64 on 3 samples (2 from 30 M parameters on), one
random cotangent per sample, against `genkernel.tangent.reference` (one sample alone at a time, one `autograd.grad`
each). *error* is ‖K − K_ref‖ / ‖K_ref‖ of the whole kernel, *worst* the same for the kernel of the worst single
parameter. *by rule*, *by call*: uses of parameters whose per-sample gradient has a rule, or for which that one call is
differentiated per sample; *generic*: parameters differentiated through the whole forward. *seconds* are processor time
of `gk.kernel`, proof of capture included.

**What the networks are.** Untrained. Every parameter that holds one number throughout (zeros of adaLN-zero and of zero
convolutions, ones of norms, constants of layer scales) is moved by random numbers of standard deviation 0.02, and
running statistics are drawn: the kernel of a zero-initialised network is zero, and would show nothing. Networks of
torchvision are whole, on the smallest square input of 32, 64, 96, … pixels that they run on; those of diffusers are
tiny configurations of each class. Many of the latter compute norms, softmax and rotations in float32 whatever their
own type; here those casts stay in float64, in engine and reference alike, since rounding that depends on the batch
would be all one sees."""

#: outcomes that a later run has no reason to repeat
DONE = ("ok", "skipped", "refused")


def fill(
    store: Path,
    sources: Sequence[str] = SOURCES,
    only: Sequence[str] = (),
    *,
    again: bool = False,
    isolated: bool = True,
    progress: bool = False,
) -> list[Row]:
    """Compute the rows that are missing from ``store``, and return all that belong to ``sources``.

    Args:
        store: JSON file of rows; written after each one, so that a run can be stopped and taken up.
        sources: modules that define ``architectures()``.
        only: names to compute, with wildcards; all by default.
        again: compute rows that are there already, too.
        isolated: run in processes of their own, so that one that runs out of memory takes down no other.
        progress: print each row as it is finished.

    Raises:
        InputError: ``only`` matches no architecture, or the file holds something else.
    """
    every = architectures(sources)
    wanted = [a for a in every.values() if not only or any(fnmatch.fnmatchcase(a.name, glob) for glob in only)]
    if not wanted:
        raise InputError(f"no architecture is called {' or '.join(only)}: see --list")
    rows = read(store)
    todo = [a for a in wanted if again or not _is_done(rows.get(a.name), a)]
    with _Worker(list(sources)) if isolated else _Here() as worker:
        for number, architecture in enumerate(todo, 1):
            row = worker.check(architecture)
            rows[row.name] = row
            write_atomic(store, json.dumps([rows[name].to_json() for name in rows], indent=1) + "\n")
            if progress:
                print(f"[{number}/{len(todo)}] {describe(row)}", flush=True)
    return [rows[name] for name in every if name in rows]


def read(store: Path) -> dict[str, Row]:
    """Rows by name; empty where there is no file yet."""
    if not store.exists():
        return {}
    try:
        return {entry["name"]: Row(**entry) for entry in json.loads(store.read_text(encoding="utf-8"))}
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{store} is no file of rows ({error}): delete it, or name another one") from None


def _is_done(row: Row | None, architecture: Architecture) -> bool:
    return row is not None and row.status in DONE and row.versions == versions(architecture)


class _Here:
    """Rows are computed in this process."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def check(self, architecture: Architecture) -> Row:
        return check(architecture)


class _Worker(_Here):
    """Rows are computed in a process that lives until a network was large, or killed it."""

    def __init__(self, sources: list[str]):
        self.sources = sources
        self._pool: ProcessPoolExecutor | None = None

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def check(self, architecture: Architecture) -> Row:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
            )
        try:
            return self._pool.submit(_check_by_name, self.sources, architecture.name).result()
        except BrokenProcessPool:
            self.__exit__()
            died = Row(architecture.name, architecture.group, "failed", versions=versions(architecture))
            died.note = "the process died, probably for want of memory"
            return died
        finally:
            if architecture.size >= LARGE:
                self.__exit__()  # give its memory back


def _end_with_parent() -> None:
    """A worker would wait for work for ever after its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _check_by_name(sources: list[str], name: str) -> Row:
    return check(architectures(sources)[name])


# ------------------------------------------------------------------------------- writing


def describe(row: Row) -> str:
    """One line for a terminal."""
    if row.error is None:
        return f"{row.name:44s} {row.status:8s} {row.note}"
    uses = f"{row.by_rule} by rule, {row.by_call} by call, {len(row.generic)} generic"
    return f"{row.name:44s} {row.status:8s} {row.error:.1e}  {uses}  {row.seconds:.1f} s  {row.note}"


def markdown(rows: Sequence[Row], engine: str) -> str:
    """The page: what was done, a table per group, and what is left out.

    Args:
        rows: all rows.
        engine: digest of the engine's code now; rows of earlier code are counted.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    computed = [row for row in rows if row.error is not None]
    good = [row for row in computed if row.status == "ok"]
    whole = sum(row.by_call == 0 and not row.generic for row in good)
    old = sum(row.engine != engine for row in computed)
    lines = [
        *HEAD.format(good=len(good), computed=len(computed), whole=whole, tolerance=f"{TOLERANCE:g}").splitlines(),
        "",
    ]
    if old:
        lines += [f"{old} of the rows were computed by an earlier state of the engine's code.", ""]
    for group in groups:
        lines += _table(group, [row for row in computed if row.group == group])
    for title, status in (("Refused, and rightly so", "refused"), ("Failed", "failed"), ("Left out", "skipped")):
        left = [row for row in rows if row.status == status]
        if left:
            lines += [f"## {title}", "", *(f"- `{row.name}`: {row.note}" for row in left), ""]
    return "\n".join(lines)


def _table(group: str, rows: Iterable[Row]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    used = sorted({f"{package} {version}" for row in rows for package, version in row.versions.items()})
    lines = [
        f"## {group} ({len(rows)})",
        "",
        f"Computed with {', '.join(used)}.",
        "",
        "| network | parameters | input | by rule | by call | generic | error | worst | seconds |",
        "|---|--:|---|--:|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        calls = ", ".join(f"{count} {name}" for name, count in row.functions.items()) or "0"
        name = f"`{row.name}`" if row.status == "ok" else f"**`{row.name}`**"
        lines.append(
            f"| {name} | {_count(row.parameters)} | {row.note} | {row.by_rule} | {calls} | {len(row.generic)} | "
            f"{row.error:.0e} | {row.worst:.0e} | {row.seconds:.1f} |"
        )
    return [*lines, ""]


def _count(parameters: int) -> str:
    if parameters >= 100_000:
        return f"{parameters / 1e6:.1f} M"
    return f"{parameters / 1e3:.1f} k" if parameters >= 1000 else str(parameters)
