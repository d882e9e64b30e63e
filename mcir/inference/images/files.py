"""Picture files, read and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from PIL import UnidentifiedImageError

from mcir.atomic import whole_file
from mcir.data.codec import any_size
from mcir.data.errors import DataError
from mcir.inference.images.decoders import FORMATS, Source
from mcir.inference.images.encoders import ENCODERS
from mcir.inference.images.exif import sized
from mcir.inference.images.image import Picture, PictureError

QUALITY = 95
"""Of JPEG and WebP, unless told otherwise."""


class PictureInfo(NamedTuple):
    """What a picture will be: its size upright, channels without alpha (1 or 3), bits of a sample (8 or 16)."""

    height: int
    width: int
    channels: int
    bits: int
    has_alpha: bool


def probe_picture(path: str | Path) -> PictureInfo:
    """Return what :func:`read_picture` would give, from the header alone.

    Raises:
        PictureError: it is no picture that can be read; damage behind the header is not always seen.
    """
    with _opened(Path(path)) as source:
        size = (source.height, source.width) if source.turn <= 4 else (source.width, source.height)
        return PictureInfo(*size, source.channels, source.bits, source.has_alpha)


def read_picture(path: str | Path) -> Picture:
    """Read a picture.

    Raises:
        PictureError: there is no such file; it is empty, truncated, damaged or no picture, has several pages, or
            samples that are not integers of at most 8, or of 16 bits.
    """
    with _opened(Path(path)) as source:
        return Picture(*source.decoded(), icc=source.icc, exif=source.exif, format=source.format)


@contextmanager
def _opened(path: Path) -> Iterator[Source]:
    """Read a header, and put the file's name before what goes wrong from then on."""
    try:
        with path.open("rb") as stream, any_size():
            yield Source(path, stream)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, DataError):
            reason = str(error)
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif isinstance(error, UnidentifiedImageError):
            reason = f"not an image of a known kind, which are {', '.join(FORMATS)}"
        else:  # the decoders have many ways to say this
            reason = f"truncated or damaged ({error or type(error).__name__})"
        raise PictureError(f"{path}: {reason}.") from error


def write_picture(path: str | Path, picture: Picture, quality: int = QUALITY) -> None:
    """Write a picture in the format that the name asks for, whole or not at all, with all that belongs to it.

    JPEG and WebP lose something: JPEG keeps colours as fine as brightness (4:4:4), WebP loses nothing at quality 100.
    Grey becomes RGB in WebP, which has no grey.

    Args:
        path: a name with one of the suffixes of :data:`mcir.data.codec.EXTENSIONS`; its folder is made.
        picture: what to write; the height and width noted in its EXIF are set right.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        PictureError: an unknown suffix, another quality, or a format that cannot hold the picture; the message says
            which can, and what to give up for this one.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    encoder = ENCODERS.get(path.suffix.lower())
    if encoder is None:
        raise PictureError(f"{path}: pictures are written as {', '.join(sorted(ENCODERS))}, not {path.suffix!r}.")
    if not 1 <= quality <= 100:
        raise PictureError(f"{path}: a quality is 1 to 100, not {quality}.")
    if refusal := encoder.refusal(picture):
        way_out = f", or pass {' and '.join(refusal.ways_out)}" if refusal.ways_out else ""
        raise PictureError(f"{path}: {refusal.reason}{way_out}.")
    if picture.exif:
        picture = replace(picture, exif=sized(picture.exif, picture.height, picture.width))
    try:
        with whole_file(path) as temporary, temporary.open("w+b") as stream:
            encoder.write(stream, picture, quality)
    except ValueError as error:  # EXIF that is too long for JPEG, say
        raise PictureError(f"{path}: {error}.") from error
