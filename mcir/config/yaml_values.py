"""Convert PyYAML's nodes to ``Node``, within limits."""

from __future__ import annotations

import math
import re
from itertools import islice
from typing import Any

import yaml

from mcir.config.tree import MAX_DEPTH, Node, OptionError, Problem
from mcir.config.yaml_errors import Character, character_name, forbidden_character, unseen_in_value
from mcir.errors import Location
from mcir.text import shortened

MAX_VALUES = 50_000
"""Largest number of values in an option file. An alias counts as often as it is used."""
TOO_MANY = f"The file has more than {MAX_VALUES:,} values (an alias counts as often as it is used)."
TOO_DEEP = f"Lists and mappings are nested in more than {MAX_DEPTH} levels."
_INTEGERS = range(-(2**63), 2**64)
_MAX_DIGITS = 20
MAX_UNSEEN = 20
"""Number of invisible characters that are reported at once."""

PREFIX = "tag:yaml.org,2002:"
_TRUE_OR_FALSE = r"true|True|TRUE|false|False|FALSE"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"


SCALARS = {
    # tag: its pattern, and the first characters of its plain scalars
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (_TRUE_OR_FALSE, "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (_FLOAT, "-+.0123456789"),
}


def unseen_problem(found: Character, origin: Location) -> Problem:
    """Return the problem of an invisible character, at its line and column."""
    message = f"Column {found.column + 1} contains {character_name(found.character)}. Replace it, or use quotes."
    return Problem(origin._replace(line=origin.line + found.line) if origin.line else origin, message)


class Builder:
    """Converter of PyYAML's nodes to ``Node``, which collects problems.

    Args:
        text: text from which the nodes were read.
        origin: location of its first line.

    Attributes:
        problems: problems that were found so far.
    """

    def __init__(self, text: str, origin: Location) -> None:
        self._text = text
        self._origin = origin
        self.problems: list[Problem] = []
        self._values = 0
        self._parents: set[int] = set()  # ids of the nodes around the current one, to detect aliases of themselves

    def _location(self, node: yaml.Node) -> Location:
        return self._origin._replace(line=node.start_mark.line + 1) if self._origin.line else self._origin

    def _problem(self, node: yaml.Node, message: str) -> None:
        self.problems.append(Problem(self._location(node), message))

    def build(self, node: yaml.Node, location: Location) -> Node:
        """Return the value of a node; what is not valid is added to ``problems``.

        Raises:
            OptionError: the values exceed a limit.
        """
        self._values += 1
        if self._values > MAX_VALUES or len(self._parents) >= MAX_DEPTH:
            raise OptionError([Problem(location, TOO_MANY if self._values > MAX_VALUES else TOO_DEEP)])
        value: Any = None
        if id(node) in self._parents:
            self._problem(node, "An alias contains itself.")
            return Node(None, location)
        self._parents.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            value = self._scalar(node)
        elif node.tag not in (PREFIX + "seq", PREFIX + "map"):
            self._unknown_tag(node)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.build(child, self._location(child)) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            value = self._mapping(node)
        self._parents.remove(id(node))
        return Node(value, location)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        merged: dict[str, Node] = {}
        own: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, "A key must be a name, not a list or a mapping.")
            elif key.value in lines:
                self._problem(key, f"Duplicate key '{shortened(key.value)}', first in line {lines[key.value]}.")
            else:
                lines[key.value] = key.start_mark.line + 1
                self._check_characters(key)
                if key.tag == PREFIX + "merge":
                    merged = self._merged(value)
                else:
                    own[key.value] = self.build(value, self._location(key))
        return merged | own

    def _merged(self, node: yaml.Node) -> dict[str, Node]:
        """Return the keys that ``<<: *name`` or ``<<: [*first, *second]`` adds; those of the first have priority."""
        merged: dict[str, Node] = {}
        for section in reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]:
            values = self.build(section, self._location(section)).value
            if isinstance(values, dict):
                merged |= values
            else:
                self._problem(section, "'<<' merges sections: expected *name of a mapping, or a list of them.")
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        self._check_characters(node)
        tag = node.tag.removeprefix(PREFIX)
        if tag in ("str", "merge"):
            return node.value
        if tag not in SCALARS:
            return self._unknown_tag(node)
        pattern, _ = SCALARS[tag]
        if not re.fullmatch(pattern, node.value):
            return self._problem(node, f"'{shortened(node.value)}' does not match the tag !!{tag}.")
        if tag == "null":
            return None
        if tag == "bool":
            return node.value.lower() == "true"
        return self._integer(node) if tag == "int" else self._float(node)

    def _integer(self, node: yaml.ScalarNode) -> Any:
        digits = node.value.lstrip("+-")
        if len(digits) <= _MAX_DIGITS and (number := int(node.value)) in _INTEGERS:
            return number
        message = f"expected an integer between -2^63 and 2^64 - 1, got {shortened(node.value)}. Put text in quotes."
        return self._problem(node, message)

    def _float(self, node: yaml.ScalarNode) -> Any:
        text = re.sub("[.](?=[in])", "", node.value.lower())
        if math.isfinite(number := float(text)) or "n" in text:
            return number
        return self._problem(node, f"expected a number below 1.8e308 or .inf, got {shortened(node.value)}.")

    def _check_characters(self, node: yaml.ScalarNode) -> None:
        """Report characters that no value can contain and, in a value without quotes, those that are invisible."""
        if found := forbidden_character(node.value):
            self._problem(node, f"The value contains {character_name(found)}, which no option can use.")
        elif node.style is None:
            start = node.start_mark
            written = self._text[start.index : node.end_mark.index]
            for line, column, character in islice(unseen_in_value(written), MAX_UNSEEN):
                place = Character(start.line + line, column if line else start.column + column, character)
                self.problems.append(unseen_problem(place, self._origin))

    def _unknown_tag(self, node: yaml.Node) -> None:
        self._problem(node, f"The tag {shortened(node.tag.replace(PREFIX, '!!'))} is not supported.")
