"""Linear machines on tangent features beside RBF machines on the points, with controls.

Figure 3 and section 5.2 of Guo, He & Morel: is a point inside of a circle, or of an ellipse? A linear support vector
machine on tangent features of a trained network is held against an RBF machine on the points. Network, radii, number of
points and the machines' constants did not survive in the text. Ours: circle and ellipse of one area (half-axes 0.5, and
0.9 and 0.278) in the square [-1, 1]², 200 training points, half of them inside, the three-layer GELU network with
squared loss and full-batch Adam. Constants are chosen on 200 other points, which neither networks nor machines saw.
Controls: the untrained network, networks trained on permuted labels, the kernel without the last layer, an RBF machine
whose constants are chosen in the same way, machines with the usual constants, and the network itself.
"""

from __future__ import annotations

from dataclasses import asdict

from genkernel.experiments.outcome import Outcome
from genkernel.experiments.tangent_svm.outcome import told
from genkernel.experiments.tangent_svm.setting import QUICK, TASKS, Setting
from genkernel.experiments.tangent_svm.task import Answers, answers


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """Boundaries, accuracies and areas of all machines on circle and ellipse.

    Args:
        quick: two seeds, fewer points and steps.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    found: dict[str, Answers] = {}
    for task, axes in tqdm(TASKS.items(), disable=not progress, desc="tangent-svm"):
        found[task] = answers(axes, setting, seed)
    settings = asdict(setting) | {
        "seed": seed,
        "quick": quick,
        "tasks": {name: list(axes) for name, axes in TASKS.items()},
    }
    return told(Outcome("tangent-svm", settings), found, setting, seed)
