"""Find ground truths by the names of the images."""

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


class GroundTruths:
    """Ground truths of images, found by their names without extension.

    The ground truth of ``babyx2.png`` may also be called ``baby.png``, as in common copies of Set5.

    Args:
        folder: folder with the same sub-folders as the images, or with all ground truths; for one image also a file.

    Attributes:
        files: all ground truths.

    Raises:
        DataError: there is no such folder, or no image in it.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.expanduser()
        self._is_file = self.root.is_file()
        keys = [""] if self._is_file else Folder(self.root).keys()
        self.files = [self.root / key for key in keys]
        if not self.files:
            raise DataError(f"{self.root}: no image found; searched for {', '.join(sorted(EXTENSIONS))}")

    def match(self, jobs: Sequence[Job], report: Report) -> dict[Job, Path]:
        """Return the ground truth of each image that has one.

        Args:
            jobs: images.
            report: called for images without a ground truth, or with several.

        Raises:
            DataError: no image has a ground truth, or there is one file for several images.
        """
        if self._is_file:
            if len(jobs) != 1:
                raise DataError(f"{self.root}: one ground truth for {len(jobs)} images; name a folder")
            return {jobs[0]: self.root}
        by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            by_stem[stem(file.relative_to(self.root).as_posix())].append(file)
        found, problems = {}, []
        for job in jobs:
            name = stem(job.name)
            names = [form for one in (name, re.sub(r"x\d$", "", name)) for form in (one, one.rpartition("/")[2])]
            files = next((by_stem[one] for one in names if one in by_stem), [])
            same = [file for file in files if file.suffix == job.source.suffix] or files
            if len(same) == 1:
                found[job] = same[0]
            elif same:
                problems.append((str(job.source), f"several ground truths: {', '.join(map(str, sorted(same)))}"))
            else:
                problems.append((str(job.source), f"no ground truth {self.root / name} with any extension"))
        if not found:
            raise DataError(f"{self.root}: none of {len(jobs)} images has a ground truth; {': '.join(problems[0])}")
        for problem in problems:
            report(*problem)
        return found
