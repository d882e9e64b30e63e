"""Messages about text that is not valid YAML: what to change, and characters that look like others or are invisible."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import yaml
from yaml.composer import ComposerError
from yaml.parser import ParserError
from yaml.scanner import ScannerError

_DOCUMENT = "An option file is one document: remove '---'."
_QUOTES = "A value that starts with this character needs quotes."
_HINTS: dict[tuple[type[yaml.MarkedYAMLError], str], str] = {
    # kind of error, and the character at which it was found
    (ScannerError, "\t"): f"{_QUOTES} Indent with spaces, not tabs.",
    **{(ScannerError, character): _QUOTES for character in "@`%"},
    (ScannerError, ":"): "Check the indentation. A value that contains ': ' needs quotes.",
    (ComposerError, "*"): "An alias *name repeats a value that is marked with &name above.",
    (ComposerError, "-"): _DOCUMENT,
}
_UNFINISHED: dict[tuple[type[yaml.MarkedYAMLError], str], str] = {
    # kind of error, and the first character of the list, mapping or text that was being read
    **{(ParserError, character): "A bracket is not closed, or a comma is missing." for character in "[{"},
    **{(ScannerError, character): "A quote is not closed." for character in "'\""},
}
_DEFAULT_HINTS: dict[type[yaml.MarkedYAMLError], str] = {
    ScannerError: "Write 'key: value', with a space after the colon.",
    ParserError: "The indentation does not match the lines above.",
}
_INDICATORS = tuple("&*!%|>")

_QUOTED_OR_COMMENT = re.compile(
    r"""(?<![^\s\[{,:-]) (?: "(?:\\.|[^"\\])*" | '(?:''|[^'])*' ) | (?<!\S) \#[^\n]*""", re.VERBOSE | re.DOTALL
)
_UNSEEN = (
    r"\x85\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\U000e0000-\U000e007f"
    # spaces that are not U+0020, line ends that are not line feeds, characters without width, directions of text
)
_IN_VALUE = re.compile(rf"[{_UNSEEN}]|\A(?a:[A-Za-z_][\w.-]*)\uff1a")
_OUTSIDE_QUOTES = re.compile(rf"[{_UNSEEN}\uff1a]")
_NOT_IN_A_VALUE = re.compile("[\0-\b\v-\x1f\x7f-\x9f\ud800-\udfff]")


class Character(NamedTuple):
    """A character that readers of an option file cannot see or take for another one."""

    line: int
    """Number of lines above it."""
    column: int
    """Number of characters before it in its line."""
    character: str

    def __str__(self) -> str:
        return character_name(self.character)


def character_name(character: str) -> str:
    """Return the name and the code of a character."""
    return f"{unicodedata.name(character, 'a control character')} (U+{ord(character):04X})"


def hint(error: yaml.MarkedYAMLError, text: str) -> str:
    """Return what to change after a syntax error, or an empty string."""
    character, start = (
        text[mark.index : mark.index + 1] if mark else "" for mark in (error.problem_mark, error.context_mark)
    )
    known = _HINTS.get((type(error), character)) or _UNFINISHED.get((type(error), start))
    return known or (_DEFAULT_HINTS.get(type(error), "") if start not in _INDICATORS else "")


def unseen_in_value(text: str) -> Iterator[Character]:
    """Yield the characters of a value without quotes that are invisible or look like a space.

    A full-width colon is included if a key precedes it, as in ``gt_size：32``.
    """
    return _find(_IN_VALUE, text)


def unseen_outside_quotes(text: str) -> Iterator[Character]:
    """Yield such characters of text that is not valid YAML, in which quotes and comments are found approximately."""
    return _find(_OUTSIDE_QUOTES, _QUOTED_OR_COMMENT.sub(lambda found: re.sub("[^\n]", " ", found[0]), text))


def _find(pattern: re.Pattern[str], text: str) -> Iterator[Character]:
    line = start = searched = 0
    for found in pattern.finditer(text):
        index = found.end() - 1
        if lines := text.count("\n", searched, index):
            line, start = line + lines, text.rindex("\n", searched, index) + 1
        searched = index
        yield Character(line, index - start, text[index])


def forbidden_character(value: str) -> str | None:
    """Return the first control character or surrogate of a value, which no option can use, or None."""
    found = _NOT_IN_A_VALUE.search(value)
    return None if found is None else found[0]
