"""What figures of planar generators share: the frame, arrows with their key, known modes, words at a place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.plots import gan_style, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genkernel.gan.results import GanResult

Frame = tuple[np.ndarray, float]  # lower left corner and width of a square
NEAR = 3.0  # standard deviations around a known mode that are drawn: what counts as a good sample


def known_modes(result: GanResult) -> np.ndarray | None:
    """Known modes in the plane ``[M, 2]``; None without any."""
    return result.modes if result.modes is not None and result.modes.shape[1] == 2 else None


def frame_of(points: np.ndarray, result: GanResult, room: float = 1.4) -> Frame:
    """A square around all points ``[n, 2]`` and known modes, ``room`` times as wide as they are."""
    modes = known_modes(result)
    shown = points if modes is None else np.concatenate([points, modes])
    low, high = shown.min(0), shown.max(0)
    width = room * float((high - low).max()) or 1.0
    return (low + high) / 2 - width / 2, width


def frame_panel(axes: Axes, frame: Frame, x: bool = True, y: bool = True) -> None:
    """The same square and the same ticks in every panel; numbers only where they are asked for."""
    (left, bottom), width = frame
    axes.set_xlim(left, left + width)
    axes.set_ylim(bottom, bottom + width)
    axes.set_aspect("equal")
    style.map_axes(axes)
    for axis, shown, start in ((axes.xaxis, x, left), (axes.yaxis, y, bottom)):
        ticks = style.nice_ticks(start, start + width, 3)
        axis.set_ticks(ticks, [style.number(t) for t in ticks] if shown else [""] * len(ticks), fontsize=6.8)
    axes.tick_params(length=2, pad=2)


def mode_marks(axes: Axes, result: GanResult, size: float = 4.5) -> None:
    """Known modes as small crosses, with circles of three standard deviations where these are known."""
    from matplotlib.patches import Circle

    modes = known_modes(result)
    if modes is None:
        return
    axes.plot(*modes.T, "+", color=style.MUTED, markersize=size, markeredgewidth=0.8, zorder=5)
    if result.mode_std is not None:
        for centre, std in zip(modes, result.mode_std, strict=True):
            axes.add_patch(
                Circle(tuple(centre), NEAR * float(std), fill=False, edgecolor=style.MUTED, linewidth=0.7, zorder=5)
            )


def arrow_length(vectors: np.ndarray, room: float = 2.2) -> float:
    """The length that is drawn as a long arrow: the 95 % quantile, or the longest over ``room`` where that is more."""
    lengths = np.linalg.norm(vectors, axis=-1).ravel()
    moving = lengths[lengths > 0]
    return max(float(np.quantile(moving, 0.95)), float(moving.max()) / room) if len(moving) else 1.0


def cut(vectors: np.ndarray, longest: float) -> np.ndarray:
    """The vectors ``[n, 2]``, those beyond ``longest`` shortened to it."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors * np.minimum(1.0, longest / np.maximum(lengths, 1e-300))


def arrows(
    axes: Axes,
    points: np.ndarray,
    vectors: np.ndarray,
    frame: Frame,
    length: float,
    most: int,
    *,
    long: float,
    width: float = 0.0032,
    color: Any = style.INK,
    alpha: float = 0.6,
    **how: Any,
) -> Any:
    """Arrows at no more than ``most`` of the points ``[n, 2]``.

    Args:
        length: of a vector that is drawn ``long`` widths of the panel long.
        color: one, or a number for each point ``[n]`` on the colour map given in ``how``.
    """
    shown = slice(None, None, math.ceil(len(points) / most))
    values = (color[shown],) if isinstance(color, np.ndarray) else ()
    painted = how if values else {**how, "color": color}
    return axes.quiver(
        *points[shown].T, *vectors[shown].T, *values, angles="xy", scale_units="xy", scale=length / (long * frame[1]),
        width=width, headwidth=4, headlength=5, headaxislength=4.5, alpha=alpha, linewidth=0, zorder=3, **painted,
    )  # fmt: skip


def arrow_key(
    figure: Figure, axes: Axes, drawn: Any, length: float, text: str, left: float, top: float, label: str = "U"
) -> None:
    """How long a vector is whose arrow is long: an arrow and words, at a place in inches."""
    across, down = figure.get_size_inches()
    size = float(f"{length:.2g}")
    axes.quiverkey(
        drawn, left / across, 1 - top / down, size, f"‖{label}‖ = {gan_style.power(size)} {text}".rstrip(),
        coordinates="figure", labelpos="E", labelsep=0.06, fontproperties={"size": gan_style.TEXT},
    )  # fmt: skip


def say(figure: Figure, text: str, left: float, top: float, **how: Any) -> None:
    """Words at a place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    figure.text(left / across, 1 - top / down, text, **{"fontsize": gan_style.TEXT, "va": "center", **how})
