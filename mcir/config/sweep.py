"""Sweeps: one option file for several runs.

The section ``sweep`` contains either lists of values for options, which form a grid::

    sweep:
      train.contrastive_opt.loss_weight: [0, 1e-2, 1e-3]

or named runs, each with the options that it changes::

    sweep:
      cr: {train.contrastive_opt: {type: ContrastiveRegularization}, train.negatives: {type: InputNegatives}}
      plain: {}

``--set sweep=NAME`` selects a run and appends ``_NAME`` to the option ``name``. In a grid, NAME consists of the last
key of the option and the value, as in ``loss_weight_0.01``. The items of a list are joined by dashes, as in
``steps_100-500``. A change of a section is merged with the section of the file; see :func:`mcir.config.tree.merge`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mcir.config.tree import Node, OptionError, Problem, key_path, merge
from mcir.errors import KeyPath, suggestion

SWEEP = "sweep"
_MAX_RUNS = 10_000

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
        single = next((key for key, entry in node.value.items() if not isinstance(entry.value, dict | list)), None)
        found = "both lists and sections" if single is None else f"a single value for '{single}'"
        raise _problem(node, f"expected a list for every option, or a section for every run, got {found}.")
    empty = [key for key, entry in node.value.items() if not entry.value]
    if empty:
        raise _problem(node, f"'{empty[0]}' has no values.")
    if (number := math.prod(len(entry.value) for entry in node.value.values())) > _MAX_RUNS:
        raise _problem(node, f"expected a grid of at most {_MAX_RUNS:,} runs, got {number:,}.")
    runs: dict[str, Changes] = {}
    for values in itertools.product(*(entry.value for entry in node.value.values())):
        changes = dict(zip(node.value, values, strict=True))
        name = "_".join(f"{key.rpartition('.')[2]}_{_in_name(value.plain())}" for key, value in changes.items())
        if name in runs:
            raise _problem(node, f"Two runs have the same name '{name}'.")
        runs[name] = changes
    return runs


def select_run(root: Node, runs: Mapping[str, Changes], overrides: Sequence[str]) -> list[str]:
    """Apply the run that an override ``sweep=NAME`` selects to the tree, and return the other overrides.

    Raises:
        OptionError: the file has a sweep and no run is selected, or there is no such run.
    """
    chosen = [text.partition("=")[2].strip() for text in overrides if _selects_run(text)]
    rest = [text for text in overrides if not _selects_run(text)]
    known = ", ".join(runs)
    if not runs:
        if chosen:
            raise _problem(root, f"The file has no sweep, so --set sweep={chosen[-1]} has no effect.", ())
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
    base_name = root.child("name")
    if base_name is not None:
        root.value["name"] = Node(f"{base_name.value}_{name}", base_name.location)
    for option, node in runs[name].items():
        path = key_path(root, option.split("."), node.location._replace(key=SWEEP))
        section, old = root.at(path[:-1]), root.at(path)
        is_argument = section is not None and section.child("type") is not None
        root.put(path, node if old is None else merge(old, node, is_argument))
    return rest


def _selects_run(text: str) -> bool:
    return text.partition("=")[0].strip() == SWEEP


def _in_name(value: Any) -> str:
    """Return the text of a value in the name of a run, which is also a folder name."""
    if isinstance(value, list):
        return "-".join(_in_name(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).replace("/", "-")


def _problem(node: Node, message: str, path: KeyPath = (SWEEP,)) -> OptionError:
    return OptionError([Problem.at(node.location, path, message)])
