"""Images: where they are, how they are cut, degraded, drawn and brought to the device."""

from __future__ import annotations

from mcir.data.bundled import BundledPhotos
from mcir.data.degradations import JPEG, BicubicDown, Chain, GaussianNoise
from mcir.data.errors import DataError
from mcir.data.loader import Prefetcher, evaluation_loader, to_device, training_loader
from mcir.data.paired import Item, PairDataset, PairedImageDataset
from mcir.data.resize import imresize
from mcir.data.sampler import Draw
from mcir.data.stand_ins import MotionBlur, RainStreaks, SensorNoise, SyntheticHaze

__all__ = [
    "JPEG",
    "BicubicDown",
    "BundledPhotos",
    "Chain",
    "DataError",
    "Draw",
    "GaussianNoise",
    "Item",
    "MotionBlur",
    "PairDataset",
    "PairedImageDataset",
    "Prefetcher",
    "RainStreaks",
    "SensorNoise",
    "SyntheticHaze",
    "evaluation_loader",
    "imresize",
    "to_device",
    "training_loader",
]
