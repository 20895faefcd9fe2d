"""What an experiment of the papers comes to: numbers, tables, figures, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers stay numbers until they are printed.

    Attributes:
        title: one line above it.
        columns: names ``[c]``.
        rows: ``c`` values each.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def markdown(self) -> str:
        """As a Markdown table; a vertical bar in a cell would end it, and is escaped."""
        lines = [
            " | ".join(column.replace("|", "\\|") for column in self.columns),
            " | ".join("---" for _ in self.columns),
        ]
        lines += [" | ".join(said(value).replace("|", "\\|") for value in row) for row in self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"


@dataclass(frozen=True)
class Claim:
    """One statement and what was measured about it.

    Attributes:
        claim: what is said, and where.
        measured: our figures, in words.
        holds: ``"yes"``, ``"no"``, ``"partly"`` or ``"undecided"``.
    """

    claim: str
    measured: str
    holds: str

    def __post_init__(self) -> None:
        if self.holds not in ("yes", "no", "partly", "undecided"):
            raise InputError(f"a claim holds 'yes', 'no', 'partly' or 'undecided', not {self.holds!r}")


def verdict(parts: Iterable[bool | None]) -> str:
    """What is shown of a statement that has parts.

    Args:
        parts: True where a part is shown to hold, False where it is shown not to, None where neither is (its interval
            lies on both sides, or it was not measured).

    Returns:
        ``"yes"`` if every part holds, ``"partly"`` if some do, ``"no"`` if none is shown to and one is shown not to,
        ``"undecided"`` if nothing is shown, or there are no parts.
    """
    found = [None if part is None else bool(part) for part in parts]  # NumPy's truth is not Python's
    if any(part is True for part in found):
        return "yes" if all(part is True for part in found) else "partly"
    return "no" if any(part is False for part in found) else "undecided"


def adds_up(gap: float) -> str:
    """Whether contributions come to the whole change: "yes" up to a gap of 1 % of it, "partly" up to 5 %."""
    if gap != gap:  # nothing changed
        return "undecided"
    return "yes" if gap <= 0.01 else "partly" if gap <= 0.05 else "no"


@dataclass
class Outcome:
    """What one run of an experiment found.

    Attributes:
        name: of the experiment.
        settings: everything that decides the numbers (seeds, widths, steps, …).
        claims: what was put to the test.
        tables: in the order of reading.
        figures: file name without ending → figure.
        numbers: every figure behind the tables, for ``summary.json``: plain numbers, lists and mappings.
    """

    name: str
    settings: Mapping[str, Any]
    claims: list[Claim] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """Claims and tables, as they go into the docs."""
        claims = Table("What was put to the test", ("claim", "measured", "holds"), [])
        claims.rows.extend((one.claim, one.measured, one.holds) for one in self.claims)
        return "\n".join(table.markdown() for table in ([claims] if self.claims else []) + self.tables)


def said(value: Any) -> str:
    """A table's entry in words: four significant digits, an en dash where there is none."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# name → (module below genkernel.experiments, one line for the list). Each module has
# run(*, quick: bool, seed: int, progress: bool) -> Outcome
EXPERIMENTS: dict[str, tuple[str, str]] = {
    "linear-machines": (
        "linear_machines.experiment",
        "networks whose tangent kernel is known: the formula exact, the kernel a cosine",
    ),
    "domingos": ("domingos", "the formula of path kernels: how exact, for which step sizes and widths"),
    "ball-sphere": (
        "ball_sphere.experiment",
        "a ball against a sphere, and two sides of a line: neighbours, linear separability",
    ),
    "neighbours": (
        "neighbours.experiment",
        "who is near in the tangent kernel while a network learns, with four optimizers",
    ),
    "regression-kernels": (
        "regression_kernels.experiment",
        "tangent kernels of a smooth and of a broken function of one variable",
    ),
    "class-kernels": ("class_kernels.experiment", "kernels of digits and of colour images before and after training"),
    "tangent-svm": (
        "tangent_svm.experiment",
        "linear machines on tangent features against RBF on the points, with controls",
    ),
    "tangent-map": (
        "tangent_map.experiment",
        "maps of tangent features: classes that were learned, and classes that were not",
    ),
    "extrapolation": (
        "extrapolation.experiment",
        "printed digits and letters: does the kernel's similarity tell the accuracy",
    ),
    "cka-accuracy": ("cka_accuracy.experiment", "does alignment with the labels tell accuracy, over architectures"),
    "invariances": ("invariances.experiment", "which symmetries of a network its kernel inherits"),
    "line-filling": ("line_filling.experiment", "a network that could fill segments perfectly: does training find it"),
    "shape-filling": (
        "shape_filling.experiment",
        "a U-Net that fills shapes: interpolation, and failure on harder shapes",
    ),
    "two-peaks": (
        "two_peaks.experiment",
        "sequences with peaks: what kernel and tangent map say about the rule that was learned",
    ),
    "noise-locality": ("noise_locality.experiment", "how local in noise level denoisers are, and what makes them so"),
    "contrast": ("contrast.experiment", "denoisers beside GANs: which parts of the data does a correction reach"),
    "optimizers": ("path_optimizers", "does every optimizer's path add up, and at which order of the step size"),
    "weak-error": (
        "weak_error.experiment",
        "how far the stochastic differential equations are from the optimizers they model",
    ),
    "retraining": ("retraining.experiment", "how well contributions predict trainings without some of the data"),
    "what-if": ("what_if.experiment", "do contributions foresee what other loss weightings of a diffusion model do"),
    "rank-gap": ("rank_gap.experiment", "which directions new samples need that training samples never showed"),
    "null-space": ("null_space.experiment", "where the residual of a finished training lies"),
    "eigenlearning": (
        "eigenlearning.experiment",
        "errors of kernel regression and of networks, predicted from eigenvalues alone",
    ),
    "lazy-limit": ("lazy_limit", "how fast networks become kernel machines as they get wider"),
    "effective-gram": (
        "effective_gram.experiment",
        "test losses predicted by the effective Gram matrix, and what they are",
    ),
    "out-of-distribution": (
        "out_of_distribution.experiment",
        "do tangent scores see unseen, printed and foreign images",
    ),
    "alignment": ("alignment", "what training does to the alignment of the kernel with the labels"),
    "monitors": (
        "monitors.experiment",
        "do monitors find planted faults, how soon, where, and how often do they cry wolf",
    ),
    "path-costs": ("path_costs.experiment", "memory and time of recording, taping and replaying"),
}


def experiment(name: str) -> Callable[..., Outcome]:
    """The function that runs an experiment.

    Raises:
        InputError: there is none of that name, or its module is not part of this installation.
    """
    if name not in EXPERIMENTS:
        near = get_close_matches(str(name).lower().replace("_", "-"), EXPERIMENTS, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"there is no experiment {name!r}{meant}; there are {', '.join(EXPERIMENTS)}")
    home = f"genkernel.experiments.{EXPERIMENTS[name][0]}"
    try:
        run: Callable[..., Outcome] = import_module(home).run
    except ModuleNotFoundError as error:
        if not f"{home}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"the experiment {name!r} is not part of this installation ({home} is missing)") from error
    return run
