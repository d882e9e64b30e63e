"""Compare the options of a finished training with those of its row in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mcir.config import Options
from mcir.engine.checkpoint import read_state
from mcir.report.option_changes import changed_values

_IRRELEVANT = {"name", "num_gpu", "imports", "logger", "dist_params", "val", "path", "datasets"}


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
    actual, expected = (_relevant(yaml.safe_load(text)) for text in (text, options.dump()))
    return [f"{change.name} {change.before} instead of {change.now}" for change in changed_values(actual, expected)]


def _relevant(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that weights depend on."""
    kept = {key: value for key, value in tree.items() if key not in _IRRELEVANT}
    kept["path"] = {"pretrain_network_g": tree["path"]["pretrain_network_g"]}
    train = tree["datasets"]["train"]
    kept["datasets"] = {"train": {k: v for k, v in train.items() if k not in ("name", "num_worker_per_gpu")}}
    return kept
