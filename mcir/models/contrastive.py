"""Model contrastive learning: the output is pushed away from what the network made before.

"Learning from History: Task-agnostic Model Contrastive Learning for Image Restoration", AAAI 2024.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcir.models.base import Batch
from mcir.models.negatives import Negatives, build_negatives
from mcir.models.restoration import RestorationModel
from mcir.registry import MODELS, LossSection, NegativesSection, locate_errors


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class ContrastiveModel(RestorationModel):
    """A RestorationModel that owns negatives and adds their term: L = L_rec − λ·mean‖φ(rec) − φ(neg)‖₁."""

    contrastive_opt: LossSection | None = None
    """Loss between output and negatives."""
    negatives: NegativesSection | None = None
    """Where the negatives come from."""
    balance: float | None = None
    """Ratio of the gradients of the contrastive and the first loss at the output; the weight of the contrastive loss is
    only where its factor begins. Without it, the weight is the loss's own throughout."""

    def __post_init__(self) -> None:
        """Build the contrastive loss and the negatives.

        Raises:
            ValueError: only one of the two is given, or a balance without a loss to be held.
        """
        super().__post_init__()
        if (self.contrastive_opt is None) != (self.negatives is None):
            raise ValueError(
                "ContrastiveModel needs both 'contrastive_opt' and 'negatives', or neither to only restore."
            )
        if self.balance is not None and not (self.contrastive_opt or {}).get("loss_weight", 1.0):
            raise ValueError("balance holds the ratio of a contrastive loss: give 'contrastive_opt' a weight above 0.")
        if self.balance is not None and self.contrastive_opt is None:
            raise ValueError("balance holds the ratio of a contrastive loss: give 'contrastive_opt', or leave it out.")
        if self.contrastive_opt and self.negatives:
            self.add_loss("l_neg", self.contrastive_opt, self.balance, contrasts=True)
            self.parts["negatives"] = build_negatives(self.negatives, self.network, self.seed, key="negatives")

    @property
    def bank(self) -> Negatives | None:
        """The negatives, if the model trains."""
        if "negatives" not in self.parts:
            return None
        bank = self.parts["negatives"]
        assert isinstance(bank, Negatives)
        return bank

    def require_trainable(self) -> None:
        """Check that there are negatives, too."""
        super().require_trainable()
        if self.bank is None:
            raise ValueError(
                "ContrastiveModel needs 'train.contrastive_opt' and 'train.negatives' to train, "
                "like {type: SPNLoss} and {type: HistoryNegatives}."
            )

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the parent's losses and the contrastive one."""
        losses = super().losses(output, batch)
        if self.bank is not None:
            with torch.no_grad(), locate_errors(key="negatives"):
                negatives = self.bank(batch["lq"], batch["gt"], batch.get("negatives"))
                positives = self.bank.positives(batch["gt"])
            with locate_errors(key="contrastive_opt"):
                losses["l_neg"] = self.parts["l_neg"](output, negatives, positives)
        return losses

    def after_step(self, output: Tensor, batch: Batch, iteration: int) -> None:
        """Let the negatives follow the network, too."""
        super().after_step(output, batch, iteration)
        if self.bank is not None:
            self.bank.update(self.network, iteration, output, batch["gt"])

    def stateful(self) -> dict[str, Any]:
        """Return the parent's parts and the negatives."""
        return super().stateful() | ({} if self.bank is None else {"negatives": self.bank})

    def load_weights(self, weights: Any, strict: bool = True) -> list[str]:
        """Start from trained weights, the negatives too."""
        mismatches = super().load_weights(weights, strict)
        if self.bank is not None:
            self.bank.start_from(self.network)
        return mismatches
