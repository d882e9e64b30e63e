"""What differs between two texts of options, option by option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import yaml

from mcir.text import shortened

ABSENT = "nothing"
_MAX_OPTIONS = 10_000


@dataclass(frozen=True)
class OptionChange:
    """An option that differs.

    Attributes:
        name: dotted name, for example ``train.total_iter``.
        before: old value as YAML, or ``nothing``.
        now: new value.
    """

    name: str
    before: str
    now: str

    def __str__(self) -> str:
        """Return the change as one line."""
        return f"{self.name}: {self.before} → {self.now}"


def changed_options(before: str, now: str) -> list[OptionChange]:
    """Return the options that differ between two texts, in the order of the new one. A damaged text has no options."""
    return changed_values(_read(before), _read(now))


def changed_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[OptionChange]:
    """Return the options that differ between two trees."""
    old, new = (dict(islice(_leaves(tree), _MAX_OPTIONS)) for tree in (before, now))
    pairs = ((name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in dict.fromkeys([*new, *old]))
    return [OptionChange(*pair) for pair in pairs if pair[1] != pair[2]]


def _read(text: str) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, Mapping) else {}


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each option. Lists and empty sections are one option each."""
    if isinstance(tree, Mapping) and (tree or not name):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        text = yaml.safe_dump(tree, default_flow_style=True, width=float("inf"), allow_unicode=True)
        yield name, shortened(text.removesuffix("...\n").strip())
