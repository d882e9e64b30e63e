"""Read image files: Pillow decodes 8-bit samples; OpenCV (PNG, PPM) and tifffile decode 16-bit samples."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from mcir.data.codec import Array, no_size_limit, pnm_header, probe
from mcir.data.errors import DataError
from mcir.inference.images.exif import png_exif, read_exif
from mcir.inference.images.image import Picture, PictureError, row_bands

FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "PPM")
"""Pillow's names of the formats that can be read."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFFFILE_COMPRESSIONS = (1, 8, 32946)  # uncompressed and deflate; others need an optional package of tifffile
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_WHITE_IS_ZERO, _SEPARATE_PLANES, _PREMULTIPLIED_ALPHA, _ALPHA = 0, 2, 1, 2


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
        size = (file.height, file.width) if file.orientation <= 4 else (file.width, file.height)
        return PictureInfo(*size, file.channels, file.bits, file.has_alpha)


def read_picture(path: str | Path) -> Picture:
    """Read an image file.

    Raises:
        PictureError: the file is missing, empty, truncated, damaged or not an image, has several pages, has samples
            other than integers of at most 8 or of 16 bits, or does not fit into memory.
    """
    with _open_image(Path(path)) as file:
        return Picture(*file.decode(), icc=file.icc, exif=file.exif, format=file.format)


@contextmanager
def _open_image(path: Path) -> Iterator[_ImageFile]:
    """Open a file and read its header; convert any error in the context to a ``PictureError`` that names the file."""
    try:
        with path.open("rb") as stream, no_size_limit():
            yield _ImageFile(stream)
    except (MemoryError, PictureError):
        raise
    except DataError as error:
        raise PictureError(path, f"{error}.") from error
    except UnidentifiedImageError as error:
        raise PictureError(path, f"not an image of a known format ({', '.join(FORMATS)}).") from error
    except OSError as error:
        raise PictureError(path, f"{error.strerror or f'truncated or damaged ({error})'}.") from error
    except Exception as error:  # the decoders raise many types for damaged files
        raise PictureError(path, f"truncated or damaged ({error or type(error).__name__}).") from error


class _ImageFile:
    """An open image file, with the facts in its header."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tiff: Any = _tiff_page(stream)
        stream.seek(0)
        self.height, self.width, self.channels, self.bits = probe(stream)
        size = self.height * self.width * self.channels * self.bits // 8
        if (start := pnm_header(stream)) and stream.seek(0, io.SEEK_END) < start[1] + size:
            raise DataError("truncated")
        stream.seek(0)
        image: Any = Image.open(stream, formats=FORMATS)
        self.format: str = "JPEG" if image.format == "MPO" else image.format
        if self.format != "TIFF":
            _check_single(image)
        else:  # Pillow may swap height and width
            self.height, self.width = int(image.tag_v2[_TIFF_HEIGHT]), int(image.tag_v2[_TIFF_WIDTH])
        if self.format == "PNG" and "exif" not in image.info and (exif := png_exif(stream)):
            image.info["exif"] = exif
        self.has_alpha: bool = image.has_transparency_data
        if self._tiff is not None and self.bits == 16:
            self.has_alpha = self._tiff.extrasamples[:1] in ((_ALPHA,), (_PREMULTIPLIED_ALPHA,))
        self.icc: bytes | None = None if image.mode == "CMYK" else image.info.get("icc_profile") or None
        self.orientation, self.exif = read_exif(image)
        self._image = image

    def decode(self) -> tuple[Array, Array | None]:
        """Return the samples (H, W, 1 or 3) and the alpha channel (H, W), upright."""
        if self.bits == 8:
            samples = self._with_pillow()
        elif self._tiff is not None:
            samples = self._with_tifffile()
        else:
            samples = self._with_opencv()
        alpha = upright(samples[:, :, self.channels], self.orientation) if self.has_alpha else None
        return upright(samples[:, :, : self.channels], self.orientation), alpha

    def _with_pillow(self) -> Array:
        image = self._image
        if self.format == "PNG" and image.mode == "L" and isinstance(key := image.info.get("transparency"), int):
            self._stream.seek(24)
            depth = self._stream.read(1)[0]  # Pillow scales samples of 2 and 4 bits, but not the transparent value
            image.info["transparency"] = key * 255 // (2**depth - 1)
        image.load()
        mode = ("L" if self.channels == 1 else "RGB") + ("A" if self.has_alpha else "")
        convert = cmyk_to_srgb(image) or (lambda band: band.convert(mode))
        result = np.empty((self.height, self.width, len(mode)), np.uint8)
        for rows in row_bands(self.height, result[0].nbytes):
            band = convert(image.crop((0, rows.start, self.width, rows.stop)))
            result[rows] = np.asarray(band).reshape(result[rows].shape)
        return result

    def _with_opencv(self) -> Array:
        if self.format == "PNG":  # OpenCV may return a damaged image without an error
            self._stream.seek(0)
            Image.open(self._stream, formats=("PNG",)).verify()
        samples = cv2.imdecode(np.memmap(self._stream, np.uint8, "r"), cv2.IMREAD_UNCHANGED)
        if samples is None or samples.shape[:2] != (self.height, self.width):
            raise DataError("truncated or damaged")
        samples = samples.reshape(self.height, self.width, -1)
        if self.channels == 1:  # OpenCV decodes grey with alpha to BGRA
            samples = samples[:, :, ::3]
        else:
            code = cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
            for rows in row_bands(self.height, samples[0].nbytes):
                samples[rows] = cv2.cvtColor(samples[rows], code)
        if self.has_alpha and samples.shape[2] == 1:  # grey where one value is transparent
            opaque = (samples != self._image.info["transparency"]) * np.uint16(65535)
            samples = np.concatenate((samples, opaque), axis=2)
        if (start := pnm_header(self._stream)) and start[0] != 65535:
            samples = ((samples * np.uint32(65535) + start[0] // 2) // start[0]).astype(np.uint16)
        return samples

    def _with_tifffile(self) -> Array:
        page = self._tiff
        if page.compression in _TIFFFILE_COMPRESSIONS:
            samples: Array = page.asarray(maxworkers=1).astype(np.uint16, copy=False)
            if page.planarconfig == _SEPARATE_PLANES:
                samples = np.moveaxis(samples.reshape(-1, self.height, self.width), 0, 2)
            samples = samples.reshape(self.height, self.width, -1)
        elif page.planarconfig == _SEPARATE_PLANES:
            raise DataError(f"16-bit TIFF with {page.compression.name} and separate planes cannot be read")
        else:
            samples = self._with_opencv()
        if page.photometric == _WHITE_IS_ZERO:
            samples = ~samples
        if self.has_alpha and page.extrasamples[0] == _PREMULTIPLIED_ALPHA:
            colors, alpha = samples[:, :, : self.channels], samples[:, :, self.channels, None]
            colors[:] = np.minimum(np.rint(colors * (65535 / np.maximum(alpha, 1))), 65535)
        return samples


def upright(samples: Array, orientation: int) -> Array:
    """Rotate or flip samples (H, W[, C]) from an EXIF orientation, 1 to 8, to upright."""
    if orientation > 4:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples if orientation == 1 else np.ascontiguousarray(samples)


def cmyk_to_srgb(image: Image.Image) -> Callable[[Image.Image], Any] | None:
    """Return a function that converts a CMYK image to sRGB through its profile; None without a valid CMYK profile.

    The conversion is relative colorimetric, with black point compensation.
    """
    profile = image.info.get("icc_profile")
    if image.mode != "CMYK" or not profile:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "CMYK",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    return lambda band: ImageCms.applyTransform(band, transform)


def _tiff_page(stream: BinaryIO) -> Any:
    """Return the first page of a TIFF file after checking its type and the number of pages; None for other formats."""
    if stream.read(4) not in _TIFF_STARTS:
        return None
    import tifffile

    stream.seek(0)
    pages: Any = tifffile.TiffFile(stream).pages
    page = pages.first
    if page.dtype is None or page.dtype.kind not in "bu" or page.dtype.itemsize > 2:
        raise DataError(f"expected TIFF samples of type uint8 or uint16, got {page.dtype}")
    _check_count(1 + sum(not other.is_reduced for other in pages[1:]))  # reduced copies are not pages
    return page


def _check_single(image: Any) -> None:
    """Raise an error for a file with several images; the previews and gain maps that phones add do not count."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "MPO":
        count = sum(part["Attribute"]["MPType"].startswith("Multi-Frame") for part in image.mpinfo[0xB002])
    _check_count(count)


def _check_count(count: int) -> None:
    if count > 1:
        raise DataError(f"expected one image, got {count} pages or frames; save each one to its own file")
