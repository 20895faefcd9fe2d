"""Do tangent scores see images that are not of the training distribution? Printed digits, letters, fashion, noise.

Small networks learn MNIST digits, all of whose training images are in the tangent kernel. Then every image of several
sets gets scores of novelty from this kernel, and from what is used otherwise (softmax, Mahalanobis distance and nearest
neighbours in the last hidden layer, nearest neighbour in pixels), on the same network and the same images. The AUROC is
against test digits that the network has not seen. Other networks learn without 8 and 9, and these are what is new to
them (Guo, He & Morel, §5.3, figures 4 to 6).

The kernel is that of the trace, Σ_o ⟨∇f_o(x), ∇f_o(x')⟩ over the ten logits; the table of cotangents has the projection
distance for the gradient of the predicted logit and of the sum of logits beside it. What decides is laid down here and
not chosen by results: the tangent scores that are put to the test are the projection distance, and the largest cosine
to a training image, which is the similarity of the papers.

Of the modules beside this one ``task`` is what is learned and shown, ``scores`` what is measured of one network,
``areas`` the areas under curves and their intervals, and ``tables`` and ``claims`` what they say.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genkernel.experiments.out_of_distribution.areas import areas_of
from genkernel.experiments.out_of_distribution.claims import claims
from genkernel.experiments.out_of_distribution.scores import (
    BASELINES,
    COSINE,
    DISTANCE,
    LEVERAGE,
    NORM,
    RIDGES,
    TOLERANCES,
    distance,
    gaps,
    logits,
    neighbourhoods,
    scores,
)
from genkernel.experiments.out_of_distribution.tables import (
    area_table,
    best_scores,
    by_cotangent,
    gap_table,
    neighbour_table,
    networks,
)
from genkernel.experiments.out_of_distribution.task import (
    ARCHITECTURES,
    CLASSES,
    FASHION,
    FOREIGN,
    LEFT_OUT,
    LETTERS,
    OTHER,
    PRINTED,
    QUICK,
    SEEN,
    UNSEEN,
    Images,
    Setting,
    balanced,
    read,
    train,
)
from genkernel.experiments.outcome import Outcome

Array = NDArray[np.float64]


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
    images: Images | None = None,
) -> Outcome:
    """Scores of novelty of networks that learned digits, on digits, printed characters, fashion and noise.

    Args:
        quick: two networks of every kind on few images: under a minute.
        seed: the first of the networks' seeds, and that of the images.
        progress: show a progress bar.
        data: a folder with ``mnist.npz`` and ``fashion-mnist.npz``.
        setting: sizes.
        images: in the place of those of ``data``.

    Raises:
        MissingError: no data, or a file is not there.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    images = images if images is not None else read(data, setting, seed)
    todo = [(kind, some, seed + s) for s in range(setting.seeds) for kind in ARCHITECTURES for some in (False, True)]
    found = [_one(images, setting, *job) for job in tqdm(todo, disable=not progress, desc="out of distribution")]
    return _outcome(setting, images, found, quick, seed)


def _one(images: Images, setting: Setting, kind: str, some: bool, seed: int) -> dict[str, Any]:
    """One network: its scores of all images, its accuracies, its rank gaps."""
    classes = [c for c in range(CLASSES) if not some or c not in LEFT_OUT]
    rows = balanced(images.pool_labels, classes, len(classes) * setting.per_class, seed)
    x, y = images.pool[rows], images.pool_labels[rows]
    net = train(x, y, kind, setting, seed)
    sets = dict(images.sets)
    labels = dict(images.labels)
    if some:  # what it has not learned is new, and the printed 8 and 9 would be both
        for name in (SEEN, OTHER, PRINTED):
            known = torch.isin(labels[name], torch.tensor(LEFT_OUT), invert=True)
            if name == SEEN:
                sets[UNSEEN] = torch.cat(
                    [sets[SEEN][~known], sets[OTHER][~torch.isin(labels[OTHER], torch.tensor(classes))]]
                )
            sets[name], labels[name] = sets[name][known], labels[name][known]
        sets = {name: sets[name] for name in (SEEN, OTHER, UNSEEN)}
    together = torch.cat(list(sets.values()))
    sizes = [len(s) for s in sets.values()]
    by_score, cosine = scores(net, x, y, together)
    other_gradients = {name: distance(net, x, together, name) for name in ("predicted logit", "sum of logits")}
    outputs = logits(net, together)
    shown = images.sets[SEEN], images.labels[SEEN]  # of all classes, learned or not
    clusters = neighbourhoods(net, kind, *shown, seed) if some else None

    def parted(values: Array) -> dict[str, Array]:
        return dict(zip(sets, np.split(values, np.cumsum(sizes)[:-1]), strict=True))

    right = {name: (part.argmax(1) == labels[name].numpy()) for name, part in parted(outputs).items() if name in labels}
    return {
        "kind": kind,
        "without": some,
        "seed": seed,
        "scores": {name: parted(values) for name, values in by_score.items()},
        "cotangents": {name: parted(values) for name, values in other_gradients.items()},
        "cosine": {name: float(part.mean()) for name, part in parted(cosine).items()},
        "right": right,
        "train accuracy": float((logits(net, x).argmax(1) == y.numpy()).mean()),
        "gaps": gaps(net, x, sets, setting.ranked),
        "clusters": clusters,
        "parameters": sum(p.numel() for p in net.parameters()),
    }


def _outcome(setting: Setting, images: Images, found: list[dict[str, Any]], quick: bool, seed: int) -> Outcome:
    from genkernel.plots.novelty import auroc_dots, gallery
    from genkernel.plots.tangent_embedding import tangent_planes
    from genkernel.spectra import embed

    areas = {kind: areas_of(found, kind, setting, seed) for kind in ARCHITECTURES}
    accuracies = networks(found)
    cotangents = by_cotangent(found, areas)
    ranks = gap_table(found)
    near = neighbour_table(found)
    meta = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"}
    shown = (DISTANCE, *(f"ridge variance, λ = {r:g}" for r in RIDGES), LEVERAGE, COSINE, NORM, *BASELINES)
    first = next(f for f in found if f["kind"] == "CNN" and not f["without"])
    partial = next(f for f in found if f["kind"] == "CNN" and f["without"])["clusters"]
    unseen = next(f for f in found if f["without"])["scores"][DISTANCE][UNSEEN]
    figures = {
        "out-of-distribution": auroc_dots(
            {
                kind: {name: {s: areas[kind][name][s] for s in shown} for name in (OTHER, *FOREIGN)}
                for kind in ARCHITECTURES
            },
            len(shown) - len(BASELINES),
            meta,
            f"95 % over {setting.seeds} networks and {setting.count} images of each set ({len(unseen)} of 8, 9)",
        ),
        "out-of-distribution-gallery": gallery(
            {name: images.sets[name] for name in (SEEN, PRINTED, LETTERS, FASHION)},
            {name: first["scores"][DISTANCE][name] for name in (SEEN, PRINTED, LETTERS, FASHION)},
            "projection distance",
            {"seed": first["seed"], "dtype": "float64"},
            "one CNN",
        ),
        "out-of-distribution-embedding": tangent_planes(
            {state: embed(K, "tsne", seed=seed) for state, K in partial["cosines"].items()},
            partial["labels"],
            [f"{c} (not learned)" if c in LEFT_OUT else str(c) for c in range(CLASSES)],
            {"seed": first["seed"], "dtype": "float64"},
            note=f"one CNN, {len(partial['labels'])} test images, normalised kernel",
            outlined=LEFT_OUT,
        ),
    }
    best = best_scores(areas)
    numbers = {
        "auroc": {
            kind: {
                name: {s: {k: v for k, v in one.items() if k != "drawn"} for s, one in by.items()}
                for name, by in t.items()
            }
            for kind, t in areas.items()
        },
        "networks": accuracies[1],
        "cotangents": cotangents[1],
        "gaps": ranks[1],
        "clusters": near[1],
        "best": best[1],
    }
    return Outcome(
        name="out-of-distribution",
        settings=asdict(setting)
        | {"seed": seed, "quick": quick, "ridges": RIDGES, "tolerances": TOLERANCES, "left out": LEFT_OUT,
           "parameters": {f["kind"]: f["parameters"] for f in found}},
        claims=claims(areas, found, setting, seed),
        tables=[area_table(areas, setting), best[0], accuracies[0], near[0], cotangents[0], ranks[0]],
        figures=figures,
        numbers=numbers,
    )  # fmt: skip
