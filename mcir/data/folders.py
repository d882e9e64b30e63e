"""Several folders or databases as one set of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import count, permutations
from pathlib import Path
from typing import Any, TypeAlias

from mcir.data.codec import Array, ImageInfo
from mcir.data.errors import DataError
from mcir.data.pairing import read_names
from mcir.data.storage import Storage
from mcir.data.transforms import Window
from mcir.errors import ArgumentError, KeyPath

OpenStorage: TypeAlias = Callable[[str, str | KeyPath], Storage]
"""Function that opens a folder or database; its second argument is the key path of the path, for errors."""


class JoinedStorage:
    """Several storages as one: the key of an image is the label of its storage, a slash, and its key there.

    Args:
        storages: storages by their labels. No label is the beginning of another one.

    Attributes:
        storages: storages by their labels.
    """

    def __init__(self, storages: Mapping[str, Storage]) -> None:
        self.storages = dict(storages)

    def keys(self) -> list[str]:
        """Return all keys, storage by storage; those of a storage are sorted.

        Raises:
            DataError: a storage has no images.
        """
        keys = {label: storage.keys() for label, storage in self.storages.items()}
        if empty := next((label for label in keys if not keys[label]), None):
            raise DataError(f"{self.storages[empty].path('')}: no images")
        return [f"{label}/{key}" for label, of_storage in keys.items() for key in of_storage]

    def path(self, key: str) -> str:
        """Return the full name of an image; for an empty key, the names of all storages."""
        if not key:
            return ", ".join(storage.path("") for storage in self.storages.values())
        storage, inner = self._find(key)
        return storage.path(inner)

    def info(self, key: str) -> ImageInfo:
        """Return the size, channels and bits of an image."""
        storage, inner = self._find(key)
        return storage.info(inner)

    def read(self, key: str, window: Window | None = None) -> Array:
        """Return an image (H, W, C) or a part of it."""
        storage, inner = self._find(key)
        return storage.read(inner, window)

    def _find(self, key: str) -> tuple[Storage, str]:
        label = next(label for label in self.storages if key.startswith(f"{label}/"))
        return self.storages[label], key[len(label) + 1 :]


def listed(value: Any) -> list[Any]:
    """Return the entries of an argument that is null, one path, or a list of paths."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def open_folders(
    roots: str | Sequence[str], open_one: OpenStorage, argument: str, like: Storage | None = None
) -> Storage:
    """Open one or several folders or databases as one storage.

    Args:
        roots: path, or list of paths.
        open_one: function that opens a folder or database.
        argument: argument of the data set that contains the paths, for errors.
        like: storage of the partners of the images, which has as many folders. Partners get the same labels.

    Raises:
        ArgumentError: the number of folders is wrong, or a folder contains another one.
        DataError: a folder or database cannot be opened.
    """
    if isinstance(roots, str):
        _require_number(argument, 1, like)
        return open_one(roots, argument)
    if not roots:
        raise ArgumentError(argument, "expected a folder, or a list of folders, got an empty list.")
    _require_number(argument, len(roots), like)
    storages = [open_one(root, (argument, number)) for number, root in enumerate(roots)]
    if len(storages) == 1:
        return storages[0]
    labels = like.storages if isinstance(like, JoinedStorage) else labels_of(roots, argument)
    return JoinedStorage(dict(zip(labels, storages, strict=True)))


def read_lists(files: str | Sequence[str | None], images: Storage) -> list[str]:
    """Return the keys that meta-info files list: one file for each folder, or null for all images of a folder.

    Raises:
        ArgumentError: the number of files is not that of the folders.
        DataError: a file does not exist or is empty.
    """
    files = listed(files)
    _require_number("meta_info_file", len(files), images)
    if not isinstance(images, JoinedStorage):
        return images.keys() if files[0] is None else read_names(files[0], images.keys())
    names = []
    for (label, storage), file in zip(images.storages.items(), files, strict=True):
        known = storage.keys()
        names += [f"{label}/{name}" for name in (known if file is None else read_names(file, known))]
    return names


def group_sizes(images: Storage, keys: Sequence[str]) -> list[int]:
    """Return the number of keys in each folder of a storage; keys of one folder are adjacent."""
    if not isinstance(images, JoinedStorage):
        return [len(keys)]
    return [sum(key.startswith(f"{label}/") for key in keys) for label in images.storages]


def labels_of(roots: Sequence[str], argument: str) -> list[str]:
    """Return the shortest ends of paths that differ: ``flickr/HR`` and ``div2k/HR``.

    Raises:
        ArgumentError: a folder is given twice or contains another one.
    """
    paths = [Path(os.path.abspath(root)).parts[1:] for root in roots]  # noqa: PTH100 (without resolving links)
    for (outer, root), (inner, other) in permutations(zip(paths, roots, strict=True), 2):
        if inner[: len(outer)] == outer:
            raise ArgumentError(
                argument,
                f"expected folders that do not contain each other, got {root} and {other}. Use weights to draw samples "
                "from a folder more often.",
            )
    depth = next(depth for depth in count(1) if len({path[-depth:] for path in paths}) == len(paths))
    return ["/".join(path[-depth:]) for path in paths]


def _require_number(argument: str, number: int, like: Storage | None) -> None:
    expected = len(like.storages) if isinstance(like, JoinedStorage) else 1
    if like is not None and number != expected:
        plural = "a list with one entry" if expected == 1 else f"a list with {expected} entries"
        raise ArgumentError(argument, f"expected {plural}, one for each folder of images, got {number}.")
