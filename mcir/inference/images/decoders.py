"""Picture files to samples: by OpenCV where it is exact and fills one array, by our own hands, or by Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms

from mcir.data.codec import Array, decode_to_the_end, pnm_start, probe
from mcir.data.errors import DataError
from mcir.inference.images import tiff
from mcir.inference.images.exif import ORIENTATION, upright
from mcir.inference.images.image import row_bands

FORMATS = ("PNG", "TIFF", "JPEG", "WEBP", "BMP", "PPM")
"""What can be read, by Pillow's names."""

_OPENCV_PIXELS, _OPENCV_SIDE = 2**30, 2**20
_BLANK = np.arange(251, dtype=np.uint8) * 89  # a row that no photograph has


class Source:
    """A picture file of which the header is read.

    Args:
        path: the file.
        stream: its bytes.

    Attributes:
        format: PNG, TIFF, JPEG, WEBP, BMP or PPM.
        height: rows as stored, before it is turned.
        width: columns as stored.
        channels: 1 or 3, without alpha.
        bits: 8 or 16.
        has_alpha: whether anything is said of transparency.
        turn: the EXIF orientation, 1 to 8.
        icc: the profile that belongs to the decoded samples.
        exif: what is said of the photograph, without orientation.

    Raises:
        DataError: no picture that can be read, or several in one file.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        try:
            self.height, self.width, self.channels, self.bits = probe(stream)
        except DataError as error:
            if samples := tiff.samples(stream):
                raise DataError(f"a TIFF file of {samples}, a kind that is not read here") from error
            raise
        stream.seek(0)
        image: Any = Image.open(stream, formats=FORMATS)
        _refuse_pages(image)
        self._image, mode, notes = image, image.mode, image.info
        self.format: str = "JPEG" if image.format == "MPO" else image.format
        self._pnm = pnm_start(stream) if self.format == "PPM" else None
        self._is_plain_tiff = self.format == "TIFF" and tiff.is_plain(image.tag_v2)
        if self.format == "TIFF":  # Pillow's size is already turned
            self.height, self.width = tiff.stored_size(image.tag_v2)
        if self.bits == 16 and not (self.format == "PNG" or self._pnm or self._is_plain_tiff):
            raise DataError(
                f"a {self.format} file of mode {mode} with 16 bits a sample; 16 bit grey and RGB can be read"
            )
        self._key = _key(image, stream)
        is_clear = mode[-1] in "Aa" or "transparency" in notes or (mode == "P" and image.palette.mode[-1] == "A")
        self.has_alpha = is_clear or (self._is_plain_tiff and tiff.alpha_kind(image.tag_v2) is not None)
        self.icc: bytes | None = None if mode == "CMYK" else notes.get("icc_profile") or None
        self.turn, self.exif = self._notes()

    def _notes(self) -> tuple[int, bytes | None]:
        """Return orientation and EXIF; damaged notes do not damage a picture, they are left out."""
        if self.format == "PNG" and "exif" not in self._image.info and (found := _png_exif(self._stream)):
            self._image.info["exif"] = found
        try:
            known = Image.Image.getexif(self._image)  # PngImageFile's own would decode the picture
            turn = known.get(ORIENTATION, 1)
            exif = tiff.described(known) if self.format == "TIFF" else self._image.info.get("exif")
        except Exception:
            return 1, None
        return turn if turn in range(1, 9) else 1, upright(exif)

    def decoded(self) -> tuple[Array, Array | None]:
        """Return the samples (H, W, 1 or 3) and the alpha (H, W), upright.

        Raises:
            DataError: the file is damaged.
        """
        if self._is_plain_tiff:
            samples = tiff.read(self._stream, self._image.tag_v2)
        elif self._pnm:
            samples = self._by_hand(*self._pnm)
        elif self._opencv_is_exact():
            samples = self._by_opencv()
        else:
            samples = self._by_pillow()
        colours, alpha = samples[:, :, : self.channels], None
        if self._key is not None:
            alpha = (colours != self._key).any(axis=2) * np.iinfo(colours.dtype).max
            alpha = alpha.astype(colours.dtype)
        elif self.has_alpha:
            alpha = samples[:, :, self.channels]
            if self._is_plain_tiff and tiff.alpha_kind(self._image.tag_v2) == tiff.MULTIPLIED:
                _divide(colours, alpha)
        return turned(colours, self.turn), None if alpha is None else turned(alpha, self.turn)

    def _by_hand(self, largest: int, start: int) -> Array:
        shape = (self.height, self.width, self.channels)
        stored = np.dtype(f">u{self.bits // 8}")
        row_bytes = self.width * self.channels * stored.itemsize
        if self._stream.seek(0, io.SEEK_END) - start < self.height * row_bytes:
            raise DataError("truncated")
        result = np.empty(shape, stored.newbyteorder("="))
        self._stream.seek(start)
        for rows in row_bands(self.height, row_bytes):
            data = self._stream.read((rows.stop - rows.start) * row_bytes)
            band = np.frombuffer(data, stored).reshape(-1, *shape[1:])
            full = np.iinfo(stored).max
            result[rows] = band if largest == full else (band.astype(np.uint64) * full + largest // 2) // largest
        return result

    def _opencv_is_exact(self) -> bool:
        """OpenCV leaves palettes and CMYK to none, stretches few bits in a way of its own, and is exact elsewhere."""
        self._stream.seek(0)
        start = self._stream.read(32)
        mode = self._image.mode
        return {
            "PNG": mode != "P" and start[24] >= 8,
            "JPEG": mode in ("L", "RGB"),
            "WEBP": True,
            "BMP": mode == "RGB" and start[28] == 24,
        }.get(self.format, False)

    def _by_opencv(self) -> Array:
        if self.height * self.width > _OPENCV_PIXELS or max(self.height, self.width) > _OPENCV_SIDE:
            raise DataError(f"{self.width}×{self.height} is more than OpenCV decodes; save it as TIFF")
        name = str(self._path)
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # a name that is no UTF-8 would crash OpenCV
            name = f"/dev/fd/{self._stream.fileno()}"
        if not cv2.haveImageReader(name):
            raise DataError(f"this OpenCV reads no {self.format}")
        samples = None if self._key is not None else self._in_one_place(name)
        if samples is None:
            samples = cv2.imread(name, cv2.IMREAD_UNCHANGED)
        if samples is None:
            self._stream.seek(0)
            decode_to_the_end(self._stream)
            raise DataError("damaged: it cannot be decoded")
        if samples.ndim == 2:
            return samples[:, :, None]
        if self.channels == 1:  # grey with alpha comes as colour with alpha
            return samples[:, :, ::3]
        code = cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
        for rows in row_bands(self.height, samples[0].nbytes):
            samples[rows] = cv2.cvtColor(samples[rows], code)
        return samples

    def _in_one_place(self, name: str) -> Array | None:
        """Let OpenCV decode into memory of ours, or it takes it twice; None if a row may be left out.

        It says nothing of a failure then: what was in the memory before would be the picture.
        """
        room = np.empty((self.height, self.width, 4 if self.has_alpha else self.channels), f"u{self.bits // 8}")
        blank = np.resize(_BLANK, room.shape[1:]).astype(room.dtype)
        room[:] = blank
        samples: Array | None = cv2.imread(name, room, cv2.IMREAD_UNCHANGED)
        bands = row_bands(len(room), room[0].nbytes)
        is_whole = samples is not room or not any((room[rows] == blank).all((1, 2)).any() for rows in bands)
        return samples if is_whole else None

    def _by_pillow(self) -> Array:
        image = self._image
        if self.format == "TIFF":  # or Pillow turns it, some modes twice
            for tags in (image.tag_v2, Image.Image.getexif(image)):
                if ORIENTATION in tags:
                    del tags[ORIENTATION]
        image.load()
        mode = "L" if self.channels == 1 else "RGB"
        if self.has_alpha and self._key is None:
            mode += "A"
        convert = inks_to_srgb(image)
        result = np.empty((self.height, self.width, len(mode)), np.uint8)
        for rows in row_bands(self.height, result[0].nbytes):
            band = image.crop((0, rows.start, self.width, rows.stop))
            band = convert(band) if convert else band.convert(mode)
            result[rows] = np.asarray(band).reshape(result[rows].shape)
        return result


def turned(samples: Array, turn: int) -> Array:
    """Return samples (H, W[, C]) of an EXIF orientation, 1 to 8, upright."""
    if turn > 4:
        samples = samples.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if turn in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples if turn == 1 else np.ascontiguousarray(samples)


def _refuse_pages(image: Any) -> None:
    """Raise if a file holds several pictures; smaller copies, previews and gain maps of one do not count."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "MPO":
        count = sum(part["Attribute"]["MPType"].startswith("Multi-Frame") for part in image.mpinfo[0xB002])
    elif count > 1 and image.format == "TIFF":
        count = tiff.pages(image, count)
    if count > 1:
        raise DataError(f"{count} pages or frames in one file; save the wanted one as a file of its own")


def _key(image: Any, stream: BinaryIO) -> Any:
    """Return the one colour of a PNG file that is transparent, in the units of its decoded samples; mostly None."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or key is None:
        return None
    stream.seek(24)
    depth = stream.read(1)[0]
    if image.mode == "1":
        return 255 if key else 0
    return np.asarray(key) if depth >= 8 else key * 255 // (2**depth - 1)


def _png_exif(stream: BinaryIO) -> bytes | None:
    """Return the EXIF block of a PNG file wherever it stands; Pillow looks for it before the samples only."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        if name == b"eXIf":
            return stream.read(size)
        stream.seek(size + 4, io.SEEK_CUR)
    return None


def inks_to_srgb(image: Image.Image) -> Callable[[Image.Image], Any] | None:
    """Return what makes a CMYK image sRGB; None for others, and if its profile is missing, damaged or of no CMYK."""
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
    return lambda image: ImageCms.applyTransform(image, transform)


def _divide(colours: Array, alpha: Array) -> None:
    """Undo, in place, that colours were stored multiplied by alpha."""
    full = np.iinfo(colours.dtype).max
    for rows in row_bands(len(colours), colours[0].nbytes):
        cover = np.maximum(alpha[rows, :, None], 1).astype(np.uint64)
        colours[rows] = np.minimum((colours[rows].astype(np.uint64) * full + cover // 2) // cover, full)
