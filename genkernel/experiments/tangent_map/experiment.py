"""Maps of tangent features: digits that a network learned, and digits that it did not.

Section 5.3 of Guo, He & Morel, figure 4: a network learns the digits 0 to 4 of MNIST, and UMAP shows the tangent
features of images: not separated before the training, clusters of the digits that were learned after it, and none of
those that were not. Neither network nor training survived in the text for this figure: ours is that of section 5.1
(three convolutions of 16, 32 and 64 channels, 128 hidden units, dropout 0.3, ten logits), with Adam (1e-3) on 600
images of every digit, as in figure 5.

A map is no evidence: clusters of UMAP and t-SNE are no measurements. So everything is measured in the normalised kernel
(trace over the ten logits) of images that were held out: whose labels the neighbours have, whether k-means finds the
digits, silhouettes, a linear SVM. It is held against pixels, the untrained network, a network that learned 5 to 9, for
which the roles are exchanged (some digits are harder than others, seen or not), and one that learned all.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from genkernel.experiments.extrapolation.task import Pool, read, trained
from genkernel.experiments.out_of_distribution.task import balanced
from genkernel.experiments.outcome import Outcome
from genkernel.experiments.tangent_map.measures import gram_of, groups, neighbours_of
from genkernel.experiments.tangent_map.outcome import report
from genkernel.experiments.tangent_map.setting import ALL, CASES, HIGHER, LOWER, PIXELS, QUICK, UNTRAINED, Setting
from genkernel.models.paper_classifiers import CLASSES


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Tangent space of digits that were learned and of digits that were not, before and after training.

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
        for one in tqdm(range(seed, seed + setting.seeds), disable=not progress, desc="tangent-map"):
            found.append(measured(pool, setting, one))
    settings = asdict(setting) | {"quick": quick, "seed": seed, "data": data is not None}
    return report(Outcome("tangent-map", settings), found, setting, seed)


def measured(pool: Pool, setting: Setting, seed: int) -> dict[str, Any]:
    """Everything that is measured with the weights, training images and held-out images of one seed.

    Returns:
        ``groups``: case → digits → measures; ``neighbours``: case → who the neighbours of every digit are; ``cosines``:
        case → normalised kernel between the held-out images, with their ``labels``; ``accuracy``: case → of the digits
        that were learned.
    """
    rows = balanced(pool.held_labels, range(CLASSES), CLASSES * setting.shown, seed)
    images, labels = pool.held[rows], pool.held_labels[rows]
    grams = {PIXELS: gram_of(None, images)}
    accuracy = {}
    for case, digits in CASES.items():
        own = balanced(pool.labels, digits, len(digits) * setting.per_class, seed)
        start, network = trained(
            pool.images[own], pool.labels[own], steps=setting.steps, batch=setting.batch, rate=setting.rate,
            dropout=setting.dropout, seed=seed,
        )  # fmt: skip
        if UNTRAINED not in grams:  # the same weights for all of them
            grams[UNTRAINED] = gram_of(start, images)
        grams[case] = gram_of(network, images)
        accuracy[case] = _accuracy(network, images, labels, digits)
    return {
        "groups": {
            case: {
                name: groups(K, labels, digits, setting, seed)
                for name, digits in (("0 to 4", LOWER), ("5 to 9", HIGHER))
            }
            for case, K in grams.items()
        },
        "neighbours": {case: neighbours_of(K, labels, setting.neighbours) for case, K in grams.items()},
        "cosines": grams,
        "labels": labels,
        "accuracy": accuracy,
        "all": {case: groups(K, labels, ALL, setting, seed) for case, K in grams.items()},
    }


def _accuracy(network: Any, images: Any, labels: Any, digits: tuple[int, ...]) -> float:
    import torch

    from genkernel.experiments.fitting import accuracy

    known = torch.isin(labels, torch.tensor(digits))
    return accuracy(network, images[known], labels[known])
