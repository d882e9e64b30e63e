"""What the entry points of training and testing have in common. Imports nothing that is slow to import."""

import os
import sys
import time
from collections.abc import Callable


def report_errors(option_file: str, command: Callable[[], int]) -> int:
    """Run a command of every process of a run; print a user's mistake in one line and return 1."""
    is_rank_zero = os.environ.get("RANK", "0") == "0"
    if is_rank_zero:
        print(f"mcir: reading {option_file} …", flush=True)  # noqa: T201 (before the imports, which take seconds)

    from mcir.engine.guard import NotFiniteError
    from mcir.engine.loggers import log_to_console

    log_to_console()
    try:
        return command()
    except (ValueError, OSError, NotFiniteError) as error:
        if not is_rank_zero:
            time.sleep(1)  # rank 0 most likely prints the same error, and its end stops this process
        print(f"mcir: {error}", file=sys.stderr)  # noqa: T201
        return 1
