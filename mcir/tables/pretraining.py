"""The pre-training methods of the RCL tables: the runs of ``pretraining.yml``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mcir.config.load import read_with_bases, runs_of
from mcir.config.sweep import SWEEP

PRETRAINING = Path(__file__).with_name("pretraining.yml")
_CONSISTENCY = "train.consistency_opt"


@cache
def methods() -> Sequence[str]:
    """Return the names of all methods; each option file based on ``pretraining.yml`` has a run for it."""
    return tuple(runs_of(PRETRAINING))


@cache
def has_consistency(method: str) -> bool:
    """Return whether a method has a consistency loss, which needs a classifier."""
    return _CONSISTENCY in read_with_bases(PRETRAINING).plain()[SWEEP][method]


def overrides_for(method: str, classifier: str = "imagenet") -> list[str]:
    """Return the overrides that select a method and the weights of its classifier, if it has one.

    The weights are ``imagenet``, ``random`` or a file.
    """
    return [f"sweep={method}", *([f"{_CONSISTENCY}.weights={classifier}"] if has_consistency(method) else [])]
