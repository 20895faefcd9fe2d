"""Whether a command of the texts is one: it is given to the parser of the program that it names, and not run."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import tomllib
from collections.abc import Callable, Sequence
from typing import Any

from tests.docs.blocks import BLOCKS, ROOT, Command

# whose own arguments are not looked at
MODULES = {"build", "venv"}
SHELL = {"cd", "git"}


class Wrong(Exception):
    """What is wrong with a command, in one line."""


def parse(command: Command) -> None:
    """Raises :class:`Wrong` unless the program that is named would take these words."""
    words = list(command.words)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    program = words.pop(0).removeprefix(".venv/bin/")
    known: dict[str, Callable[[Sequence[str], Command], None]] = {
        "genkernel": lambda words, command: genkernel(words),
        "python": python,
        "python3": python,
        "make": lambda words, command: make(words),
        "pip": lambda words, command: pip(words),
        "torchrun": torchrun,
    }
    if program in SHELL:
        return
    if program not in known:
        raise Wrong(f"{program!r} is not looked at: say in tests/docs/parsing.py how its arguments are read")
    known[program](words, command)


def genkernel(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The name of the command and the values of its parameters."""
    from typer.main import get_command

    from genkernel.cli.app import app
    from genkernel.experiments.registry import EXPERIMENTS

    group: Any = get_command(app)
    try:
        outer = group.make_context("genkernel", list(words))
        name, command, rest = group.resolve_command(outer, list(words))
        inner = command.make_context(name, rest, parent=outer)
    except Exception as error:  # click's, or of the copy of it that typer brings
        if not hasattr(error, "format_message"):
            raise
        raise Wrong(error.format_message()) from error
    if name == "experiment" and (study := inner.params["name"]) is not None and study not in EXPERIMENTS:
        raise Wrong(f"there is no experiment {study!r}")
    return name, inner.params


def script(path: str, words: Sequence[str] | None) -> argparse.ArgumentParser:
    """The parser of one of our scripts, after it has read the words, if any are given."""

    class Read(Exception):
        pass

    original, said = argparse.ArgumentParser.parse_args, io.StringIO()

    def read(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        if words is not None:
            original(self, args, namespace)
        raise Read(self)

    if not re.fullmatch(r"scripts/\w+\.py", path) or not (ROOT / path).is_file():
        raise Wrong(f"there is no {path}")
    main = importlib.import_module(path.removesuffix(".py").replace("/", ".")).main
    try:
        argparse.ArgumentParser.parse_args = read  # type: ignore[method-assign]
        with contextlib.redirect_stderr(said):
            main(list(words or ()))
    except Read as found:
        return found.args[0]  # type: ignore[no-any-return]
    except SystemExit as error:
        raise Wrong(said.getvalue().strip().splitlines()[-1]) from error
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    raise Wrong(f"{path} reads no arguments")


def python(words: Sequence[str], command: Command) -> None:
    if words[0] == "-m" and words[1] == "genkernel":
        genkernel(words[2:])
    elif words[0] == "-m" and words[1] not in MODULES:
        raise Wrong(f"python -m {words[1]} is not looked at: see MODULES in tests/docs/parsing.py")
    elif words[0] != "-m":
        script(words[0], words[1:])


def torchrun(words: Sequence[str], command: Command) -> None:
    """Its own options, and then what it starts: genkernel, or a file that a block above shows."""
    from torch.distributed.run import get_args_parser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = get_args_parser().parse_args(list(words))
    except SystemExit as error:
        raise Wrong(said.getvalue().strip().splitlines()[-1]) from error
    if found.module:
        python(["-m", found.training_script, *found.training_script_args], command)
    elif found.training_script.startswith("scripts/"):
        script(found.training_script, found.training_script_args)
    elif not any(b.text.startswith(f"# {found.training_script}\n") for b in BLOCKS[command.place.split(":")[0]]):
        raise Wrong(f"no block of the page begins with '# {found.training_script}'")


def make(words: Sequence[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    if unknown := [word for word in words if "=" not in word and word not in targets]:
        raise Wrong(f"the Makefile has no target {unknown[0]!r}")


def extras() -> set[str]:
    """What may stand in ``genkernel[…]``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


def pip(words: Sequence[str]) -> None:
    named = re.fullmatch(r"(?:\.|genkernel)(?:\[([\w,-]+)\])?", words[-1])
    if words[0] != "install" or set(words[1:-1]) - {"-e", "--editable"} or named is None:
        raise Wrong("pip installs genkernel, or '.', with its extras")
    if unknown := set(filter(None, (named[1] or "").split(","))) - extras():
        raise Wrong(f"there is no extra {min(unknown)!r}")
