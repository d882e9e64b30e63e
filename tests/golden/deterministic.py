"""The weights and inputs that the golden numbers were computed with, made again from their keys and seeds.

An entry of a state dict depends on its key, its shape and one gain only: the CRC-32 of the key seeds numpy's generator,
standard normal numbers in float64 are scaled by the rule below and rounded once to float32.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

NOT_GENERATED = (
    "relative_position_index",
    "relative_positions",
    "attn_mask",
    "num_batches_tracked",
    "mean",
    "std",
    "shift",
    "scale",
)


def deterministic(key: str, shape: Sequence[int], gain: float = 1.0) -> Tensor:
    """One entry in float32."""
    leaf = key.split(".")[-1]
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if leaf == "running_mean":
        values = 0.1 * noise
    elif leaf == "running_var":
        values = 1 + 0.1 * np.abs(noise)
    elif len(shape) > 1:
        values = gain / math.sqrt(max(1, math.prod(shape[1:]))) * noise
    else:
        values = 0.1 * noise + (1 if leaf == "weight" else 0)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def deterministic_state_dict(shapes: Mapping[str, Sequence[int]], gain: float = 1.0) -> dict[str, Tensor]:
    """All entries but those that the golden networks kept as they were constructed: scalars and NOT_GENERATED."""
    return {
        key: deterministic(key, shape, gain)
        for key, shape in shapes.items()
        if len(shape) and key.split(".")[-1] not in NOT_GENERATED
    }


def uniform(seed: int, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
    """U(seed, shape) in [low, high): scaled in float64, rounded to float32."""
    values = low + (high - low) * np.random.default_rng(seed).random(tuple(shape))
    return torch.from_numpy(values.astype(np.float32))


def vgg_state_dict(vgg_type: str, layers: int, gain: float = math.sqrt(2)) -> dict[str, Tensor]:
    """The golden weights of the first ``layers`` entries of torchvision's ``features`` of a VGG."""
    import torchvision

    with torch.device("meta"):
        features = torchvision.models.get_model(vgg_type, weights=None).features[:layers]
    shapes = {f"features.{key}": tuple(value.shape) for key, value in features.state_dict().items()}
    return deterministic_state_dict(shapes, gain)
