"""The rank gap: what new samples need that training samples never showed, on a line and on digits.

Section 5.4 of Guo, He, Morel: f = Σ_j a_j relu(x + b_j) with five units is trained on [-1, 1] and tested on [-2, 2].
A unit whose threshold -b_j is beyond the training interval has no gradient there: two directions, a_j and b_j, are in
the features of test points alone. Their target did not survive in the text; ours are three, one of which drives
thresholds out of the interval. Then digits: a tanh network learns nine classes of small MNIST images, and meets
held-out digits, the class that was left out, and Fashion-MNIST.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from genkernel.experiments.outcome import Outcome
from genkernel.experiments.rank_gap.images import digits
from genkernel.experiments.rank_gap.line import RATE, TARGETS, THRESHOLDS, descend
from genkernel.experiments.rank_gap.outcome import on_images, on_the_line
from genkernel.experiments.rank_gap.setting import QUICK, Setting


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Rank gaps of five ReLUs and of networks on digits, over training.

    Args:
        data: a folder with ``mnist.npz`` and ``fashion-mnist.npz``; without it nothing is said about images.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold them.
    """
    from tqdm import tqdm

    from genkernel.experiments.shrunk_images import require

    if data is not None:
        require(data, "mnist", "fashion-mnist")
    setting = setting or (QUICK if quick else Setting())
    outcome = Outcome(
        "rank-gap", asdict(setting) | {"quick": quick, "seed": seed, "rate": RATE, "data": data is not None}
    )
    counts = (setting.few, setting.many)
    trainings = [(n, seed + k) for n in counts for k in range(setting.image_seeds)] if data is not None else []
    with tqdm(total=len(TARGETS) + len(trainings), disable=not progress, desc="rank-gap") as bar:
        lines = {}
        for name in TARGETS:
            lines[name] = {regime: descend(name, regime, setting, seed) for regime in THRESHOLDS}
            bar.update()
        on_the_line(outcome, lines, setting, seed)
        images = []
        for n, one in trainings:
            images.append(digits(data or "", n, setting, one))
            bar.update()
    on_images(outcome, images, setting, seed)
    return outcome
