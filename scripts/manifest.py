#!/usr/bin/env python
"""List the shipped assets with their sha256, or check the list.

python scripts/manifest.py          # write assets/MANIFEST.sha256
python scripts/manifest.py --check  # compare; `sha256sum -c MANIFEST.sha256` in assets/ does the same
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
NAME = "MANIFEST.sha256"


def listing(folder: Path) -> dict[str, str]:
    """Every data file below ``folder`` with its sha256: no code, no texts, no hidden files, not the list itself."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".md", ".sha256"))
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if not any(part.startswith((".", "__")) for part in p.relative_to(folder).parts)
    }


def read(path: Path) -> dict[str, str]:
    """A list as ``sha256sum`` writes it: ``<sha256>  <path>`` a line."""
    pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: digest for digest, name in pairs}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args(arguments)
    found, path = listing(ASSETS), ASSETS / NAME
    if args.check:
        listed = read(path)
        wrong = sorted(name for name in found | listed if found.get(name) != listed.get(name))
        for name in wrong:
            print(f"{name}: {'not listed' if name not in listed else 'missing' if name not in found else 'changed'}")
        print(f"{len(found)} assets, {len(wrong)} differ from the list")
        return 1 if wrong else 0
    path.write_text("".join(f"{digest}  {name}\n" for name, digest in found.items()), encoding="utf-8")
    print(f"{len(found)} assets, {sum((ASSETS / name).stat().st_size for name in found) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
