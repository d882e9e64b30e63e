"""Write the databases that ``lmdb_store`` reads; an interrupted write can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import get_args

import lmdb

from mcir.atomic import write_atomically
from mcir.checks import check_choice
from mcir.data.errors import DataError
from mcir.data.lmdb_store import (
    FORMAT,
    RECORD_PREFIX,
    SUMMARY_FILE,
    SUMMARY_KEY,
    Codec,
    ImageRecord,
    all_records,
    to_bytes,
)

_MAP_BYTES = 64 << 20
_BATCH_BYTES = 64 << 20
_BATCH_IMAGES = 256


class LmdbWriter:
    """An LMDB database to which images are added; use it as a context manager.

    Images and their records are committed in batches. A full memory map is doubled in size. The database can be read
    after ``complete`` has written its summary.

    Args:
        target: folder of the database. An existing database of mcir is updated.
        codec: "encoded" (bytes of files) or "raw" (samples).
        map_size: initial size of the memory map in bytes.

    Raises:
        DataError: the folder has other content, or a database that mcir did not write with this codec and format.
    """

    def __init__(self, target: str | Path, codec: Codec, map_size: int = _MAP_BYTES) -> None:
        check_choice("codec", codec, get_args(Codec))
        self.target = Path(target).expanduser()
        self.codec = codec
        exists = (self.target / "data.mdb").is_file()
        if self.target.exists() and not exists and (self.target.is_file() or any(self.target.iterdir())):
            raise DataError(f"{self.target}: exists and is not a database; nothing was written")
        self.target.mkdir(parents=True, exist_ok=True)
        try:
            self._env = lmdb.open(str(self.target), map_size=map_size, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise DataError(f"{self.target}: not writable ({error})") from error
        self._puts: dict[bytes, bytes | memoryview] = {}
        self._deletes: list[bytes] = []
        self._pending_bytes = 0
        try:
            self._start()
        except BaseException:
            self._env.close()
            raise

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._env.close()

    @property
    def longest_key(self) -> int:
        """Maximum length of a key in bytes."""
        return int(self._env.max_key_size()) - len(RECORD_PREFIX)

    def records(self) -> dict[bytes, ImageRecord]:
        """Return the records of all committed images."""
        with self._env.begin() as transaction:
            return dict(all_records(transaction))

    def value(self, key: bytes) -> bytes | None:
        """Return the stored bytes of an image; None if the database does not contain it."""
        with self._env.begin() as transaction:
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
        records = self.records()
        digest = hashlib.sha256()
        for key in sorted(records):
            digest.update(b"%d:%s" % (len(key), key))
            digest.update(repr((*records[key].info, records[key].crc)).encode())
        infos = [record.info for record in records.values()]
        summary = {
            "format": FORMAT,
            "complete": True,
            "codec": self.codec,
            "images": len(records),
            "shapes": dict(sorted(Counter(f"{info.height}x{info.width}x{info.channels}" for info in infos).items())),
            "checksum": f"sha256:{digest.hexdigest()}",
        }
        self._puts[SUMMARY_KEY] = json.dumps(summary).encode()
        self._commit()
        write_atomically(self.target / SUMMARY_FILE, json.dumps(summary, indent=2).encode() + b"\n")
        return str(summary["checksum"])

    def _start(self) -> None:
        """Check that the database is empty or has the same codec and format, and mark it as incomplete."""
        with self._env.begin() as transaction:
            summary = transaction.get(SUMMARY_KEY)
            entries = transaction.stat()["entries"]
        if summary is None and entries:
            raise DataError(f"{self.target}: this database was not written by mcir; nothing was changed")
        if summary is not None:
            known = json.loads(summary)
            if (known["codec"], known["format"]) != (self.codec, FORMAT):
                raise DataError(
                    f"{self.target}: expected a database with the codec '{self.codec}' in format {FORMAT}, got "
                    f"'{known['codec']}' in format {known['format']}; choose another target"
                )
        self._puts[SUMMARY_KEY] = json.dumps({"format": FORMAT, "codec": self.codec, "complete": False}).encode()
        self._commit()

    def _commit(self) -> None:
        while self._puts or self._deletes:
            try:
                with self._env.begin(write=True) as transaction:
                    for key in self._deletes:
                        transaction.delete(key)
                    for key, value in self._puts.items():
                        transaction.put(key, value)
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
                continue
            self._puts, self._deletes, self._pending_bytes = {}, [], 0
