"""Read image files with their alpha channel and metadata."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mcir.data.errors import DataError
from mcir.data.reader import EncodedImage, decoder_errors
from mcir.inference.images.image import Picture, PictureError
from mcir.paths import file_problem


class PictureInfo(NamedTuple):
    """Size and type of the :class:`Picture` in a file; ``channels`` does not include alpha."""

    height: int
    width: int
    channels: int
    bits: int
    has_alpha: bool


def probe_picture(path: str | Path) -> PictureInfo:
    """Return the size and type of an image from the header of its file.

    Raises:
        PictureError: the file cannot be read as an image; damage after the header is not always detected.
    """
    with _open_image(Path(path)) as file:
        return PictureInfo(*file.info, file.has_alpha)


def read_picture(path: str | Path) -> Picture:
    """Read an image file.

    Raises:
        PictureError: the file is missing, empty, truncated, damaged or not an image, has several pages, has samples
            other than integers of at most 8 or of 16 bits, or is too large.
    """
    with _open_image(Path(path)) as file:
        return Picture(*file.decode(), icc=file.icc, exif=file.exif, format=file.format)


@contextmanager
def _open_image(path: Path) -> Iterator[EncodedImage]:
    """Open a file and read its header; convert any error in the context to a ``PictureError`` that names the file."""
    if problem := file_problem(path):
        raise PictureError(path, f"{problem}.")
    try:
        with decoder_errors(), path.open("rb") as stream:
            yield EncodedImage(stream)
    except DataError as error:
        raise PictureError(path, f"{error}.") from error
