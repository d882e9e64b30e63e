"""CCR: "Curricular Contrastive Regularization for Physics-aware Single Image Dehazing" (C2PNet), CVPR 2023.

arXiv:2303.14218, which calls it C²R. It is CR with several negatives, whose weights follow a curriculum: negatives that
the model has surpassed count more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mcir.losses.base import in_float32, require, require_positive
from mcir.losses.cr import ContrastiveRegularization
from mcir.registry import LOSSES


@LOSSES.register()
@dataclass(kw_only=True, eq=False)
class CurricularContrastiveRegularization(ContrastiveRegularization):
    """CCR: CR whose negatives are weighted by a curriculum.

    A negative has weight ``1 + curriculum`` if the best PSNR of the model exceeds its difficulty, and
    ``1 − curriculum`` otherwise. If there is one negative more than there are difficulties, the last one is the
    degraded input, with weight ``input_weight``. The weights are divided by their sum.

    The best PSNR comes from :meth:`observe` and is part of the state dict. Here it is measured on the validation set.
    The released code measures it on the first test image and requires that SSIM improves too.
    """

    difficulties: Sequence[float] = (17.0, 19.0, 31.0, 32.0, 36.0, 40.0)
    """PSNR in dB of each kind of negatives, in their order. The defaults are C2PNet's for ITS: DCP, AOD-Net, GCANet,
    GridDehazeNet, FFA-Net and an improved FFA-Net."""
    curriculum: float = 0.25
    """Difference between the weight of a negative and 1, between 0 and 1."""
    input_weight: float = 6.0
    """Weight of the degraded input."""
    loss_weight: float = 0.2

    best_psnr: Tensor = field(init=False, repr=False)
    _difficulties: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the curriculum."""
        super().__post_init__()
        finite = bool(self.difficulties) and all(map(math.isfinite, self.difficulties))
        require(finite, "difficulties", "at least one finite number", self.difficulties)
        require(0 <= self.curriculum <= 1, "curriculum", "a number from 0 to 1", self.curriculum)
        require_positive(input_weight=self.input_weight)
        difficulties = torch.tensor(self.difficulties, dtype=torch.float64)
        self.register_buffer("_difficulties", difficulties, persistent=False)
        self.register_buffer("best_psnr", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def observe(self, metrics: Mapping[str, float]) -> None:
        """Update the best PSNR.

        Args:
            metrics: means over the validation set; only ``psnr`` is used. Without it, the curriculum does not advance.
        """
        psnr = metrics.get("psnr", math.nan)
        if not math.isnan(psnr):
            self.best_psnr.clamp_(min=psnr)

    def shares(self, negatives: Tensor) -> Tensor:
        """Return the weight of each negative (N, B, 3, H, W) in the average of distances: (N,), with sum 1.

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
