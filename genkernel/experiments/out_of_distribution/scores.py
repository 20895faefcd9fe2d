"""Everything that is measured of one network on new images: scores of novelty, neighbours, rank gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.out_of_distribution.task import Classifier

Array = NDArray[np.float64]

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
NEAR = 10  # the neighbour whose distance is a score, and neighbours whose labels are compared
STATES = ("pixels", "untrained", "trained")


@torch.no_grad()
def logits(net: nn.Module, images: Tensor) -> Array:
    """Logits ``[m, 10]``."""
    return net(images).double().numpy()


def scores(net: Classifier, x: Tensor, y: Tensor, new: Tensor) -> tuple[dict[str, Array], Array]:
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


def neighbourhoods(net: Classifier, kind: str, x: Tensor, y: Tensor, seed: int) -> dict[str, Any]:
    """Test images of all classes before and after training: the share of every image's neighbours that have its label
    ``[m]``, by state, and the normalised kernels."""
    import genkernel as gk
    from genkernel.spectra import knn_label_agreement

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = Classifier(kind, x.shape[-1]).eval()
    k = min(NEAR, len(x) - 1)
    found: dict[str, Any] = {"labels": y, "cosines": {}}
    for state, module in (("untrained", start), ("trained", net)):
        options: dict[str, Any] = {"dtype": "float64", "by": None, "progress": False, "distributed": False}
        K = gk.kernel(module, x, cotangents=gk.exact_trace(), **options)
        near = knn_label_agreement(K, y, k, points=x)
        assert near.kernel is not None and near.euclidean is not None
        found |= {state: near.kernel.per_sample.numpy(), "pixels": near.euclidean.per_sample.numpy()}
        found["cosines"][state] = K.normalized()
    return found


def cotangents(name: str) -> Any:
    """Which scalar of an image its gradient is taken of: "predicted logit" or "sum of logits"."""
    import genkernel as gk

    if name == "sum of logits":
        return gk.total()
    return gk.cotangent(lambda out, batch: F.one_hot(out.argmax(1), out.shape[1]).to(out.dtype))


def distance(net: nn.Module, x: Tensor, new: Tensor, name: str) -> Array:
    """Projection distance of the gradients of one scalar per image."""
    import genkernel as gk
    from genkernel.spectra import novelty

    options: dict[str, Any] = {"dtype": "float64", "by": None, "progress": False, "distributed": False}
    trained = gk.kernel(net, x, cotangents=cotangents(name), **options)
    cross = gk.kernel(net, new, x, cotangents=cotangents(name), **options)
    return novelty(trained, cross).projection_distance.numpy()


def gaps(net: nn.Module, x: Tensor, sets: dict[str, Tensor], ranked: tuple[int, int]) -> dict[str, list[float]]:
    """Rank gap per new image at every tolerance, of gradients of the predicted logit.

    All features are written in one orthonormal basis of their span first, which leaves every singular value of every
    part of them as it is.
    """
    import genkernel as gk
    from genkernel.spectra import tangent_rank_gap

    n, m = min(ranked[0], len(x)), ranked[1]  # of the training images the first: classes are in turn
    parts = [x[:n], *(s[torch.linspace(0, len(s) - 1, min(m, len(s))).long()] for s in sets.values())]
    phi = gk.tangent_features(net, torch.cat(parts), cotangents=cotangents("predicted logit"))[:, 0]
    rounding = max(phi.shape) * torch.finfo(phi.dtype).eps
    rows = torch.linalg.qr(phi.T, mode="r").R.T
    own, *others = rows.split([len(part) for part in parts])
    return {
        name: [tangent_rank_gap(own, other, t).gap / len(other) for t in (rounding, *TOLERANCES)]
        for name, other in zip(sets, others, strict=True)
    }
