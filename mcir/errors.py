"""Errors in the arguments of components, with their locations in the option file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import NamedTuple, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and list indices that lead to a value: ``("train", "milestones", 0)``."""

_MAX_COMPARED = 200


class Location(NamedTuple):
    """Where an option was written."""

    source: str
    """Option file, or the command-line argument that sets the option, like ``--set scale=2``."""
    line: int | None = None
    """Line number in the file, starting at 1; None for the command line."""
    key: str = ""
    """Key path of the option, like ``train.optim_g.lr``."""
    old_key: str = ""
    """Key path that the file uses instead of ``key``, if it is an old name."""
    note: str = ""
    """Sentence that follows the message of an error: where a path was looked up that does not exist."""

    def __str__(self) -> str:
        position = self.source if self.line is None else f"{self.source}:{self.line}"
        old_key = f" (written as '{self.old_key}')" if self.old_key else ""
        return (f"{position}: {self.key}" if self.key else position) + old_key


Where: TypeAlias = Callable[[KeyPath], Location]
"""Function that returns the location of a value from its key path inside a section."""


class ComponentError(ValueError):
    """A component cannot be built from its section.

    Args:
        message: what is wrong.
        path: key path inside the section to the value at fault; the empty path is the section itself.

    Attributes:
        location: location in the option file, if known. It precedes the message.
    """

    def __init__(self, message: str, path: KeyPath = ()) -> None:
        super().__init__(message, path)
        self.message = message
        self.path = path
        self.location: Location | None = None

    def __str__(self) -> str:
        return self._located("")

    def _located(self, key: str) -> str:
        """Return the message between its location, or else the key, and the note of the location."""
        start = str(self.location or key)
        note = f"\n{self.location.note}" if self.location and self.location.note else ""
        return f"{start}: {self.message}{note}" if start else self.message


class RegistryError(ComponentError):
    """A name is unknown or taken, or a section does not match its class."""


class ArgumentError(ComponentError):
    """A constructor argument has a value that the class does not accept.

    Constructors of registered classes raise this error. ``Registry.build`` adds the location in the option file.

    Args:
        name: name of the argument.
        message: expected and actual value, without the name: ``expected X, got Y.``
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message, (name,))
        self.args = (name, message)
        self.name = name

    def __str__(self) -> str:
        return self._located(".".join(map(str, self.path)))


def is_user_error(error: BaseException) -> bool:
    """Return whether an error is a user's mistake or a file that cannot be read or written, which needs no traceback.

    These are ``OSError`` and each ``ValueError`` that a ``raise`` in mcir raised. Another ``ValueError`` may be a bug.
    """
    if type(error) is ComponentError and error.__cause__ is not None:  # of another class of error, see locate_errors
        error = error.__cause__
    return isinstance(error, OSError) or (isinstance(error, ValueError) and is_raised_by_mcir(error))


def is_raised_by_mcir(error: BaseException) -> bool:
    """Return whether the innermost frame of an error's traceback is in a module of mcir."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).startswith("mcir.")


@contextmanager
def locate_errors(where: Where | None = None, key: str | KeyPath = ()) -> Iterator[None]:
    """Add the key path and the location of a section to every ``ValueError`` raised in the ``with`` block.

    Args:
        where: function that returns the location of a value in the section. Only the outermost caller has one.
        key: key path from the enclosing section to the section that the block uses.

    Raises:
        ComponentError: the block raised a ``ValueError``. The path of this error starts with ``key``.
    """
    try:
        yield
    except ValueError as error:
        if where is None and not key:
            raise
        located = error if isinstance(error, ComponentError) else ComponentError(str(error))
        if located.location is None:
            located.path = ((key,) if isinstance(key, str) else key) + located.path
            located.location = None if where is None else where(located.path)
        if located is error:
            raise
        raise located from error


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is closest to ``name``, ignoring case, or None if none is close."""
    name = str(name)  # a value of an option may be a number
    if len(name) > _MAX_COMPARED:
        return None  # the time grows with the product of the lengths
    by_folded = {candidate.lower(): candidate for candidate in known if len(candidate) <= _MAX_COMPARED}
    matches = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` with the closest known name, or an empty string if none is close."""
    match = closest(name, known)
    return "" if match is None else f" Did you mean '{match}'?"
