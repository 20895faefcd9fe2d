"""Claims, tables and figures of the study of diffusion beside GANs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.contrast.coupling import Coupled
from genkernel.experiments.contrast.found import Found
from genkernel.experiments.contrast.setting import (
    COLLAPSING,
    DENOISER,
    GAN,
    LEVELS,
    MODES,
    RECORDINGS,
    REGRESSION,
    SECTORS,
    STEPPED,
    STEPS,
    Setting,
)
from genkernel.experiments.outcome import Claim, Outcome, Table, adds_up, verdict
from genkernel.experiments.replicates import above, around, is_below, pair

Array = NDArray[np.float64]

MOSTLY, GLOBAL = 0.5, 0.8  # κ below the first: mostly local; above the second: global
MATTERS = 0.05  # differences below it are too small to speak of
WHEN = {
    "start": "one step, untrained",
    "first": "first tenth",
    "last": "last tenth",
    "whole": "whole training",
    "end": "one step, trained",
}


class Read:
    """Numbers over seeds."""

    def __init__(self, found: list[Found], setting: Setting):
        self.found, self.setting = found, setting

    def kappa(
        self, model: str, blocks: str, when: str = "whole", kind: str = "gross", reach: int = 0, half: int | None = None
    ) -> Array:
        """κ ``[seeds]``; ``half``: the rows of low (0) or high (1) noise of a denoiser by modes."""
        count = self.setting.blocks
        some = slice(None) if half is None else slice(half * count, (half + 1) * count)
        return np.array([self._one(one, model, blocks, when, kind, reach, some) for one in self.found])

    def own(self, model: str, blocks: str) -> Array:
        """Median part of a row's change that its own block made ``[seeds]``."""
        return np.array([one.by[model, blocks]["whole"].own_signed() for one in self.found])

    def mean(self, model: str, blocks: str, when: str = "whole") -> Array:
        """Mean over seeds of the shares of gross contributions; rows of the same block are averaged."""
        full = np.full((len(self.found), self.setting.blocks, self.setting.blocks), np.nan)
        for k, one in enumerate(self.found):
            coupled = one.by[model, blocks][when]
            for block in set(coupled.rows):
                full[k, block] = coupled.gross[np.array(coupled.rows) == block].mean(0)
        with np.errstate(invalid="ignore"):
            seen = ~np.isnan(full)
            return np.where(seen, full, 0).sum(0) / np.maximum(seen.sum(0), 1)

    @staticmethod
    def _one(one: Found, model: str, blocks: str, when: str, kind: str, reach: int, some: slice) -> float:
        coupled: Coupled | None = one.by[model, blocks].get(when)
        return float("nan") if coupled is None else coupled.kappa(kind, reach, some)


def larger(*differences: Array) -> str:
    """The verdict on all differences being above :data:`MATTERS`; "no" of one that is surely too small to matter."""
    return above(*map(around, differences), level=MATTERS)


def claims_of(read: Read) -> list[Claim]:
    """What was put to the test; all differences are paired over seeds."""
    k = read.kappa
    levels, latents, modes = k(DENOISER, LEVELS), k(GAN, SECTORS), k(GAN, MODES)
    own_modes = k(DENOISER, MODES)
    by_hand = {SECTORS: k(REGRESSION, SECTORS), MODES: k(REGRESSION, MODES)}
    from_discriminator = {SECTORS: latents - by_hand[SECTORS], MODES: modes - by_hand[MODES]}
    gained = k(DENOISER, LEVELS, "start") - k(DENOISER, LEVELS, "end")
    coupled = {b: k(GAN, b, "end") - k(GAN, b, "start") for b in (SECTORS, MODES)}
    plain = k(DENOISER, LEVELS, "end")
    steps = {name: plain - k(DENOISER, LEVELS, f"end, {name}") for name in STEPS if name != "plain"}
    net = {b: k(GAN, b, kind="net") - k(DENOISER, LEVELS, kind="net") for b in (SECTORS, MODES)}
    owned = read.own(DENOISER, LEVELS) - read.own(GAN, SECTORS)
    gaps = [c["whole"].gap for one in read.found for c in one.by.values()]
    collapse = k(COLLAPSING, SECTORS) - latents
    return [
        Claim(
            "corrections of a denoiser are local in noise level (Guo, He, Morel, sections 4.1 and 4.3; κ of gross "
            f"contributions below 1, and mostly local: below {MOSTLY})",
            f"κ = {pair(levels)}; with the neighbouring levels as own {pair(k(DENOISER, LEVELS, reach=1))}",
            verdict(is_below(around(levels), level) for level in (1.0, MOSTLY)),
        ),
        Claim(
            f"corrections of a GAN are coupled globally (same section; κ above {GLOBAL} for latent sectors and for "
            "modes)",
            f"latent sectors κ = {pair(latents)}, modes {pair(modes)}; with neighbours as own "
            f"{pair(k(GAN, SECTORS, reach=1))} and {pair(k(GAN, MODES, reach=1))}",
            above(around(latents), around(modes), level=GLOBAL),
        ),
        Claim(
            "GANs are more coupled than denoisers, as the paper compares them (GAN by latent sector, and by mode, "
            f"minus denoiser by noise level: by more than {MATTERS})",
            f"by sector {pair(latents - levels)}, by mode {pair(modes - levels)}",
            larger(latents - levels, modes - levels),
        ),
        Claim(
            f"… after cancellation over time as well (net contributions, by more than {MATTERS})",
            "; ".join(f"{name} {pair(each)}" for name, each in net.items()),
            larger(*net.values()),
        ),
        Claim(
            "… and in what of the change a block made itself (signed; denoiser by noise level minus GAN by sector: by "
            f"more than {MATTERS})",
            f"{pair(owned)}: denoiser {pair(read.own(DENOISER, LEVELS))}, GAN {pair(read.own(GAN, SECTORS))}; "
            f"{1 / read.setting.blocks:.3f} if blocks did not matter",
            larger(owned),
        ),
        Claim(
            "that is a contrast of the two kinds of models, not of noise levels with other blocks (ours: both by the "
            f"mode of the ring, GAN minus denoiser: by more than {MATTERS})",
            f"{pair(modes - own_modes)}: denoiser {pair(own_modes)} (low noise {pair(k(DENOISER, MODES, half=0))}, "
            f"high noise {pair(k(DENOISER, MODES, half=1))}), GAN {pair(modes)}",
            larger(modes - own_modes),
        ),
        Claim(
            "the coupling comes through the discriminator (same section; GAN minus the same generator on fixed "
            f"targets: by more than {MATTERS})",
            "; ".join(
                f"{name} {pair(each)} (regression {pair(by_hand[name])})" for name, each in from_discriminator.items()
            ),
            larger(*from_discriminator.values()),
        ),
        Claim(
            "training makes the denoiser local (one plain step on many samples: untrained minus trained, by more than "
            f"{MATTERS})",
            f"{pair(gained)}: untrained {pair(k(DENOISER, LEVELS, 'start'))}, trained {pair(plain)}",
            larger(gained),
        ),
        Claim(
            "the locality in noise level of the denoiser's training comes with small batches, and with Adam (ours; at "
            f"the trained weights, one plain step on {read.setting.once} samples minus one with either, above 0)",
            "; ".join(f"{name} {pair(each)}" for name, each in steps.items()) + f". Plain {pair(plain)}",
            above(around(steps["plain, small batches"]), around(steps["Adam"])),
        ),
        Claim(
            "training couples the GAN (one plain step: trained minus untrained, whose discriminator was trained "
            f"against it; by more than {MATTERS})",
            "; ".join(
                f"{name} {pair(each)} (untrained {pair(k(GAN, name, 'start'))}, trained {pair(k(GAN, name, 'end'))})"
                for name, each in coupled.items()
            ),
            larger(*coupled.values()),
        ),
        Claim(
            "coupling goes with collapse (Remark 4.1; collapsing minus healthy GAN, latent sectors: by more than "
            f"{MATTERS})",
            f"{pair(collapse)}: collapsing {pair(k(COLLAPSING, SECTORS))} ({_covered(read, COLLAPSING)}), healthy "
            f"{pair(latents)} ({_covered(read, GAN)})",
            larger(collapse),
        ),
        Claim(
            "changes of outputs are the sum of what the blocks did to them (Cor. 4.1 and 4.2; gap at most 1 %, "
            "partly: 5 %)",
            f"largest gap of {len(gaps)} recordings {max(gaps):.2%}, median {np.median(gaps):.2%}",
            adds_up(max(gaps)),
        ),
    ]


def _covered(read: Read, model: str) -> str:
    modes = [one.coverage[model][0] for one in read.found]
    share = [one.coverage[model][1] for one in read.found]
    return f"{min(modes)} to {max(modes)} modes, {np.mean(share):.0%} good samples"


def outcome_of(found: list[Found], setting: Setting, settings: dict[str, Any]) -> Outcome:
    """Everything that the seeds say."""
    from genkernel.plots import contrast as plots

    read = Read(found, setting)
    means = f"mean ± standard error over {len(found)} seeds"
    table = Table(
        f"Coupling κ of gross contributions: 0 block-diagonal, 1 as if blocks did not matter ({means})",
        ("model", "blocks", *WHEN.values(), "whole, neighbours as own", "whole, net", "own part of the change, signed"),
        [
            (
                model,
                blocks,
                *(_said(read.kappa(model, blocks, when)) for when in WHEN),
                _said(read.kappa(model, blocks, reach=1)),
                _said(read.kappa(model, blocks, kind="net")),
                _said(read.own(model, blocks)),
            )
            for model, blocks in RECORDINGS
        ],
    )
    single = Table(
        f"κ of single steps: plain or as Adam takes them, on {setting.once} samples at once or in batches of "
        f"{setting.batch} ({means})",
        ("model", "blocks", "network", *STEPS, "a tenth of the training beside it"),
        [
            (
                model,
                blocks,
                "untrained" if when == "start" else "trained",
                *(_said(read.kappa(model, blocks, when if name == "plain" else f"{when}, {name}")) for name in STEPS),
                _said(read.kappa(model, blocks, beside)),
            )
            for model, blocks in STEPPED
            for when, beside in (("start", "first"), ("end", "last"))
        ],
    )
    quality = Table(
        "What was learned",
        ("model", "parameters", "modes covered", "good samples", "loss before", "loss after"),
        [],
    )
    for model in (DENOISER, GAN, REGRESSION, COLLAPSING):
        size = found[0].parameters[DENOISER if model == DENOISER else GAN]
        covered = [one.coverage.get(model) for one in found]
        losses = [one.losses.get(model) for one in found]
        quality.rows.append((
            model, size,
            pair([c[0] for c in covered if c]) if covered[0] else None,
            pair([c[1] for c in covered if c]) if covered[0] else None,
            *(pair([pair_of[i] for pair_of in losses if pair_of]) if losses[0] else None for i in range(2)),
        ))  # fmt: skip
    meta = {"seed": settings["seed"]}
    note = f"mean and 95 % over {len(found)} seeds"
    rows = {
        f"{model}, {blocks}": {when: read.kappa(model, blocks, when) for when in ("start", "whole", "end")}
        for model, blocks in RECORDINGS
    }
    steps = {
        f"{model}, {name}": {
            when: read.kappa(model, blocks, when if name == "plain" else f"{when}, {name}") for when in ("start", "end")
        }
        for model, blocks in STEPPED
        for name in STEPS
    }
    maps = {f"{model}, {blocks}": read.mean(model, blocks) for model, blocks in RECORDINGS if model != COLLAPSING}
    return Outcome(
        "contrast",
        settings,
        claims_of(read),
        [table, single, quality],
        {
            "contrast": plots.couplings(rows, steps, {k: WHEN[k] for k in ("start", "whole", "end")}, meta, note),
            "contrast-maps": plots.block_maps(maps, meta, f"means over {len(found)} seeds"),
        },
        {
            "kappa": {
                f"{model}, {blocks}": {
                    f"{kind}, {when}": read.kappa(model, blocks, when, kind).tolist()
                    for kind in ("gross", "net")
                    for when in WHEN
                }
                | {"gross, whole, neighbours": read.kappa(model, blocks, reach=1).tolist()}
                | {"own signed": read.own(model, blocks).tolist()}
                | {
                    f"gross, {when}, {name}": read.kappa(model, blocks, f"{when}, {name}").tolist()
                    for when in ("start", "end")
                    for name in STEPS
                    if (model, blocks) in STEPPED and name != "plain"
                }
                for model, blocks in RECORDINGS
            },
            "matrices": {f"{m}, {b}": read.mean(m, b).tolist() for m, b in RECORDINGS},
            "masses": {f"{m}, {b}": found[0].by[m, b]["whole"].mass.tolist() for m, b in RECORDINGS},
            "coverage": [one.coverage for one in found],
            "losses": [one.losses for one in found],
            "gaps": [{f"{m}, {b}": c["whole"].gap for (m, b), c in one.by.items()} for one in found],
        },
    )


def _said(values: Array) -> str | None:
    return None if np.isnan(values).all() else pair(values)
