"""Kinds of negatives: the images that a contrastive loss pushes the output away from."""

from mcir.models.negatives.base import Negatives
from mcir.models.negatives.combined import CombinedNegatives, build_negatives
from mcir.models.negatives.frozen import ConsensusNegatives, FrozenNegatives
from mcir.models.negatives.history import AdaptiveHistoryNegatives, HistoryNegatives
from mcir.models.negatives.images import HardNegatives, InputNegatives

__all__ = [
    "AdaptiveHistoryNegatives",
    "CombinedNegatives",
    "ConsensusNegatives",
    "FrozenNegatives",
    "HardNegatives",
    "HistoryNegatives",
    "InputNegatives",
    "Negatives",
    "build_negatives",
]
