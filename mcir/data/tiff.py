"""Read TIFF files with tifffile: their layout, and samples that are not compressed or compressed with deflate.

tifffile detects more damage than libtiff: it verifies the checksum of deflate.
"""

from __future__ import annotations

import logging
from itertools import islice
from math import prod
from typing import Any, BinaryIO

import numpy as np

from mcir.data.codec import Array
from mcir.data.errors import DataError

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_COMPRESSIONS = (1, 8, 32946)  # uncompressed and deflate; others need an optional package of tifffile
_GREY_OR_RGB = (0, 1, 2)
_WHITE_IS_ZERO, _ONE_PLANE, _SEPARATE_PLANES, _PREMULTIPLIED_ALPHA, _ALPHA = 0, 1, 2, 1, 2
_MOST_PAGES = 1000


class TiffPage:
    """The only page of a TIFF file.

    Args:
        stream: file at its start.

    Attributes:
        height: number of rows.
        width: number of columns.
        channels: number of channels, with alpha.
        has_alpha: whether the first extra channel is alpha.
        is_decodable: whether ``decode`` supports the type and compression of the samples.

    Raises:
        DataError: the file has several pages, or samples of a type or in an order that cannot be read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        import tifffile

        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it logs about damaged files is in our errors
        pages: Any = tifffile.TiffFile(stream).pages
        self._page = page = pages.first
        if page.dtype is None or page.dtype.kind not in "bu" or page.dtype.itemsize > 2:
            raise DataError(f"expected TIFF samples of type uint8 or uint16, got {page.dtype}")
        if page.planarconfig not in (_ONE_PLANE, _SEPARATE_PLANES):  # tifffile would return uninitialized memory
            raise DataError(f"expected planar configuration 1 or 2, got {page.planarconfig}")
        check_count(1 + sum(not other.is_reduced for other in islice(pages, 1, _MOST_PAGES)))
        self.height, self.width = int(page.imagelength), int(page.imagewidth)
        self.channels = int(page.samplesperpixel)
        self.has_alpha = page.extrasamples[:1] in ((_ALPHA,), (_PREMULTIPLIED_ALPHA,))
        is_plain = page.photometric in _GREY_OR_RGB and page.bitspersample in (8, 16)
        self.is_decodable = is_plain and page.compression in _COMPRESSIONS
        if self._is_separate and page.dtype.itemsize == 2 and not self.is_decodable:  # OpenCV would mix the planes
            raise DataError(f"16-bit TIFF with {page.compression.name} and separate planes cannot be read")

    @property
    def _is_separate(self) -> bool:
        return bool(self._page.planarconfig == _SEPARATE_PLANES)

    def check_end(self, size: int) -> None:
        """Check that all strips or tiles are inside of a file with a number of bytes."""
        segments = list(zip(self._page.dataoffsets, self._page.databytecounts, strict=False))
        is_complete = len(segments) >= prod(self._page.chunked)
        if not is_complete or any(not count or start + count > size for start, count in segments):
            raise DataError("truncated or damaged")

    def decode(self) -> Array:
        """Return the samples (H, W, C), with alpha."""
        page = self._page
        samples: Array = page.asarray(maxworkers=1)
        if samples.size != self.height * self.width * page.samplesperpixel:
            raise DataError("truncated or damaged")
        samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        if self._is_separate:
            samples = np.moveaxis(samples.reshape(-1, self.height, self.width), 0, 2)
        return self.converted(samples.reshape(self.height, self.width, -1))

    def converted(self, samples: Array) -> Array:
        """Return decoded samples with black as zero, and with colours that are not multiplied by alpha."""
        page, peak = self._page, np.iinfo(samples.dtype).max
        if page.photometric == _WHITE_IS_ZERO:
            samples = ~samples
        if page.extrasamples[:1] == (_PREMULTIPLIED_ALPHA,):
            channels = page.samplesperpixel - len(page.extrasamples)
            colors, alpha = samples[:, :, :channels], samples[:, :, channels, None]
            colors[:] = np.minimum(np.rint(colors * (peak / np.maximum(alpha, 1))), peak)
        return samples


EXTRACT_FRAME = (
    "write a frame (0 is the first) to its own file: "
    """python -c "from PIL import Image; i = Image.open('IN'); i.seek(0); i.save('OUT.png')\""""
)
"""Advice for a file with several images; IN and OUT are its path and that of the new file."""


def is_tiff(start: bytes) -> bool:
    """Return whether a file with these first bytes is a TIFF file."""
    return start[:4] in _STARTS


def check_count(count: int) -> None:
    """Check that a file contains one image.

    Raises:
        DataError: it contains several.
    """
    if count > 1:
        raise DataError(f"expected one image, got {count} pages or frames; {EXTRACT_FRAME}")
