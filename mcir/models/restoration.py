"""Supervised training on pairs of a degraded image and its ground truth."""

from dataclasses import dataclass

from torch import Tensor

from mcir.errors import ArgumentError
from mcir.models.base import Model
from mcir.models.batch import Batch
from mcir.registry import MODELS, LossSection


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class RestorationModel(Model):
    """A network that is trained with a pixel loss and a perceptual loss between output and ground truth."""

    pixel_opt: LossSection | None = None
    """Loss between output and ground truth."""
    perceptual_opt: LossSection | None = None
    """Loss between output and ground truth in a feature space."""

    def __post_init__(self) -> None:
        """Build the losses."""
        super().__post_init__()
        if self.pixel_opt:
            self.criteria.add("l_pix", self.pixel_opt, option="pixel_opt")
        if self.perceptual_opt:
            self.criteria.add("l_percep", self.perceptual_opt, option="perceptual_opt")

    def require_trainable(self) -> None:
        """Check that there is an optimizer and a loss."""
        super().require_trainable()
        if not {"l_pix", "l_percep"} & set(self.criteria):
            raise ArgumentError(
                "pixel_opt",
                f"{type(self).__name__}: training requires 'train.pixel_opt' or 'train.perceptual_opt', for example "
                "{type: L1Loss}.",
            )

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the pixel and the perceptual loss."""
        names = [name for name in ("l_pix", "l_percep") if name in self.criteria]
        return {name: self.criteria.evaluate(name, output, batch["gt"]) for name in names}
