"""``run.json`` in words, and how to cite the version that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def provenance_facts(provenance: Mapping[str, Any], captured: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """``run.json`` in words; empty entries are left out.

    Args:
        captured: what the engine's coverage check says (``Coverage.summary()``).
    """
    checkpoint, data = provenance.get("checkpoint") or {}, provenance.get("data") or {}
    versions, machine = provenance.get("versions") or {}, provenance.get("machine") or {}
    memory = provenance.get("peak_memory") or {}
    judge = checkpoint.get("discriminator") or {}
    timings, cpu = dict(provenance.get("timings") or {}), provenance.get("cpu_seconds")
    arguments = {k: v for k, v in (provenance.get("arguments") or {}).items() if v is not None}
    facts = [
        ("Checkpoint", _named_digest(checkpoint.get("name"), checkpoint.get("sha256"))),
        ("Discriminator", _named_digest(judge.get("name"), judge.get("sha256"))),
        ("Data", _named_digest(data.get("description"), data.get("sha256"))),
        ("Arguments", ", ".join(f"{k}={v}" for k, v in arguments.items() if k not in ("checkpoint", "data"))),
        ("Seed", str(provenance.get("seed"))),
        ("Device and dtype", f"{provenance.get('device')}, {provenance.get('dtype')}"),
        ("Versions", ", ".join(f"{k} {v}" for k, v in versions.items())),
        ("Machine", ", ".join(str(v) for v in _machine(machine, provenance.get("threads")))),
        ("Time", ", ".join(f"{k} {v:.1f} s" for k, v in timings.items())),
        ("Processor time", "" if cpu is None else f"{cpu:.1f} s"),
        ("Peak memory", ", ".join(f"{k} {v / 2**30:.2f} GiB" for k, v in memory.items())),
    ]
    if captured:
        generic = captured.get("generic") or []
        words = f"{captured.get('uses', '?')} parameter uses captured and compared with autograd"
        words += f"; through the generic path: {', '.join(map(str, generic)) or 'none'}"
        facts.append(("Coverage", words))
    return [(name, value) for name, value in facts if value]


def citation() -> str:
    """A BibTeX entry for the version that made the page."""
    from genkernel import __version__

    return (
        "@software{genkernel,\n"
        "  title   = {genkernel: stochastic gradient kernels of trained generative models},\n"
        "  author  = {{The genkernel developers}},\n"
        f"  version = {{{__version__}}},\n"
        "  license = {Apache-2.0}\n"
        "}"
    )


def finished_at(provenance: Mapping[str, Any]) -> str:
    """When the run was finished, for the foot of a page; empty when that is not known."""
    return str(provenance.get("finished") or "").replace("T", " ").replace("+00:00", " UTC")


def _named_digest(name: Any, digest: Any) -> str:
    parts = [str(name)] if name else []
    if digest:
        parts.append(f"sha256 {digest}")
    return ", ".join(parts)


def _machine(machine: Mapping[str, Any], threads: Any) -> list[str]:
    parts = [str(machine[k]) for k in ("system", "processor") if machine.get(k)]
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [f"{threads} threads"] if threads else []
    return parts + [str(name) for name in machine.get("accelerators") or []]
