"""The demo's work without its web page: check an uploaded image, restore it, compare the result."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mcir.atomic import write_atomically
from mcir.data.bundled import TRAIN, VAL, photographs
from mcir.data.codec import Array, decoded_size, encode_png
from mcir.data.degradations import build_degradation
from mcir.inference.batch.scores import Scores, check_sizes, score
from mcir.inference.convert import as_array, as_tensor
from mcir.inference.images import Picture, PictureError, probe_picture, read_picture, with_bits, write_picture
from mcir.inference.output_buffer import enlarge_alpha
from mcir.inference.restorer import Restorer
from mcir.inference.tile_planner import Tile
from mcir.registry import Section
from mcir.weights import load_network

KEPT_SECONDS = 3600
"""Time for which uploads and results are kept."""

PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png", "astronaut": "astronaut.png", "rocket": "rocket.jpg"}
"""Bundled photographs to try a network on. The small option files of this repository train on the last two."""

DEGRADATIONS: dict[str, Section] = {
    "noise": {"type": "GaussianNoise", "sigma": 25, "clip": True},
    "haze": {"type": "SyntheticHaze"},
    "rain": {"type": "RainStreaks"},
    "motion blur": {"type": "MotionBlur"},
    "JPEG": {"type": "JPEG", "quality": 20},
}
"""Degradations of the photographs for a network that keeps the size; for super-resolution they are downscaled."""

_LOADED = 3  # networks that stay in memory
_SHOWN_BY_BROWSERS = frozenset({"PNG", "JPEG", "WEBP", "BMP"})
_PREVIEW = ".preview.png"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")

_LOG = logging.getLogger("mcir")


class RequestError(ValueError):
    """A request that cannot be fulfilled; the message is shown to the visitor."""


@dataclass(frozen=True)
class NetworkFacts:
    """The facts about a network that the page shows."""

    architecture: str
    scale: int
    parameters: int


@dataclass(frozen=True)
class Restoration:
    """The files of a restored image.

    Attributes:
        before: 8-bit file of the input, opaque, enlarged bicubically to the size of the output.
        after: 8-bit file of the output, opaque.
        result: output with the bit depth and metadata of the input.
        size: width and height of the input.
        restored: width and height of the output.
        seconds: time that the network took.
    """

    before: Path
    after: Path
    result: Path
    size: tuple[int, int]
    restored: tuple[int, int]
    seconds: float


class DemoService:
    """The networks of a demo and the operations of its page.

    Args:
        checkpoints: weight files by the names that visitors see.
        folder: folder of uploads and results; no other file is read for a visitor.
        megapixels: size of the largest restored image.
        device: device of the networks; None: the best one available.
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
        self._restorers: OrderedDict[str, Restorer] = OrderedDict()
        self._loading, self._working = threading.Lock(), threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Stop the running restoration and wait until it has stopped."""
        self._is_closed = True
        with self._working:
            pass

    def check(self) -> None:
        """Load every checkpoint once, so that an invalid one is found before the demo starts.

        Raises:
            ValueError: a checkpoint cannot be loaded, or cannot run on this device or with these tiles.
            OSError: a file cannot be read.
        """
        for name in reversed(self.names):  # the first ones stay in memory
            self._load(name)

    def facts(self, name: str) -> NetworkFacts:
        """Return the facts about a network.

        Raises:
            RequestError: there is no such network, or its file cannot be read.
        """
        restorer = self._restorer(name)
        parameters = sum(parameter.numel() for parameter in restorer.network.parameters())
        return NetworkFacts(restorer.architecture, restorer.scale, parameters)

    def check_image(self, file: str, name: str | None = None) -> tuple[int, int]:
        """Return height and width of an uploaded image from its header, if it is not too large.

        Args:
            file: uploaded file.
            name: network that will restore the image; None for a ground truth.

        Raises:
            RequestError: the file is not an image, too large, or not an uploaded one.
        """
        if not self._is_uploaded(file):
            raise RequestError("The image is no longer available. Upload it again.")
        scale = 1 if name is None else self.facts(name).scale
        try:
            height, width = _size_in_header(file)
            if width * height * scale**2 <= self._megapixels * 1e6:
                height, width, *_ = probe_picture(file)
                return height, width
        except PictureError as error:
            raise _unreadable(error, file) from error
        restored = f", restored {width * scale}×{height * scale}" if scale > 1 else ""
        raise RequestError(
            f"The image has {width}×{height} pixels{restored}. The limit of this demo is {self._megapixels:g} "
            "megapixels: crop the image."
        )

    def preview(self, file: str, name: str | None = None) -> str:
        """Return a file that shows an uploaded image in a browser: the file itself, or an 8-bit PNG next to it.

        Raises:
            RequestError: the file is not an image, or too large.
        """
        self.check_image(file, name)
        image = _read(file)
        if image.format in _SHOWN_BY_BROWSERS:
            return file
        shown = f"{file}{_PREVIEW}"
        write_picture(shown, _opaque(image))
        return shown

    def example(self, photo: str, name: str, degradation: str) -> tuple[str, str]:
        """Return the files of a degraded photograph and its ground truth.

        Args:
            photo: a key of ``PHOTOS``.
            name: the network.
            degradation: a key of ``DEGRADATIONS``; ignored for super-resolution, which gets a downscaled photograph.

        Raises:
            RequestError: there is no such photograph, network or degradation.
        """
        scale = self.facts(name).scale
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
        """Return the key in ``PHOTOS`` of an example's file; None for an uploaded image."""
        path = Path(file)
        return path.name.partition("-")[0] if path.parent == self.examples else None

    def restore(self, file: str, name: str, ensemble: bool = False) -> Restoration:
        """Restore an image and write the result.

        Args:
            file: uploaded file, or its preview.
            name: the network.
            ensemble: whether the result is the mean over eight flips and rotations.

        Raises:
            RequestError: the image cannot be restored, or memory is not sufficient.
        """
        file = _original(file)
        self.check_image(file, name)
        restorer = self._restorer(name)
        source = _read(file)
        with self._working:
            start = time.perf_counter()
            try:
                restorer.ensemble = ensemble
                (output,) = restorer.pictures([source], self._check_open)
            except RequestError:
                raise
            except ValueError as error:  # memory or channels
                raise RequestError(f"The image cannot be restored: {error}") from error
            seconds = time.perf_counter() - start
            before, after, result = self._write(source, output, f"{_safe(Path(file).stem)}-{_safe(name)}.png")
        restored = (output.width, output.height)
        return Restoration(before, after, result, (source.width, source.height), restored, seconds)

    def measure(self, file: str, result: str, truth: str) -> Scores:
        """Compare an image and its restored version with a ground truth.

        Args:
            file: the restored file, as given to ``restore``.
            result: the output file.
            truth: ground truth, or its preview.

        Raises:
            RequestError: a file is not an image, or the sizes do not match.
        """
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

    def _is_uploaded(self, file: str) -> bool:
        try:
            path = Path(file).resolve()
            return path.is_relative_to(self.folder) and path.is_file()
        except (OSError, ValueError):  # a name that is too long or contains a null byte
            return False

    def _write(self, source: Picture, output: Picture, name: str) -> tuple[Path, Path, Path]:
        """Write the two images that the page shows, and the result; remove old results."""
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

    def _check_open(self, progress: float) -> None:
        """Stop a restoration between two tiles when the demo stops."""
        if self._is_closed:
            raise RequestError("The demo has stopped.")

    def _restorer(self, name: str) -> Restorer:
        """Return the restorer of a network, without showing the visitor where its file is."""
        if name not in self._files:
            raise RequestError("There is no such network.")
        try:
            return self._load(name)
        except (ValueError, OSError, RuntimeError) as error:
            _LOG.error("%s", error)
            raise RequestError(f"The network '{name}' cannot be loaded.") from error

    def _load(self, name: str) -> Restorer:
        """Return the restorer of a network; the least recently used one is unloaded."""
        with self._loading:
            if name not in self._restorers:
                network = load_network(self._files[name])
                self._restorers[name] = Restorer(network, device=self._device, tile=self._tile)
            self._restorers.move_to_end(name)
            while len(self._restorers) > _LOADED:
                self._restorers.popitem(last=False)
            return self._restorers[name]


def photograph(title: str) -> Array:
    """Return one of ``PHOTOS`` as (H, W, 3), uint8.

    Raises:
        DataError: scikit-image or its photograph is missing.
    """
    file = PHOTOS[title]
    return photographs({file: {**TRAIN, **VAL}[file]}).read(file)


def _size_in_header(file: str) -> tuple[int, int]:
    """Return the height and width that a decoder would allocate, from the header of a file in a supported format."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return decoded_size(image)
    except Exception as error:  # Pillow's readers raise many classes
        raise PictureError(f"{file}: expected an image ({', '.join(_FORMATS)}): {error}") from error


def _read(file: str) -> Picture:
    try:
        return read_picture(Path(file))
    except PictureError as error:
        raise _unreadable(error, file) from error


def _unreadable(error: PictureError, file: str) -> RequestError:
    """Return the error of an unreadable image, without its path."""
    return RequestError(f"This file cannot be read as an image: {str(error).replace(file, Path(file).name)}")


def _original(file: str) -> str:
    """Return the file that a preview was made from, or the file itself."""
    original = file.removesuffix(_PREVIEW)
    return original if Path(original).is_file() else file


def _safe(name: str) -> str:
    """Return a name that is valid in any file system and HTTP header."""
    return re.sub(r"[^\w.-]+", "_", name).encode()[:80].decode(errors="ignore").strip("._") or "image"


def _opaque(image: Picture) -> Picture:
    """Return an image with 8 bits, on white where it is transparent."""
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
