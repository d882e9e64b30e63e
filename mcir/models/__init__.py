"""Models: a network, its losses and its optimizer, and how one training step is made of them."""

from mcir.models.base import Batch, Model
from mcir.models.contrastive import ContrastiveModel
from mcir.models.ema import MovingAverage
from mcir.models.negatives import (
    AdaptiveHistoryNegatives,
    CombinedNegatives,
    ConsensusNegatives,
    FrozenNegatives,
    HardNegatives,
    HistoryNegatives,
    InputNegatives,
    Negatives,
)
from mcir.models.optim import (
    CosineAnnealingLR,
    CosineAnnealingRestartLR,
    EpochCosineAnnealingLR,
    MultiStepLR,
    MultiStepRestartLR,
    Schedule,
    TrueCosineAnnealingLR,
    build_optimizer,
)
from mcir.models.restoration import RestorationModel

__all__ = [
    "AdaptiveHistoryNegatives",
    "Batch",
    "CombinedNegatives",
    "ConsensusNegatives",
    "ContrastiveModel",
    "CosineAnnealingLR",
    "CosineAnnealingRestartLR",
    "EpochCosineAnnealingLR",
    "FrozenNegatives",
    "HardNegatives",
    "HistoryNegatives",
    "InputNegatives",
    "Model",
    "MovingAverage",
    "MultiStepLR",
    "MultiStepRestartLR",
    "Negatives",
    "RestorationModel",
    "Schedule",
    "TrueCosineAnnealingLR",
    "build_optimizer",
]
