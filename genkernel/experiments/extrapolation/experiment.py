"""Extrapolation: printed digits and letters for a network that learned handwritten digits.

Section 5.3 of Guo, He & Morel, figures 5 and 6: a network of three convolutions learns 600 MNIST images of every digit
with Adam and the cross-entropy, and meets printed digits, letters and inputs ever further away. Do predictions fail
there, is accuracy higher where the tangent kernel finds printed digits more similar to training samples, and is
nothing of the kind to be seen of letters? Widths, dropout, learning rate and epochs did not survive in the text: widths
and dropout are those of section 5.1 (16, 32, 64, 128; 0.3), Adam's rate is 1e-3, with 2,000 batches of 64 (21 epochs).
The fonts, the letters (24 capitals) and what further away is (angles, sizes, mixtures) are ours.

The kernel is that of the trace over the ten logits, with ten training images of every digit, as in the paper. What it
says is held against the untrained network, cosines of pixels, and what costs nothing: the margin of the largest logit
over the second, and the confidence.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from genkernel.experiments.extrapolation.measures import (
    HELD,
    LETTERS,
    PRINTED,
    along,
    answers,
    cosines,
    of_printed,
    of_sets,
    profiles,
    reaches,
)
from genkernel.experiments.extrapolation.outcome import report
from genkernel.experiments.extrapolation.setting import QUICK, Setting
from genkernel.experiments.extrapolation.task import Pool, draw, read, trained
from genkernel.experiments.outcome import Outcome
from genkernel.models.paper_classifiers import CLASSES


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Similarity and accuracy of printed digits, letters, and inputs on the way out of the domain.

    Args:
        data: a folder with ``mnist.npz``; without it everything is undecided.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold it.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    found: list[dict[str, Any]] = []
    if data is not None:
        pool = read(data)
        for one in tqdm(range(seed, seed + setting.seeds), disable=not progress, desc="extrapolation"):
            found.append(measured(pool, setting, one, pictured=one == seed))
    settings = asdict(setting) | {"quick": quick, "seed": seed, "data": data is not None}
    return report(Outcome("extrapolation", settings), found, setting, seed)


def measured(pool: Pool, setting: Setting, seed: int, *, pictured: bool = False) -> dict[str, Any]:
    """Everything that is measured of one network; its kernel between images too, where that is pictured."""
    images = draw(pool, setting, seed)
    course: dict[int, dict[str, Any]] = {}

    def look(step: int, network: nn.Module) -> None:
        right = answers(network, images.printed, images.printed_labels)["right"]
        labels = images.printed_labels.numpy()
        course[step] = {
            PRINTED: [float(right[labels == c].mean()) for c in range(CLASSES)],
            HELD: float(answers(network, images.held, images.held_labels)["right"].mean()),
        }

    start, network = trained(
        images.x, images.y, steps=setting.steps, batch=setting.batch, rate=setting.rate, dropout=setting.dropout,
        seed=seed, look=look, at=setting.looks,
    )  # fmt: skip
    found, before = reaches(network, images), reaches(start, images)
    said = answers(network, images.printed, images.printed_labels)
    return {
        "course": course,
        "kernel": cosines(network, images, setting.shown) if pictured else None,
        "train accuracy": float(answers(network, images.x, images.y)["right"].mean()),
        "held accuracy": float(answers(network, images.held, images.held_labels)["right"].mean()),
        "printed": of_printed(found, before, said, images),
        "sets": {
            "trained": of_sets(found, images, setting.letters),
            "untrained": of_sets(before, images, setting.letters),
        },
        "families": along(network, images),
        "profiles": {
            PRINTED: profiles(found[PRINTED], images.printed_labels),
            LETTERS: profiles(found[LETTERS], images.letter_labels),
        },
        "images": images,
    }
