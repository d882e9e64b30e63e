"""Find the ground truths of images by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mcir.data.codec import EXTENSIONS
from mcir.data.errors import DataError
from mcir.data.storage import Folder, stem
from mcir.inference.batch.jobs import Job
from mcir.inference.batch.search import Report


def find_ground_truths(path: Path) -> list[Path]:
    """Return all images in a folder of ground truths, or the path of a single ground truth.

    Raises:
        DataError: the folder does not exist or contains no image.
    """
    if path.is_file():
        return [path]
    keys = Folder(path).keys()
    if not keys:
        raise DataError(f"{path}: no image found; searched for {', '.join(sorted(EXTENSIONS))}")
    return [path / key for key in keys]


def match_ground_truths(jobs: Sequence[Job], path: Path, files: Sequence[Path], report: Report) -> dict[Job, Path]:
    """Return the ground truth of each image that has one.

    A ground truth has the name of its image, with any extension, in the same subfolder or in the folder itself. The
    ground truth of ``babyx2.png`` may also be called ``baby.png``, as in common copies of Set5.

    Args:
        jobs: images to restore.
        path: folder of the ground truths; for a single image also a file.
        files: all ground truths.
        report: called for images without a ground truth, or with several.

    Raises:
        DataError: no image has a ground truth, or there is one file for several images.
    """
    if path.is_file():
        if len(jobs) != 1:
            raise DataError(f"{path}: expected a folder for {len(jobs)} images, got one ground truth")
        return {jobs[0]: path}
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_stem[stem(file.relative_to(path).as_posix())].append(file)
    found, problems = {}, []
    for job in jobs:
        name = stem(job.name)
        candidates = [part for full in (name, re.sub(r"x\d$", "", name)) for part in (full, full.rpartition("/")[2])]
        named = next((by_stem[candidate] for candidate in candidates if candidate in by_stem), [])
        named = [file for file in named if file.suffix == job.source.suffix] or named
        if len(named) == 1:
            found[job] = named[0]
        elif named:
            problems.append((str(job.source), f"several ground truths: {', '.join(map(str, sorted(named)))}"))
        else:
            problems.append((str(job.source), f"no ground truth {path / name} with any extension"))
    if not found:
        raise DataError(f"{path}: none of {len(jobs)} images has a ground truth; {': '.join(problems[0])}")
    for problem in problems:
        report(*problem)
    return found
