"""How a checkpoint was trained, and whether that is what a table asks for: a training state holds its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mcir.config import Options

_NOT_THE_RESULT = {"name", "num_gpu", "imports", "logger", "dist_params", "val", "path", "datasets"}
_NOTHING = "nothing"


def trained_otherwise(state: Path, options: Options) -> list[str] | None:
    """Return how the training of a checkpoint differs from options: each value, and the one that is asked for.

    Compared is what the weights depend on: seed, networks, their first weights, training set and training.

    Args:
        state: the training state of the checkpoint.
        options: as the training is asked for.

    Returns:
        None where the state is not there, or cannot be read: nobody knows.
    """
    try:
        found = torch.load(state, map_location="cpu", weights_only=True, mmap=True)  # mapped: its tensors stay unread
        made = dict(_recipe(yaml.safe_load(found["options"])))
    except Exception:  # whatever a damaged file raises
        return None
    asked = dict(_recipe(yaml.safe_load(options.dump())))
    return [
        f"{key} {made.get(key, _NOTHING)} instead of {asked.get(key, _NOTHING)}"
        for key in [*made, *(key for key in asked if key not in made)]
        if made.get(key, _NOTHING) != asked.get(key, _NOTHING)
    ]


def _recipe(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield, by its dotted name, every value that the weights depend on."""
    kept = {key: value for key, value in tree.items() if key not in _NOT_THE_RESULT}
    kept["path"] = {"pretrain_network_g": tree["path"]["pretrain_network_g"]}
    skipped = {"name", "num_worker_per_gpu"}
    kept["datasets"] = {"train": {key: v for key, v in tree["datasets"]["train"].items() if key not in skipped}}
    return _leaves(kept)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree
