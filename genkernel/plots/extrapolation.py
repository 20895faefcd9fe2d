"""Printed digits, letters and images further away, as a network on handwritten digits sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genkernel.plots import style
from genkernel.plots.tangent_embedding import COLOURS, MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_GIVEN = {
    "plain": (style.INK, "o", "as it is"),
    "margin": (style.BLUE, "s", "margin held fixed"),
    "confidence": (style.ORANGE, "D", "confidence held fixed"),
    "margin of the label": (style.VERMILION, "^", "margin of the label held fixed"),
}
_SETS = {
    "held-out digits": (style.BLUE, "o"),
    "printed digits": (style.ORANGE, "D"),
    "letters": (style.VERMILION, "s"),
}
_LINES = {
    "accuracy": (style.INK, "o", "-", "accuracy"),
    "nearest": (style.BLUE, "s", "-", "similarity to the nearest class"),
    "own": (style.SKY, "^", "--", "similarity to the own class"),
    "confidence": (style.ORANGE, "D", ":", "confidence"),
}


@style.house
def printed_digits(matrix: Array, right: Array, similarities: Mapping[str, Array], meta: dict[str, Any]) -> Figure:
    """Printed digits against training digits, and accuracy over similarity, digit by digit.

    Args:
        matrix: mean similarity of printed digits of each class to training digits of each ``[C, C]``.
        right: accuracies ``[networks, C]``.
        similarities: name → means of printed digits ``[networks, C]``, one panel each.
        meta: for the footer.
    """
    figure = style.new_figure(3.2, width=7.4)
    panels: Any = figure.subplots(1, 1 + len(similarities), width_ratios=[1.25, *[1] * len(similarities)])
    image = _map(panels[0], matrix, _scale(matrix))
    panels[0].set_yticks(range(len(matrix)))
    panels[0].set_ylabel("printed digit")
    panels[0].set_title("Printed to handwritten digits", fontsize=9)
    figure.colorbar(image, ax=panels[0], shrink=0.85, pad=0.02).set_label("mean cosine", fontsize=8)
    mean, half = right.mean(0), _half(right)
    handles: dict[str, Any] = {}
    for axes, (name, values) in zip(panels[1:], similarities.items(), strict=True):
        for digit, (x, y, wide, high) in enumerate(zip(values.mean(0), mean, _half(values), half, strict=True)):
            handles[str(digit)] = axes.errorbar(
                x, y, xerr=wide, yerr=high, ls="", marker=MARKS[digit], color=COLOURS[digit], ms=5.5, mec=style.INK,
                mew=0.4, linewidth=0.7, capsize=0,
            )[0]  # fmt: skip
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("mean cosine", fontsize=8.5)
        axes.set_title(name[0].upper() + name[1:], fontsize=9)
    panels[1].set_ylabel("accuracy of the printed digit")
    panels[2].tick_params(labelleft=False)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles), fontsize=8.5,
        columnspacing=0.9, handletextpad=0.1,
    )  # fmt: skip
    style.footer(figure, meta, f"means over {len(right)} networks; bars: 95 %")
    return figure


@style.house
def between_images(matrices: Mapping[str, Array], letter_names: Sequence[str], meta: dict[str, Any]) -> Figure:
    """The kernel between images, ordered by class: training digits with themselves, printed digits, and letters.

    Args:
        matrices: "training digits", "printed digits", "letters" → cosines with the training digits ``[m, n]``.
        letter_names: in the order of the classes.
        meta: for the footer.
    """
    figure = style.new_figure(3.3, width=7.8)
    panels: Any = figure.subplots(1, len(matrices))
    least = min(float(m.min()) for m in matrices.values())
    image: Any = None
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        signed = least < -0.1
        image = axes.imshow(
            matrix, cmap=style.DIVERGING if signed else style.SEQUENTIAL, vmin=-1 if signed else 0, vmax=1,
            aspect=matrix.shape[1] / matrix.shape[0],
        )  # fmt: skip
        style.map_axes(axes)
        classes = list(letter_names) if name == "letters" else list(map(str, range(10)))
        for set_ticks, names, count in ((axes.set_xticks, list(map(str, range(10))), matrix.shape[1]),
                                        (axes.set_yticks, classes, matrix.shape[0])):  # fmt: skip
            each = count // len(names)
            set_ticks(each * (np.arange(len(names)) + 0.5) - 0.5, names, fontsize=7 if len(names) < 11 else 5.5)
        axes.tick_params(length=0, pad=2)
        axes.set_title(name[0].upper() + name[1:], fontsize=9)
        axes.set_xlabel("training digits", fontsize=8.5)
    figure.colorbar(image, ax=panels.tolist(), shrink=0.75, pad=0.015).set_label("cosine of tangent features")
    style.footer(figure, meta, "one network · images ordered by class")
    return figure


@style.house
def over_training(course: Mapping[int, Mapping[str, Array]], meta: dict[str, Any]) -> Figure:
    """Accuracies of printed digits, one by one and together, beside that of held-out handwritten ones.

    Args:
        course: step → "held-out digits" ``[networks]`` and "printed digits" ``[networks, C]``.
        meta: for the footer.
    """
    steps = np.array(list(course))
    held, printed = (np.stack([one[name] for one in course.values()]) for name in ("held-out digits", "printed digits"))
    figure = style.new_figure(3.0, width=7.4)
    panels: Any = figure.subplots(1, 2, sharey=True)
    for values, (name, (colour, mark)) in zip((held, printed.mean(2)), list(_SETS.items())[:2], strict=True):
        panels[0].errorbar(
            steps, values.mean(1), yerr=_half(values.T), color=colour, marker=mark, ms=4, linewidth=1.5, label=name
        )
    panels[0].legend(loc="lower right", fontsize=8)
    panels[0].set_ylabel("accuracy")
    panels[0].set_title("Handwritten and printed", fontsize=9)
    for digit in range(printed.shape[2]):
        panels[1].plot(
            steps, printed[:, :, digit].mean(1), color=COLOURS[digit], marker=MARKS[digit], ms=4.5, mec=style.INK,
            mew=0.3, linewidth=1.2, label=str(digit),
        )  # fmt: skip
    panels[1].set_title("Printed, digit by digit", fontsize=9)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=10, fontsize=8, columnspacing=0.9, handletextpad=0.3
    )
    for axes in panels:
        axes.set_xscale("log")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("training step")
        axes.set_xticks(steps, [f"{step:,}" for step in steps])
        axes.minorticks_off()
    style.footer(figure, meta, f"means over {held.shape[1]} networks; bars: 95 %")
    return figure


@style.house
def correlations(found: Mapping[str, Mapping[str, Mapping[str, ArrayLike]]], meta: dict[str, Any]) -> Figure:
    """Rank correlations of similarity and right answers, and what is left of them beside the margin.

    Args:
        found: "classes" and "images" → similarity → what is held fixed → correlations ``[networks]``.
        meta: for the footer.
    """
    names = list(next(iter(found.values())))
    figure = style.new_figure(3.6, width=7.4)
    panels: Any = figure.subplots(1, len(found), sharey=True)
    handles: dict[str, Any] = {}
    count = 0
    for axes, (place, by_name) in zip(panels, found.items(), strict=True):
        for i, (given, (colour, mark, label)) in enumerate(_GIVEN.items()):
            values = [_known(by_name[name][given]) for name in names]
            count = max(count, *(len(each) for each in values))
            handles[label] = axes.errorbar(
                [each.mean() if len(each) else np.nan for each in values], np.arange(len(names)) + 0.18 * (i - 1.5),
                xerr=[float(_half(each)) for each in values], ls="", marker=mark, color=colour, ms=4, linewidth=1.2,
            )  # fmt: skip
        axes.axvline(0, color=style.MUTED, linewidth=1)
        axes.set_xlim(-1.02, 1.02)
        axes.set_xlabel("rank correlation with right answers")
        axes.set_title("Over the ten printed digits" if place == "classes" else "Over images of printed digits")
        axes.grid(axis="y", visible=False)
        for edge in np.arange(len(names) - 1) + 0.5:
            axes.axhline(edge, color=style.RULE, linewidth=0.8)
    panels[0].set_yticks(range(len(names)), [f"similarity\n{name}" for name in names], fontsize=8)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=8, columnspacing=1.2)
    style.footer(figure, meta, f"means over {count} networks; bars: 95 %")
    return figure


@style.house
def letters(
    profiles: Mapping[str, Array],
    names: Sequence[str],
    sets: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    meta: dict[str, Any],
) -> Figure:
    """Similarity of printed digits and letters to handwritten digits.

    Args:
        profiles: "printed digits" and "letters" → mean similarity to training digits of each class ``[classes, C]``.
        names: of the letters.
        sets: "trained" and "untrained" → set → "nearest" and "repeats" → values of networks.
        meta: for the footer.
    """
    figure = style.new_figure(4.9, width=7.4)
    parts: Any = figure.subfigures(1, 3, width_ratios=(1, 1.3, 1.35))
    left, middle, right = parts
    scale = _scale(*profiles.values())
    printed, letter = left.subplots(), middle.subplots()
    _map(printed, profiles["printed digits"], scale)
    printed.set_yticks(range(len(profiles["printed digits"])))
    printed.set_title("Printed digits", fontsize=9)
    printed.set_anchor("N")
    image = _map(letter, profiles["letters"], scale, aspect="auto")
    letter.set_yticks(range(len(names)), names, fontsize=7)
    letter.set_title("Letters", fontsize=9)
    middle.colorbar(image, ax=letter, shrink=0.7, pad=0.03).set_label("mean cosine to handwritten digits", fontsize=8)
    panels: Any = right.subplots(2, 1)
    for axes, key, label in (
        (panels[0], "nearest", "similarity to the nearest class"),
        (panels[1], "repeats", "profiles of halves correlate"),
    ):
        for row, state in enumerate(sets):
            for shift, (name, (colour, mark)) in zip((-0.2, 0, 0.2), _SETS.items(), strict=True):
                values = np.asarray(sets[state][name][key])
                axes.errorbar(
                    values.mean(), row + shift, xerr=float(_half(values)), marker=mark, color=colour, ms=4.5,
                    linewidth=1.2, ls="", label=name if not row else None,
                )  # fmt: skip
        axes.set_yticks(range(len(sets)), list(sets), fontsize=8)
        axes.set_ylim(len(sets) - 0.5, -0.5)
        axes.set_xlabel(label, fontsize=8.5)
        axes.grid(axis="y", visible=False)
    panels[1].set_xlim(min(-0.05, panels[1].get_xlim()[0]), 1.02)
    panels[1].axvline(0, color=style.MUTED, linewidth=1, linestyle=":")
    panels[0].legend(fontsize=7.5, loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=1, handletextpad=0.3)
    style.footer(figure, meta, f"means over {len(values)} networks; bars: 95 %")
    return figure


@style.house
def away(
    families: Mapping[str, Mapping[float, Mapping[str, Sequence[float]]]],
    examples: Mapping[str, Sequence[Array]],
    meta: dict[str, Any],
) -> Figure:
    """Accuracy, similarity and confidence on the way out of the training domain.

    Args:
        families: name → level → measure → values of networks.
        examples: name → one image ``[s, s]`` for every level.
        meta: for the footer.
    """
    figure = style.new_figure(2.9 * -(-len(families) // 2) + 0.4, width=7.4)
    grid: Any = figure.subplots(
        2 * -(-len(families) // 2), 2, height_ratios=[1, 3.4] * -(-len(families) // 2), squeeze=False
    )
    handles: dict[str, Any] = {}
    networks = 0
    for place, (name, levels) in enumerate(families.items()):
        row, column = 2 * (place // 2), place % 2
        _strip(grid[row, column], examples[name])
        grid[row, column].set_title(name[0].upper() + name[1:], fontsize=9)
        axes = grid[row + 1, column]
        places = np.arange(len(levels))
        for measure, (colour, mark, dash, label) in _LINES.items():
            values = np.array([one[measure] for one in levels.values()]).T
            networks = len(values)
            handles[label] = axes.errorbar(
                places, values.mean(0), yerr=_half(values), color=colour, marker=mark, ls=dash, lw=1.4, ms=4
            )
        axes.set_xticks(places, [f"{level:g}" for level in levels])
        axes.set_xlim(-0.5, len(levels) - 0.5)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(_unit(name))
        if not column:
            axes.set_ylabel("accuracy, cosine,\nconfidence")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=8, columnspacing=1.2)
    style.footer(figure, meta, f"means over {networks} networks; bars: 95 %")
    return figure


# ---------------------------------------------------------------------------------- parts


def _unit(name: str) -> str:
    if name.endswith("shrunk"):
        return "size of the digit relative to the image"
    return "largest angle either way (degrees)" if name.endswith("turned") else "weight of the printed image"


def _strip(axes: Axes, images: Sequence[Array]) -> None:
    side = len(images[0])
    strip = np.full((side, 0), 1.0)
    for image in images:
        strip = np.concatenate(
            [strip, np.full((side, side // 2), np.nan), image, np.full((side, side // 2), np.nan)], 1
        )
    axes.imshow(strip, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()


def _map(axes: Axes, matrix: Array, scale: dict[str, Any], aspect: Any = "equal") -> Any:
    image = axes.imshow(matrix, aspect=aspect, **scale)
    style.map_axes(axes)
    axes.tick_params(length=0, labelsize=7.5)
    axes.set_xticks(range(matrix.shape[1]))
    axes.set_xlabel("handwritten digit")
    return image


def _scale(*matrices: Array) -> dict[str, Any]:
    """A range of cosines that is rounded to tenths: differences between classes are small beside their level."""
    least, most = min(float(m.min()) for m in matrices), max(float(m.max()) for m in matrices)
    return {"cmap": style.SEQUENTIAL, "vmin": np.floor(10 * least) / 10, "vmax": np.ceil(10 * most) / 10}


def _known(values: ArrayLike) -> Array:
    v = np.asarray(values, dtype=np.float64)
    return v[np.isfinite(v)]


def _half(values: Array) -> Array:
    """Half of the 95 % interval of the mean over the first axis."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return np.zeros(np.shape(values)[1:])
    return np.asarray(t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5)
