"""Compare the options of a finished training with those of its row in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mcir.config import Options
from mcir.engine.checkpoint import read_state

_IRRELEVANT = {"name", "num_gpu", "imports", "logger", "dist_params", "val", "path", "datasets"}
_ABSENT = "nothing"


def training_differences(state: Path, options: Options) -> list[str] | None:
    """Compare seed, networks, initial weights, training set and training of two sets of options.

    Returns:
        One line per option that differs between the training state and the expected options; None if the state
        cannot be read.
    """
    try:
        return _differences(read_state(state).options, options)
    except Exception:  # damaged options raise errors of many kinds
        return None


def have_equal_training(text: str, options: Options) -> bool:
    """Return whether a text of resolved options describes the same training; if it is damaged, it does not."""
    try:
        return not _differences(text, options)
    except Exception:  # as above
        return False


def _differences(text: str, options: Options) -> list[str]:
    actual = dict(_relevant(yaml.safe_load(text)))
    expected = dict(_relevant(yaml.safe_load(options.dump())))
    return [
        f"{key} {actual.get(key, _ABSENT)} instead of {expected.get(key, _ABSENT)}"
        for key in dict.fromkeys([*actual, *expected])
        if actual.get(key, _ABSENT) != expected.get(key, _ABSENT)
    ]


def _relevant(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the options that weights depend on, by their dotted names."""
    kept = {key: value for key, value in tree.items() if key not in _IRRELEVANT}
    kept["path"] = {"pretrain_network_g": tree["path"]["pretrain_network_g"]}
    train = tree["datasets"]["train"]
    kept["datasets"] = {"train": {k: v for k, v in train.items() if k not in ("name", "num_worker_per_gpu")}}
    return _leaves(kept)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree
