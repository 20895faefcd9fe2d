"""Checkpoints: from a path, a hub id or a file to tensors, without running anybody's code.

``resolve`` turns what the user typed into a path on this machine (offline first), ``detect``
says what lies there, ``read_state_dict`` reads tensors, ``sha256`` names the weights. Nothing
here knows what a denoiser is.
"""

from genkernel.checkpoints.digest import sha256
from genkernel.checkpoints.layout import Layout, Weights, detect
from genkernel.checkpoints.locate import resolve
from genkernel.checkpoints.weights import read_state_dict, stored_dtypes, unsafe_globals

__all__ = ["Layout", "Weights", "detect", "read_state_dict", "resolve", "sha256", "stored_dtypes", "unsafe_globals"]
