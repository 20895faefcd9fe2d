"""Figures of a classifier's kernel: class blocks, controls, layers, samples in the plane, new samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.classifier.results import Extrapolation, SimilarityResult

Array = NDArray[np.float64]

NAMED = 12  # classes whose names are written at axes
WRITTEN = 6  # classes whose cells hold their number
COLOURED = 10  # classes that are told apart by colour and mark
_ORDER = ("trained", "without last layer", "untrained", "inputs", "permuted labels")
_LOOKS = {
    "trained": (style.BLUE, "o"),
    "without last layer": (style.SKY, "D"),
    "untrained": (style.VERMILION, "s"),
    "inputs": (style.GREEN, "^"),
    "permuted labels": (style.GREY, "X"),
}


def classifier_figures(result: SimilarityResult) -> dict[str, Callable[[], Figure]]:
    """Every figure that a result can fill, by file name, in reading order."""
    found: dict[str, Callable[[], Figure]] = {
        "class_blocks": lambda: class_blocks(result),
        "kernel": lambda: kernel_map(result),
    }
    if len(result.structures) > 1:
        found["controls"] = lambda: controls(result)
    if len(result.cka_by_layer) > 1:
        found["layers"] = lambda: layers(result)
    if result.plane.shape[1] == 2 and len(result.names) <= COLOURED:
        found["plane"] = lambda: plane(result)
    if result.course:
        found["course"] = lambda: course(result)
    if (said := result.extrapolation) is not None:
        found["reach"] = lambda: reach(result, said)
        if said.matrix is not None:
            found["new_classes"] = lambda: new_classes(result, said)
    return found


@style.house
def class_blocks(result: SimilarityResult) -> Figure:
    """Mean cosines between classes: of the trained network, beside the untrained one and the inputs."""
    shown = [
        (name, result.structures[name]) for name in ("trained", "untrained", "inputs") if name in result.structures
    ]
    side = 2.45 if len(shown) > 1 else 3.6
    figure = style.new_figure(side + 0.75, width=max(style.WIDTH, side * len(shown) + 0.7))
    panels: Any = figure.subplots(1, len(shown), squeeze=False)[0]
    image: Any = None
    scale = _scale(*(one.matrix for _, one in shown))
    for axes, (name, one) in zip(panels, shown, strict=True):
        image = axes.imshow(one.matrix, **scale)
        _class_axes(axes, result.names, left=axes is panels[0])
        if len(result.names) <= WRITTEN:
            _write(axes, one.matrix, scale["vmin"] < 0)
        axes.set_title(f"{name}\n", fontsize=9.5, pad=3)
        words = f"{one.within:.2f} within, {one.between:.2f} between".replace("-", "−")
        axes.text(0, 1.03, words, transform=axes.transAxes, fontsize=7.6, color=style.MUTED)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.02)
    bar.set_label("mean cosine")
    style.footer(figure, result.meta, f"n = {len(result.labels)} samples, pairs of different ones")
    return figure


@style.house
def kernel_map(result: SimilarityResult) -> Figure:
    """The normalised kernel between all samples, sorted by class."""
    order = np.argsort(result.labels, kind="stable")
    figure = style.new_figure(4.6)
    axes = figure.subplots()
    image = axes.imshow(result.cosines[np.ix_(order, order)], **_scale(result.cosines))
    style.map_axes(axes)
    ends = np.cumsum(result.sizes)
    if len(ends) <= 40:
        for end in ends[:-1]:
            axes.axhline(end - 0.5, color=style.INK, linewidth=0.5)
            axes.axvline(end - 0.5, color=style.INK, linewidth=0.5)
    if len(ends) <= NAMED:
        middles = ends - result.sizes / 2 - 0.5
        names = [_short(name) for name in result.names]
        axes.set_xticks(middles, names, rotation=0 if max(map(len, names)) < 4 else 40, ha="center")
        axes.set_yticks(middles, names)
    axes.tick_params(length=0)
    axes.set_xlabel("samples, by class")
    axes.set_ylabel("samples, by class")
    figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02).set_label("cosine of tangent features")
    error = "" if result.stderr is None else f" · mean s.e. of an entry {result.stderr:.2g}"
    style.footer(figure, result.meta, f"n = {len(result.labels)} samples{error}")
    return figure


@style.house
def controls(result: SimilarityResult) -> Figure:
    """Four measures of class structure, of the trained network and of what they are held against."""
    names = [name for name in _ORDER if name in result.structures]
    figure = style.new_figure(1.5 + 0.3 * len(names), width=7.4)
    panels: Any = figure.subplots(1, 4, sharey=True)
    every = [result.structures[name] for name in names]
    _dots(panels[0], names, [one.contrast for one in every], [one.contrast_stderr for one in every])
    _dots(panels[1], names, [one.cka for one in every], None)
    _dots(panels[2], names, [one.neighbours for one in every], [one.neighbours_stderr for one in every])
    separated = [one.separation for one in every]
    _dots(
        panels[3],
        names,
        [np.nan if one is None else one.held_out for one in separated],
        [np.nan if one is None else one.stderr for one in separated],
    )
    known = next((one for one in separated if one is not None), None)
    for axes, heading, chance in zip(
        panels,
        ("within − between", "CKA with labels", f"{result.k} neighbours", "SVM, held out"),
        (0.0, 0.0, result.chance, np.nan if known is None else known.chance),
        strict=True,
    ):
        axes.set_title(heading, fontsize=8.8)
        if np.isfinite(chance):
            axes.axvline(chance, color=style.MUTED, linewidth=1, linestyle=":")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, chance - 0.02) if np.isfinite(chance) else low, max(high, 0.1))
        axes.tick_params(axis="x", labelsize=7.5)
        axes.xaxis.set_major_locator(_few_ticks())
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    style.footer(figure, result.meta, f"n = {len(result.labels)} samples · bars: 95 % over samples · dotted: chance")
    return figure


@style.house
def layers(result: SimilarityResult) -> Figure:
    """Alignment with the labels of every layer's kernel, beside the layer's share of the trace."""
    names = list(result.cka_by_layer)
    count = len(names)
    figure = style.new_figure(3.3, width=max(style.WIDTH, min(7.4, 0.16 * count + 2)))
    axes = figure.subplots()
    places = np.arange(count)
    aligned = list(result.cka_by_layer.values())
    axes.plot(places, aligned, color=style.BLUE, marker="o", label="CKA of the layer's kernel")
    shares = [result.share_by_layer[name] for name in names]
    axes.bar(places, shares, color=style.RULE, width=0.7, zorder=0, label="share of the trace")
    axes.axhline(result.trained.cka, color=style.BLUE, linewidth=1, linestyle="--", label="CKA of the whole kernel")
    if count <= NAMED:
        axes.set_xticks(places, [_short(name, 16) for name in names], rotation=30, ha="right")
    else:
        axes.set_xlabel("layer, in the network's order")
    axes.set_ylim(min(0.0, min(aligned) - 0.03), 1.0)
    axes.legend(fontsize=7.8, loc="upper left", ncols=3, columnspacing=1.2, bbox_to_anchor=(0, 1.14), borderaxespad=0)
    style.footer(figure, result.meta, f"n = {len(result.labels)} samples")
    return figure


@style.house
def course(result: SimilarityResult) -> Figure:
    """Accuracy and class structure of earlier checkpoints, and how alike their kernels are to the last one."""
    names = [one.name for one in result.course] + ["as it is"]
    every = [one.structure for one in result.course] + [result.trained]
    accuracy = [one.accuracy for one in result.course] + [result.answers.accuracy]
    figure = style.new_figure(3.3, width=max(style.WIDTH, min(7.4, 0.35 * len(names) + 3)))
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.plot(places, accuracy, color=style.INK, marker="o", label="accuracy")
    axes.plot(places, [one.cka for one in every], color=style.BLUE, marker="s", label="CKA with labels")
    contrast, error = (np.array([getattr(one, name) for one in every]) for name in ("contrast", "contrast_stderr"))
    axes.plot(places, contrast, color=style.VERMILION, marker="^", label="within − between")
    axes.fill_between(
        places, contrast - 1.96 * error, contrast + 1.96 * error, color=style.VERMILION, alpha=0.2, linewidth=0
    )
    alike = [one.alike for one in result.course] + [1.0]
    axes.plot(places, alike, color=style.GREY, linestyle="--", label="CKA with the last kernel")
    few = len(names) <= NAMED
    shown = places if few else np.unique(np.linspace(0, len(names) - 1, 8).round().astype(int))
    axes.set_xticks(shown, [_short(names[i], 14) for i in shown], rotation=30, ha="right")
    axes.set_ylim(min(0.0, float(np.nanmin(contrast))) - 0.03, 1.04)
    axes.legend(fontsize=7.8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    style.footer(figure, result.meta, f"n = {len(result.labels)} samples · band: 95 % over samples")
    return figure


@style.house
def plane(result: SimilarityResult) -> Figure:
    """Samples in two kernel principal components; wrong answers are ringed."""
    from genkernel.plots.tangent_embedding import COLOURS, MARKS

    figure = style.new_figure(4.0)
    axes = figure.subplots()
    for c, name in enumerate(result.names):
        mine = result.labels == c
        x, y = result.plane[mine].T
        axes.scatter(x, y, s=17, color=COLOURS[c], marker=MARKS[c], linewidths=0, alpha=0.85, label=_short(name))
    wrong = result.classes[result.labels] != result.answers.predictions
    if wrong.any():
        x, y = result.plane[wrong].T
        axes.scatter(x, y, s=60, facecolors="none", edgecolors=style.INK, linewidths=0.9, label="answered wrongly")
    first, second = (*result.plane_shares, np.nan, np.nan)[:2]
    axes.set_xlabel(f"first kernel principal component ({first:.0%})")
    axes.set_ylabel(f"second ({second:.0%})")
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.3)
    style.footer(figure, result.meta, "of cosines · in brackets: share of their variance")
    return figure


@style.house
def reach(result: SimilarityResult, found: Extrapolation) -> Figure:
    """Projection distances of new and of held-out samples, and how similar they are to their nearest class."""
    figure = style.new_figure(3.1, width=6.6)
    panels: Any = figure.subplots(1, 2)
    kinds = [("new", found.new, style.VERMILION, "o")]
    if found.held_out is not None:
        kinds.insert(0, ("held out", found.held_out, style.BLUE, "s"))
    for name, one, colour, _ in kinds:
        for axes, values in zip(panels, (one.distance, one.similarity.max(1)), strict=True):
            axes.step(
                np.sort(values), np.arange(1, len(values) + 1) / len(values), where="post", color=colour, label=name
            )
    panels[0].set_xlabel("projection distance from the training span")
    panels[1].set_xlabel("similarity to the nearest class")
    panels[0].set_ylabel("share of samples below")
    for axes in panels:
        axes.set_ylim(0, 1.02)
    if found.newness is not None:
        panels[0].set_title(f"area under ROC {found.newness.value:.2f}", fontsize=9)
    panels[0].legend(fontsize=8)
    held = "" if found.held_out is None else f", {len(found.held_out.distance)} held out"
    style.footer(figure, result.meta, f"{len(result.labels)} training samples, {len(found.new.distance)} new{held}")
    return figure


@style.house
def new_classes(result: SimilarityResult, found: Extrapolation) -> Figure:
    """New samples of each class against training samples of each, and accuracy over similarity, class by class."""
    assert found.matrix is not None and found.accuracy_per_class is not None
    figure = style.new_figure(3.5, width=6.8)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    image = left.imshow(found.matrix, **_scale(found.matrix))
    _class_axes(left, result.names, left=True)
    if len(result.names) <= WRITTEN:
        _write(left, found.matrix, _scale(found.matrix)["vmin"] < 0)
    left.set_xlabel("training samples")
    left.set_ylabel("new samples")
    figure.colorbar(image, ax=left, shrink=0.8, pad=0.02).set_label("mean cosine", fontsize=8)
    similar = found.matrix.diagonal()
    right.scatter(similar, found.accuracy_per_class, color=style.VERMILION, s=26, zorder=3)
    if len(result.names) <= NAMED:
        for x, y, name in zip(similar, found.accuracy_per_class, result.names, strict=True):
            if np.isfinite(x) and np.isfinite(y):
                right.annotate(_short(name), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7.5)
    right.set_ylim(-0.04, 1.08)
    right.margins(x=0.16)  # for names
    right.set_xlabel("mean similarity to the own class")
    right.set_ylabel("accuracy")
    if np.isfinite(found.per_class):
        right.set_title(f"rank correlation {found.per_class:.2f}".replace("-", "−"), fontsize=9)
    style.footer(figure, result.meta, f"{len(found.new.distance)} new samples")
    return figure


# ---------------------------------------------------------------------------------- parts


def _scale(*shown: Array) -> dict[str, Any]:
    """The same colours for all: about zero where a cosine is clearly negative, else from zero on."""
    least = min(float(np.nanmin(values)) for values in shown)
    signed = least < -0.1
    return {"cmap": style.DIVERGING if signed else style.SEQUENTIAL, "vmin": -1 if signed else 0, "vmax": 1}


def _dots(axes: Axes, names: list[str], values: list[float], errors: list[float] | None) -> None:
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        colour, mark = _LOOKS[name]
        error = None if errors is None or not np.isfinite(errors[row]) else 1.96 * errors[row]
        axes.errorbar(value, row, xerr=error, color=colour, marker=mark, markersize=5, linewidth=1.2)
    axes.grid(axis="y", visible=False)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10])


def _class_axes(axes: Axes, names: list[str], *, left: bool) -> None:
    style.map_axes(axes)
    axes.tick_params(length=0)
    if len(names) > NAMED:
        axes.set_xlabel("class")
        if left:
            axes.set_ylabel("class")
        return
    short = [_short(name) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=0 if max(map(len, short)) < 4 else 45, fontsize=7.5)
    axes.set_yticks(range(len(names)), short if left else [""] * len(names), fontsize=7.5)


def _write(axes: Axes, matrix: Array, diverging: bool) -> None:
    def dark(value: float) -> bool:
        return abs(value) > 0.6 if diverging else value < 0.6

    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            ink = "white" if dark(value) else style.INK
            axes.text(column, row, f"{value:.2f}".replace("-", "−"), ha="center", va="center", fontsize=7, color=ink)


def _short(name: str, most: int = 10) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
