"""Tables and claims of the study of filling planar shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.rank_agreement import mean_spearman
from genkernel.experiments.replicates import above, around, is_above, pair
from genkernel.experiments.shape_filling.found import Filling
from genkernel.experiments.shape_filling.setting import Setting

PAPER, NEARLY = 0.99, 0.95  # IoU that counts as filled, and as nearly so
LOST = 0.02  # a loss of IoU that counts
SCORES = {
    "similarity": "trained kernel, nearest",
    "untrained similarity": "untrained kernel, nearest",
    "distance": "trained kernel, projection distance",
    "pixels": "images, nearest of all",
    "same pixels": "images, nearest of the kernel's",
    "length": "length of the boundary",
}
TURNED = ("distance", "length")  # large where others are small


def report(outcome: Outcome, setting: Setting, found: list[Filling], seed: int) -> None:
    """Fill an outcome from all networks."""
    from genkernel.plots.shape_filling import gallery, shape_filling

    kinds = list(found[0].iou)
    iou = {kind: [float(one.iou[kind].mean()) for one in found] for kind in kinds}
    told = {name: [correlations(one, name) for one in found] for name in SCORES}
    outcome.tables += [
        Table(
            f"IoU by kind of shape, {setting.tested} images of each and {setting.seeds} networks (means ± standard "
            f"errors; training images {pair([float(one.trained.mean()) for one in found])}), and how near "
            f"{setting.measured} of them are",
            ("kind", "IoU", "images below 0.9", *SCORES.values()),
            [
                (kind, pair(iou[kind]), f"{np.mean([(one.iou[kind] < 0.9).mean() for one in found]):.0%}",
                 *(pair([float(one.scores[kind][name].mean()) for one in found]) for name in SCORES))
                for kind in kinds
            ],
        ),
        Table(
            "Spearman's correlation of being near with the IoU (distances and lengths with the sign turned)",
            ("near by", "over all kinds", "within the kinds"),
            [(said, *(pair([c[k] for c in told[name]]) for k in (0, 1))) for name, said in SCORES.items()],
        ),
    ]  # fmt: skip
    outcome.claims += _claims(setting, found, kinds, iou, told)
    outcome.numbers.update({
        "course": [one.course for one in found],
        "trained": [one.trained.tolist() for one in found],
        "iou": {kind: [one.iou[kind].tolist() for one in found] for kind in kinds},
        "scores": [
            {kind: {name: v.tolist() for name, v in each.items()} for kind, each in one.scores.items()} for one in found
        ],
        "correlations": told,
    })  # fmt: skip
    meta = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float32"}
    outcome.figures["shape-filling"] = shape_filling(
        {kind: [one.iou[kind] for one in found] for kind in kinds},
        {
            kind: (
                np.concatenate([one.scores[kind]["similarity"] for one in found]),
                np.concatenate([one.iou[kind][: setting.measured] for one in found]),
            )
            for kind in kinds
        },
        {said: np.array(told[name]) for name, said in SCORES.items()},
        meta,
    )
    outcome.figures["shape-filling-examples"] = gallery(
        {kind: (found[0].shown[kind], float(np.sort(found[0].iou[kind])[setting.tested // 2])) for kind in kinds},
        {"seed": seed, "dtype": "float32"},
    )


def correlations(one: Filling, name: str) -> tuple[float, float]:
    """Of a score of nearness with the IoU: over all shapes, and the mean of those within each kind.

    A kind whose shapes all have the same IoU has no correlation and is left out.
    """
    values = {kind: (-1 if name in TURNED else 1) * each[name] for kind, each in one.scores.items()}
    right = {kind: one.iou[kind][: len(v)] for kind, v in values.items()}
    each, iou = (np.stack(list(v.values()), 1) for v in (values, right))
    return mean_spearman(each.reshape(-1, 1), iou.reshape(-1, 1)), mean_spearman(each, iou)


def _claims(
    setting: Setting,
    found: list[Filling],
    kinds: list[str],
    iou: dict[str, list[float]],
    told: dict[str, list[tuple[float, float]]],
) -> list[Claim]:
    own, complex_kind, *hard = kinds
    lost = {kind: np.array(iou[own]) - np.array(iou[kind]) for kind in hard}
    kernel, pixels, same, before, length = (
        np.array(told[name]) for name in ("similarity", "pixels", "same pixels", "untrained similarity", "length")
    )
    return [
        Claim(
            "a U-Net trained on connected shapes fills new ones of their kind: an IoU of 99.8 % (Courtois et al., "
            f"section 6.2, with 10,000 images; here {PAPER} counts, and {NEARLY} as part of it)",
            f"{pair(iou[own])} with {setting.samples} images",
            _filled(iou[own]),
        ),
        Claim(
            "and perfectly so complex examples that it never saw (same section, likewise; here trees of four times as "
            "many branches)",
            f"{pair(iou[complex_kind])}",
            _filled(iou[complex_kind]),
        ),
        Claim(
            "shapes of other kinds make it fail (same section, of shapes of more complexity; here of other kinds, the "
            f"large ones of less: an IoU lower by more than {LOST})",
            "IoU lost against shapes of the training kind: "
            + ", ".join(f"{pair(v)} ({kind})" for kind, v in lost.items()),
            above(*(around(v) for v in lost.values()), level=LOST),
        ),
        Claim(
            "it fails where known examples to compare with are missing (same section): shapes are filled the worse the "
            "less similar the nearest training image is in the trained kernel",
            f"Spearman's correlation with the IoU: {pair(kernel[:, 0])} over all kinds, {pair(kernel[:, 1])} within "
            "them",
            above(around(kernel[:, 0]), around(kernel[:, 1])),
        ),
        Claim(
            "the kernel tells more of it than the distance of the images (ours; nearest of "
            f"{setting.compared} training images in the kernel, of all {setting.samples} by pixels)",
            f"correlation of the kernel minus that of images: {pair(kernel[:, 0] - pixels[:, 0])} over all kinds, "
            f"{pair(kernel[:, 1] - pixels[:, 1])} within them; with pixels of the same {setting.compared}: "
            f"{pair(kernel[:, 0] - same[:, 0])}, {pair(kernel[:, 1] - same[:, 1])}",
            above(around(kernel[:, 0] - pixels[:, 0]), around(kernel[:, 1] - pixels[:, 1])),
        ),
        Claim(
            "and more than the untrained kernel and the length of the boundary (ours)",
            f"minus that of the untrained kernel: {pair(kernel[:, 0] - before[:, 0])} over all kinds, "
            f"{pair(kernel[:, 1] - before[:, 1])} within; minus that of the length: "
            f"{pair(kernel[:, 0] - length[:, 0])}, {pair(kernel[:, 1] - length[:, 1])}",
            above(*(around(kernel[:, k] - other[:, k]) for other in (before, length) for k in (0, 1))),
        ),
    ]  # fmt: skip


def _filled(values: Sequence[float]) -> str:
    """Two parts: an IoU above :data:`NEARLY`, and one above :data:`PAPER`."""
    return verdict(is_above(around(values), level) for level in (NEARLY, PAPER))
