"""Plan how much of some images is restored at once: as much as memory allows, and less after a failure."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch

from mcir.inference.memory import budget

Tile: TypeAlias = int | Literal["auto"] | None
"""Longest side of a tile; ``"auto"``: as large as memory allows; None: no tiles."""

MeasureCost: TypeAlias = Callable[[], tuple[float, float]]
"""Measures the bytes that a network always uses, and those per pixel."""

_LOG = logging.getLogger("mcir")


class TilePlanner:
    """Divide images among passes through a network.

    When memory runs out, PyTorch's CPU allocator raises a plain ``RuntimeError``, like many other errors. Therefore
    every ``RuntimeError`` leads to smaller tiles; if the smallest tiles fail, too, the error is raised.

    Args:
        name: name of the network, for messages.
        device: device of the network.
        tile: longest side of a tile. After a failure, ``"auto"`` and None mean the same.
        smallest: smallest side of a tile.
        preferred: side of the tiles that ``"auto"`` uses if it fits, although the budget for tiles is smaller.
        unmeasured: number of pixels that are restored together without a look at the memory.
    """

    def __init__(
        self, name: str, device: torch.device, tile: Tile, smallest: int, preferred: int, unmeasured: int
    ) -> None:
        self.name = name
        self.device = device
        self.tile = tile
        self.smallest = smallest
        self.preferred = preferred
        self.unmeasured = unmeasured
        self._cost: tuple[float, float] | None = None
        self._limit = math.inf  # pixels; below what has failed
        self._failed: list[int] = []

    def plan(self, count: int, height: int, width: int, measure: MeasureCost) -> tuple[int, int]:
        """Return how many of ``count`` images are restored together, and the longest side of their tiles."""
        whole, tiled = (min(self._limit, pixels) for pixels in self._affordable(count * height * width, measure))
        side = min(max(height, width), self.tile) if isinstance(self.tile, int) else max(height, width)
        if _area(side, height, width) > whole:
            side = max(_side(int(tiled), height, width), self.smallest)
        area = _area(side, height, width)
        return max(int(min(whole, count * area) // area), 1), side

    def handle_failure(self, error: BaseException, together: int, side: int) -> None:
        """Raise the error of a plan that failed if no smaller plan exists.

        Raises:
            ValueError: memory is not enough for the smallest tile.
        """
        self._failed.append(side)
        if together > 1 or side > self.smallest:
            return
        sides = ", ".join(map(str, dict.fromkeys(self._failed)))
        self._failed, self._limit = [], math.inf  # the next image may find more memory
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise ValueError(
                f"not enough memory on {self.device} for {self.name}: tiles with sides of {sides} pixels were tried, "
                "and the last is the smallest possible. Use another device or a smaller network."
            ) from error
        raise error

    def shrink(self, together: int, side: int, height: int, width: int) -> None:
        """After a failure, use half as many images from now on, or tiles of half the side."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        area = _area(side, height, width) if together > 1 else _area(side // 2, height, width)
        self._limit = together / 2 * area if together > 1 else area

    def succeeded(self, together: int, side: int) -> None:
        """After a success, log the plan if larger ones had failed."""
        if self._failed:
            _LOG.warning(
                "%s failed on larger inputs, probably for lack of memory: from now on it restores tiles of %d pixels, "
                "%d at a time.",
                self.name,
                side,
                together,
            )
            self._failed = []

    def _affordable(self, pixels: int, measure: MeasureCost) -> tuple[float, float]:
        """Return how many pixels fit into memory, as whole images and as tiles."""
        if self.tile != "auto" or pixels <= self.unmeasured:
            return math.inf, math.inf
        if self._cost is None:
            try:
                self._cost = measure()
            except (RuntimeError, MemoryError):
                self._cost = 0.0, 1.0  # unknown; smaller plans follow if the first fails
        always, per_pixel = self._cost
        whole, tiled = (max((limit - always) / per_pixel, 1.0) for limit in budget(self.device))
        return whole, min(whole, max(tiled, self.preferred**2))


def _side(area: int, height: int, width: int) -> int:
    """Return the longest side of a tile of an image with at most so many pixels."""
    square = math.isqrt(area)
    return square if square <= min(height, width) else area // min(height, width)


def _area(side: int, height: int, width: int) -> int:
    """Return the number of pixels of the largest tile of an image."""
    return min(side, height) * min(side, width)
