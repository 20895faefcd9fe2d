"""The shipped GAN of digits: it is what it is said to be, and the first order predicts its steps."""

from __future__ import annotations

import functools
import json
import math

import pytest

import genkernel as gk
from genkernel import assets
from genkernel.gan import Generator
from genkernel.gan.one_step import OneStep, one_steps
from genkernel.models.gan_training import draw_samples
from genkernel.models.gans import GANRecipe
from genkernel.models.mnist_classifier import digit_coverage, load_classifier


@functools.cache
def shipped() -> Generator:
    return gk.load("dcgan-mnist")


def test_it_draws_all_digits_as_often_as_its_record_says() -> None:
    record = json.loads((assets.path("dcgan-mnist") / "training.json").read_text(encoding="utf-8"))
    counted = digit_coverage(load_classifier(assets.path("mnist-classifier")))
    found = counted(draw_samples(shipped().module, 1000, seed=3))
    assert found.modes == record["coverage"]["modes"] == 10
    assert found.share == pytest.approx(record["coverage"]["share"], abs=0.05)  # three standard errors


def test_its_record_builds_it_again() -> None:
    record = json.loads((assets.path("dcgan-mnist") / "training.json").read_text(encoding="utf-8"))
    generator, discriminator = GANRecipe(**{**record["recipe"], "betas": tuple(record["recipe"]["betas"])}).build()
    known = shipped()
    assert generator.state_dict().keys() == known.module.state_dict().keys()
    assert all(a.shape == b.shape for a, b in zip(generator.parameters(), known.module.parameters(), strict=True))
    assert known.discriminator is not None
    assert discriminator.state_dict().keys() == known.discriminator.module.state_dict().keys()


@functools.cache
def steps() -> list[OneStep]:
    gen = shipped()
    batch = gen.draw(24, seed=0)
    assert gen.discriminator is not None
    drive = gen.discriminator.drive(gen.images(batch), "non-saturating")
    return one_steps(gen, batch, drive, halvings=6)


@pytest.mark.parametrize("which", [0, 1])
def test_errors_of_the_first_order_fall_steadily(which: int) -> None:
    """ReLU and batch normalisation: by less than half for half the step, because kinks that are crossed count fully."""
    found = steps()[which]
    assert (found.ratios > 1.1).all(), found.ratios
    assert found.errors[-1] < found.errors[0] / 4
    assert 0 < found.buffers < math.inf
