"""Classes of samples, and draws that treat them alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.classifier.folders import by_name, folder_classes
from genkernel.classifier.labels import balanced, class_indices
from genkernel.errors import InputError


def test_whole_numbers_and_one_hot() -> None:
    assert class_indices(torch.tensor([0, 2, 1]), 3).tolist() == [0, 2, 1]
    assert class_indices(torch.eye(3)[[2, 0]], 2).tolist() == [2, 0]
    assert class_indices(["Dog", "cat"], 2, names=["cat", "dog"]).tolist() == [1, 0]
    assert class_indices(np.array(["b", "B"], dtype=object), 2, names=["a", "B", "b"]).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0.5, 1.0], None, "float64, such as 0.5"),
        (torch.tensor([-1, 0]), None, "1 of the 2 labels are below 0, such as -1"),
        ([0, 1, 2], None, "2 probes and 3 labels"),
        (["cat", "dog"], None, r"'cat', and those of the classes are not known: give the numbers.*names="),
        (["cat", "eel"], ["cat", "dog"], "'eel' is not the name of one class: these are cat, dog"),
        (["cat", "cat"], ["cat", "cat"], "'cat' is not the name of one class"),
    ],
)
def test_what_is_no_class(labels: object, names: list[str] | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        class_indices(labels, 2, names=names)


def test_folders_are_classes_by_name_by_number_or_in_order() -> None:
    assert folder_classes(["cat", "dog", "frog"], ["frog", "Dog", "cat"], 3) == ([2, 1, 0], None)
    assert folder_classes(["0", "07"], list("abcdefgh"), 8) == ([0, 7], None)
    assert folder_classes(["0", "1"], ["1", "0"], 2) == ([1, 0], None)  # names come first
    found, note = folder_classes(["cat", "dog"], None, 2)
    assert found == [0, 1] and note == "folders cat, dog are taken as classes 0, 1"
    found, note = folder_classes(["a", "b"], ["x", "y"], 2)
    assert found == [0, 1] and note == "folders a, b are taken as classes 0 (x), 1 (y)"
    found, note = folder_classes([f"n{i:08}" for i in range(12)], None, 12)
    assert found == list(range(12)) and note == "folders n00000000 to n00000011 are taken as classes 0 to 11"
    assert by_name(["cat", "eel"], ["cat", "dog"]) is None and by_name(["cat"], None) is None


@pytest.mark.parametrize(
    ("folders", "names", "count", "said"),
    [
        (["cat", "dog"], None, 10, r"there are 2 \(cat, dog\), and the classifier tells 10 classes apart.*give names="),
        (["cat", "eel"], ["cat", "dog"], 2, "eel is not the name of one class"),
        (["0", "7"], None, 5, "numbers up to 7.*from 0 to 4"),
        (["n01440764", "n01443537"], ["tench", "goldfish", "shark"], 3, "synsets"),
        (["crane", "eel"], ["crane", "crane", "eel"], 3, "crane is not the name of one class"),
    ],
)
def test_folders_that_are_not_known_to_be_classes(
    folders: list[str], names: list[str] | None, count: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        folder_classes(folders, names, count)


def test_classes_take_turns() -> None:
    labels = np.array([0] * 50 + [1] * 30 + [2] * 3)
    found = balanced(labels, 33)
    assert (np.diff(found) > 0).all()
    assert np.bincount(labels[found]).tolist() == [15, 15, 3]
    assert np.array_equal(balanced(labels, 33), found) and not np.array_equal(balanced(labels, 33, seed=1), found)
    assert balanced(labels, 1000).tolist() == list(range(83))
