"""Classes that option files of BasicSR, NAFNet and the paper's released code need and that mcir does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mcir.config.legacy_names import OTHER_DATASETS, OTHER_MODELS, OTHER_NETWORKS, RELEASED, RESTORATION_MODELS
from mcir.config.tree import Node, Problem
from mcir.errors import KeyPath, Location, suggestion
from mcir.registry import ARCHS, DATASETS, LOSSES, OPTIMIZERS, SCHEDULERS, Registry


class _Part(NamedTuple):
    """A class that is missing."""

    path: KeyPath
    location: Location
    kind: str
    name: str
    near: str = ""

    def __str__(self) -> str:
        purpose = (OTHER_MODELS | OTHER_DATASETS).get(self.name)
        return f"the {self.kind} {self.name}" + (f" ({purpose})" if purpose else "")


def missing_parts(root: Node) -> Problem | None:
    """Return one problem that lists the missing classes of a file with an old model class; None if there are none."""
    model = root.child("model_type")
    if model is None or model.value not in (*RELEASED, *RESTORATION_MODELS, *OTHER_MODELS):
        return None
    parts = list(dict.fromkeys(_missing_components(root)))
    if model.value in OTHER_MODELS:
        parts.insert(0, _Part(("model_type",), model.location, "model", model.value))
    if not parts:
        return None
    texts = list(dict.fromkeys(map(str, parts)))
    near = parts[0].near if len(texts) == 1 else ""
    message = f"The file needs {', '.join(texts)}. mcir does not have {'it' if len(texts) == 1 else 'them'}.{near}"
    return Problem.at(parts[0].location, parts[0].path, message)


def _missing_components(root: Node) -> Iterator[_Part]:
    for path, node in _sections(root):
        kind, registry = _role(path)
        name = node.child("type")
        if name and isinstance(name.value, str) and name.value not in registry:
            is_known = name.value in (*OTHER_NETWORKS, *OTHER_DATASETS)
            near = "" if is_known else suggestion(name.value, registry.names())
            yield _Part((*path, "type"), name.location, kind, name.value, near)


def _sections(root: Node) -> Iterator[tuple[KeyPath, Node]]:
    yield from (found for found in root.find("*") if str(found[0][0]).startswith("network_"))
    yield from root.find("train.*")
    yield from root.find("datasets.*")


def _role(path: KeyPath) -> tuple[str, Registry]:
    """Return the kind of a section, for messages, and its registry."""
    top, key = path[0], str(path[-1])
    if top == "datasets":
        return DATASETS.kind, DATASETS
    if top != "train":
        return "network", ARCHS
    if key.startswith("optim_"):
        return OPTIMIZERS.kind, OPTIMIZERS
    return (SCHEDULERS.kind, SCHEDULERS) if key == "scheduler" else (LOSSES.kind, LOSSES)
