"""A copy of a data set held against its manifest: folders, counts, names, sizes and pairs, from headers alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mcir.data.codec import Array, ImageInfo
from mcir.data.errors import DataError
from mcir.data.lmdb_store import LmdbStore
from mcir.data.manifest import EVIDENCE, FolderRule, Manifest, PairRule
from mcir.data.pairing import examine_pairs
from mcir.data.parallel import Progress, in_order
from mcir.data.storage import Folder, open_storage


@dataclass(frozen=True)
class Compared:
    """A copy of a data set held against its manifest.

    Attributes:
        fits: a line for each thing that is as it should be, or that may be missing and is.
        differences: a line for each that is not.
    """

    fits: tuple[str, ...]
    differences: tuple[str, ...]


def compare(
    manifest: Manifest, root: str | Path, progress: Progress | None = None, workers: int | None = None
) -> Compared:
    """Hold a copy of a data set against its manifest, by names and headers; nothing is decoded.

    Args:
        manifest: what it should be.
        root: where the folders of the copy lie.
        progress: called after each image.
        workers: threads; as many as processors without.

    Raises:
        DataError: there is no such folder.
    """
    place = Path(root).expanduser()
    if not place.is_dir():
        raise DataError(f"{root}: no such folder")
    fits: list[str] = []
    differences: list[str] = []
    there: dict[str, _Seen] = {}
    for rule in manifest.folders:
        if (place / rule.path).is_dir():
            try:
                there[rule.path] = _Seen(open_storage(place / rule.path))
            except DataError as error:
                differences.append(str(error))
        elif rule.optional:
            fits.append(f"{rule.path}: not there, and need not be ({rule.holds})")
        else:
            differences.append(f"{place / rule.path}: no such folder ({rule.holds})")
    total, done = sum(len(seen.keys()) for seen in there.values()), 0
    for rule in manifest.folders:
        if rule.path in there:
            seen = there[rule.path]
            for _ in in_order(seen.look, seen.keys(), workers):
                done += 1
                if progress is not None:
                    progress(done, total)
            found = _folder_differences(rule, seen)
            differences += found
            if not found:
                fits.append(f"{rule.path}: {_fact(rule, seen)}")
    complete = False
    for pair in manifest.pairs:
        if pair.gt in there and pair.lq in there:
            complete = True
            template, count, found = _pair_differences(pair, there[pair.gt], there[pair.lq])
            known = set(differences)
            differences += [line for line in found if line not in known]  # what cannot be read stands there already
            if count and not found:
                fits.append(f"{pair.gt} + {pair.lq}: {count:,} pairs{_told(template, pair)}")
    if manifest.pairs and not complete:
        wanted = ", or ".join(f"{pair.gt} + {pair.lq}" for pair in manifest.pairs)
        differences.append(f"{place}: no pair of folders is there; expected {wanted}")
    return Compared(tuple(fits), tuple(differences))


class _Seen:
    """A storage whose names and headers are read once."""

    def __init__(self, storage: Folder | LmdbStore) -> None:
        self._storage = storage
        self._keys = storage.keys()
        self._infos: dict[str, ImageInfo | DataError] = {}
        self._same: dict[ImageInfo, ImageInfo] = {}

    def keys(self) -> list[str]:
        return self._keys

    def path(self, key: str) -> str:
        return self._storage.path(key)

    def read(self, key: str) -> Array:
        return self._storage.read(key)

    def read_crop(self, key: str, top: int, left: int, height: int, width: int) -> Array:
        return self._storage.read_crop(key, top, left, height, width)

    def look(self, key: str) -> None:
        try:
            info = self._storage.info(key)
            self._infos[key] = self._same.setdefault(info, info)  # of a million images most have one size
        except DataError as error:
            self._infos[key] = error

    def info(self, key: str) -> ImageInfo:
        info = self._infos[key]
        if isinstance(info, DataError):
            raise info
        return info


def _fact(rule: FolderRule, seen: _Seen) -> str:
    checked = [f"{len(seen.keys()):,} images" + ("" if rule.images else " (the manifest states no count)")]
    checked += ["names"] if rule.names else []
    checked += ["sizes"] if rule.sizes or rule.longest_side else []
    return ", ".join(checked)


def _told(template: str, pair: PairRule) -> str:
    options = {"filename_tmpl": template, "scale": pair.scale, "gt_crop": pair.gt_crop}
    defaults = {"filename_tmpl": "{}", "scale": 1, "gt_crop": None}
    said = [f"{key}: {value!r}" for key, value in options.items() if value != defaults[key]]
    return f" ({', '.join(said)})" if said else ""


def _folder_differences(rule: FolderRule, seen: _Seen) -> list[str]:
    keys = seen.keys()
    found = []
    if rule.images is not None and len(keys) != rule.images:
        found.append(f"{seen.path('')}: {len(keys):,} images, expected {rule.images:,} ({EVIDENCE[rule.evidence]})")
    elif not keys:
        found.append(f"{seen.path('')}: no images")
    names = re.compile(rule.names) if rule.names else None
    for key in keys:
        if names is not None and not names.fullmatch(key):
            found.append(f"{seen.path(key)}: the name does not fit {rule.names}")
        try:
            info = seen.info(key)
        except DataError as error:
            found.append(f"{seen.path(key)}: {error}")
            continue
        allowed = next((sizes for glob, sizes in rule.sizes.items() if fnmatchcase(key, glob)), None)
        if allowed is not None and f"{info.width}x{info.height}" not in allowed:
            wanted = " or ".join(allowed).replace("x", "×")
            found.append(f"{seen.path(key)}: {info.width}×{info.height} pixels, expected {wanted}")
        if rule.longest_side is not None and max(info.height, info.width) != rule.longest_side:
            found.append(
                f"{seen.path(key)}: {info.width}×{info.height} pixels, expected a longest side of {rule.longest_side}"
            )
    return found


def _pair_differences(pair: PairRule, gt: _Seen, lq: _Seen) -> tuple[str, int, list[str]]:
    """Return the naming that fits best, how many pairs it gives, and what is wrong under it."""
    results = []
    for template in pair.filename_tmpl:
        checked, problems = examine_pairs(
            gt, lq, scale=pair.scale, gt_size=None, filename_tmpl=template, gt_crop=pair.gt_crop
        )
        results.append((template, checked.pairs, problems))
    template, pairs, problems = min(results, key=lambda result: len(result[2]))
    if pair.per_gt is not None:
        counts: dict[str, int] = {}
        for each in pairs:
            counts[each.gt] = counts.get(each.gt, 0) + 1
        problems += [
            f"{gt.path(key)}: {count} degraded images, expected {pair.per_gt}"
            for key, count in counts.items()
            if count != pair.per_gt
        ]
    return template, len(pairs), problems
