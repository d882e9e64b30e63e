"""What is done to a folder of images once, before training: sub-images, small images, data bases (and ``verify``).

Every preparation can be killed and run again: files are written whole or not at all, and what is there already, made
with the same settings from a source that has not changed since, is left as it is. The source is never written to.
Work goes to threads, since reading, decoding, resizing and encoding of images run outside of Python's lock.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcir.atomic import write_atomically
from mcir.data.codec import Array, ImageInfo, decode, encode_png, info_of
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.lmdb_store import Codec, Facts, to_bytes
from mcir.data.lmdb_writer import LmdbWriter
from mcir.data.parallel import Progress, in_order
from mcir.data.resize import imresize
from mcir.data.storage import Folder, stem
from mcir.data.verify import Verified, verify

__all__ = ["Prepared", "Verified", "create_lmdb", "create_lr", "extract_subimages", "require_apart", "shrunk", "verify"]

SETTINGS_FILE = ".mcir_prepare.json"


@dataclass(frozen=True)
class Prepared:
    """What a preparation did.

    Attributes:
        images: source images.
        written: outputs that were written.
        skipped: outputs that were there already.
        removed: outputs whose source is gone (data bases only).
        checksum: of a data base.
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
    """Put the images of a folder into an LMDB data base; an interrupted or outdated one is brought up to date.

    What is there already is compared with its checksum and with the size and time of its source, and written anew where
    either differs.

    Args:
        folder: the images, at any depth.
        target: folder of the data base, by custom with a name that ends in ``.lmdb``.
        codec: "encoded" keeps the files' bytes; "raw" the samples, larger and much faster to cut crops from.
        progress: called after each image.
        workers: threads; as many as processors without.

    Raises:
        DataError: an image is unreadable, a path too long for a key, or something else is at the target. No image is
            lost.
    """
    source = _source(folder, target)
    infos = _headers(source)
    with LmdbWriter(target, codec) as writer:
        raise_data_errors(
            [
                f"{source.path(key)}: the path has more than {writer.longest_key} bytes"
                for key in infos
                if len(to_bytes(key)) > writer.longest_key
            ],
            f"LMDB of {folder}",
        )
        there = writer.facts()
        gone = there.keys() - {to_bytes(key) for key in infos}
        for name in gone:
            writer.delete(name)

        def is_current(key: str) -> bool:
            facts = there.get(to_bytes(key))
            if facts is None or (facts.source_size, facts.source_time) != _stamp(source, key):
                return False
            return zlib.crc32(writer.value(to_bytes(key)) or b"") == facts.crc

        def load(key: str) -> tuple[str, memoryview, Facts] | None:
            if is_current(key):
                return None
            size, time = _stamp(source, key)
            data = memoryview(source.value(key))
            info = infos[key]
            if codec == "raw":
                image = decode(data, source.path(key))
                info, data = info_of(image), memoryview(image.tobytes())
            return key, data, Facts(info, zlib.crc32(data), size, time)

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
    """Cut large images into overlapping squares, as PNG files ``<name>_s001.png`` …, counted along the rows.

    The squares lie ``step`` apart; where more than ``threshold`` pixels are left at the end of a side, one more lies
    flush with it. For the small images of a pair divide size and step by the scale.

    Args:
        folder: the images, at any depth.
        target: where the squares go, in the same sub-folders.
        size: side of a square.
        step: distance between neighbours.
        threshold: pixels that may be left over at a side.
        strip: an ending that is taken off the names (``x4`` of DIV2K's small images), so that pairs get equal names.
        progress: called after each image.
        workers: threads; as many as processors without.

    Raises:
        DataError: an image is unreadable or smaller than a square, two would get the same name, or the target was
            made with other settings.
    """
    if size < 1 or step < 1 or threshold < 0:
        raise DataError(
            f"subimages: size {size}, step {step}, threshold {threshold}; expected size, step ≥ 1, threshold ≥ 0."
        )
    source, out = _source(folder, target), Path(target).expanduser()
    infos = _headers(source)
    raise_data_errors(
        [
            f"{source.path(key)}: {info.width}×{info.height} pixels, smaller than the sub-images of {size}"
            for key, info in infos.items()
            if min(info.height, info.width) < size
        ],
        f"sub-images of {folder}",
    )
    names = _output_names(source, infos, strip)
    _settle(out, {"made": "subimages", "size": size, "step": step, "threshold": threshold, "strip": strip})

    def cut(key: str) -> tuple[int, int]:
        info = infos[key]
        tops, lefts = (_starts(side, size, step, threshold) for side in (info.height, info.width))
        corners = [(top, left) for top in tops for left in lefts]
        paths = [out / f"{names[key]}_s{number:03d}.png" for number in range(1, len(corners) + 1)]
        due = [number for number, path in enumerate(paths) if not _is_current(path, source, key)]
        if due:
            image = source.read(key)
            for number in due:
                top, left = corners[number]
                write_atomically(paths[number], encode_png(image[top : top + size, left : left + size]))
        return len(due), len(paths) - len(due)

    return _run(cut, infos, progress, workers)


def create_lr(
    folder: str | Path,
    target: str | Path,
    scale: int,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Prepared:
    """Shrink images by MATLAB's bicubic, as PNG files of the same names.

    The bottom and right of an image are first cut to a multiple of the scale, which data sets do as well with the
    larger one.

    Args:
        folder: the images, at any depth.
        target: where the small images go, in the same sub-folders.
        scale: the factor, from 2 on.
        progress: called after each image.
        workers: threads; as many as processors without.

    Raises:
        DataError: an image is unreadable or smaller than the scale, two would get the same name, or the target was made
            with other settings.
    """
    if scale < 2:
        raise DataError(f"lr: scale is {scale}; it must be a whole number from 2 on.")
    source, out = _source(folder, target), Path(target).expanduser()
    infos = _headers(source)
    raise_data_errors(
        [f"{source.path(key)}: smaller than {scale} pixels" for key, info in infos.items() if min(info[:2]) < scale],
        f"small images of {folder}",
    )
    names = _output_names(source, infos, "")
    _settle(out, {"made": "lr", "scale": scale})

    def shrink(key: str) -> tuple[int, int]:
        path = out / f"{names[key]}.png"
        if _is_current(path, source, key):
            return 0, 1
        write_atomically(path, encode_png(shrunk(source.read(key), scale)))
        return 1, 0

    return _run(shrink, infos, progress, workers)


def shrunk(image: Array, scale: int) -> Array:
    """Return an image (H, W, C) cut to a multiple of the scale, shrunk by MATLAB's bicubic, of its own depth."""
    height, width = (side - side % scale for side in image.shape[:2])
    planes = torch.from_numpy(image[:height, :width].astype(np.float64)).permute(2, 0, 1)
    small = imresize(planes, 1 / scale).round_().clamp_(0, np.iinfo(image.dtype).max)
    return np.ascontiguousarray(small.permute(1, 2, 0).numpy().astype(image.dtype))


# -- parts --------------------------------------------------------------------------------------------------------


def _source(folder: str | Path, target: str | Path) -> Folder:
    """Open the source, and see that the target is apart from it."""
    source = Folder(folder)
    require_apart(folder, target)
    return source


def require_apart(source: str | Path, target: str | Path) -> None:
    """See that a target is a folder, or nothing yet, outside of the source.

    Raises:
        DataError: it is not.
    """
    here, there = (Path(path).expanduser().resolve() for path in (source, target))
    if there == here or here in there.parents:
        raise DataError(f"{target}: lies in the source {source}, which is never written to; name a folder elsewhere")
    if there.is_file():
        raise DataError(f"{target}: is a file; nothing was written")


def _headers(source: Folder) -> dict[str, ImageInfo]:
    """Return the facts of all images.

    Raises:
        DataError: there is none, or some are unreadable.
    """
    infos, problems = {}, []
    for key in source.keys():  # noqa: SIM118 (no mapping)
        try:
            infos[key] = source.info(key)
        except DataError as error:
            problems.append(f"{source.path(key)}: {error}")
    raise_data_errors(problems, str(source.root))
    if not infos:
        raise DataError(f"{source.root}: no images")
    return infos


def _output_names(source: Folder, keys: Iterable[str], strip: str) -> dict[str, str]:
    """Return the path of each output without extension; two sources with one output are an error."""
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    problems = []
    for key in keys:
        name = stem(key).removesuffix(strip) if strip else stem(key)
        if name in owners:
            problems.append(f"{source.path(key)}: would have the same name as {source.path(owners[name])}")
        names[key] = name
        owners[name] = key
    raise_data_errors(problems, str(source.root))
    return names


def _settle(target: Path, settings: dict[str, Any]) -> None:
    """Write down what the target is made with, or see that it was made with the same."""
    record = target / SETTINGS_FILE
    if record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known != settings:
            raise DataError(
                f"{target}: was made with {known}, asked for is {settings}; name another target or remove it"
            )
    elif target.is_dir() and any(target.iterdir()):
        raise DataError(f"{target}: is not empty and was not made by `mcir prepare`; nothing was written")
    else:
        write_atomically(record, json.dumps(settings).encode())


def _starts(side: int, size: int, step: int, threshold: int) -> list[int]:
    starts = list(range(0, side - size + 1, step))
    if side - (starts[-1] + size) > threshold:
        starts.append(side - size)
    return starts


def _stamp(source: Folder, key: str) -> tuple[int, int]:
    facts = os.stat(source.path(key))  # noqa: PTH116 (many files)
    return facts.st_size, facts.st_mtime_ns


def _is_current(output: Path, source: Folder, key: str) -> bool:
    return output.is_file() and output.stat().st_mtime_ns >= _stamp(source, key)[1]


def _run(
    work: Callable[[str], tuple[int, int]], keys: dict[str, ImageInfo], progress: Progress | None, workers: int | None
) -> Prepared:
    written = skipped = 0
    for done, (new, old) in enumerate(in_order(work, keys, workers), start=1):
        written, skipped = written + new, skipped + old
        if progress is not None:
            progress(done, len(keys))
    return Prepared(len(keys), written, skipped)
