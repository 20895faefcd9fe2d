"""The notebooks: each runs from end to end in an empty folder, and what is stored in it is fit to be read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 600_000  # bytes of a notebook with its figures
LIMIT = 600  # seconds of one cell: to end a run that hangs, not to time one

# from the root, a home or a drive; "steps/s", "</td>" and addresses of the web are none
ABSOLUTE = re.compile(r"(?<![\w.:/<&])(?:/(?:[\w.+-]+/)+[\w.+-]*|~/\S+|[A-Z]:\\\S+)")
TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^\w*(?:Error|Warning): ", re.MULTILINE)

Notebook = dict[str, Any]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def stored(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: Notebook) -> list[Notebook]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def texts(notebook: Notebook) -> Iterator[str]:
    """Everything in the outputs that people read, apart from figures."""
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            if output["output_type"] == "stream":
                yield joined(output["text"])
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield joined(content)


def faults(notebook: Notebook) -> list[str]:
    """What must not be in outputs: errors, warnings, paths of the machine they were made on."""
    found = []
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"{output['ename']}: {output['evalue']}")
            if output.get("name") == "stderr":
                found.append(f"written to stderr: {joined(output['text'])}")
    for text in texts(notebook):
        found += [f"a path of this machine: {match}" for match in ABSOLUTE.findall(text)]
        found += [f"an error or a warning: {match}" for match in TRACEBACK.findall(text)]
        found += [f"a path of this machine: {place}" for place in (str(ROOT), sys.prefix) if place in text]
    return found


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"diffusion-checkpoint", "collapsing-gan", "training-path"}


@pytest.mark.slow  # by `make notebooks`
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_they_run(path: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is not installed: notebooks cannot be run")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=LIMIT, kernel_name="python3", resources=where).execute()
    fresh = json.loads(nbformat.writes(notebook))
    assert faults(fresh) == []
    shown = [[output["output_type"] for output in cell["outputs"]] for cell in code_cells(fresh)]
    expected = json.loads(path.read_text(encoding="utf-8"))
    assert shown == [[output["output_type"] for output in cell["outputs"]] for cell in code_cells(expected)]
    assert not list(tmp_path.iterdir()), "a notebook leaves nothing behind"


def test_stored_outputs_are_there_and_clean(path: Path, stored: Notebook) -> None:
    numbers = [cell["execution_count"] for cell in code_cells(stored)]
    assert numbers == list(range(1, len(numbers) + 1)), "run from the first cell to the last, once"
    figures = [
        output for cell in code_cells(stored) for output in cell["outputs"] if "image/png" in output.get("data", {})
    ]
    assert len(figures) >= 3
    assert faults(stored) == []
    assert path.stat().st_size < LARGEST


def test_metadata_says_no_more_than_the_kernel(stored: Notebook) -> None:
    assert set(stored["metadata"]) <= {"kernelspec", "language_info"}
    assert stored["metadata"]["kernelspec"]["name"] == "python3"
    assert not [cell["metadata"] for cell in stored["cells"] if cell["metadata"]]


def test_links_lead_somewhere(path: Path, stored: Notebook) -> None:
    text = "\n".join(joined(cell["source"]) for cell in stored["cells"] if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", text) if "://" not in link]
    assert links
    for link in links:
        page, _, anchor = link.partition("#")
        target = path.parent / page
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link


def slug(heading: str) -> str:
    """How a heading is named in links."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("saved in /srv/runs/x", True),
        ('"/tmp/a/b.npz"', True),
        ("~/runs/x", True),
        (r"C:\runs\x", True),
        ("3 steps/s, 1/12 of it, input/output", False),
        ("<td>a</td><br/>", False),
        ("https://example.org/a/b", False),
    ],
)
def test_paths_of_a_machine_are_told_from_other_slashes(text: str, found: bool) -> None:
    assert bool(ABSOLUTE.search(text)) is found
