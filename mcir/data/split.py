"""Split a data set or select a subset by the names of its images only, so that results are reproducible."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mcir.atomic import write_atomically
from mcir.checks import check_argument
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.prepare import Prepared, check_target
from mcir.data.storage import open_storage, stem


def shuffled(names: Sequence[str], seed: int) -> list[int]:
    """Return the indices of names in a pseudorandom order: sorted by the SHA-256 of ``seed:name``.

    This order never changes, while the numbers of random generators may change between versions of a library. Names
    that two sets have in common have the same order in both.
    """
    digests = [hashlib.sha256(os.fsencode(f"{seed}:{name}")).digest() for name in names]
    return sorted(range(len(names)), key=lambda index: (digests[index], names[index], index))


def select_subset(names: Sequence[str], max_images: int, subset_seed: int) -> list[int]:
    """Return the indices of the first ``max_images`` names of ``shuffled``, in ascending order.

    With the same seed a smaller subset is part of a larger one.

    Raises:
        ArgumentError: the number is not positive or larger than the number of names.
    """
    is_valid = 1 <= max_images <= len(names)
    check_argument("max_images", max_images, is_valid, f"1 … {len(names)}, the number of images")
    return sorted(shuffled(names, subset_seed)[:max_images])


def create_split(
    source: str | Path,
    target: str | Path,
    train: float | None = None,
    val: float = 0,
    test: float = 0,
    seed: int = 0,
    folders: bool = False,
) -> Prepared:
    """Write disjoint lists of images, ``train.txt``, ``val.txt`` and ``test.txt``, for ``meta_info_file``.

    The names (without extension) are ordered by ``shuffled``. Training images are taken from the start of this order,
    test images from its end, and validation images just before the test images. So for the same images and seed, a
    shorter training or test list is part of a longer one, and does not depend on the lengths of the other lists. The
    names in a list are sorted.

    Args:
        source: folder or database of the images.
        target: folder of the lists; existing lists must have the same content.
        train: number of images ≥ 1, or fraction of all images in (0, 1); None: all remaining images.
        val: number or fraction of images.
        test: number or fraction of images.
        seed: seed of the order.
        folders: whether to keep the images of a folder in one list, for example those of one building; then numbers
            and fractions refer to folders.

    Raises:
        DataError: there are too few images, the training list is empty, or the target has other lists. Nothing is
            written then.
    """
    images, out = open_storage(source), Path(target)
    check_target(source, target)
    names = images.keys()
    if not names:
        raise DataError(f"{source}: no images")
    unusable = [f"{name!r}: a list has one name per line" for name in names if "\n" in name or name != name.strip()]
    raise_data_errors(unusable, f"{source}: names with line breaks, or with spaces at their ends")
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition("/")[0] if folders else stem(name), []).append(name)
    known = sorted(groups)
    order = [known[index] for index in shuffled(known, seed)]
    parts = _cut(order, train, val, test, f"{'folders' if folders else 'images'} in {source}")
    lists = {
        out / f"{kind}.txt": os.fsencode("".join(f"{name}\n" for group in sorted(part) for name in groups[group]))
        for kind, part in parts.items()
    }
    existing = [path for path in lists if path.exists()]
    problems = [path for path in existing if not lists[path] or path.read_bytes() != lists[path]]
    raise_data_errors([f"{path}: differs; remove it or choose another target" for path in problems], "split")
    new = [path for path in lists if lists[path] and path not in existing]
    for path in new:
        write_atomically(path, lists[path])
    return Prepared(len(names), len(new), len(existing))


def _cut(
    order: Sequence[str], train: float | None, val: float, test: float, available: str
) -> dict[str, Sequence[str]]:
    """Divide the names into the three lists."""
    total = len(order)
    n_test, n_val = _count("test", test, total), _count("val", val, total)
    n_train = total - n_test - n_val if train is None else _count("train", train, total)
    if n_train < 1 or n_train + n_val + n_test > total:
        sizes = f"{n_train} for training, {n_val} for validation and {n_test} for testing"
        raise DataError(f"split: expected {sizes}, at least 1 for training, got {total} {available}")
    val_start, test_start = total - n_test - n_val, total - n_test
    return {"train": order[:n_train], "val": order[val_start:test_start], "test": order[test_start:]}


def _count(kind: str, part: float, total: int) -> int:
    """Return the number of images in a list, from a number or a fraction."""
    count = round(part * total) if 0 < part < 1 else part
    if part < 0 or not float(count).is_integer() or (part and not count):
        raise DataError(f"split: {kind}: expected an integer, or a fraction in (0, 1) of {total} images, got {part:g}")
    return int(count)
