"""Losses: one family, one file. Importing this package registers them."""

from mcir.losses.contrastive import SPNLoss
from mcir.losses.feature_space import FeatureSpace, share_features
from mcir.losses.pcl import PCLLoss
from mcir.losses.perceptual import PerceptualLoss
from mcir.losses.pixel import CharbonnierLoss, L1Loss, MSELoss, PSNRLoss
from mcir.losses.regularization import ContrastiveRegularization, CurricularContrastiveRegularization
from mcir.losses.structural import SSIMLoss

__all__ = [
    "CharbonnierLoss",
    "ContrastiveRegularization",
    "CurricularContrastiveRegularization",
    "FeatureSpace",
    "L1Loss",
    "MSELoss",
    "PCLLoss",
    "PSNRLoss",
    "PerceptualLoss",
    "SPNLoss",
    "SSIMLoss",
    "share_features",
]
