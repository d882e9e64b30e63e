"""Photographs of the installed scikit-image: a training and a validation set without a download.

All of them are in the public domain or under CC0.
"""

import importlib.util
import itertools
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mcir.checks import check_argument, check_choice
from mcir.data.degradations import DefaultSection
from mcir.data.errors import DataError
from mcir.data.paired import PairDataset, Sources
from mcir.data.reader import decode
from mcir.data.storage import Memory
from mcir.data.transforms import Window
from mcir.domains import Scale, Side
from mcir.errors import ArgumentError
from mcir.registry import DATASETS, DegradationSection

TRAIN: dict[str, Window | None] = {
    "astronaut.png": None,
    "brick.png": None,
    "camera.png": None,
    "grass.png": None,
    "gravel.png": None,
    "hubble_deep_field.jpg": None,
    "retina.jpg": Window(200, 200, 1000, 1000),  # without the black around the eye
    "rocket.jpg": None,
}
"""Training photographs, with the part of each that is used; None: the full photograph."""

VAL: dict[str, Window | None] = {
    "chelsea.png": None,
    "coffee.png": None,
}
"""Validation photographs."""

_DEFAULT_DEGRADATION = DefaultSection(type="BicubicDown")


@DATASETS.register()
@dataclass(eq=False)
class BundledPhotos(PairDataset):
    """Photographs of scikit-image as ground truths, and their degraded images."""

    split: Literal["train", "val"]
    """"train" (eight photographs, four of them grey) or "val" (two other photographs, in colour)."""
    _: KW_ONLY
    scale: Scale = 2
    """Size of a ground truth / size of its degraded image."""
    degradation: DegradationSection | None = _DEFAULT_DEGRADATION
    """Degradation that makes the degraded images."""
    tile_size: Side | None = None
    """Side of the square tiles into which photographs are divided; each tile is an image of the set. Remaining pixels
    at the bottom and right are not used. Default: photographs are not divided."""

    @property
    def label(self) -> str:
        """Name of the data set in messages."""
        return f"BundledPhotos ({self.split})"

    def open_sources(self) -> Sources:
        """Read the photographs.

        Raises:
            ArgumentError: an argument is out of range.
            DataError: the installed scikit-image lacks a photograph.
        """
        check_choice("split", self.split, ("train", "val"))
        if self.degradation is None:
            raise ArgumentError("degradation", "expected a degradation, got null.")
        return Sources(divide(photographs(TRAIN if self.split == "train" else VAL), self.tile_size))


def photographs(parts: dict[str, Window | None]) -> Memory:
    """Read photographs of scikit-image.

    Args:
        parts: part of each photograph to read, by file name; None: the full photograph.

    Raises:
        DataError: scikit-image or one of its photographs is missing.
    """
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise DataError("The bundled photographs are part of scikit-image, which is not installed.")
    folder = Path(package.submodule_search_locations[0]) / "data"
    missing = [name for name in parts if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: {', '.join(missing)} is missing; install scikit-image from its wheel (≥ 0.22).")
    return Memory(
        {name: np.ascontiguousarray(decode((folder / name).read_bytes(), name, part)) for name, part in parts.items()}
    )


def divide(images: Memory, size: int | None) -> Memory:
    """Divide images into square tiles, ``rocket_s001.jpg`` …, numbered row by row.

    Args:
        images: images to divide.
        size: side of a tile; None: the images are returned undivided.

    Raises:
        ArgumentError: an image is smaller than a tile.
    """
    if size is None:
        return images
    smallest = min(min(images.info(name)[:2]) for name in images.keys())  # noqa: SIM118 (not a mapping)
    check_argument("tile_size", size, 1 <= size <= smallest, f"1 … {smallest}")
    tiles = {}
    for name in images.keys():  # noqa: SIM118
        info = images.info(name)
        corners = itertools.product(*(range(0, side - size + 1, size) for side in info[:2]))
        for number, (top, left) in enumerate(corners, start=1):
            key = f"{Path(name).stem}_s{number:03d}{Path(name).suffix}"
            tiles[key] = images.read(name, Window(top, left, size, size))
    return Memory(tiles)
