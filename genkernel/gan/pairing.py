"""A discriminator for a generator: what it judges, and whether it takes the generator's classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genkernel.errors import GenkernelError, NonFiniteError
from genkernel.gan.discriminator import Discriminator
from genkernel.gan.generator import Generator


def for_generator(module: nn.Module, generator: Generator, **options: Any) -> Discriminator:
    """A discriminator of what a generator makes; conditional if it only runs with the generator's classes.

    Raises:
        InputError: it cannot judge these samples.
        NonFiniteError: its weights hold NaN or infinity.
    """
    try:
        found = Discriminator(module, generator.output_shape, **options)
    except NonFiniteError as error:  # which of two networks it is, their names of weights do not say
        text = str(error)
        raise NonFiniteError(text if "discriminator" in text.lower() else f"the discriminator: {text}") from error
    except GenkernelError:
        if generator.classes is None:
            raise
        options["classes"] = generator.classes
        found = Discriminator(module, generator.output_shape, **options)
    if found.output == "probability":
        plain = Discriminator(module, generator.output_shape, **options, output="logit")
        if _is_constant(plain):  # such as 0, which lies between 0 and 1 without being a probability
            return plain
    return found


def _is_constant(discriminator: Discriminator) -> bool:
    """Whether it answers random samples with one and the same number."""
    x = torch.randn((8, *discriminator.sample_shape), generator=torch.Generator().manual_seed(0))
    labels = None if discriminator.classes is None else torch.arange(8) % discriminator.classes
    logits = discriminator.logits(x, labels)
    return bool((logits == logits.flatten()[0]).all())
