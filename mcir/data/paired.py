"""Pairs of a degraded image and its ground truth, from files, data bases or made on the fly."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mcir.data.degradations import build_degradation
from mcir.data.degraded import DegradedImages, tensor
from mcir.data.errors import DataError
from mcir.data.pairing import GtCrop, Small, check_pairs, read_names
from mcir.data.sampler import SampleIndex
from mcir.data.samples import SampleSpec
from mcir.data.storage import Storage, open_storage, stem
from mcir.data.stored_negatives import StoredNegatives
from mcir.data.subset import subset
from mcir.data.transforms import Color, Orientation, Window, draw_geometry, in_color, orient, padded, place
from mcir.registry import DATASETS, DegradationSection

_LOG = logging.getLogger("mcir")


class _Pair(TypedDict):
    lq: Tensor
    gt: Tensor
    lq_path: str
    gt_path: str


class Item(_Pair, total=False):
    """A sample: images (C, H, W), RGB or grey, uint8, or float32 in [0, 1] where 8 bits do not hold them.

    ``negatives`` (K, C, H, W), where they are stored, have the size of ``gt``.
    """

    negatives: Tensor


class PairDataset(Dataset[Item]):
    """What every set of pairs does with its storages: check, cut, lay, degrade.

    A crop of a degraded image that is made on the fly equals the crop of the whole degraded image (for bicubic
    shrinking): the ground truth is read with the margin that the degradation reaches over. What a degradation draws for
    a whole image, such as the strength of ``HeteroscedasticNoise``, it draws by the number of the pair in the set, that
    before ``max_images`` chooses.

    Args:
        gt: the ground truths.
        lq: the degraded images; without them ``degradation`` makes them from the ground truths.
        degradation: the section of the degradation.
        names: the keys of the ground truths to use; all without.
        filename_tmpl: name of a degraded image, made from its partner's; with a ``*`` in it (``'{}_*'``) a ground truth
            may have many, and each of them is an item.
        scale: size of a ground truth / size of its degraded image.
        gt_size: side of the square that is cut from a ground truth, a multiple of the scale; without it images come
            whole (their bottom and right cut to a multiple of the scale).
        gt_crop: "center": of a ground truth larger than its degraded image the middle is used.
        small: what becomes of pairs smaller than ``gt_size``: "error" names them, "skip" leaves them out, "pad"
            mirrors both images at their bottom and right up to it.
        use_hflip: mirror left-right with p = ½.
        use_rot: mirror top-bottom and transpose, each with p = ½.
        color: "rgb" (grey is repeated) or "gray" (luma of colours).
        negatives: K storages with one further image for each pair, under the name of the pair.
        max_images: use so many pairs, chosen by their names (see ``subset``); all without.
        subset_seed: of that choice; of one seed a smaller subset lies in a larger one.
        what: the set, for messages.

    Raises:
        DataError: the arguments contradict each other, or images do not fit; the first ten of them are named.
    """

    def __init__(
        self,
        gt: Storage,
        lq: Storage | None = None,
        degradation: DegradationSection | None = None,
        *,
        names: list[str] | None = None,
        filename_tmpl: str = "{}",
        scale: int = 1,
        gt_size: int | None = None,
        gt_crop: GtCrop | None = None,
        small: Small = "error",
        use_hflip: bool = False,
        use_rot: bool = False,
        color: Color = "rgb",
        negatives: Sequence[Storage] = (),
        max_images: int | None = None,
        subset_seed: int = 0,
        what: str,
    ) -> None:
        if scale < 1:
            raise DataError(f"{what}: scale is {scale}; it must be a whole number from 1 on.")
        if gt_size is not None and (gt_size < scale or gt_size % scale):
            raise DataError(f"{what}: gt_size is {gt_size}; it must be a positive multiple of the scale, {scale}.")
        if color not in ("rgb", "gray"):
            raise DataError(f"{what}: color is {color!r}; it must be 'rgb' or 'gray'.")
        if (lq is None) == (degradation is None):
            raise DataError(f"{what}: expected either degraded images or a degradation that makes them.")
        if gt_crop not in (None, "center"):
            raise DataError(f"{what}: gt_crop is {gt_crop!r}; it must be 'center', or left out.")
        if small not in ("error", "skip", "pad"):
            raise DataError(f"{what}: small is {small!r}; it must be 'error', 'skip' or 'pad'.")
        if lq is None and (gt_crop is not None or filename_tmpl != "{}"):
            option = "filename_tmpl" if gt_crop is None else "gt_crop"
            raise DataError(f"{what}: {option} goes with degraded images, here a degradation makes them.")
        self._many = "*" in filename_tmpl
        self._gt, self._lq = gt, lq
        made_by = None if degradation is None else build_degradation(degradation, scale, "degradation")
        self._scale, self._size = scale, None if gt_size is None else gt_size // scale
        self._use_hflip, self._use_rot, self._color = use_hflip, use_rot, color
        self._pairs, self._gt_bits, self._lq_bits, skipped = check_pairs(
            gt,
            lq,
            scale=scale,
            gt_size=gt_size,
            filename_tmpl=filename_tmpl,
            gt_crop=gt_crop,
            small=small,
            names=names,
            what=what,
        )
        if skipped:
            total = skipped + len(self._pairs)
            _LOG.info("%s: %d of %d pairs are smaller than gt_size %s: left out", what, skipped, total, gt_size)
        self._degraded = None if made_by is None else DegradedImages(gt, made_by, color, self._gt_bits)
        names = [self.name(index) for index in range(len(self))]
        self._numbers = [*range(len(self))]
        if max_images is not None:
            try:
                self._numbers = subset(names, max_images, subset_seed)
            except ValueError as error:
                raise DataError(f"{what}: max_images is {error}") from error
            self._pairs = [self._pairs[number] for number in self._numbers]
            names = [names[number] for number in self._numbers]
        sizes = [(pair.height * scale, pair.width * scale) for pair in self._pairs]
        self._negatives = StoredNegatives(negatives, names, sizes, what) if negatives else None

    @classmethod
    def sample_spec(
        cls, *, scale: int = 1, gt_size: int | None = None, dataroot_negatives: Sequence[str] = (), **arguments: Any
    ) -> SampleSpec | None:
        """Return the keys and sizes of the tensors of a sample.

        Args:
            scale: constructor argument, like the two after it.
            gt_size: side of the crops.
            dataroot_negatives: folders of stored negatives.
            arguments: constructor arguments that have no effect on the sizes.

        Returns:
            The specification, or None if full images are used or the constructor rejects the arguments.
        """
        if gt_size is None or scale < 1 or gt_size < scale or gt_size % scale:
            return None
        side = gt_size // scale
        return SampleSpec((side, side), (gt_size, gt_size), negatives=len(dataroot_negatives))

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        """Return what results call a pair: the path of its ground truth within the set, without extension.

        Where a ground truth may have many degraded images, it is the degraded image's.
        """
        pair = self._pairs[index]
        return stem(pair.lq if self._many and pair.lq is not None else pair.gt)

    def __getitem__(self, sample: int | SampleIndex) -> Item:
        draw = SampleIndex.of(sample)
        pair = self._pairs[draw.index]
        rng = draw.generator()
        crop, orientation = draw_geometry(rng, self._use_hflip, self._use_rot)
        window = place(crop, pair.height, pair.width, self._size)
        if pair.lq is None:
            assert self._degraded is not None
            size = pair.height, pair.width
            gt, (lq,) = self._degraded.read(self._numbers[draw.index], pair.gt, size, window, rng)
        else:
            assert self._lq is not None
            large = window.times(self._scale)
            large = large._replace(top=large.top + pair.top, left=large.left + pair.left)
            gt = in_color(self._gt.read_crop(pair.gt, *large), self._color)
            lq = in_color(self._lq.read_crop(pair.lq, *window), self._color)
        if self._size is not None:
            gt, lq = padded(gt, self._size * self._scale), padded(lq, self._size)
        item: Item = {
            "lq": tensor(orient(lq, orientation), self._lq_bits),
            "gt": tensor(orient(gt, orientation), self._gt_bits),
            "lq_path": self._gt.path(pair.gt) if pair.lq is None or self._lq is None else self._lq.path(pair.lq),
            "gt_path": self._gt.path(pair.gt),
        }
        if self._negatives is not None:
            item["negatives"] = self._stored(draw.index, window.times(self._scale), orientation)
        return item

    def _stored(self, index: int, window: Window, orientation: Orientation) -> Tensor:
        """Return the window of the stored negatives of a pair (K, C, H, W), laid as the ground truth."""
        assert self._negatives is not None
        laid = []
        for image in self._negatives.read_crops(index, window):
            colored = in_color(image, self._color)
            if self._size is not None:
                colored = padded(colored, self._size * self._scale)
            laid.append(tensor(orient(colored, orientation), self._negatives.bits).permute(1, 2, 0))
        return torch.stack(laid).permute(0, 3, 1, 2)


@DATASETS.register()
class PairedImageDataset(PairDataset):
    """Pairs from two folders or LMDB data bases, or from one and a degradation.

    Args:
        dataroot_gt: folder of the ground truths, or a data base (name ends in ``.lmdb``).
        dataroot_lq: the same of the degraded images; exactly one of this and ``degradation``.
        meta_info_file: text file that names the ground truths to use, one a line (BasicSR's meta info).
        filename_tmpl: name of a degraded image without extension, made from its partner's: ``'{}x4'``. With a ``*`` a
            ground truth may have many degraded images: ``'{}_*'`` pairs ``1399_8_0.74.png`` with ``1399.png``, and
            each degraded image is an item.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``; chosen by the path without.
        scale: size of a ground truth / size of its degraded image.
        gt_size: side of the square that is cut from a ground truth; without it images come whole.
        gt_crop: "center": of a ground truth larger than its degraded image the middle is used.
        small: what becomes of pairs smaller than ``gt_size``: "error" names them, "skip" leaves them out, "pad"
            mirrors both images at their bottom and right up to it.
        use_hflip: mirror left-right with p = ½.
        use_rot: mirror top-bottom and transpose, each with p = ½.
        color: "rgb" (grey is repeated) or "gray" (luma of colours).
        degradation: makes the degraded images from the ground truths.
        dataroot_negatives: K folders or data bases of stored negatives, the outputs of other methods for example. Each
            holds one image for every pair, of the size of the restored image and under the name that restored images
            are saved by: that of the ground truth, or of the degraded image where a ground truth may have many. Items
            then have ``negatives`` (K, C, H, W), cut and laid as the ground truth.
        max_images: use so many pairs, chosen by their names alone; all without.
        subset_seed: of that choice; of one seed a smaller subset lies in a larger one.

    Raises:
        DataError: the arguments contradict each other, or images do not fit; the first ten of them are named.
    """

    def __init__(
        self,
        dataroot_gt: str,
        dataroot_lq: str | None = None,
        meta_info_file: str | None = None,
        filename_tmpl: str = "{}",
        io_backend: Mapping[str, str] | None = None,
        scale: int = 1,
        gt_size: int | None = None,
        gt_crop: GtCrop | None = None,
        small: Small = "error",
        use_hflip: bool = False,
        use_rot: bool = False,
        color: Color = "rgb",
        degradation: DegradationSection | None = None,
        dataroot_negatives: Sequence[str] = (),
        max_images: int | None = None,
        subset_seed: int = 0,
    ) -> None:
        what = f"PairedImageDataset of {dataroot_gt}"
        if (dataroot_lq is None) == (degradation is None):
            raise DataError(f"{what}: expected exactly one of dataroot_lq and degradation.")
        gt = open_storage(dataroot_gt, io_backend)
        super().__init__(
            gt,
            None if dataroot_lq is None else open_storage(dataroot_lq, io_backend),
            degradation,
            names=None if meta_info_file is None else read_names(meta_info_file, gt.keys()),
            filename_tmpl=filename_tmpl,
            scale=scale,
            gt_size=gt_size,
            gt_crop=gt_crop,
            small=small,
            use_hflip=use_hflip,
            use_rot=use_rot,
            color=color,
            negatives=[open_storage(root, io_backend) for root in dataroot_negatives],
            max_images=max_images,
            subset_seed=subset_seed,
            what=what,
        )
