"""What is given to a reproduction instead of what comes along: one's own images, and trained weights of features."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mcir.data.lmdb_store import LmdbStore
from mcir.data.storage import open_storage


def held_out_lists(folder: Path, results: Path) -> dict[str, Path]:
    """Write which images of a folder are trained on and which, every fifth, are held out; return both lists.

    The names of the lists tell images apart as :func:`facts_of` does: of other images, runs are other runs.

    Args:
        folder: of the images, or a data base.
        results: where the lists go.

    Returns:
        The lists ``train`` and ``val``, as ``meta_info_file`` takes them.

    Raises:
        ValueError: there are fewer than two images.
    """
    names = sorted(open_storage(str(folder)).keys())
    if len(names) < 2:
        raise ValueError(f"{folder}: a small reproduction needs images to train on and others to test on.")
    held_out = set(names[::5])
    lists = {"train": [name for name in names if name not in held_out], "val": sorted(held_out)}
    digest = hashlib.sha256("\n".join(facts_of(folder)).encode()).hexdigest()[:8]
    results.mkdir(parents=True, exist_ok=True)
    files = {}
    for key, chosen in lists.items():
        files[key] = results / f"images_{key}_{digest}.txt"
        files[key].write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return files


def facts_of(folder: Path) -> list[str]:
    """Return what tells images from others, a line each: name and size, and of a data base its size and time.

    Raises:
        DataError: there is no such folder or data base.
    """
    storage = open_storage(str(folder))
    files = [(name, storage.root / name) for name in sorted(storage.keys())]
    facts = [f"{name} {file.stat().st_size if file.is_file() else ''}" for name, file in files]
    if isinstance(storage, LmdbStore):
        of_file = (storage.root / "data.mdb").stat()
        facts.append(f"{of_file.st_size} {of_file.st_mtime_ns}")
    return facts


def digest_of(weights: str, option: str) -> str:
    """Return a digest of a file of weights, or nothing for those that have a name.

    Args:
        weights: ``random``, ``imagenet`` or a file.
        option: of the command, that gave them.

    Raises:
        ValueError: there is no such file.
    """
    if weights in ("random", "imagenet"):
        return ""
    if not Path(weights).is_file():
        raise ValueError(f"{option} is random, imagenet or a file of weights: there is no file {weights}.")
    with Path(weights).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]
