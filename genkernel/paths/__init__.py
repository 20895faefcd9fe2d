"""Paths of training: what every part of the data did to a prediction, adding up exactly."""

from genkernel.paths.decomposition import Part, PathDecomposition
from genkernel.paths.recorder import Recording, record

__all__ = ["Part", "PathDecomposition", "Recording", "record"]
