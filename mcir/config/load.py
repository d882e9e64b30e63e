"""Loading option files: bases below, command line above, old names translated, everything checked at once."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from mcir.config.legacy import translate
from mcir.config.schema import Options
from mcir.config.sweep import SWEEP, choose, take_sweep
from mcir.config.tree import Node, OptionError, Problem, merge
from mcir.config.validation import validate, validate_network
from mcir.config.yaml_loader import read_file, read_value
from mcir.registry import KeyPath, Location

BASE = "_base_"


def load(path: str | FilePath, overrides: Sequence[str] = (), force_yml: Sequence[str] = ()) -> Options:
    """Read, merge, translate and check an option file.

    Args:
        path: the option file. Files that its ``_base_`` names, relative to it, are merged below it.
        overrides: ``a.b=value`` each, typed as the value would be in the file; ``a.0=value`` sets an element of a list.
            ``sweep=name`` chooses a run of a file that describes several.
        force_yml: the same as BasicSR writes it, ``a:b=value``; set before the overrides.

    Raises:
        OptionError: anything is wrong; the message lists all of it, one a line, by file and line.
    """
    root = read_with_bases(path)
    overrides = choose(root, take_sweep(root), overrides)
    problems: list[Problem] = []
    for flag, separator, texts in (("--force_yml", ":", force_yml), ("--set", ".", overrides)):
        for text in texts:
            problems += _override(root, text, separator, Location(f"{flag} {text}"))
    problems += _import(root)
    changes, misfits = translate(root)
    problems += misfits
    try:
        options = validate(root)
    except OptionError as error:
        raise OptionError([*problems, *error.problems]) from None
    if problems:
        raise OptionError(problems)
    if changes:
        logging.getLogger("mcir").warning(
            "%s uses names of BasicSR or of the papers' released code, which were understood like this:\n%s\n"
            "The same in today's names:\n\n%s",
            path,
            "\n".join(f"  {change}" for change in changes),
            options.dump(),
        )
    return options


def network_section(path: str | FilePath) -> Any:
    """Read the section ``network_g`` of an option file, and of the rest only ``imports``.

    Networks have the same names and arguments in BasicSR's files, so nothing is translated.

    Raises:
        OptionError: the file cannot be read, has no such section or one that does not fit its class, or describes runs
            of different networks.
    """
    root = read_with_bases(path)
    options = {option for run in take_sweep(root).values() for option in run}
    problems = _import(root)
    if any(option.partition(".")[0] in ("network_g", "scale") for option in options):
        message = "The runs of this file have different networks. Write the section of the one that is meant to a file."
        problems.append(Problem.at(root.location, (SWEEP,), message))
    if problems:
        raise OptionError(problems)
    return validate_network(root)


def runs_of(path: str | FilePath) -> list[str]:
    """Return the names of the runs that an option file with a sweep describes; of any other file, none.

    Raises:
        OptionError: the file cannot be read, or its sweep is none.
    """
    return list(take_sweep(read_with_bases(path)))


def read_with_bases(path: str | FilePath, chain: tuple[FilePath, ...] = ()) -> Node:
    """Return the tree of an option file, laid over those that its ``_base_`` names.

    Args:
        path: the option file.
        chain: the files whose ``_base_`` led here.

    Raises:
        OptionError: a file cannot be read, or is its own base.
    """
    path = FilePath(path)
    root = read_file(path)
    named = root.value.pop(BASE, None)
    if named is None or named.value is None:
        return root
    chain = (*chain, path.resolve())
    merged, problems = Node({}, root.location), []
    for entry in named.value if isinstance(named.value, list) else [named]:
        try:
            merged = merge(merged, _read_base(path, entry, chain))
        except OptionError as error:
            problems += error.problems
    if problems:
        raise OptionError(problems)
    return merge(merged, root)


def _read_base(path: FilePath, entry: Node, chain: tuple[FilePath, ...]) -> Node:
    if not isinstance(entry.value, str):
        message = "Expected the name of an option file, or a list of names."
        raise OptionError([Problem.at(entry.location, (BASE,), message)])
    base = path.parent / entry.value
    if base.resolve() in chain:
        circle = " -> ".join(file.name for file in (*chain, base))
        raise OptionError([Problem.at(entry.location, (BASE,), f"The file is its own base: {circle}.")])
    if not base.is_file():
        try:
            read_file(base)
        except OptionError as error:
            message = f"'{entry.value}': {error.problems[0].message}"
            raise OptionError([Problem.at(entry.location, (BASE,), message)]) from None
    return read_with_bases(base, chain)


def _override(root: Node, text: str, separator: str, place: Location) -> list[Problem]:
    """Set what one ``a.b=value`` of the command line says; return what is wrong with it."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(separator)
    if not equals or not all(keys):
        return [Problem(place, f"Expected 'key{separator}key=value', like 'train{separator}total_iter=1000'.")]
    try:
        node = read_value(value, place)
    except OptionError as error:
        return error.problems
    parent = root
    path: KeyPath = ()
    for depth, key in enumerate(keys):
        if isinstance(parent.value, list) and not (key.isdecimal() and int(key) < len(parent.value)):
            message = (
                f"This is a list of {len(parent.value)}; '{key}' is no index between 0 and {len(parent.value) - 1}."
            )
            return [Problem.at(place, path, message)]
        if not isinstance(parent.value, dict | list):
            return [Problem.at(place, path, "This is a single value: nothing can be set below it.")]
        index: Any = int(key) if isinstance(parent.value, list) else key
        if depth == len(keys) - 1:
            parent.value[index] = node
        else:
            child = parent.child(index)
            if child is None or child.value is None:
                child = parent.value[index] = Node({}, place)
            parent, path = child, (*path, index)
    return []


def _import(root: Node) -> list[Problem]:
    """Import the modules of ``imports:``, installed ones or those of the current folder; return what failed."""
    imports = root.child("imports")
    if imports is None or not imports.value:
        return []
    if isinstance(imports.value, str):
        imports.value = [Node(imports.value, imports.location)]
    if not isinstance(imports.value, list):
        return []  # the check of types says what is wrong
    here = str(FilePath.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at the end, so that nothing installed is hidden
    problems = []
    for index, node in enumerate(imports.value):
        if isinstance(node.value, str):
            try:
                importlib.import_module(node.value)
            except Exception as error:  # whatever the user's module raises
                problems.append(Problem.at(node.location, ("imports", index), _import_failure(node.value, error)))
    return problems


def _import_failure(module: str, error: Exception) -> str:
    message = f"Importing {module} failed: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"{message}. Install the package, or start in the folder that holds it."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{message} ({frame.filename}:{frame.lineno})"
