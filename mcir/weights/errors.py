"""Errors of weight files, and names from files in their messages."""

from __future__ import annotations

from collections.abc import Iterable

from mcir.text import shortened


class WeightsError(ValueError):
    """A weight file cannot be read, or weights do not match a network."""


class UnreadableError(ValueError):
    """The content of a file is damaged or cannot be used. The message is the end of a sentence."""


def first_names(names: Iterable[str], count: int = 10) -> str:
    """Return the first names as text; names and their number are shortened, because a file can contain millions."""
    names = list(names)
    return ", ".join(map(shortened, names[:count])) + (" …" if len(names) > count else "")
