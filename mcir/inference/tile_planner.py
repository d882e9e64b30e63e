"""How much of some images is restored at once: as much as fits, and less from when it did not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch

from mcir.inference.memory import budget, is_out_of_memory

Tile: TypeAlias = int | Literal["auto"] | None
"""The longest side of a tile, as much as fits into the memory, or no tiles."""

Cost: TypeAlias = Callable[[], tuple[float, float]]
"""Finds out the bytes that a network always takes, and those that it takes for a pixel; memory may run out in it."""

_LOG = logging.getLogger("mcir")


class TilePlanner:
    """Divides images among passes through a network.

    Args:
        name: of the network, for messages.
        device: where it works.
        tile: the longest side of a tile; ``auto`` for what memory allows; None for whole images. The last two are the
            same once memory has run out.
        smallest: tiles have at least this side.
        wanted: ``auto`` gives them this side, too, where that fits: it is not worth while to have smaller ones.
        unasked: so many pixels are restored together without a look at the memory.
    """

    def __init__(
        self,
        name: str,
        device: torch.device,
        tile: Tile,
        smallest: int,
        wanted: int,
        unasked: int,
    ) -> None:
        self.name = name
        self.device = device
        self.tile = tile
        self.smallest = smallest
        self.wanted = wanted
        self.unasked = unasked
        self._cost: tuple[float, float] | None = None
        self._most = math.inf
        self._failed: list[int] = []

    def plan(self, count: int, height: int, width: int, cost: Cost) -> tuple[int, int]:
        """Return how many of ``count`` images go through the network together, and the longest side of their tiles."""
        whole, tiled = (min(self._most, pixels) for pixels in self._affordable(count * height * width, cost))
        side = min(max(height, width), self.tile) if isinstance(self.tile, int) else max(height, width)
        if _area(side, height, width) > whole:
            side = max(_side(int(tiled), height, width), self.smallest)
        area = _area(side, height, width)
        return max(int(min(whole, count * area) // area), 1), side

    def ran_out(self, together: int, side: int, height: int, width: int) -> None:
        """Remember that a plan did not fit: half as many images from now on, or tiles of half the side.

        Raises:
            ValueError: a smaller plan cannot be.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._failed.append(side)
        if together == 1 and side <= self.smallest:
            tried = ", ".join(map(str, dict.fromkeys(self._failed)))
            self._failed, self._most = [], math.inf  # there may be more memory for the next
            raise ValueError(
                f"the memory of {self.device} is not enough for {self.name}: tiles with sides of {tried} pixels were "
                "tried, and smaller ones cannot be. Take another device, or a smaller network."
            )
        if together > 1:
            self._most = together / 2 * _area(side, height, width)
        else:
            self._most = _area(side // 2, height, width)

    def fitted(self, together: int, side: int) -> None:
        """Say, if memory had run out, with which plan it goes on."""
        if self._failed:
            _LOG.warning(
                "Memory ran out: from now on %s restores tiles of %d pixels, %d at a time.", self.name, side, together
            )
            self._failed = []

    def _affordable(self, pixels: int, cost: Cost) -> tuple[float, float]:
        """Return how many pixels there is memory for, in whole images and in tiles, if so many may be too many."""
        if self.tile != "auto" or pixels <= self.unasked:
            return math.inf, math.inf
        if self._cost is None:
            try:
                self._cost = cost()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._cost = 0.0, 1.0  # as good as nothing: it will be seen what fits
        always, per_pixel = self._cost
        whole, tiled = (max((bytes_ - always) / per_pixel, 1.0) for bytes_ in budget(self.device))
        return whole, min(whole, max(tiled, self.wanted**2))


def _side(area: int, height: int, width: int) -> int:
    """Return the longest side of a tile of an image with at most so many pixels."""
    square = math.isqrt(area)
    return square if square <= min(height, width) else area // min(height, width)


def _area(side: int, height: int, width: int) -> int:
    """Return how many pixels the largest tile of an image has."""
    return min(side, height) * min(side, width)
