"""Losses: one family, one file. Importing this package registers them."""

from mcir.losses.contrastive import SPNLoss
from mcir.losses.perceptual import PerceptualLoss
from mcir.losses.pixel import CharbonnierLoss, L1Loss, MSELoss, PSNRLoss
from mcir.losses.structural import SSIMLoss

__all__ = ["CharbonnierLoss", "L1Loss", "MSELoss", "PSNRLoss", "PerceptualLoss", "SPNLoss", "SSIMLoss"]
