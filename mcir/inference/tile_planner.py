"""Plan how many images and how large tiles are restored at once: as memory allows, and less after a failure."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch

from mcir.inference.memory import budget

Tile: TypeAlias = int | Literal["auto"] | None
"""Longest side of a tile; ``"auto"``: as large as memory allows; None: no tiles."""

MeasureCost: TypeAlias = Callable[[], tuple[float, float]]
"""Measures the bytes that a network always uses, and the bytes that it uses per pixel."""

_LOG = logging.getLogger("mcir")


@dataclass
class TilePlanner:
    """Choose the batch size and the side of the tiles for each pass through a network.

    When memory runs out, PyTorch's CPU allocator raises a plain ``RuntimeError``, like many other errors. Therefore
    every ``RuntimeError`` leads to a smaller plan; if the smallest plan fails, too, the error is raised.

    Attributes:
        name: name of the network, for messages.
        device: device of the network.
        tile: longest side of a tile; it is a limit for smaller tiles after a failure.
        min_side: smallest side of a tile.
        preferred_side: side of the tiles for ``"auto"``, if it fits into memory but exceeds the budget for tiles.
        unmeasured_pixels: number of pixels that are restored together without measuring memory.
    """

    name: str
    device: torch.device
    tile: Tile
    min_side: int
    preferred_side: int
    unmeasured_pixels: int
    _cost: tuple[float, float] | None = field(default=None, init=False)
    _limit: float = field(default=math.inf, init=False)  # pixels; smaller than any plan that failed
    _failed: list[int] = field(default_factory=list, init=False)  # sides of tiles

    def plan(self, images: int, height: int, width: int, measure: MeasureCost) -> tuple[int, int]:
        """Return how many of the images are restored together, and the longest side of their tiles."""
        if self._failed and self.device.type == "cuda":
            torch.cuda.empty_cache()
        whole, tiled = (min(self._limit, pixels) for pixels in self._affordable(images * height * width, measure))
        side = min(max(height, width), self.tile) if isinstance(self.tile, int) else max(height, width)
        if _area(side, height, width) > whole:
            square = math.isqrt(int(tiled))
            side = max(square if square <= min(height, width) else int(tiled) // min(height, width), self.min_side)
        area = _area(side, height, width)
        return max(int(min(whole, images * area) // area), 1), side

    def failed(self, error: BaseException, batch_size: int, side: int, height: int, width: int) -> None:
        """After a plan failed, halve the batch size or the side of the tiles.

        Raises:
            ValueError: memory is not sufficient for the smallest tile.
            BaseException: the smallest tile failed for another reason.
        """
        self._failed.append(side)
        if batch_size > 1 or side > self.min_side:
            self._limit = max(batch_size / 2, 1) * _area(side if batch_size > 1 else side // 2, height, width)
            return
        sides = ", ".join(map(str, dict.fromkeys(self._failed)))
        self._failed, self._limit = [], math.inf  # more memory may be available for the next image
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise ValueError(
                f"not enough memory on {self.device} for {self.name}: tiles with sides of {sides} pixels were tried, "
                "and the last is the smallest possible. Use another device or a smaller network."
            ) from error
        raise error

    def succeeded(self, batch_size: int, side: int) -> None:
        """After a plan succeeded, log it if larger plans had failed."""
        if self._failed:
            _LOG.warning(
                "%s failed on larger inputs, probably for lack of memory: from now on it restores tiles of %d pixels, "
                "%d at a time.",
                self.name,
                side,
                batch_size,
            )
            self._failed = []

    def _affordable(self, pixels: int, measure: MeasureCost) -> tuple[float, float]:
        """Return how many pixels fit into memory, as whole images and as tiles."""
        if self.tile != "auto" or pixels <= self.unmeasured_pixels:
            return math.inf, math.inf
        if self._cost is None:
            try:
                self._cost = measure()
            except (RuntimeError, MemoryError):
                self._cost = 0.0, 1.0  # unknown; if the first plan fails, smaller ones follow
        constant, per_pixel = self._cost
        whole, tiled = (max((limit - constant) / per_pixel, 1.0) for limit in budget(self.device))
        return whole, min(whole, max(tiled, self.preferred_side**2))


def _area(side: int, height: int, width: int) -> int:
    """Return the number of pixels of the largest tile of an image."""
    return min(side, height) * min(side, width)
