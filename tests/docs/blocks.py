"""The code blocks of the texts, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "models", "assets", "benchmarks")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])

FENCE = re.compile(
    r"(?:^[ ]*<!-- not run:(?P<reason>.*?)-->[ ]*\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>[^\n`]*)\n(?P<text>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path from the root, such as ``docs/paths.md``.
        line: number of its first line of code.
        language: what stands behind the fence; may be empty.
        text: the code.
        reason: why it is not run, where the line above says ``<!-- not run: … -->``.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        code = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        reason = None if match["reason"] is None else match["reason"].strip()
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"].strip(), code, reason))
    return found


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


BLOCKS = {name_of(page): blocks_of(page.read_text(encoding="utf-8"), name_of(page)) for page in PAGES}


@dataclass(frozen=True)
class Command:
    """One command of a bash block: its words without comments, and where it stands."""

    words: tuple[str, ...]
    place: str

    @property
    def text(self) -> str:
        return shlex.join(self.words)


def commands_of(block: Block) -> list[Command]:
    """The commands of a bash block; lines that end in a backslash go on, && and the like separate."""
    found: list[Command] = []
    waiting, first = "", block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        first = first if waiting else number
        waiting += line
        if waiting.endswith("\\"):
            waiting = waiting[:-1] + " "
            continue
        lexer = shlex.shlex(waiting, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word[0] not in "&|;":
                words.append(word)
            elif words:
                found.append(Command(tuple(words), f"{block.page}:{first}"))
                words = []
        waiting = ""
    return found


def commands(page: str) -> list[Command]:
    """Those of all bash blocks of a page that may be run."""
    bash = [block for block in BLOCKS[page] if block.language == "bash" and block.reason is None]
    return [command for block in bash for command in commands_of(block)]
