"""Error handling of the commands that train and test. Slow imports are local."""

import os
import time
from collections.abc import Callable

from mcir.engine.log_output import LogOutput
from mcir.interrupts import exit_on_interrupt, raise_on_interrupt
from mcir.terminal import show, show_error

_REPORT_S = 3.0
"""Time in seconds in which the process that failed reports its error. torchrun ends all processes when one ends, so a
process waits if its error is probably a consequence, and is then ended before it reports it."""


def report_errors(option_file: str, command: Callable[[], int]) -> int:
    """Run a command in this process of a run and return its exit status. Report a user error in one line.

    Ctrl-C gives status 130 without a traceback, unless the command handles it. The command calls
    :func:`~mcir.interrupts.raise_on_interrupt` when its modules are imported.
    """
    exit_on_interrupt()  # until the command has imported its modules
    is_rank_zero = os.environ.get("RANK", "0") == "0"
    if is_rank_zero:
        text = f"mcir: reading {option_file} …"  # the following imports take seconds
        LogOutput("The terminal output").write(lambda: show(text, flush=True))

    from mcir.engine.distributed import OtherProcessFailedError
    from mcir.engine.guard import NotFiniteError
    from mcir.engine.loggers import log_to_console

    log_to_console()
    try:
        return command()
    except (ValueError, OSError, NotFiniteError) as error:
        if not is_rank_zero:
            time.sleep(_REPORT_S)  # rank 0 usually prints the same error
        show_error(f"mcir: {error}")
        return 1
    except OtherProcessFailedError:
        time.sleep(2 * _REPORT_S)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:  # maybe a bug, so with its traceback
        if os.environ.get("WORLD_SIZE", "1") != "1":
            time.sleep(_REPORT_S)  # another process may have been killed, which closes its connections
        raise
    finally:
        raise_on_interrupt()
