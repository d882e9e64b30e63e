"""Which images belong together, and whether they fit: everything that can be known before a training starts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from mcir.data.codec import ImageInfo
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.storage import Storage, stem

GtCrop: TypeAlias = Literal["center"]
"""Which part of a ground truth belongs to a degraded image that shows less of it."""

Small: TypeAlias = Literal["error", "skip", "pad"]
"""What becomes of a pair that is smaller than the crop."""


class Pair(NamedTuple):
    """A ground truth and its degraded image.

    Attributes:
        gt: key of the ground truth.
        lq: key of the degraded image; None where that is made from the ground truth.
        height: of the degraded image.
        width: of the degraded image.
        top: pixels of the ground truth above the part that the degraded image shows.
        left: the same at its left.
    """

    gt: str
    lq: str | None
    height: int
    width: int
    top: int = 0
    left: int = 0


class Checked(NamedTuple):
    """Pairs that fit.

    Attributes:
        pairs: in the order of the names of the ground truths; where one of these has many degraded images, in the order
            of their names.
        gt_bits: the most bits of a sample among the ground truths.
        lq_bits: the same among the degraded images.
        skipped: how many pairs were left out since they are smaller than the crop.
    """

    pairs: list[Pair]
    gt_bits: int
    lq_bits: int
    skipped: int = 0


def check_pairs(
    gt: Storage,
    lq: Storage | None,
    *,
    scale: int,
    gt_size: int | None,
    filename_tmpl: str = "{}",
    gt_crop: GtCrop | None = None,
    small: Small = "error",
    names: Sequence[str] | None = None,
    size_option: str = "gt_size",
    what: str,
) -> Checked:
    """Return the pairs of two storages, all of whose headers fit.

    Args:
        gt: the ground truths.
        lq: the degraded images, if there are any.
        scale: as for ``examine_pairs``, like the next five.
        gt_size: side of the crops.
        filename_tmpl: how names are made.
        gt_crop: the part of larger ground truths that is used.
        small: what becomes of small pairs.
        names: the ground truths to use.
        size_option: what the option file calls the side of the crops.
        what: the set, for the message.

    Raises:
        DataError: there is no image, or some are missing, unreadable, truncated, too small or of the wrong size.
    """
    checked, problems = examine_pairs(
        gt,
        lq,
        scale=scale,
        gt_size=gt_size,
        filename_tmpl=filename_tmpl,
        gt_crop=gt_crop,
        small=small,
        names=names,
        size_option=size_option,
    )
    raise_data_errors(problems, what)
    if checked.skipped and not checked.pairs:
        raise DataError(f"{what}: all {checked.skipped} pairs are smaller than the crop of {gt_size} ({size_option})")
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
    gt_crop: GtCrop | None = None,
    small: Small = "error",
    names: Sequence[str] | None = None,
    size_option: str = "gt_size",
) -> tuple[Checked, list[str]]:
    """Match the images of two storages, check every header once, and return what fits and what is wrong.

    Args:
        gt: the ground truths.
        lq: the degraded images; None where they are made from the ground truths.
        scale: a ground truth is this many times as large as its degraded image, a remainder of less than ``scale``
            pixels at its bottom and right, which is not used, aside.
        gt_size: side of the crops that all must have room for.
        filename_tmpl: how the name of a degraded image, without extension, is made from its partner's. With a ``*``,
            which stands for any characters, a ground truth may have many degraded images: ``'{}_*'``.
        gt_crop: "center": a ground truth may be larger than its degraded image, which shows the middle of it.
        small: of pairs smaller than the crop: "error" names them, "skip" leaves them out, "pad" keeps them.
        names: the keys of the ground truths to use; all without.
        size_option: what the option file calls the side of the crops.

    Raises:
        DataError: the template is none.
    """
    template = _Template.of(filename_tmpl)
    problems: list[str] = []
    gt_keys = gt.keys()
    if names is None:
        chosen: Sequence[str] = gt_keys
    else:
        known = set(gt_keys)
        problems += [f"{gt.path(name)}: listed, but not there" for name in names if name not in known]
        chosen = [name for name in names if name in known]
    if lq is None:
        matched: list[tuple[str, str | None]] = [(key, None) for key in chosen]
    elif template.many:
        matched = [*_groups(chosen, gt, lq, template, names is None, problems)]
    else:
        matched = [*_partners(chosen, gt, lq, template, names is None, problems)]
    pairs, gt_bits, lq_bits, skipped = [], 8, 8, 0
    last: tuple[str, ImageInfo | None] | None = None
    for gt_key, lq_key in matched:
        if last is None or last[0] != gt_key:
            last = gt_key, _info(gt, gt_key, problems)
        gt_info = last[1]
        if lq is None or lq_key is None:
            lq_info = gt_info and gt_info._replace(height=gt_info.height // scale, width=gt_info.width // scale)
        else:
            lq_info = _info(lq, lq_key, problems)
        if gt_info is None or lq_info is None:
            continue
        complaint = _fit(gt_info, lq_info, scale, gt_crop)
        if complaint is None and gt_size is not None and min(lq_info.height, lq_info.width) * scale < gt_size:
            if small == "skip":
                skipped += 1
                continue
            if small == "error":
                complaint = f"{_size(gt_info)}, smaller than the crop of {gt_size} ({size_option})"
        if complaint:
            at = gt.path(gt_key) if lq is None or lq_key is None or not template.many else lq.path(lq_key)
            problems.append(f"{at}: {complaint}")
        corner = _corner(gt_info, lq_info, scale) if gt_crop == "center" else ()
        pairs.append(Pair(gt_key, lq_key, lq_info.height, lq_info.width, *corner))
        gt_bits, lq_bits = max(gt_bits, gt_info.bits), max(lq_bits, lq_info.bits)
    return Checked(pairs, gt_bits, lq_bits, skipped), problems


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


class _Template(NamedTuple):
    """A ``filename_tmpl``: what stands before, between and behind the ``{}`` and the ``*``."""

    before: str
    between: str
    behind: str
    many: bool
    star_first: bool

    @classmethod
    def of(cls, text: str) -> _Template:
        parts = re.split(r"(\{\}|\*)", text)
        marks = parts[1::2]
        if marks not in (["{}"], ["{}", "*"], ["*", "{}"]):
            raise DataError(
                f"filename_tmpl is {text!r}; it must hold '{{}}' once, like '{{}}x4', and may hold one '*', like "
                "'{}_*', where a ground truth has many degraded images."
            )
        between = parts[2] if len(marks) == 2 else ""
        return cls(parts[0], between, parts[-1], len(marks) == 2, marks[0] == "*")

    def fill(self, key: str) -> str:
        """Return the key of the degraded image, without extension, that a ground truth asks for."""
        folder, slash, name = stem(key).rpartition("/")
        marks = (("*", name) if self.star_first else (name, "*")) if self.many else (name, "")
        return f"{folder}{slash}{self.before}{marks[0]}{self.between}{marks[1]}{self.behind}"

    def owners(self, key: str) -> Iterator[str]:
        """Yield the ground truths, without extension, that a degraded image may have by its name (with a ``*``)."""
        folder, slash, name = stem(key).rpartition("/")
        end = len(name) - len(self.behind)
        if not (name.startswith(self.before) and name.endswith(self.behind)) or end < len(self.before):
            return
        core = name[len(self.before) : end]
        at = core.find(self.between)
        while at >= 0:
            owner = core[at + len(self.between) :] if self.star_first else core[:at]
            if owner:
                yield f"{folder}{slash}{owner}"
            at = core.find(self.between, at + 1) if at < len(core) else -1


def _by_stem(keys: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[stem(key)].append(key)
    return found


def _of_one_kind(candidates: list[str], key: str) -> list[str]:
    """Return those with the extension of ``key``, where there are such; all without."""
    extension = key[len(stem(key)) :]
    return [candidate for candidate in candidates if candidate[len(stem(candidate)) :] == extension] or candidates


def _partners(
    chosen: Sequence[str], gt: Storage, lq: Storage, template: _Template, all_wanted: bool, problems: list[str]
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of one and one; who has no partner is a problem, on the other side only if all are wanted."""
    by_stem = _by_stem(lq.keys())
    taken = set()
    for key in chosen:
        wanted = template.fill(key)
        found = by_stem.get(wanted, [])
        same = _of_one_kind(found, key) if len(found) > 1 else found
        if len(same) == 1:
            taken.add(same[0])
            yield key, same[0]
        elif found:
            problems.append(
                f"{gt.path(key)}: more than one partner, {', '.join(lq.path(candidate) for candidate in found)}"
            )
        else:
            problems.append(f"{gt.path(key)}: no partner {lq.path(wanted)} (of any extension)")
    if all_wanted:
        ambiguous = {candidate for group in by_stem.values() if len(group) > 1 for candidate in group}
        single = sorted(set().union(*by_stem.values()) - taken - ambiguous) if by_stem else []
        problems += [f"{lq.path(key)}: no ground truth belongs to it" for key in single]


def _groups(
    chosen: Sequence[str], gt: Storage, lq: Storage, template: _Template, all_wanted: bool, problems: list[str]
) -> Iterator[tuple[str, str]]:
    """Yield the pairs of one and many, the degraded images of a ground truth together; faults as for ``_partners``."""
    by_stem = _by_stem(gt.keys())
    groups: dict[str, list[str]] = {key: [] for key in chosen}
    names: dict[str, str] = {}
    for key in lq.keys():  # noqa: SIM118 (a storage is no mapping)
        found = [owner for name in template.owners(key) for owner in by_stem.get(name, ())]
        same = _of_one_kind(found, key) if len(found) > 1 else found
        if not found and all_wanted:
            problems.append(f"{lq.path(key)}: no ground truth belongs to it")
        if len(same) > 1:
            problems.append(
                f"{lq.path(key)}: more than one ground truth, {', '.join(gt.path(candidate) for candidate in found)}"
            )
        elif same and same[0] in groups:
            other = names.setdefault(stem(key), key)
            if other != key:
                problems.append(f"{lq.path(key)}: has the name of {lq.path(other)}")
            groups[same[0]].append(key)
    for key, group in groups.items():
        if not group:
            problems.append(f"{gt.path(key)}: no partner {lq.path(template.fill(key))} (of any extension)")
        yield from ((key, partner) for partner in group)


def _info(storage: Storage, key: str, problems: list[str]) -> ImageInfo | None:
    try:
        return storage.info(key)
    except DataError as error:
        problems.append(f"{storage.path(key)}: {error}")
        return None


def _size(info: ImageInfo) -> str:
    return f"{info.width}×{info.height} pixels"


def _fit(gt: ImageInfo, lq: ImageInfo, scale: int, gt_crop: GtCrop | None) -> str | None:
    if not (lq.height and lq.width):
        return f"{_size(gt)}, less than one pixel at scale {scale}"
    have, need = (gt.height // scale, gt.width // scale), (lq.height, lq.width)
    if gt_crop == "center":
        if have[0] < need[0] or have[1] < need[1]:
            return (
                f"{_size(gt)}, its degraded image {lq.width}×{lq.height}; at scale {scale} with gt_crop it should be "
                f"{lq.width * scale}×{lq.height * scale} or more"
            )
    elif have != need:
        hint = ""
        if have[0] >= need[0] and have[1] >= need[1]:
            hint = " (gt_crop: center takes the middle of a larger ground truth)"
        return (
            f"{_size(gt)}, its degraded image {lq.width}×{lq.height}; at scale {scale} that should be "
            f"{have[1]}×{have[0]}{hint}"
        )
    return None


def _corner(gt: ImageInfo, lq: ImageInfo, scale: int) -> tuple[int, int]:
    """Return where the middle of a ground truth begins, by torchvision's rule (halves go to the even number)."""
    return max(0, round((gt.height - lq.height * scale) / 2)), max(0, round((gt.width - lq.width * scale) / 2))
