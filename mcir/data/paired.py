"""Data sets of pairs of a degraded image and its ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mcir.checks import check_choice
from mcir.data.degradations import build_degradation
from mcir.data.degraded import DegradedImages, as_tensor
from mcir.data.folders import group_sizes, listed, open_folders, read_lists
from mcir.data.pairing import GtCrop, PairRules, Small, check_pairs
from mcir.data.sampler import SampleIndex
from mcir.data.samples import SampleSpec
from mcir.data.split import select_subset
from mcir.data.storage import Storage, distinct_names, open_storage
from mcir.data.stored_negatives import StoredNegatives
from mcir.data.transforms import (
    Color,
    Orientation,
    Window,
    convert_color,
    crop_window,
    draw_geometry,
    orient,
    pad_to_size,
)
from mcir.domains import Images, Scale, Seed, Side
from mcir.errors import ArgumentError, KeyPath
from mcir.paths import UserPath
from mcir.registry import DATASETS, DegradationSection


class Item(TypedDict, total=False):
    """A sample: images (C, H, W), RGB or grey, uint8, or float32 in [0, 1] if the set has images of more than 8 bits.

    ``negatives`` (K, C, H, W) exists only for sets with stored negatives, which have the size of ``gt``.
    """

    lq: Tensor
    gt: Tensor
    lq_path: str
    gt_path: str
    negatives: Tensor


class Sources(NamedTuple):
    """Storages of a data set of pairs.

    Attributes:
        gt: ground truths.
        lq: degraded images; None if they are made by a degradation.
        names: keys of the ground truths to use; None: all.
        negatives: K storages of negatives.
    """

    gt: Storage
    lq: Storage | None = None
    names: Sequence[str] | None = None
    negatives: Sequence[Storage] = ()


@dataclass(kw_only=True, eq=False)
class PairDataset(Dataset[Item]):
    """Base class of the data sets of pairs: it checks, crops, augments and degrades images.

    A subclass is a dataclass that adds its arguments as fields and implements ``open_sources``. The constructor checks
    the headers of all images, and one ``DataError`` lists the problems of all files.

    With a degradation, a degraded crop equals the crop of the full degraded image: the ground truth is read with the
    margin of the degradation. Parameters that a degradation draws for each image, such as the strength of
    ``HeteroscedasticNoise``, depend on the index of the pair in the set before ``max_images`` selects a subset.

    Attributes:
        group_sizes: number of pairs in each folder. The pairs of a folder have successive indices.
    """

    scale: Scale = 1
    """Size of a ground truth / size of its degraded image."""
    gt_size: Side | None = None
    """Side of the square crops of ground truths, a multiple of the scale. Default: full images, cropped at their bottom
    and right to a multiple of the scale."""
    use_hflip: bool = False
    """Flip images left-right with probability ½."""
    use_rot: bool = False
    """Flip images top-bottom and transpose them, each with probability ½."""
    color: Color = "rgb"
    """"rgb" (grey images are repeated to three channels) or "gray" (luma of colour images)."""
    degradation: DegradationSection | None = None
    """Degradation that makes degraded images from ground truths."""
    max_images: Images | None = None
    """Number of pairs to use, selected by their names. Default: all pairs."""
    subset_seed: Seed = 0
    """Seed of this selection; with the same seed a smaller subset is part of a larger one."""

    def __post_init__(self) -> None:
        check_choice("color", self.color, get_args(Color))
        rules = self.pair_rules()
        sources = self.open_sources()
        assert (sources.lq is None) == (self.degradation is not None), "expected degraded images or a degradation"
        degradation = None
        if self.degradation is not None:  # built before the images are checked, which may take long
            degradation = build_degradation(self.degradation, self.scale, "degradation")
        checked = check_pairs(sources.gt, sources.lq, rules, self.label, sources.names)
        self._gt, self._lq = sources.gt, sources.lq
        self._lq_size = None if self.gt_size is None else self.gt_size // self.scale
        self._gt_bits, self._lq_bits = checked.gt_bits, checked.lq_bits
        self._degraded: DegradedImages | None = None
        if degradation is not None:
            self._degraded = DegradedImages(self._gt, degradation, self.color, self._gt_bits)
        self._pairs, self._indices = checked.pairs, list(range(len(checked.pairs)))  # indices in the full set
        by_lq_name = rules.template.has_star
        self._names = distinct_names([pair.lq if by_lq_name and pair.lq else pair.gt for pair in self._pairs])
        if self.max_images is not None:
            self._indices = select_subset(self._names, self.max_images, self.subset_seed)
            self._pairs = [self._pairs[index] for index in self._indices]
            self._names = [self._names[index] for index in self._indices]
        sizes = [(pair.height * self.scale, pair.width * self.scale) for pair in self._pairs]
        self.group_sizes = group_sizes(self._gt, [pair.gt for pair in self._pairs])
        self._negatives = None
        if sources.negatives:
            self._negatives = StoredNegatives(sources.negatives, self._names, sizes, self.label)

    # -- defined by subclasses ------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """Name of the data set in messages."""
        return type(self).__name__

    def pair_rules(self) -> PairRules:
        """Return the names and sizes that pairs must have.

        Raises:
            ArgumentError: an argument is out of range.
        """
        return PairRules(scale=self.scale, gt_size=self.gt_size)

    def open_sources(self) -> Sources:
        """Open the storages of the images.

        Raises:
            DataError: a storage cannot be opened.
        """
        raise NotImplementedError

    @classmethod
    def sample_spec(
        cls,
        *,
        scale: int | None = None,
        gt_size: int | None = None,
        dataroot_negatives: Sequence[str] = (),
        **arguments: Any,
    ) -> SampleSpec | None:
        """Return the sizes of the tensors of a sample.

        Args:
            scale: size of a ground truth / size of its degraded image; None: default of the class.
            gt_size: side of the crops of ground truths.
            dataroot_negatives: folders of stored negatives.
            arguments: other constructor arguments, which have no effect on the sizes.

        Returns:
            The specification, or None if full images are used.

        Raises:
            ArgumentError: the side is not a multiple of the scale.
        """
        scale = PairRules(scale=cls.scale if scale is None else scale, gt_size=gt_size).scale
        if gt_size is None:
            return None
        side = gt_size // scale
        return SampleSpec((side, side), (gt_size, gt_size), negatives=len(dataroot_negatives))

    # -- samples --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._pairs)

    def smallest(self) -> int:
        """Return the index of the pair with the shortest side."""
        sizes = [(min(pair.height, pair.width), pair.height * pair.width) for pair in self._pairs]
        return sizes.index(min(sizes))

    def name(self, index: int) -> str:
        """Return the name of a pair in results: the relative path of its ground truth, without extension.

        If a ground truth may have several degraded images, it is the path of the degraded image. Names that would be
        equal keep their extensions.
        """
        return self._names[index]

    def __getitem__(self, sample: int | SampleIndex) -> Item:
        sample = SampleIndex.of(sample)
        pair, rng = self._pairs[sample.index], sample.generator()
        crop, orientation = draw_geometry(rng, self.use_hflip, self.use_rot)
        window = crop_window(crop, pair.height, pair.width, self._lq_size)
        gt, lq = self._read(sample.index, window, rng)
        item: Item = {
            "lq": self._as_tensor(lq, self._lq_size, orientation, self._lq_bits),
            "gt": self._as_tensor(gt, self.gt_size, orientation, self._gt_bits),
            "lq_path": self._gt.path(pair.gt) if pair.lq is None or self._lq is None else self._lq.path(pair.lq),
            "gt_path": self._gt.path(pair.gt),
        }
        if self._negatives is not None:
            crops = self._negatives.read_crops(sample.index, window.times(self.scale))
            images = [
                self._as_tensor(convert_color(image, self.color), self.gt_size, orientation, self._negatives.bits)
                for image in crops
            ]
            item["negatives"] = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
        return item

    def _read(self, index: int, window: Window, rng: np.random.Generator) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a part of a ground truth and of its degraded image; ``window`` is in pixels of the degraded image."""
        pair = self._pairs[index]
        if pair.lq is None or self._lq is None:
            assert self._degraded is not None
            gt, (lq,) = self._degraded.read(self._indices[index], pair.gt, (pair.height, pair.width), window, rng)
            return gt, lq
        on_gt = window.times(self.scale)
        on_gt = on_gt._replace(top=on_gt.top + pair.top, left=on_gt.left + pair.left)
        gt, lq = self._gt.read(pair.gt, on_gt), self._lq.read(pair.lq, window)
        return convert_color(gt, self.color), convert_color(lq, self.color)

    @staticmethod
    def _as_tensor(image: npt.NDArray[Any], size: int | None, orientation: Orientation, bits: int) -> Tensor:
        return as_tensor(orient(image if size is None else pad_to_size(image, size), orientation), bits)


@DATASETS.register()
@dataclass(eq=False)
class PairedImageDataset(PairDataset):
    """Pairs from two folders or LMDB databases, or from the ground truths and a degradation."""

    dataroot_gt: UserPath | Sequence[UserPath]
    """Folder of the ground truths, or a database if its name ends in ``.lmdb``. With a list of folders and databases,
    the names of images start with that of their folder."""
    dataroot_lq: UserPath | Sequence[UserPath] | None = None
    """Folder or database of the degraded images, or a list that is parallel to ``dataroot_gt``; either this or
    ``degradation`` is required."""
    meta_info_file: UserPath | Sequence[UserPath | None] | None = None
    """Text file with the names of the ground truths to use, one per line (BasicSR's meta info), or a list that is
    parallel to ``dataroot_gt``, in which null stands for all images of a folder."""
    filename_tmpl: str = "{}"
    """Name of a degraded image without extension; ``{}`` is the name of its ground truth: ``'{}x4'``. With a ``*`` a
    ground truth may have several degraded images, and each of them is a sample: ``'{}_*'`` pairs ``1399_8_0.74.png``
    with ``1399.png``."""
    io_backend: Mapping[str, str] | None = None
    """``{type: disk}`` or ``{type: lmdb}``. Default: selected by the path."""
    gt_crop: GtCrop | None = None
    """"center": use the centre of ground truths that are larger than their degraded images."""
    small: Small = "error"
    """Handling of pairs that are smaller than ``gt_size``: "error" reports them, "skip" skips them, "pad" pads both
    images at their bottom and right by mirroring."""
    dataroot_negatives: Sequence[UserPath] = ()
    """K folders or databases of stored negatives, for example the outputs of other methods. Each contains one image for
    each pair, which has the size of the ground truth and its name (the name of the degraded image if ``filename_tmpl``
    has a ``*``). Samples then contain ``negatives`` (K, C, H, W), cropped and augmented as the ground truth."""

    @property
    def label(self) -> str:
        """Name of the data set in messages."""
        return f"PairedImageDataset of {', '.join(listed(self.dataroot_gt))}"

    def pair_rules(self) -> PairRules:
        """Return the names and sizes that pairs must have.

        Raises:
            ArgumentError: an argument is out of range, or arguments contradict each other.
        """
        if (self.dataroot_lq is None) == (self.degradation is None):
            both = "neither" if self.dataroot_lq is None else "both"
            raise ArgumentError("dataroot_lq", f"expected either dataroot_lq or degradation, got {both}.")
        for name, is_set in {"gt_crop": self.gt_crop is not None, "filename_tmpl": self.filename_tmpl != "{}"}.items():
            if is_set and self.dataroot_lq is None:
                raise ArgumentError(name, "requires dataroot_lq, which cannot be combined with degradation.")
        return PairRules(
            scale=self.scale,
            gt_size=self.gt_size,
            filename_tmpl=self.filename_tmpl,
            gt_crop=self.gt_crop,
            small=self.small,
        )

    def open_sources(self) -> Sources:
        """Open the folders or databases."""

        def open_one(root: str, argument: str | KeyPath) -> Storage:
            return open_storage(root, self.io_backend, argument)

        gt = open_folders(self.dataroot_gt, open_one, "dataroot_gt")
        return Sources(
            gt,
            None if self.dataroot_lq is None else open_folders(self.dataroot_lq, open_one, "dataroot_lq", gt),
            None if self.meta_info_file is None else read_lists(self.meta_info_file, gt),
            [open_one(root, ("dataroot_negatives", number)) for number, root in enumerate(self.dataroot_negatives)],
        )
