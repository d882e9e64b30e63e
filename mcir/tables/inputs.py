"""Image lists for the user's own images, and digests of images and weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mcir.atomic import write_atomically
from mcir.data.lmdb_store import LmdbStore
from mcir.data.storage import open_storage


def held_out_lists(folder: Path, results: Path) -> dict[str, Path]:
    """Write the lists ``train`` and ``val`` of the images of a folder, and return their files.

    Every fifth image is in ``val``. The names of the lists contain a digest of the images, so other images lead to
    other fingerprints.

    Raises:
        ValueError: there are fewer than two images.
    """
    names = sorted(open_storage(str(folder)).keys())
    if len(names) < 2:
        raise ValueError(f"{folder}: expected at least two images, for training and for testing, got {len(names)}.")
    held_out = set(names[::5])
    lists = {"train": [name for name in names if name not in held_out], "val": sorted(held_out)}
    digest = hashlib.sha256("\n".join(image_facts(folder)).encode()).hexdigest()[:8]
    files = {}
    for key, chosen in lists.items():
        files[key] = results / f"images_{key}_{digest}.txt"
        write_atomically(files[key], ("\n".join(chosen) + "\n").encode())
    return files


def image_facts(folder: Path) -> list[str]:
    """Return lines that identify the images: names and file sizes; for an LMDB, its size and modification time."""
    storage = open_storage(str(folder))
    files = [(name, storage.root / name) for name in sorted(storage.keys())]
    facts = [f"{name} {file.stat().st_size if file.is_file() else ''}" for name, file in files]
    if isinstance(storage, LmdbStore):
        stat = (storage.root / "data.mdb").stat()
        facts.append(f"{stat.st_size} {stat.st_mtime_ns}")
    return facts


def weights_digest(weights: str, flag: str) -> str:
    """Return a digest of a weight file, or an empty string for ``random`` and ``imagenet``.

    Raises:
        ValueError: there is no such file; the message starts with ``flag``.
    """
    if weights in ("random", "imagenet"):
        return ""
    if not Path(weights).is_file():
        raise ValueError(f"{flag}: expected random, imagenet or a weight file; there is no file {weights}.")
    return hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
