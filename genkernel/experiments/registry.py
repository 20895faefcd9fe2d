"""Which experiments there are, and how to run one."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from genkernel.errors import InputError
from genkernel.experiments.outcome import Outcome


class Study(NamedTuple):
    """An experiment of the list.

    Attributes:
        module: below ``genkernel.experiments``; it has ``run(*, quick: bool, seed: int, progress: bool) -> Outcome``.
        about: one line.
        minutes: of one processor for the full run, as measured (benchmarks/experiments/times.json).
    """

    module: str
    about: str
    minutes: int


EXPERIMENTS: dict[str, Study] = {
    "linear-machines": Study(
        "linear_machines.experiment",
        "networks whose tangent kernel is known: the formula exact, the kernel a cosine",
        1,
    ),
    "domingos": Study("domingos", "the formula of path kernels: how exact, for which step sizes and widths", 3),
    "ball-sphere": Study(
        "ball_sphere.experiment", "a ball against a sphere, and two sides of a line: neighbours, linear separability", 2
    ),
    "neighbours": Study(
        "neighbours.experiment", "who is near in the tangent kernel while a network learns, with four optimizers", 3
    ),
    "regression-kernels": Study(
        "regression_kernels.experiment", "tangent kernels of a smooth and of a broken function of one variable", 1
    ),
    "class-kernels": Study(
        "class_kernels.experiment", "kernels of digits and of colour images before and after training", 2
    ),
    "tangent-svm": Study(
        "tangent_svm.experiment", "linear machines on tangent features against RBF on the points, with controls", 2
    ),
    "tangent-map": Study(
        "tangent_map.experiment", "maps of tangent features: classes that were learned, and classes that were not", 3
    ),
    "extrapolation": Study(
        "extrapolation.experiment", "printed digits and letters: does the kernel's similarity tell the accuracy", 8
    ),
    "cka-accuracy": Study(
        "cka_accuracy.experiment", "does alignment with the labels tell accuracy, over architectures", 3
    ),
    "invariances": Study("invariances.experiment", "which symmetries of a network its kernel inherits", 2),
    "line-filling": Study(
        "line_filling.experiment", "a network that could fill segments perfectly: does training find it", 8
    ),
    "shape-filling": Study(
        "shape_filling.experiment", "a U-Net that fills shapes: interpolation, and failure on harder shapes", 3
    ),
    "two-peaks": Study(
        "two_peaks.experiment",
        "sequences with peaks: what kernel and tangent map say about the rule that was learned",
        4,
    ),
    "noise-locality": Study(
        "noise_locality.experiment", "how local in noise level denoisers are, and what makes them so", 14
    ),
    "contrast": Study(
        "contrast.experiment", "denoisers beside GANs: which parts of the data does a correction reach", 8
    ),
    "optimizers": Study(
        "path_optimizers", "does every optimizer's path add up, and at which order of the step size", 3
    ),
    "weak-error": Study(
        "weak_error.experiment", "how far the stochastic differential equations are from the optimizers they model", 6
    ),
    "retraining": Study(
        "retraining.experiment", "how well contributions predict trainings without some of the data", 6
    ),
    "what-if": Study(
        "what_if.experiment", "do contributions foresee what other loss weightings of a diffusion model do", 79
    ),
    "rank-gap": Study("rank_gap.experiment", "which directions new samples need that training samples never showed", 4),
    "null-space": Study("null_space.experiment", "where the residual of a finished training lies", 3),
    "eigenlearning": Study(
        "eigenlearning.experiment", "errors of kernel regression and of networks, predicted from eigenvalues alone", 6
    ),
    "lazy-limit": Study("lazy_limit", "how fast networks become kernel machines as they get wider", 3),
    "effective-gram": Study(
        "effective_gram.experiment", "test losses predicted by the effective Gram matrix, and what they are", 25
    ),
    "out-of-distribution": Study(
        "out_of_distribution.experiment", "do tangent scores see unseen, printed and foreign images", 11
    ),
    "alignment": Study("alignment", "what training does to the alignment of the kernel with the labels", 4),
    "monitors": Study(
        "monitors.experiment", "do monitors find planted faults, how soon, where, and how often do they cry wolf", 75
    ),
    "path-costs": Study("path_costs.experiment", "memory and time of recording, taping and replaying", 5),
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
    home = f"genkernel.experiments.{EXPERIMENTS[name].module}"
    try:
        run: Callable[..., Outcome] = import_module(home).run
    except ModuleNotFoundError as error:
        if not f"{home}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"the experiment {name!r} is not part of this installation ({home} is missing)") from error
    return run
