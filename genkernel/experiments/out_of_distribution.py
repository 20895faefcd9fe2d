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
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.errors import InputError, MissingError
from genkernel.experiments.alignment import interval
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict

Array = NDArray[np.float64]

SEEN, OTHER = "test digits", "other test digits"
PRINTED, LETTERS, FASHION, NOISE, UNSEEN = "printed digits", "printed letters", "Fashion-MNIST", "noise", "digits 8, 9"
FOREIGN = (PRINTED, LETTERS, FASHION, NOISE, UNSEEN)
LEFT_OUT = (8, 9)
CLASSES = 10
RIDGES = (1e-4, 1e-2, 1.0)  # of the mean k(x_i, x_i) of the training samples
DISTANCE, SOFTMAX, MAHALANOBIS, PIXELS, LEVERAGE = (
    "projection distance", "max softmax", "Mahalanobis, last hidden layer", "nearest in pixels", "leverage",
)  # fmt: skip
COSINE, NEIGHBOURS, HIDDEN, NORM = (
    "1 - max cosine",
    "10th nearest, cosine",
    "10th nearest, last hidden layer",
    "norm k(x, x)",
)
TANGENT = (
    DISTANCE,
    *(f"ridge variance, λ = {r:g}" for r in RIDGES),
    *(f"the same / k(x, x), λ = {r:g}" for r in RIDGES),
    LEVERAGE, COSINE, NEIGHBOURS, NORM,
)  # fmt: skip
BASELINES = (SOFTMAX, MAHALANOBIS, HIDDEN, PIXELS)
TOLERANCES = (1e-6, 1e-3, 1e-2, 3e-2, 1e-1)  # of rank gaps, beside that of rounding
ARCHITECTURES = ("MLP", "CNN")
TESTED = (DISTANCE, COSINE)  # tangent scores that are held against baselines: the span's, and the papers' similarity
NEAR = 10  # the neighbour whose distance is a score, and neighbours whose labels are compared
STATES = ("pixels", "untrained", "trained")
SEES = 0.5  # the AUROC of chance
MATTERS = 0.02  # a difference of AUROCs that is surely below it is none


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        per_class: training images of every class; all of them are in the kernel.
        count: images of every set.
        seeds: networks of every kind; the seed decides weights, training images and batches.
        steps, batch, lr: of Adam.
        ranked: training images of the rank gap, and new ones of every set.
        resamples: of the bootstrap over networks and images.
    """

    per_class: int = 200
    count: int = 300
    seeds: int = 5
    steps: int = 800
    batch: int = 64
    lr: float = 1e-3
    ranked: tuple[int, int] = (200, 30)
    resamples: int = 500


QUICK = Setting(per_class=20, count=60, seeds=2, steps=250, ranked=(60, 15), resamples=200)


class Classifier(nn.Module):
    """Images ``[n, 1, s, s]`` in [0, 1] to ten logits; two hidden layers or two convolutions, GELU."""

    def __init__(self, kind: str, size: int = 28) -> None:
        super().__init__()
        if kind == "MLP":
            body = [nn.Flatten(), nn.Linear(size * size, 100), nn.GELU(), nn.Linear(100, 50), nn.GELU()]
        elif kind == "CNN":
            side = (size + 3) // 4
            body = [
                nn.Conv2d(1, 8, 5, 2, 2), nn.GELU(), nn.Conv2d(8, 16, 5, 2, 2), nn.GELU(), nn.Flatten(),
                nn.Linear(16 * side * side, 50), nn.GELU(),
            ]  # fmt: skip
        else:
            raise InputError(f"networks are {' or '.join(ARCHITECTURES)}, not {kind!r}")
        self.body = nn.Sequential(*body)
        self.last = nn.Linear(50, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images))


@dataclass
class Images:
    """Training images to draw from, and sets to score.

    Attributes:
        pool, pool_labels: ``[N, 1, s, s]`` in [0, 1], and classes.
        sets: name → images ``[m, 1, s, s]``; test digits of all classes are among them.
        labels: name → classes, of sets that have them.
    """

    pool: Tensor
    pool_labels: Tensor
    sets: dict[str, Tensor]
    labels: dict[str, Tensor]


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
    from tqdm.auto import tqdm

    setting = setting or (QUICK if quick else Setting())
    images = images if images is not None else read(data, setting, seed)
    todo = [(kind, some, seed + s) for s in range(setting.seeds) for kind in ARCHITECTURES for some in (False, True)]
    found = [_one(images, setting, *job) for job in tqdm(todo, disable=not progress, desc="out of distribution")]
    return _outcome(setting, images, found, quick, seed)


# -------------------------------------------------------------------------------------- images


def read(data: str | Path | None, setting: Setting, seed: int) -> Images:
    """Images of all sets.

    Raises:
        MissingError: as for :func:`run`.
    """
    from genkernel.data import load_images, printed_characters
    from genkernel.data.printed import LETTERS as ALPHABET

    names = ("mnist.npz", "fashion-mnist.npz")
    if data is None:
        raise MissingError(f"this experiment is of real images: give data=, a folder with {' and '.join(names)}")
    missing = [name for name in names if not (Path(data) / name).is_file()]
    if missing:
        raise MissingError(f"{data} holds no {missing[0]}: it has to be a folder with {' and '.join(names)}")
    digits, fashion = (Path(data) / name for name in names)
    count = setting.count
    pool = load_images(digits, split="train", limit=20 * CLASSES * setting.per_class, seed=seed)
    test = load_images(digits, split="test", limit=8 * count, seed=seed)
    assert pool.labels is not None and test.labels is not None
    seen, other = _balanced(test.labels, range(CLASSES), 2 * count, seed).reshape(2, count)
    size = pool.images.shape[-1]
    numbers = printed_characters(count=-(-count // CLASSES), size=size, seed=seed)
    letters = printed_characters(ALPHABET, count=-(-count // len(ALPHABET)), size=size, seed=seed + 1)
    assert numbers.labels is not None
    draw = torch.Generator().manual_seed(seed)
    sets = {
        SEEN: test.images[seen],
        OTHER: test.images[other],
        PRINTED: numbers.images[:count],
        LETTERS: letters.images[torch.randperm(len(letters), generator=draw)[:count]],
        FASHION: load_images(fashion, split="test", limit=count, seed=seed, size=size).images,
        NOISE: noise(count, size, seed),
    }
    labels = {SEEN: test.labels[seen].long(), OTHER: test.labels[other].long(), PRINTED: numbers.labels[:count]}
    return Images(pool.images, pool.labels.long(), sets, labels)


def noise(count: int, size: int, seed: int) -> Tensor:
    """Independent uniform pixels, a random share of which is black, as most pixels of digits are."""
    draw = torch.Generator().manual_seed(seed)
    shape = (count, 1, size, size)
    lit = torch.rand(shape, generator=draw) < torch.rand(count, 1, 1, 1, generator=draw)
    return torch.rand(shape, generator=draw) * lit


def _balanced(labels: Tensor, classes: Sequence[int] | range, count: int, seed: int) -> Tensor:
    """Rows of a random subset with the classes in turn ``[count]``.

    Raises:
        InputError: a class has too few.
    """
    draw = torch.Generator().manual_seed(seed)
    each = -(-count // len(classes))
    rows = []
    for c in classes:
        own = (labels == c).nonzero()[:, 0]
        if len(own) < each:
            raise InputError(f"{each} images of the class {c} are needed, and there are {len(own)}")
        rows.append(own[torch.randperm(len(own), generator=draw)[:each]])
    return torch.stack(rows, 1).flatten()[:count]


# --------------------------------------------------------------------------------- one network


def train(images: Tensor, labels: Tensor, kind: str, setting: Setting, seed: int) -> Classifier:
    """A network after Adam with a cosine schedule, from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(kind, images.shape[-1])
    optimizer = torch.optim.Adam(net.parameters(), lr=setting.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(setting.steps):
        batch = torch.randint(len(images), (setting.batch,), generator=draw)
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _one(images: Images, setting: Setting, kind: str, some: bool, seed: int) -> dict[str, Any]:
    """One network: its scores of all images, its accuracies, its rank gaps."""
    classes = [c for c in range(CLASSES) if not some or c not in LEFT_OUT]
    rows = _balanced(images.pool_labels, classes, len(classes) * setting.per_class, seed)
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
    scores, cosine = _scores(net, x, y, together)
    by_cotangent = {name: _distance(net, x, together, name) for name in ("predicted logit", "sum of logits")}
    logits = _logits(net, together)
    shown = images.sets[SEEN], images.labels[SEEN]  # of all classes, learned or not
    clusters = _clusters(net, kind, *shown, seed) if some else None

    def parted(values: Array) -> dict[str, Array]:
        return dict(zip(sets, np.split(values, np.cumsum(sizes)[:-1]), strict=True))

    right = {name: (part.argmax(1) == labels[name].numpy()) for name, part in parted(logits).items() if name in labels}
    return {
        "kind": kind,
        "without": some,
        "seed": seed,
        "scores": {name: parted(values) for name, values in scores.items()},
        "cotangents": {name: parted(values) for name, values in by_cotangent.items()},
        "cosine": {name: float(part.mean()) for name, part in parted(cosine).items()},
        "right": right,
        "train accuracy": float((_logits(net, x).argmax(1) == y.numpy()).mean()),
        "gaps": _gaps(net, x, sets, setting.ranked),
        "clusters": clusters,
        "parameters": sum(p.numel() for p in net.parameters()),
    }


@torch.no_grad()
def _logits(net: nn.Module, images: Tensor) -> Array:
    return net(images).double().numpy()


def _scores(net: Classifier, x: Tensor, y: Tensor, new: Tensor) -> tuple[dict[str, Array], Array]:
    """Every score ``[m]``, higher for what is newer, and the largest cosine to a training image."""
    import genkernel as gk
    from genkernel.spectra import novelty
    from genkernel.tangent.result import cosines

    options: dict[str, Any] = {
        "cotangents": gk.exact_trace(), "dtype": "float64", "by": None, "progress": False, "distributed": False,
    }  # fmt: skip
    trained = gk.kernel(net, x, **options)
    cross = gk.kernel(net, new, x, **options)
    unit = float(trained.norms_x.mean())
    found: dict[str, Array] = {}
    plain = novelty(trained, cross)
    found[DISTANCE] = plain.projection_distance.numpy()
    own = cross.norms_x.numpy()
    ridged = {r: novelty(trained, cross, ridge=r * unit).variance.numpy() for r in RIDGES}
    found |= {f"ridge variance, λ = {r:g}": values for r, values in ridged.items()}
    found |= {f"the same / k(x, x), λ = {r:g}": values / own for r, values in ridged.items()}
    found[LEVERAGE] = plain.leverage.numpy()
    near = cosines(cross.values, cross.norms_x, cross.norms_y).numpy()
    k = min(NEAR, near.shape[1])
    found[COSINE] = 1 - near.max(1)
    found[NEIGHBOURS] = 1 - np.sort(near, 1)[:, -k]
    found[NORM] = own
    return found | _baselines(net, x, y, new), near.max(1)


def _baselines(net: Classifier, x: Tensor, y: Tensor, new: Tensor) -> dict[str, Array]:
    """Maximum softmax (Hendrycks & Gimpel, 2017), Mahalanobis distance (Lee et al., 2018) with shrunk covariance,
    distance to the 10th nearest normalised feature (Sun et al., 2022), distance to the nearest image."""
    from sklearn.covariance import LedoitWolf

    with torch.no_grad():
        hidden, fresh = net.body(x).double(), net.body(new).double()
        surest = F.log_softmax(net.last(net.body(new)).double(), 1).max(1).values
    classes = y.unique()
    means = torch.stack([hidden[y == c].mean(0) for c in classes])
    within = hidden - means[torch.searchsorted(classes, y)]
    precision = torch.from_numpy(LedoitWolf(assume_centered=True).fit(within.numpy()).precision_)
    gap = fresh[:, None] - means[None]
    mahalanobis = torch.einsum("ncd,de,nce->nc", gap, precision, gap).min(1).values
    k = min(NEAR, len(hidden))
    nearest = torch.cdist(F.normalize(fresh, dim=1), F.normalize(hidden, dim=1)).kthvalue(k, dim=1).values
    pixels = torch.cdist(new.flatten(1).double(), x.flatten(1).double()).min(1).values
    return {
        SOFTMAX: -surest.numpy(),
        MAHALANOBIS: mahalanobis.numpy(),
        HIDDEN: nearest.numpy(),
        PIXELS: pixels.numpy(),
    }


def _clusters(net: Classifier, kind: str, x: Tensor, y: Tensor, seed: int) -> dict[str, Any]:
    """Neighbours of test images of all classes by label, before and after training, and their normalised kernels."""
    import genkernel as gk
    from genkernel.spectra import knn_label_agreement

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = Classifier(kind, x.shape[-1]).eval()
    new = torch.isin(y, torch.tensor(LEFT_OUT))
    k = min(NEAR, len(x) - 1)
    found: dict[str, Any] = {"labels": y, "cosines": {}}
    for state, module in (("untrained", start), ("trained", net)):
        options: dict[str, Any] = {"dtype": "float64", "by": None, "progress": False, "distributed": False}
        K = gk.kernel(module, x, cotangents=gk.exact_trace(), **options)
        near = knn_label_agreement(K, y, k, points=x)
        assert near.kernel is not None and near.euclidean is not None
        each = {state: near.kernel.per_sample, "pixels": near.euclidean.per_sample}
        found |= {name: [float(v[~new].mean()), float(v[new].mean())] for name, v in each.items()}
        found["cosines"][state] = K.normalized()
    return found


def _cotangents(name: str) -> Any:
    import genkernel as gk

    if name == "sum of logits":
        return gk.total()
    return gk.cotangent(lambda out, batch: F.one_hot(out.argmax(1), out.shape[1]).to(out.dtype))


def _distance(net: nn.Module, x: Tensor, new: Tensor, name: str) -> Array:
    """Projection distance of the gradients of one scalar per image."""
    import genkernel as gk
    from genkernel.spectra import novelty

    options: dict[str, Any] = {"dtype": "float64", "by": None, "progress": False, "distributed": False}
    trained = gk.kernel(net, x, cotangents=_cotangents(name), **options)
    cross = gk.kernel(net, new, x, cotangents=_cotangents(name), **options)
    return novelty(trained, cross).projection_distance.numpy()


def _gaps(net: nn.Module, x: Tensor, sets: dict[str, Tensor], ranked: tuple[int, int]) -> dict[str, list[float]]:
    """Rank gap per new image at every tolerance, of gradients of the predicted logit.

    All features are written in one orthonormal basis of their span first, which leaves every singular value of every
    part of them as it is.
    """
    import genkernel as gk
    from genkernel.spectra import tangent_rank_gap

    n, m = min(ranked[0], len(x)), ranked[1]  # of the training images the first: classes are in turn
    parts = [x[:n], *(s[torch.linspace(0, len(s) - 1, min(m, len(s))).long()] for s in sets.values())]
    phi = gk.tangent_features(net, torch.cat(parts), cotangents=_cotangents("predicted logit"))[:, 0]
    rounding = max(phi.shape) * torch.finfo(phi.dtype).eps
    rows = torch.linalg.qr(phi.T, mode="r").R.T
    own, *others = rows.split([len(part) for part in parts])
    return {
        name: [tangent_rank_gap(own, other, t).gap / len(other) for t in (rounding, *TOLERANCES)]
        for name, other in zip(sets, others, strict=True)
    }


# ----------------------------------------------------------------------------------- bootstrap


def ranked_pairs(known: Array, new: Array) -> Array:
    """1 where the new image scores higher, 1/2 in a tie ``[known, new]``: its mean is the AUROC.

    Raises:
        InputError: NaN or infinite scores.
    """
    if not (np.isfinite(known).all() and np.isfinite(new).all()):
        raise InputError("scores have NaN or infinite entries: there is no AUROC of them")
    return (new[None, :] > known[:, None]) + 0.5 * (new[None, :] == known[:, None])


def resampled(pairs: NDArray[np.floating[Any]], resamples: int, seed: int) -> Array:
    """Mean AUROC over networks in every bootstrap resample of networks, known and new images ``[resamples, ...]``.

    Args:
        pairs: ``[networks, ..., known, new]``. The same draws for all of ``...``, so that differences are paired; and
            the same images for all networks.
    """
    draw = np.random.default_rng(seed)
    networks, known, new = pairs.shape[0], *pairs.shape[-2:]
    found = []
    for _ in range(resamples):
        a = (np.bincount(draw.integers(known, size=known), minlength=known) / known).astype(pairs.dtype)
        b = (np.bincount(draw.integers(new, size=new), minlength=new) / new).astype(pairs.dtype)
        w = np.bincount(draw.integers(networks, size=networks), minlength=networks) / networks
        found.append(np.tensordot(w, (pairs @ b) @ a, 1))
    return np.array(found)


def _table_of(found: list[dict[str, Any]], kind: str, setting: Setting, seed: int) -> dict[str, Any]:
    """Of one architecture: set → score → mean AUROC with interval, each network's, and all resamples."""
    result: dict[str, Any] = {}
    for name in (OTHER, *FOREIGN):
        mine = [f for f in found if f["kind"] == kind and f["without"] == (name == UNSEEN)]
        scores = [*mine[0]["scores"]]
        pairs = np.stack([
            np.stack([ranked_pairs(f["scores"][s][SEEN], f["scores"][s][name]) for s in scores]) for f in mine
        ]).astype(np.float32)  # fmt: skip
        each = pairs.mean((-2, -1), dtype=np.float64)
        drawn = resampled(pairs, setting.resamples, seed)
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        result[name] = {
            s: {"mean": float(each[:, i].mean()), "low": float(low[i]), "high": float(high[i]),
                "sd over networks": float(each[:, i].std(ddof=1)) if len(each) > 1 else math.nan,
                "each": each[:, i].tolist(), "drawn": drawn[:, i]}
            for i, s in enumerate(scores)
        }  # fmt: skip
    return result


# ------------------------------------------------------------------------------------- results


def _outcome(setting: Setting, images: Images, found: list[dict[str, Any]], quick: bool, seed: int) -> Outcome:
    from genkernel.plots.novelty import auroc_dots, gallery
    from genkernel.plots.tangent_embedding import tangent_planes
    from genkernel.spectra import embed

    areas = {kind: _table_of(found, kind, setting, seed) for kind in ARCHITECTURES}
    sets = (OTHER, *FOREIGN)
    table = Table(
        f"AUROC against test digits: mean over {setting.seeds} networks, 95 % by the bootstrap over networks and images"
        f" (± standard deviation over networks); {OTHER} have to be at .5; {UNSEEN}: of networks that learned 0 to 7",
        ("network", "score", *sets),
        [
            (kind, score, *(_said(areas[kind][name][score]) for name in sets))
            for kind in ARCHITECTURES
            for score in (*TANGENT, *BASELINES)
        ],
    )
    networks = _networks(found)
    cotangents = _by_cotangent(found, areas)
    gaps = _gap_table(found)
    clusters = _cluster_table(found)
    meta = {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float64"}
    shown = (DISTANCE, *(f"ridge variance, λ = {r:g}" for r in RIDGES), LEVERAGE, COSINE, NORM, *BASELINES)
    first = next(f for f in found if f["kind"] == "CNN" and not f["without"])
    partial = next(f for f in found if f["kind"] == "CNN" and f["without"])["clusters"]
    figures = {
        "out-of-distribution": auroc_dots(
            {kind: {name: {s: areas[kind][name][s] for s in shown} for name in sets} for kind in ARCHITECTURES},
            len(shown) - len(BASELINES),
            meta,
            f"95 % over {setting.seeds} networks and {setting.count} images of each set",
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
            note="one CNN, test images, normalised kernel",
        ),
    }
    best = _best(areas)
    numbers = {
        "auroc": {
            kind: {
                name: {s: {k: v for k, v in one.items() if k != "drawn"} for s, one in by.items()}
                for name, by in t.items()
            }
            for kind, t in areas.items()
        },
        "networks": networks[1],
        "cotangents": cotangents[1],
        "gaps": gaps[1],
        "clusters": clusters[1],
        "best": best[1],
    }
    return Outcome(
        name="out-of-distribution",
        settings=asdict(setting)
        | {"seed": seed, "quick": quick, "ridges": RIDGES, "tolerances": TOLERANCES, "left out": LEFT_OUT,
           "parameters": {f["kind"]: f["parameters"] for f in found}},
        claims=_claims(areas, found, setting, seed),
        tables=[table, best[0], networks[0], clusters[0], cotangents[0], gaps[0]],
        figures=figures,
        numbers=numbers,
    )  # fmt: skip


def _said(one: dict[str, Any]) -> str:
    return f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}] ± {one['sd over networks']:.3f}"


def _best(areas: dict[str, Any]) -> tuple[Table, dict[str, Any]]:
    """Winners and losers. The best is chosen by the same numbers, and so looks better than it is."""
    rows, numbers = [], {}
    for kind, table in areas.items():
        for name in FOREIGN:
            by = {score: one["mean"] for score, one in table[name].items()}
            tangent = max(TANGENT, key=by.__getitem__)
            baseline = max(BASELINES, key=by.__getitem__)
            worst = min(by, key=by.__getitem__)
            rows.append((
                kind, name, f"{tangent} ({by[tangent]:.3f})", f"{baseline} ({by[baseline]:.3f})",
                f"{worst} ({by[worst]:.3f})",
            ))  # fmt: skip
            numbers[f"{kind}, {name}"] = {"tangent": tangent, "baseline": baseline, "worst": worst}
    title = "Winners and losers, by the mean AUROC (chosen after the fact)"
    return Table(title, ("network", "set", "best tangent score", "best baseline", "worst of all"), rows), numbers


def _networks(found: list[dict[str, Any]]) -> tuple[Table, dict[str, Any]]:
    rows, numbers = [], {}
    for kind in ARCHITECTURES:
        for some in (False, True):
            mine = [f for f in found if f["kind"] == kind and f["without"] == some]
            train = [f["train accuracy"] for f in mine]
            shares = {name: [float(f["right"][name].mean()) for f in mine] for name in mine[0]["right"]}
            cosine = {name: [f["cosine"][name] for f in mine] for name in mine[0]["cosine"]}
            title = f"{kind}{' without 8, 9' if some else ''}"
            numbers[title] = {"train accuracy": train, "accuracy": shares, "max cosine": cosine}

            def pair(values: list[float] | None) -> str | None:
                if values is None:
                    return None
                return f"{np.mean(values):.3f} ± {_sd(np.array(values)):.3f}"

            rows.append((
                title, mine[0]["parameters"], pair(train), pair(shares[SEEN]),
                pair(shares.get(PRINTED)), *(pair(cosine.get(name)) for name in (SEEN, *FOREIGN)),
            ))  # fmt: skip
    columns = ("network", "parameters", "train", SEEN, PRINTED, *(f"cosine, {name}" for name in (SEEN, *FOREIGN)))
    title = "Accuracies, and the mean of the largest cosine to a training image (± standard deviation over networks)"
    return Table(title, columns, rows), numbers


def _by_cotangent(found: list[dict[str, Any]], areas: dict[str, Any]) -> tuple[Table, dict[str, Any]]:
    rows: list[tuple[Any, ...]] = []
    numbers: dict[str, Any] = {}
    for kind in ARCHITECTURES:
        rows.append((kind, "trace", *(areas[kind][name][DISTANCE]["mean"] for name in FOREIGN)))
        for which in found[0]["cotangents"]:
            means = []
            for name in FOREIGN:
                mine = [f for f in found if f["kind"] == kind and f["without"] == (name == UNSEEN)]
                each = [f["cotangents"][which] for f in mine]
                means.append(float(np.mean([ranked_pairs(one[SEEN], one[name]).mean() for one in each])))
            rows.append((kind, which, *means))
            numbers[f"{kind}, {which}"] = dict(zip(FOREIGN, means, strict=True))
    return Table("AUROC of the projection distance by cotangent", ("network", "cotangent", *FOREIGN), rows), numbers


def _gap_table(found: list[dict[str, Any]]) -> tuple[Table, dict[str, Any]]:
    rows, numbers = [], {}
    for kind in ARCHITECTURES:
        for name in (SEEN, *FOREIGN):
            mine = [f for f in found if f["kind"] == kind and f["without"] == (name == UNSEEN)]
            values = np.array([f["gaps"][name] for f in mine])
            numbers[f"{kind}, {name}"] = values.tolist()
            rows.append((kind, name, *(float(v) for v in values.mean(0))))
    title = "Rank gap per new image (gradients of the predicted logit), by relative tolerance"
    return Table(title, ("network", "set", "rounding", *(f"{t:g}" for t in TOLERANCES)), rows), numbers


def _cluster_table(found: list[dict[str, Any]]) -> tuple[Table, dict[str, Any]]:
    rows, numbers = [], {}
    for kind in ARCHITECTURES:
        mine = [f["clusters"] for f in found if f["kind"] == kind and f["without"]]
        for state in STATES:
            values = np.array([one[state] for one in mine])
            numbers[f"{kind}, {state}"] = values.tolist()
            rows.append(
                (kind, state, *(f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), _sd(values), strict=True)))
            )
    title = f"Share of the {NEAR} nearest test images of the same class, networks that learned 0 to 7 (± over networks)"
    return Table(title, ("network", "neighbours by", "digits 0 to 7", UNSEEN), rows), numbers


def _sd(values: Array) -> Array:
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], math.nan)


def _cluster_claims(found: list[dict[str, Any]]) -> list[Claim]:
    """What training does to the neighbourhoods of classes that it has seen, and of those that it has not."""
    by = {
        kind: {s: np.array([f["clusters"][s] for f in found if f["kind"] == kind and f["without"]]) for s in STATES}
        for kind in ARCHITECTURES
    }
    gain = {kind: each["trained"] - each["untrained"] for kind, each in by.items()}
    behind = {kind: gain[kind][:, 0] - gain[kind][:, 1] for kind in by}

    def said(values: dict[str, Array]) -> str:
        parts = ((kind, *interval(each)) for kind, each in values.items())
        return ", ".join(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] ({kind})" for kind, mean, low, high in parts)

    return [
        Claim(
            "training sharpens the classes that it sees in tangent space: more of the nearest share the label (Guo, He "
            "& Morel, §5.3, figure 4)",
            "trained minus untrained " + said({kind: each[:, 0] for kind, each in gain.items()}),
            above(*(interval(each[:, 0])[1:] for each in gain.values())),
        ),
        Claim(
            f"and less so those that it does not see: {UNSEEN} gain less",
            f"gain of {UNSEEN} "
            + said({kind: each[:, 1] for kind, each in gain.items()})
            + "; others gain more by "
            + said(behind),
            above(*(interval(each)[1:] for each in behind.values())),
        ),
    ]


def _claims(areas: dict[str, Any], found: list[dict[str, Any]], setting: Setting, seed: int) -> list[Claim]:
    def area(name: str, score: str) -> list[tuple[float, float]]:
        return [(areas[k][name][score]["low"] - SEES, areas[k][name][score]["high"] - SEES) for k in ARCHITECTURES]

    def said(name: str, score: str) -> str:
        return ", ".join(f"{areas[k][name][score]['mean']:.3f} ({k})" for k in ARCHITECTURES)

    def differences(name: str, one: str, other: str) -> list[tuple[float, float]]:
        drawn = [areas[k][name][one]["drawn"] - areas[k][name][other]["drawn"] for k in ARCHITECTURES]
        return [(float(low), float(high)) for low, high in (np.percentile(d, [2.5, 97.5]) for d in drawn)]

    def beats(score: str, other: str) -> tuple[str, list[tuple[float, float]]]:
        words, ends = [], []
        for name in FOREIGN:
            found = differences(name, score, other)
            ends += found
            words.append(f"{name} " + ", ".join(f"[{low:+.3f}, {high:+.3f}]" for low, high in found))
        return "; ".join(words), ends

    claims = [
        Claim(
            f"projection distances of {name} are larger than those of test digits (AUROC above .5)",
            said(name, DISTANCE) + f"; {OTHER} {said(OTHER, DISTANCE)}",
            above(*area(name, DISTANCE)),
        )
        for name in FOREIGN
    ]
    for score, other in product(TESTED, (SOFTMAX, MAHALANOBIS, PIXELS)):
        words, ends = beats(score, other)
        claims.append(
            Claim(
                f"{score} tells them better than {other}, on the same networks and images",
                f"difference of AUROCs, MLP and CNN: {words}",
                above(*ends),
            )
        )
    blind = [end for name in FOREIGN for end in differences(name, DISTANCE, LEVERAGE)]
    claims += [
        Claim(
            "leverage is no score of novelty: it sees less than the projection distance (THEORY §5)",
            "leverage " + "; ".join(f"{name} {said(name, LEVERAGE)}" for name in FOREIGN),
            above(*blind),
        ),
        _gap_claim(found),
        _accuracy_claim(found),
        *_cluster_claims(found),
    ]
    return claims


def above(*intervals: tuple[float, float]) -> str:
    """Whether differences are above zero: yes where the whole interval is, no where it is below :data:`MATTERS`.

    Some of both are "partly", also where others are open; "undecided" where nothing is sure but what is open.
    """
    parts = [True if low > 0 else False if high < MATTERS else None for low, high in intervals]
    sure = [part for part in parts if part is not None]
    return "partly" if len(set(sure)) == 2 else verdict(parts)


def _gap_claim(found: list[dict[str, Any]]) -> Claim:
    """At the tolerance of rounding, whether foreign images raise the rank more than test digits do."""
    excess, words = [], []
    for name in FOREIGN:
        mine = [f for f in found if f["without"] == (name == UNSEEN)]
        seen, new = (np.array([f["gaps"][which] for f in mine]) for which in (SEEN, name))
        excess.append(float((new - seen)[:, 0].mean()))
        i = TOLERANCES.index(1e-2) + 1
        words.append(f"{name} {new[:, 0].mean():.2f} (at 0.01: {new[:, i].mean():.2f})")
        before = f"{seen[:, 0].mean():.2f} (at 0.01: {seen[:, i].mean():.2f})"
    return Claim(
        "the rank gap tells foreign images from test digits (Guo, He & Morel, §5.4), at the tolerance of rounding",
        f"gap per new image: test digits {before}; " + "; ".join(words),
        "yes" if min(excess) > 0.05 else "no" if max(excess) < 0.05 else "partly",
    )


def _accuracy_claim(found: list[dict[str, Any]]) -> Claim:
    """Whether printed digits near the training images in tangent space are the ones that are recognised."""
    words, ends = [], []
    for kind in ARCHITECTURES:
        mine = [f for f in found if f["kind"] == kind and not f["without"]]
        by_score = {}
        for score in (COSINE, SOFTMAX):
            pairs = [(f["scores"][score][PRINTED], f["right"][PRINTED]) for f in mine]
            by_score[score] = [
                float(ranked_pairs(values[right], values[~right]).mean())
                for values, right in pairs
                if 0 < right.mean() < 1
            ]
        each = np.array(by_score[COSINE])
        if len(each) < 2:
            ends.append((math.nan, math.nan))
            words.append(f"{kind}: too few networks with errors")
            continue
        mean, low, high = interval(each)
        ends.append((low - SEES, high - SEES))
        words.append(f"{kind} {mean:.3f} [{low:.3f}, {high:.3f}], max softmax {np.mean(by_score[SOFTMAX]):.3f}")
    return Claim(
        "printed digits of higher tangent similarity to training images are recognised more often (Guo, He & Morel, "
        "§5.3): the AUROC of 1 - max cosine for errors is above .5",
        "; ".join(words),
        above(*ends),
    )
