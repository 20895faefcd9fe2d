"""Run folders: atomic files, provenance, and the rules for using a finished run again."""

from genkernel.runs.atomic import write_atomic
from genkernel.runs.folder import RunFolder, finished_files, read_json
from genkernel.runs.provenance import Provenance, Stopwatch, checkpoint_sha256, data_sha256, versions

__all__ = [
    "Provenance",
    "RunFolder",
    "Stopwatch",
    "checkpoint_sha256",
    "data_sha256",
    "finished_files",
    "read_json",
    "versions",
    "write_atomic",
]
