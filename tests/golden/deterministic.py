"""Generate the weights and inputs of the golden numbers from keys and seeds.

An entry of a state dict depends only on its key, its shape and a gain: the CRC-32 of the key seeds NumPy's generator,
and standard normal numbers in float64 are scaled as in ``deterministic`` and rounded to float32.
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
    """Return one entry of a state dict in float32."""
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
    """Return all entries except scalars and NOT_GENERATED, whose values come from the constructor."""
    return {
        key: deterministic(key, shape, gain)
        for key, shape in shapes.items()
        if len(shape) and key.split(".")[-1] not in NOT_GENERATED
    }


def uniform(seed: int, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return uniform numbers in [low, high), scaled in float64 and rounded to float32."""
    values = low + (high - low) * np.random.default_rng(seed).random(tuple(shape))
    return torch.from_numpy(values.astype(np.float32))


def vgg_state_dict(vgg_type: str, layers: int, gain: float = math.sqrt(2)) -> dict[str, Tensor]:
    """Return the golden weights of the first ``layers`` layers of ``features`` in torchvision's VGG."""
    import torchvision

    with torch.device("meta"):
        features = torchvision.models.get_model(vgg_type, weights=None).features[:layers]
    shapes = {f"features.{key}": tuple(value.shape) for key, value in features.state_dict().items()}
    return deterministic_state_dict(shapes, gain)
