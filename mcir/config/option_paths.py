"""Paths in option files: expand them, and look up relative ones.

An input that a file names is looked up in the folder of this file, and then in the current folder. A relative path on
the command line, and each output, is relative to the current folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

from mcir.config.components import annotation_of
from mcir.config.files import shipped
from mcir.config.options import PathOptions
from mcir.config.tree import Node, dotted
from mcir.domains import MAPPINGS, SEQUENCES, UNIONS, parts
from mcir.errors import KeyPath
from mcir.paths import PathKind, expand, path_kind
from mcir.registry import DATASETS, MODELS, ArchSection, MetricSection, Registry

_SECTIONS: Mapping[KeyPath, Any] = {
    ("datasets",): Mapping[str, Annotated[Any, DATASETS]],
    ("val", "metrics"): Mapping[str, MetricSection],
    **{("path", name): annotation_of(field) for name, field in PathOptions.model_fields.items()},
}


class _Path(NamedTuple):
    """An option with a path."""

    key: KeyPath
    node: Node
    kind: PathKind


def resolve_paths(root: Node) -> None:
    """Expand every path in the tree of an option file, and replace those that are relative to their option file.

    A path relative to the current folder remains as it is written. If an input exists in neither folder, the location
    of its node gets a note, which error messages show. One log message lists the options whose files exist in both
    folders, and those found in the current folder although the option file belongs to another one.
    """
    ambiguous, elsewhere = [], []
    for key, node, kind in _paths(root):
        node.value = text = expand(node.value)
        if kind.is_output or text in ("", *kind.names) or Path(text).is_absolute():
            continue
        here = Path.cwd()
        option_folder = here if node.location.line is None else Path(node.location.source).parent.resolve()
        if not os.path.exists(option_folder / text):  # noqa: PTH110 (any text, also with zero bytes)
            if not os.path.exists(text):  # noqa: PTH110
                node.location = node.location._replace(note=_places(text, option_folder, here))
            elif not any(map(option_folder.is_relative_to, (here, shipped().resolve()))):
                elsewhere.append(dotted(key))
        elif option_folder != here:
            node.value = str(option_folder / text)
            if os.path.exists(text) and not os.path.samefile(text, node.value):  # noqa: PTH110, PTH121
                ambiguous.append(f"{dotted(key)}: '{text}' exists in both. {node.value} is used.")
    if elsewhere:
        ambiguous.append(f"Found only in the current folder: {', '.join(elsewhere)}.")
    if ambiguous:
        rule = "Relative paths are looked up in the folder of the option file, and then in the current folder."
        logging.getLogger("mcir").warning("%s", "\n  ".join([rule, *ambiguous]))


def _places(text: str, option_folder: Path, here: Path) -> str:
    places = [f"{here} (the current folder)"]
    if option_folder != here:
        places.insert(0, f"{option_folder} (the folder of the option file)")
    return f"'{text}' was looked up in {' and in '.join(places)}."


def _paths(root: Node) -> Iterator[_Path]:
    """Yield the options with paths, according to the types of the sections. Values of another form are ignored."""
    sections = dict(_SECTIONS)
    sections |= {(key,): ArchSection for key in root.value if str(key).startswith("network_")}
    model = root.child("model_type")
    if model is not None and isinstance(model.value, str) and model.value in MODELS:
        parameters = MODELS.parameters(model.value)
        sections |= {("train", name): parameter.annotation for name, parameter in parameters.items()}
    for key, annotation in sections.items():
        if node := root.at(key):
            yield from _paths_in(annotation, key, node)


def _paths_in(annotation: Any, key: KeyPath, node: Node) -> Iterator[_Path]:
    """Yield the paths in a value with this annotation, each of them once."""
    bare, kind, _ = parts(annotation)
    if kind in UNIONS:
        found = (path for member in get_args(bare) for path in _paths_in(member, key, node))
        yield from {path.key: path for path in found}.values()
    elif isinstance(node.value, str):
        if marker := PathKind() if kind is Path else path_kind(annotation):
            yield _Path(key, node, marker)
    else:
        for inner, part in _children(annotation, node.value):
            yield from _paths_in(inner, (*key, part), node.at((part,)) or node)


def _children(annotation: Any, value: Any) -> Iterator[tuple[Any, str | int]]:
    """Yield annotation and key of each argument of a component, each entry of a mapping and each item of a list."""
    bare, kind, extras = parts(annotation)
    arguments = get_args(bare)
    registry = next((extra for extra in extras if isinstance(extra, Registry)), None)
    if isinstance(value, dict):
        name = value["type"].value if "type" in value else None
        if registry and isinstance(name, str) and name in registry:
            parameters = registry.parameters(name)
            yield from ((parameters[key].annotation, key) for key in value if key in parameters)
        elif kind in MAPPINGS and arguments and not registry:
            yield from ((arguments[1], key) for key in value)
    elif isinstance(value, list) and kind in SEQUENCES and arguments:
        is_fixed = kind is tuple and arguments[-1] is not Ellipsis
        yield from zip(arguments if is_fixed else repeat(arguments[0]), range(len(value)), strict=False)
