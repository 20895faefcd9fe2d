"""Which layers carry the kernel, and how local each of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genkernel.errors import InputError
from genkernel.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.diffusion.results import DiffusionResult


@style.house
def layer_bars(result: DiffusionResult, top: int = 15) -> Figure:
    """Share of the kernel's trace and locality index for the ``top`` layers, largest share first."""
    ranked = sorted(result.layers, key=lambda layer: -layer.share)
    if not ranked:
        raise InputError("this result has no per-layer kernels to draw")
    shown, rest = ranked[:top], ranked[top:]
    names = [layer.name for layer in shown]
    shares = [layer.share for layer in shown]
    if rest:
        names.append(f"{len(rest)} other layers")
        shares.append(sum(layer.share for layer in rest))
    figure = style.new_figure(1.45 + 0.23 * len(names))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1))
    colors = [_color(name) for name in names]
    if rest:
        colors[-1] = style.RULE
    left.barh(range(len(names)), 100 * np.array(shares), color=colors, height=0.72)
    for place, share in enumerate(shares):
        left.text(100 * share, place, f" {100 * share:.1f}", va="center", fontsize=7)
    left.set_xlabel("share of trace (%)")
    left.set_xlim(0, 100 * max(shares) * 1.2)
    left.set_yticks(range(len(names)), [_shorten(name) for name in names], fontsize=7.2)
    left.tick_params(axis="y", length=0)
    left.grid(False, axis="y")
    for place, layer in enumerate(shown):
        right.errorbar(
            layer.index, place, xerr=1.96 * layer.index_stderr, fmt="o", color=colors[place], markersize=4.5,
            elinewidth=1.2,
        )  # fmt: skip
    right.axvline(result.locality.index, color=style.INK, linewidth=1, linestyle="--")
    right.annotate(
        "whole kernel", (result.locality.index, 1), (3, -2), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="top", fontsize=7.2,
    )  # fmt: skip
    right.axvline(0, color=style.GREY, linewidth=0.8)
    right.set_xlabel("locality index")
    right.tick_params(axis="y", length=0)
    right.set_ylim(len(names) - 0.4, -1.1)
    left.set_title("Share", fontsize=9.5)
    right.set_title("Locality", fontsize=9.5)
    for label, color in zip(left.get_yticklabels(), colors, strict=True):
        label.set_color(color if color == style.VERMILION else style.INK)
    style.title(figure, "Which layers carry the kernel, and its locality?")
    guess = "; orange: timestep path, by name" if style.VERMILION in colors else ""
    style.footer(figure, result.meta, f"error bars ±1.96 s.e.{guess}")
    return figure


def _color(name: str) -> str:
    """Layers of the timestep path are told by their names, which is a guess and is labelled as one."""
    of_time = any(part.startswith(("time", "temb", "t_emb")) for part in name.split("."))
    return style.VERMILION if of_time else style.BLUE


def _shorten(name: str, room: int = 36) -> str:
    if len(name) <= room:
        return name
    return name[: room // 2 - 1] + "…" + name[-(room // 2) :]
