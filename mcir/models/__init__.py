"""Models: one training step from a network, its losses and its optimizer."""

from mcir.models.base import Model
from mcir.models.batch import Batch
from mcir.models.contrastive import ContrastiveModel
from mcir.models.dense import DenseContrastiveModel
from mcir.models.ema import EMA
from mcir.models.momentum import MomentumEncoder, Queue
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
from mcir.models.optim import build_optimizer
from mcir.models.proxy import ProxyModel
from mcir.models.residual import ResidualContrastiveModel
from mcir.models.restoration import RestorationModel
from mcir.models.schedules import (
    CosineAnnealingLR,
    CosineAnnealingRestartLR,
    EpochCosineAnnealingLR,
    MultiStepLR,
    MultiStepRestartLR,
    Schedule,
    TrueCosineAnnealingLR,
)
from mcir.models.self_supervised import Noise2NoiseModel, Noise2SelfModel, SelfSupervisedModel

__all__ = [
    "EMA",
    "AdaptiveHistoryNegatives",
    "Batch",
    "CombinedNegatives",
    "ConsensusNegatives",
    "ContrastiveModel",
    "CosineAnnealingLR",
    "CosineAnnealingRestartLR",
    "DenseContrastiveModel",
    "EpochCosineAnnealingLR",
    "FrozenNegatives",
    "HardNegatives",
    "HistoryNegatives",
    "InputNegatives",
    "Model",
    "MomentumEncoder",
    "MultiStepLR",
    "MultiStepRestartLR",
    "Negatives",
    "Noise2NoiseModel",
    "Noise2SelfModel",
    "ProxyModel",
    "Queue",
    "ResidualContrastiveModel",
    "RestorationModel",
    "Schedule",
    "SelfSupervisedModel",
    "TrueCosineAnnealingLR",
    "build_optimizer",
]
