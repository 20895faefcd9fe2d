"""Networks of diffusers that have no row yet, found by asking the installed version for all of its networks."""

from __future__ import annotations

import inspect

from genkernel.bench.architectures import Architecture
from genkernel.bench.zoo import autoencoders, images, unets, videos
from genkernel.bench.zoo.tiny import missing


def architectures() -> list[Architecture]:
    """One per class that none of the lists names."""
    listed = {a.name.split()[0] for room in (unets, images, videos, autoencoders) for a in room.architectures()}
    return [missing(name, "no tiny configuration is written for it") for name in networks() if name not in listed]


def networks() -> list[str]:
    """Names of all networks of the installed diffusers."""
    import diffusers
    from diffusers import ModelMixin

    found = []
    for name in dir(diffusers):
        try:
            value = getattr(diffusers, name)
        except (ImportError, RuntimeError, AttributeError):  # its own requirements are not installed
            continue
        if inspect.isclass(value) and issubclass(value, ModelMixin) and value is not ModelMixin:
            found.append(name)
    return found
