"""Small pictures of the images that a training is watched by, kept each time it is evaluated.

``progress/<set>/<name>/`` in the folder of a run holds ``input.jpg``, ``gt.jpg`` and ``<iteration>.jpg``: the middle of
the image, at most 384 pixels high and wide, as JPEG without chroma subsampling, some 40 dB from what went in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
from PIL import Image

from mcir.report.comparison import Picture, columns, place_of

FOLDER = "progress"
_SIDE = 384
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_TIMES = 40
_GIVEN, _GT = "input", "gt"


@dataclass
class Progress:
    """The files of one image: what went in, what was wanted, and by iteration what came out; all of one size."""

    size: tuple[int, int]
    given: Path
    gt: Path
    outputs: dict[int, Path] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The bytes of the largest of its files."""
        return max(file.stat().st_size for file in (self.given, self.gt, *self.outputs.values()))


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
    for given in (run / FOLDER).rglob(f"{_GIVEN}.jpg"):
        for later, file in _outputs(given.parent).items():
            if later > iteration:
                file.unlink()


def read(run: Path) -> dict[str, dict[str, Progress]]:
    """Return what was kept of a run, by set and name; what is damaged or not whole is passed over."""
    found: dict[str, dict[str, Progress]] = {}
    for given in sorted((run / FOLDER).rglob(f"{_GIVEN}.jpg")):
        size = _size(given)
        image = Progress(size, given, given.with_stem(_GT), _outputs(given.parent))
        image.outputs = {at: file for at, file in image.outputs.items() if _size(file) == size}
        data_set, *name = given.parent.relative_to(run / FOLDER).parts
        if min(size) and _size(image.gt) == size and image.outputs and name:
            found.setdefault(data_set, {})["/".join(name)] = image
    return found


def evenly(iterations: list[int], number: int) -> list[int]:
    """Return at most so many of ascending iterations, but the first and the last, as evenly as can be."""
    kept = list(iterations)
    while len(kept) > max(number, 2):
        inner = range(1, len(kept) - 1)
        del kept[min(inner, key=lambda at: kept[at + 1] - kept[at - 1])]
    return kept


def _outputs(folder: Path) -> dict[int, Path]:
    files = (file for file in folder.glob("*.jpg") if file.stem.isdecimal())
    return dict(sorted((int(file.stem), file) for file in files))


def _size(file: Path) -> tuple[int, int]:
    """Return height and width of a picture as its header has them; zeros if it cannot be read."""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, ValueError):
        return 0, 0


def _middle(picture: Picture) -> Picture:
    top, left = (max(0, length - _SIDE) // 2 for length in picture.shape[:2])
    return picture[top : top + _SIDE, left : left + _SIDE]
