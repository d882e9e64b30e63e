"""What pictures should look like, found beside them by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mcir.data.codec import EXTENSIONS
from mcir.data.errors import DataError
from mcir.data.storage import Folder, stem
from mcir.inference.batch.jobs import Job
from mcir.inference.batch.search import Tell

_SCALE = re.compile(r"x\d$")


class GroundTruths:
    """What pictures should look like, found by their names without ending.

    That of ``babyx2.png`` may also be called ``baby.png``, as in the usual copies of Set5 and the like.

    Args:
        folder: holds them in the same sub-folders as the pictures, or all in itself; for one picture also a file.

    Raises:
        DataError: there is no such folder, or no picture in it.

    Attributes:
        files: all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.expanduser()
        self._single = self.root if self.root.is_file() else None
        keys = [] if self._single else Folder(self.root).keys()
        if not keys and not self._single:
            raise DataError(f"{self.root}: no picture found; looked for {', '.join(sorted(EXTENSIONS))}")
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            self._by_stem[stem(key)].append(key)
        self.files = [self._single] if self._single else [self.root / key for key in keys]

    def of(self, jobs: Sequence[Job], tell: Tell) -> dict[Job, Path]:
        """Return the ground truth of each picture that has one.

        Args:
            jobs: the pictures.
            tell: told of those without one, or with several.

        Raises:
            DataError: none has one, or a file is given for several pictures.
        """
        if self._single:
            if len(jobs) != 1:
                raise DataError(f"{self.root}: is one ground truth for {len(jobs)} pictures; name a folder")
            return {jobs[0]: self._single}
        found, faults = {}, []
        for job in jobs:
            keys = self._called(stem(job.name)) or self._called(_SCALE.sub("", stem(job.name)))
            same = [key for key in keys if Path(key).suffix == job.source.suffix] or keys
            if len(same) == 1:
                found[job] = self.root / same[0]
            elif same:
                faults.append((str(job.source), f"several ground truths, {', '.join(sorted(same))}"))
            else:
                faults.append((str(job.source), f"no ground truth {self.root / stem(job.name)} (of any ending)"))
        if not found:
            raise DataError(f"{self.root}: none of {len(jobs)} pictures has a ground truth; {': '.join(faults[0])}")
        for fault in faults:
            tell(*fault)
        return found

    def _called(self, name: str) -> list[str]:
        return self._by_stem.get(name) or self._by_stem.get(name.rpartition("/")[2], [])
