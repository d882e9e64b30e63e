"""Find the images that files, folders and patterns name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mcir.data.codec import EXTENSIONS
from mcir.data.errors import DataError, raise_data_errors

Report: TypeAlias = Callable[[str, str], None]
"""Called with the name of a file that cannot be processed, and the reason."""

_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """An image that was found.

    Attributes:
        source: path of the image.
        name: path relative to ``root``, with ``/``; the file name if there is no root.
        root: folder that was searched, or fixed part of the pattern; None for an image whose path is an input.
    """

    source: Path
    name: str
    root: Path | None


def find_images(inputs: Sequence[str], excluded: Sequence[Path], report: Report) -> list[Found]:
    """Return the images that files, folders and patterns name, in order and without duplicates.

    Folders are searched at any depth, and links to folders are followed. Hidden files and files with other extensions
    are ignored, except for a file whose path is an input.

    Args:
        inputs: paths, or patterns with ``*``, ``?``, ``[…]`` and ``**``; an existing path is never a pattern.
        excluded: folders that are not searched, such as the output folder.
        report: called for unreadable folders, and for paths with the extension of an image that are not files.

    Raises:
        DataError: an input does not exist, or no image was found.
    """
    excluded = [folder.expanduser().resolve() for folder in excluded]
    found: list[Found] = []
    problems = []
    for text in inputs:
        path = Path(text).expanduser()
        if path.is_file():
            found.append(Found(path, path.name, None))
        elif path.is_dir() and text:
            if len(inputs) == 1 or path.resolve() not in excluded:  # photos/*, expanded by a shell, may include both
                found += _in_folder(path, path, excluded, report)
        elif matches := list(_matches(path, excluded, report)):
            found += matches
        else:
            problems.append(f"'{text}': no such file or folder, and no image matches it as a pattern")
    raise_data_errors(problems, "images to restore")
    if not found:
        raise DataError(f"no image found in {', '.join(inputs)}; searched for {', '.join(sorted(EXTENSIONS))}")
    unique: dict[str, Found] = {}
    for image in found:
        unique.setdefault(os.path.abspath(image.source), image)  # noqa: PTH100 (links are not resolved)
    return list(unique.values())


def _in_folder(folder: Path, root: Path, excluded: Sequence[Path], report: Report) -> list[Found]:
    """Return the images in a folder at any depth, sorted; a link to a parent folder is not followed."""

    def on_error(error: OSError) -> None:
        report(f"{error.filename}/", error.strerror or str(error))

    parents: dict[str, frozenset[str]] = {}
    paths: list[Path] = []
    for current, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        real = os.path.realpath(current)
        above = parents.get(os.path.dirname(current), frozenset())  # noqa: PTH120
        parents[current] = above | {real}
        if real in above or Path(real) in _inside(excluded, folder):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(current, name) for name in files if not name.startswith(".")]
    images = sorted(path for path in paths if _is_image(path, report))
    return [Found(path, path.relative_to(root).as_posix(), root) for path in images]


def _matches(pattern: Path, excluded: Sequence[Path], report: Report) -> Iterator[Found]:
    """Yield the images that match a pattern, or are in folders that match it."""
    root, rest = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while rest and (root / rest[0]).exists():  # the name of a folder may be `a[1]`
        root /= rest.pop(0)
    if not any(_WILDCARDS & set(part) for part in rest):
        return
    for path in sorted(root.glob(str(Path(*rest)))):
        real = path.resolve()
        is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if is_hidden or {real, *real.parents} & _inside(excluded, root):
            continue
        if path.is_dir():
            yield from _in_folder(path, root, excluded, report)
        elif _is_image(path, report):
            yield Found(path, path.relative_to(root).as_posix(), root)


def _inside(folders: Sequence[Path], parent: Path) -> set[Path]:
    """Return the resolved folders that are inside another one."""
    return {folder for folder in folders if parent.resolve() in folder.parents}


def _is_image(path: Path, report: Report) -> bool:
    """Return whether a file has the extension of an image; report a path with such an extension that is not a file."""
    if path.suffix.lower() not in EXTENSIONS:
        return False
    if not path.is_file():  # opening a pipe would block
        report(str(path), "not a file, or a link to a missing file")
        return False
    return True
