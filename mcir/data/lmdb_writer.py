"""Writes the data bases that ``lmdb_store`` reads: in batches, growing as needed, resumable after any kill."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import get_args

import lmdb

from mcir.atomic import write_atomically
from mcir.data.errors import DataError
from mcir.data.lmdb_store import FACTS_PREFIX, FORMAT, SUMMARY_FILE, SUMMARY_KEY, Codec, Facts, all_facts, to_bytes

_FIRST_MAP = 64 << 20
_BATCH_BYTES = 64 << 20
_BATCH_IMAGES = 256


class LmdbWriter:
    """A data base that images are put into; use it as a context.

    Images are committed in batches, each whole or not at all, together with their facts. The map doubles when it is
    full. A data base is readable once ``complete`` has written its summary.

    Args:
        target: folder of the data base; a data base that is there already is gone on with.
        codec: "encoded" (bytes of files) or "raw" (samples).
        map_size: size of the map to begin with, in bytes.

    Raises:
        DataError: something else is there, or a data base of another codec, format or writer.
    """

    def __init__(self, target: str | Path, codec: Codec, map_size: int = _FIRST_MAP) -> None:
        if codec not in get_args(Codec):
            raise DataError(f"codec is {codec!r}; it must be 'encoded' or 'raw'.")
        self.target = Path(target).expanduser()
        self.codec = codec
        ours = (self.target / "data.mdb").is_file()
        if self.target.exists() and not ours and (self.target.is_file() or any(self.target.iterdir())):
            raise DataError(f"{self.target}: something else is there; nothing was written")
        self.target.mkdir(parents=True, exist_ok=True)
        try:
            self._env = lmdb.open(str(self.target), map_size=map_size, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise DataError(f"{self.target}: cannot be written to ({error})") from error
        self._puts: dict[bytes, bytes | memoryview] = {}
        self._deletes: list[bytes] = []
        self._waiting = 0
        try:
            self._claim()
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
        """The most bytes that a key can have."""
        return int(self._env.max_key_size()) - len(FACTS_PREFIX)

    def facts(self) -> dict[bytes, Facts]:
        """Return the facts of all images that are there."""
        with self._env.begin() as transaction:
            return dict(all_facts(transaction))

    def value(self, key: bytes) -> bytes | None:
        """Return the stored bytes of an image, None where there is none."""
        with self._env.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def put(self, key: str, value: bytes | memoryview, facts: Facts) -> None:
        """Store one image, in place of an earlier one of the same key."""
        name = to_bytes(key)
        self._puts[name] = value
        self._puts[FACTS_PREFIX + name] = facts.pack()
        self._waiting += len(value)
        if self._waiting >= _BATCH_BYTES or len(self._puts) >= 2 * _BATCH_IMAGES:
            self._commit()

    def delete(self, key: bytes) -> None:
        """Take an image out."""
        self._deletes += [key, FACTS_PREFIX + key]

    def complete(self) -> str:
        """Write what waits, then the summary; return the checksum of the data base."""
        self._commit()
        facts = self.facts()
        digest = hashlib.sha256()
        for key in sorted(facts):
            digest.update(b"%d:%s" % (len(key), key))
            digest.update(repr((*facts[key].info, facts[key].crc)).encode())
        summary = {
            "format": FORMAT,
            "complete": True,
            "codec": self.codec,
            "images": len(facts),
            "shapes": _shapes(facts),
            "dtypes": sorted({str(one.info.dtype) for one in facts.values()}),
            "liblmdb": ".".join(map(str, lmdb.version())),
            "checksum": f"sha256:{digest.hexdigest()}",
        }
        self._puts[SUMMARY_KEY] = json.dumps(summary).encode()
        self._commit()
        write_atomically(self.target / SUMMARY_FILE, json.dumps(summary, indent=2).encode() + b"\n")
        return str(summary["checksum"])

    # -- within ---------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """See that the data base is new or ours, and mark it as incomplete from now on."""
        with self._env.begin() as transaction:
            summary = transaction.get(SUMMARY_KEY)
            entries = transaction.stat()["entries"]
        if summary is None and entries:
            raise DataError(f"{self.target}: a data base that mcir did not write; nothing was changed")
        if summary is not None:
            known = json.loads(summary)
            if (known["codec"], known["format"]) != (self.codec, FORMAT):
                raise DataError(
                    f"{self.target}: holds the codec '{known['codec']}' in format {known['format']}, asked for was "
                    f"'{self.codec}' in format {FORMAT}; name another target"
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
            self._puts, self._deletes, self._waiting = {}, [], 0


def _shapes(facts: dict[bytes, Facts]) -> dict[str, int]:
    """Count the images of each size, 'height x width x channels'."""
    counts: dict[str, int] = {}
    for one in facts.values():
        name = f"{one.info.height}x{one.info.width}x{one.info.channels}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
