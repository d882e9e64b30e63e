"""Residual contrastive learning (RCL): pre-training on noisy images with a contrastive loss between residuals.

"Residual Contrastive Learning for Image Reconstruction: Learning Transferable Representations from Noisy Images", IJCAI
2022, arXiv:2106.10070.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mcir.errors import ArgumentError
from mcir.losses.base import Loss, is_batch_mean
from mcir.models.batch import Batch
from mcir.models.self_supervised import SelfSupervisedModel
from mcir.registry import LOSSES, MODELS, LossSection


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class ResidualContrastiveModel(SelfSupervisedModel):
    """A network that is trained on noisy images without ground truth: L = α·L_contrast + L_consistency (Eq. 6).

    A batch has two overlapping patches of each image (``NoisyPatchPairs``). All 2B patches pass through the network
    together, so batch norms use the same statistics for anchors, positives and negatives. A residual is input minus
    output (Eq. 2). The residual of a first patch should be close to that of the second patch of the same image and far
    from those of other images. Images are identified by ``lq_path``; without it, all images of a batch are different.
    """

    contrastive_opt: LossSection | None = None
    """Loss between the residuals of the first and the second patches; its weight is α in the paper."""
    consistency_opt: LossSection | None = None
    """Loss between output and input, in a feature space."""

    def __post_init__(self) -> None:
        """Build the losses.

        Raises:
            ArgumentError: ``accumulation_steps`` is above 1, but the contrastive loss requires the whole batch.
        """
        super().__post_init__()
        if self.contrastive_opt:
            contrast = LOSSES.build(self.contrastive_opt, key="contrastive_opt")
            if self.accumulation_steps > 1 and not is_batch_mean(contrast):
                raise ArgumentError(
                    "accumulation_steps",
                    f"expected 1, got {self.accumulation_steps}: the negatives are the other images of the whole "
                    "batch. To save memory, use smaller crops.",
                )
            self.criteria.add("l_contrast", _ResidualLoss(contrast), option="contrastive_opt")
        if self.consistency_opt:
            self.criteria.add("l_consist", self.consistency_opt, option="consistency_opt")

    def require_trainable(self) -> None:
        """Check that there is an optimizer and a loss."""
        super().require_trainable()
        if not self.criteria:
            raise ArgumentError(
                "contrastive_opt",
                "ResidualContrastiveModel: training requires 'train.contrastive_opt' or 'train.consistency_opt', for "
                "example {type: ResidualContrastiveLoss} and {type: ConsistencyLoss}.",
            )

    def inputs(self, batch: Batch) -> Tensor:
        """Return all patches (2B, C, P, P), the two patches of an image next to each other."""
        return self.pairs(batch).flatten(0, 1)

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the contrastive loss and the consistency loss."""
        noisy = batch["lq"].flatten(0, 1)
        losses = {}
        if "l_contrast" in self.criteria:
            images = _image_ids(batch["lq_path"], output.device) if "lq_path" in batch else None
            losses["l_contrast"] = self.criteria.evaluate("l_contrast", output, noisy, images)
        if "l_consist" in self.criteria:
            losses["l_consist"] = self.criteria.evaluate("l_consist", output, noisy)
        return losses


class _ResidualLoss(nn.Module):
    """A contrastive loss between residuals, as a loss between outputs and noisy patches (2B, C, P, P)."""

    def __init__(self, contrast: nn.Module) -> None:
        super().__init__()
        self.contrast = contrast
        self.takes_images = isinstance(contrast, Loss) and contrast.compares == "residuals"

    def forward(self, output: Tensor, noisy: Tensor, images: Tensor | None) -> Tensor:
        residuals = noisy - output
        arguments = {"images": images} if self.takes_images else {}
        loss: Tensor = self.contrast(residuals[::2], residuals[1::2], **arguments)
        return loss


def _image_ids(paths: Sequence[str], device: torch.device) -> Tensor:
    """Return an int64 for each image, (B,): a hash of its path, which is the same in every process."""
    digests = [hashlib.blake2b(os.fsencode(path), digest_size=8).digest() for path in paths]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], device=device)
