"""The rules that a monitor asks unless it is given others."""

from __future__ import annotations

from typing import Literal

from genkernel.errors import InputError
from genkernel.monitor.rules.change_point import ChangePoint, Transform
from genkernel.monitor.rules.class_left_behind import ClassLeftBehind
from genkernel.monitor.rules.facts import NonFinite, StillAverage
from genkernel.monitor.rules.fast_parameters import FastParameters
from genkernel.monitor.rules.label_noise import LabelNoise
from genkernel.monitor.rules.lagging_level import LaggingLevel
from genkernel.monitor.rules.lost_region import LostRegion
from genkernel.monitor.rules.rule import Rule
from genkernel.monitor.rules.told_time import TimeIgnored, ToldTime
from genkernel.monitor.rules.training_loss import TrainingLoss
from genkernel.monitor.rules.undrawn import RareClass, UndrawnLevels
from genkernel.monitor.rules.unlearned_class import UnlearnedClass
from genkernel.monitor.rules.unreached_regions import UnreachedRegions

LEAST = 0.2  # of a logarithm: a smaller change of a loss is not worth a message
FLOORS: dict[Transform, float] = {"log": 0.05, "as it is": 0.0}  # the same for the numbers of a GAN


def default_rules(kind: str) -> list[Rule]:
    """For ``"denoiser"``, ``"gan"`` or ``"classifier"``.

    Raises:
        InputError: another kind.
    """
    if kind not in ("denoiser", "gan", "classifier"):
        raise InputError(f"there are rules for a denoiser, a gan and a classifier, not for {kind!r}")
    common: list[Rule] = [NonFinite(), FastParameters(), StillAverage(), TrainingLoss(both=kind == "gan")]
    own = {"denoiser": _denoiser, "gan": _gan, "classifier": _classifier}
    return common + own[kind]()


def _denoiser() -> list[Rule]:
    return [
        ToldTime(),
        TimeIgnored(),
        UndrawnLevels(),
        LaggingLevel(),
        RareClass(),
        UnlearnedClass(),
        ChangePoint(
            "loss rises",
            "loss/mean",
            1,
            "step {step}: the loss on the probes rises, from {before:.3g} to {now:.3g} since step {since}.",
            transform="log",
            floor=LEAST,
        ),
        ChangePoint(
            "loss rises at a noise level",
            "loss/level",
            1,
            "step {step}: the loss at {place} rises, from {before:.3g} to {now:.3g} since step {since}.",
            transform="log",
            floor=LEAST,
        ),
    ]


def _gan() -> list[Rule]:
    says = "step {{step}}: {0}, from {{before:.3g}} to {{now:.3g}} since step {{since}}. {1}"
    changes = [
        ChangePoint(
            name,
            of,
            direction,
            says.format(what, advice),
            transform=transform,
            floor=FLOORS[transform],
        )
        for name, of, direction, transform, what, advice in _OF_GANS
    ]
    return [LostRegion(), UnreachedRegions(), *changes]


_LOSING = "Modes are being lost."
_STRONG = (
    "The discriminator is becoming too strong: lower its learning rate or the number of its steps, or penalise it."
)
_WEAK = "The discriminator is falling behind: the generator changes faster than it can follow."
_OF_GANS: list[tuple[str, str, Literal[-1, 1], Transform, str, str]] = [
    ("regions fall away", "samples/effective_clusters", -1, "log", "samples reach fewer regions effectively", _LOSING),
    ("samples draw together", "samples/relative_diversity", -1, "log", "samples lie closer to each other", _LOSING),
    (
        "latents move as one",
        "kernel/mean",
        1,
        "as it is",
        "the mean cosine of the kernel between latents rises",
        "A correction at one latent moves all others: an early sign of a collapse.",
    ),
    (
        "latents are folded",
        "jacobian/condition",
        1,
        "as it is",
        "log10 of the condition number of dG/dz rises",
        "Directions of latent space stop mattering.",
    ),
    ("drive grows", "drive/norm", 1, "log", "the gradient that the discriminator sends grows", _STRONG),
    (
        "drive fades",
        "drive/norm",
        -1,
        "log",
        "the gradient that the discriminator sends fades",
        "The generator learns less and less: the discriminator is saturated, flat, or fooled.",
    ),
    ("generator loss rises", "loss/generator", 1, "as it is", "the generator's loss rises", _STRONG),
    ("generator loss falls", "loss/generator", -1, "as it is", "the generator's loss falls", _WEAK),
    ("discriminator loss falls", "loss/discriminator", -1, "as it is", "the discriminator's loss falls", _STRONG),
    ("discriminator loss rises", "loss/discriminator", 1, "as it is", "the discriminator's loss rises", _WEAK),
    ("logits drift apart", "discriminator/gap", 1, "as it is", "logits of real and generated drift apart", _STRONG),
    ("told apart", "discriminator/separation", 1, "as it is", "the discriminator tells more samples apart", _STRONG),
]


def _classifier() -> list[Rule]:
    rises = "step {{step}}: the loss on {0} rises, from {{before:.3g}} to {{now:.3g}} since step {{since}}. {1}"
    return [
        RareClass(),
        ClassLeftBehind(),
        LabelNoise(),
        ChangePoint("loss rises", "loss/mean", 1, rises.format("the probes", ""), transform="log", floor=LEAST),
        ChangePoint(
            "held-out loss rises",
            "loss/holdout",
            1,
            rises.format("held-out samples", "The network begins to learn its training samples by heart."),
            transform="log",
            floor=LEAST,
        ),
        ChangePoint(
            "labels fade from the kernel",
            "kernel/label_alignment",
            -1,
            "step {step}: the alignment (CKA) of the kernel with the labels falls, from {before:.3g} to {now:.3g} "
            "since step {since}.",
            floor=0.1,
        ),
    ]
