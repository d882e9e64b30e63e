"""Which images belong together, and whether they fit: everything that can be known before a training starts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mcir.data.codec import ImageInfo
from mcir.data.errors import DataError, raise_for
from mcir.data.storage import Storage, stem


class Pair(NamedTuple):
    """A ground truth and its degraded image; ``height`` and ``width`` are those of the degraded image.

    ``lq`` is None where the degraded image is made from the ground truth.
    """

    gt: str
    lq: str | None
    height: int
    width: int


class Checked(NamedTuple):
    """Pairs that fit, and the most bits of a sample among the ground truths and among the degraded images."""

    pairs: list[Pair]
    gt_bits: int
    lq_bits: int


def check_pairs(
    gt: Storage,
    lq: Storage | None,
    *,
    scale: int,
    gt_size: int | None,
    filename_tmpl: str = "{}",
    names: Sequence[str] | None = None,
    what: str,
) -> Checked:
    """Return the pairs of two storages, all of whose headers fit.

    Args:
        gt: the ground truths.
        lq: the degraded images, if there are any.
        scale: as for ``examine_pairs``, like the next three.
        gt_size: side of the crops.
        filename_tmpl: how names are made.
        names: the ground truths to use.
        what: the set, for the message.

    Raises:
        DataError: there is no image, or some are missing, unreadable, truncated, too small or of the wrong size.
    """
    checked, problems = examine_pairs(gt, lq, scale=scale, gt_size=gt_size, filename_tmpl=filename_tmpl, names=names)
    raise_for(problems, what)
    if not checked.pairs:
        raise DataError(f"{what}: no images in {gt.path('')}")
    return checked


def examine_pairs(
    gt: Storage,
    lq: Storage | None,
    *,
    scale: int,
    gt_size: int | None,
    filename_tmpl: str = "{}",
    names: Sequence[str] | None = None,
) -> tuple[Checked, list[str]]:
    """Match the images of two storages, check every header, and return what fits and what is wrong.

    Args:
        gt: the ground truths.
        lq: the degraded images; None where they are made from the ground truths.
        scale: a ground truth is this many times as large as its degraded image, a remainder of less than ``scale``
            pixels at its bottom and right, which is not used, aside.
        gt_size: side of the crops that all must have room for.
        filename_tmpl: how the name of a degraded image, without extension, is made from its partner's.
        names: the keys of the ground truths to use; all without.

    Raises:
        DataError: the template is none.
    """
    problems: list[str] = []
    gt_keys = gt.keys()
    if names is None:
        chosen: Sequence[str] = gt_keys
    else:
        known = set(gt_keys)
        problems += [f"{gt.path(name)}: listed, but not there" for name in names if name not in known]
        chosen = [name for name in names if name in known]
    partners = _partners(chosen, gt.path, lq, filename_tmpl, names is None, problems) if lq is not None else {}
    pairs, gt_bits, lq_bits = [], 8, 8
    for key in chosen:
        gt_info = _info(gt, key, problems)
        if lq is None:
            lq_info = gt_info and gt_info._replace(height=gt_info.height // scale, width=gt_info.width // scale)
        elif key in partners:
            lq_info = _info(lq, partners[key], problems)
        else:
            continue
        if gt_info is None or lq_info is None:
            continue
        complaint = _fit(gt_info, lq_info, scale, gt_size)
        if complaint:
            problems.append(f"{gt.path(key)}: {complaint}")
        pairs.append(Pair(key, partners.get(key), lq_info.height, lq_info.width))
        gt_bits, lq_bits = max(gt_bits, gt_info.bits), max(lq_bits, lq_info.bits)
    return Checked(pairs, gt_bits, lq_bits), problems


def read_names(path: str | Path, known: Sequence[str]) -> list[str]:
    """Read a meta-info file: the name of an image a line, as BasicSR writes it ``0001_s001.png (480,480,3)``.

    A line is taken whole where that is a known name, else without a trailing shape, else up to the first blank.

    Raises:
        DataError: there is no such file, or it names nothing.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"meta_info_file {path}: {error.strerror}") from error
    there = set(known)
    names = []
    for line in filter(None, map(str.strip, lines)):
        shapeless = re.sub(r"\s+\([\d,\s]*\).*$", "", line)
        names.append(next((name for name in (line, shapeless) if name in there), line.split()[0]))
    if not names:
        raise DataError(f"meta_info_file {path}: it names no image")
    return names


def _partners(
    chosen: Sequence[str],
    gt_path: Callable[[str], str],
    lq: Storage,
    template: str,
    all_wanted: bool,
    problems: list[str],
) -> dict[str, str]:
    """Return the partner of each ground truth; who has none is a problem, on the other side only if all are wanted."""
    if template.count("{}") != 1:
        raise DataError(f"filename_tmpl is {template!r}; it must hold '{{}}' once, like '{{}}x4'.")
    by_stem: dict[str, list[str]] = defaultdict(list)
    for key in lq.keys():  # noqa: SIM118 (a storage is no mapping)
        by_stem[stem(key)].append(key)
    partners = {}
    for key in chosen:
        parts = PurePosixPath(key)
        wanted = str(parts.with_name(template.replace("{}", parts.stem)))
        found = by_stem.get(wanted, [])
        same = [candidate for candidate in found if PurePosixPath(candidate).suffix == parts.suffix]
        if len(same or found) == 1:
            partners[key] = (same or found)[0]
        elif found:
            problems.append(
                f"{gt_path(key)}: more than one partner, {', '.join(lq.path(candidate) for candidate in found)}"
            )
        else:
            problems.append(f"{gt_path(key)}: no partner {lq.path(wanted)} (of any extension)")
    if all_wanted:
        taken = set(partners.values())
        ambiguous = {candidate for group in by_stem.values() if len(group) > 1 for candidate in group}
        single = sorted(set().union(*by_stem.values()) - taken - ambiguous) if by_stem else []
        problems += [f"{lq.path(key)}: no ground truth belongs to it" for key in single]
    return partners


def _info(storage: Storage, key: str, problems: list[str]) -> ImageInfo | None:
    try:
        return storage.info(key)
    except DataError as error:
        problems.append(f"{storage.path(key)}: {error}")
        return None


def _fit(gt: ImageInfo, lq: ImageInfo, scale: int, gt_size: int | None) -> str | None:
    size = f"{gt.width}×{gt.height} pixels"
    if not (lq.height and lq.width):
        return f"{size}, less than one pixel at scale {scale}"
    if (gt.height // scale, gt.width // scale) != (lq.height, lq.width):
        return (
            f"{size}, its degraded image {lq.width}×{lq.height}; at scale {scale} that should be "
            f"{gt.width // scale}×{gt.height // scale}"
        )
    if gt_size is not None and min(lq.height, lq.width) * scale < gt_size:
        return f"{size}, smaller than the crop of {gt_size} (gt_size)"
    return None
