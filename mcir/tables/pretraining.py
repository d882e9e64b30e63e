"""The pre-trainings that the tables of residual contrastive learning compare: the runs of ``pretraining.yml``.

An option file with data has that file as its base; the runs are the same wherever it does, and so are their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mcir.config.load import read_with_bases, runs_of
from mcir.config.sweep import SWEEP

HOME = Path(__file__).with_name("pretraining.yml")
CONSISTENCY = "train.consistency_opt"


@cache
def methods() -> Sequence[str]:
    """Return the names of all methods, in order; each is a run of an option file: ``sweep=NAME``."""
    return tuple(runs_of(HOME))


@cache
def is_consistent(method: str) -> bool:
    """Return whether a method has a consistency loss, and so needs a trained classifier."""
    return CONSISTENCY in read_with_bases(HOME).plain()[SWEEP][method]


def overrides_for(method: str, classifier: str = "imagenet") -> list[str]:
    """Return what chooses a method, and the weights of the classifier where it needs one.

    Args:
        method: one of :func:`methods`.
        classifier: the weights: ``imagenet``, ``random`` or a file.
    """
    return [f"sweep={method}", *([f"{CONSISTENCY}.weights={classifier}"] if is_consistent(method) else [])]
