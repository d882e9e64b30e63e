"""Lists that split a data set, for sets whose split nobody published: who has the same images gets the same lists."""

from __future__ import annotations

from pathlib import Path

from mcir.atomic import write_atomically
from mcir.data.errors import DataError, raise_data_errors
from mcir.data.prepare import Prepared, require_apart
from mcir.data.storage import open_storage, stem
from mcir.data.subset import shuffled


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

    The rule knows nothing but the names: they are shuffled by the SHA-256 of ``seed:name`` (without extension).
    Training takes from the beginning of that order, testing from the end, and validation what comes before testing.
    So of the same images and seed a shorter training or test list lies in a longer one, and neither changes with the
    length of the others. Within a list names are sorted.

    Args:
        source: the images, a folder or data base.
        target: folder of the lists; those that are there already must say the same.
        train: a number of images from 1 on, or a share of all in (0, 1); all that are left without.
        val: the same; none without.
        test: the same.
        seed: of the order.
        folders: the images of a folder stay together, those of one building for example; then numbers and shares are of
            folders.

    Raises:
        DataError: no images, not enough of them, an empty list, or other lists at the target; nothing was written then.
    """
    images, out = open_storage(source), Path(target).expanduser()
    require_apart(source, target)
    names = images.keys()
    if not names:
        raise DataError(f"{source}: no images")
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition("/")[0] if folders else stem(name), []).append(name)
    known = sorted(groups)
    order = [known[index] for index in shuffled(known, seed)]
    of_test, of_val = (_count(kind, part, len(order)) for kind, part in (("test", test), ("val", val)))
    of_train = len(order) - of_test - of_val if train is None else _count("train", train, len(order))
    unit = "folders" if folders else "images"
    if of_train < 1 or of_train + of_val + of_test > len(order):
        raise DataError(
            f"split: {of_train} {unit} for training, {of_val} for validation and {of_test} for testing; there are "
            f"{len(order)} in {source}"
        )
    rest = len(order) - of_test
    parts = {"train": order[:of_train], "val": order[rest - of_val : rest], "test": order[rest:]}
    lists = {
        out / f"{kind}.txt": "".join(f"{name}\n" for group in sorted(part) for name in groups[group]).encode()
        for kind, part in parts.items()
        if part
    }
    others = {out / f"{kind}.txt" for kind in parts} - lists.keys()
    there = [path for path in (*lists, *others) if path.exists()]
    raise_data_errors(
        [
            f"{path}: is another list; remove it or name another target"
            for path in there
            if path in others or path.read_bytes() != lists[path]
        ],
        "split",
    )
    for path in lists.keys() - set(there):
        write_atomically(path, lists[path])
    return Prepared(len(names), len(lists) - len(there), len(there))


def _count(kind: str, part: float, total: int) -> int:
    """Return the number that a number or a share stands for."""
    count = round(part * total) if 0 < part < 1 else part
    if part < 0 or not float(count).is_integer() or (part and not count):
        raise DataError(
            f"split: {kind} is {part:g}; of {total} it must be a whole number, or a share in (0, 1) that gives one."
        )
    return int(count)
