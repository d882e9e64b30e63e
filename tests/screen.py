"""A pseudo-terminal with a screen, for tests of what a person sees."""

import fcntl
import os
import select
import struct
import subprocess
import termios
import time

import pyte


class Terminal:
    """A command in a pseudo-terminal.

    Args:
        command: command line.
        columns: width of the terminal.
        environment: changes of the environment; None removes a variable.
        folder: working directory.

    Attributes:
        screen: the screen, with the lines that have scrolled out of it.
        screens: rows of the screen after each read, without empty ones at the end.
        raw: everything that the command has written.
    """

    def __init__(self, command, columns, environment=None, folder=None):
        self.screen = pyte.HistoryScreen(columns, 24, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.screens, self.raw = [], b""
        variables = {**os.environ, "TERM": "xterm-256color", **(environment or {})}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            if name not in (environment or {}):
                variables.pop(name, None)
        variables = {name: value for name, value in variables.items() if value is not None}
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=variables, cwd=folder, start_new_session=True
        )
        os.close(slave)

    def read(self, until=None, seconds=180):
        """Read what the command writes until it ends, or until a condition of this terminal is true."""
        end = time.monotonic() + seconds
        while until is None or not until(self):
            assert time.monotonic() < end, "\n".join(self.rows())
            if not select.select([self._master], [], [], 1)[0]:
                continue
            try:
                part = os.read(self._master, 65536)
            except OSError:  # Linux: the other end is closed
                part = b""
            if not part:
                self.process.wait()
                return self
            self.raw += part
            for piece in part.splitlines(keepends=True):
                self._stream.feed(piece)
            self.screens.append(self.rows())
        return self

    def rows(self):
        """Return the rows of the screen, without empty ones at the end."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def all_rows(self):
        """Return all rows, also those that have scrolled out of the screen."""
        columns = range(self.screen.columns)
        past = ["".join(line[column].data for column in columns).rstrip() for line in self.screen.history.top]
        return past + self.rows()

    def colours(self, text):
        """Return the colours of a text on the screen, where it occurs last."""
        for number in reversed(range(self.screen.lines)):
            column = self.screen.display[number].find(text)
            if column >= 0:
                return {self.screen.buffer[number][column + offset].fg for offset in range(len(text))}
        raise AssertionError(f"{text!r} is not on the screen:\n" + "\n".join(self.rows()))
