"""From which groups of samples to which groups of queries: noise levels, or clusters of latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots import gan_style, path_axes, style
from genkernel.plots.stage_maps import stage_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.paths import PathDecomposition

_TITLES = {
    "gross": "Which {} were at work on which?",
    "net": "What was left of it at the end?",
    "signed": "Which {} made the change of which?",
}
_LABELS = {"gross": "share of the row's gross part (%)", "net": "share of the row's net sizes (%)"}


def group_map_figures(parts: PathDecomposition) -> dict[str, Callable[[], Figure]]:
    """The maps that a decomposition carries (``meta["map"]``), by file name; each is drawn when called."""
    draw = level_map if parts.meta["map"]["kind"] == "noise levels" else cluster_map
    return {f"map_{kind}": partial(draw, parts, kind) for kind in _TITLES}


def level_map(parts: PathDecomposition, kind: str = "gross") -> Figure:
    """Training noise level → query noise level, for the whole training and for its thirds.

    Args:
        parts: with a map of noise levels.
        kind: ``"gross"``, ``"net"`` or ``"signed"`` (of the whole training alone).
    """
    found = parts.meta["map"]
    stack = _shares(found, kind)
    names = _stretches(found)
    if kind != "signed":
        names = [
            name if index is None else f"{name}: index {index:.2f}".replace("-", "−")
            for name, index in zip(names, found[f"index_{kind}"], strict=True)
        ]
    gap = path_axes.gap_words(parts.gap_abs, parts.gap_rel)
    return stage_map(
        stack[:1] if kind == "signed" else stack,
        found["centres"],
        found["edges"],
        label=_LABELS.get(kind, "part of the change (%)"),
        title=_TITLES[kind].format("noise levels"),
        log_snr=found["log_snr"],
        edges_log_snr=found["edges_log_snr"],
        windows=[] if kind == "signed" else names,
        signed=kind == "signed",
        note=f"{parts.meta.get('optimizer', '')} · {parts.meta.get('rule', '')} · {gap}",
    )


@style.house
def level_indices(parts: PathDecomposition, kernels: Sequence[tuple[int, float, float]]) -> Figure:
    """How local the contributions of every stretch were, beside how local the kernel was at some steps.

    Args:
        parts: with a map of noise levels.
        kernels: (step, index of the normalised kernel, index of the unnormalised one).
    """
    found = parts.meta["map"]
    figure = style.new_figure(2.9)
    axes = figure.subplots()
    for kind, colour in (("gross", style.BLUE), ("net", style.ORANGE)):
        for place, ((start, end), index) in enumerate(
            zip(found["stretches"][1:], found[f"index_{kind}"][1:], strict=True)
        ):
            axes.hlines(
                np.nan if index is None else index,
                start,
                end,
                color=colour,
                linewidth=3,
                label=f"contributions, {kind}" if not place else "",
            )
    steps = [step for step, _, _ in kernels]
    # the two often coincide: open squares around the points keep both in sight
    for values, colour, label, look in (
        ([k[1] for k in kernels], style.VERMILION, "kernel, normalised", {"marker": "o"}),
        ([k[2] for k in kernels], style.PURPLE, "kernel, unnormalised",
         {"marker": "s", "markersize": 8, "markerfacecolor": "none"}),
    ):  # fmt: skip
        axes.plot(steps, values, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, label=label, **look)
    axes.axhline(0, color=style.MUTED, linewidth=0.8)
    axes.set_xlabel("training step")
    axes.set_ylabel("locality index")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    path_axes.footer(figure, parts, "0: as the samples are spread")
    return figure


@style.house
def cluster_map(parts: PathDecomposition, kind: str = "gross") -> Figure:
    """Cluster of the training latents → cluster of the queries, for the whole training and for its thirds.

    Args:
        parts: with a map of clusters.
        kind: ``"gross"``, ``"net"`` or ``"signed"`` (of the whole training alone).
    """
    found = parts.meta["map"]
    stack = _shares(found, kind)[: 1 if kind == "signed" else None]
    names = _stretches(found)
    labels = [path_axes.plain(str(name)) for name in found["names"]]
    words = {label.rsplit(" ", 1)[0] for label in labels}
    word = words.pop() if len(words) == 1 else "cluster"
    short = [label.removeprefix(f"{word} ") for label in labels]
    rows = [short[i] for i in found["queries"]]
    columns, lines = min(len(stack), 2), -(-len(stack) // 2)
    side, left, gap, above = (2.1 if columns == 2 else 3.0), 0.6, 0.4, 0.3
    tall = side * max(0.25, len(rows) / len(short))
    height = 0.5 + lines * (above + tall + 0.42) + 0.7
    figure = gan_style.by_hand(height)
    lowest, largest = (
        (-float(np.abs(stack).max()), float(np.abs(stack).max())) if kind == "signed" else (0, stack.max())
    )
    image: Any = None
    for place, values in enumerate(stack):
        line, column = divmod(place, 2)
        axes = gan_style.panel(
            figure, left + column * (side + gap), 0.5 + line * (above + tall + 0.42) + above, side, tall
        )
        image = axes.imshow(
            values, cmap=path_axes.SIGNED if kind == "signed" else style.SEQUENTIAL, vmin=lowest, vmax=largest,
            aspect="auto",
        )  # fmt: skip
        style.map_axes(axes)
        axes.set_xticks(range(len(short)), short, fontsize=gan_style.TEXT)
        axes.set_yticks(range(len(rows)), rows, fontsize=gan_style.TEXT)
        axes.set_xlabel(f"training latents: {word}", fontsize=8, labelpad=2)
        if column == 0:
            axes.set_ylabel(f"queries: {word}", fontsize=8)
        else:
            axes.set_yticklabels([])
        if kind != "signed":
            axes.set_title(names[place], fontsize=8.5, loc="left")
        for row, own in enumerate(found["queries"]):  # the query's own cluster
            axes.add_patch(_frame(own, row))
    wide = min(3.0, columns * side)
    bar = figure.colorbar(image, cax=gan_style.panel(figure, left, height - 0.62, wide, 0.09), orientation="horizontal")
    bar.set_label(_LABELS.get(kind, "part of the change (%, blue helps, red is against)"), fontsize=8, labelpad=2)
    bar.ax.tick_params(labelsize=gan_style.TEXT)
    bar.outline.set_visible(False)
    style.title(
        figure, _TITLES[kind].format("modes" if word == "mode" else f"{word}es" if word[-1] == "s" else f"{word}s")
    )
    path_axes.footer(figure, parts, "frames: the same cluster")
    return figure


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=0.9)


def _shares(found: Mapping[str, Any], kind: str) -> np.ndarray:
    """``[K, Q, S]`` in percent: of the row's sum for sizes, of the change for signed parts."""
    stack = np.asarray(found[kind], dtype=np.float64)
    if kind == "signed":
        return 100 * np.nan_to_num(stack)
    total = stack.sum(-1, keepdims=True)
    return 100 * stack / np.where(total > 0, total, 1)


def _stretches(found: Mapping[str, Any]) -> list[str]:
    (first, last), *rest = found["stretches"]
    return [f"all {last - first:,} steps", *(f"steps {a:,}–{b:,}" for a, b in rest)]
