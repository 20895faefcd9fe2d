"""The ``genkernel`` command: parse, call, print."""

from genkernel.cli.app import main

__all__ = ["main"]
