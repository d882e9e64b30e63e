"""Data sets of noisy images without ground truths: overlapping patches, or two observations of the same patch.

Noise is added to clean images, or the images are already noisy. There is no augmentation, as in methods that learn from
noise alone (arXiv 2106.10070, Section 2).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mcir.checks import check_choice
from mcir.data.bundled import TRAIN, VAL, divide, photographs
from mcir.data.degradations import DefaultSection, Degradation, build_degradation
from mcir.data.degraded import DegradedImages, as_tensor
from mcir.data.errors import DataError
from mcir.data.folders import group_sizes, listed, open_folders, read_lists
from mcir.data.pairing import PairRules, Small, check_pairs
from mcir.data.sampler import SampleIndex
from mcir.data.samples import SampleSpec
from mcir.data.storage import Storage, distinct_names, open_storage
from mcir.data.transforms import Color, Window, crop_image, crop_window, pad_to_size
from mcir.domains import Side
from mcir.errors import ArgumentError, KeyPath
from mcir.paths import PathKind, UserPath
from mcir.registry import DATASETS, DegradationSection

_LOG = logging.getLogger("mcir")
_DEFAULT_NOISE = DefaultSection(type="HeteroscedasticNoise")
_BUNDLED = {"bundled": TRAIN, "bundled:val": VAL}
_Root: TypeAlias = Annotated[str, PathKind(names=tuple(_BUNDLED))]


class NoisyItem(TypedDict, total=False):
    """A sample of two noisy patches.

    ``lq`` (2, C, P, P) is float32, or uint8 if the images have 8 bits and no noise is added. ``boxes`` (2, 4), float32,
    exists only in ``NoisyPatchPairs``: top, left, bottom and right of each patch in pixels of the image. Both paths are
    the path of the image.
    """

    lq: Tensor
    lq_path: str
    gt_path: str
    boxes: Tensor


class _NoDegradation(Degradation):
    def __call__(self, gt: Tensor, rng: np.random.Generator) -> Tensor:
        return gt


@dataclass(eq=False)
class NoisyImages(Dataset[NoisyItem]):
    """Base class of the data sets of noisy patches.

    The constructor checks the headers of all images, and one ``DataError`` lists the problems of all files.
    """

    _observations: ClassVar[int]

    dataroot: _Root | Sequence[_Root]
    """Folder of the images, or a database if its name ends in ``.lmdb``; ``bundled``: the training photographs of
    ``BundledPhotos``, ``bundled:val``: its validation photographs. With a list of them, the names of images start with
    that of their folder."""
    patch_size: Side = 128
    """Side of a patch."""
    noise: DegradationSection | None = _DEFAULT_NOISE
    """Degradation with scale 1 that adds the noise to clean images; null: the images are already noisy."""
    meta_info_file: UserPath | Sequence[UserPath | None] | None = None
    """Text file with the names of the images to use, one per line, or a list that is parallel to ``dataroot``, in which
    null stands for all images of a folder."""
    io_backend: Mapping[str, str] | None = None
    """``{type: disk}`` or ``{type: lmdb}``. Default: selected by the path."""
    small: Small = "error"
    """Handling of images that are smaller than a patch: "error" reports them, "skip" skips them, "pad" pads the noisy
    patch at its bottom and right by mirroring."""
    color: Color = "rgb"
    """"rgb" (grey images are repeated to three channels and get colour noise) or "gray" (luma of colour images)."""
    tile_size: Side | None = None
    """Side of the square tiles into which bundled photographs are divided; each tile is an image with its own noise."""

    def __post_init__(self) -> None:
        check_choice("color", self.color, get_args(Color))
        rules = PairRules(gt_size=self.patch_size, small=self.small, size_argument="patch_size")
        roots = listed(self.dataroot)
        if self.tile_size is not None and not all(root in _BUNDLED for root in roots):
            raise ArgumentError(
                "tile_size",
                "only for bundled photographs; `mcir prepare subimages` divides the images of a folder.",
            )
        degradation: Degradation = _NoDegradation()
        if self.noise is not None:
            degradation = build_degradation(self.noise, 1, "noise")
        self._images = open_folders(self.dataroot, self._open, "dataroot")
        names = None if self.meta_info_file is None else read_lists(self.meta_info_file, self._images)
        self._label = f"{type(self).__name__} of {', '.join(roots)}"
        checked = check_pairs(self._images, None, rules, self._label, names)
        self._pairs, self._bits = checked.pairs, checked.gt_bits
        self._names = distinct_names([pair.gt for pair in self._pairs])
        self.group_sizes = group_sizes(self._images, [pair.gt for pair in self._pairs])
        self._degraded = DegradedImages(self._images, degradation, self.color, self._bits, self._observations)

    def _open(self, root: str, argument: str | KeyPath) -> Storage:
        if root in _BUNDLED:
            return divide(photographs(_BUNDLED[root]), self.tile_size)
        return open_storage(root, self.io_backend, argument)

    @classmethod
    def sample_spec(cls, *, patch_size: int = 128, **arguments: Any) -> SampleSpec | None:
        """Return the sizes of the tensors of a sample.

        Args:
            patch_size: side of a patch.
            arguments: other constructor arguments, which have no effect on the sizes.

        Returns:
            The specification, or None if the constructor rejects the patch size.
        """
        return None if patch_size < 1 else SampleSpec((patch_size, patch_size), size_argument="patch_size")

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        """Return the name of an image in results: its relative path, without extension unless two would be equal."""
        return self._names[index]

    def _read(self, index: int, boxes: Sequence[Window], rng: np.random.Generator) -> NoisyItem:
        """Read the first box from the first observation of an image, and the second box from the last one."""
        pair = self._pairs[index]
        both = boxes[0].union(boxes[1])
        _, noisy = self._degraded.read(index, pair.gt, (pair.height, pair.width), both, rng)
        patches = [
            pad_to_size(crop_image(image, box.relative_to(both)), self.patch_size)
            for image, box in zip((noisy[0], noisy[-1]), boxes, strict=True)
        ]
        path = self._images.path(pair.gt)
        return {"lq": as_tensor(np.stack(patches), self._bits), "lq_path": path, "gt_path": path}


@DATASETS.register()
class NoisyPatchPairs(NoisyImages):
    """Two overlapping patches of one noisy image, for contrastive learning on residuals.

    Both are crops of the same noisy image, so the pixels that they share have the same noise. The position of the first
    patch is uniform in the image, that of the second is uniform among the positions that overlap the first patch. The
    positions do not depend on the noise: with ``noise: null`` the same set gives the same patches of the clean images.

    In an image that is no larger than a patch, both patches are the same, and nothing can be learnt from them. A
    warning counts such images; if all images are that small, an error is raised. The arguments are those of
    ``NoisyImages``.
    """

    _observations = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        same = sum(max(pair.height, pair.width) <= self.patch_size for pair in self._pairs)
        if same == len(self):
            raise DataError(
                f"{self._label}: no image is larger than patch_size {self.patch_size}, so both patches of a pair would "
                f"be the same; use a smaller patch_size, like {max(1, self.patch_size * 3 // 4)}"
            )
        if same:
            _LOG.warning(
                "%s: %d of %d images are no larger than patch_size %d: both patches of such a pair are the same",
                self._label, same, len(self), self.patch_size,
            )  # fmt: skip

    def __getitem__(self, sample: int | SampleIndex) -> NoisyItem:
        sample = SampleIndex.of(sample)
        pair, rng = self._pairs[sample.index], sample.generator()
        boxes = overlapping_windows(rng.random(4).tolist(), pair.height, pair.width, self.patch_size)
        item = self._read(sample.index, boxes, rng)
        corners = [[top, left, top + self.patch_size, left + self.patch_size] for top, left, _, _ in boxes]
        item["boxes"] = torch.tensor(corners, dtype=torch.float32)
        return item


@DATASETS.register()
class NoisyObservations(NoisyImages):
    """Two noisy observations of one patch, for Noise2Noise.

    Both have the same noise parameters, but different noise. With ``HeteroscedasticNoise`` and ``realisation: fixed``
    each clean image has exactly two noisy images. The arguments are those of ``NoisyImages``; ``noise`` is required.
    """

    _observations = 2

    def __post_init__(self) -> None:
        if self.noise is None:
            raise ArgumentError(
                "noise",
                "expected a degradation, got null, which gives two equal observations. Read real pairs of noisy "
                "images with PairedImageDataset.",
            )
        super().__post_init__()

    def __getitem__(self, sample: int | SampleIndex) -> NoisyItem:
        sample = SampleIndex.of(sample)
        pair, rng = self._pairs[sample.index], sample.generator()
        row, column = rng.random(2).tolist()
        box = crop_window((row, column), pair.height, pair.width, self.patch_size)
        return self._read(sample.index, (box, box), rng)


def overlapping_windows(numbers: Sequence[float], height: int, width: int, size: int) -> tuple[Window, Window]:
    """Return two windows that share at least one pixel.

    The position of the first window is uniform in the image, that of the second is uniform among the positions that
    overlap the first window.

    Args:
        numbers: four numbers in [0, 1), for the row and column of the first window and of the second.
        height: height of the image.
        width: width of the image.
        size: side of a window, reduced to shorter sides of the image.
    """
    first = crop_window((numbers[0], numbers[1]), height, width, size)
    corner = []
    for start, length, side, number in zip(first[:2], first[2:], (height, width), numbers[2:], strict=True):
        least, most = max(0, start - length + 1), min(side - length, start + length - 1)
        corner.append(least + int(number * (most - least + 1)))
    return first, first._replace(top=corner[0], left=corner[1])
