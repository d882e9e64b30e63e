"""Sweeps: one option file for a row of runs that differ along an axis.

Either options and the values that each takes; several make a grid::

    sweep:
      train.contrastive_opt.loss_weight: [0, 1e-2, 1e-3]

or runs by name, and what each lays over the file (``merge`` says how)::

    sweep:
      cr: {train.contrastive_opt: {type: ContrastiveRegularization}, train.negatives: {type: InputNegatives}}
      plain: {}

A run is chosen by ``--set sweep=NAME`` and is called ``<name>_NAME``. On an axis NAME is the option's last key and the
value, ``loss_weight_0.01``; the items of a list are joined by dashes, ``steps_100-500``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mcir.config.tree import Node, OptionError, Problem, merge
from mcir.registry import KeyPath, suggestion

SWEEP = "sweep"

Changes = Mapping[str, Node]
"""What a run lays over the file, by dotted option."""


def take_sweep(root: Node) -> dict[str, Changes]:
    """Take the section ``sweep`` out of a tree and return the runs by name, in order; none without a section.

    Raises:
        OptionError: the section is none.
    """
    node = root.value.pop(SWEEP, None)
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict) or not node.value:
        raise _problem(node, "Expected options with lists of values, or names of runs with what each changes.")
    kinds = {type(entry.value) for entry in node.value.values()}
    if kinds == {dict}:
        return {name: dict(entry.value) for name, entry in node.value.items()}
    if kinds != {list}:
        odd = next((key for key, entry in node.value.items() if not isinstance(entry.value, dict | list)), None)
        found = "lists and sections mixed" if odd is None else f"the single value of '{odd}'"
        raise _problem(node, f"Expected a list for every option, or a section for every run, not {found}.")
    empty = [key for key, entry in node.value.items() if not entry.value]
    if empty:
        raise _problem(node, f"'{empty[0]}' has no values.")
    runs: dict[str, Changes] = {}
    for values in itertools.product(*(entry.value for entry in node.value.values())):
        changes = dict(zip(node.value, values, strict=True))
        name = "_".join(f"{key.rpartition('.')[2]}_{_in_name(value.plain())}" for key, value in changes.items())
        if name in runs:
            raise _problem(node, f"Two runs would be called '{name}'.")
        runs[name] = changes
    return runs


def choose(root: Node, runs: Mapping[str, Changes], overrides: Sequence[str]) -> list[str]:
    """Lay the run that ``sweep=NAME`` names among the overrides over the tree; return the other overrides.

    Raises:
        OptionError: the file has a sweep and no run is chosen, or there is no run of that name.
    """
    chosen = [text.partition("=")[2].strip() for text in overrides if _is_choice(text)]
    rest = [text for text in overrides if not _is_choice(text)]
    known = ", ".join(runs)
    if not runs:
        if chosen:
            raise _problem(root, f"The file has no sweep: --set sweep={chosen[-1]} chooses nothing.", ())
        return rest
    if not chosen:
        raise _problem(
            root,
            f"The file describes {len(runs)} run{'s' * (len(runs) > 1)}. Choose one, --set sweep={next(iter(runs))}, "
            f"or let `mcir reproduce` make all of a table. The runs are {known}.",
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
    """Write a value so that a folder can bear it."""
    if isinstance(value, list):
        return "-".join(_in_name(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("/", "-")


def _problem(node: Node, message: str, path: KeyPath = (SWEEP,)) -> OptionError:
    return OptionError([Problem.at(node.location, path, message)])
