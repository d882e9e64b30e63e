"""Write the databases that ``lmdb_store`` reads; an interrupted write can be resumed."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import get_args

import lmdb
from filelock import FileLock, Timeout

from mcir.atomic import full_disk_errors, remove_temporary_files, write_atomically
from mcir.checks import check_choice
from mcir.data.errors import DataError
from mcir.data.lmdb_file import LmdbFile
from mcir.data.lmdb_store import (
    DATA_FILE,
    FORMAT,
    RECORD_PREFIX,
    SUMMARY_FILE,
    SUMMARY_KEY,
    Codec,
    ImageRecord,
    read_summary,
    summarize,
    to_bytes,
)

_MAP_BYTES = 64 << 20
_BATCH_BYTES = 64 << 20
_BATCH_IMAGES = 256
_LOCK = ".lock"


class LmdbWriter:
    """An LMDB database to which images are added; use it as a context manager.

    Images and their records are committed in batches. A full memory map is doubled in size. The database can be read
    after ``complete`` has written its summary.

    Args:
        target: folder of the database. An existing database of mcir is updated.
        codec: "encoded" (bytes of files) or "raw" (samples).
        map_size: initial size of the memory map in bytes.

    Attributes:
        is_upright: whether the images that the database already contains are upright; earlier versions of mcir ignored
            the EXIF orientation. A complete database is upright, so write all images again if they are not.

    Raises:
        DataError: the folder has other content, a damaged database, or one that mcir did not write with this codec and
            format; or another process writes it.
        OSError: the disk is full or the folder is not writable.
    """

    def __init__(self, target: str | Path, codec: Codec, map_size: int = _MAP_BYTES) -> None:
        check_choice("codec", codec, get_args(Codec))
        self.target = Path(target)
        self.codec = codec
        self._file = self.target / DATA_FILE
        self._puts: dict[bytes, bytes | memoryview] = {}
        self._deletes: list[bytes] = []
        self._pending_bytes = 0
        self._transactions = threading.Lock()  # without a lock file, the library allows no reading during a commit
        is_new = not self._file.exists()
        if self.target.exists() and is_new and (self.target.is_file() or _content(self.target)):
            raise DataError(f"{self.target}: exists and is not a database; nothing was written")
        self.target.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(_lock(self.target))
            remove_temporary_files(self.target)
            try:
                self._env = stack.enter_context(self._open(map_size, is_new))
                self._start()
            except BaseException:
                if is_new:
                    stack.close()
                    self._file.unlink(missing_ok=True)
                raise
            self._close = stack.pop_all().close

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._close()

    @property
    def longest_key(self) -> int:
        """Maximum length of a key in bytes."""
        return int(self._env.max_key_size()) - len(RECORD_PREFIX)

    def records(self) -> dict[bytes, ImageRecord]:
        """Return the records of all committed images; damaged records are missing."""
        found: dict[bytes, ImageRecord] = {}
        with self._errors(), self._transactions, self._env.begin() as transaction, transaction.cursor() as cursor:
            if cursor.set_range(RECORD_PREFIX):
                for key, value in cursor:
                    if not key.startswith(RECORD_PREFIX):
                        break
                    with suppress(struct.error):
                        found[key.removeprefix(RECORD_PREFIX)] = ImageRecord.unpack(value)
        return found

    def value(self, key: bytes) -> bytes | None:
        """Return the stored bytes of an image; None if the database does not contain it."""
        with self._errors(), self._transactions, self._env.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def put(self, key: str, value: bytes | memoryview, record: ImageRecord) -> None:
        """Store an image; an image with the same key is replaced."""
        name = to_bytes(key)
        self._puts[name] = value
        self._puts[RECORD_PREFIX + name] = record.pack()
        self._pending_bytes += len(value)
        if self._pending_bytes >= _BATCH_BYTES or len(self._puts) >= 2 * _BATCH_IMAGES:
            self._commit()

    def delete(self, key: bytes) -> None:
        """Remove an image."""
        self._deletes += [key, RECORD_PREFIX + key]

    def complete(self) -> str:
        """Commit all images, write the summary, and return the checksum of the database."""
        self._commit()
        summary = summarize(self.codec, self.records())
        self._puts[SUMMARY_KEY] = json.dumps(summary).encode()
        self._commit()
        write_atomically(self.target / SUMMARY_FILE, json.dumps(summary, indent=2).encode() + b"\n")
        return str(summary["checksum"])

    @contextmanager
    def _open(self, map_size: int, is_new: bool) -> Iterator[lmdb.Environment]:
        """Open the database. An existing one is checked before, because the library trusts its file."""
        if not is_new and self._file.stat().st_size:
            LmdbFile(self._file).check_for_update()
        with self._errors():
            environment = lmdb.open(str(self.target), map_size=map_size, lock=False, readahead=False, meminit=False)
        with environment:
            yield environment

    def _start(self) -> None:
        """Check that the database is empty or has the same codec and format, and mark it as incomplete."""
        summary = self.value(SUMMARY_KEY)
        if summary is None and self._env.stat()["entries"]:
            raise DataError(f"{self.target}: this database was not written by mcir; nothing was changed")
        known = None if summary is None else read_summary(self._file, summary)
        if known is not None and known["codec"] != self.codec:
            raise DataError(
                f"{self.target}: expected a database with the codec '{self.codec}', got '{known['codec']}'; choose "
                "another target"
            )
        self.is_upright = known is None or known.get("upright") is True
        started = {"format": FORMAT, "codec": self.codec, "complete": False, "upright": self.is_upright}
        self._puts[SUMMARY_KEY] = json.dumps(started).encode()
        self._commit()

    def _commit(self) -> None:
        while self._puts or self._deletes:
            try:
                with self._errors(), self._transactions, self._env.begin(write=True) as transaction:
                    for key in self._deletes:
                        transaction.delete(key)
                    for key, value in self._puts.items():
                        transaction.put(key, value)
            except lmdb.MapFullError:
                with self._errors():
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
                continue
            self._puts, self._deletes, self._pending_bytes = {}, [], 0

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert the errors of the library, except for a full memory map."""
        try:
            with full_disk_errors(self._file):
                yield
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            raise DataError(f"{self.target}: cannot be written ({error})") from error


def _content(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != _LOCK]


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Lock a database, so that two processes never write to it. The library's own lock crashes if the disk is full."""
    try:
        with FileLock(target / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"{target}: another process writes this database") from error
