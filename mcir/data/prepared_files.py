"""The folder of a preparation: its settings, and which of its files are up to date.

``.mcir_prepare.json`` contains the settings. ``.mcir_sources.jsonl`` contains a record for each source: the size and
time that it had when its files were made, and their names. A source with another size or another time, earlier or
later, has changed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from mcir.atomic import remove_temporary_files, write_atomically
from mcir.checked_json import append_record, read_records
from mcir.data.errors import DataError
from mcir.paths import file_problem, path_inside

SETTINGS_FILE = ".mcir_prepare.json"
SOURCES_FILE = ".mcir_sources.jsonl"

_MAX_SETTINGS_BYTES = 2**20


class Stamp(NamedTuple):
    """The size of a file in bytes and its modification time in nanoseconds."""

    size: int
    time: int

    @classmethod
    def of(cls, path: str) -> Stamp:
        """Return the size and the time of a file."""
        status = os.stat(path)  # noqa: PTH116 (many files)
        return cls(status.st_size, status.st_mtime_ns)


class PreparedFiles:
    """The files in the folder of a preparation.

    Args:
        target: folder; it is created with the first file.
        settings: settings of the preparation.

    Raises:
        DataError: the folder was made with other settings, or has other content.
    """

    def __init__(self, target: str | Path, settings: Mapping[str, Any]) -> None:
        self.target = Path(target)
        self._check_settings(settings)
        remove_temporary_files(self.target)
        self._lock = threading.Lock()
        records = read_records(self.target / SOURCES_FILE).records
        self._known = {str(record.get("source")): record for record in records}

    def outdated(self, source: str, stamp: Stamp, names: Sequence[str]) -> list[str]:
        """Return the names of the files to make from a source: all if it has changed, otherwise the missing ones."""
        if self._known.get(_stored(source)) != _record(source, stamp, names):
            return list(names)
        return [name for name in names if not (self.target / name).is_file()]

    def start(self, source: str) -> None:
        """Record that the files of a source are about to be replaced, in case that this is interrupted."""
        if _stored(source) in self._known:
            self._append({"source": _stored(source)})

    def finish(self, source: str, stamp: Stamp, names: Sequence[str]) -> None:
        """Record that all files of a source are made, and remove those that an earlier version of the source had."""
        earlier = self._known.get(_stored(source), {}).get("files", [])
        for name in {*map(str, earlier)} - {*map(_stored, names)} if isinstance(earlier, list) else ():
            path_inside(self.target, os.fsdecode(unquote_to_bytes(name))).unlink(missing_ok=True)
        self._append(_record(source, stamp, names))

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._lock:
            append_record(self.target / SOURCES_FILE, record)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings to a new folder, or check those of an existing folder."""
        file = self.target / SETTINGS_FILE
        if not file.exists():
            if self.target.is_dir() and any(self.target.iterdir()):
                raise DataError(f"{self.target}: is not empty and was not made by `mcir prepare`; nothing was written")
            write_atomically(file, json.dumps(settings).encode())
            return
        if problem := file_problem(file, _MAX_SETTINGS_BYTES):
            raise DataError(f"{file}: {problem}")
        try:
            known = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: damaged ({error}); choose another target") from error
        if known != settings:
            raise DataError(f"{self.target}: was made with {known}, not with {settings}; choose another target")


def _record(source: str, stamp: Stamp, names: Sequence[str]) -> dict[str, Any]:
    return {"source": _stored(source), **stamp._asdict(), "files": list(map(_stored, names))}


def _stored(name: str) -> str:
    """Return the stored form of a name, which preserves every file name of the operating system."""
    return quote_from_bytes(os.fsencode(name))
