"""The tree of an option file: every value remembers the place where it was written.

A :class:`Node` holds a mapping, a list or a scalar, and the :class:`Place` it came from. Merging option files, applying
overrides and translating old names move nodes about; since the place travels with the node, a problem found at the end
still names the file and the line of the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indices from the top of the option file down to a value."""


class Place(NamedTuple):
    """Where a value was written.

    Attributes:
        source: the option file, or the command-line words that set the value, like ``--set scale=2``.
        line: line in the file, counted from 1; None for the command line.
        written: the key path as it stands there, if an old name was translated into today's.
    """

    source: str
    line: int | None = None
    written: str = ""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


class Problem(NamedTuple):
    """One mistake in an option file: where, at which key path, and what is wrong."""

    place: Place
    path: Path
    message: str

    def __str__(self) -> str:
        where = f"{self.place}: {dotted(self.path)}: " if self.path else f"{self.place}: "
        written = f" (written as '{self.place.written}')" if self.place.written else ""
        return f"{where}{self.message}{written}"


class OptionError(ValueError):
    """An option file does not fit; the message lists every problem, one a line, by file and line.

    Attributes:
        found: the problems.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        def position(problem: Problem) -> tuple[bool, str, int]:
            return problem.place.line is None, problem.place.source, problem.place.line or 0

        self.found = sorted(dict.fromkeys(problems), key=position)
        super().__init__("\n".join(map(str, self.found)))


@dataclass
class Node:
    """A value and the place where it was written.

    Attributes:
        value: a mapping from keys to nodes, a list of nodes, or a scalar.
        place: where the key of the value stands (for an element of a list, the element itself).
    """

    value: Any
    place: Place = field(compare=False)

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

    def at(self, path: Path) -> Node | None:
        """Return the node at a path below this one, or None if there is none."""
        node: Node | None = self
        for key in path:
            node = node.child(key) if node else None
        return node

    def place_of(self, path: Path) -> Place:
        """Return the place of the deepest node that exists on the way to ``path``."""
        node = self
        for key in path:
            child = node.child(key)
            if child is None:
                break
            node = child
        return node.place

    def where(self, path: Path) -> str:
        """Return the place of ``path`` and the path, with which messages begin: ``x.yml:12: train.scheduler``."""
        place = self.place_of(path)
        return f"{place}: {dotted(path)}" + (f" (written as '{place.written}')" if place.written else "")

    def moved_from(self, path: Path) -> Node:
        """Return this tree with places that tell the path under which it was written."""
        value = self.value
        if isinstance(value, dict):
            value = {key: node.moved_from((*path, key)) for key, node in value.items()}
        elif isinstance(value, list):
            value = [node.moved_from(path) for node in value]
        return Node(value, self.place._replace(written=dotted(path)))

    def put(self, path: Path, node: Node) -> None:
        """Set the node at a path below this mapping; missing or null mappings on the way are made, at its place."""
        parent = self
        for key in path[:-1]:
            child = parent.child(key)
            if child is None or child.value is None:
                child = parent.value[key] = Node({}, node.place)
            parent = child
        parent.value[path[-1]] = node

    def find(self, pattern: str) -> Iterator[tuple[Path, Node]]:
        """Yield path and node of each match of a dotted pattern, in which ``*`` stands for any key."""
        found: list[tuple[Path, Node]] = [((), self)]
        for part in pattern.split("."):
            found = [
                ((*path, key), child)
                for path, node in found
                if isinstance(node.value, dict)
                for key, child in node.value.items()
                if part in ("*", key)
            ]
        yield from found


def merge(below: Node, above: Node, is_argument: bool = False) -> Node:
    """Return ``below`` with ``above`` laid over it, mapping by mapping; the nodes given stay as they are.

    Anything but two mappings is replaced, and so is a component whose ``type`` changes: the arguments of one class mean
    nothing to another. A mapping without ``type`` inside a component, like the ``layer_weights`` of a loss, is a value
    and replaced whole: half of another's weights is never meant.

    Args:
        below: what is there.
        above: what is laid over it.
        is_argument: both are entries of a component.
    """
    if not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    kind, new_kind = below.child("type"), above.child("type")
    if kind and new_kind and kind.value != new_kind.value:
        return above
    is_component = bool(kind or new_kind)
    if is_argument and not is_component:
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = merge(merged[key], node, is_component) if key in merged else node
    return Node(merged, above.place)


def dotted(path: Path) -> str:
    """Return a path as it is written on the command line: ``datasets.train.type``."""
    return ".".join(map(str, path))
