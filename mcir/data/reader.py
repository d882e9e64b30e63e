"""Read image files: the one reader of training, preparation, verification and restoration.

Decoded images are upright and grey or RGB, 8 or 16 bits: a palette is replaced by its colours, and CMYK is converted to
sRGB through the profile in the file. All other samples keep their values; the colours of transparent pixels, too.
OpenCV decodes ordinary PNG and JPEG files and 16-bit PNG and PPM, tifffile plain TIFF, and Pillow all others.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from mcir.data.cmyk import cmyk_to_srgb
from mcir.data.codec import Array, ImageInfo, row_bands, upright
from mcir.data.errors import DataError
from mcir.data.exif import exif_at_end, kept_exif, take_orientation
from mcir.data.jpeg import check_jpeg
from mcir.data.limits import check_size, decoded_size, no_size_limit
from mcir.data.ordinary import HEAD, JPEG_END, PNG_END, TAIL, decode_ordinary, ordinary_info
from mcir.data.tiff import EXTRACT_FRAME, TiffPage, check_count, is_tiff
from mcir.data.transforms import Window, crop_image

FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "PPM")
"""Pillow's names of the formats that can be read."""

_PNG_DEPTH = 24
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PNM_START = re.compile(rb"P[56]" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)\s")
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I"})
_COLOR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
_OPENCV_MODES = {"PNG": ("L", "RGB", "RGBA"), "JPEG": ("L", "RGB")}
_OPENCV_SIDE, _OPENCV_PIXELS = 2**20, 2**30
_TIFF_BITS = 258


class EncodedImage:
    """An image file that is open in ``decoder_errors``: the facts in its header, and its samples.

    Args:
        stream: file, or its content in memory.

    Attributes:
        info: size upright, channels and bits.
        format: one of ``FORMATS``.
        has_alpha: whether there is an alpha channel, or a transparent colour.
        orientation: EXIF orientation, 1 to 8.

    Raises:
        DataError: the file is not an image, is truncated, has several pages or frames, has an unsupported format, or
            states a size that exceeds the limits.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        start = stream.read(_PNG_DEPTH + 1)
        self._size = stream.seek(0, io.SEEK_END)
        if not self._size:
            raise DataError("the file is empty")
        if start.startswith(b"GIF8"):
            raise DataError(f"GIF files are not read; {EXTRACT_FRAME}")
        stream.seek(0)
        self._tiff = TiffPage(stream) if is_tiff(start) else None
        stream.seek(0)
        image: Any = Image.open(stream, formats=FORMATS)
        self._body = stream.tell() if image.format in ("JPEG", "MPO") else 0
        self.format: str = "JPEG" if image.format == "MPO" else image.format
        self._depth = self._bits_per_sample(image, start)
        bits = 16 if self._depth > 8 else 8
        if image.mode not in _GREY_MODES | _COLOR_MODES or self._depth > 16:
            raise DataError(
                f"expected a grey or colour image of 8 or 16 bits, got mode {image.mode} with {self._depth} bits per "
                "sample"
            )
        height, width = (self._tiff.height, self._tiff.width) if self._tiff else (image.height, image.width)
        self._stored = ImageInfo(height, width, 1 if image.mode in _GREY_MODES else 3, bits)
        channels = self._tiff.channels if self._tiff else self._stored.channels
        check_size(*decoded_size(image), channels * bits // 8, self._size)
        self._image = image
        self._check_end()
        if self._tiff is None:
            _check_single(image)
        self.has_alpha: bool = self._tiff.has_alpha if self._tiff and bits == 16 else image.has_transparency_data
        self.orientation = take_orientation(image)
        self.info = self._stored
        if self.orientation > 4:
            self.info = self._stored._replace(height=width, width=height)

    @property
    def icc(self) -> bytes | None:
        """ICC profile of the samples; None means sRGB."""
        return None if self._image.mode == "CMYK" else self._image.info.get("icc_profile") or None

    @property
    def exif(self) -> bytes | None:
        """EXIF block without orientation and thumbnail."""
        return kept_exif(self._image)

    def decode(self, window: Window | None = None) -> tuple[Array, Array | None]:
        """Return the samples (H, W, 1 or 3) and the alpha channel (H, W), upright.

        Args:
            window: part to return; None: the full image.
        """
        self._check_png()
        is_bgr = False
        if self._is_for_opencv():
            samples, is_bgr = self._with_opencv(), self._stored.channels == 3
        elif self._tiff is not None and self._tiff.is_decodable:
            samples = self._tiff.decode()
        else:
            samples = self._with_pillow()
        samples = upright(samples, self.orientation)
        if window is not None:
            samples = np.ascontiguousarray(crop_image(samples, window))
        if is_bgr:
            code = cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
            for rows in row_bands(len(samples), samples[0].nbytes):
                samples[rows] = cv2.cvtColor(samples[rows], code)
        channels = self._stored.channels
        if samples.shape[2] == channels:
            return samples, None
        alpha = np.ascontiguousarray(samples[:, :, channels]) if self.has_alpha else None
        return np.ascontiguousarray(samples[:, :, :channels]), alpha

    def check(self) -> None:
        """Decode all samples with the decoder of the format and with Pillow, and check the code of JPEG."""
        self.decode()
        if self.format == "JPEG":
            self._stream.seek(0)
            check_jpeg(self._stream.read())
        self._stream.seek(0)
        with Image.open(self._stream, formats=FORMATS) as image:
            image.load()

    def _bits_per_sample(self, image: Any, start: bytes) -> int:
        """Return the bits per sample, which Pillow's mode does not contain for colour images."""
        if self.format == "PNG":
            return start[_PNG_DEPTH]
        if self.format == "TIFF":
            return int(max(np.atleast_1d(image.tag_v2.get(_TIFF_BITS, 1))))
        if self.format == "PPM" and (header := self._pnm_header()):
            return 16 if header[0] > 255 else 8
        return 16 if image.mode.startswith("I") else 8

    def _pnm_header(self) -> tuple[int, int] | None:
        """Return the maximum value of a binary PGM or PPM file and the offset of its samples; None for other files."""
        self._stream.seek(0)
        found = _PNM_START.match(self._stream.read(HEAD))
        return None if found is None else (int(found[1]), found.end())

    def _check_end(self) -> None:
        """Check for truncation; in the last part of a PNG file, also find EXIF, which Pillow finds only by decoding."""
        if self._tiff is not None:
            self._tiff.check_end(self._size)
        if self.format == "PPM" and (header := self._pnm_header()):
            height, width, channels, bits = self._stored
            if self._size < header[1] + height * width * channels * bits // 8:
                raise DataError("truncated")
        if self.format not in ("PNG", "JPEG"):
            return
        self._stream.seek(max(self._body, self._size - TAIL))
        tail = self._stream.read()
        if tail.rfind(PNG_END if self.format == "PNG" else JPEG_END) < 0:  # or followed by other data
            self._stream.seek(0)
            with Image.open(self._stream, formats=FORMATS) as image:
                image.load()
        if self.format == "PNG" and "exif" not in self._image.info and (exif := exif_at_end(tail)):
            self._image.info["exif"] = exif

    def _is_for_opencv(self) -> bool:
        height, width, _, bits = self._stored
        if bits == 16:
            return self._tiff is None or not self._tiff.is_decodable
        is_small = max(height, width) <= _OPENCV_SIDE and height * width <= _OPENCV_PIXELS
        is_ordinary = self._depth == 8 and "transparency" not in self._image.info
        return is_small and is_ordinary and self._image.mode in _OPENCV_MODES.get(self.format, ())

    def _with_opencv(self) -> Array:
        """Return samples with alpha, colours in the order BGR."""
        self._stream.seek(0)
        samples = cv2.imdecode(np.frombuffer(self._stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        height, width, channels, bits = self._stored
        if samples is None or samples.shape[:2] != (height, width) or samples.dtype.itemsize * 8 != bits:
            raise DataError("truncated or damaged")
        samples = samples.reshape(height, width, -1)
        if channels == 1 and samples.shape[2] == 4:  # OpenCV decodes grey with alpha to BGRA
            samples = np.ascontiguousarray(samples[:, :, ::3])
        if samples.shape[2] not in (channels, channels + 1):
            raise DataError("truncated or damaged")
        if self.has_alpha and samples.shape[2] == 1:  # grey where one value is transparent
            opaque = (samples != self._image.info["transparency"]) * np.uint16(65535)
            samples = np.concatenate((samples, opaque), axis=2)
        if self.format == "PPM" and (header := self._pnm_header()) and header[0] != 65535:
            samples = ((samples * np.uint32(65535) + header[0] // 2) // header[0]).astype(np.uint16)
        return samples if self._tiff is None else self._tiff.converted(samples)

    def _with_pillow(self) -> Array:
        """Return 8-bit samples with alpha."""
        image = self._image
        if self.format == "PNG" and image.mode == "L" and isinstance(key := image.info.get("transparency"), int):
            image.info["transparency"] = key * 255 // (2**self._depth - 1)  # Pillow scales only the samples
        image.load()
        channels = self._stored.channels
        mode = ("L" if channels == 1 else "RGB") + ("A" if self.has_alpha else "")
        convert = cmyk_to_srgb(image) or (lambda band: band.convert(mode))
        result = np.empty((self._stored.height, self._stored.width, len(mode)), np.uint8)
        for rows in row_bands(len(result), result[0].nbytes):
            band = convert(image.crop((0, rows.start, result.shape[1], rows.stop)))
            result[rows] = np.asarray(band).reshape(result[rows].shape)
        return result

    def _check_png(self) -> None:
        """Verify the checksums of all chunks of a PNG file; the decoders ignore some of them."""
        if self.format == "PNG":
            self._stream.seek(0)
            Image.open(self._stream, formats=("PNG",)).verify()


@contextmanager
def decoder_errors() -> Iterator[None]:
    """Convert all errors that decoders raise to a ``DataError``, which does not name the file."""
    try:
        with no_size_limit():
            yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"not an image of a known format ({', '.join(FORMATS)})") from error
    except MemoryError as error:
        raise DataError("does not fit into memory") from error
    except OSError as error:
        raise DataError(error.strerror or f"truncated or damaged ({error})") from error
    except Exception as error:  # the decoders raise many types for damaged files
        raise DataError(f"truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})") from error


def probe(stream: BinaryIO) -> ImageInfo:
    """Read the header of an image file and check for truncation, without decoding the image.

    Raises:
        DataError: see ``EncodedImage``. The message does not name the file.
    """
    head = stream.read(HEAD)
    stream.seek(max(0, stream.seek(0, io.SEEK_END) - TAIL))
    if info := ordinary_info(head, stream.read()):
        return info
    stream.seek(0)
    with decoder_errors():
        return EncodedImage(stream).info


def decode(data: bytes | memoryview, name: str, window: Window | None = None) -> Array:
    """Decode an image file in memory, without its alpha channel.

    Args:
        data: content of the file.
        name: name of the file, for the message.
        window: part to return; None: the full image.

    Returns:
        (H, W, C), C = 1 or 3 (RGB), uint8 or uint16.

    Raises:
        DataError: see ``EncodedImage``; or the samples are damaged.
    """
    try:
        if (ordinary := decode_ordinary(data, window)) is not None:
            return ordinary
        with decoder_errors():
            return EncodedImage(io.BytesIO(data)).decode(window)[0]
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def check_image(data: bytes | memoryview) -> None:
    """Check an image file for damage by decoding all of it.

    Raises:
        DataError: the file is damaged. The message does not name the file.
    """
    with decoder_errors():
        EncodedImage(io.BytesIO(data)).check()


def _check_single(image: Any) -> None:
    """Raise an error for a file with several images; the previews and gain maps that phones add do not count."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "MPO":
        count = sum(part["Attribute"]["MPType"].startswith("Multi-Frame") for part in image.mpinfo[0xB002])
    check_count(count)
