"""Run folders: atomic files, provenance, and the rules for using a finished run again."""

from genkernel.runs.atomic import write_atomic
from genkernel.runs.codec import json_ready, pack, unpack
from genkernel.runs.folder import RunFolder, finished_files, kernels_of, read_json, run_files
from genkernel.runs.provenance import Provenance, Stopwatch, data_sha256, versions

__all__ = [
    "Provenance",
    "RunFolder",
    "Stopwatch",
    "data_sha256",
    "finished_files",
    "json_ready",
    "kernels_of",
    "pack",
    "read_json",
    "run_files",
    "unpack",
    "versions",
    "write_atomic",
]
