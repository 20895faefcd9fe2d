"""What if the noise levels had been weighted otherwise? Forecasts against trainings that really were.

From one state (weights and AdamW's moments) of a DDPM's training, T steps under each of several weightings of the noise
levels, with the same batches and noise, and the change of every level's loss on held-out images. Forecast beforehand in
two ways (:mod:`genkernel.experiments.what_if.weightings`): from the gradients at the state, to first order, and from
what every bucket contributed along one recorded continuation. Beside both stands a rule of thumb: a level gains by its
own weight. Whether a forecast that is conditional on one path says anything of other paths is what this measures.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import MissingError
from genkernel.experiments.outcome import Claim, Outcome, Table, adds_up
from genkernel.experiments.rank_agreement import agreement, difference, pooled
from genkernel.experiments.recorded_training import UNFINISHED, claim_folder, load_training, save_training
from genkernel.experiments.replicates import above

if TYPE_CHECKING:
    from genkernel.diffusion.contributions import NoiseBuckets
    from genkernel.experiments.what_if.weightings import Baseline, Forecast, HeldOut, State
    from genkernel.models.ddpm import DDPMRecipe, DDPMTraining

Array = NDArray[np.float64]

CONTRIBUTIONS, INTERFERENCE, OWN = "contributions", "interference", "own weight"
NOISE, SEEN = 20_011, 30_011  # seeds of the noise of held-out and of training images


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the recipe and the images.

    Attributes:
        levels: buckets of noise levels.
        warmup: steps before the state, where none is given.
        horizon: T, steps of every continuation.
        per_level: held-out noisy images of each level.
        seen: noisy training images of each level, for the gradients at the state.
        boosted, without: levels that alone count four times as much, or not at all.
        count: images that are made up, where none are given.
    """

    levels: int = 8
    warmup: int = 1000
    horizon: int = 200
    per_level: int = 48
    seen: int = 192
    boosted: tuple[int, ...] = (0, 1, 3, 5, 7)
    without: tuple[int, ...] = (0, 4)
    count: int = 2000
    resamples: int = 1000


QUICK = Setting(
    warmup=100, horizon=20, per_level=16, seen=32, boosted=(0, 2, 5, 7), without=(0,), count=256, resamples=200
)


@dataclass
class _Study:
    """One training at its state, with all that forecasts and continuations need."""

    training: DDPMTraining
    first: int
    state: State
    levels: NoiseBuckets
    held_out: HeldOut
    seen: HeldOut
    weights: dict[str, Array] = field(default_factory=dict)


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    images: Any = None,
    state: str | Path | None = None,
    work: str | Path | None = None,
    recipe: DDPMRecipe | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Forecasts of other weightings of the noise levels, against what these came to.

    Args:
        images: as :func:`genkernel.load_images` takes them; made-up ones by default. The last sixth is held out.
        state: a folder with the ``training.pt`` of an unfinished run (of ``train_ddpm`` or ``record_ddpm``) with this
            recipe; the training is warmed up by default.
        work: where the state and every continuation are kept, so that a second call goes on where this one ended.
        recipe: of the DDPM.
        setting: sizes.

    Raises:
        InputError: ``work`` holds another study, or a state cannot be loaded.
        MissingError: ``state`` holds no unfinished run.
    """
    from tqdm import tqdm

    from genkernel.models.ddpm import DDPMRecipe
    from genkernel.plots.prediction import what_if

    setting = setting or (QUICK if quick else Setting())
    if recipe is None:
        recipe = DDPMRecipe(size=8, widths=(16, 16), batch=16, warmup=20, seed=seed) if quick else DDPMRecipe(seed=seed)
    pictures = _images(images, recipe, setting, seed)
    folder = Path(work) if work is not None else None
    _identify(folder, recipe, setting, pictures, state)
    steps = (0 if state is not None else setting.warmup) + setting.horizon
    with tqdm(total=steps, disable=not progress, desc="what-if: state and recording") as bar:
        study = _prepared(pictures, recipe, setting, state, folder, bar)
        before = study.held_out.losses(study.training.unet)
        baseline = _baseline(study, setting, folder, bar)
    study.state.restore()
    forecasts = _forecasts(study, baseline)
    changes = {}
    with tqdm(total=len(study.weights) * setting.horizon, disable=not progress, desc="what-if: continuations") as bar:
        for name in study.weights:
            changes[name] = _changed(study, name, before, setting, folder, bar)
    study.state.restore()
    return _outcome(study, setting, recipe, before, baseline, forecasts, changes, quick, seed, what_if)


# ------------------------------------------------------------------------------------ parts


def _images(images: Any, recipe: DDPMRecipe, setting: Setting, seed: int) -> Tensor:
    from genkernel.data import load_images
    from genkernel.experiments.what_if.weightings import blobs

    if images is None:
        return blobs(setting.count, recipe.size, seed).expand(-1, recipe.channels, -1, -1).contiguous()
    return load_images(images, size=recipe.size, channels=recipe.channels, split="train").images


def _identify(
    folder: Path | None, recipe: DDPMRecipe, setting: Setting, images: Tensor, state: str | Path | None
) -> None:
    """Refuse a folder with another study in it."""
    from genkernel.runs import data_sha256

    if folder is None:
        return
    given = None if state is None else torch.from_numpy(np.fromfile(_unfinished(state), np.uint8))
    mine = {
        "recipe": asdict(recipe),
        # the bootstrap is done anew every time
        "setting": {name: value for name, value in asdict(setting).items() if name != "resamples"},
        "images": data_sha256(images),
        "state": None if given is None else data_sha256(given),
    }
    claim_folder(folder, mine, "the continuations of another state")


def _unfinished(folder: str | Path) -> Path:
    path = Path(folder) / UNFINISHED
    if not path.is_file():
        raise MissingError(f"there is no unfinished run at {folder} ({UNFINISHED} is missing)")
    return path


def _prepared(
    images: Tensor, recipe: DDPMRecipe, setting: Setting, state: str | Path | None, folder: Path | None, bar: Any
) -> _Study:
    from genkernel.diffusion.contributions import NoiseBuckets
    from genkernel.experiments.what_if.weightings import HeldOut, State, weightings
    from genkernel.models.ddpm import DDPMTraining
    from genkernel.workflows import wrap

    kept = len(images) - len(images) // 6
    training = DDPMTraining(images[:kept], recipe)
    own = folder / "state.pt" if folder is not None else None
    if state is not None:
        first = load_training(_unfinished(state), training.parts).step
    elif own is not None and own.is_file():
        first = load_training(own, training.parts).step
        bar.update(first)
    else:
        for step in range(setting.warmup):
            training.descend(training.batch(step))
            bar.update()
        first = setting.warmup
        if own is not None:
            save_training(own, training.parts, first)
    levels = NoiseBuckets(wrap(training.unet, scheduler=training.scheduler).schedule, setting.levels)
    training.unet.train()
    return _Study(
        training,
        first,
        State(training),
        levels,
        HeldOut(training, images[kept:], levels, setting.per_level, NOISE),
        HeldOut(training, images[:kept], levels, setting.seen, SEEN),
        weightings(levels, setting.boosted, setting.without),
    )


def _baseline(study: _Study, setting: Setting, folder: Path | None, bar: Any) -> Baseline:
    from genkernel.experiments.what_if.weightings import Baseline, recorded
    from genkernel.paths import PathDecomposition
    from genkernel.runs import read_json, write_atomic

    numbers = folder / "baseline.json" if folder is not None else None
    if folder is not None and numbers is not None and numbers.is_file():
        found = read_json(numbers)
        bar.update(setting.horizon)
        parts = PathDecomposition.load(folder / "baseline.npz")
        return Baseline(parts, found["rates"], found["clips"], np.array(found["mass"]))
    baseline = recorded(study.training, study.first, setting.horizon, study.levels, study.held_out, bar.update)
    if folder is not None and numbers is not None:
        baseline.parts.save(folder / "baseline.npz")
        rows = {"rates": baseline.rates, "clips": baseline.clips, "mass": baseline.mass.tolist()}
        write_atomic(numbers, json.dumps(rows) + "\n")
    return baseline


def _forecasts(study: _Study, baseline: Baseline) -> dict[str, Forecast]:
    from genkernel.experiments.what_if.weightings import Forecast, by_contributions, by_interference

    count = study.levels.count
    return {
        CONTRIBUTIONS: by_contributions(baseline, count),
        INTERFERENCE: by_interference(study.training, study.held_out, study.seen, baseline),
        OWN: Forecast(-np.eye(count), np.zeros(count)),
    }


def _changed(study: _Study, name: str, before: Array, setting: Setting, folder: Path | None, bar: Any) -> Array:
    """Change of every level's loss after a continuation ``[levels]``."""
    from genkernel.experiments.what_if.weightings import continued
    from genkernel.runs import read_json, write_atomic

    weights = study.weights[name]
    path = folder / f"weighting-{name.replace(' ', '-').replace('×', 'x')}.json" if folder is not None else None
    if path is not None and path.is_file():
        bar.update(setting.horizon)
        return np.array(read_json(path)["change"])
    study.state.restore()
    continued(study.training, study.first, setting.horizon, study.levels, weights, bar.update)
    change = study.held_out.losses(study.training.unet) - before
    if path is not None:
        row = {"weighting": name, "weights": weights.tolist(), "before": before.tolist(), "change": change.tolist()}
        write_atomic(path, json.dumps(row, indent=1) + "\n")
    return change


# ---------------------------------------------------------------------------------- results


def _outcome(
    study: _Study,
    setting: Setting,
    recipe: DDPMRecipe,
    before: Array,
    baseline: Baseline,
    forecasts: dict[str, Forecast],
    changes: dict[str, Array],
    quick: bool,
    seed: int,
    draw: Any,
) -> Outcome:
    names = list(study.weights)
    actual = np.stack([changes[name] for name in names])
    weights = np.stack([study.weights[name] for name in names])
    said = {name: forecast.of(weights) for name, forecast in forecasts.items()}
    uniform = names.index("uniform")
    others = [k for k in range(len(names)) if k != uniform]
    by_level: dict[str, Any] = {}
    against: dict[str, Any] = {}
    options = {"seed": seed, "resamples": setting.resamples}
    for name, rows in said.items():
        mean = agreement(rows, actual, **options)
        overall = pooled((rows - rows[uniform])[others], (actual - actual[uniform])[others], **options)
        against[name] = mean.numbers() | dict(zip(("overall", "overall_low", "overall_high"), overall, strict=True))
        by_level[name] = [
            agreement(rows[:, [k]], actual[:, [k]], **options).numbers() for k in range(study.levels.count)
        ]
    better = {
        f"{name} - {OWN}": difference(said[name], said[OWN], actual, **options)
        for name in (CONTRIBUTIONS, INTERFERENCE)
    }
    size = float(np.abs((actual - actual[uniform])[others]).mean())
    errors = {
        name: float(np.abs(((said[name] - said[name][uniform]) - (actual - actual[uniform]))[others]).mean()) / size
        for name in (CONTRIBUTIONS, INTERFERENCE)
    }
    table = Table(
        f"Change of the loss per level after {setting.horizon} steps (actual / by contributions / by interference), "
        "10⁻³",
        ("weighting", *(f"level {k}" for k in range(study.levels.count))),
        [
            (
                name,
                *(
                    " / ".join(
                        f"{1e3 * v:.2f}" for v in (actual[i, k], said[CONTRIBUTIONS][i, k], said[INTERFERENCE][i, k])
                    )
                    for k in range(study.levels.count)
                ),
            )
            for i, name in enumerate(names)
        ],
    )
    ranks = Table(
        "Rank correlation over the weightings of forecasts and actual changes (bootstrap over weightings); overall: of "
        "all differences to uniform weighting",
        ("forecast", "mean over levels", "2.5 %", "97.5 %", "overall", "2.5 %", "97.5 %", "Pearson", "slope"),
        [
            (
                name,
                *(
                    row[k]
                    for k in ("spearman", "low", "high", "overall", "overall_low", "overall_high", "pearson", "slope")
                ),
            )
            for name, row in against.items()
        ],
    )
    numbers = {
        "weightings": {name: study.weights[name].tolist() for name in names},
        "before": before.tolist(),
        "actual": actual.tolist(),
        "forecasts": {name: rows.tolist() for name, rows in said.items()},
        "effects": {name: forecast.effect.tolist() for name, forecast in forecasts.items()},
        "agreement": against,
        "by_level": by_level,
        "differences": {name: dict(zip(("spearman", "low", "high"), row, strict=True)) for name, row in better.items()},
        "relative_errors": errors,
        "gap": baseline.parts.gap_rel,
        "clipped": float(np.mean(np.array(baseline.clips) < 1)),
        "mass": baseline.mass.tolist(),
    }
    settings = asdict(setting) | {"recipe": asdict(recipe), "first": study.first, "seed": seed, "quick": quick}
    note = f"{setting.horizon} steps from step {study.first}, {len(names)} weightings, {setting.levels} levels"
    return Outcome(
        name="what-if",
        settings=settings,
        claims=_claims(against, errors, numbers, setting),
        tables=[ranks, table],
        figures={"what_if": draw(actual, said, by_level, against, uniform, {"seed": seed}, note)},
        numbers=numbers,
    )


def _claims(
    against: dict[str, Any], errors: dict[str, float], numbers: dict[str, Any], setting: Setting
) -> list[Claim]:
    def said(name: str) -> str:
        row = against[name]
        return (
            f"{row['spearman']:.2f} [{row['low']:.2f}, {row['high']:.2f}] per level, {row['overall']:.2f} "
            f"[{row['overall_low']:.2f}, {row['overall_high']:.2f}] overall"
        )

    better = numbers["differences"]
    return [
        Claim(
            "contributions of one recorded continuation, reweighted, rank what other weightings do in "
            f"{setting.horizon} steps (ours; they are conditional on the path, so nothing guarantees it)",
            f"Spearman {said(CONTRIBUTIONS)}; mean error {errors[CONTRIBUTIONS]:.2f} of the mean effect",
            "yes" if against[CONTRIBUTIONS]["low"] > 0.5 else "partly" if against[CONTRIBUTIONS]["low"] > 0 else "no",
        ),
        Claim(
            f"so does the interference of gradients at the state, to first order over {setting.horizon} steps",
            f"Spearman {said(INTERFERENCE)}; mean error {errors[INTERFERENCE]:.2f} of the mean effect",
            "yes" if against[INTERFERENCE]["low"] > 0.5 else "partly" if against[INTERFERENCE]["low"] > 0 else "no",
        ),
        Claim(
            "both say more than the rule that a level gains by its own weight (differences, by the paired bootstrap "
            "over weightings)",
            f"own weight: {said(OWN)}; more by "
            + ", ".join(
                f"{row['spearman']:.2f} [{row['low']:.2f}, {row['high']:.2f}] ({name.partition(' - ')[0]})"
                for name, row in better.items()
            ),
            above(*((row["low"], row["high"]) for row in better.values())),
        ),
        Claim(
            "the recorded contributions add up to the change of the losses (gap at most 1 %, partly: 5 %)",
            f"gap {numbers['gap']:.1e} of the change; {numbers['clipped']:.0%} of the steps were clipped",
            adds_up(numbers["gap"]),
        ),
    ]
