"""LMDB data bases of images: thousands of files in one, opened once and read by page.

Two codecs. ``encoded`` keeps the bytes of each file as they are. ``raw`` keeps the decoded samples, larger on the
disk, but a crop is cut out of the memory map: nothing is decoded, and of a large image only the pages of the crop are
read.

The key of an image is its path relative to the folder it came from, byte for byte, so no two collide. Beside each image
stands a small record of facts (size, depth, checksum, and what its source was), and beside all of them the summary that
completes a data base, also written to ``mcir_lmdb.json`` for people. Keys of our own begin with a zero byte, which no
path has. The writer is in ``lmdb_writer``; data bases of BasicSR (``meta_info.txt`` beside them, keys without
extension) are read as they are.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import struct
import weakref
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import lmdb
import numpy as np

from mcir.data.codec import Array, ImageInfo, decode, probe
from mcir.data.errors import DataError

Codec: TypeAlias = Literal["encoded", "raw"]

FORMAT = 1
SUMMARY_KEY = b"\0mcir"
FACTS_PREFIX = b"\0facts/"
SUMMARY_FILE = "mcir_lmdb.json"
BASICSR_FILE = "meta_info.txt"

_FACTS = struct.Struct("<IIHHIQQ")
_BASICSR_LINE = re.compile(r"^(?P<name>.+?)\s+\(\d+(?:,\s*\d+)*\)(?:\s+\d+)?$")


class Facts(NamedTuple):
    """What is kept about an image: its header, the CRC-32 of the stored value, and size and time of its source file."""

    info: ImageInfo
    crc: int
    source_size: int
    source_time: int

    def pack(self) -> bytes:
        """Return the stored form."""
        return _FACTS.pack(*self.info, self.crc, self.source_size, self.source_time)

    @classmethod
    def unpack(cls, data: bytes) -> Facts:
        """Read the stored form."""
        *info, crc, size, time = _FACTS.unpack(data)
        return cls(ImageInfo(*info), crc, size, time)


def to_bytes(key: str) -> bytes:
    """Return the stored form of a key; any file name of the system survives."""
    return os.fsencode(key)


class _Environment:
    """An open data base with one read transaction, for one process."""

    def __init__(self, path: str) -> None:
        self.closed = True
        try:
            self.env = lmdb.open(
                path, readonly=True, lock=False, readahead=False, meminit=False, subdir=Path(path).is_dir()
            )
        except lmdb.Error as error:
            raise DataError(f"{path}: not an LMDB data base that can be read ({error})") from error
        self.transaction = self.env.begin(buffers=True)
        self.closed = False

    def close(self) -> None:
        """Close it, once; in the child of a fork that closes the child's inheritance alone."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(BufferError, lmdb.Error):
                self.transaction.abort()
                self.env.close()

    def __del__(self) -> None:
        self.close()


_open: weakref.WeakValueDictionary[tuple[int, str], _Environment] = weakref.WeakValueDictionary()


class LmdbStore:
    """The images of a data base, read only.

    The environment is opened when it is first needed and again in each process that a fork makes, without locks: do not
    write to a data base that is being read.

    Raises:
        DataError: no data base there, or one whose writing was never completed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()
        if not (self.root / "data.mdb").is_file():
            raise DataError(f"{self.root}: no LMDB data base (a folder with a file data.mdb)")
        self._pid = -1
        self._environment: _Environment | None = None
        self._infos: dict[str, ImageInfo] = {}
        self._stored: dict[str, bytes] = {}
        summary = self._get(SUMMARY_KEY)
        if summary is None:
            self.codec: Codec = "encoded"
            self.summary: dict[str, Any] = {}
            self._read_basicsr()
            return
        self.summary = json.loads(bytes(summary))
        if not self.summary.get("complete"):
            raise DataError(
                f"{self.root}: its writing was interrupted; run `mcir prepare lmdb` again, it goes on from there"
            )
        if self.summary["format"] != FORMAT:
            raise DataError(f"{self.root}: format {self.summary['format']}; this version of mcir reads format {FORMAT}")
        self.codec = self.summary["codec"]
        self._infos = {os.fsdecode(key): facts.info for key, facts in all_facts(self._transaction())}

    def keys(self) -> list[str]:
        """Return the relative paths of all images, sorted."""
        return sorted(self._infos or self._stored)

    def path(self, key: str) -> str:
        """Return the data base and the key."""
        return f"{self.root}/{key}"

    def info(self, key: str) -> ImageInfo:
        """Return the facts of one image; what mcir wrote is not read for it."""
        info = self._infos.get(key)
        if info is None:
            info = self._infos[key] = probe(io.BytesIO(self.value(key)))
        return info

    def read(self, key: str) -> Array:
        """Return one image (H, W, C)."""
        return self._raw(key).copy() if self.codec == "raw" else decode(self.value(key), self.path(key))

    def read_crop(self, key: str, top: int, left: int, height: int, width: int) -> Array:
        """Return a part of one image; of the codec ``raw`` only its own rows are read, and nothing else is copied."""
        if self.codec == "raw":
            crop: Array = self._raw(key)[top : top + height, left : left + width].copy()
            return crop
        return decode(self.value(key), self.path(key), (top, left, height, width))

    def facts(self, key: str) -> Facts | None:
        """Return what the writer kept about an image; None for a data base of another writer."""
        packed = self._get(FACTS_PREFIX + to_bytes(key))
        return None if packed is None else Facts.unpack(bytes(packed))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None, "_pid": -1}

    # -- within ---------------------------------------------------------------------------------------------------

    def _raw(self, key: str) -> Array:
        """Return a view of the memory map, which must not leave this class: it dies with the store."""
        height, width, channels, bits = self._infos[key]
        samples = np.frombuffer(self.value(key), np.uint8 if bits == 8 else np.uint16)
        return samples.reshape(height, width, channels)

    def value(self, key: str) -> memoryview:
        """Return the stored bytes of an image, a view of the memory map that dies with the store.

        Raises:
            DataError: no such image.
        """
        value = self._get(self._stored.get(key) or to_bytes(key))
        if value is None:
            raise DataError(f"{self.path(key)}: no such image in the data base")
        return value

    def _get(self, key: bytes) -> memoryview | None:
        value = self._transaction().get(key)
        return None if value is None else memoryview(value)

    def _transaction(self) -> lmdb.Transaction:
        if self._environment is None or self._pid != os.getpid():
            self._pid = os.getpid()
            place = (self._pid, str(self.root.resolve()))
            environment = _open.get(place)
            if environment is None:
                for (_, path), inherited in list(_open.items()):
                    if path == place[1]:  # of the process that forked this one; lmdb opens a data base once only
                        inherited.close()
                environment = _open[place] = _Environment(place[1])
            self._environment = environment
        return self._environment.transaction

    def _read_basicsr(self) -> None:
        listing = self.root / BASICSR_FILE
        if not listing.is_file():
            raise DataError(
                f"{self.root}: written neither by mcir (no summary) nor by BasicSR (no {BASICSR_FILE} beside it)"
            )
        for line in listing.read_text(encoding="utf-8").splitlines():
            match = _BASICSR_LINE.match(line.strip())
            if match:
                name = match["name"]
                self._stored[name] = to_bytes(os.path.splitext(name)[0])  # noqa: PTH122 (a key, not a path)


def all_facts(transaction: lmdb.Transaction) -> list[tuple[bytes, Facts]]:
    """Return the keys of all images of a data base with their facts, in the order of the keys' bytes."""
    found = []
    with transaction.cursor() as cursor:
        if cursor.set_range(FACTS_PREFIX):
            for key, value in cursor:
                if not bytes(key).startswith(FACTS_PREFIX):
                    break
                found.append((bytes(key)[len(FACTS_PREFIX) :], Facts.unpack(bytes(value))))
    return found
