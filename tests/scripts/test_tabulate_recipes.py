"""The table of what every recipe ends with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genkernel.errors import InputError
from genkernel.models.gans import RECIPES
from scripts.tabulate_recipes import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes of a few steps."""
    small = {"width": 8, "depth": 2}
    recipe = replace(RECIPES["ring"]["healthy"], steps=3, generator=small, discriminator=small, batch=8)
    monkeypatch.setitem(RECIPES, "ring", {"healthy": recipe, "collapsing": replace(recipe, steps=2)})


def test_one_row_per_recipe_and_one_folder_per_run(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["ring", "--seeds", "2", "--out", str(tmp_path)])
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:4] for line in table[2:]] == [
        ["| ring", "healthy", "3", "2"],
        ["| ring", "collapsing", "2", "2"],
    ]
    assert all(line.count("|") == 9 and " of 8 | " in line for line in table[2:])
    assert {p.name for p in tmp_path.iterdir()} == {f"ring-{r}-{s}" for r in ("healthy", "collapsing") for s in (0, 1)}


def test_finished_runs_are_read(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["ring", "--recipes", "healthy", "--seeds", "1", "--out", str(tmp_path)]
    main(arguments)
    first = capsys.readouterr().out
    monkeypatch.setattr(torch.optim.Adam, "step", None)  # would fail
    main(arguments)
    assert capsys.readouterr().out == first and len(first.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mnist"], "mnist needs --data"),
        (["ring", "--recipes", "nothing"], "the recipes for ring are healthy, collapsing"),
        (["ring", "--seeds", "0"], "at least one seed"),
    ],
)
def test_what_cannot_be_tabulated(arguments: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        main([*arguments, "--out", str(tmp_path)])
