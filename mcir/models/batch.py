"""Batches of images."""

from collections.abc import Iterator
from typing import Any, TypeAlias

Batch: TypeAlias = dict[str, Any]
"""``lq`` and ``gt``: float32 in [0, 1], (B, C, H, W) and (B, C, sH, sW); ``lq_path`` and ``gt_path``: B strings."""


def split_batch(batch: Batch, parts: int) -> Iterator[tuple[Batch, bool]]:
    """Yield the equal parts of a batch, each with whether it is the last one.

    Raises:
        ValueError: the batch size is not a multiple of ``parts``.
    """
    size = len(batch["lq"])
    if size % parts:
        raise ValueError(f"The batch size must be a multiple of accumulation_steps = {parts}, got {size}.")
    step = size // parts
    for start in range(0, size, step):
        yield {key: value[start : start + step] for key, value in batch.items()}, start + step == size
