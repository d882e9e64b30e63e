"""Where the demo keeps the files of its visitors: one folder, for a while, and not without end."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

KEPT = 3600.0
"""Seconds that pictures and results stay."""

ROOM = 2**30
"""Bytes that they may take together; the oldest go first."""

_BLOCK = 2**16  # bytes that a file counts at least: many small ones take time to look through


class Shelf:
    """A folder of files that come and go.

    Args:
        folder: where they are.
        kept: seconds that a file stays.
        room: bytes that all may take.
    """

    def __init__(self, folder: Path, kept: float = KEPT, room: int = ROOM) -> None:
        self.folder = folder.resolve()
        self._kept = kept
        self._room = room
        self._lasting: frozenset[Path] = frozenset()

    def keep(self) -> None:
        """Let the files that are there now stay for good: they belong to the page."""
        self._lasting = frozenset(self.folder.rglob("*"))

    def reaches(self, path: str) -> bool:
        """Tell whether a path leads into the folder, links followed, whatever is there."""
        try:
            return Path(path).resolve().is_relative_to(self.folder)
        except (OSError, ValueError):  # a name that is too long, or has a zero in it
            return False

    def holds(self, path: str) -> bool:
        """Tell whether a path is that of a file in the folder, links followed."""
        return self.reaches(path) and Path(path).is_file()

    def sweep(self) -> None:
        """Remove files that are too old, and the oldest until the others have room.

        Several threads may do so at a time.
        """
        latest = time.time() - self._kept
        files, folders = [], []
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # it is gone
                facts = path.lstat()
                if path.is_dir():
                    folders.append((facts.st_mtime, path))
                elif path not in self._lasting:
                    files.append((facts.st_mtime, max(facts.st_size, _BLOCK), path))
        left = sum(size for _, size, _ in files)
        for changed, size, path in sorted(files):
            if changed > latest and left <= self._room:
                break
            path.unlink(missing_ok=True)
            left -= size
        for changed, path in folders:
            if changed < latest:
                with contextlib.suppress(OSError):  # it is not empty
                    path.rmdir()
