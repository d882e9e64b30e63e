"""The thorough check of a set: every image decoded to its end, every checksum, every pair."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from mcir.data.codec import decode_thoroughly
from mcir.data.errors import DataError
from mcir.data.lmdb_store import LmdbStore, to_bytes
from mcir.data.pairing import examine_pairs
from mcir.data.parallel import Progress, in_order
from mcir.data.storage import Folder, open_storage


@dataclass(frozen=True)
class Verified:
    """What a check found.

    Attributes:
        images: how many were decoded or tried.
        bytes: their size as stored.
        checksum: of all keys and stored bytes.
        problems: a line for each thing that is wrong.
    """

    images: int
    bytes: int
    checksum: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    path: str | Path,
    against: str | Path | None = None,
    filename_tmpl: str = "{}",
    progress: Progress | None = None,
    workers: int | None = None,
) -> Verified:
    """Decode every image of a folder or data base to its end, and see that pairs are complete and of one scale.

    Args:
        path: a folder or a data base; of pairs, the ground truths.
        against: the degraded images of the same pairs; they are decoded as well.
        filename_tmpl: name of a degraded image without extension, made from its partner's.
        progress: called after each image.
        workers: threads; as many as processors without.

    Raises:
        DataError: there is nothing to verify. What is wrong with single images stands in the report.
    """
    storages = [open_storage(place) for place in ([path] if against is None else [path, against])]
    work = [(storage, key) for storage in storages for key in storage.keys()]  # noqa: SIM118 (no mappings)
    if not work:
        raise DataError(f"{path}: no images")
    problems: list[str] = []
    digest, size = hashlib.sha256(), 0
    for done, (key, length, crc, problem) in enumerate(in_order(_examine, work, workers), start=1):
        digest.update(b"%d:%s%d" % (len(to_bytes(key)), to_bytes(key), crc))
        size += length
        if problem:
            problems.append(problem)
        if progress is not None:
            progress(done, len(work))
    if len(storages) == 2:
        problems += [line for line in _pair_problems(storages[0], storages[1], filename_tmpl) if line not in problems]
    return Verified(len(work), size, f"sha256:{digest.hexdigest()}", tuple(problems))


def _examine(work: tuple[Folder | LmdbStore, str]) -> tuple[str, int, int, str]:
    """Return the key, length and CRC-32 of one stored image, and what is wrong with it."""
    storage, key = work
    try:
        data = storage.value(key)
    except DataError as error:
        return key, 0, 0, str(error)
    crc = zlib.crc32(data)
    if isinstance(storage, LmdbStore):
        facts = storage.facts(key)
        if facts is not None and facts.crc != crc:
            return key, len(data), crc, f"{storage.path(key)}: differs from its checksum"
        if storage.codec == "raw":
            return key, len(data), crc, ""
    try:
        decode_thoroughly(data)
    except DataError as error:
        return key, len(data), crc, f"{storage.path(key)}: {error}"
    return key, len(data), crc, ""


def _pair_problems(gt: Folder | LmdbStore, lq: Folder | LmdbStore, filename_tmpl: str) -> list[str]:
    first = examine_pairs(gt, lq, scale=1, gt_size=None, filename_tmpl=filename_tmpl)[0].pairs
    scale = 1
    if first:
        scale = max(1, round(gt.info(first[0].gt).height / first[0].height))
    return examine_pairs(gt, lq, scale=scale, gt_size=None, filename_tmpl=filename_tmpl)[1]
