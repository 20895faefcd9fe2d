"""A ball against a sphere, and two sides of a line: who is near, and what linear machines make of tangent features.

Sections 5.1 and 5.2 of Courtois et al., *Can neural networks extrapolate?*: a three-layer GELU network is trained by
full-batch gradient descent with constant rate on the mean squared error. The boundary that it finds, the 100 points
nearest to x0 = r u by the normalised kernel beside the Euclidean ones, and a linear support vector machine on the
tangent features beside the network's own decision; then the same network on two sides of a line, where the kernel's
neighbourhoods and its metric are measured across and along the line. Dimension 2 is the paper's; radii, numbers of
points, width, rate and steps did not survive in its text. Ours: a ball of radius 0.5 and a sphere of radius 1, 400
points, width 64, rate 0.05, 2500 steps. How exact the formula itself is: experiment ``domingos``.
"""

from __future__ import annotations

from dataclasses import asdict

from genkernel.experiments.ball_sphere.ball import ball
from genkernel.experiments.ball_sphere.line import line
from genkernel.experiments.ball_sphere.outcome import told
from genkernel.experiments.ball_sphere.setting import QUICK, Setting
from genkernel.experiments.outcome import Outcome


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """Neighbours, boundaries and the kernel's metric for both tasks.

    Args:
        quick: two seeds, fewer points and steps.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    with tqdm(total=2, disable=not progress, desc="ball-sphere") as bar:
        one = ball(setting, seed)
        bar.update()
        other = line(setting, seed)
        bar.update()
    outcome = Outcome("ball-sphere", asdict(setting) | {"seed": seed, "quick": quick})
    return told(outcome, one, other, setting, seed)
