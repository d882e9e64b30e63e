"""Compare a copy of a data set with its manifest: folders, counts, names, sizes and pairs, from headers only."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mcir.data.codec import ImageInfo
from mcir.data.errors import DataError
from mcir.data.manifest import EVIDENCE, FolderRule, Manifest, PairRule
from mcir.data.pairing import PairRules, examine_pairs
from mcir.data.parallel import Progress, in_order
from mcir.data.storage import Headers, open_storage, read_info


@dataclass(frozen=True)
class Compared:
    """Result of a comparison with a manifest.

    Attributes:
        matches: a line for each folder and pair that agrees with the manifest, or is optional and missing.
        differences: a line for each difference.
    """

    matches: tuple[str, ...]
    differences: tuple[str, ...]


def compare(
    manifest: Manifest, root: str | Path, progress: Progress | None = None, workers: int | None = None
) -> Compared:
    """Compare a copy of a data set with its manifest, by file names and headers; no image is decoded.

    Args:
        manifest: description of the data set.
        root: folder that contains the folders of the copy.
        progress: function to call after each image.
        workers: number of threads; None: one per CPU core.

    Raises:
        DataError: the folder does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"{root}: no such folder")
    matches: list[str] = []
    differences: list[str] = []
    found: dict[str, _CachedHeaders] = {}
    for rule in manifest.folders:
        if (folder / rule.path).is_dir():
            try:
                found[rule.path] = _CachedHeaders(open_storage(folder / rule.path))
            except DataError as error:
                differences.append(str(error))
        elif rule.optional:
            matches.append(f"{rule.path}: missing, optional ({rule.content})")
        else:
            differences.append(f"{folder / rule.path}: no such folder ({rule.content})")
    work = [(headers, key) for headers in found.values() for key in headers.keys()]  # noqa: SIM118 (not a mapping)
    list(in_order(lambda item: read_info(*item, problems=[]), work, workers, progress))  # fills the caches
    for rule in manifest.folders:
        if rule.path in found:
            headers = found[rule.path]
            problems = _folder_differences(rule, headers)
            differences += problems
            if not problems:
                matches.append(f"{rule.path}: {_summary(rule, headers)}")
    pairs = [pair for pair in manifest.pairs if pair.gt in found and pair.lq in found]
    for pair in pairs:
        template, count, problems = _pair_differences(pair, found[pair.gt], found[pair.lq])
        differences += [line for line in problems if line not in set(differences)]  # unreadable files are listed
        if count and not problems:
            matches.append(f"{pair.gt} + {pair.lq}: {count:,} pairs{_changed_options(template, pair)}")
    if manifest.pairs and not pairs:
        expected = ", or ".join(f"{pair.gt} + {pair.lq}" for pair in manifest.pairs)
        differences.append(f"{folder}: no pair of folders; expected {expected}")
    return Compared(tuple(matches), tuple(differences))


class _CachedHeaders:
    """Names and headers of a storage, each read once."""

    def __init__(self, storage: Headers) -> None:
        self._keys = storage.keys()
        self.path = storage.path
        self.info = functools.cache(storage.info)

    def keys(self) -> list[str]:
        return self._keys


def _summary(rule: FolderRule, headers: _CachedHeaders) -> str:
    checked = [f"{len(headers.keys()):,} images" + ("" if rule.images else " (no count in the manifest)")]
    checked += ["names"] if rule.names else []
    checked += ["sizes"] if rule.sizes or rule.longest_side else []
    return ", ".join(checked)


def _changed_options(template: str, pair: PairRule) -> str:
    options = {"filename_tmpl": template, "scale": pair.scale, "gt_crop": pair.gt_crop}
    defaults = {"filename_tmpl": "{}", "scale": 1, "gt_crop": None}
    changed = [f"{key}: {value!r}" for key, value in options.items() if value != defaults[key]]
    return f" ({', '.join(changed)})" if changed else ""


def _folder_differences(rule: FolderRule, headers: _CachedHeaders) -> list[str]:
    keys = headers.keys()
    found = []
    if rule.images is not None and len(keys) != rule.images:
        found.append(f"{headers.path('')}: {len(keys):,} images, expected {rule.images:,} ({EVIDENCE[rule.evidence]})")
    elif not keys:
        found.append(f"{headers.path('')}: no images")
    for key in keys:
        if rule.names and not re.fullmatch(rule.names, key):
            found.append(f"{headers.path(key)}: expected a name that matches {rule.names}")
        info = read_info(headers, key, found)
        if info is not None:
            found += [f"{headers.path(key)}: {problem}" for problem in _size_differences(rule, key, info)]
    return found


def _size_differences(rule: FolderRule, key: str, info: ImageInfo) -> list[str]:
    size, found = f"{info.width}×{info.height} pixels", []
    allowed = next((sizes for glob, sizes in rule.sizes.items() if fnmatchcase(key, glob)), None)
    if allowed is not None and f"{info.width}x{info.height}" not in allowed:
        found.append(f"{size}, expected {' or '.join(allowed).replace('x', '×')}")
    if rule.longest_side is not None and max(info.height, info.width) != rule.longest_side:
        found.append(f"{size}, expected a longest side of {rule.longest_side}")
    return found


def _pair_differences(pair: PairRule, gt: Headers, lq: Headers) -> tuple[str, int, list[str]]:
    """Return the best ``filename_tmpl`` of a pair of folders, its number of pairs, and its problems."""
    results = []
    for template in pair.filename_tmpl:
        rules = PairRules(scale=pair.scale, filename_tmpl=template, gt_crop=pair.gt_crop)
        checked, problems = examine_pairs(gt, lq, rules)
        results.append((template, checked.pairs, problems))
    template, pairs, problems = min(results, key=lambda result: len(result[2]))
    if pair.per_gt is not None:
        problems += [
            f"{gt.path(key)}: {count} degraded images, expected {pair.per_gt}"
            for key, count in Counter(each.gt for each in pairs).items()
            if count != pair.per_gt
        ]
    return template, len(pairs), problems
