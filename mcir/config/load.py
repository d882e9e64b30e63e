"""Load option files: merge bases, apply the command line, translate old names, and report all errors at once."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcir.config.files import find_base, find_file
from mcir.config.legacy import translate
from mcir.config.option_paths import resolve_paths
from mcir.config.options import Options
from mcir.config.sweep import SWEEP, select_run, take_sweep
from mcir.config.tree import Node, NotImportedError, OptionError, Problem, key_path, merge
from mcir.config.validation import validate, validate_network
from mcir.config.yaml_loader import read_file, read_value
from mcir.errors import Location
from mcir.text import shortened

BASE = "_base_"
_MAX_BASES = 50


def load(
    path: str | Path, overrides: Sequence[str] = (), force_yml: Sequence[str] = (), run_imports: bool = True
) -> Options:
    """Load and validate an option file.

    The modules in its ``imports`` are imported, which runs their code: from installed packages, or from the current
    folder.

    Args:
        path: path or name of an option file; see :func:`mcir.config.files.find_file`. Its options override those of
            the files in ``_base_``; see :func:`mcir.config.files.find_base`.
        overrides: options to change, like ``a.b=value`` with a YAML value; ``a.0=value`` changes an item of a list.
            ``sweep=name`` selects one run of a file with a sweep.
        force_yml: options to change in BasicSR's notation, ``a:b=value``. They are applied before ``overrides``.
        run_imports: whether to import the modules in ``imports``.

    Raises:
        OptionError: the options are not valid; the message lists all problems, one per line, with file and line.
        NotImportedError: without ``run_imports``, the only problems are unknown classes in a file with ``imports``.
    """
    file = find_file(path)
    if file != Path(path):
        logging.getLogger("mcir").info("Option file %s: %s", path, file)
    root = read_with_bases(file)
    overrides = select_run(root, take_sweep(root), overrides)
    problems: list[Problem] = []
    for flag, separator, texts in (("--force_yml", ":", force_yml), ("--set", ".", overrides)):
        for text in texts:
            problems += _override(root, text, separator, Location(f"{flag} {shortened(text)}"))
    problems += _import(root) if run_imports else []
    changes, untranslated = translate(root)
    problems += untranslated
    resolve_paths(root)
    try:
        options = validate(root)
    except OptionError as error:
        unknown = [] if run_imports else _maybe_registered(root, error.problems)
        if unknown and not problems and len(unknown) == len(error.problems):
            raise NotImportedError(unknown) from None
        problems += unknown + [found for found in error.problems if not (unknown and found.is_unknown_class)]
        raise OptionError(problems) from None
    if problems:
        raise OptionError(problems)
    if changes:
        logging.getLogger("mcir").warning(
            "%s uses names of BasicSR or of the papers' released code. They are interpreted as follows:\n%s\n"
            "To print the same file in current names: mcir check %s --print",
            file,
            "\n".join(f"  {change}" for change in changes),
            file,
        )
    return options


def network_section(path: str | Path) -> Any:
    """Read only the section ``network_g`` of an option file, after its ``imports``.

    Networks have the same names and arguments in BasicSR's files, so nothing is translated.

    Raises:
        OptionError: the file cannot be read, the section is missing or not valid, or the runs of its sweep have
            different networks.
    """
    root = read_with_bases(find_file(path))
    options = {option for run in take_sweep(root).values() for option in run}
    problems = _import(root)
    if any(option.partition(".")[0] in ("network_g", "scale") for option in options):
        message = "The runs of this file have different networks. Write the section of one of them to a file."
        problems.append(Problem.at(root.location, (SWEEP,), message))
    if problems:
        raise OptionError(problems)
    resolve_paths(root)
    return validate_network(root)


def runs_of(path: str | Path) -> list[str]:
    """Return the names of the runs in an option file's sweep; an empty list without a sweep.

    Raises:
        OptionError: the file cannot be read, or its sweep is not valid.
    """
    return list(take_sweep(read_with_bases(find_file(path))))


def read_with_bases(path: str | Path) -> Node:
    """Return the tree of an option file, merged with its bases (``_base_``).

    Raises:
        OptionError: a file cannot be read, or is its own base, or there are too many bases.
    """
    return _Bases().read(Path(path), ())


class _Bases:
    """Reader of an option file and its bases, of which there may be ``_MAX_BASES``; a repeated base counts again."""

    def __init__(self) -> None:
        self._number = 0

    def read(self, path: Path, chain: tuple[Path, ...]) -> Node:
        """Return the tree of a file, merged with its bases. The files in ``chain`` have it as a base."""
        root = read_file(path)
        bases = root.value.pop(BASE, None)
        if bases is None or bases.value is None:
            return root
        chain = (*chain, path.resolve())
        merged, problems = Node({}, root.location), []
        for entry in bases.value if isinstance(bases.value, list) else [bases]:
            try:
                merged = merge(merged, self._read_base(path, entry, chain))
            except OptionError as error:
                problems += error.problems
        if problems:
            raise OptionError(problems)
        return merge(merged, root)

    def _read_base(self, path: Path, entry: Node, chain: tuple[Path, ...]) -> Node:
        if not isinstance(entry.value, str):
            message = "expected the name of an option file, or a list of names."
            raise OptionError([Problem.at(entry.location, (BASE,), message)])
        self._number += 1
        if self._number > _MAX_BASES:
            message = f"The file has more than {_MAX_BASES} bases, including the bases of its bases."
            raise OptionError([Problem.at(entry.location, (BASE,), message)])
        base = find_base(path, entry.value, entry.location._replace(key=BASE))
        if base.resolve() in chain:
            cycle = " -> ".join(file.name for file in (*chain, base))
            raise OptionError([Problem.at(entry.location, (BASE,), f"The file is its own base: {cycle}.")])
        return self.read(base, chain)


def _override(root: Node, text: str, separator: str, location: Location) -> list[Problem]:
    """Set an option of the tree to a value of the command line, ``a.b=value``, and return the problems."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(separator)
    if not equals or not all(keys):
        example = f"'key{separator}key=value', like 'train{separator}total_iter=1000'"
        return [Problem(location, f"expected {example}.")]
    try:
        root.put(key_path(root, keys, location), read_value(value, location))
    except OptionError as error:
        return error.problems
    return []


def _maybe_registered(root: Node, problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems with unknown classes that the modules in ``imports`` may register, with another message."""
    imports = root.child("imports")
    names = imports.plain() if imports is not None else None
    if not names:
        return []
    modules = ", ".join(map(str, names)) if isinstance(names, list) else str(names)
    message = f"The class is not one of mcir. It may be registered by the imports, which were not run: {modules}."
    return [found._replace(message=message) for found in problems if found.is_unknown_class]


def _import(root: Node) -> list[Problem]:
    """Import the modules in ``imports``, from installed packages or the current folder, and return the failures."""
    imports = root.child("imports")
    if imports is None or not imports.value:
        return []
    if isinstance(imports.value, str):
        imports.value = [Node(imports.value, imports.location)]
    if not isinstance(imports.value, list):
        return []  # validation reports it
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at the end, so that no module here hides an installed package
    problems = []
    for index, node in enumerate(imports.value):
        if isinstance(node.value, str):
            try:
                importlib.import_module(node.value)
            except Exception as error:  # anything that the user's module raises
                problems.append(Problem.at(node.location, ("imports", index), _import_failure(node.value, error)))
    return problems


def _import_failure(module: str, error: Exception) -> str:
    message = f"Importing {module} failed: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"{message}. Install the package, or run the command in its parent folder."
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{message} ({frame.filename}:{frame.lineno})"
