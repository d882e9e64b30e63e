"""The pre-training methods of the RCL tables: the runs of ``options/_base_/rcl.yml``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mcir.config.files import shipped
from mcir.config.load import read_with_bases, runs_of
from mcir.config.sweep import SWEEP

_METHODS = shipped() / "_base_/rcl.yml"
_CONSISTENCY = "train.consistency_opt"


@cache
def methods() -> Sequence[str]:
    """Return the names of all methods; each option file with this base has a run for it."""
    return tuple(runs_of(_METHODS))


@cache
def has_consistency(method: str) -> bool:
    """Return whether a method has a consistency loss, which needs a classifier."""
    return _CONSISTENCY in read_with_bases(_METHODS).plain()[SWEEP][method]


def overrides_for(method: str, classifier: str = "imagenet") -> list[str]:
    """Return the overrides that select a method and the weights of its classifier, if it has one.

    The weights are ``imagenet``, ``random`` or a file.
    """
    return [f"sweep={method}", *([f"{_CONSISTENCY}.weights={classifier}"] if has_consistency(method) else [])]
