"""Memory-mapped LMDB databases of images.

There are two codecs. ``encoded`` stores the bytes of each file unchanged. ``raw`` stores the decoded samples: it needs
more disk space, but reading a crop decodes nothing and reads only the memory pages of the crop.

The key of an image is its path relative to the source folder, in bytes. Each image has a small record (size, depth,
checksum, size and time of its source file). A summary marks the database as complete; users can read it
in ``mcir_lmdb.json``. The keys of records and summary start with a zero byte, which no path contains.
``lmdb_writer`` writes databases. Databases of BasicSR (``meta_info.txt`` in the folder, keys without extension) can be
read, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import struct
import threading
import weakref
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import lmdb
import numpy as np

from mcir.data.codec import Array, ImageInfo
from mcir.data.errors import DataError
from mcir.data.reader import decode, probe
from mcir.data.transforms import Window, crop_image

Codec: TypeAlias = Literal["encoded", "raw"]

FORMAT = 1
SUMMARY_KEY = b"\0mcir"
RECORD_PREFIX = b"\0facts/"
SUMMARY_FILE = "mcir_lmdb.json"
BASICSR_FILE = "meta_info.txt"

_RECORD = struct.Struct("<IIHHIQQ")
_BASICSR_LINE = re.compile(r"^(?P<name>.+?)\s+\(\d+(?:,\s*\d+)*\)(?:\s+\d+)?$")


class ImageRecord(NamedTuple):
    """Record of an image: its header, the CRC-32 of the stored value, and the size and time of its source file."""

    info: ImageInfo
    crc: int
    source_size: int
    source_time: int

    def pack(self) -> bytes:
        """Return the stored form."""
        return _RECORD.pack(*self.info, self.crc, self.source_size, self.source_time)

    @classmethod
    def unpack(cls, data: bytes) -> ImageRecord:
        """Return the record from its stored form."""
        *info, crc, size, time = _RECORD.unpack(data)
        return cls(ImageInfo(*info), crc, size, time)


def to_bytes(key: str) -> bytes:
    """Return the stored form of a key, which preserves every file name of the operating system."""
    return os.fsencode(key)


class _Environment:
    """An open database and its read transaction, for one process."""

    def __init__(self, path: str) -> None:
        self.process = os.getpid()
        self.is_closed = True
        try:
            self.env = lmdb.open(
                path, readonly=True, lock=False, readahead=False, meminit=False, subdir=Path(path).is_dir()
            )
        except lmdb.Error as error:
            raise DataError(f"{path}: not a readable LMDB database ({error})") from error
        self.transaction = self.env.begin(buffers=True)
        self.is_closed = False

    def close(self) -> None:
        """Close the database; in a forked process this does not affect the parent process."""
        if not self.is_closed:
            self.is_closed = True
            with contextlib.suppress(BufferError, lmdb.Error):
                self.transaction.abort()
                self.env.close()

    def __del__(self) -> None:
        self.close()


_environments: weakref.WeakValueDictionary[str, _Environment] = weakref.WeakValueDictionary()
"""Open databases by path, since lmdb opens a database only once per process."""
_opening = threading.Lock()


class LmdbStore:
    """The images of a database, read-only.

    The constructor reads the keys and closes the database. Each process opens it again when it reads its first image,
    so a store can be pickled or inherited by a forked process. There are no locks: do not write to a database that is
    being read.

    Raises:
        DataError: there is no database, or writing it was interrupted.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not (self.root / "data.mdb").is_file():
            raise DataError(f"{self.root}: no LMDB database (a folder with a file data.mdb)")
        self._environment: _Environment | None = None
        self._infos: dict[str, ImageInfo] = {}
        self._stored: dict[str, bytes] = {}
        self.codec: Codec = "encoded"
        self.summary: dict[str, Any] = {}
        summary = self._get(SUMMARY_KEY)
        if summary is None:
            self._read_basicsr()
        else:
            self._read_summary(json.loads(bytes(summary)))
            del summary  # a view of the memory map, which would keep the database open
        self._environment = None

    def keys(self) -> list[str]:
        """Return the relative paths of all images, sorted."""
        return sorted(self._infos or self._stored)

    def path(self, key: str) -> str:
        """Return the path of the database, followed by the key."""
        return f"{self.root}/{key}"

    def info(self, key: str) -> ImageInfo:
        """Return the size, channels and bits of an image; only in databases of BasicSR its header is read."""
        info = self._infos.get(key)
        if info is None:
            info = self._infos[key] = probe(io.BytesIO(self.value(key)))
        return info

    def read(self, key: str, window: Window | None = None) -> Array:
        """Return an image (H, W, C) or a part of it; the codec ``raw`` reads and copies only this part."""
        if self.codec == "encoded":
            return decode(self.value(key), self.path(key), window)
        height, width, channels, bits = self._infos[key]
        samples = np.frombuffer(self.value(key), np.uint8 if bits == 8 else np.uint16)
        stored = samples.reshape(height, width, channels)  # a view of the memory map
        image: Array = (stored if window is None else crop_image(stored, window)).copy()
        return image

    def record(self, key: str) -> ImageRecord | None:
        """Return the record of an image; None in a database of BasicSR."""
        packed = self._get(RECORD_PREFIX + to_bytes(key))
        return None if packed is None else ImageRecord.unpack(bytes(packed))

    def value(self, key: str) -> memoryview:
        """Return the stored bytes of an image: a view of the memory map, valid only as long as the store exists.

        Raises:
            DataError: the database has no such image.
        """
        value = self._get(self._stored.get(key) or to_bytes(key))
        if value is None:
            raise DataError(f"{self.path(key)}: no such image in the database")
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None}

    def _get(self, key: bytes) -> memoryview | None:
        value = self._transaction().get(key)
        return None if value is None else memoryview(value)

    def _transaction(self) -> lmdb.Transaction:
        if self._environment is None or self._environment.process != os.getpid():
            path = str(self.root.resolve())
            with _opening:
                environment = _environments.get(path)
                if environment is None or environment.process != os.getpid():
                    if environment is not None:  # opened by the parent process before it forked this one
                        environment.close()
                    environment = _environments[path] = _Environment(path)
            self._environment = environment
        return self._environment.transaction

    def _read_summary(self, summary: dict[str, Any]) -> None:
        self.summary = summary
        if not summary.get("complete"):
            raise DataError(f"{self.root}: writing was interrupted; run `mcir prepare lmdb` again, it resumes")
        if summary["format"] != FORMAT:
            raise DataError(f"{self.root}: expected format {FORMAT}, got {summary['format']} of another mcir version")
        self.codec = summary["codec"]
        self._infos = {os.fsdecode(key): record.info for key, record in all_records(self._transaction())}

    def _read_basicsr(self) -> None:
        listing = self.root / BASICSR_FILE
        if not listing.is_file():
            raise DataError(
                f"{self.root}: expected a database of mcir (with a summary) or of BasicSR (with {BASICSR_FILE}), "
                "got neither"
            )
        for line in listing.read_text(encoding="utf-8").splitlines():
            match = _BASICSR_LINE.match(line.strip())
            if match:
                name = match["name"]
                self._stored[name] = to_bytes(os.path.splitext(name)[0])  # noqa: PTH122 (a key, not a path)


def all_records(transaction: lmdb.Transaction) -> list[tuple[bytes, ImageRecord]]:
    """Return the keys of all images of a database and their records, in the order of the keys' bytes."""
    found = []
    with transaction.cursor() as cursor:
        if cursor.set_range(RECORD_PREFIX):
            for key, value in cursor:
                if not bytes(key).startswith(RECORD_PREFIX):
                    break
                found.append((bytes(key)[len(RECORD_PREFIX) :], ImageRecord.unpack(bytes(value))))
    return found
