"""Prepare a folder of images before training: sub-images, downscaled images and databases.

A preparation can be interrupted and run again. Files are written atomically. An existing output is kept if it was made
with the same settings from a source of the same size and time. Nothing is written to the source folder.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from mcir.atomic import write_atomically
from mcir.checks import check_at_least
from mcir.data.codec import Array, ImageInfo, encode_png, info_of
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.lmdb_store import Codec, ImageRecord, to_bytes
from mcir.data.lmdb_writer import LmdbWriter
from mcir.data.parallel import Progress, in_order
from mcir.data.prepared_files import PreparedFiles, Stamp
from mcir.data.reader import decode
from mcir.data.resize import imresize
from mcir.data.storage import Folder, read_info, stem
from mcir.data.transforms import Window, crop_image

Convert: TypeAlias = Callable[[Array], Array]
"""Function that makes an output from a source image."""


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

    An existing image is rewritten if its checksum is wrong, or if the header, size or time of its source has changed.

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
        records = writer.records()
        gone = records.keys() - {to_bytes(key) for key in infos}
        existing = records if writer.is_upright else {}
        for name in gone:
            writer.delete(name)

        def load(key: str) -> tuple[str, memoryview, ImageRecord] | None:
            record, stamp = existing.get(to_bytes(key)), Stamp.of(source.path(key))
            stored = writer.value(to_bytes(key)) or b""
            if record == ImageRecord(infos[key], zlib.crc32(stored), *stamp):
                return None
            data, info = memoryview(source.value(key)), infos[key]
            if codec == "raw":
                image = decode(data, source.path(key))
                info, data = info_of(image), memoryview(image.tobytes())
            return key, data, ImageRecord(info, zlib.crc32(data), *stamp)

        written = 0
        for loaded in in_order(load, infos, workers, progress):
            if loaded is not None:
                writer.put(*loaded)
                written += 1
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
        step: distance in pixels between the starts of neighbouring squares.
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

    def squares(info: ImageInfo) -> dict[str, Convert]:
        tops, lefts = (_starts(side, size, step, threshold) for side in info[:2])
        windows = [Window(top, left, size, size) for top in tops for left in lefts]
        return {
            f"_s{number:03d}": functools.partial(crop_image, window=window) for number, window in enumerate(windows, 1)
        }

    settings = {"made": "subimages", "size": size, "step": step, "threshold": threshold, "strip": strip}
    return _write_files(folder, target, settings, squares, size, progress, workers)


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
    outputs: dict[str, Convert] = {"": functools.partial(downscale, scale=scale)}
    return _write_files(folder, target, {"made": "lr", "scale": scale}, lambda info: outputs, scale, progress, workers)


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
    source_path, target_path = (Path(path).resolve() for path in (source, target))
    if target_path == source_path or source_path in target_path.parents:
        raise DataError(f"{target}: expected a folder outside of the source {source}; choose another folder")
    if target_path.is_file():
        raise DataError(f"{target}: is a file; nothing was written")


def _open_source(folder: str | Path, target: str | Path, min_side: int = 1) -> tuple[Folder, dict[str, ImageInfo]]:
    """Return the source images and their headers, or raise an error that lists unreadable and too small images."""
    source = Folder(folder)
    check_target(folder, target)
    infos: dict[str, ImageInfo] = {}
    problems: list[str] = []
    for key in source.keys():  # noqa: SIM118 (not a mapping)
        info = read_info(source, key, problems)
        if info is not None:
            infos[key] = info
            if min(info.height, info.width) < min_side:
                problems.append(f"{source.path(key)}: {info.width}×{info.height} pixels, expected at least {min_side}")
    raise_data_errors(problems, str(source.root))
    if not infos:
        raise DataError(f"{source.root}: no images")
    return source, infos


def _write_files(
    folder: str | Path,
    target: str | Path,
    settings: dict[str, Any],
    outputs: Callable[[ImageInfo], dict[str, Convert]],
    min_side: int,
    progress: Progress | None,
    workers: int | None,
) -> Prepared:
    """Write PNG files made from the images of a folder; files that are up to date are kept.

    ``outputs`` returns the suffixes of the names of an image's files, and the functions that make the files.
    """
    source, infos = _open_source(folder, target, min_side)
    bases = {key: stem(key).removesuffix(settings.get("strip", "")) for key in infos}
    first = {base: key for key, base in reversed(bases.items())}
    problems = [
        f"{source.path(key)}: same output name as {source.path(first[base])}"
        for key, base in bases.items()
        if first[base] != key
    ]
    raise_data_errors(problems, str(source.root))
    prepared = PreparedFiles(target, settings)

    def write(key: str) -> tuple[int, int]:
        files = {f"{bases[key]}{suffix}.png": convert for suffix, convert in outputs(infos[key]).items()}
        stamp = Stamp.of(source.path(key))
        outdated = prepared.outdated(key, stamp, list(files))
        if outdated:
            image = source.read(key)
            prepared.start(key)
            for name in outdated:
                write_atomically(prepared.target / name, encode_png(files[name](image)))
            prepared.finish(key, stamp, list(files))
        return len(outdated), len(files)

    written, total = map(sum, zip(*in_order(write, infos, workers, progress), strict=True))
    return Prepared(len(infos), written, total - written)


def _starts(side: int, size: int, step: int, threshold: int) -> list[int]:
    starts = list(range(0, side - size + 1, step))
    if side - (starts[-1] + size) > threshold:
        starts.append(side - size)
    return starts
