"""Data sets: storages, pairing, crops, degradations, sampling and loading."""

from __future__ import annotations

from mcir.data.bundled import BundledPhotos
from mcir.data.degradations import JPEG, BayerMosaic, BicubicDown, Chain, GaussianNoise
from mcir.data.errors import DataError
from mcir.data.loader import Prefetcher, evaluation_loader, to_device, training_loader
from mcir.data.noise import HeteroscedasticNoise
from mcir.data.noisy import NoisyItem, NoisyObservations, NoisyPatchPairs
from mcir.data.paired import Item, PairDataset, PairedImageDataset, Sources
from mcir.data.resize import imresize
from mcir.data.sampler import SampleIndex
from mcir.data.samples import SampleSpec, sample_spec
from mcir.data.synthetic import MotionBlur, RainStreaks, SensorNoise, SyntheticHaze

__all__ = [
    "JPEG",
    "BayerMosaic",
    "BicubicDown",
    "BundledPhotos",
    "Chain",
    "DataError",
    "GaussianNoise",
    "HeteroscedasticNoise",
    "Item",
    "MotionBlur",
    "NoisyItem",
    "NoisyObservations",
    "NoisyPatchPairs",
    "PairDataset",
    "PairedImageDataset",
    "Prefetcher",
    "RainStreaks",
    "SampleIndex",
    "SampleSpec",
    "SensorNoise",
    "Sources",
    "SyntheticHaze",
    "evaluation_loader",
    "imresize",
    "sample_spec",
    "to_device",
    "training_loader",
]
