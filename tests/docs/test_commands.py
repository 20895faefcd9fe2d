"""Every command of the texts is one that its program takes."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.docs import parsing
from tests.docs.blocks import BLOCKS, PAGES, ROOT, Block, Command, blocks_of, commands, commands_of, name_of


@pytest.mark.parametrize("page", [page for page in BLOCKS if commands(page)])
def test_commands_are_taken_by_their_programs(page: str) -> None:
    wrong = []
    for command in commands(page):
        try:
            parsing.parse(command)
        except parsing.Wrong as error:
            wrong.append(f"{command.place}: {command.text}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", list(BLOCKS))
def test_commands_in_sentences_have_these_options(page: str) -> None:
    """`genkernel X --flag` and `scripts/x.py --flag` within a line: the command, the experiment and the flags."""
    from typer.main import get_command

    from genkernel.cli.app import app
    from genkernel.experiments.registry import EXPERIMENTS

    known = get_command(app).commands  # type: ignore[attr-defined]
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for span in re.findall(r"`([^`\n]+)`", text):
        words = span.split()
        if match := re.search(r"(?:^|-m )genkernel ([a-z]+)", span):
            if match[1] not in known:
                wrong.append(span)
                continue
            flags = {
                flag for parameter in known[match[1]].params for flag in [*parameter.opts, *parameter.secondary_opts]
            }
            if study := re.search(r"genkernel experiment ([a-z][a-z-]*)", span):
                wrong += [span] if study[1] not in EXPERIMENTS else []
            words = span[match.end() :].split()
        elif (match := re.match(r"(?:python )?(scripts/\w+\.py)", span)) and " -" in span:
            try:
                flags = set(parsing.script(match[1], None)._option_string_actions)
            except parsing.Wrong:
                wrong.append(span)
                continue
        else:
            continue
        wrong += [span for word in words if word.startswith("-") and word.split("=")[0] not in flags | {"--help"}]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_that_are_named_exist(page) -> None:  # type: ignore[no-untyped-def]
    named = re.findall(r"genkernel\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    assert {extra for names in named for extra in names.split(",")} <= parsing.extras()


# ------------------------------------------------------------------------ what would be found


def command(text: str, page: str = "README.md") -> Command:
    return Command(tuple(shlex.split(text)), f"{page}:1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("genkernel nonsense", "No such command"),
        ("genkernel diffusion here --nonsense", "No such option"),
        ("genkernel diffusion here --levels many", "valid int"),
        ("genkernel compare one", "Missing argument"),
        ("genkernel experiment nonsense", "no experiment 'nonsense'"),
        ("python scripts/nonsense.py", "there is no scripts/nonsense.py"),
        ("python scripts/train_gan.py ring --nonsense --out a", "unrecognized arguments: --nonsense"),
        ("python scripts/train_gan.py square --out a", "invalid choice: 'square'"),
        ("python -m nonsense", "python -m nonsense is not looked at"),
        ("torchrun --nonsense=2 -m genkernel demo", "--nonsense"),
        ("torchrun -m genkernel demo --nonsense", "No such option"),
        ("torchrun nonsense.py", "no block of the page begins with '# nonsense.py'"),
        ("make nonsense", "no target 'nonsense'"),
        ("pip install genkernel[nonsense]", "no extra 'nonsense'"),
        ("pip install nonsense", "pip installs genkernel"),
        ("A=1 nonsense", "'nonsense' is not looked at"),
    ],
)
def test_wrong_commands_are_found(text: str, words: str) -> None:
    with pytest.raises(parsing.Wrong, match=re.escape(words)):
        parsing.parse(command(text))


def test_blocks_and_commands_are_found() -> None:
    python = "<!-- not run: needs a moon -->\n```python\nx\n```\n"
    bash = "  ```bash\n  A=1 c \\\n    'd e'  # f\n  g && h\n  ```\n"
    text = f"a\n\n{python}- b\n{bash}"
    first, second = blocks_of(text, "p.md")
    assert first == Block("p.md", 5, "python", "x\n", "needs a moon")
    assert (second.line, second.language, second.reason) == (9, "bash", None)
    assert [(one.words, one.place) for one in commands_of(second)] == [
        (("A=1", "c", "d e"), "p.md:9"), (("g",), "p.md:11"), (("h",), "p.md:11"),
    ]  # fmt: skip
