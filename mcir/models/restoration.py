"""Supervised restoration: the network learns to map a degraded image to its ground truth."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mcir.losses import CurricularContrastiveRegularization, share_features
from mcir.models.balance import Balance
from mcir.models.base import Batch, Model
from mcir.registry import LOSSES, MODELS, LossSection


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

    def add_loss(self, part: str, section: LossSection, balance: float | None = None) -> None:
        """Build a loss as a part of the model, which shares feature networks with those that are there.

        Args:
            part: its name, also that of its value.
            section: of the option file.
            balance: the ratio to the first loss, of their gradients at the output, at which it is held.

        Raises:
            ValueError: the section does not fit, the batch is divided and the loss is no mean over the batch, or there
                is no first loss to be in balance with.
        """
        loss = LOSSES.build(section)
        sums = section.get("reduction") == "sum" or section.get("criterion") == "fro"
        if self.accumulation_steps > 1 and (sums or not getattr(loss, "is_batch_mean", True)):
            raise ValueError(f"{part}: with accumulation_steps > 1 a loss must be a mean over the batch; this is none.")
        self.parts[part] = loss.to(self.device)
        share_features(self.parts)
        held = None
        if balance is not None:
            if not self._watch.names:
                raise ValueError(f"balance holds {part} at a ratio to another loss, like 'train.pixel_opt': give one.")
            held = self.parts["balance"] = Balance(balance).to(self.device)
        self._watch.attach(part, loss, held)

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

    def after_evaluation(self, psnr: float) -> None:
        """Tell a loss with a curriculum how far the network has come."""
        for part in self.parts.values():
            if isinstance(part, CurricularContrastiveRegularization):
                part.observe(psnr)

    def stateful(self) -> dict[str, Any]:
        """Return the network's parts, and of the losses those that have a state."""
        names = [*self._watch.names, *(["balance"] if "balance" in self.parts else [])]
        return super().stateful() | {name: self.parts[name] for name in names if self.parts[name].state_dict()}
