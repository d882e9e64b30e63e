"""Photographs that come with scikit-image: a training and a validation set without a download.

They are read from the folder of the installed package. Only photographs that are in the public domain or under CC0
and that are inside the wheel are used; nothing is ever fetched.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcir.data.codec import decode
from mcir.data.errors import DataError
from mcir.data.paired import PairDataset
from mcir.data.samples import SampleSpec
from mcir.data.storage import Memory
from mcir.data.transforms import Color, Window
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
"""The photographs that are trained on, and the part that is used (the whole without)."""

VAL: dict[str, Window | None] = {
    "chelsea.png": None,
    "coffee.png": None,
}
"""The photographs that are held out, whole: a cat's fur, and a set table."""

_DEFAULT: DegradationSection = {"type": "BicubicDown"}


@DATASETS.register()
class BundledPhotos(PairDataset):
    """Photographs of scikit-image as ground truths, and what a degradation makes of them.

    Args:
        split: "train" (eight photographs, four of them grey) or "val" (two colour photographs that are not trained on).
        scale: size of a ground truth / size of its degraded image.
        gt_size: side of the square that is cut from a ground truth; without it images come whole.
        use_hflip: mirror left-right with p = ½.
        use_rot: mirror top-bottom and transpose, each with p = ½.
        color: "rgb" (grey is repeated) or "gray" (luma of colours).
        degradation: makes the degraded images; MATLAB's bicubic shrinking without.
        tile_size: cut the photographs into squares of that side, each an image of its own; what is left over at the
            bottom and right is not used. Without it the photographs are whole.
        max_images: use so many images, chosen by their names alone; all without.
        subset_seed: of that choice; of one seed a smaller subset lies in a larger one.

    Raises:
        DataError: an argument is out of range, or the installed scikit-image lacks a photograph.
    """

    def __init__(
        self,
        split: Literal["train", "val"],
        scale: int = 2,
        gt_size: int | None = None,
        use_hflip: bool = False,
        use_rot: bool = False,
        color: Color = "rgb",
        degradation: DegradationSection = _DEFAULT,
        tile_size: int | None = None,
        max_images: int | None = None,
        subset_seed: int = 0,
    ) -> None:
        if split not in ("train", "val"):
            raise DataError(f"BundledPhotos: split is {split!r}; it must be 'train' or 'val'.")
        super().__init__(
            in_tiles(photographs(TRAIN if split == "train" else VAL), tile_size),
            degradation=degradation,
            scale=scale,
            gt_size=gt_size,
            use_hflip=use_hflip,
            use_rot=use_rot,
            color=color,
            max_images=max_images,
            subset_seed=subset_seed,
            what=f"BundledPhotos ({split})",
        )

    @classmethod
    def sample_spec(cls, *, scale: int = 2, **arguments: Any) -> SampleSpec | None:
        """Return the keys and sizes of the tensors of a sample (see ``PairDataset``)."""
        return super().sample_spec(scale=scale, **arguments)


def photographs(parts: dict[str, Window | None]) -> Memory:
    """Read the named photographs, cut to the named parts.

    Raises:
        DataError: scikit-image or one of its photographs is not there.
    """
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise DataError("BundledPhotos: scikit-image, which brings the photographs, is not installed.")
    folder = Path(package.submodule_search_locations[0]) / "data"
    missing = [name for name in parts if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"BundledPhotos: {folder} has no {', '.join(missing)}; install scikit-image from its wheel (≥ 0.22)."
        )
    return Memory(
        {name: np.ascontiguousarray(decode((folder / name).read_bytes(), name, part)) for name, part in parts.items()}
    )


def in_tiles(images: Memory, size: int | None) -> Memory:
    """Return images as squares, ``rocket_s001.jpg`` and so on, counted along the rows; as they are without a size.

    Raises:
        DataError: an image is smaller than a square.
    """
    if size is None:
        return images
    least = min(min(images.info(name)[:2]) for name in images.keys())  # noqa: SIM118 (a storage is no mapping)
    if not 1 <= size <= least:
        raise DataError(f"BundledPhotos: tile_size is {size}; it must be from 1 to {least}.")
    tiles = {}
    for name in images.keys():  # noqa: SIM118
        info = images.info(name)
        corners = itertools.product(*(range(0, side - size + 1, size) for side in info[:2]))
        for number, (top, left) in enumerate(corners, start=1):
            key = f"{Path(name).stem}_s{number:03d}{Path(name).suffix}"
            tiles[key] = images.read_crop(name, top, left, size, size)
    return Memory(tiles)
