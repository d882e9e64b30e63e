"""Sweeps: one option file for several runs.

Either options with lists of values, which form a grid::

    sweep:
      train.contrastive_opt.loss_weight: [0, 1e-2, 1e-3]

or named runs with the options that each run changes (see ``merge``)::

    sweep:
      cr: {train.contrastive_opt: {type: ContrastiveRegularization}, train.negatives: {type: InputNegatives}}
      plain: {}

``--set sweep=NAME`` selects a run, whose name becomes ``<name>_NAME``. In a grid, NAME is the last key of the option
and the value, ``loss_weight_0.01``; the items of a list are joined by dashes, ``steps_100-500``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mcir.config.tree import Node, OptionError, Problem, merge
from mcir.errors import KeyPath, suggestion

SWEEP = "sweep"

Changes = Mapping[str, Node]
"""The options that a run changes, by dotted key path."""


def take_sweep(root: Node) -> dict[str, Changes]:
    """Remove the section ``sweep`` from a tree and return its runs by name, in order.

    Raises:
        OptionError: the section is not valid.
    """
    node = root.value.pop(SWEEP, None)
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict) or not node.value:
        raise _problem(node, "expected options with lists of values, or named runs with their changes.")
    kinds = {type(entry.value) for entry in node.value.values()}
    if kinds == {dict}:
        return {name: dict(entry.value) for name, entry in node.value.items()}
    if kinds != {list}:
        scalar = next((key for key, entry in node.value.items() if not isinstance(entry.value, dict | list)), None)
        found = "both lists and sections" if scalar is None else f"the single value of '{scalar}'"
        raise _problem(node, f"expected a list for every option, or a section for every run, got {found}.")
    empty = [key for key, entry in node.value.items() if not entry.value]
    if empty:
        raise _problem(node, f"'{empty[0]}' has no values.")
    runs: dict[str, Changes] = {}
    for values in itertools.product(*(entry.value for entry in node.value.values())):
        changes = dict(zip(node.value, values, strict=True))
        name = "_".join(f"{key.rpartition('.')[2]}_{_in_name(value.plain())}" for key, value in changes.items())
        if name in runs:
            raise _problem(node, f"Two runs have the same name '{name}'.")
        runs[name] = changes
    return runs


def choose(root: Node, runs: Mapping[str, Changes], overrides: Sequence[str]) -> list[str]:
    """Apply the run that ``sweep=NAME`` selects among the overrides to the tree; return the other overrides.

    Raises:
        OptionError: the file has a sweep and no run is selected, or there is no such run.
    """
    chosen = [text.partition("=")[2].strip() for text in overrides if _is_choice(text)]
    rest = [text for text in overrides if not _is_choice(text)]
    known = ", ".join(runs)
    if not runs:
        if chosen:
            raise _problem(root, f"The file has no sweep, so --set sweep={chosen[-1]} selects nothing.", ())
        return rest
    if not chosen:
        raise _problem(
            root,
            f"The file describes {len(runs)} run{'s' * (len(runs) > 1)}. Select one with --set "
            f"sweep={next(iter(runs))}, or use `mcir reproduce` for all runs of a table. The runs are {known}.",
        )
    name = chosen[-1]
    if name not in runs:
        raise _problem(root, f"There is no run '{name}'.{suggestion(name, runs)} The runs are {known}.")
    title = root.child("name")
    if title is not None:
        root.value["name"] = Node(f"{title.value}_{name}", title.location)
    for option, node in runs[name].items():
        path = tuple(option.split("."))
        section, below = root.at(path[:-1]), root.at(path)
        is_argument = section is not None and section.child("type") is not None
        root.put(path, node if below is None else merge(below, node, is_argument))
    return rest


def _is_choice(text: str) -> bool:
    return text.partition("=")[0].strip() == SWEEP


def _in_name(value: Any) -> str:
    """Return a value as a part of a folder's name."""
    if isinstance(value, list):
        return "-".join(_in_name(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("/", "-")


def _problem(node: Node, message: str, path: KeyPath = (SWEEP,)) -> OptionError:
    return OptionError([Problem.at(node.location, path, message)])
