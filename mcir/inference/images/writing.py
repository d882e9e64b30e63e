"""Write image files: Pillow writes 8-bit samples, OpenCV writes 16-bit PNG and PPM, and tifffile writes TIFF."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import cv2
import numpy as np
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mcir.atomic import whole_file
from mcir.data.codec import Array
from mcir.inference.images.exif import RESOLUTION, TEXTS, with_size
from mcir.inference.images.image import Picture, PictureError

QUALITY = 95
"""Default quality of JPEG and WebP."""

_COMPRESSION_LEVEL = 4
_DEEP, _ALPHA, _ICC, _EXIF, _COLOR = "16 bits per sample", "transparency", "an ICC profile", "EXIF", "color"
_DEEP_GREY_ALPHA = "16-bit grey with transparency"  # hardly any program reads such TIFF files

Writer: TypeAlias = Callable[[BinaryIO, Picture, str, int], None]
"""Writes an image to a stream, given the name of the format and the quality."""


@dataclass(frozen=True)
class Format:
    """An image format.

    Attributes:
        name: name for Pillow and for messages.
        write_8: writer of 8-bit images.
        write_16: writer of 16-bit images, if the format can hold them.
        lacks: other properties of an image that the format cannot hold.
        max_side: largest height and width.
    """

    name: str
    write_8: Writer
    write_16: Writer | None = None
    lacks: frozenset[str] = frozenset()
    max_side: int = 2**31 - 1

    def missing(self, needs: Iterable[str]) -> list[str]:
        """Return the properties that the format cannot hold."""
        return [name for name in needs if name in self.lacks or (name == _DEEP and self.write_16 is None)]

    def refusal(self, picture: Picture, bits: int | None = None, scale: int = 1) -> str | None:
        """Return why an image cannot be written; None if it can.

        Args:
            picture: the image, or its input.
            bits: bits per sample of the image; default: those of ``picture``.
            scale: factor by which the image is larger than ``picture``.
        """
        height, width = picture.height * scale, picture.width * scale
        if max(height, width) > self.max_side:
            return f"{self.name} files have at most {self.max_side} rows and columns, got {height}×{width}"
        is_deep, has_alpha = (bits or picture.bits) == 16, picture.alpha is not None
        properties = {
            _DEEP: is_deep,
            _ALPHA: has_alpha,
            _DEEP_GREY_ALPHA: is_deep and has_alpha and picture.channels == 1,
            _ICC: picture.icc,
            _EXIF: picture.exif,
            _COLOR: picture.channels == 3,
        }
        needs = [name for name, is_needed in properties.items() if is_needed]
        others = dict.fromkeys(other.name for other in FORMATS.values() if not other.missing(needs))
        if missing := self.missing(needs):
            return f"{self.name} files cannot hold {' and '.join(missing)}; use {' or '.join(others)}"
        return None


def write_picture(path: str | Path, picture: Picture, quality: int = QUALITY) -> None:
    """Write an image with its metadata in the format of the file name; the file appears complete or not at all.

    JPEG and WebP are lossy: JPEG is written without chroma subsampling, WebP is lossless at quality 100. WebP has no
    grey images, and PNG no 16-bit grey images with transparency: these become RGB.

    Args:
        path: file name with one of the suffixes of :data:`mcir.data.codec.EXTENSIONS`; its folder is created.
        picture: image to write; the image size in its EXIF block is updated.
        quality: quality of JPEG and WebP, 1 to 100.

    Raises:
        PictureError: the suffix or the quality is invalid, or the format cannot hold the image.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise PictureError(f"{path}: expected one of the suffixes {', '.join(sorted(FORMATS))}, got '{path.suffix}'.")
    if not 1 <= quality <= 100:
        raise PictureError(f"{path}: quality: expected 1 to 100, got {quality}.")
    if refusal := form.refusal(picture):
        raise PictureError(f"{path}: {refusal}.")
    if picture.exif:
        picture = replace(picture, exif=with_size(picture.exif, picture.height, picture.width))
    write = form.write_8 if picture.bits == 8 else form.write_16
    assert write is not None
    try:
        with whole_file(path) as temporary, temporary.open("w+b") as stream:
            write(stream, picture, form.name, quality)
    except ValueError as error:  # for example, EXIF that is too long for JPEG
        raise PictureError(f"{path}: {error}.") from error


# -- writers ----------------------------------------------------------------------------------------------------------


def _samples(picture: Picture) -> Array:
    """Return the samples with alpha, (H, W, C), or (H, W) for one channel."""
    samples = picture.pixels if picture.alpha is None else np.dstack((picture.pixels, picture.alpha))
    return samples[:, :, 0] if samples.shape[2] == 1 else samples


def _with_pillow(stream: BinaryIO, picture: Picture, name: str, quality: int) -> None:
    options: dict[str, Any] = {
        "PNG": {"compress_level": _COMPRESSION_LEVEL},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WebP": {"quality": quality, "lossless": quality == 100, "exact": True},
    }.get(name, {})
    metadata = {"icc_profile": picture.icc, "exif": picture.exif}
    options |= {key: value for key, value in metadata.items() if value}
    Image.fromarray(_samples(picture)).save(stream, "PPM" if name == "PGM" else name, **options)


def _with_opencv(stream: BinaryIO, picture: Picture, name: str, quality: int) -> None:
    samples = _samples(picture)
    if picture.channels == 3:
        samples = cv2.cvtColor(samples, cv2.COLOR_RGB2BGR if picture.alpha is None else cv2.COLOR_RGBA2BGRA)
    elif picture.alpha is not None:  # OpenCV writes no grey images with alpha
        samples = np.ascontiguousarray(samples[:, :, (0, 0, 0, 1)])
    exif, icc = (picture.exif or b"").removeprefix(b"Exif\0\0"), picture.icc or b""
    blocks = {cv2.IMAGE_METADATA_EXIF: exif, cv2.IMAGE_METADATA_ICCP: icc}
    metadata = {kind: np.frombuffer(block, np.uint8) for kind, block in blocks.items() if block}
    suffix = ".png" if name == "PNG" else ".pgm" if picture.channels == 1 else ".ppm"
    done, data = cv2.imencodeWithMetadata(suffix, samples, list(metadata), list(metadata.values()))
    if not done:
        raise ValueError(f"OpenCV cannot write this {name} file")
    stream.write(data.data)


def _with_tifffile(stream: BinaryIO, picture: Picture, name: str, quality: int) -> None:
    """Write a TIFF file; tifffile writes no EXIF and GPS directories, so they are appended and linked afterwards."""
    import tifffile

    samples = _samples(picture)
    if samples.nbytes >= 2**32 - 2**25:
        raise PictureError("TIFF files hold at most 4 GiB of samples; use PNG")
    metadata, directories = _tiff_metadata(picture.exif or b"")
    tifffile.imwrite(
        stream,
        samples,
        byteorder="<",
        photometric="minisblack" if picture.channels == 1 else "rgb",
        planarconfig="contig" if samples.ndim == 3 else None,
        extrasamples=None if picture.alpha is None else ["unassalpha"],
        compression="zlib",
        compressionargs={"level": _COMPRESSION_LEVEL},
        predictor=True,
        iccprofile=picture.icc,
        software=False,
        metadata=None,
        maxworkers=1,
        **metadata,
    )
    for tag, directory in directories.items():
        offset = stream.seek(0, io.SEEK_END)
        stream.write(directory.tobytes(offset))
        stream.seek(0)
        stream.seek(tifffile.TiffFile(stream).pages.first.tags[tag + 1].offset)
        stream.write(struct.pack("<HHII", tag, 4, 1, offset))


def _tiff_metadata(exif: bytes) -> tuple[dict[str, Any], dict[int, ImageFileDirectory_v2]]:
    """Return arguments of ``tifffile.imwrite`` for an EXIF block, and its directories; damaged EXIF is dropped."""
    try:
        block = Image.Exif()
        block.load(exif)
        directories = {}
        for tag in (int(IFD.Exif), int(IFD.GPSInfo)):
            if values := block.get_ifd(tag):
                directories[tag] = ImageFileDirectory_v2(prefix=b"II", group=tag)
                directories[tag].update(values)
                directories[tag].tobytes()  # fails now rather than later
        texts = {tag: block[tag] for tag in TEXTS & set(block)}
        tags: list[Any] = [(tag, "B", len(text), text, True) for tag, text in texts.items() if isinstance(text, bytes)]
        tags += [(tag, "s", 0, text.encode("latin-1"), True) for tag, text in texts.items() if isinstance(text, str)]
        tags += [(tag + 1, "I", 1, 0, True) for tag in directories]  # placeholders: tifffile refuses the real tags
        metadata: dict[str, Any] = {"extratags": tags}
        if set(block) >= RESOLUTION and block[Base.ResolutionUnit] in (2, 3):
            metadata["resolution"] = float(block[Base.XResolution]), float(block[Base.YResolution])
            metadata["resolutionunit"] = block[Base.ResolutionUnit]
    except Exception:
        return {}, {}
    return metadata, directories


_JPEG = Format("JPEG", _with_pillow, lacks=frozenset({_ALPHA}), max_side=65500)
_TIFF = Format("TIFF", _with_tifffile, _with_tifffile, frozenset({_DEEP_GREY_ALPHA}))
_PPM = Format("PPM", _with_pillow, _with_opencv, frozenset({_ALPHA, _ICC, _EXIF}))

FORMATS = {
    ".png": Format("PNG", _with_pillow, _with_opencv),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format("WebP", _with_pillow, max_side=16383),
    ".bmp": Format("BMP", _with_pillow, lacks=frozenset({_ALPHA, _ICC, _EXIF})),
    ".ppm": _PPM,
    ".pnm": _PPM,
    ".pgm": Format("PGM", _with_pillow, _with_opencv, _PPM.lacks | {_COLOR}),
}
"""Writers of each format, by the suffix of the file."""
