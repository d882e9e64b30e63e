"""The tree of an option file, whose values keep their locations in the source.

Files are merged, overrides are applied and old names are translated by moving nodes. A moved node keeps its location,
so the error of a later validation contains the file and line where the value was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mcir.errors import KeyPath, Location
from mcir.text import shortened

MAX_DEPTH = 50
"""Largest number of nested lists and mappings, and of keys in the path of an option."""
_MAX_LISTED, _MAX_LOCATION, _MAX_MESSAGE = 100, 500, 3000


class Problem(NamedTuple):
    """One mistake in an option file."""

    location: Location
    message: str
    is_unknown_class: bool = False
    """Whether a class is not registered, so that the modules in ``imports`` may register it."""

    @classmethod
    def at(cls, location: Location, path: KeyPath, message: str) -> Problem:
        """Return a problem of the option ``path``, which was written at ``location``."""
        return cls(location._replace(key=dotted(path)), message)

    def __str__(self) -> str:
        text = f"{shortened(str(self.location), _MAX_LOCATION)}: {shortened(self.message, _MAX_MESSAGE)}"
        return text.replace("\n", "\\n")  # of a value


class OptionError(ValueError):
    """An option file is not valid. The message lists the problems (at most 100), one per line, with file and line.

    Attributes:
        problems: problems, sorted by file and line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        def position(problem: Problem) -> tuple[bool, str, int]:
            return problem.location.line is None, problem.location.source, problem.location.line or 0

        self.problems = sorted(dict.fromkeys(problems), key=position)
        lines = [str(problem) for problem in self.problems[:_MAX_LISTED]]
        if (more := len(self.problems) - _MAX_LISTED) > 0:
            lines.append(f"… and {more:,} more problems.")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


class NotImportedError(OptionError):
    """An option file is valid as far as it can be checked without the modules in its ``imports``.

    Its problems are the classes that these modules may register.
    """


@dataclass
class Node:
    """A value and the location where it was written.

    Attributes:
        value: a mapping from keys to nodes, a list of nodes, or a scalar.
        location: location of the value's key, or of the value itself in a list.
    """

    value: Any
    location: Location = field(compare=False)

    def plain(self) -> Any:
        """Return the value as ordinary mappings, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, key: str | int) -> Node | None:
        """Return the node under a key of a mapping or at an index of a list, or None if there is none."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            node: Node = self.value[key]
            return node
        return None

    def at(self, path: KeyPath) -> Node | None:
        """Return the node at a path below this one, or None if there is none."""
        node: Node | None = self
        for key in path:
            node = node.child(key) if node else None
        return node

    def locate(self, path: KeyPath) -> Location:
        """Return the location of a path, or of its deepest parent that exists."""
        node = self
        for key in path:
            child = node.child(key)
            if child is None:
                break
            node = child
        return node.location._replace(key=dotted(path))

    def moved_from(self, path: KeyPath) -> Node:
        """Return a copy whose locations also contain the old key path, under which the values were written."""
        value = self.value
        if isinstance(value, dict):
            value = {key: node.moved_from((*path, key)) for key, node in value.items()}
        elif isinstance(value, list):
            value = [node.moved_from(path) for node in value]
        return Node(value, self.location._replace(old_key=self.location.old_key or dotted(path)))

    def put(self, path: KeyPath, node: Node) -> None:
        """Set the node at a path below this mapping. Create missing mappings on the path, with the node's location."""
        parent = self
        for key in path[:-1]:
            child = parent.child(key)
            if child is None or child.value is None:
                child = parent.value[key] = Node({}, node.location)
            parent = child
        parent.value[path[-1]] = node

    def find(self, pattern: str) -> Iterator[tuple[KeyPath, Node]]:
        """Yield path and node of each match of a dotted pattern, in which ``*`` stands for any key."""
        found: list[tuple[KeyPath, Node]] = [((), self)]
        for part in pattern.split("."):
            found = [
                ((*path, key), child)
                for path, node in found
                if isinstance(node.value, dict)
                for key, child in node.value.items()
                if part in ("*", key)
            ]
        yield from found


def merge(base: Node, override: Node, is_argument: bool = False) -> Node:
    """Return ``base`` with the values of ``override``. Neither tree is changed.

    Mappings are merged key by key; any other value is replaced. A component whose ``type`` changes is also replaced,
    because other classes have other arguments. A mapping without ``type`` inside a component, like the
    ``layer_weights`` of a loss, is one value and is replaced as a whole.

    Args:
        base: tree of the base.
        override: tree whose values have priority.
        is_argument: whether both trees are an argument of a component.
    """
    if not isinstance(base.value, dict) or not isinstance(override.value, dict):
        return override
    old_type, new_type = base.child("type"), override.child("type")
    if old_type and new_type and old_type.value != new_type.value:
        return override
    is_component = bool(old_type or new_type)
    if is_argument and not is_component:
        return override
    merged = dict(base.value)
    for key, node in override.value.items():
        merged[key] = merge(merged[key], node, is_component) if key in merged else node
    return Node(merged, override.location)


def key_path(root: Node, keys: Sequence[str], location: Location) -> KeyPath:
    """Return the path of an option to set, in which the indices of lists are integers.

    Args:
        root: tree that contains the option, or will contain it.
        keys: keys and indices as they were written.
        location: location of the option, for the error.

    Raises:
        OptionError: a key is in a single value, or is not an index of a list, or there are too many keys.
    """
    if len(keys) > MAX_DEPTH:
        raise OptionError([Problem(location, f"expected at most {MAX_DEPTH} keys, got {len(keys):,}.")])
    path: KeyPath = ()
    for key in keys:
        parent = root.at(path)
        section = parent.value if parent else None
        if isinstance(section, list) and not (key.isdecimal() and len(key) < 10 and int(key) < len(section)):
            message = f"expected an index between 0 and {len(section) - 1} of this list, got '{key}'."
            raise OptionError([Problem.at(location, path, message)])
        if not isinstance(section, dict | list | None):
            raise OptionError([Problem.at(location, path, "expected a section or a list, got a single value.")])
        path = (*path, int(key) if isinstance(section, list) else key)
    return path


def dotted(path: KeyPath) -> str:
    """Return a path as it is written on the command line: ``datasets.train.type``."""
    return ".".join(map(str, path))
