"""Where images are: a folder of files, an LMDB data base (``lmdb_store``) or the memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from mcir.data.codec import EXTENSIONS, Array, ImageInfo, decode, info_of, probe
from mcir.data.errors import DataError
from mcir.data.lmdb_store import LmdbStore


class Storage(Protocol):
    """A set of images, each under the key that is its path relative to the set, with ``/`` between its parts."""

    def keys(self) -> list[str]:
        """Return all keys, sorted."""

    def info(self, key: str) -> ImageInfo:
        """Return the facts of one image, without decoding it.

        Raises:
            DataError: the image is unreadable or truncated; the message does not name it.
        """

    def path(self, key: str) -> str:
        """Return what to call an image in messages and batches."""

    def read(self, key: str) -> Array:
        """Return one image (H, W, C).

        Raises:
            DataError: the image is unreadable or truncated; the message names it.
        """

    def read_crop(self, key: str, top: int, left: int, height: int, width: int) -> Array:
        """Return a part of one image (height, width, C); it may be a view, which must not be written to.

        Raises:
            DataError: as ``read``.
        """


class Folder:
    """The image files under a folder, at any depth; hidden files and folders are left out.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DataError(f"{self.root}: {'is a file, not a folder' if self.root.exists() else 'no such folder'}")

    def keys(self) -> list[str]:
        """Return the relative paths of all image files, sorted."""
        found = []
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inner = Path(folder).relative_to(self.root).as_posix()
            prefix = "" if inner == "." else f"{inner}/"
            found += [
                prefix + name
                for name in files
                if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")  # noqa: PTH122
            ]
        return sorted(found)

    def path(self, key: str) -> str:
        """Return the path of a file."""
        return f"{self.root}/{key}"

    def info(self, key: str) -> ImageInfo:
        """Return what the header of a file says."""
        try:
            with open(self.path(key), "rb") as stream:  # noqa: PTH123 (several times faster, for each of many files)
                return probe(stream)
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error

    def read(self, key: str) -> Array:
        """Return one image (H, W, C)."""
        return decode(self.value(key), self.path(key))

    def read_crop(self, key: str, top: int, left: int, height: int, width: int) -> Array:
        """Return a part of one image; the whole file is decoded for it."""
        return decode(self.value(key), self.path(key), (top, left, height, width))

    def value(self, key: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return Path(self.root, key).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path(key)}: {error.strerror}") from error


class Memory:
    """Images that are held decoded, by name."""

    def __init__(self, images: Mapping[str, Array]) -> None:
        self._images = dict(images)

    def keys(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._images)

    def path(self, key: str) -> str:
        """Return the name itself."""
        return key

    def info(self, key: str) -> ImageInfo:
        """Return the facts of one image."""
        return info_of(self._images[key])

    def read(self, key: str) -> Array:
        """Return one image (H, W, C)."""
        return self._images[key]

    def read_crop(self, key: str, top: int, left: int, height: int, width: int) -> Array:
        """Return a view of a part of one image."""
        return self._images[key][top : top + height, left : left + width]


def stem(key: str) -> str:
    """Return a key without its extension."""
    folder, slash, name = key.rpartition("/")
    base, dot, extension = name.rpartition(".")
    return f"{folder}{slash}{base if dot and base and extension else name}"  # pathlib's rule, in a tenth of its time


def open_storage(root: str | Path, io_backend: Mapping[str, str] | None = None) -> Folder | LmdbStore:
    """Open what holds the images of a data set.

    Args:
        root: a folder of images, or of an LMDB data base when its name ends in ``.lmdb``.
        io_backend: ``{"type": "lmdb"}`` for a data base of another name; ``{"type": "disk"}`` is the rule above.

    Raises:
        DataError: nothing there, or an unknown backend.
    """
    backend = dict(io_backend or {"type": "disk"})
    if backend.keys() != {"type"} or backend["type"] not in ("disk", "lmdb"):
        raise DataError(f"io_backend is {backend}; expected {{'type': 'disk'}} or {{'type': 'lmdb'}}.")
    if backend["type"] == "lmdb" or Path(root).suffix == ".lmdb":
        return LmdbStore(root)
    return Folder(root)
