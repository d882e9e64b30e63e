"""Write image files: Pillow writes 8-bit samples, OpenCV writes 16-bit PNG and PPM, and tifffile writes TIFF."""

from __future__ import annotations

import io
import logging
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mcir.atomic import atomic_file
from mcir.data.codec import Array
from mcir.data.exif import RESOLUTION, TEXTS, with_size
from mcir.inference.images.image import Picture, PictureError

QUALITY = 95
"""Default quality of JPEG and WebP."""

_COMPRESSION_LEVEL = 4
_DEEP, _ALPHA, _ICC, _EXIF, _COLOR = "16 bits per sample", "transparency", "an ICC profile", "EXIF", "colour"
_DEEP_GREY_ALPHA = "16-bit grey with transparency"  # hardly any program reads such TIFF files
_SMALLEST_PROFILE = 132  # bytes

_LOG = logging.getLogger("mcir")


@dataclass(frozen=True)
class Format:
    """An image format: its name in Pillow, the properties of an image that it cannot hold, and its largest side."""

    name: str
    unsupported: frozenset[str] = frozenset()
    max_side: int = 2**31 - 1

    def incompatibility(self, picture: Picture, bits: int | None = None, scale: int = 1) -> str | None:
        """Return why the format cannot hold an image with ``bits`` per sample, enlarged by ``scale``, or None."""
        height, width = picture.height * scale, picture.width * scale
        if max(height, width) > self.max_side:
            return f"{self.name} files have at most {self.max_side} rows and columns, got {height}×{width}"
        is_deep, has_alpha = (bits or picture.bits) == 16, picture.alpha is not None
        properties = {
            _DEEP: is_deep,
            _ALPHA: has_alpha,
            _DEEP_GREY_ALPHA: is_deep and has_alpha and picture.channels == 1,
            _ICC: valid_profile(picture.icc),
            _EXIF: picture.exif,
            _COLOR: picture.channels == 3,
        }
        needed = [name for name, is_needed in properties.items() if is_needed]
        if not self.unsupported.intersection(needed):
            return None
        problem = " and ".join(name for name in needed if name in self.unsupported)
        suitable = dict.fromkeys(one.name for one in FORMATS.values() if not one.unsupported.intersection(needed))
        return f"{self.name} files cannot hold {problem}; use {' or '.join(suitable)}"


def write_picture(path: str | Path, picture: Picture, quality: int = QUALITY) -> None:
    """Write an image with its metadata in the format of the file name; the file appears complete or not at all.

    JPEG and WebP are lossy: JPEG is written without chroma subsampling, WebP is lossless at quality 100. WebP has no
    grey images, and PNG has no 16-bit grey images with transparency: these become RGB. An invalid ICC profile is left
    out with a warning.

    Args:
        path: file name with one of the extensions in :data:`mcir.data.listing.EXTENSIONS`; its folder is created.
        picture: image to write; the image size in its EXIF block is updated.
        quality: quality of JPEG and WebP, 1 to 100.

    Raises:
        PictureError: the extension or the quality is invalid, or the format cannot hold the image.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise PictureError(path, f"expected one of the extensions {', '.join(sorted(FORMATS))}, got '{path.suffix}'.")
    if not 1 <= quality <= 100:
        raise PictureError(path, f"quality: expected 1 to 100, got {quality}.")
    if problem := file_format.incompatibility(picture):
        raise PictureError(path, f"{problem}.")
    icc = valid_profile(picture.icc)
    if picture.icc and icc is None:
        _LOG.warning("%s: the ICC profile of the image is invalid and was left out.", path)
    exif = with_size(picture.exif, picture.height, picture.width) if picture.exif else None
    write = _with_tifffile if file_format is _TIFF else _with_pillow if picture.bits == 8 else _with_opencv
    try:
        with atomic_file(path) as temporary, temporary.open("w+b") as stream:
            write(stream, replace(picture, icc=icc, exif=exif), file_format.name, quality)
    except ValueError as error:  # for example, EXIF that is too long for JPEG
        raise PictureError(path, f"{error}.") from error


def valid_profile(icc: bytes | None) -> bytes | None:
    """Return an ICC profile without padding; None if there is none, or if it is invalid.

    The conditions are those of LittleCMS, and of libpng, which writes no PNG file with an invalid profile.
    """
    if not icc:
        return None
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (ImageCms.PyCMSError, OSError):
        return None
    size, version = int.from_bytes(icc[:4], "big"), icc[8]
    is_valid = _SMALLEST_PROFILE <= size <= len(icc) and (version < 4 or size % 4 == 0)
    return icc[:size] if is_valid else None


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
        raise ValueError(f"TIFF: expected less than 4 GiB of samples, got {samples.nbytes / 2**30:.1f} GiB; use PNG")
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
    """Return arguments of ``tifffile.imwrite`` for an EXIF block, and its directories; none for a damaged block."""
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


_TIFF = Format("TIFF", frozenset({_DEEP_GREY_ALPHA}))
_JPEG = Format("JPEG", frozenset({_DEEP, _ALPHA}), max_side=65500)
_PPM = Format("PPM", frozenset({_ALPHA, _ICC, _EXIF}))

FORMATS = {
    ".png": Format("PNG"),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format("WebP", frozenset({_DEEP}), max_side=16383),
    ".bmp": Format("BMP", frozenset({_DEEP, _ALPHA, _ICC, _EXIF})),
    ".ppm": _PPM,
    ".pnm": _PPM,
    ".pgm": Format("PGM", _PPM.unsupported | {_COLOR}),
}
"""Formats by file extension."""
