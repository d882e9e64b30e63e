"""Operations of the demo: check an uploaded image, restore it, and compare the result with a ground truth."""

from __future__ import annotations

import functools
import logging
import re
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mcir.atomic import write_atomically
from mcir.data.bundled import TRAIN, VAL, photographs
from mcir.data.codec import Array, encode_png
from mcir.data.degradations import build_degradation
from mcir.data.limits import decoded_size
from mcir.data.reader import FORMATS
from mcir.inference.batch.scores import Scores, check_sizes, score
from mcir.inference.convert import as_array, as_tensor
from mcir.inference.images import Picture, PictureError, probe_picture, read_picture, with_bits, write_picture
from mcir.inference.output_buffer import enlarge_alpha
from mcir.inference.restorer import Restorer
from mcir.inference.tile_planner import Tile
from mcir.registry import Section
from mcir.weights import load_network

KEPT_SECONDS = 3600
"""Seconds for which uploads and results are kept."""

PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png", "astronaut": "astronaut.png", "rocket": "rocket.jpg"}
"""Bundled photographs by the names of examples. The small option files of this repository train on the last two."""

DEGRADATIONS: dict[str, Section] = {
    "noise": {"type": "GaussianNoise", "sigma": 25, "clip": True},
    "haze": {"type": "SyntheticHaze"},
    "rain": {"type": "RainStreaks"},
    "motion blur": {"type": "MotionBlur"},
    "JPEG": {"type": "JPEG", "quality": 20},
}
"""Degradations of the examples for networks of scale 1. For super-resolution, the photographs are downscaled."""

_MAX_LOADED = 3  # networks in memory
_BROWSER_FORMATS = frozenset({"PNG", "JPEG", "WEBP", "BMP"})
_PREVIEW = ".preview.png"

_LOG = logging.getLogger("mcir")


class RequestError(ValueError):
    """A request cannot be fulfilled; the message is shown to the visitor."""


class Restoration(NamedTuple):
    """The files, sizes and computing time of a restoration.

    ``before`` and ``after`` are opaque 8-bit images of the size of the output. ``result`` has the bit depth, the
    transparency and the metadata of the input. ``size`` and ``restored`` are (width, height) of input and output.
    """

    before: Path
    after: Path
    result: Path
    size: tuple[int, int]
    restored: tuple[int, int]
    seconds: float


class DemoService:
    """The networks of a demo and the operations of its page.

    Visitors can read only files in ``folder``. An operation that fails raises a ``RequestError``. Wherever an uploaded
    image is expected, its preview is accepted too.

    Args:
        checkpoints: weight files by the names on the page.
        folder: folder of uploads and results.
        megapixels: largest size of a restored image.
        device: device of the networks; None: a GPU if there is one.
        tile: tile size, as for ``Restorer``.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Path],
        folder: Path,
        megapixels: float,
        device: str | None = None,
        tile: Tile = "auto",
    ) -> None:
        self.names = tuple(checkpoints)
        self.folder = folder.resolve()
        self.results, self.examples = self.folder / "results", self.folder / "examples"
        self._files = dict(checkpoints)
        self._megapixels = megapixels
        self._device = device
        self._tile = tile
        self._load = functools.lru_cache(_MAX_LOADED)(self._load_restorer)
        self._working = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Stop the running restoration, and wait for its end."""
        self._is_closed = True
        with self._working:
            pass

    def check(self) -> None:
        """Load every checkpoint, so that an invalid one is found before the demo starts."""
        for name in reversed(self.names):  # the first networks remain in memory
            self._load(name)

    def restorer(self, name: str) -> Restorer:
        """Return the restorer of a network; if it cannot be loaded, only the log contains the path of its file."""
        if name not in self.names:
            raise RequestError("There is no such network.")
        try:
            return self._load(name)
        except (ValueError, OSError, RuntimeError) as error:
            _LOG.error("%s", error)
            raise RequestError(f"The network '{name}' cannot be loaded.") from error

    def check_image(self, file: str, name: str | None = None) -> tuple[int, int]:
        """Check an image by its header, and return its height and width.

        Args:
            file: uploaded file.
            name: network for the image; None for a ground truth.
        """
        path = Path(file).resolve()
        if not (path.is_relative_to(self.folder) and path.is_file()):
            raise RequestError("The image is no longer available. Upload it again.")
        scale = 1 if name is None else self.restorer(name).scale
        try:
            height, width = _size_in_header(file)
            if width * height * scale**2 <= self._megapixels * 1e6:
                height, width, *_ = probe_picture(file)
                return height, width
        except PictureError as error:
            raise _unreadable(error) from error
        restored = f", restored {width * scale}×{height * scale}" if scale > 1 else ""
        raise RequestError(
            f"The image has {width}×{height} pixels{restored}. The limit of this demo is {self._megapixels:g} "
            "megapixels: crop the image."
        )

    def preview(self, file: str, name: str | None = None) -> str:
        """Return a file that browsers can show: an uploaded file itself, or an 8-bit PNG file next to it."""
        self.check_image(file, name)
        image = _read(file)
        if image.format in _BROWSER_FORMATS:
            return file
        write_picture(f"{file}{_PREVIEW}", _opaque(image))
        return f"{file}{_PREVIEW}"

    def example(self, photo: str, name: str, degradation: str) -> tuple[str, str]:
        """Return the files of a degraded photograph and its ground truth.

        Args:
            photo: key of ``PHOTOS``.
            name: name of the network.
            degradation: key of ``DEGRADATIONS``; ignored for super-resolution, for which the photograph is downscaled.
        """
        scale = self.restorer(name).scale
        if degradation not in DEGRADATIONS or photo not in PHOTOS:
            raise RequestError("There is no such example.")
        kind = f"x{scale}" if scale > 1 else degradation.replace(" ", "-")
        degraded, truth = (self.examples / f"{photo}-{part}.png" for part in (kind, f"truth-{kind}"))
        if not (degraded.is_file() and truth.is_file()):
            gt = photograph(photo)
            gt = np.ascontiguousarray(gt[: gt.shape[0] // scale * scale, : gt.shape[1] // scale * scale])
            degrade = build_degradation({"type": "BicubicDown"} if scale > 1 else DEGRADATIONS[degradation], scale)
            write_atomically(degraded, encode_png(as_array(degrade(as_tensor(gt), np.random.default_rng(0)))))
            write_atomically(truth, encode_png(gt))
        return str(degraded), str(truth)

    def photo_of(self, file: str) -> str | None:
        """Return the key in ``PHOTOS`` for the file of an example; None for an uploaded image."""
        path = Path(file)
        return path.name.partition("-")[0] if path.parent == self.examples else None

    def restore(self, file: str, name: str, ensemble: bool = False) -> Restoration:
        """Restore an image, and write the result; with ``ensemble``, it is the mean over eight flips and rotations."""
        file = _original(file)
        self.check_image(file, name)
        restorer = self.restorer(name)
        source = _read(file)

        def stop_if_closed(fraction: float) -> None:
            if self._is_closed:
                raise RequestError("The demo has stopped.")

        with self._working:
            stop_if_closed(0)
            start = time.perf_counter()
            try:
                restorer.ensemble = ensemble
                (output,) = restorer.pictures([source], stop_if_closed)
            except RequestError:
                raise
            except ValueError as error:
                raise RequestError(f"The image cannot be restored: {error}") from error
            seconds = time.perf_counter() - start
            before, after, result = self._write(source, output, f"{_safe(Path(file).stem)}-{_safe(name)}.png")
        restored = (output.width, output.height)
        return Restoration(before, after, result, (source.width, source.height), restored, seconds)

    def measure(self, file: str, result: str, truth: str) -> Scores:
        """Compare an image and its restored version with a ground truth."""
        files = _original(file), result, _original(truth)
        size, restored, expected = map(self.check_image, files)
        scale = restored[0] // size[0]
        if not scale or restored != (scale * size[0], scale * size[1]):
            raise RequestError("This result does not belong to the image. Restore it again.")
        try:
            check_sizes(size, expected, scale, 0)
        except ValueError as error:
            raise RequestError(f"The images cannot be compared: {error}.") from error
        source, output, gt = (_read(path).pixels for path in files)
        return score(source, output, gt, scale)

    def _write(self, source: Picture, output: Picture, name: str) -> tuple[Path, Path, Path]:
        """Write the images before and after for the page, and the result; remove old results."""
        self.results.mkdir(parents=True, exist_ok=True)
        for old in self.results.iterdir():
            if old.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        folder = self.results / uuid.uuid4().hex
        views = (_opaque(_enlarged(source, output.width // source.width)), _opaque(output))
        files = (folder / "before.png", folder / "after.png", folder / name)
        for path, image in zip(files, (*views, replace(output, format="PNG")), strict=True):
            write_picture(path, image)
        return files

    def _load_restorer(self, name: str) -> Restorer:
        return Restorer(load_network(self._files[name]), device=self._device, tile=self._tile)


def photograph(title: str) -> Array:
    """Return one of ``PHOTOS`` as (H, W, 3), uint8."""
    file = PHOTOS[title]
    return photographs({file: {**TRAIN, **VAL}[file]}).read(file)


def _size_in_header(file: str) -> tuple[int, int]:
    """Return the height and width that a decoder would allocate, from the header, even for a truncated file."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return decoded_size(image)
    except OSError as error:  # its text contains the path
        raise PictureError(Path(file), f"expected an image ({', '.join(FORMATS)}).") from error
    except Exception as error:  # Pillow's readers raise many classes
        raise PictureError(Path(file), f"expected an image ({', '.join(FORMATS)}): {error}") from error


def _read(file: str) -> Picture:
    try:
        return read_picture(Path(file))
    except PictureError as error:
        raise _unreadable(error) from error


def _unreadable(error: PictureError) -> RequestError:
    """Return an error for an unreadable image that does not contain its path."""
    return RequestError(f"This file cannot be read as an image: {error.path.name}: {error.reason}")


def _original(file: str) -> str:
    """Return the original file of a preview, or the file itself."""
    original = file.removesuffix(_PREVIEW)
    return original if Path(original).is_file() else file


def _safe(name: str) -> str:
    """Return a name that is valid in all file systems and HTTP headers."""
    return re.sub(r"[^\w.-]+", "_", name).encode()[:80].decode(errors="ignore").strip("._") or "image"


def _opaque(image: Picture) -> Picture:
    """Return an 8-bit image without alpha, on a white background."""
    image = with_bits(image, 8)
    pixels = image.pixels
    if image.alpha is not None:
        opacity = image.alpha.astype(np.float32)[:, :, None] / 255
        pixels = np.rint(255 + (pixels - np.float32(255)) * opacity).astype(np.uint8)
    return replace(image, pixels=pixels, alpha=None, exif=None, format="PNG")


def _enlarged(image: Picture, scale: int) -> Picture:
    """Return an image enlarged with bicubic interpolation."""
    pixels = np.dstack([enlarge_alpha(channel, scale) for channel in np.moveaxis(image.pixels, 2, 0)])
    alpha = None if image.alpha is None else enlarge_alpha(image.alpha, scale)
    return replace(image, pixels=pixels, alpha=alpha)
