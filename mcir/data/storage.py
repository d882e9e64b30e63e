"""Storages of images: a folder of files, an LMDB database (``lmdb_store``) or memory."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mcir.checks import check_argument
from mcir.data.codec import Array, ImageInfo, info_of
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.listing import Report, list_images
from mcir.data.lmdb_store import LmdbStore
from mcir.data.reader import decode, probe
from mcir.data.transforms import Window, crop_image
from mcir.errors import KeyPath, locate_errors


class Headers(Protocol):
    """The names and headers of a set of images.

    The key of an image is its path relative to the set, with ``/`` as separator.
    """

    def keys(self) -> list[str]:
        """Return all keys, sorted."""

    def info(self, key: str) -> ImageInfo:
        """Return the size, channels and bits of an image, without decoding it.

        Raises:
            DataError: the image is unreadable or truncated. The message does not name it.
        """

    def path(self, key: str) -> str:
        """Return the full name of an image, for messages and batches."""


class Storage(Headers, Protocol):
    """A set of images."""

    def read(self, key: str, window: Window | None = None) -> Array:
        """Return an image (H, W, C) or a part of it, possibly as a view, which must not be written to.

        Raises:
            DataError: the image is unreadable or truncated. The message names it.
        """


class Folder:
    """The image files in a folder and its subfolders; hidden files and folders are skipped.

    Raises:
        DataError: the folder does not exist.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: {'is a file, not a folder' if self.root.exists() else 'no such folder'}")

    def keys(self) -> list[str]:
        """Return the relative paths of all image files, sorted.

        Raises:
            DataError: a subfolder cannot be read, or an image is not a file; the message lists all such paths.
        """
        problems: list[str] = []
        keys = self.search(lambda path, reason: problems.append(f"{path}: {reason}"))
        raise_data_errors(problems, str(self.root))
        return keys

    def search(self, report: Report) -> list[str]:
        """Return the relative paths of all image files, sorted, and report what cannot be read."""
        return list_images(self.root, report)

    def path(self, key: str) -> str:
        """Return the path of a file."""
        return f"{self.root}/{key}"

    def info(self, key: str) -> ImageInfo:
        """Return the size, channels and bits of an image from the header of its file."""
        try:
            with open(self.path(key), "rb") as stream:  # noqa: PTH123 (several times faster, for each of many files)
                return probe(stream)
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error

    def read(self, key: str, window: Window | None = None) -> Array:
        """Return an image (H, W, C) or a part of it; the full file is decoded."""
        return decode(self.value(key), self.path(key), window)

    def value(self, key: str) -> bytes:
        """Return the content of a file.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            return Path(self.root, key).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path(key)}: {error.strerror}") from error


class Memory:
    """Decoded images in memory, by name."""

    def __init__(self, images: Mapping[str, Array]) -> None:
        self._images = dict(images)

    def keys(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._images)

    def path(self, key: str) -> str:
        """Return the name itself."""
        return key

    def info(self, key: str) -> ImageInfo:
        """Return the size, channels and bits of an image."""
        return info_of(self._images[key])

    def read(self, key: str, window: Window | None = None) -> Array:
        """Return a view of an image (H, W, C) or of a part of it."""
        return self._images[key] if window is None else crop_image(self._images[key], window)


def read_info(storage: Headers, key: str, problems: list[str]) -> ImageInfo | None:
    """Return the header of an image; if it is unreadable, append the problem to ``problems`` and return None."""
    try:
        return storage.info(key)
    except DataError as error:
        problems.append(f"{storage.path(key)}: {error}")
        return None


def stem(key: str) -> str:
    """Return a key without its extension."""
    folder, slash, name = key.rpartition("/")
    base, dot, extension = name.rpartition(".")
    return f"{folder}{slash}{base if dot and base and extension else name}"  # ten times as fast as pathlib


def distinct_names(keys: Sequence[str]) -> list[str]:
    """Return the names of images in results: keys without extension, or whole keys of images that differ only in it."""
    counts = Counter(map(stem, keys))
    names = [stem(key) if counts[stem(key)] == 1 else key for key in keys]
    return names if len(set(names)) == len(names) else list(keys)


def comparable(name: str) -> str:
    """Return a name in the form in which names are compared: a letter and its accent are one character (NFC).

    macOS and some archives store them as two characters, which look the same.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _advice(root: str | Path) -> str:
    from mcir.data.manifest import how_to_get  # slow to import, and it imports modules that import this one

    return how_to_get(root)


def open_storage(
    root: str | Path, io_backend: Mapping[str, str] | None = None, argument: str | KeyPath = ()
) -> Folder | LmdbStore:
    """Open the images of a data set.

    Args:
        root: folder of images, or folder of an LMDB database if its name ends in ``.lmdb``.
        io_backend: ``{"type": "lmdb"}``: a database with any name; None or ``{"type": "disk"}``: the name determines
            whether it is a database.
        argument: argument of the data set that contains the path, for the location of an error.

    Raises:
        ArgumentError: the backend is unknown.
        DataError: the folder or database does not exist.
    """
    backend = {"type": "disk"} if io_backend is None else dict(io_backend)
    known = ({"type": "disk"}, {"type": "lmdb"})
    check_argument("io_backend", backend, backend in known, "{'type': 'disk'} or {'type': 'lmdb'}")
    is_database = backend["type"] == "lmdb" or Path(root).suffix == ".lmdb"
    with locate_errors(key=argument):
        if not Path(root).exists() and (advice := _advice(root)):
            raise DataError(f"{root}: no such folder. {advice}")
        return LmdbStore(root) if is_database else Folder(root)
