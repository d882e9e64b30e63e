"""Pair the images of two storages and check their headers before a training starts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from mcir.checks import check_argument, check_at_least, check_choice
from mcir.data.codec import ImageInfo
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.matching import FilenameTemplate, match_names
from mcir.data.storage import Headers, comparable, read_info
from mcir.errors import ArgumentError
from mcir.paths import file_problem

_LOG = logging.getLogger("mcir")

_LONGEST_LIST = 2**28  # bytes of a meta-info file

GtCrop: TypeAlias = Literal["center"]
"""Part of a ground truth to which a smaller degraded image corresponds."""

Small: TypeAlias = Literal["error", "skip", "pad"]
"""Handling of images that are smaller than the crop."""


@dataclass(frozen=True, kw_only=True)
class PairRules:
    """The names and sizes that the images of a pair must have.

    Attributes:
        scale: size of a ground truth / size of its degraded image. A remainder of less than ``scale`` pixels at the
            bottom and right of a ground truth is not used.
        gt_size: side of the crops of ground truths, a multiple of ``scale``; None: full images are used.
        filename_tmpl: name of a degraded image without extension; ``{}`` is the name of its ground truth. A ``*``
            matches any characters; then a ground truth may have several degraded images: ``'{}_*'``.
        gt_crop: "center": a ground truth may be larger than its degraded image, which corresponds to its centre.
        small: handling of pairs that are smaller than the crop: "error" reports them, "skip" skips them, "pad" keeps
            them.
        size_argument: name of the constructor argument that sets ``gt_size``.

    Raises:
        ArgumentError: an argument is out of range.
    """

    scale: int = 1
    gt_size: int | None = None
    filename_tmpl: str = "{}"
    gt_crop: GtCrop | None = None
    small: Small = "error"
    size_argument: str = "gt_size"
    template: FilenameTemplate = field(init=False)

    def __post_init__(self) -> None:
        size = self.gt_size
        check_at_least(1, scale=self.scale)
        if size is not None and (size < self.scale or size % self.scale):
            smaller = size // self.scale * self.scale
            near = " or ".join(str(side) for side in (smaller, smaller + self.scale) if side > 0)
            expected = f"a multiple of the scale, {self.scale}, like {near}" if self.scale > 1 else "a positive integer"
            raise ArgumentError(self.size_argument, f"expected {expected}, got {size}.")
        check_argument("gt_crop", self.gt_crop, self.gt_crop in (None, "center"), "'center' or null")
        check_choice("small", self.small, get_args(Small))
        object.__setattr__(self, "template", FilenameTemplate(self.filename_tmpl))


class Pair(NamedTuple):
    """A ground truth and its degraded image.

    Attributes:
        gt: key of the ground truth.
        lq: key of the degraded image; None if it is made from the ground truth.
        height: height of the degraded image.
        width: width of the degraded image.
        top: number of ground-truth rows above the part that corresponds to the degraded image.
        left: number of ground-truth columns to the left of this part.
    """

    gt: str
    lq: str | None
    height: int
    width: int
    top: int = 0
    left: int = 0


class CheckedPairs(NamedTuple):
    """Pairs that satisfy the rules.

    Attributes:
        pairs: pairs, ordered by ground truth, then by degraded image.
        gt_bits: maximum bits per sample of the ground truths.
        lq_bits: maximum bits per sample of the degraded images.
        skipped: number of pairs that were skipped because they are smaller than the crop.
    """

    pairs: list[Pair]
    gt_bits: int
    lq_bits: int
    skipped: int = 0


def check_pairs(
    gt: Headers, lq: Headers | None, rules: PairRules, dataset: str, names: Sequence[str] | None = None
) -> CheckedPairs:
    """Return the pairs of two storages, or raise one error that lists all problems; log how many pairs are skipped.

    Args:
        gt: ground truths.
        lq: degraded images; None if they are made from the ground truths.
        rules: names and sizes of a pair.
        dataset: name of the data set, for the message.
        names: keys of the ground truths to use; None: all.

    Raises:
        DataError: there are no images, or some are missing, unreadable, truncated, too small or of the wrong size.
    """
    checked, problems = examine_pairs(gt, lq, rules, names)
    raise_data_errors(problems, dataset)
    if checked.skipped and not checked.pairs:
        size = f"{rules.gt_size} ({rules.size_argument})"
        raise DataError(f"{dataset}: all {checked.skipped} images are smaller than the crop of {size}")
    if not checked.pairs:
        raise DataError(f"{dataset}: no images in {gt.path('')}")
    if checked.skipped:
        _LOG.info(
            "%s: %d of %d images are smaller than %s %d and are skipped",
            dataset, checked.skipped, checked.skipped + len(checked.pairs), rules.size_argument, rules.gt_size,
        )  # fmt: skip
    return checked


def examine_pairs(
    gt: Headers, lq: Headers | None, rules: PairRules, names: Sequence[str] | None = None
) -> tuple[CheckedPairs, list[str]]:
    """Match the images of two storages, check each header once, and return the pairs and all problems.

    Args:
        gt: ground truths.
        lq: degraded images; None if they are made from the ground truths.
        rules: names and sizes of a pair.
        names: keys of the ground truths to use; None: all.
    """
    gt_keys = gt.keys()
    known = set(gt_keys)
    problems = [f"{gt.path(name)}: listed, but does not exist" for name in names or () if name not in known]
    keys = gt_keys if names is None else [name for name in names if name in known]
    matched: list[tuple[str, str | None]] = [(key, None) for key in keys]
    if lq is not None:
        found, unmatched = match_names(gt, lq, keys, rules.template, names is None)
        matched = [*found]
        problems += unmatched
    pairs, gt_bits, lq_bits, skipped = [], 8, 8, 0
    last_key, gt_info = "", None
    for gt_key, lq_key in matched:
        if gt_key != last_key:
            last_key, gt_info = gt_key, read_info(gt, gt_key, problems)
        if lq is None or lq_key is None:
            lq_info = gt_info and gt_info._replace(
                height=gt_info.height // rules.scale, width=gt_info.width // rules.scale
            )
        else:
            lq_info = read_info(lq, lq_key, problems)
        if gt_info is None or lq_info is None:
            continue
        problem = _size_problem(gt_info, lq_info, rules)
        if problem is None and min(lq_info.height, lq_info.width) * rules.scale < (rules.gt_size or 0):
            if rules.small == "skip":
                skipped += 1
                continue
            if rules.small == "error":
                problem = f"{_size(gt_info)}, smaller than the crop of {rules.gt_size} ({rules.size_argument})"
        if problem:
            path = gt.path(gt_key)
            if rules.template.has_star and lq is not None and lq_key is not None:
                path = lq.path(lq_key)
            problems.append(f"{path}: {problem}")
        corner = _corner(gt_info, lq_info, rules.scale) if rules.gt_crop == "center" else ()
        pairs.append(Pair(gt_key, lq_key, lq_info.height, lq_info.width, *corner))
        gt_bits, lq_bits = max(gt_bits, gt_info.bits), max(lq_bits, lq_info.bits)
    return CheckedPairs(pairs, gt_bits, lq_bits, skipped), problems


def read_names(path: str | Path, known: Sequence[str]) -> list[str]:
    """Read a meta-info file: one image name per line, with or without BasicSR's shape: ``0001_s001.png (480,480,3)``.

    Args:
        path: text file.
        known: names of existing images, which are needed for names with spaces. An unknown name ends at its first
            space.

    Raises:
        DataError: the file does not exist or is empty.
    """
    file = Path(path)
    if problem := file_problem(file, _LONGEST_LIST):
        raise DataError(f"{path}: {problem}", ("meta_info_file",))
    lines = os.fsdecode(file.read_bytes()).split("\n")
    by_name = {comparable(name): name for name in known} | {name: name for name in known}
    names = []
    for line in filter(None, map(str.strip, lines)):
        shapeless = re.sub(r"\s+\([\d,\s]*\).*$", "", line)
        found = filter(None, (by_name.get(text) or by_name.get(comparable(text)) for text in (line, shapeless)))
        names.append(next(found, line.split()[0]))
    if not names:
        raise DataError(f"{path}: contains no image name", ("meta_info_file",))
    return names


def _size(info: ImageInfo) -> str:
    return f"{info.width}×{info.height} pixels"


def _size_problem(gt: ImageInfo, lq: ImageInfo, rules: PairRules) -> str | None:
    """Return the problem of the sizes of a pair; None if they are valid."""
    scale = rules.scale
    if not (lq.height and lq.width):
        return f"{_size(gt)}, less than one pixel at scale {scale}"
    expected = gt.height // scale, gt.width // scale
    covers = expected[0] >= lq.height and expected[1] >= lq.width
    if rules.gt_crop is None and expected != (lq.height, lq.width):
        hint = "; gt_crop: center uses the centre of a larger ground truth" if covers else ""
        return (
            f"{_size(gt)}, its degraded image {lq.width}×{lq.height}; expected {expected[1]}×{expected[0]} at scale "
            f"{scale}{hint}"
        )
    if rules.gt_crop is not None and not covers:
        return (
            f"{_size(gt)}, its degraded image {lq.width}×{lq.height}; expected a ground truth of at least "
            f"{lq.width * scale}×{lq.height * scale} at scale {scale} with gt_crop"
        )
    return None


def _corner(gt: ImageInfo, lq: ImageInfo, scale: int) -> tuple[int, int]:
    """Return the top left corner of the centre of a ground truth, rounded as torchvision does (half to even)."""
    return max(0, round((gt.height - lq.height * scale) / 2)), max(0, round((gt.width - lq.width * scale) / 2))
