"""``resume=True``: what an earlier run left in the folder, and what a run that is stopped leaves there.

A finished run is read back. An unfinished one has left finished kernels, each a tile store in
``out/.kernels`` named after its stage, beside the ``run.json`` of the run they belong to. Every store
checks by itself that it holds the kernel that is asked for; the record is there to say in plain words
why it does not, before anything is computed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genkernel.errors import InputError, OutputError
from genkernel.runs import Provenance, RunFolder, finished_files, kernels_of, read_json, versions, write_atomic
from genkernel.runs.atomic import explain
from genkernel.workflows.open_run import open_run
from genkernel.workflows.report import PROVENANCE


def finished(out: str | Path, provenance: Provenance) -> Any:
    """The report of the finished run in ``out`` if it is the one that was asked for; None when there is none.

    Raises:
        InputError: it is another one, or of another version; it is not replaced by a run that was to resume it.
    """
    out = Path(out).expanduser()
    if not finished_files(out):
        return None
    _check(out, "", _differences(provenance, read_json(out / PROVENANCE)))
    return open_run(out)


def take_up(folder: RunFolder, provenance: Provenance) -> str:
    """Make ``.kernels`` the place for this run's kernels, and keep those of an earlier one that was stopped.

    Returns:
        str: a sentence on what was there.

    Raises:
        InputError: kernels of another run are there.
        OutputError: nothing can be written there.
    """
    kernels = kernels_of(folder.out)
    record = kernels / PROVENANCE
    if record.is_file():
        earlier = read_json(record)
        _check(folder.out, "unfinished ", _differences(provenance, earlier, weights=False))
        memory = (earlier.get("arguments") or {}).get("memory")
        if memory != provenance.arguments["memory"] and folder.is_alone:
            for store in _stores(kernels):  # a kernel that was begun follows its plan, and so the old bound
                if not _is_finished(store):
                    shutil.rmtree(store, ignore_errors=True)
    count = sum(map(_is_finished, _stores(kernels)))
    try:
        kernels.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(explain(error, kernels)) from error
    content = {**provenance.to_json(), "versions": versions()}
    write_atomic(record, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if is_kept(folder):
        return f"going on with the unfinished run in {folder.out}; finished kernels there: {count}"
    return f"nothing to resume in {folder.out}: it holds no run; from now on finished kernels are kept there"


def is_kept(folder: RunFolder) -> bool:
    """Whether any part of a kernel is there to go on from."""
    from genkernel.tangent.store import SUFFIX, TASKS

    return any(kernels_of(folder.out).glob(f"*/{TASKS}/[!.]*{SUFFIX}"))


def leave(folder: RunFolder) -> str | None:
    """After a run that was stopped: a sentence on what is kept; what is of no use is removed."""
    if is_kept(folder):
        return f"finished kernels are kept in {folder.out}: the same run goes on from them with resume"
    if folder.is_alone:
        shutil.rmtree(kernels_of(folder.out), ignore_errors=True)
    return None


def _differences(provenance: Provenance, earlier: dict[str, Any], *, weights: bool = True) -> list[str]:
    """Why the run of an earlier ``run.json`` is not this one, what its networks and functions answer included."""
    found = provenance.differences(earlier, weights=weights)
    mine = provenance.checkpoint.get("answers")
    if mine is not None:
        from genkernel.workflows.gan_identity import other_answers

        found += other_answers(mine, (earlier.get("checkpoint") or {}).get("answers"))
    return found


def _check(out: Path, kind: str, differences: list[str]) -> None:
    if differences:
        raise InputError(
            f"the {kind}run in {out} cannot be resumed, because it is another one: {'; '.join(differences)} "
            "(without resume it is replaced)"
        )


def _stores(kernels: Path) -> Iterator[Path]:
    return (path for path in sorted(kernels.glob("*")) if path.is_dir())


def _is_finished(store: Path) -> bool:
    from genkernel.tangent.store import MANIFEST

    try:
        return bool(json.loads((store / MANIFEST).read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
