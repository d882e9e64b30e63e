"""Verify data sets: decode all images, and check checksums and pairs."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from mcir.data.errors import DataError
from mcir.data.lmdb_store import LmdbStore, to_bytes
from mcir.data.pairing import PairRules, examine_pairs
from mcir.data.parallel import Progress, in_order
from mcir.data.reader import check_image
from mcir.data.storage import Folder, open_storage


@dataclass(frozen=True)
class Verified:
    """Result of a verification.

    Attributes:
        images: number of images.
        bytes: total size of the stored images.
        checksum: checksum of all keys and stored images.
        problems: a line for each problem.
    """

    images: int
    bytes: int
    checksum: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def verify(
    path: str | Path,
    against: str | Path | None = None,
    filename_tmpl: str = "{}",
    progress: Progress | None = None,
    workers: int | None = None,
) -> Verified:
    """Decode all images of a folder or database, and check that pairs are complete and have one scale.

    Args:
        path: folder or database of images; for pairs, the ground truths.
        against: folder or database of the degraded images of pairs, which are also decoded.
        filename_tmpl: name of a degraded image without extension; ``{}`` is the name of its ground truth.
        progress: function to call after each image.
        workers: number of threads; None: one per CPU core.

    Raises:
        DataError: there are no images. Problems of single images do not raise errors; the result lists them.
    """
    storages = [open_storage(root) for root in ([path] if against is None else [path, against])]
    problems: list[str] = []
    work = [(storage, key) for storage in storages for key in _keys(storage, problems)]
    if not (work or problems):
        raise DataError(f"{path}: no images")
    is_listed = not problems
    digest, size = hashlib.sha256(), 0
    for key, length, crc, problem in in_order(_examine, work, workers, progress):
        digest.update(b"%d:%s%d" % (len(to_bytes(key)), to_bytes(key), crc))
        size += length
        problems += [problem] if problem else []
    if len(storages) == 2 and is_listed:
        problems += [line for line in _pair_problems(storages[0], storages[1], filename_tmpl) if line not in problems]
    return Verified(len(work), size, f"sha256:{digest.hexdigest()}", tuple(problems))


def _keys(storage: Folder | LmdbStore, problems: list[str]) -> list[str]:
    """Return the keys of a storage; append folders and files that cannot be read to ``problems``."""
    if isinstance(storage, LmdbStore):
        return storage.keys()
    return storage.search(lambda path, reason: problems.append(f"{path}: {reason}"))


def _examine(work: tuple[Folder | LmdbStore, str]) -> tuple[str, int, int, str]:
    """Return the key, length, CRC-32 and problem (or "") of a stored image."""
    storage, key = work
    try:
        data = storage.value(key)
    except DataError as error:
        return key, 0, 0, str(error)
    crc, problem = zlib.crc32(data), ""
    if isinstance(storage, Folder) or storage.codec == "encoded":
        try:
            check_image(data)
        except DataError as error:
            problem = f"{storage.path(key)}: {error}"
    return key, len(data), crc, problem


def _pair_problems(gt: Folder | LmdbStore, lq: Folder | LmdbStore, filename_tmpl: str) -> list[str]:
    """Return the problems of the pairs; the first pair determines the scale."""
    first = examine_pairs(gt, lq, PairRules(filename_tmpl=filename_tmpl))[0].pairs
    scale = max(1, round(gt.info(first[0].gt).height / first[0].height)) if first else 1
    return examine_pairs(gt, lq, PairRules(scale=scale, filename_tmpl=filename_tmpl))[1]
