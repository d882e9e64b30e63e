"""Losses and the distances between residuals. Importing this package registers them."""

from mcir.features import FeatureCache
from mcir.losses.base import Loss
from mcir.losses.ccr import CurricularContrastiveRegularization
from mcir.losses.cr import ContrastiveRegularization
from mcir.losses.dense import DenseCLLoss, PixContrastLoss, VADeRLoss
from mcir.losses.distances import BhattacharyyaDistance, EarthMoversDistance, MaximumMeanDiscrepancy
from mcir.losses.feature_loss import FeatureSpace, share_features
from mcir.losses.pcl import PCLLoss
from mcir.losses.perceptual import PerceptualLoss
from mcir.losses.pixel import CharbonnierLoss, L1Loss, MSELoss, PSNRLoss
from mcir.losses.residual import ConsistencyLoss, ResidualContrastiveLoss
from mcir.losses.spn import SPNLoss
from mcir.losses.ssim import SSIMLoss

__all__ = [
    "BhattacharyyaDistance",
    "CharbonnierLoss",
    "ConsistencyLoss",
    "ContrastiveRegularization",
    "CurricularContrastiveRegularization",
    "DenseCLLoss",
    "EarthMoversDistance",
    "FeatureCache",
    "FeatureSpace",
    "L1Loss",
    "Loss",
    "MSELoss",
    "MaximumMeanDiscrepancy",
    "PCLLoss",
    "PSNRLoss",
    "PerceptualLoss",
    "PixContrastLoss",
    "ResidualContrastiveLoss",
    "SPNLoss",
    "SSIMLoss",
    "VADeRLoss",
    "share_features",
]
