"""Sequences with peaks: is the central place inside, and what tangent kernels say about the rule that was learned.

Section 6.3 of Courtois et al., *Can neural networks extrapolate?*. With two peaks the centre is inside if there is one
in either half; full-batch gradient descent on a three-layer GELU network (section 5.1) is right on seen and unseen
sequences, its tangent features fall into three places, and the nearest sequences in the normalised kernel share exactly
one peak. With more peaks gradient descent fails outside of the training set, and Adam, for which the paper has no
theorem, is said to mend it. Here the Adam trainings are taped and replayed, which takes their predictions apart: what
did training sequences that share peaks with an unseen one do to it?

The length, the numbers of sequences, the width, the rate and the number of steps did not survive in the text; ours are
in :class:`Setting`. The length is even, and the centre is the last place of the first half.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from genkernel.experiments.outcome import Outcome
from genkernel.experiments.two_peaks import task
from genkernel.experiments.two_peaks.outcome import report
from genkernel.experiments.two_peaks.setting import QUICK, Setting


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None) -> Outcome:
    """Two peaks by gradient descent, more peaks by both optimizers, and Adam taken apart.

    Args:
        quick: short sequences, few seeds.
        seed: the first of the seeds.
        progress: show a progress bar.
        setting: sizes.
    """
    from tqdm import tqdm

    setting = setting or (QUICK if quick else Setting())
    trainings = [("SGD", case) for case in setting.by_descent] + [("Adam", case) for case in setting.by_adam]
    apart = [(case, seed + s) for case in setting.recorded for s in range(setting.recorded_seeds)]
    with tqdm(total=1 + setting.seeds + len(trainings) + len(apart), disable=not progress, desc="two-peaks") as bar:
        nets, data, fits = _pairs(setting, seed)
        bar.update()
        kernels = []
        for s, (net, one) in enumerate(zip(nets, data, strict=True)):
            kernels.append(_kernels(setting, net, one, seed + s, s < setting.maps))
            bar.update()
        compared: dict[str, dict[task.Case, list[dict[str, float]]]] = {"SGD": {}, "Adam": {}}
        for name, case in trainings:
            compared[name][case] = _compared(setting, name, case, seed)
            bar.update()
        parts: dict[task.Case, list[task.Parts]] = {case: [] for case in setting.recorded}
        for case, one_seed in apart:
            parts[case].append(task.recorded(setting, *case, one_seed))
            bar.update()
    outcome = Outcome("two-peaks", asdict(setting) | {"quick": quick, "seed": seed})
    report(outcome, setting, fits, kernels, compared, parts, seed)
    return outcome


def _pairs(setting: Setting, seed: int) -> tuple[list[torch.nn.Module], list[task.Data], list[dict[str, float]]]:
    """Networks trained on sequences with two peaks by gradient descent."""
    seeds = range(seed, seed + setting.seeds)
    data = [task.drawn(setting, 2, setting.samples, s) for s in seeds]
    starts = [task.network(setting.length, setting.width, s) for s in seeds]
    nets, fits = task.train_together(starts, data, torch.optim.SGD, setting.rate, setting.steps)
    return nets, data, fits


def _compared(setting: Setting, name: str, case: task.Case, seed: int) -> list[dict[str, float]]:
    seeds = range(seed, seed + setting.case_seeds)
    data = [task.drawn(setting, *case, s) for s in seeds]
    starts = [task.network(setting.length, setting.width, s) for s in seeds]
    if name == "Adam":
        return task.train_together(starts, data, torch.optim.Adam, setting.adam_rate, setting.adam_steps)[1]
    return task.train_together(starts, data, torch.optim.SGD, setting.rate, setting.steps)[1]


def _kernels(setting: Setting, net: torch.nn.Module, data: task.Data, seed: int, with_map: bool) -> dict[str, Any]:
    """What the kernels of a trained and of the untrained network say about sequences with two peaks."""
    from genkernel.spectra import embed, knn_label_agreement

    everything = torch.cat([data.x, data.new])
    n = len(data.x)
    place = task.regions(everything)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(seed))[: setting.shown]
    found: dict[str, Any] = {"maps": {}}
    for name, one in (("untrained", task.network(setting.length, setting.width, seed)), ("trained", net)):
        K = task.kernel(one, everything)
        cosines, values = K.normalized().values, K.values
        share, chance = task.nearest_share(cosines, everything, 2)
        nearest, _ = task.nearest_share(cosines, everything, 2, setting.neighbours)
        near = knn_label_agreement(K, place, setting.neighbours, points=everything)
        assert near.kernel is not None and near.euclidean is not None
        euclidean, chance_of_place = near.euclidean.value, near.chance
        found[name] = {
            "nearest": nearest,
            "one shared": share,
            "regions": near.kernel.value,
            "first neighbour": task.first_neighbour_accuracy(cosines[n:, :n], data.y, data.new_y),
            "regression": task.regression_accuracy(values[:n, :n], values[n:, :n], data.y, data.new_y),
            "pairs": task.by_pair(cosines, everything),
        }
        if with_map:
            plane = embed(values[order][:, order], "tsne", seed=seed)
            flat = knn_label_agreement(None, place[order], setting.neighbours, points=plane.points)
            assert flat.euclidean is not None
            found[name]["map"] = flat.euclidean.value
            found["maps"][name] = plane
            found["map chance"] = flat.chance
    similarity = task.shared(everything, everything).double() / 2
    found["pixels"] = {
        "nearest": task.nearest_share(similarity, everything, 2, setting.neighbours)[0],
        "one shared": task.nearest_share(similarity, everything, 2)[0],
        "regions": euclidean,
        "first neighbour": task.first_neighbour_accuracy(similarity[n:, :n], data.y, data.new_y),
        "regression": task.regression_accuracy(2 * similarity[:n, :n], 2 * similarity[n:, :n], data.y, data.new_y),
    }
    found["chance"] = {"one shared": chance, "regions": chance_of_place}
    found["places"] = place[order]
    return found
