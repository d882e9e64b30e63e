"""Residual contrastive learning: what a network takes off a noisy image is to be this image's noise.

"Residual Contrastive Learning for Image Reconstruction: Learning Transferable Representations from Noisy Images", IJCAI
2022, arXiv:2106.10070.
"""

import hashlib
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mcir.models.base import Batch
from mcir.models.self_supervised import SelfSupervisedModel
from mcir.registry import LOSSES, MODELS, LossSection


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class ResidualContrastiveModel(SelfSupervisedModel):
    """A network trained on noisy images alone, L = α·L_contrast + L_consistency (Eq. 6).

    Of each image there are two overlapping patches (``NoisyPatchPairs``); all 2B of a batch go through the network at
    once, so that a batch norm sees anchors, positives and negatives alike. The residuals (Eq. 2), input minus output,
    of the first patches are told apart by those of the second ones: their own image's is near, the others' are far.
    An image is known by its path, ``lq_path``; a batch without paths has no image twice.
    """

    contrastive_opt: LossSection | None = None
    """Loss between the residuals of the first and of the second patches; its weight is the paper's α. Without it, the
    network is only kept consistent."""
    consistency_opt: LossSection | None = None
    """Loss between output and input, in a feature space."""

    def __post_init__(self) -> None:
        """Build the losses.

        Raises:
            ValueError: the batch is to be divided, of which each part would have negatives of its own.
        """
        super().__post_init__()
        if self.contrastive_opt:
            contrast = LOSSES.build(self.contrastive_opt, key="contrastive_opt")
            if self.accumulation_steps > 1 and not getattr(contrast, "is_batch_mean", True):
                raise ValueError(
                    f"accumulation_steps is {self.accumulation_steps}, but the negatives of ResidualContrastiveModel "
                    "are the other images of the batch, which parts of it would not see. Smaller crops need less "
                    "memory, too."
                )
            self.add_loss("l_contrast", _OfResiduals(contrast))
        if self.consistency_opt:
            self.add_loss("l_consist", self.consistency_opt)

    def require_trainable(self) -> None:
        """Check that there is a loss, too."""
        super().require_trainable()
        if "l_contrast" not in self.parts and "l_consist" not in self.parts:
            raise ValueError(
                "ResidualContrastiveModel needs 'train.contrastive_opt' or 'train.consistency_opt' to train, like "
                "{type: ResidualContrastiveLoss} and {type: ConsistencyLoss}."
            )

    def inputs(self, batch: Batch) -> Tensor:
        """Return all patches (2B, C, P, P), the two of an image side by side."""
        return self.pairs(batch).flatten(0, 1)

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the contrastive loss and that of consistency."""
        noisy = batch["lq"].flatten(0, 1)
        images = {"l_contrast": [_numbers(batch["lq_path"], output.device)] if "lq_path" in batch else []}
        return {part: self.parts[part](output, noisy, *images.get(part, [])) for part in self._watch.names}


class _OfResiduals(nn.Module):
    """A contrastive loss of residuals, as a loss of outputs and noisy patches (2B, C, P, P)."""

    def __init__(self, contrast: nn.Module) -> None:
        super().__init__()
        self.contrast = contrast
        self.knows_images = "images" in inspect.signature(contrast.forward).parameters

    def forward(self, output: Tensor, noisy: Tensor, images: Tensor | None = None) -> Tensor:
        residuals = noisy - output
        known = {"images": images} if self.knows_images else {}
        loss: Tensor = self.contrast(residuals[::2], residuals[1::2], **known)
        return loss


def _numbers(paths: Sequence[str], device: torch.device) -> Tensor:
    """Return the number of each image (B,), int64, made of its path: the same in every process."""
    digests = [hashlib.blake2b(os.fsencode(path), digest_size=8).digest() for path in paths]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], device=device)
