"""Supervised restoration: the network learns to map a degraded image to its ground truth."""

from dataclasses import dataclass

from torch import Tensor

from mcir.losses import CurricularContrastiveRegularization
from mcir.models.base import Batch, Model
from mcir.registry import MODELS, LossSection


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class RestorationModel(Model):
    """A network trained on pairs of degraded image and ground truth, with a pixel and a perceptual loss."""

    pixel_opt: LossSection | None = None
    """Loss between output and ground truth."""
    perceptual_opt: LossSection | None = None
    """Second loss between output and ground truth, in a feature space."""

    def __post_init__(self) -> None:
        """Build the losses."""
        super().__post_init__()
        for part, section in {"l_pix": self.pixel_opt, "l_percep": self.perceptual_opt}.items():
            if section:
                self.add_loss(part, section)

    def require_trainable(self) -> None:
        """Check that there is a loss, too."""
        super().require_trainable()
        if "l_pix" not in self.parts and "l_percep" not in self.parts:
            raise ValueError(
                f"{type(self).__name__} needs 'train.pixel_opt' or 'train.perceptual_opt' to train, "
                "like {type: L1Loss}."
            )

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the pixel and the perceptual loss."""
        against_truth = [part for part in ("l_pix", "l_percep") if part in self.parts]
        return {part: self.parts[part](output, batch["gt"]) for part in against_truth}

    @property
    def follows_psnr(self) -> bool:
        """Whether a loss has a curriculum, which moves with the PSNR of the validation."""
        return any(isinstance(part, CurricularContrastiveRegularization) for part in self.parts.values())

    def after_evaluation(self, psnr: float) -> None:
        """Tell a loss with a curriculum how far the network has come."""
        for part in self.parts.values():
            if isinstance(part, CurricularContrastiveRegularization):
                part.observe({"psnr": psnr})
