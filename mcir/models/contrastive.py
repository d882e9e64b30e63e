"""Model contrastive learning: the network's output is pushed away from negatives, for example its own past outputs.

"Learning from History: Task-agnostic Model Contrastive Learning for Image Restoration", AAAI 2024, arXiv:2309.06023.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor

from mcir.errors import ArgumentError, KeyPath, locate_errors
from mcir.losses import Loss
from mcir.models.batch import Batch
from mcir.models.negatives import Negatives, build_negatives
from mcir.models.restoration import RestorationModel
from mcir.registry import MODELS, LossSection, NegativesSection


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class ContrastiveModel(RestorationModel):
    """A RestorationModel with negatives and a contrastive term: L = L_rec − λ·mean‖φ(rec) − φ(neg)‖₁ (Eqs. 3 and 4).

    Attributes:
        negative_source: module that computes the negatives of a batch; None if the model only restores images.
    """

    contrastive_opt: LossSection | None = None
    """Loss between output and negatives."""
    negatives: NegativesSection | None = None
    """Negatives of the contrastive loss."""
    balance: Annotated[float, Interval(gt=0, le=1000)] | None = None
    """Target for the gradient norm of the contrastive loss divided by that of the first loss, both at the output. The
    weight starts at ``loss_weight`` and is adapted to keep this ratio. Default: a constant weight."""

    negative_source: Negatives | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Build the contrastive loss and the negatives.

        Raises:
            ArgumentError: only one of the two is set, or ``balance`` is set without a contrastive loss.
        """
        super().__post_init__()
        if (self.contrastive_opt is None) != (self.negatives is None):
            missing = "negatives" if self.negatives is None else "contrastive_opt"
            message = f"expected both 'contrastive_opt' and 'negatives', or neither, but {missing} is missing."
            raise ArgumentError(missing, message)
        if self.balance is not None and not (self.contrastive_opt or {"loss_weight": 0}).get("loss_weight", 1.0):
            raise ArgumentError(
                "balance", "a fixed gradient ratio requires a 'contrastive_opt' with a loss_weight above 0."
            )
        if self.contrastive_opt and self.negatives:
            self.criteria.add("l_neg", self.contrastive_opt, option="contrastive_opt", compares="negatives")
            if self.balance is not None:
                self.fix_gradient_ratio("l_neg", self.balance)
            self.negative_source = build_negatives(self.negatives, self.network, self.seed, key="negatives")
            self.parts["negatives"] = self.negative_source

    def require_trainable(self) -> None:
        """Check that there is an optimizer, a loss and a contrastive loss."""
        super().require_trainable()
        if self.negative_source is None:
            raise ArgumentError(
                "negatives",
                "ContrastiveModel: training requires 'train.contrastive_opt' and 'train.negatives', for example "
                "{type: SPNLoss} and {type: HistoryNegatives}.",
            )

    def losses(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of RestorationModel and the contrastive loss."""
        losses = super().losses(output, batch)
        if self.negative_source is not None:
            with torch.no_grad(), locate_errors(key="negatives"):
                negatives = self.negative_source(batch["lq"], batch["gt"], batch.get("negatives"))
                positives = self.negative_source.positives(batch["gt"])
            losses["l_neg"] = self.criteria.evaluate("l_neg", output, negatives, positives)
        return losses

    def after_backward(self, output: Tensor, batch: Batch) -> None:
        """Update the negatives that depend on the weights before the optimizer step."""
        if self.negative_source is not None:
            self.negative_source.update_before_step(self.network, output, batch["gt"])

    def after_step(self, output: Tensor, batch: Batch, iteration: int) -> None:
        """Update the moving average and the negatives (Eq. 1)."""
        super().after_step(output, batch, iteration)
        if self.negative_source is not None:
            self.negative_source.update(self.network, iteration, output, batch["gt"])

    def risky_options(self) -> dict[KeyPath, str]:
        """Return λ and w if trainings with such values collapsed in the paper. With ``balance``, λ changes."""
        source = self.negative_source
        if source is None:
            return {}
        loss, is_constant = self.criteria["l_neg"], self.balance is None
        of_loss = loss.risky_arguments() if isinstance(loss, Loss) and source.follows_network and is_constant else {}
        by_option = {"contrastive_opt": of_loss, "negatives": source.risky_arguments()}
        return {(option, *path): reason for option, risks in by_option.items() for path, reason in risks.items()}

    def stateful(self) -> dict[str, Any]:
        """Return the parts whose state is saved for resuming, including the negatives."""
        negatives = {} if self.negative_source is None else {"negatives": self.negative_source}
        return super().stateful() | negatives

    def load_weights(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Load pretrained weights and restart the negatives from them."""
        mismatches = super().load_weights(weights, strict)
        if self.negative_source is not None:
            self.negative_source.start_from(self.network)
        return mismatches
