"""Write the bundled photographs as image files, so that every command can be tried without own images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mcir.atomic import write_atomically
from mcir.data.bundled import TRAIN, VAL, photographs
from mcir.data.codec import Array, encode_png
from mcir.data.degradations import build_degradation
from mcir.data.degraded import as_tensor
from mcir.data.errors import raise_data_errors
from mcir.data.prepare import Prepared
from mcir.new.tasks import TASKS, TaskName
from mcir.paths import file_problem


def write_photographs(folder: Path, degraded: Mapping[TaskName, Path] | None = None) -> Prepared:
    """Write the ten photographs of scikit-image as PNG files, and degraded versions with the same names.

    The files are the same on every machine. Existing files are kept.

    Args:
        folder: folder of the photographs.
        degraded: folders of the degraded versions, by task. The degradations are those of ``mcir new``.

    Raises:
        DataError: the installed scikit-image lacks a photograph, or a file of the same name has another content.
            Nothing is written then.
    """
    images = photographs({**TRAIN, **VAL})
    files = {}
    for index, key in enumerate(images.keys()):
        image, name = images.read(key), f"{Path(key).stem}.png"
        files[folder / name] = encode_png(image)
        for task, target in (degraded or {}).items():
            files[target / name] = encode_png(_degrade(image, task, index))
    existing = [file for file in files if file.exists()]
    different = [file for file in existing if file_problem(file) or file.read_bytes() != files[file]]
    raise_data_errors([f"{file}: exists with another content" for file in different], "photographs")
    for file in files.keys() - existing:
        write_atomically(file, files[file])
    return Prepared(len(images.keys()), len(files) - len(existing), len(existing))


def _degrade(image: Array, task: TaskName, index: int) -> Array:
    degradation = build_degradation(TASKS[task].degradation, scale=1)
    result = degradation(as_tensor(image, bits=8), np.random.default_rng(index))
    return np.ascontiguousarray(result.permute(1, 2, 0).numpy())
