"""Memory-mapped LMDB databases of images.

There are two codecs. ``encoded`` stores the bytes of each file unchanged. ``raw`` stores the decoded samples: it needs
more disk space, but reading a crop decodes nothing and reads only the memory pages of the crop.

The key of an image is its path relative to the source folder, in bytes. Each image has a small record (size, depth,
checksum, size and time of its source file). A summary marks the database as complete and contains a checksum of all
records; users can read it in ``mcir_lmdb.json``. Its entry ``upright`` states that headers and samples follow the EXIF
orientation, which earlier versions ignored. The keys of records and summary start with a zero byte, which no path
contains. ``lmdb_writer`` writes databases. Databases of BasicSR (``meta_info.txt`` in the folder, keys without
extension, no checksums) can be read, too.

Records and summary are verified when a database is opened, a value when a process reads it for the first time.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from mcir.data.codec import Array, ImageInfo
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.lmdb_file import LmdbFile, Span
from mcir.data.reader import decode, probe
from mcir.data.transforms import Window, crop_image
from mcir.paths import file_problem

Codec: TypeAlias = Literal["encoded", "raw"]

FORMAT = 1
DATA_FILE = "data.mdb"
SUMMARY_KEY = b"\0mcir"
RECORD_PREFIX = b"\0facts/"
SUMMARY_FILE = "mcir_lmdb.json"
BASICSR_FILE = "meta_info.txt"

_RECORD = struct.Struct("<IIHHIQQ")
_BASICSR_LINE = re.compile(r"^(?P<name>.+?)\s+\(\d+(?:,\s*\d+)*\)(?:\s+\d+)?$")
_MAX_LIST_BYTES = 2**28


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
        """Return the record from its stored form.

        Raises:
            struct.error: the form has another length.
        """
        *info, crc, size, time = _RECORD.unpack(data)
        return cls(ImageInfo(*info), crc, size, time)


def to_bytes(key: str) -> bytes:
    """Return the stored form of a key, which preserves every file name of the operating system."""
    return os.fsencode(key)


def summarize(codec: Codec, records: Mapping[bytes, ImageRecord]) -> dict[str, Any]:
    """Return the summary of a complete database, with a checksum of all keys, headers and values."""
    digest = hashlib.sha256()
    for key in sorted(records):
        digest.update(b"%d:%s" % (len(key), key))
        digest.update(repr((*records[key].info, records[key].crc)).encode())
    infos = [record.info for record in records.values()]
    return {
        "format": FORMAT,
        "complete": True,
        "upright": True,
        "codec": codec,
        "images": len(records),
        "shapes": dict(sorted(Counter(f"{info.height}x{info.width}x{info.channels}" for info in infos).items())),
        "checksum": f"sha256:{digest.hexdigest()}",
    }


class LmdbStore:
    """The images of a database, read-only.

    The constructor reads the keys, headers and locations of all images. A process maps the file into its memory when it
    reads its first value. There are no locks: do not write to a database that is being read.

    Raises:
        DataError: there is no database, writing it was interrupted, or it is damaged.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._file = self.root / DATA_FILE
        if not self._file.exists():
            raise DataError(f"{self.root}: no LMDB database (a folder with a file {DATA_FILE})")
        self._memory: mmap.mmap | None = None
        self._intact: set[str] = set()
        self._probed: dict[str, ImageInfo] = {}
        self._records: dict[str, ImageRecord] = {}
        self._is_upright = False
        self.codec: Codec = "encoded"
        self.summary: dict[str, Any] = {}
        spans = LmdbFile(self._file).spans
        self._spans = self._read_mcir(spans) if SUMMARY_KEY in spans else self._read_basicsr(spans)

    def keys(self) -> list[str]:
        """Return the relative paths of all images, sorted."""
        return sorted(self._spans)

    def path(self, key: str) -> str:
        """Return the path of the database, followed by the key."""
        return f"{self.root}/{key}"

    def info(self, key: str) -> ImageInfo:
        """Return the size, channels and bits of an image.

        Only in databases of BasicSR, and of earlier versions with the codec ``encoded``, its header is read.
        """
        if key in self._records and (self._is_upright or self.codec == "raw"):
            return self._records[key].info
        if key not in self._probed:
            self._probed[key] = probe(io.BytesIO(self.value(key)))
        return self._probed[key]

    def read(self, key: str, window: Window | None = None) -> Array:
        """Return an image (H, W, C) or a part of it; the codec ``raw`` copies only this part."""
        if self.codec == "encoded":
            return decode(self.value(key), self.path(key), window)
        value, info = self.value(key), self._records[key].info
        stored = np.frombuffer(value, np.uint8 if info.bits == 8 else np.uint16).reshape(info[:3])
        image: Array = (stored if window is None else crop_image(stored, window)).copy()
        return image

    def record(self, key: str) -> ImageRecord | None:
        """Return the record of an image; None in a database of BasicSR."""
        return self._records.get(key)

    def value(self, key: str) -> memoryview:
        """Return the stored bytes of an image, a view of the memory map.

        Raises:
            DataError: the database has no such image, has become shorter, or the image differs from its checksum.
        """
        span = self._spans.get(key)
        if span is None:
            raise DataError(f"{self.path(key)}: no such image in the database")
        value = self._view(span)
        if key not in self._intact:
            record = self._records.get(key)
            if record is not None and zlib.crc32(value) != record.crc:
                raise DataError(f"{self.path(key)}: differs from its checksum")
            self._intact.add(key)
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": None, "_intact": set()}

    def _view(self, span: Span) -> memoryview:
        end = span.offset + span.size
        try:
            if self._memory is None:
                self._memory = _map(self._file)
            size = self._memory.size()  # the current size: reading behind it would end the process
        except (OSError, ValueError) as error:
            raise DataError(f"{self._file}: cannot be read ({error})") from error
        if end > min(size, len(self._memory)):
            raise DataError(f"{self._file}: was truncated: expected at least {end:,} bytes, got {size:,}")
        return memoryview(self._memory)[span.offset : end]

    def _read_mcir(self, spans: dict[bytes, Span]) -> dict[str, Span]:
        """Read the records of a database of mcir, and check that they match its summary."""
        self.summary = read_summary(self._file, bytes(self._view(spans[SUMMARY_KEY])))
        self._is_upright = self.summary.get("upright") is True
        if self.summary["complete"] is False:
            raise DataError(f"{self.root}: writing was interrupted; run `mcir prepare lmdb` again, it resumes")
        self.codec = self.summary["codec"]
        start, records, values = len(RECORD_PREFIX), {}, {}
        for key, span in spans.items():
            if key.startswith(RECORD_PREFIX):
                records[key[start:]] = self._unpack(span)
            elif key != SUMMARY_KEY:
                values[key] = span
        expected = summarize(self.codec, records)
        if not self._is_upright:
            del expected["upright"]
        if records.keys() != values.keys() or self.summary != expected:
            raise DataError(f"{self._file}: damaged (its records differ from their checksum)")
        if self.codec == "raw" and any(not _is_raw(record.info, values[key]) for key, record in records.items()):
            raise DataError(f"{self._file}: damaged (an image has another size than its record)")
        self._records = {os.fsdecode(key): record for key, record in records.items()}
        return {os.fsdecode(key): span for key, span in values.items()}

    def _unpack(self, span: Span) -> ImageRecord:
        try:
            return ImageRecord.unpack(bytes(self._view(span)))
        except struct.error as error:
            raise DataError(f"{self._file}: damaged ({error})") from error

    def _read_basicsr(self, spans: dict[bytes, Span]) -> dict[str, Span]:
        """Find the images that are listed in the text file of a database of BasicSR."""
        listing = self.root / BASICSR_FILE
        if not listing.exists():
            raise DataError(
                f"{self.root}: expected a database of mcir (with a summary) or of BasicSR (with {BASICSR_FILE}), "
                "got neither"
            )
        if problem := file_problem(listing, _MAX_LIST_BYTES):
            raise DataError(f"{listing}: {problem}")
        try:
            lines = listing.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{listing}: cannot be read ({error})") from error
        matches = (_BASICSR_LINE.match(line.strip()) for line in lines)
        names = [match["name"] for match in matches if match]
        keys = {name: to_bytes(os.path.splitext(name)[0]) for name in names}  # noqa: PTH122 (a key, not a path)
        missing = [
            f"{self.path(name)}: no such image in the database" for name, key in keys.items() if key not in spans
        ]
        raise_data_errors(missing, f"{listing}")
        return {name: spans[key] for name, key in keys.items()}


def read_summary(file: Path, data: bytes) -> dict[str, Any]:
    """Return the summary of a database.

    Args:
        file: file of the database, for messages.
        data: stored form of the summary.

    Raises:
        DataError: the summary is damaged or has another format.
    """
    try:
        summary = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: damaged (its summary is no JSON: {error})") from error
    kinds = {"format": int, "codec": str, "complete": bool}
    if not isinstance(summary, dict) or any(type(summary.get(key)) is not kind for key, kind in kinds.items()):
        raise DataError(f"{file}: damaged (its summary is incomplete)")
    if summary["format"] != FORMAT:
        raise DataError(f"{file}: expected format {FORMAT}, got {summary['format']} of another mcir version")
    if summary["codec"] not in get_args(Codec):
        raise DataError(f"{file}: damaged (expected the codec 'encoded' or 'raw', got '{summary['codec']}')")
    return summary


def _is_raw(info: ImageInfo, span: Span) -> bool:
    """Return whether a value has the size of the samples of an image."""
    expected = info.height * info.width * info.channels * info.bits // 8
    return info.channels in (1, 3) and info.bits in (8, 16) and 0 < expected == span.size


def _map(file: Path) -> mmap.mmap:
    """Return a file as read-only memory. Pages are read when they are used."""
    with file.open("rb") as stream:
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):  # not on Windows
        memory.madvise(mmap.MADV_RANDOM)
    return memory
