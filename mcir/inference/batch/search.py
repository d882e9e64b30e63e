"""Find the images that files, folders and patterns name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcir.data.errors import DataError, raise_data_errors
from mcir.data.listing import EXTENSIONS, Report, is_image, list_images, list_others
from mcir.paths import expand_path, file_problem

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

    Folders are searched at any depth, as data sets are (``list_images``). Hidden files and files with other extensions
    are ignored, except for a file whose path is an input.

    Args:
        inputs: paths, or patterns with ``*``, ``?``, ``[…]`` and ``**``; an existing path is never a pattern.
        excluded: folders that are not searched, such as the output folder.
        report: called for unreadable folders, and for paths with the extension of an image that are not files.

    Raises:
        DataError: an input does not exist, or no image was found.
    """
    excluded = [expand_path(folder).resolve() for folder in excluded]
    found: list[Found] = []
    problems = []
    for text in inputs:
        path = expand_path(text)
        if path.is_file():
            found.append(Found(path, path.name, None))
        elif path.is_dir() and text:
            if len(inputs) == 1 or path.resolve() not in excluded:  # photos/*, expanded by a shell, may include both
                found += _in_folder(path, path, excluded, report)
        elif path.exists() and text:
            problems.append(f"'{text}' {file_problem(path)}")
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


def skipped_files(inputs: Sequence[str], excluded: Sequence[Path]) -> set[Path]:
    """Return the files in the folders among the inputs that are not images; hidden ones are left out.

    Args:
        inputs: paths or patterns, as in :func:`find_images`.
        excluded: folders that are not searched.
    """
    excluded = [expand_path(folder).resolve() for folder in excluded]
    folders = {path for path in map(expand_path, filter(None, inputs)) if path.is_dir()}
    if len(inputs) > 1:
        folders = {path for path in folders if path.resolve() not in excluded}
    return {path.absolute() / key for path in folders for key in list_others(path, excluded)}


def _in_folder(folder: Path, root: Path, excluded: Sequence[Path], report: Report) -> list[Found]:
    """Return the images in a folder at any depth, sorted, with names relative to a root."""
    paths = [folder / key for key in list_images(folder, report, excluded)]
    return [Found(path, path.relative_to(root).as_posix(), root) for path in paths]


def _matches(pattern: Path, excluded: Sequence[Path], report: Report) -> Iterator[Found]:
    """Yield the images that match a pattern, or are in folders that match it."""
    root, rest = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while rest and (root / rest[0]).exists():  # the name of a folder may be `a[1]`
        root /= rest.pop(0)
    if not any(_WILDCARDS & set(part) for part in rest):
        return
    outside = {folder for folder in excluded if root.resolve() in folder.parents}
    for path in sorted(root.glob(str(Path(*rest)))):
        real = path.resolve()
        is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if is_hidden or {real, *real.parents} & outside:
            continue
        if path.is_dir():
            yield from _in_folder(path, root, excluded, report)
        elif is_image(path.name):
            if problem := file_problem(path):
                report(str(path), problem)
            else:
                yield Found(path, path.relative_to(root).as_posix(), root)
