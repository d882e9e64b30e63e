"""CCR: "Curricular Contrastive Regularization for Physics-aware Single Image Dehazing" (C2PNet), CVPR 2023.

arXiv:2303.14218, where it is called C²R. It is CR with several negatives whose weights follow a curriculum: a negative
gets a larger weight once the PSNR of the model exceeds that of the negative.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import torch
from annotated_types import Interval, Len
from torch import Tensor

from mcir.domains import Fraction, NonNegative, Positive
from mcir.losses.base import in_float32
from mcir.losses.cr import ContrastiveRegularization
from mcir.registry import LOSSES

Decibels: TypeAlias = Annotated[float, Interval(gt=0, le=100)]
"""PSNR of an image in dB."""


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class CurricularContrastiveRegularization(ContrastiveRegularization):
    """CCR: CR with negatives that are weighted by a curriculum.

    A negative has the weight ``1 + curriculum`` if the best PSNR of the model exceeds the difficulty of the negative,
    and ``1 − curriculum`` otherwise. If there is one more negative than there are difficulties, the last negative is
    the degraded input, with the weight ``input_weight``. The weights are divided by their sum.

    :meth:`observe` updates the best PSNR, which is part of the state dict. It is measured on the validation set; the
    released code measures it on the first test image and also requires a better SSIM.
    """

    difficulties: Annotated[Sequence[Decibels], Len(1, 1024)] = (17.0, 19.0, 31.0, 32.0, 36.0, 40.0)
    """PSNR of each negative in dB, in the order of the negatives. The defaults are those of C2PNet for ITS: DCP,
    AOD-Net, GCANet, GridDehazeNet, FFA-Net and an improved FFA-Net."""
    curriculum: Fraction = 0.25
    """Amount that is added to or subtracted from the weight 1 of a negative, between 0 and 1."""
    input_weight: Positive = 6.0
    """Weight of the degraded input."""
    loss_weight: NonNegative = 0.2

    best_psnr: Tensor = field(init=False, repr=False)
    _difficulties: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Store the difficulties."""
        super().__post_init__()
        difficulties = torch.tensor(self.difficulties, dtype=torch.float64)
        self.register_buffer("_difficulties", difficulties, persistent=False)
        self.register_buffer("best_psnr", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def observe(self, metrics: Mapping[str, float]) -> None:
        """Update the best PSNR.

        Args:
            metrics: means over the validation set. Only ``psnr`` is used; if it is missing, nothing changes.
        """
        psnr = metrics.get("psnr", math.nan)
        if not math.isnan(psnr):
            self.best_psnr.clamp_(min=psnr)

    def negative_weights(self, negatives: Tensor) -> Tensor:
        """Return the weight (N,) of each of the negatives (N, B, C, H, W) in the mean distance; the sum is 1.

        Raises:
            ValueError: N is neither the number of difficulties nor one more.
        """
        count = len(self._difficulties)
        if len(negatives) not in (count, count + 1):
            raise ValueError(
                f"{type(self).__name__}: expected {count} negatives, one per difficulty, or {count + 1} with the "
                f"degraded input as the last one; got {len(negatives)}."
            )
        surpassed = (self.best_psnr > self._difficulties).to(self._difficulties.dtype)
        weights = 1 + self.curriculum * (2 * surpassed - 1)
        if len(negatives) > count:
            weights = torch.cat([weights, weights.new_full((1,), self.input_weight)])
        return (weights / weights.sum()).to(in_float32(negatives.new_zeros(())).dtype)
