"""Errors a user can act on: one sentence that says what was wrong and what would be right.

The command line prints these without a traceback; everything else is a bug of ours.
"""

from __future__ import annotations


class GenkernelError(Exception):
    """Base of every error that genkernel raises on purpose."""


class InputError(GenkernelError, ValueError):
    """An argument, a file or a tensor is not what it has to be."""


class MissingError(GenkernelError, FileNotFoundError):
    """A path, a file inside a folder, or a named data set does not exist."""

    def __str__(self) -> str:  # FileNotFoundError would print an errno
        return str(self.args[0]) if self.args else ""


class OutputError(GenkernelError, OSError):
    """A result cannot be written where it was asked for."""

    def __str__(self) -> str:  # OSError would print an errno
        return str(self.args[0]) if self.args else ""


class UnsafeCheckpointError(GenkernelError):
    """A checkpoint can only be read by executing code from it."""


class BatchCouplingError(GenkernelError):
    """The output for one sample depends on the other samples of its batch."""


class RandomOutputError(GenkernelError):
    """The model returns different outputs for the same input in evaluation mode."""


class NonFiniteError(GenkernelError):
    """NaN or infinity in weights, outputs or gradients."""


class ZeroGradientError(GenkernelError):
    """Every gradient of the model is exactly zero, so there is no kernel to speak of."""


class DistributedError(GenkernelError):
    """A rank of a distributed run did not come, was given something else, or failed."""


class CaptureError(GenkernelError):
    """A parameter is used in a way that cannot be differentiated per sample."""


class ConvergenceError(GenkernelError):
    """An iteration did not reach the accuracy it was asked for."""


class RecordingError(GenkernelError):
    """A recording of a training run stopped before its end, or cannot say what it is asked."""


class RecordingWarning(UserWarning):
    """A recording stopped while the training went on."""
