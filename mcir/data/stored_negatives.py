"""Negatives that are stored as images, such as the outputs of other methods (CCR of C2PNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from mcir.data.errors import raise_data_errors
from mcir.data.matching import keys_by_stem
from mcir.data.storage import Storage, comparable, read_info
from mcir.data.transforms import Window


class StoredNegatives:
    """K storages with one image for every pair each.

    This image has the name of the pair (with any extension) and the size of the restored full image. Each header is
    checked once.

    Args:
        storages: K ≥ 1 storages.
        names: names of the pairs, without extension.
        sizes: (height, width) of the negatives of each pair.
        dataset: name of the data set, for messages.

    Attributes:
        bits: maximum bits per sample of all negatives.

    Raises:
        DataError: images are missing, ambiguous, unreadable, truncated or of the wrong size.
    """

    def __init__(
        self, storages: Sequence[Storage], names: Sequence[str], sizes: Sequence[tuple[int, int]], dataset: str
    ) -> None:
        self._storages = list(storages)
        self.bits = 8
        problems: list[str] = []
        self._keys = [self._match(storage, names, sizes, problems) for storage in self._storages]
        raise_data_errors(problems, f"{dataset}, dataroot_negatives")

    def read_crops(self, index: int, window: Window) -> list[npt.NDArray[Any]]:
        """Return the same part (height, width, C) of the K negatives of a pair."""
        return [storage.read(keys[index], window) for storage, keys in zip(self._storages, self._keys, strict=True)]

    def _match(
        self, storage: Storage, names: Sequence[str], sizes: Sequence[tuple[int, int]], problems: list[str]
    ) -> list[str]:
        """Return the key of each pair's negative in a storage; append problems to ``problems``."""
        by_name = keys_by_stem(storage)
        by_name |= {comparable(key): [key] for keys in [*by_name.values()] if len(keys) > 1 for key in keys}
        matched = []
        for name, (height, width) in zip(names, sizes, strict=True):
            found = by_name.get(comparable(name), [])
            if len(found) != 1:
                problem = f"several negatives, {', '.join(map(storage.path, found))}" if found else "no such negative"
                problems.append(f"{storage.path(name)}: {problem} (with any extension)")
                continue
            info = read_info(storage, found[0], problems)
            if info is None:
                continue
            if (info.height, info.width) != (height, width):
                problems.append(
                    f"{storage.path(found[0])}: {info.width}×{info.height} pixels, expected {width}×{height}, the size "
                    "of the restored image"
                )
            self.bits = max(self.bits, info.bits)
            matched.append(found[0])
        return matched
