"""Inspect a user's folders: which images can be used, and what is wrong with the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mcir.data.codec import ImageInfo
from mcir.data.errors import MAX_LISTED, DataError
from mcir.data.listing import describe_others, list_others
from mcir.data.matching import FilenameTemplate, match_names
from mcir.data.storage import Folder, open_storage, read_info

_MIN_SIDE = 32
_EXAMPLES = 3


@dataclass
class Inspected:
    """The readable images of a folder or database.

    Attributes:
        root: path as the user wrote it.
        infos: headers of the readable images, by key.
        problems: unreadable images, one line each.
        others: paths of the files that are not images.
    """

    root: str
    infos: dict[str, ImageInfo] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def keys(self) -> list[str]:
        """Return the keys of the readable images."""
        return list(self.infos)

    def info(self, key: str) -> ImageInfo:
        """Return the header of an image."""
        return self.infos[key]

    def path(self, key: str) -> str:
        """Return the name of an image in messages."""
        return f"{self.root.rstrip('/')}/{key}"

    def describe(self) -> str:
        """Return the number, sizes and types of the images in one line."""
        infos = self.infos.values()
        sizes = sorted((info.width * info.height, f"{info.width}×{info.height}") for info in infos)
        span = sizes[0][1] if sizes[0] == sizes[-1] else f"{sizes[0][1]} to {sizes[-1][1]}"
        types = Counter(os.path.splitext(key)[1].lower().lstrip(".") for key in self.infos)  # noqa: PTH122 (many)
        parts = [
            f"{counted(len(sizes), 'image')} of {span} pixels",
            ", ".join(f"{types[name]} {name}" for name in types),
        ]
        if all(info.channels == 1 for info in infos):
            parts.append("all grey")
        elif grey := sum(info.channels == 1 for info in infos):
            parts.append(f"{grey} grey")
        if deep := sum(info.bits == 16 for info in infos):
            parts.append("16 bits" if deep == len(sizes) else f"{deep} of 16 bits")
        return ", ".join(parts)


@dataclass(frozen=True)
class Usable:
    """The images that a training can use.

    Attributes:
        names: keys of the ground truths.
        sizes: (height, width) of the ground truths.
        filename_tmpl: name of a degraded image, for pairs.
        problems: images that are not used, one line each.
    """

    names: list[str]
    sizes: list[tuple[int, int]]
    filename_tmpl: str = "{}"
    problems: Sequence[str] = ()


def inspect_folder(root: str) -> Inspected:
    """Read the header of every image in a folder or database.

    Raises:
        DataError: the folder does not exist or cannot be read, or none of its files is a readable image.
    """
    storage = open_storage(root)
    found = Inspected(root)
    for key in storage.keys():  # noqa: SIM118 (not a mapping)
        info = read_info(storage, key, found.problems)
        if info is not None:
            found.infos[key] = info
    if isinstance(storage, Folder):
        found.others = list_others(storage.root)
    if not found.infos:
        other = f" It contains {describe_others(found.others)}." if found.others else ""
        unreadable = "".join(f"\n  {problem}" for problem in found.problems[:MAX_LISTED])
        raise DataError(f"{root}: there is no readable image (PNG, JPEG, TIFF, WebP, BMP, PPM).{other}{unreadable}")
    return found


def usable_images(gt: Inspected, scale: int) -> Usable:
    """Return the images that can be ground truths without degraded images.

    Raises:
        DataError: no image can be used.
    """
    names, problems = _listed(gt.keys(), gt)
    return _large_enough(gt, names, scale, "{}", problems)


def usable_pairs(gt: Inspected, lq: Inspected, scale: int | None) -> tuple[Usable, int]:
    """Return the pairs that a training can use, and their scale.

    Args:
        gt: ground truths.
        lq: degraded images.
        scale: size of a ground truth / size of its degraded image; None: that of the first pair.

    Raises:
        DataError: no pair can be used; the message names the likely mistake.
    """
    names, problems = _listed(gt.keys(), gt)
    template = _template(gt, lq, names)
    matched, unmatched = match_names(gt, lq, names, FilenameTemplate(template), all_used=True)
    if not matched:
        raise DataError(
            f"No image in {lq.root} has the name of an image in {gt.root}, such as {gt.keys()[0]} and {lq.keys()[0]}. "
            "The images of a pair must have the same name, except for the extension."
        )
    first_gt, first_lq = gt.info(matched[0][0]), lq.info(matched[0][1])
    ratio = max(1, round(first_gt.width / first_lq.width))
    _check_order(gt, lq, matched)
    scale = ratio if scale is None else scale
    wrong = {
        name: f"{gt.path(name)}: {_size(gt.info(name))}, its degraded image {_size(lq.info(other))}; expected "
        f"{'the same size' if scale == 1 else f'1/{scale} of the size'}"
        for name, other in matched
        if tuple(side // scale for side in gt.info(name)[:2]) != lq.info(other)[:2]
    }
    good = [name for name in dict.fromkeys(name for name, _ in matched) if name not in wrong]
    if not good:
        hint = f" The ground truths are {ratio} times as large: expected --scale {ratio}." if ratio != scale else ""
        examples = "\n  ".join(list(wrong.values())[:_EXAMPLES])
        raise DataError(f"No pair has the scale {scale}.{hint}\n  {examples}")
    return _large_enough(gt, good, scale, template, [*problems, *unmatched, *wrong.values()]), scale


def _listed(names: Sequence[str], found: Inspected) -> tuple[list[str], list[str]]:
    """Return the names that a list of names can contain, and a problem for each other name."""
    wrong = [name for name in names if "\n" in name or name != name.strip()]
    problems = [f"{found.path(name)}: expected a name without line breaks or spaces at its ends" for name in wrong]
    return [name for name in names if name not in set(wrong)], problems


def _large_enough(gt: Inspected, names: list[str], scale: int, template: str, problems: Sequence[str]) -> Usable:
    least = max(_MIN_SIDE, 16 * scale)
    small = {name for name in names if min(gt.info(name)[:2]) < least}
    too_small = [
        f"{gt.path(name)}: {_size(gt.info(name))}, expected at least {least} on each side"
        for name in names
        if name in small
    ]
    if len(small) == len(names):
        raise DataError(f"{gt.root}: expected images of at least {least}×{least} pixels, got {gt.describe()}.")
    kept = [name for name in names if name not in small]
    sizes = [(gt.info(name).height, gt.info(name).width) for name in kept]
    return Usable(kept, sizes, template, [*problems, *too_small])


def _template(gt: Inspected, lq: Inspected, names: Sequence[str]) -> str:
    """Return the naming rule that gives the most pairs: equal names, or ``0001x4``, ``0001_1`` for ``0001``."""
    ratio = max(1, round(next(iter(gt.infos.values())).width / next(iter(lq.infos.values())).width))
    templates = ["{}", f"{{}}x{ratio}", "{}_*"]
    return max(templates, key=lambda text: len({pair[0] for pair in _matches(gt, lq, names, text)}))


def _matches(gt: Inspected, lq: Inspected, names: Sequence[str], template: str) -> list[tuple[str, str]]:
    return match_names(gt, lq, names, FilenameTemplate(template), all_used=False)[0]


def _check_order(gt: Inspected, lq: Inspected, matched: Sequence[tuple[str, str]]) -> None:
    """Check that ground truths are not smaller than their degraded images, as in swapped folders."""
    if all(
        gt.info(name).width < lq.info(other).width and gt.info(name).height < lq.info(other).height
        for name, other in matched
    ):
        raise DataError(
            f"The degraded images in {lq.root} are larger than the ground truths in {gt.root}: "
            "expected --lq for the degraded images and --gt for the good ones. Swap the two folders."
        )


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, like ``2 images``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _size(info: ImageInfo) -> str:
    return f"{info.width}×{info.height} pixels"
