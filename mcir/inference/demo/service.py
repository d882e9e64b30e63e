"""What the demo does for a visitor, without a word of the web: look at a picture, restore it, measure the result."""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from mcir.atomic import write_atomically
from mcir.data.bundled import TRAIN, VAL, photographs
from mcir.data.codec import Array, any_size, encode_png
from mcir.data.degradations import build_degradation
from mcir.inference.batch.scores import Scores, check_sizes, score
from mcir.inference.convert import as_array, as_tensor
from mcir.inference.demo.shelf import Shelf
from mcir.inference.images import Picture, PictureError, probe_picture, read_picture, with_bits, write_picture
from mcir.inference.output_buffer import enlarge_alpha
from mcir.inference.restorer import Restorer
from mcir.inference.tile_planner import Tile
from mcir.registry import Section
from mcir.weights import load_network

PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png", "astronaut": "astronaut.png", "rocket": "rocket.jpg"}
"""Bundled photographs to try a network on. The small options of this repository train on the last two."""

DAMAGES: dict[str, Section] = {
    "noise": {"type": "GaussianNoise", "sigma": 25, "clip": True},
    "haze": {"type": "SyntheticHaze"},
    "rain": {"type": "RainStreaks"},
    "motion blur": {"type": "MotionBlur"},
    "JPEG": {"type": "JPEG", "quality": 20},
}
"""What is done to them for a network that keeps the size; they are shrunk for one that enlarges."""

_LOADED = 3  # networks that are kept at a time
_SEEN_BY_BROWSERS = frozenset({"PNG", "JPEG", "WEBP", "BMP"})
_PREVIEW = ".preview.png"
_EXAMPLES = "examples"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
_TILE_WIDTH, _TILE_HEIGHT, _SMALLEST_TILE = 322, 323, 16  # TIFF's, which says so

_LOG = logging.getLogger("mcir")


class Refusal(ValueError):
    """What a visitor asked for and does not get; the message is for them."""


@dataclass(frozen=True)
class Facts:
    """What a person may want to know of a network."""

    architecture: str
    scale: int
    parameters: int


@dataclass(frozen=True)
class Outcome:
    """What came of a picture.

    Attributes:
        before: 8-bit file of the input, opaque, enlarged bicubically to the size of the output.
        after: 8-bit file of the output, opaque.
        result: file of the output as it is, to be kept.
        size: width and height of the input.
        restored: width and height of the output.
        seconds: that the network took.
    """

    before: Path
    after: Path
    result: Path
    size: tuple[int, int]
    restored: tuple[int, int]
    seconds: float


class DemoService:
    """The networks of a demo and what is made with them.

    Args:
        checkpoints: files by the names that visitors see.
        shelf: where visitors' files are; nothing else is read for them.
        megapixels: of the largest restored picture.
        device: where networks run; the best there is without.
        tile: the longest side of what is restored at once.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Path],
        shelf: Shelf,
        megapixels: float,
        device: str | None = None,
        tile: Tile = "auto",
    ) -> None:
        self.names = tuple(checkpoints)
        self._files = dict(checkpoints)
        self._shelf = shelf
        self._megapixels = megapixels
        self._device = device
        self._tile = tile
        self._restorers: OrderedDict[str, Restorer] = OrderedDict()
        self._loading, self._working = threading.Lock(), threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Let go of the picture that is being restored, and wait until nothing is written any more."""
        self._is_closed = True
        with self._working:
            pass

    def check(self) -> None:
        """See that every checkpoint can be loaded and restores here, so that no visitor finds out.

        Raises:
            ValueError: one cannot, or not on this device or in these tiles.
            OSError: a file cannot be read.
        """
        for name in reversed(self.names):  # so that the first ones stay in memory
            self._loaded(name)

    def facts(self, name: str) -> Facts:
        """Return the facts of a network, which is loaded if it is not.

        Raises:
            Refusal: there is no such network, or its file cannot be read here.
        """
        restorer = self._restorer(name)
        parameters = sum(parameter.numel() for parameter in restorer.network.parameters())
        return Facts(restorer.architecture, restorer.scale, parameters)

    def admit(self, picture: str, name: str | None = None) -> tuple[int, int]:
        """Return the height and width of a picture that a network may restore; only its header is read.

        Without a network it is a picture that is compared with what is restored.

        Raises:
            Refusal: it is no picture, or too large.
        """
        if not self._shelf.holds(picture):
            raise Refusal("The picture is not here any more. Drop it again.")
        scale = 1 if name is None else self.facts(name).scale
        try:
            width, height = _stored_size(picture)
            if width * height * scale**2 <= self._megapixels * 1e6:  # else nothing more is read of it
                height, width, *_ = probe_picture(picture)
                return height, width
        except PictureError as error:
            raise _unreadable(error, picture) from error
        becomes = f", restored {width * scale}×{height * scale}" if scale > 1 else ""
        raise Refusal(
            f"The picture has {width}×{height} pixels{becomes}. At most {self._megapixels:g} megapixels are restored "
            "here: cut a part out of it."
        )

    def preview(self, picture: str, name: str | None = None) -> str:
        """Return a file that shows an admitted picture in a browser: itself, or one beside it.

        Raises:
            Refusal: it is no picture, or too large.
        """
        self.admit(picture, name)
        image = _read(picture)
        if image.format in _SEEN_BY_BROWSERS:
            return picture
        shown = f"{picture}{_PREVIEW}"
        write_picture(shown, _opaque(image))
        return shown

    def example(self, photo: str, name: str, damage: str) -> tuple[str, str]:
        """Return files of a degraded photograph and of its ground truth, fit for a network.

        Args:
            photo: of ``PHOTOS``.
            name: the network.
            damage: of ``DAMAGES``; a network that enlarges gets a shrunk photograph, whatever this says.

        Raises:
            Refusal: there is no such photograph, network or damage.
        """
        scale = self.facts(name).scale
        if damage not in DAMAGES or photo not in PHOTOS:
            raise Refusal("There is no such example.")
        kind = f"x{scale}" if scale > 1 else damage.replace(" ", "-")
        given, wanted = (self._shelf.folder / _EXAMPLES / f"{photo}-{part}.png" for part in (kind, f"truth-{kind}"))
        if not (given.is_file() and wanted.is_file()):
            gt = photograph(photo)
            gt = np.ascontiguousarray(gt[: gt.shape[0] // scale * scale, : gt.shape[1] // scale * scale])
            degrade = build_degradation({"type": "BicubicDown"} if scale > 1 else DAMAGES[damage], scale)
            write_atomically(given, encode_png(as_array(degrade(as_tensor(gt), np.random.default_rng(0)))))
            write_atomically(wanted, encode_png(gt))
        return str(given), str(wanted)

    def photo_of(self, picture: str) -> str | None:
        """Return which of ``PHOTOS`` an example was made of; None for a picture of the visitor's own."""
        file = Path(picture)
        return file.name.partition("-")[0] if file.parent == self._shelf.folder / _EXAMPLES else None

    def restore(self, picture: str, name: str, ensemble: bool = False) -> Outcome:
        """Restore a picture and write what came of it.

        Args:
            picture: its file, or the one that ``preview`` made of it.
            name: the network.
            ensemble: the mean over eight turned and mirrored versions.

        Raises:
            Refusal: of the picture, or of the memory that is left.
        """
        picture = _original(picture)
        self.admit(picture, name)
        restorer = self._restorer(name)
        source = _read(picture)
        with self._working:
            start = time.perf_counter()
            try:
                restorer.ensemble = ensemble
                (output,) = restorer.pictures([source])
            except Refusal:
                raise
            except ValueError as error:  # of the memory, or of the channels
                raise Refusal(f"This cannot be done: {error}") from error
            seconds = time.perf_counter() - start
            before, after, result = self._written(source, output, f"{_plain(Path(picture).stem)}-{_plain(name)}.png")
        restored = (output.width, output.height)
        return Outcome(before, after, result, (source.width, source.height), restored, seconds)

    def measure(self, picture: str, result: str, truth: str) -> Scores:
        """Compare what came of a picture, and the picture, with a ground truth.

        Args:
            picture: what was restored, as ``restore`` was given it.
            result: the file of the output.
            truth: the ground truth, or the file that ``preview`` made of it.

        Raises:
            Refusal: one of them is no picture, or they do not fit each other.
        """
        files = _original(picture), result, _original(truth)
        size, restored, wanted = map(self.admit, files)
        scale = restored[0] // size[0]
        if not scale or restored != (scale * size[0], scale * size[1]):
            raise Refusal("This result is not that of the picture. Restore it again.")
        try:
            check_sizes(size, wanted, scale, 0)
        except ValueError as error:
            raise Refusal(f"No comparison is possible: {error}.") from error
        source, output, gt = (_read(file).pixels for file in files)
        return score(source, output, gt, scale)

    def _written(self, source: Picture, output: Picture, name: str) -> tuple[Path, Path, Path]:
        """Write what a page shows of a restored picture, and the picture."""
        self._shelf.sweep()
        folder = self._shelf.folder / uuid.uuid4().hex
        views = (_opaque(_enlarged(source, output.width // source.width)), _opaque(output))
        files = (folder / "before.png", folder / "after.png", folder / name)
        for file, picture in zip(files, (*views, replace(output, format="PNG")), strict=True):
            write_picture(file, picture)
        return files

    def _go_on(self, network: nn.Module, inputs: Any) -> None:
        """Run before each tile: end at once when the demo ends."""
        if self._is_closed:
            raise Refusal("The demo has ended.")

    def _restorer(self, name: str) -> Restorer:
        """Return what restores with a checkpoint, for a visitor, who is not told where it lies."""
        if name not in self._files:
            raise Refusal("There is no such network.")
        try:
            return self._loaded(name)
        except (ValueError, OSError, RuntimeError) as error:
            _LOG.error("%s", error)
            raise Refusal(f"The network '{name}' cannot be loaded.") from error

    def _loaded(self, name: str) -> Restorer:
        """Return what restores with a checkpoint, loaded if it is not; what was not used for longest makes room."""
        with self._loading:
            if name not in self._restorers:
                restorer = Restorer(load_network(self._files[name]), device=self._device, tile=self._tile)
                restorer.network.register_forward_pre_hook(self._go_on)
                self._restorers[name] = restorer
            self._restorers.move_to_end(name)
            while len(self._restorers) > _LOADED:
                self._restorers.popitem(last=False)
            return self._restorers[name]


def photograph(title: str) -> Array:
    """Return one of the ``PHOTOS`` (H, W, 3).

    Raises:
        DataError: scikit-image or its photograph is not there.
    """
    file = PHOTOS[title]
    return photographs({file: {**TRAIN, **VAL}[file]}).read(file)


# -- parts ------------------------------------------------------------------------------------------------------------


def _stored_size(picture: str) -> tuple[int, int]:
    """Return width and height of what would have to be decoded, from the first bytes that say so."""
    try:
        with any_size(), Image.open(picture, formats=_FORMATS) as image:
            tags: Any = getattr(image, "tag_v2", {})
            tile = (tags.get(_TILE_WIDTH, image.width), tags.get(_TILE_HEIGHT, image.height))
            size = image.size
    except Exception as error:  # Pillow's readers raise what they like
        raise PictureError(f"{picture}: not an image of a known kind") from error
    if min(tile) < min(*size, _SMALLEST_TILE):
        raise PictureError(f"{picture}: a TIFF file of uncommonly small tiles")
    return max(size[0], tile[0]), max(size[1], tile[1])


def _read(picture: str) -> Picture:
    try:
        return read_picture(Path(picture))
    except PictureError as error:
        raise _unreadable(error, picture) from error


def _unreadable(error: PictureError, picture: str) -> Refusal:
    """Return what a visitor is told of a file that is no picture: nothing of where it lies."""
    return Refusal(f"This file cannot be read as a picture: {str(error).replace(picture, Path(picture).name)}")


def _original(picture: str) -> str:
    """Return the file that a preview was made of, or the file itself."""
    original = picture.removesuffix(_PREVIEW)
    return original if Path(original).is_file() else picture


def _plain(name: str) -> str:
    """Return a name that is safe in any file system and header."""
    return re.sub(r"[^\w.-]+", "_", name).encode()[:80].decode(errors="ignore").strip("._") or "picture"


def _opaque(picture: Picture) -> Picture:
    """Return a picture as a page shows it best: of 8 bits, on white where it is transparent."""
    picture = with_bits(picture, 8)
    pixels = picture.pixels
    if picture.alpha is not None:
        share = picture.alpha.astype(np.float32)[:, :, None] / 255
        pixels = np.rint(255 + (pixels - np.float32(255)) * share).astype(np.uint8)
    return replace(picture, pixels=pixels, alpha=None, exif=None, format="PNG")


def _enlarged(picture: Picture, scale: int) -> Picture:
    """Return a picture enlarged bicubically."""
    pixels = np.dstack([enlarge_alpha(channel, scale) for channel in np.moveaxis(picture.pixels, 2, 0)])
    alpha = None if picture.alpha is None else enlarge_alpha(picture.alpha, scale)
    return replace(picture, pixels=pixels, alpha=alpha)
