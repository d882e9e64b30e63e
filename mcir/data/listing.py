"""List the image files in a folder, and count its other files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from mcir.paths import file_problem

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm"})

Report: TypeAlias = Callable[[str, str], None]
"""Function that is called with the name of a file or folder that cannot be read, and the reason."""

_Identity: TypeAlias = tuple[int, int]


def list_images(root: str | Path, report: Report, excluded: Sequence[Path] = ()) -> list[str]:
    """Return the paths of all image files in a folder and its subfolders, relative to it, with ``/``, sorted.

    Hidden files and folders are skipped. A link to a folder is followed, unless this folder is listed at its own place
    already, or contains ``root``. Therefore no link changes how often an image is listed, or leads around in a circle.

    Args:
        root: folder to search.
        report: called for subfolders that cannot be read, and for paths with the extension of an image that are not
            files, such as named pipes. They are not opened.
        excluded: subfolders that are not searched.
    """
    search = _Search(str(root), report, excluded)
    search.run()
    return sorted(search.keys)


def list_others(root: str | Path, excluded: Sequence[Path] = ()) -> list[str]:
    """Return the paths of the files that are not images, searched as :func:`list_images` searches images.

    Args:
        root: folder to search.
        excluded: subfolders that are not searched.
    """
    search = _Search(str(root), lambda name, reason: None, excluded)
    search.run()
    return sorted(search.others)


def describe_others(names: Iterable[str]) -> str:
    """Return the number of files by type, the most frequent first: ``3 GIF, 1 TXT``."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names)  # noqa: PTH122 (called for many names)
    return ", ".join(f"{count} {suffix[1:].upper() or 'without extension'}" for suffix, count in suffixes.most_common())


def is_image(name: str) -> bool:
    """Return whether a file name has the extension of an image format."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122 (called for many names)


class _Search:
    def __init__(self, root: str, report: Report, excluded: Sequence[Path]) -> None:
        self._root = root
        self._report = report
        self._closed = _identities((*Path(root).resolve().parents, *excluded)) - _identities([Path(root)])
        self.keys: list[str] = []
        self.others: list[str] = []

    def run(self) -> None:
        own: set[_Identity] = set()
        for link in self._walk("", own):
            visited, links = set(own), [link]
            for part in links:  # grows: the linked folder may contain links
                links += self._walk(part, visited)

    def _walk(self, start: str, visited: set[_Identity]) -> list[str]:
        """Add the files in a folder and its real subfolders, and return the links to folders, sorted."""
        links, pending = [], [start]
        while pending:
            prefix = pending.pop()
            folder = f"{self._root}/{prefix[:-1]}" if prefix else self._root
            try:
                status = os.stat(folder)  # noqa: PTH116
                identity = (status.st_dev, status.st_ino)
                if identity in visited or identity in self._closed:
                    continue
                visited.add(identity)
                with os.scandir(folder) as entries:
                    found = [entry for entry in entries if not entry.name.startswith(".")]
            except OSError as error:
                self._report(f"{self._root}/{prefix}", error.strerror or str(error))
                continue
            for entry in found:
                key = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{key}/")
                elif _is_folder(entry):
                    links.append(f"{key}/")
                else:
                    self._add(entry, key)
        return sorted(links)

    def _add(self, entry: os.DirEntry[str], key: str) -> None:
        """Add a file; report one with the extension of an image that cannot be opened, and links to missing folders."""
        problem = None
        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
            if is_image(entry.name) or "." not in entry.name:
                problem = "is a link to a missing file or folder"
        elif is_image(entry.name):
            problem = None if entry.is_file(follow_symlinks=False) else file_problem(entry.path)
            if problem is None:
                self.keys.append(key)
        else:
            self.others.append(key)
        if problem is not None:
            self._report(f"{self._root}/{key}", problem)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example, a link to itself
        return False


def _identities(folders: Iterable[Path]) -> set[_Identity]:
    """Return what distinguishes folders from all others, whatever their paths; missing folders have no identity."""
    found = set()
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found
