"""Outputs of a run whose errors never stop the training: a full disk must not cost what was trained."""

import logging
from collections import deque
from collections.abc import Callable

_LOG = logging.getLogger("mcir")


class LogOutput:
    """One kind of output, for example a file or the terminal.

    If it cannot be written, a warning is logged once, and each later call tries again.

    Args:
        name: name of the output in messages.
        keep: number of failed actions that later calls repeat, in order, before their own.
    """

    def __init__(self, name: str, keep: int = 0) -> None:
        self._name = name
        self._keep = keep
        self._waiting: deque[Callable[[], object]] = deque()
        self._lost = 0
        self._is_failing = False

    def write(self, action: Callable[[], object]) -> None:
        """Call a function that writes to the output, after those that failed before."""
        self._waiting.append(action)
        self.retry()

    def retry(self) -> None:
        """Repeat the calls that failed before."""
        while self._waiting:
            action = self._waiting.popleft()
            try:
                action()
            except OSError as error:
                self._waiting.appendleft(action)
                self._report_failure(error)
                return
            self._report_success()

    def _report_failure(self, error: OSError) -> None:
        while len(self._waiting) > self._keep:
            self._waiting.popleft()
            self._lost += 1
        if not self._is_failing:
            self._is_failing = True
            _LOG.warning("%s cannot be written (%s). The run continues and tries again.", self._name, error)

    def _report_success(self) -> None:
        if self._is_failing:
            lost = f"; {self._lost} entries are lost" if self._lost else ""
            self._is_failing, self._lost = False, 0  # first: the message may be written to this output
            _LOG.warning("%s is written again%s.", self._name, lost)
