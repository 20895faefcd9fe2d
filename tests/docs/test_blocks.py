"""The blocks of every page run in the order of the page: Python as it is written, genkernel's commands on small sizes.

A block is left out where the line above its fence says why: ``<!-- not run: needs two GPUs -->``.
"""

from __future__ import annotations

import re
import sys
import traceback
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.docs.blocks import BLOCKS, ROOT, Block, commands_of
from tests.docs.stages import STAGES, Stage

PASSED_OVER = {"", "text", "json", "bibtex"}  # what is shown and cannot be run
NOT_RUN = {"bench": "minutes", "demo": "minutes", "experiment": "minutes; tests/experiments has them"}
SMALLER = {  # appended to every such command
    "diffusion": "--levels 3 --samples 4 --probes 2 --no-controls",
    "gan": "--latents 32 --jacobians 8 --probes 2 --no-check",
    "classifier": "--probes 2",
}
BLANK = {
    "png": b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}
HOW = "what the page takes as given is made by its stage in tests/docs/stages.py, which says how to add to it"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[Path]:
    """An empty folder, which Python looks for modules in, and nothing of which is left behind.

    Figures are made and not drawn, which would take most of the time: tests/plots draws them.
    """
    monkeypatch.setattr("genkernel.plots.to_bytes", lambda figure, kind: BLANK[kind])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mymodels", None)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if "accelerate" in sys.modules:  # its settings are those of the process
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(True)
        GradientState._reset_state()


def runnable(page: str) -> list[Block]:
    return [block for block in BLOCKS[page] if block.language in ("python", "bash") and block.reason is None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in BLOCKS if runnable(page)])
def test_blocks_run(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stage = STAGES[page](monkeypatch) if page in STAGES else Stage()
        names: dict[str, Any] = {"__name__": "page", **stage.names}
        unused, number = {*stage.instead, *stage.left_out, *stage.names}, 0
        for block in runnable(page):
            for file in stage.apart:
                Path(file).unlink(missing_ok=True)
            text, found = replaced(block.text, stage)
            unused -= found
            if block.language == "bash":
                unused -= run_commands(Block(block.page, block.line, "bash", text), stage)
                continue
            given = stage.later.get(number, {})
            given = given() if callable(given) else given
            names |= given
            unused = {*unused, *given} - set(re.findall(r"\w+", text))
            number += 1
            run_python(block, text, names)
    assert not unused, f"the stage of {page} has what no block asks for: {sorted(unused)}"


def replaced(text: str, stage: Stage) -> tuple[str, set[str]]:
    """The text with what is to be run instead, and which replacements were made."""
    found = set()
    for old, new in stage.instead.items():
        pattern = r"\s+".join(map(re.escape, old.split()))
        text, count = re.subn(pattern, lambda match, new=new: new, text)
        found |= {old} if count else set()
    return text, found


def run_python(block: Block, text: str, names: dict[str, Any]) -> None:
    """Execute a block under the lines that it has on its page."""
    try:
        code = compile("\n" * (block.line - 1) + text, str(ROOT / block.page), "exec", dont_inherit=True)
        exec(code, names)
    except Exception as error:
        line = next((frame.lineno for frame in reversed(traceback.extract_tb(error.__traceback__))
                     if frame.filename == str(ROOT / block.page)), getattr(error, "lineno", block.line))  # fmt: skip
        raise AssertionError(f"{block.page}:{line} fails: {type(error).__name__}: {error}; {HOW}") from error


def run_commands(block: Block, stage: Stage) -> set[str]:
    """Run genkernel's commands of a block; those that the stage leaves out."""
    from genkernel.cli.app import run

    left_out = set()
    for command in commands_of(block):
        if command.words[0] != "genkernel" or command.words[1] in NOT_RUN:
            continue
        if found := {words for words in stage.left_out if command.text.startswith(words)}:
            left_out |= found
            continue
        status = run([*command.words[1:], *SMALLER.get(command.words[1], "").split()])
        assert status == 0, f"{command.place}: {command.text} ended with {status}; {HOW}"
    return left_out


@pytest.mark.parametrize("page", list(STAGES))
def test_stages_are_of_pages(page: str) -> None:
    assert runnable(page), f"{page} has no blocks (any more): take its stage away"


def test_every_block_is_run_or_says_why() -> None:
    blocks = [block for page in BLOCKS.values() for block in page]
    other = {f"{b.place}: {b.language}" for b in blocks if b.language not in PASSED_OVER | {"python", "bash"}}
    assert not other, f"blocks are called python or bash; what cannot be run, {sorted(PASSED_OVER)}: {other}"
    out = [block for block in blocks if block.reason is not None]
    assert all(len(block.reason.split()) > 1 for block in out if block.reason is not None), "give a reason"
    assert len(out) <= 3, f"too many blocks are not run: {[block.place for block in out]}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1\nb\n", r"^p\.md:6 fails: NameError: name 'b' is not defined; .*tests/docs/stages\.py"),
        ("for a in [1]:\n    pass\nbreak\n", r"^p\.md:7 fails: SyntaxError: 'break' outside loop"),
        ("import genkernel as gk\ngk.load('nothing/there/is')\n", r"^p\.md:6 fails: MissingError"),
    ],
)
def test_a_block_that_fails_says_where_and_what_to_do(text: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        run_python(Block("p.md", 5, "python", text), text, {})


def test_what_is_run_instead() -> None:
    stage = Stage(instead={"... # the loop": "train()", "of hours": "0"})
    assert replaced("with a:\n    ...     # the loop\n", stage) == ("with a:\n    train()\n", {"... # the loop"})


@pytest.mark.distributed
def test_the_script_for_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes run what docs/large-runs.md calls kernel.py."""
    from tests.tangent.ranks import torchrun

    monkeypatch.chdir(tmp_path)
    page = "docs/large-runs.md"
    (script,) = (block.text for block in BLOCKS[page] if block.text.startswith("# kernel.py\n"))
    before = "import torch\nfrom tests.docs.props import perceptron\ntorch.manual_seed(0)\n"
    before += "model, x = perceptron(), torch.ones(6, 4)\n"
    found = torchrun(2, f"{before}{script}\nassert K.values.shape == (6, 6)\n", tmp_path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "shared" / "tiles" / "manifest.json").is_file()
