"""The command-line program: its commands, and how it ends when something goes wrong.

Only typer is imported here; everything heavy waits inside the commands.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from genkernel import __version__
from genkernel.cli import bench, classifier, compare, demo, diffusion, doctor, experiment, gan, monitor, path, spectrum
from genkernel.cli.console import Interrupted, complain, note
from genkernel.cli.hints import hint
from genkernel.cli.ranks import Ranks, alone
from genkernel.errors import BatchCouplingError, GenkernelError, InputError, MissingError, UnsafeCheckpointError

# the user can put these right on the command line; everything else went wrong while running
USAGE_ERRORS = (InputError, MissingError, UnsafeCheckpointError, BatchCouplingError)

SHARED = frozenset({"demo", "diffusion"})  # commands that several processes do together; rank 0 alone does the others

app = typer.Typer(
    name="genkernel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"genkernel {__version__}")
        raise typer.Exit


@app.callback(epilog="Start with `genkernel demo`. Every command explains itself: `genkernel COMMAND --help`.")
def genkernel(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """What has a trained generative model learned together, and what against itself?

    genkernel computes tangent kernels of trained networks, **K(x, x′) = J(x) P J(x′)ᵀ**, and reads answers off
    them: how local in noise level a denoiser's learning is, what carries that locality, which noise levels help or
    hurt each other; whether the modes of a GAN collapse, and what drives its generator. A run ends with one HTML page
    that works offline, and the numbers behind it.

    Notes and progress go to stderr, results to stdout. Exit status: 0 done, 1 failed while running, 2 wrong input,
    130 interrupted, 143 terminated. Output folders appear complete or not at all.

    `torchrun --nproc-per-node 4 -m genkernel diffusion …` shares the work among four processes, each on a GPU of its
    own where there are any.
    """
    if context.invoked_subcommand not in SHARED:
        if Ranks().rank > 0:
            raise typer.Exit
        context.with_resource(alone())


app.command("demo")(demo.demo)
app.command("diffusion", no_args_is_help=True)(diffusion.diffusion)
app.command("gan", no_args_is_help=True)(gan.gan)
app.command("classifier", no_args_is_help=True)(classifier.classifier)
app.command("path", no_args_is_help=True)(path.path)
app.command("spectrum", no_args_is_help=True)(spectrum.spectrum)
app.command("monitor", no_args_is_help=True)(monitor.monitor)
app.command("doctor", no_args_is_help=True)(doctor.doctor)
app.command("compare", no_args_is_help=True)(compare.compare)
app.command("experiment", no_args_is_help=True)(experiment.experiment)
app.command("bench")(bench.bench)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit.

    Args:
        arguments: the command line without the program's name; that of the process by default.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status; errors a user can act on become one sentence on stderr."""
    ranks = Ranks()
    with _termination() as asked, ranks.silent(), warnings.catch_warnings():
        # torch itself compiles decompositions with it when forward derivatives are first asked for
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")
        status = _run(arguments, ranks)
    return 143 if asked and status == 130 else status


@contextlib.contextmanager
def _termination() -> Iterator[list[int]]:
    """A request to terminate ends a run like Ctrl-C, so that it cleans up behind itself; yields those that came."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: Sequence[str] | None, ranks: Ranks) -> int:
    try:
        status = app(args=arguments, prog_name="genkernel", standalone_mode=False)
        sys.stdout.flush()
        if status == 130:
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except BaseException as error:
        with ranks.failing() as kind:
            try:
                return _failed(error, kind or "error")
            except BaseException:
                if kind is None:
                    return 1
                raise


def _failed(error: BaseException, kind: str) -> int:
    """Say what went wrong in one line, and give the exit status; bugs of ours are raised again."""
    if isinstance(error, GenkernelError):
        complain(str(error), kind)
        if said := hint(str(error)):
            note(f"hint: {said}")
        for said in getattr(error, "__notes__", []):
            note(f"note: {said}")
        return 2 if isinstance(error, USAGE_ERRORS) else 1
    if isinstance(error, (KeyboardInterrupt, typer.Abort, Interrupted)):
        complain(
            f"interrupted: {error}" if str(error) else "interrupted: nothing of the unfinished run was kept",
            kind="stopped",
        )
        return 130
    if isinstance(error, BrokenPipeError):  # the reader of a pipe (head, less) has seen enough
        _silence()
        return 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}", kind)
        _silence()
        return 1
    if isinstance(error, MemoryError):
        complain("out of memory: lower --memory, or --samples, --levels or --latents", kind)
        return 1
    # usage errors of the parser; which class they have depends on typer's version
    if hasattr(error, "format_message"):
        command = getattr(getattr(error, "ctx", None), "command_path", "genkernel")
        message = error.format_message().rstrip(".")
        if message:
            complain(f"{message} (see {command} --help)", kind)
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, Exception) and "out of memory" in str(error).lower():
        complain("the device ran out of memory: lower --memory, or --samples, --levels or --latents", kind)
        return 1
    raise error


def _silence() -> None:
    """Keep the interpreter from flushing a broken stdout once more on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
