"""Small pictures of the images that a training is watched by, kept each time it is evaluated.

``progress/<set>/<name>/`` in the folder of a run holds ``input.jpg``, ``gt.jpg`` and ``<iteration>.jpg``: the middle of
the image, at most 384 pixels high and wide, as JPEG without chroma subsampling, some 40 dB from what went in.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mode

import cv2
from PIL import Image

from mcir.report.comparison import Picture, columns, place_of

FOLDER = "progress"
_SIDE = 384
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_TIMES = 40
_GIVEN, _GT = "input", "gt"
_END = b"\xff\xd9"  # of a JPEG
_NAMED = 6


@dataclass
class Progress:
    """The files of one image: what went in, what was wanted, and by iteration what came out; all of one size.

    Without the first two, ``None``, the outputs are still worth seeing.
    """

    size: tuple[int, int]
    given: Path | None
    gt: Path | None
    outputs: dict[int, Path] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The bytes of the largest of its files."""
        return max(file.stat().st_size for file in (self.given, self.gt, *self.outputs.values()) if file)


def keep(run: Path, data_set: str, name: str, iteration: int, compared: Picture) -> None:
    """Keep of a picture that :func:`~mcir.report.comparison.comparison` made what the report of the run shows.

    Of an image at most forty outputs stay, as evenly as they come.

    Raises:
        ValueError: the name leads out of the folder.
        OSError: a file cannot be written.
    """
    folder = place_of(run / FOLDER / data_set, name)
    folder.mkdir(parents=True, exist_ok=True)
    given, output, gt, _ = columns(compared)
    for stem, picture in ((_GIVEN, given), (_GT, gt), (str(iteration), output)):
        file = folder / f"{stem}.jpg"
        if picture is output or not file.exists():
            encoded, data = cv2.imencode(".jpg", _middle(picture)[:, :, ::-1], _QUALITY)
            assert encoded
            temporary = file.with_suffix(".part")
            temporary.write_bytes(data.tobytes())
            temporary.replace(file)
    outputs = _outputs(folder)
    for gone in outputs.keys() - set(evenly(sorted(outputs), _TIMES)):
        outputs[gone].unlink()


def forget_later(run: Path, iteration: int) -> None:
    """Remove the outputs of iterations that a resumed run makes again."""
    for folder in _folders(run):
        for later, file in _outputs(folder).items():
            if later > iteration:
                file.unlink()


def read(run: Path) -> tuple[dict[str, dict[str, Progress]], list[str]]:
    """Return what was kept of a run, by set and name, as far as it is whole.

    And in words which pictures are not there or of no use; of many the first are named.
    """
    found: dict[str, dict[str, Progress]] = {}
    lacking: dict[str, list[str]] = {}
    for folder in _folders(run):
        size, problems = _examined(folder)
        for file, problem in problems.items():
            lacking.setdefault(problem, []).append(file.relative_to(run).as_posix())
        outputs = {at: file for at, file in _outputs(folder).items() if file not in problems}
        if outputs:
            given, gt = (None if file in problems else file for file in _beside(folder))
            data_set, *name = folder.relative_to(run / FOLDER).parts
            found.setdefault(data_set, {})["/".join(name)] = Progress(size, given, gt, outputs)
    return found, [
        f"{', '.join(files[:_NAMED])}{f' and {len(files) - _NAMED} more' * (len(files) > _NAMED)}: {problem}."
        for problem, files in lacking.items()
    ]


def evenly(iterations: list[int], number: int) -> list[int]:
    """Return at most so many of ascending iterations, but the first and the last, as evenly as can be."""
    kept = list(iterations)
    while len(kept) > max(number, 2):
        inner = range(1, len(kept) - 1)
        del kept[min(inner, key=lambda at: kept[at + 1] - kept[at - 1])]
    return kept


def _folders(run: Path) -> list[Path]:
    """Return where pictures of an image are."""
    return sorted({file.parent for file in (run / FOLDER).glob("*/*/**/*.jpg")})


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder / f"{_GIVEN}.jpg", folder / f"{_GT}.jpg"


def _examined(folder: Path) -> tuple[tuple[int, int], dict[Path, str]]:
    """Return the size that most pictures of an image have, and what is wrong with the others."""
    files = [*_beside(folder), *(_outputs(folder).values() or [folder / "<iteration>.jpg"])]
    sizes = {file: size for file in files if (size := _size(file))}
    usual = mode(sizes.values()) if sizes else (0, 0)
    problems = {}
    for file in files:
        if file not in sizes:
            problems[file] = "cannot be read" if file.exists() else "not there"
        elif sizes[file] != usual:
            problems[file] = "of another size than the pictures beside"
    return usual, problems


def _outputs(folder: Path) -> dict[int, Path]:
    files = (file for file in folder.glob("*.jpg") if file.stem.isdecimal())
    return dict(sorted((int(file.stem), file) for file in files))


def _size(file: Path) -> tuple[int, int] | None:
    """Return height and width of a JPEG as its header has them, if it can be read and goes on to its end."""
    try:
        with file.open("rb") as data, Image.open(data, formats=["JPEG"]) as image:
            data.seek(-len(_END), os.SEEK_END)
            return (image.height, image.width) if data.read() == _END else None
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _middle(picture: Picture) -> Picture:
    top, left = (max(0, length - _SIDE) // 2 for length in picture.shape[:2])
    return picture[top : top + _SIDE, left : left + _SIDE]
