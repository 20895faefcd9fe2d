"""Which classes of a network the folders of labelled images are: by name, by number, or in sorted order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from genkernel.classifier.labels import listed, places
from genkernel.errors import InputError

_SYNSET = re.compile(r"n\d{8}")


def by_name(folders: Sequence[str], names: Sequence[str] | None) -> list[int] | None:
    """The class of each folder, where all of them have the name of one; else None."""
    known = {} if names is None else places(folders, names)
    return [known[folder] for folder in folders] if all(folder in known for folder in folders) else None


def folder_classes(
    folders: Sequence[str], names: Sequence[str] | None, count: int, what: str = "data"
) -> tuple[list[int], str | None]:
    """The class of each folder.

    Folders are matched with the names of the classes (in any case of letters); those named by whole numbers are these
    classes; and where there are as many folders as classes, none of which has the name of one, they are taken in sorted
    order.

    Args:
        folders: their names, sorted.
        names: of the classes, in the order of the logits; None where these are not known.
        count: of the classes that the network tells apart.
        what: is in the folders, for messages.

    Returns:
        Numbers of classes, and what was assumed, in a sentence; None where nothing was.

    Raises:
        InputError: it cannot be known which classes they are.
    """
    if (found := by_name(folders, names)) is not None:
        return found, None
    if all(folder.isdecimal() for folder in folders):
        numbers = [int(folder) for folder in folders]
        if max(numbers) >= count:
            raise InputError(
                f"the folders of {what} are named by numbers up to {max(numbers)}, and the classifier tells {count} "
                f"classes apart: number them from 0 to {count - 1}"
            )
        return numbers, None
    some = {} if names is None else places(folders, names)
    if len(folders) == count and not some:
        said = ", ".join(folders) if count <= 10 else f"{folders[0]} to {folders[-1]}"
        called = [""] * count if names is None else [f" ({name})" for name in names]
        classes = ", ".join(f"{c}{called[c]}" for c in range(count)) if count <= 10 else f"0 to {count - 1}"
        return list(range(count)), f"folders {said} are taken as classes {classes}"
    left = [folder for folder in folders if folder not in some]
    if some:
        assert names is not None
        why = f"{listed(left)} {'is' if len(left) == 1 else 'are'} not the name of one class ({listed(names)})"
    else:
        have = "whose names are not known" if names is None else f"called {listed(names)}"
        why = f"there are {len(folders)} ({listed(folders)}), and the classifier tells {count} classes apart, {have}"
    synsets = " (n01440764 and the like are synsets, and no names of its classes)" if _SYNSET.fullmatch(left[0]) else ""
    raise InputError(
        f"the folders of {what} cannot be matched with the classes: {why}{synsets}; name the folders as the classes or "
        "by their numbers, give names= in the order of the logits, or give labels="
    )
