"""The house plan, kept: imports run one way, and `import genkernel` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import genkernel

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "genkernel"
HELP = """
import sys
from genkernel.cli import main
sys.argv = ["genkernel", "--help"]
try:
    main()
except SystemExit:
    pass
"""
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "sklearn", "scipy", "matplotlib", "PIL", "jinja2")

# Lowest first. A room may import from the floors below its own, not from its neighbours.
FLOORS = (
    ("errors",),
    ("runs", "assets"),
    ("data",),
    ("checkpoints",),
    ("models",),
    ("tangent",),
    ("paths", "spectra"),
    ("diffusion", "gan", "classifier"),
    ("monitor",),
    ("plots",),
    ("report",),
    ("workflows",),
    ("bench",),
    ("experiments",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> Iterator[tuple[str, str, Path]]:
    """(room, dotted name, file) of every module below genkernel/, models/ and assets/."""
    for name, folder in (
        ("genkernel", PACKAGE),
        ("genkernel.models", ROOT / "models"),
        ("genkernel.assets", ROOT / "assets"),
    ):
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder).with_suffix("").parts
            dotted = ".".join([name, *inside])
            room = dotted.split(".")[1]
            if room not in ("__init__", "__main__"):
                yield room, dotted, file


def imported(dotted: str, file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a module imports, at the top, in functions or for types."""
    package = dotted.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def room_of(name: str) -> str | None:
    """The room an imported name lives in; public names count for the room that defines them."""
    parts = name.split(".")
    if parts[0] != "genkernel" or len(parts) < 2:
        return None
    home = genkernel._HOMES.get(parts[1])
    return parts[1] if parts[1] in FLOOR else home.split(".")[1] if home else None


def test_imports_run_one_way() -> None:
    wrong = []
    for room, dotted, file in modules():
        assert room in FLOOR, f"{dotted} is in a room that the house plan does not know"
        for line, name in imported(dotted, file):
            target = room_of(name)
            if target is not None and target != room and FLOOR[target] >= FLOOR[room]:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {room} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize(
    "statement",
    [
        "import genkernel",
        "import genkernel; dir(genkernel); genkernel.GenkernelError",
        "import genkernel.runs, genkernel.data, genkernel.workflows, genkernel.cli",
        "import genkernel.models.ddpm, genkernel.assets",
        HELP,
    ],
)
def test_light_until_used(statement: str) -> None:
    probe = f"{statement}\nimport sys\nprint('HEAVY', *sorted(set(sys.modules) & set({HEAVY!r})))"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY"


ORDERS = {
    "names first": "",
    "modules first": "import importlib; [importlib.import_module(name) for name in sys.argv[1:]]",
}


@pytest.mark.parametrize("order", ORDERS)
def test_public_names_are_what_they_are_said_to_be(order: str) -> None:
    """A submodule must never stand in for the function of the same name, whoever is imported first."""
    rooms = [dotted.removesuffix(".__init__") for _, dotted, _ in modules()]
    probe = f"""
import sys, types
{ORDERS[order]}
import genkernel
modules = [n for n in genkernel.__all__ if isinstance(getattr(genkernel, n), types.ModuleType)]
print("MODULES", *modules)
"""
    run = subprocess.run([sys.executable, "-c", probe, *rooms], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "MODULES sinks"  # a namespace on purpose: gk.sinks.jsonl(path)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = genkernel.nonsense
