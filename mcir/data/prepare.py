"""Prepare a folder of images before training: sub-images, downscaled images and databases.

A preparation can be interrupted and run again. Files are written atomically. An existing output is kept if it was made
with the same settings and its source has not changed since. Nothing is written to the source folder.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcir.atomic import write_atomically
from mcir.checks import check_at_least
from mcir.data.codec import Array, ImageInfo, decode, encode_png, info_of
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.lmdb_store import Codec, ImageRecord, to_bytes
from mcir.data.lmdb_writer import LmdbWriter
from mcir.data.parallel import Progress, in_order
from mcir.data.resize import imresize
from mcir.data.storage import Folder, stem

SETTINGS_FILE = ".mcir_prepare.json"


@dataclass(frozen=True)
class Prepared:
    """Result of a preparation.

    Attributes:
        images: number of source images.
        written: number of outputs that were written.
        skipped: number of outputs that were up to date.
        removed: number of outputs that were removed because their source no longer exists (databases only).
        checksum: checksum of a database.
    """

    images: int
    written: int
    skipped: int
    removed: int = 0
    checksum: str = ""


def create_lmdb(
    folder: str | Path,
    target: str | Path,
    codec: Codec = "encoded",
    progress: Progress | None = None,
    workers: int | None = None,
) -> Prepared:
    """Write the images of a folder to an LMDB database, or update one that is incomplete or outdated.

    An existing image is rewritten if its checksum is wrong, or if the size or time of its source has changed.

    Args:
        folder: folder of images.
        target: folder of the database; its name should end in ``.lmdb``.
        codec: "encoded" (bytes of the files) or "raw" (samples, which need more space but make crops much faster).
        progress: function to call after each image.
        workers: number of threads; None: one per CPU core.

    Raises:
        DataError: an image is unreadable, a path is too long for a key, or the target has unrelated content.
    """
    source, infos = _open_source(folder, target)
    with LmdbWriter(target, codec) as writer:
        too_long = [key for key in infos if len(to_bytes(key)) > writer.longest_key]
        raise_data_errors(
            [f"{source.path(key)}: the path has more than {writer.longest_key} bytes" for key in too_long],
            f"LMDB of {folder}",
        )
        existing = writer.records()
        gone = existing.keys() - {to_bytes(key) for key in infos}
        for name in gone:
            writer.delete(name)

        def load(key: str) -> tuple[str, memoryview, ImageRecord] | None:
            record, stamp = existing.get(to_bytes(key)), _stamp(source, key)
            is_unchanged = record is not None and (record.source_size, record.source_time) == stamp
            if record is not None and is_unchanged and zlib.crc32(writer.value(to_bytes(key)) or b"") == record.crc:
                return None
            data, info = memoryview(source.value(key)), infos[key]
            if codec == "raw":
                image = decode(data, source.path(key))
                info, data = info_of(image), memoryview(image.tobytes())
            return key, data, ImageRecord(info, zlib.crc32(data), *stamp)

        written = 0
        for done, loaded in enumerate(in_order(load, infos, workers), start=1):
            if loaded is not None:
                writer.put(*loaded)
                written += 1
            if progress is not None:
                progress(done, len(infos))
        checksum = writer.complete()
    return Prepared(len(infos), written, len(infos) - written, len(gone), checksum)


def extract_subimages(
    folder: str | Path,
    target: str | Path,
    size: int = 480,
    step: int = 240,
    threshold: int = 0,
    strip: str = "",
    progress: Progress | None = None,
    workers: int | None = None,
) -> Prepared:
    """Divide large images into overlapping squares, PNG files ``<name>_s001.png`` …, numbered row by row.

    The next square starts ``step`` pixels further. If more than ``threshold`` pixels remain at the end of a side, one
    more square is aligned to this end. For the degraded images of pairs, divide size and step by the scale.

    Args:
        folder: folder of images.
        target: folder of the squares, with the same subfolders.
        size: side of a square.
        step: distance in pixels between the starts of neighboring squares.
        threshold: number of pixels at the end of a side that may remain unused.
        strip: suffix to remove from names, so that pairs have equal names (``x4`` for the LR images of DIV2K).
        progress: function to call after each image.
        workers: number of threads; None: one per CPU core.

    Raises:
        ArgumentError: a number is out of range.
        DataError: an image is unreadable or smaller than a square, two outputs have the same name, or the target was
            made with other settings.
    """
    check_at_least(1, size=size, step=step)
    check_at_least(0, threshold=threshold)
    source, infos = _open_source(folder, target, size)
    out = _Outputs(source, target, {"made": "subimages", "size": size, "step": step, "threshold": threshold,
                                    "strip": strip}, infos, strip)  # fmt: skip

    def divide(key: str) -> tuple[int, int]:
        tops, lefts = (_starts(side, size, step, threshold) for side in infos[key][:2])
        corners = [(top, left) for top in tops for left in lefts]
        paths = {out.path(key, f"_s{number:03d}"): corner for number, corner in enumerate(corners, start=1)}
        outdated = [path for path in paths if not out.is_current(path, key)]
        image = source.read(key) if outdated else None
        for path in outdated:
            assert image is not None
            top, left = paths[path]
            write_atomically(path, encode_png(image[top : top + size, left : left + size]))
        return len(outdated), len(paths) - len(outdated)

    return _run(divide, infos, progress, workers)


def create_lr(
    folder: str | Path,
    target: str | Path,
    scale: int,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Prepared:
    """Downscale images by MATLAB's bicubic ``imresize``, and write PNG files with the same names.

    Images are first cropped at their bottom and right to a multiple of the scale, as data sets crop ground truths.

    Args:
        folder: folder of images.
        target: folder of the small images, with the same subfolders.
        scale: downscaling factor, ≥ 2.
        progress: function to call after each image.
        workers: number of threads; None: one per CPU core.

    Raises:
        ArgumentError: the scale is out of range.
        DataError: an image is unreadable or smaller than the scale, two outputs have the same name, or the target was
            made with other settings.
    """
    check_at_least(2, scale=scale)
    source, infos = _open_source(folder, target, scale)
    out = _Outputs(source, target, {"made": "lr", "scale": scale}, infos)

    def shrink(key: str) -> tuple[int, int]:
        path = out.path(key)
        if out.is_current(path, key):
            return 0, 1
        write_atomically(path, encode_png(downscale(source.read(key), scale)))
        return 1, 0

    return _run(shrink, infos, progress, workers)


def downscale(image: Array, scale: int) -> Array:
    """Crop an image (H, W, C) to a multiple of the scale, and downscale it as MATLAB does; the type is unchanged."""
    height, width = (side - side % scale for side in image.shape[:2])
    planes = torch.from_numpy(image[:height, :width].astype(np.float64)).permute(2, 0, 1)
    small = imresize(planes, 1 / scale).round_().clamp_(0, np.iinfo(image.dtype).max)
    return np.ascontiguousarray(small.permute(1, 2, 0).numpy().astype(image.dtype))


def check_target(source: str | Path, target: str | Path) -> None:
    """Check that a target is a folder, or does not exist, and is outside of the source.

    Raises:
        DataError: the target is a file, or inside of the source.
    """
    source_path, target_path = (Path(path).expanduser().resolve() for path in (source, target))
    if target_path == source_path or source_path in target_path.parents:
        raise DataError(f"{target}: expected a folder outside of the source {source}; choose another folder")
    if target_path.is_file():
        raise DataError(f"{target}: is a file; nothing was written")


def _open_source(folder: str | Path, target: str | Path, min_side: int = 1) -> tuple[Folder, dict[str, ImageInfo]]:
    """Return the source images and their headers.

    Raises:
        DataError: there are no images, some are unreadable or too small, or the target is inside of the source.
    """
    source = Folder(folder)
    check_target(folder, target)
    infos, problems = {}, []
    for key in source.keys():  # noqa: SIM118 (not a mapping)
        try:
            infos[key] = info = source.info(key)
            if min(info.height, info.width) < min_side:
                problems.append(f"{source.path(key)}: {info.width}×{info.height} pixels, expected at least {min_side}")
        except DataError as error:
            problems.append(f"{source.path(key)}: {error}")
    raise_data_errors(problems, str(source.root))
    if not infos:
        raise DataError(f"{source.root}: no images")
    return source, infos


class _Outputs:
    """The output files of a preparation.

    Args:
        source: source images.
        target: folder of the outputs.
        settings: settings of the preparation, which all outputs of the folder share.
        keys: keys of the source images.
        strip: suffix to remove from names.

    Raises:
        DataError: two outputs have the same name, or the target was made with other settings.
    """

    def __init__(
        self, source: Folder, target: str | Path, settings: Mapping[str, Any], keys: Iterable[str], strip: str = ""
    ) -> None:
        self._source, self._target, self._strip = source, Path(target).expanduser(), strip
        sources: dict[Path, str] = {}
        problems = []
        for key in keys:
            other = sources.setdefault(self.path(key), key)
            if other != key:
                problems.append(f"{source.path(key)}: same output name as {source.path(other)}")
        raise_data_errors(problems, str(source.root))
        settings_file = self._target / SETTINGS_FILE
        if settings_file.is_file():
            known = json.loads(settings_file.read_text(encoding="utf-8"))
            if known != settings:
                raise DataError(f"{target}: was made with {known}, not with {settings}; choose another target")
        elif self._target.is_dir() and any(self._target.iterdir()):
            raise DataError(f"{target}: is not empty and was not made by `mcir prepare`; nothing was written")
        else:
            write_atomically(settings_file, json.dumps(settings).encode())

    def path(self, key: str, suffix: str = "") -> Path:
        """Return the path of an output."""
        return self._target / f"{stem(key).removesuffix(self._strip)}{suffix}.png"

    def is_current(self, path: Path, key: str) -> bool:
        """Return whether an output exists and is newer than its source."""
        return path.is_file() and path.stat().st_mtime_ns >= _stamp(self._source, key)[1]


def _stamp(source: Folder, key: str) -> tuple[int, int]:
    """Return the size and the modification time of a source file."""
    status = os.stat(source.path(key))  # noqa: PTH116 (many files)
    return status.st_size, status.st_mtime_ns


def _starts(side: int, size: int, step: int, threshold: int) -> list[int]:
    starts = list(range(0, side - size + 1, step))
    if side - (starts[-1] + size) > threshold:
        starts.append(side - size)
    return starts


def _run(
    work: Callable[[str], tuple[int, int]], keys: dict[str, ImageInfo], progress: Progress | None, workers: int | None
) -> Prepared:
    """Apply ``work``, which returns the numbers of written and skipped outputs of a key, to all keys."""
    written = skipped = 0
    for done, (new, existing) in enumerate(in_order(work, keys, workers), start=1):
        written, skipped = written + new, skipped + existing
        if progress is not None:
            progress(done, len(keys))
    return Prepared(len(keys), written, skipped)
