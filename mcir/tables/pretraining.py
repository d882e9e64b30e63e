"""The pre-training methods of the RCL tables: the runs of ``options/_base_/rcl.yml``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mcir.config.files import shipped
from mcir.config.load import read_with_bases, runs_of
from mcir.config.sweep import SWEEP

_METHODS = shipped() / "_base_/rcl.yml"
_CONSISTENCY = "train.consistency_opt"


@cache
def methods(file: Path = _METHODS) -> Sequence[str]:
    """Return the names of the methods in an option file: the runs of its sweep."""
    return tuple(runs_of(file))


@cache
def has_consistency(method: str, file: Path = _METHODS) -> bool:
    """Return whether a method of an option file has a consistency loss, which needs a classifier."""
    return _CONSISTENCY in read_with_bases(file).plain()[SWEEP][method]


def overrides_for(method: str, classifier: str = "imagenet", file: Path = _METHODS) -> list[str]:
    """Return the overrides that select a method of an option file and the weights of its classifier, if it has one.

    The weights are ``imagenet``, ``random`` or a file.
    """
    return [f"sweep={method}", *([f"{_CONSISTENCY}.weights={classifier}"] if has_consistency(method, file) else [])]
