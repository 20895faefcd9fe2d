"""Where words go: notes and progress to stderr, results to stdout, errors in one line."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Interrupted(Exception):
    """Ctrl-C, with what is to be said of it: the parser makes a bare exit status of a KeyboardInterrupt."""


def complain(message: str, kind: str = "error") -> None:
    """One line on stderr: ``error: …``."""
    line = " ".join(message.split())
    with contextlib.suppress(OSError):  # stderr may be what is full
        print(f"{kind}: {line}", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """A plain line on stderr: what was converted, assumed, reused."""
    with contextlib.suppress(OSError):
        print(" ".join(message.split()), file=sys.stderr, flush=True)


def results() -> Console:
    """The console for results, on stdout."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(content: Mapping[str, Any]) -> None:
    """One JSON document on stdout and nothing else."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False), file=sys.stdout, flush=True)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Whatever libraries print while a command works goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def stages() -> Iterator[tuple[Callable[[str, int, int], None], Callable[[str], None]]]:
    """A progress bar over named stages on stderr, and a way to print a line above it.

    Outside a terminal there is no bar but a line per stage; the other lines are printed all the same.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        last = ""
        task = bar.add_task("loading", total=None)

        def advance(stage: str, done: int, count: int) -> None:
            nonlocal last
            if stage != last and not console.is_terminal and done < count:
                note(f"{stage.replace('_', ' ')} (stage {done + 1} of {count})")
            last = stage
            bar.update(task, description=stage.replace("_", " "), completed=done, total=count)

        def say(message: str) -> None:
            if console.is_terminal:
                console.print(" ".join(message.split()), markup=False)
            else:
                note(message)

        yield advance, say
