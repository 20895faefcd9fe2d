"""How scripts end: with a line that says what was wrong instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from genkernel.errors import GenkernelError


def run_script(main: Callable[[], int | None], interrupted: str = "interrupted") -> NoReturn:
    """Run a script's main function and exit.

    Args:
        main: gives the exit status, or None for 0.
        interrupted: what to say after Ctrl-C: whether the same command would continue.
    """
    try:
        sys.exit(main())
    except GenkernelError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(interrupted)
