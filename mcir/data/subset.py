"""Which images a subset or a split holds: a rule of their names alone, the same on every machine and for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def shuffled(names: Sequence[str], seed: int) -> list[int]:
    """Return the indices of names in an order that looks random: by the SHA-256 of ``seed:name``.

    No generator is in play, whose numbers another version of a library might change. Of two sets, the names that both
    have come in the same order.
    """
    digests = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    return sorted(range(len(names)), key=lambda index: (digests[index], names[index], index))


def subset(names: Sequence[str], count: int, seed: int) -> list[int]:
    """Return the indices of the first ``count`` names of ``shuffled``, in ascending order.

    Of one seed the smaller subset lies in the larger one.

    Raises:
        ValueError: there are fewer names than that, or the count is less than 1.
    """
    if not 1 <= count <= len(names):
        raise ValueError(f"{count} of {len(names)} images; it must be a whole number from 1 to {len(names)}.")
    return sorted(shuffled(names, seed)[:count])
