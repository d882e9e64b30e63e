"""Noisy images alone, for training without clean ones: overlapping patches, or observations of the same patch.

The noise is made of clean images, or the images are noisy as they are. Nothing is mirrored or turned: the methods that
learn from noise alone leave augmentation out on purpose (arXiv 2106.10070, Section 2).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mcir.data.bundled import TRAIN, VAL, in_tiles, photographs
from mcir.data.degradations import Degradation, build_degradation
from mcir.data.degraded import DegradedImages, cut, tensor
from mcir.data.errors import DataError
from mcir.data.pairing import Small, check_pairs, read_names
from mcir.data.sampler import SampleIndex
from mcir.data.samples import SampleSpec
from mcir.data.storage import Storage, open_storage, stem
from mcir.data.transforms import Color, Window, padded, place
from mcir.registry import DATASETS, DegradationSection

_LOG = logging.getLogger("mcir")
_DEFAULT: DegradationSection = {"type": "HeteroscedasticNoise"}
_BUNDLED = {"bundled": TRAIN, "bundled:val": VAL}


class _Observed(TypedDict):
    lq: Tensor
    lq_path: str
    gt_path: str


class NoisyItem(_Observed, total=False):
    """A sample of noisy patches.

    ``lq`` (2, C, P, P) is float32, or uint8 where images of 8 bits are noisy as they are. ``boxes`` (2, 4), of pairs of
    patches, float32: top, left, bottom and right of each patch in pixels of the image. Both paths are the image's.
    """

    boxes: Tensor


class _AsTheyAre:
    scale = 1
    margin = 0

    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        return gt


class NoisyImages(Dataset[NoisyItem]):
    """What both sets of noisy patches are: images, and how noise comes to them.

    Args:
        dataroot: folder of the images, or a data base (name ends in ``.lmdb``); ``bundled`` are the photographs that
            ``BundledPhotos`` trains on, ``bundled:val`` those that it holds out.
        patch_size: side of a patch.
        noise: a degradation of scale 1 that makes noisy images of clean ones; null: they are noisy as they are.
        meta_info_file: text file that names the images to use, one a line.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``; chosen by the path without.
        small: what becomes of images smaller than a patch: "error" names them, "skip" leaves them out, "pad" mirrors
            what is noisy at its bottom and right.
        color: "rgb" (grey is repeated, then it gets noise in colour) or "gray" (luma of colours).
        tile_size: cut the bundled photographs into squares of that side, each an image with noise of its own.

    Raises:
        DataError: the arguments contradict each other, or images do not fit; the first ten of them are named.
    """

    _observations: ClassVar[int]
    _has_boxes: ClassVar[bool]

    def __init__(
        self,
        dataroot: str,
        patch_size: int = 128,
        noise: DegradationSection | None = _DEFAULT,
        meta_info_file: str | None = None,
        io_backend: Mapping[str, str] | None = None,
        small: Small = "error",
        color: Color = "rgb",
        tile_size: int | None = None,
    ) -> None:
        self._what = what = f"{type(self).__name__} of {dataroot}"
        if patch_size < 1:
            raise DataError(f"{what}: patch_size is {patch_size}; it must be a whole number from 1 on.")
        if color not in ("rgb", "gray"):
            raise DataError(f"{what}: color is {color!r}; it must be 'rgb' or 'gray'.")
        if small not in ("error", "skip", "pad"):
            raise DataError(f"{what}: small is {small!r}; it must be 'error', 'skip' or 'pad'.")
        if tile_size is not None and dataroot not in _BUNDLED:
            raise DataError(
                f"{what}: tile_size goes with bundled photographs; `mcir prepare subimages` cuts those of a folder."
            )
        self._as_they_are = noise is None
        degradation: Degradation = _AsTheyAre() if noise is None else build_degradation(noise, 1, "noise")
        images: Storage
        if dataroot in _BUNDLED:
            images = in_tiles(photographs(_BUNDLED[dataroot]), tile_size)
        else:
            images = open_storage(dataroot, io_backend)
        names = None if meta_info_file is None else read_names(meta_info_file, images.keys())
        self._pairs, self._bits, _, skipped = check_pairs(
            images,
            None,
            scale=1,
            gt_size=patch_size,
            small=small,
            names=names,
            size_option="patch_size",
            what=what,
        )
        if skipped:
            total = skipped + len(self._pairs)
            _LOG.info("%s: %d of %d images are smaller than patch_size %s: left out", what, skipped, total, patch_size)
        self._images, self._size = images, patch_size
        self._noisy = DegradedImages(images, degradation, color, self._bits, self._observations)
        self._see_that_they_teach()

    def _see_that_they_teach(self) -> None:
        """Raise where the images are of no use for the set, beyond what holds for both."""

    @classmethod
    def sample_spec(cls, *, patch_size: int = 128, **arguments: Any) -> SampleSpec | None:
        """Return the keys and sizes of the tensors of a sample.

        Args:
            patch_size: constructor argument.
            arguments: constructor arguments that have no effect on the sizes.

        Returns:
            The specification, or None if the constructor rejects the patch size.
        """
        if patch_size < 1:
            return None
        return SampleSpec((patch_size, patch_size), views=2, boxes=cls._has_boxes, size_argument="patch_size")

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        """Return what results call an image: its path within the set, without extension."""
        return stem(self._pairs[index].gt)

    def _read(self, index: int, boxes: Sequence[Window], rng: np.random.Generator) -> NoisyItem:
        """Return the patches of one image: box 0 of observation 0, and box 1 of the last observation."""
        pair = self._pairs[index]
        whole = boxes[0].around(boxes[1])
        _, noisy = self._noisy.read(index, pair.gt, (pair.height, pair.width), whole, rng)
        patches = [
            padded(cut(image, box.within(whole)), self._size)
            for image, box in zip((noisy[0], noisy[-1]), boxes, strict=True)
        ]
        path = self._images.path(pair.gt)
        return {"lq": tensor(np.stack(patches), self._bits), "lq_path": path, "gt_path": path}


@DATASETS.register()
class NoisyPatchPairs(NoisyImages):
    """Two overlapping patches of one noisy image: what contrastive learning on residuals trains on.

    Both are cut from the same noisy image, so the pixels that they share hold the same noise. The first one lies
    anywhere, the second anywhere that it shares a pixel with the first. Where the boxes lie does not depend on the
    noise: the same set without (``noise: null``) gives the same patches of the clean images.

    An image no larger than a patch is two times the same patch, which teaches nothing. Some are counted in a warning;
    if there are no others, that is an error. The arguments are those of ``NoisyImages``.
    """

    _observations = 1
    _has_boxes = True

    def _see_that_they_teach(self) -> None:
        same = sum(max(pair.height, pair.width) <= self._size for pair in self._pairs)
        if same == len(self):
            raise DataError(
                f"{self._what}: no image is larger than patch_size {self._size}, so both patches of a pair would "
                f"always be the same; take a smaller patch_size, like {max(1, self._size * 3 // 4)}."
            )
        if same:
            _LOG.warning(
                "%s: %d of %d images are no larger than patch_size %d: both patches of such a pair are the same",
                self._what, same, len(self), self._size,
            )  # fmt: skip

    def __getitem__(self, sample: int | SampleIndex) -> NoisyItem:
        draw = SampleIndex.of(sample)
        pair, rng = self._pairs[draw.index], draw.generator()
        boxes = overlapping(rng.random(4).tolist(), pair.height, pair.width, self._size)
        item = self._read(draw.index, boxes, rng)
        corners = [[top, left, top + self._size, left + self._size] for top, left, _, _ in boxes]
        item["boxes"] = torch.tensor(corners, dtype=torch.float32)
        return item


@DATASETS.register()
class NoisyObservations(NoisyImages):
    """Two noisy observations of one patch: what Noise2Noise trains on.

    Both have the same parameters of the noise and each a noise of its own. With ``HeteroscedasticNoise`` of
    ``realisation: fixed`` there are just two noisy images of each clean one. The arguments are those of
    ``NoisyImages``, but there must be a ``noise``.
    """

    _observations = 2
    _has_boxes = False

    def _see_that_they_teach(self) -> None:
        if self._as_they_are:
            raise DataError(
                f"{self._what}: noise is null, so both observations would be the same; name a noise, or read real "
                "pairs with PairedImageDataset."
            )

    def __getitem__(self, sample: int | SampleIndex) -> NoisyItem:
        draw = SampleIndex.of(sample)
        pair, rng = self._pairs[draw.index], draw.generator()
        down, across = rng.random(2).tolist()
        box = place((down, across), pair.height, pair.width, self._size)
        return self._read(draw.index, (box, box), rng)


def overlapping(numbers: Sequence[float], height: int, width: int, size: int) -> tuple[Window, Window]:
    """Return two windows of side ``size`` that share a pixel.

    The first lies uniformly in the image, the second uniformly where it overlaps the first. A side of the image that is
    shorter than ``size`` is taken whole.

    Args:
        numbers: four of [0, 1), of the first window's row and column, and of the second's.
        height: of the image.
        width: of the image.
        size: of a window.
    """
    first = place((numbers[0], numbers[1]), height, width, size)
    corner = []
    for start, length, side, number in zip(first[:2], first[2:], (height, width), numbers[2:], strict=True):
        least, most = max(0, start - length + 1), min(side - length, start + length - 1)
        corner.append(least + int(number * (most - least + 1)))
    return first, first._replace(top=corner[0], left=corner[1])
