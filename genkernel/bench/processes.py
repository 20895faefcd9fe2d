"""Processes for what is measured: each with memory of its own, and with nothing to say."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from typing import Any

IMPORTED = [
    "genkernel.bench.rounds",
    "genkernel.bench.peers",
    "genkernel.tangent.engine",
    "torchvision.models.resnet",
    "diffusers.models",
]

#: seconds to build the network, import a peer and warm up
START = 600


def context() -> Any:
    """Where processes come from: a server that has imported the libraries and computed nothing, where there are such.

    Forked from there they take a fraction of a second where a new interpreter takes several.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTED)
    return server


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What peers print and warn, from compiled code, too, is not the benchmark's to say."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def first_line(error: Exception) -> str:
    """What it says, on one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
