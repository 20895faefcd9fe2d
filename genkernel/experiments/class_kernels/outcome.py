"""Tables and claims of the study of class blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genkernel.experiments.class_kernels.found import Case
from genkernel.experiments.class_kernels.task import Setting
from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.replicates import above, around, is_within, pair

KERNELS = ("sum of logits", "trace")
OWN = "logit of the label"
BARE = ", without last layer"
TRAINING, HELD = "training images", "held-out images"
BEFORE, AFTER, PERMUTED = "untrained", "trained", "permuted labels"
HIGH, NEAR_ZERO = 0.9, 0.1  # mean cosines that are high, and those that are near zero

Cases = Mapping[str, Sequence["Case"]]


def report(outcome: Outcome, found: Cases, names: Mapping[str, tuple[str, ...]], setting: Setting, seed: int) -> None:
    """Add tables, claims, figures and numbers.

    Args:
        found: set of images → one case per seed; empty without data.
        names: set → its classes.
    """
    outcome.claims += claims(found)
    if not found:
        return
    outcome.tables += [_networks(found), *(_blocks(name, cases) for name, cases in found.items())]
    outcome.numbers = {
        name: {
            " / ".join(key): {
                what: [getattr(case.structures[key], what) for case in cases]
                for what in ("within", "between", "errors", "cka")
            }
            for key in cases[0].structures
        }
        | {
            what: [getattr(case, what) for case in cases]
            for what in ("loss", "accuracy", "held_accuracy", "permuted_loss", "permuted_accuracy")
        }
        for name, cases in found.items()
    }
    from genkernel.plots.class_kernels import block_means, class_matrices

    shown = {"untrained": (BEFORE, TRAINING), "trained": (AFTER, TRAINING), "trained, held out": (AFTER, HELD),
             "permuted labels": (PERMUTED, TRAINING)}  # fmt: skip
    meta = {"seed": seed, "dtype": "float32"}
    for kernel, file in zip(KERNELS, ("class-kernels-sum", "class-kernels"), strict=True):
        outcome.figures[file] = class_matrices(
            {
                name: {title: cases[0].structures[*key, kernel].cosines for title, key in shown.items()}
                for name, cases in found.items()
            },
            names,
            setting.shown,
            meta | {"model": f"kernel of the {kernel}"},
        )
    outcome.figures["class-kernels-means"] = block_means(
        {
            name: {
                kernel: {
                    " · ".join(key[:2]): {
                        what: np.array([getattr(case.structures[*key[:2], kernel], what) for case in cases])
                        for what in ("within", "between", "cka")
                    }
                    for key in cases[0].structures
                    if key[2] == kernel
                }
                for kernel in (*KERNELS, *(f"{kernel}{BARE}" for kernel in KERNELS), OWN)
            }
            for name, cases in found.items()
        },
        {"seed": f"{seed} to {seed + setting.seeds - 1}", "dtype": "float32"},
    )


def _networks(found: Cases) -> Table:
    fields = ("loss", "accuracy", "held_accuracy", "permuted_loss", "permuted_accuracy")
    return Table(
        "The networks; means ± standard errors over seeds",
        ("images", "loss", "accuracy", "accuracy held out", "loss, permuted labels", "accuracy, permuted labels"),
        [(name, *(pair([getattr(case, what) for case in cases]) for what in fields)) for name, cases in found.items()],
    )


def _blocks(name: str, cases: Sequence[Case]) -> Table:
    """Every kernel of a set; the jackknife is over the images of one network, in the mean over networks."""
    rows: list[tuple[Any, ...]] = []
    for key in cases[0].structures:
        each = [case.structures[key] for case in cases]
        errors = np.mean([one.errors for one in each], 0)
        rows.append(
            (*key, *(pair([getattr(one, what) for one in each]) for what in ("within", "between", "contrast", "cka")),
             f"{errors[0]:.3f}, {errors[1]:.3f}")
        )  # fmt: skip
    return Table(
        f"{name}: mean cosines of two images of one class and of two; means ± standard errors over seeds",
        ("network", "images", "kernel", "within", "between", "within − between", "CKA", "jackknife over images"),
        rows,
    )


def claims(found: Cases) -> list[Claim]:
    """What blocks say: differences of the same start and images, 95 % intervals over seeds."""
    texts = (
        "at initialisation similarities are mixed between classes (Guo, He, Morel, section 5.1: the mean cosine of two "
        "classes is closer to that within one than to zero)",
        "after training there is a block-diagonal structure (same section: within − between rises)",
        f"within-class similarities sharpen toward high values (same section: they rise, and to {HIGH} or more)",
        f"cross-class similarities are suppressed toward near zero (same section: to between −{NEAR_ZERO} and "
        f"{NEAR_ZERO})",
        "training aligns the kernel with the labels (the unbiased CKA rises)",
        "the structure is there on images that the network never saw (within − between, and CKA, rise on held-out "
        "images; ours)",
        "it is not the last layer alone (without it within − between rises on held-out images; ours)",
        "it takes classes that mean something: permuted labels give smaller blocks (within − between of the labels "
        "that were learned, training images; ours)",
        "the gradient of the label's own logit shows blocks before any training (within − between of the untrained "
        "network is above that of the trace kernel; ours)",
    )
    if not found:
        missing = "not measured: data= names a folder with mnist.npz and emoji32.npz"
        return [Claim(text, missing, "undecided") for text in texts]

    def values(name: str, network: str, side: str, kernel: str, what: str) -> np.ndarray:
        return np.array([getattr(case.structures[network, side, kernel], what) for case in found[name]])

    def rise(name: str, kernel: str, what: str, side: str = TRAINING) -> np.ndarray:
        return values(name, AFTER, side, kernel, what) - values(name, BEFORE, side, kernel, what)

    both = [(name, kernel) for name in found for kernel in KERNELS]

    def said(of: Callable[[str, str], Any]) -> str:
        return "; ".join(f"{name}, {kernel}: {of(name, kernel)}" for name, kernel in both)

    def move(what: str, side: str = TRAINING, bare: str = "") -> Callable[[str, str], str]:
        return lambda name, kernel: (
            f"{pair(values(name, BEFORE, side, kernel + bare, what))} → "
            f"{pair(values(name, AFTER, side, kernel + bare, what))}"
        )

    def intervals(of: Callable[[str, str], Any]) -> list[tuple[float, float]]:
        return [around(of(name, kernel)) for name, kernel in both]

    def mixed(name: str, kernel: str) -> np.ndarray:
        between, within = (values(name, BEFORE, TRAINING, kernel, what) for what in ("between", "within"))
        return between - within / 2

    def meaning(name: str, kernel: str) -> np.ndarray:
        permuted = values(name, PERMUTED, TRAINING, kernel, "contrast")
        return values(name, AFTER, TRAINING, kernel, "contrast") - permuted

    own = {name: values(name, BEFORE, TRAINING, OWN, "contrast") for name in found}
    plain = {name: values(name, BEFORE, TRAINING, KERNELS[1], "contrast") for name in found}
    measured = (
        said(lambda name, kernel: f"within {pair(values(name, BEFORE, TRAINING, kernel, 'within'))}, between "
             f"{pair(values(name, BEFORE, TRAINING, kernel, 'between'))}"),
        said(move("contrast")),
        said(move("within")),
        said(move("between")),
        said(move("cka")),
        "within − between " + said(move("contrast", HELD)) + "; CKA " + said(move("cka", HELD)),
        said(move("contrast", HELD, BARE)),
        "permuted labels " + said(lambda name, kernel: pair(values(name, PERMUTED, TRAINING, kernel, "contrast")))
        + "; true ones more by " + said(lambda name, kernel: pair(meaning(name, kernel))),
        "; ".join(f"{name}: {pair(own[name])}, trace {pair(plain[name])}" for name in found),
    )  # fmt: skip
    high = [around(values(name, AFTER, TRAINING, kernel, "within") - HIGH) for name, kernel in both]
    zero = [around(values(name, AFTER, TRAINING, kernel, "between")) for name, kernel in both]
    holds = (
        above(*intervals(mixed)),
        above(*intervals(lambda name, kernel: rise(name, kernel, "contrast"))),
        above(*intervals(lambda name, kernel: rise(name, kernel, "within")), *high),
        verdict(is_within(ends, NEAR_ZERO) for ends in zero),
        above(*intervals(lambda name, kernel: rise(name, kernel, "cka"))),
        above(*(around(rise(name, kernel, what, HELD)) for what in ("contrast", "cka") for name, kernel in both)),
        above(*intervals(lambda name, kernel: rise(name, kernel + BARE, "contrast", HELD))),
        above(*intervals(meaning)),
        above(*(around(own[name] - plain[name]) for name in found)),
    )
    return [Claim(*one) for one in zip(texts, measured, holds, strict=True)]
