"""Strict YAML with the scalars of YAML 1.2's core schema.

``1e-4``, ``1.`` and ``.5`` are numbers; only ``true`` and ``false`` are booleans (``no``, ``off``, ``yes``, ``on`` are
text); ``~``, ``null`` and an empty value are null. There are no base-60 numbers, no octal numbers with a leading zero,
and no dates. Duplicate keys, and tabs in the indentation, are errors with file and line. Only the tags ``!!float``,
``!!int``, ``!!bool``, ``!!str`` and ``!!null`` are supported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mcir.config.tree import Node, OptionError, Problem
from mcir.errors import Location, suggestion

_PREFIX = "tag:yaml.org,2002:"
_TRUE_OR_FALSE = r"true|True|TRUE|false|False|FALSE"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"


_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    # tag: its pattern, the first characters of its plain scalars, its value
    "null": (r"~|null|Null|NULL|", "~nN", lambda text: None),
    "bool": (_TRUE_OR_FALSE, "tTfF", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+", "-+0123456789", int),
    "float": (_FLOAT, "-+.0123456789", lambda text: float(re.sub("[.](?=[in])", "", text.lower()))),
}

_HINTS = {
    "cannot start any token": "A value that starts with this character needs quotes. Indent with spaces, not tabs.",
    "mapping values are not allowed": "Check the indentation. A value that contains ': ' needs quotes.",
    "could not find expected ':'": "Write 'key: value', with a space after the colon.",
    "expected <block end>": "The indentation does not match the lines above.",
    "expected ',' or": "A bracket is not closed, or a comma is missing.",
    "expected a single document": "An option file is one document: remove '---'.",
    "undefined alias": "An alias *name repeats a value that is marked with &name above.",
}


class StrictLoader(yaml.SafeLoader):
    """PyYAML's SafeLoader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared so by PyYAML


class StrictDumper(yaml.SafeDumper):
    """Dumper for StrictLoader; a list of scalars is written in one line."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # declared so by PyYAML

    def ignore_aliases(self, data: Any) -> bool:
        """Return True, so that equal values are written in full and not as aliases."""
        return True


for _tag, (_pattern, _first, _value) in _SCALARS.items():
    for _class in (StrictLoader, StrictDumper):
        _class.add_implicit_resolver(
            _PREFIX + _tag, re.compile(f"^(?:{_pattern})$"), list(_first) + [""] * (_tag == "null")
        )
StrictLoader.add_implicit_resolver(_PREFIX + "merge", re.compile(r"^<<$"), ["<"])


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence(_PREFIX + "seq", items, flow_style=flat)


StrictDumper.add_representer(list, _represent_list)


def read_file(path: str | Path) -> Node:
    """Read an option file.

    Raises:
        OptionError: the file does not exist, is not UTF-8 text, is not valid YAML, or contains no mapping.
    """
    name = str(path)
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        files = path.parent.iterdir() if path.parent.is_dir() else ()
        near = [file.name for file in files if suggestion(path.stem, [file.stem])]
        _fail(name, None, f"The file does not exist.{suggestion(path.name, near)}")
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
        found = "a list" if isinstance(root.value, list) else f"the single value {root.value!r}"
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
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark, text = error.problem_mark or error.context_mark, f"{error.problem} {error.context}"
        hint = next((f" {hint}" for part, hint in _HINTS.items() if part in text), "")
        _fail(origin.source, mark.line + 1 if mark and origin.line else None, f"Invalid YAML: {error.problem}.{hint}")
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if origin.line else None
        _fail(origin.source, line, f"The character U+{error.character:04X} is not allowed in YAML.")
    if node is None:
        return Node(None, origin)
    builder = _Builder(loader, origin)
    root = builder.build(node, origin)
    if builder.problems:
        raise OptionError(builder.problems)
    return root


def _fail(source: str, line: int | None, message: str) -> NoReturn:
    raise OptionError([Problem(Location(source, line), message)])


class _Builder:
    """Converter of PyYAML's nodes to ``Node``, which collects problems."""

    def __init__(self, loader: StrictLoader, origin: Location) -> None:
        self.loader = loader
        self.origin = origin
        self.problems: list[Problem] = []
        self.parents: set[int] = (
            set()
        )  # ids of the nodes around the current one, to detect an alias that contains itself

    def location(self, node: yaml.Node) -> Location:
        return self.origin._replace(line=node.start_mark.line + 1) if self.origin.line else self.origin

    def problem(self, node: yaml.Node, message: str) -> None:
        self.problems.append(Problem(self.location(node), message))

    def build(self, node: yaml.Node, location: Location) -> Node:
        value: Any = None
        if id(node) in self.parents:
            self.problem(node, "An alias contains itself.")
            return Node(None, location)
        self.parents.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            value = self.scalar(node)
        elif node.tag not in (_PREFIX + "seq", _PREFIX + "map"):
            self.unknown_tag(node)
        elif isinstance(node, yaml.SequenceNode):
            value = [self.build(child, self.location(child)) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            value = self.mapping(node)
        self.parents.remove(id(node))
        return Node(value, location)

    def mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, "A key must be a name, not a list or a mapping.")
            elif key.value in lines:
                self.problem(key, f"Duplicate key '{key.value}', first in line {lines[key.value]}.")
            else:
                lines[key.value] = key.start_mark.line + 1
        try:
            self.loader.flatten_mapping(node)  # replaces `<<: *name` by ordinary keys, before the section's own keys
        except yaml.constructor.ConstructorError as error:
            self.problem(node, f"Invalid YAML: {error.problem}.")
        pairs = [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        return {key.value: self.build(value, self.location(key)) for key, value in pairs}

    def scalar(self, node: yaml.ScalarNode) -> Any:
        tag = node.tag.removeprefix(_PREFIX)
        if tag in ("str", "merge"):
            return node.value
        if tag not in _SCALARS:
            return self.unknown_tag(node)
        pattern, _, value = _SCALARS[tag]
        if not re.fullmatch(pattern, node.value):
            return self.problem(node, f"'{node.value}' does not match the tag !!{tag}.")
        return value(node.value)

    def unknown_tag(self, node: yaml.Node) -> None:
        self.problem(node, f"The tag {node.tag.replace(_PREFIX, '!!')} is not supported.")
