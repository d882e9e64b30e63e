"""Negatives that were stored once beside the pairs, such as the outputs of other methods (CCR of C2PNet)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from mcir.data.errors import DataError, raise_data_errors
from mcir.data.storage import Storage, stem
from mcir.data.transforms import Window


class StoredNegatives:
    """K storages that each hold one image for every pair.

    The image is that which has the name of the pair (of any extension), the name under which restored images are saved;
    it is as large as what a network makes of the whole degraded image. Every header is checked once.

    Args:
        storages: K ≥ 1 of them.
        names: of the pairs, without extension.
        sizes: (height, width) of the negatives of each pair.
        what: the set, for messages.

    Attributes:
        bits: the most bits of a sample among all negatives.

    Raises:
        DataError: images are missing, ambiguous, unreadable, truncated or of the wrong size; the first ten are named.
    """

    def __init__(
        self, storages: Sequence[Storage], names: Sequence[str], sizes: Sequence[tuple[int, int]], what: str
    ) -> None:
        self._storages = list(storages)
        self.bits = 8
        problems: list[str] = []
        self._keys = [self._matched(storage, names, sizes, problems) for storage in self._storages]
        raise_data_errors(problems, f"{what}, dataroot_negatives")

    def read_crops(self, index: int, window: Window) -> list[npt.NDArray[Any]]:
        """Return the same part (height, width, C) of the K negatives of a pair."""
        return [
            storage.read_crop(keys[index], *window) for storage, keys in zip(self._storages, self._keys, strict=True)
        ]

    def _matched(
        self, storage: Storage, names: Sequence[str], sizes: Sequence[tuple[int, int]], problems: list[str]
    ) -> list[str]:
        """Return the key of each pair's negative in one storage; faults are added to ``problems``."""
        by_stem: dict[str, list[str]] = defaultdict(list)
        for key in storage.keys():  # noqa: SIM118 (a storage is no mapping)
            by_stem[stem(key)].append(key)
        matched = []
        for name, (height, width) in zip(names, sizes, strict=True):
            found = by_stem.get(name, [])
            if len(found) != 1:
                known = f"more than one, {', '.join(map(storage.path, found))}" if found else "no such negative"
                problems.append(f"{storage.path(name)}: {known} (of any extension)")
                continue
            try:
                info = storage.info(found[0])
            except DataError as error:
                problems.append(f"{storage.path(found[0])}: {error}")
                continue
            if (info.height, info.width) != (height, width):
                problems.append(
                    f"{storage.path(found[0])}: {info.width}×{info.height} pixels; as large as the restored image, "
                    f"that should be {width}×{height}"
                )
            self.bits = max(self.bits, info.bits)
            matched.append(found[0])
        return matched
