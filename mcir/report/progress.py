"""Small copies of the validation images, stored at each evaluation for the report.

The folder ``progress/<set>/<name>/`` of a run contains ``input.jpg``, ``gt.jpg`` and ``<iteration>.jpg``: the centre of
each image, at most 384 pixels high and wide, as JPEG without chroma subsampling (PSNR about 40 dB). A comment at the
start of a file contains the CRC-32 of the rest; files of earlier versions have none.
"""

from __future__ import annotations

import io
import itertools
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mode

import cv2
from PIL import Image

from mcir.atomic import write_atomically
from mcir.paths import file_problem_inside, path_inside
from mcir.report.comparison import Picture, columns

FOLDER = "progress"
_SIDE = 384
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_MAX_OUTPUTS = 40
_END_OF_JPEG = b"\xff\xd9"
_COMMENT = b"\xff\xfe\x00\x0a"  # of ten bytes: the size and eight digits
_MAX_LISTED = 6
_MAX_BYTES = 2**20  # of an image; mcir writes at most 0.4 MiB
_MAX_FOLDERS, _MAX_READ, _MAX_DIGITS = 10_000, 1000, 18


@dataclass
class ImageHistory:
    """The stored files of one image, all of one size.

    Attributes:
        size: height and width.
        input: the degraded image; None if it is missing.
        gt: the ground truth; None if it is missing.
        outputs: the restored images by iteration.
    """

    size: tuple[int, int]
    input: Path | None
    gt: Path | None
    outputs: dict[int, Path] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The size of the largest file in bytes."""
        return max(file.stat().st_size for file in (self.input, self.gt, *self.outputs.values()) if file)


def store_images(run: Path, data_set: str, name: str, iteration: int, compared: Picture) -> None:
    """Store the columns of a :func:`~mcir.report.comparison.comparison` for the report.

    At most forty outputs of an image are kept, evenly spaced.

    Raises:
        ValueError: the name leads out of the folder.
        OSError: a file cannot be written.
    """
    folder = path_inside(path_inside(run / FOLDER, data_set), name)
    degraded, output, gt, _ = columns(compared)
    for stem, image in (("input", degraded), ("gt", gt), (str(iteration), output)):
        file = folder / f"{stem}.jpg"
        if image is output or not file.exists():
            encoded, data = cv2.imencode(".jpg", _center(image)[:, :, ::-1], _QUALITY)
            assert encoded
            write_atomically(file, _with_checksum(data.tobytes()))
    outputs = _outputs(folder)
    for extra in outputs.keys() - set(evenly(sorted(outputs), _MAX_OUTPUTS)):
        outputs[extra].unlink()


def remove_after(run: Path, iteration: int) -> None:
    """Remove the outputs of iterations that a resumed run will repeat."""
    for folder in _folders(run):
        for later, file in _outputs(folder).items():
            if later > iteration:
                file.unlink()


def read_images(run: Path) -> tuple[dict[str, dict[str, ImageHistory]], list[str]]:
    """Return the stored images of a run by set and name, and descriptions of missing and damaged files."""
    found: dict[str, dict[str, ImageHistory]] = {}
    problems: dict[str, list[str]] = {}
    for folder in _folders(run):
        size, unusable = _inspect(run, folder)
        for file, problem in unusable.items():
            problems.setdefault(problem, []).append(file.relative_to(run).as_posix())
        outputs = {at: file for at, file in _outputs(folder).items() if file not in unusable}
        if outputs:
            degraded, gt = (None if file in unusable else file for file in _references(folder))
            data_set, *name = folder.relative_to(run / FOLDER).parts
            found.setdefault(data_set, {})["/".join(name)] = ImageHistory(size, degraded, gt, outputs)
    lines = []
    for problem, files in problems.items():
        others = f" and {len(files) - _MAX_LISTED} more" if len(files) > _MAX_LISTED else ""
        lines.append(f"{', '.join(files[:_MAX_LISTED])}{others}: {problem}.")
    return found, lines


def evenly(iterations: list[int], number: int) -> list[int]:
    """Return at most ``number`` evenly spaced iterations of an ascending list, with the first and the last."""
    kept = list(iterations)
    while len(kept) > max(number, 2):
        inner = range(1, len(kept) - 1)
        del kept[min(inner, key=lambda at: kept[at + 1] - kept[at - 1])]
    return kept


def _folders(run: Path) -> list[Path]:
    """Return the folders of the images of a run, sorted; links to other folders are not followed."""
    home = run / FOLDER
    visited = itertools.islice(os.walk(home), _MAX_FOLDERS)
    folders = (Path(folder) for folder, _, files in visited if any(file.endswith(".jpg") for file in files))
    return sorted(folder for folder in folders if len(folder.relative_to(home).parts) > 1)


def _references(folder: Path) -> tuple[Path, Path]:
    return folder / "input.jpg", folder / "gt.jpg"


def _inspect(run: Path, folder: Path) -> tuple[tuple[int, int], dict[Path, str]]:
    """Return the most frequent size of an image's files, and the problems of files by path."""
    files = [*_references(folder), *(_outputs(folder).values() or [folder / "<iteration>.jpg"])]
    problems = {file: problem for file in files if (problem := _problem(run, file))}
    sizes = {file: size for file in files if file not in problems and (size := _size(file))}
    usual = mode(sizes.values()) if sizes else (0, 0)
    for file in files:
        if file in sizes and sizes[file] != usual:
            problems[file] = "differs in size from the other images of its folder"
        elif file not in sizes:
            problems.setdefault(file, "cannot be read")
    return usual, problems


def _problem(run: Path, file: Path) -> str | None:
    return file_problem_inside(run, file, _MAX_BYTES) if os.path.lexists(file) else "missing"


def _outputs(folder: Path) -> dict[int, Path]:
    """Return the restored images by iteration; of more than a thousand, which mcir never stores, the last ones."""
    files = (file for file in folder.glob("*.jpg") if file.stem.isdecimal() and len(file.stem) <= _MAX_DIGITS)
    return dict(sorted((int(file.stem), file) for file in files)[-_MAX_READ:])


def _size(file: Path) -> tuple[int, int] | None:
    """Return height and width from the header of a complete JPEG file whose checksum is right, or None."""
    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            is_intact = data.endswith(_END_OF_JPEG) and not _differs_from_checksum(data)
            return (image.height, image.width) if is_intact else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _with_checksum(data: bytes) -> bytes:
    """Insert the checksum of a JPEG file as a comment behind its start."""
    start, rest = data[:2], data[2:]
    return b"%s%s%08x%s" % (start, _COMMENT, zlib.crc32(rest), rest)


def _differs_from_checksum(data: bytes) -> bool:
    start = 2 + len(_COMMENT)
    has_checksum = data[2:start] == _COMMENT
    return has_checksum and b"%08x" % zlib.crc32(data[start + 8 :]) != data[start : start + 8]


def _center(image: Picture) -> Picture:
    top, left = (max(0, length - _SIDE) // 2 for length in image.shape[:2])
    return image[top : top + _SIDE, left : left + _SIDE]
