"""Paths of training: what every part of the data did to a prediction, adding up exactly."""

from genkernel.paths.checkpoints import checkpoint_path
from genkernel.paths.decomposition import Part, PathDecomposition
from genkernel.paths.recorder import Recording, record
from genkernel.paths.replay import Replay, replay
from genkernel.paths.tape import Tape, tape

__all__ = ["Part", "PathDecomposition", "Recording", "Replay", "Tape", "checkpoint_path", "record", "replay", "tape"]
