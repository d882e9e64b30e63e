"""Strict YAML with the scalars of YAML 1.2's core schema.

``1e-4``, ``1.`` and ``.5`` are numbers; only ``true`` and ``false`` are booleans (``no``, ``off``, ``yes``, ``on`` are
text); ``~``, ``null`` and an empty value are null. There are no base-60 numbers, no octal numbers with a leading zero,
and no dates. Duplicate keys, and tabs in the indentation, are errors with file and line. Only the tags ``!!float``,
``!!int``, ``!!bool``, ``!!str`` and ``!!null`` are supported.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mcir.config.tree import MAX_DEPTH, Node, OptionError, Problem
from mcir.config.yaml_errors import hint, unseen_outside_quotes
from mcir.config.yaml_values import MAX_UNSEEN, MAX_VALUES, PREFIX, SCALARS, TOO_DEEP, TOO_MANY, Builder, unseen_problem
from mcir.errors import Location, suggestion
from mcir.paths import file_problem
from mcir.text import shortened

MAX_BYTES = 2**20
"""Largest size of an option file. PyYAML takes up to 3 s for it, in which every value is a single letter."""


class _LimitError(yaml.MarkedYAMLError):
    """The text has more values, or more levels, than an option file may have."""


class StrictLoader(yaml.SafeLoader):
    """PyYAML's SafeLoader with the scalars of YAML 1.2, for a limited number of values and levels."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared so by PyYAML

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read the next value.

        Raises:
            _LimitError: the value is the first beyond a limit.
        """
        self._values += 1
        self._depth += 1
        if self._values > MAX_VALUES or self._depth > MAX_DEPTH:
            problem = TOO_MANY if self._values > MAX_VALUES else TOO_DEEP
            raise _LimitError(problem=problem, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


class StrictDumper(yaml.SafeDumper):
    """Dumper for StrictLoader; a list of scalars is written in one line."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared so by PyYAML

    def ignore_aliases(self, data: Any) -> bool:
        """Return True, so that equal values are written in full and not as aliases."""
        return True


for _tag, (_pattern, _first) in SCALARS.items():
    for _class in (StrictLoader, StrictDumper):
        _class.add_implicit_resolver(
            PREFIX + _tag, re.compile(f"^(?:{_pattern})$"), list(_first) + [""] * (_tag == "null")
        )
StrictLoader.add_implicit_resolver(PREFIX + "merge", re.compile(r"^<<$"), ["<"])


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence(PREFIX + "seq", items, flow_style=flat)


StrictDumper.add_representer(list, _represent_list)


def read_file(path: str | Path) -> Node:
    """Read an option file.

    Raises:
        OptionError: the file does not exist, is not UTF-8 text, is not valid YAML, or contains no mapping.
    """
    name = str(path)
    path = Path(path)
    if problem := file_problem(path, MAX_BYTES):
        files = os.listdir(path.parent) if os.path.isdir(path.parent) else ()  # noqa: PTH112, PTH208 (any text)
        near = [file for file in files if suggestion(path.stem, [Path(file).stem])]
        _fail(name, None, f"The file {problem}.{suggestion(path.name, near)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        _fail(name, None, f"The file cannot be read: {error.strerror}.")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        _fail(name, line, f"The file is not UTF-8 text (byte 0x{error.object[error.start]:02x}). Save it as UTF-8.")
    tabs = [number for number, line in enumerate(text.splitlines(), 1) if "\t" in line[: -len(line.lstrip()) or None]]
    if tabs:
        message = "The indentation contains a tab. YAML requires spaces."
        raise OptionError(Problem(Location(name, number), message) for number in tabs)
    root = read_value(text, Location(name, 1))
    if root.value is None:
        _fail(name, None, "The file is empty.")
    if not isinstance(root.value, dict):
        _raise_unseen(text, root.location)
        found = "a list" if isinstance(root.value, list) else f"the single value {shortened(repr(root.value))}"
        _fail(name, 1, f"expected a mapping with lines 'key: value', got {found}.")
    return root


def write(tree: Any) -> str:
    """Return mappings, lists and scalars as YAML that ``read_file`` reads."""
    return yaml.dump(
        tree, Dumper=StrictDumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120
    )


def read_value(text: str, origin: Location) -> Node:
    """Read YAML text.

    Args:
        text: text of an option file, or of a single value.
        origin: location of the first line. If it has no line number, all nodes get this location.

    Raises:
        OptionError: the text is not valid YAML.
    """
    try:
        loader = StrictLoader(text)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if origin.line else None
        _fail(origin.source, line, f"The character U+{error.character:04X} is not allowed in YAML.")
    try:
        node = loader.get_single_node()
    except _LimitError as error:
        _fail(origin.source, _line(error, origin), str(error.problem))
    except yaml.MarkedYAMLError as error:
        _raise_unseen(text, origin)
        _fail(origin.source, _line(error, origin), f"Invalid YAML: {error.problem}. {hint(error, text)}".rstrip())
    except (ValueError, OverflowError):  # of chr() and int() in PyYAML
        line = loader.line + 1 if origin.line else None
        _fail(origin.source, line, "Invalid YAML: the code of a character, or a version, is too large.")
    if node is None:
        return Node(None, origin)
    builder = Builder(text, origin)
    root = builder.build(node, origin)
    if builder.problems:
        raise OptionError(builder.problems)
    return root


def _line(error: yaml.MarkedYAMLError, origin: Location) -> int | None:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark and origin.line else None


def _fail(source: str, line: int | None, message: str) -> NoReturn:
    raise OptionError([Problem(Location(source, line), message)])


def _raise_unseen(text: str, origin: Location) -> None:
    """Report the characters that readers cannot see, which are a likely reason for a syntax error."""
    if found := list(itertools.islice(unseen_outside_quotes(text), MAX_UNSEEN)):
        raise OptionError(unseen_problem(character, origin) for character in found)
