"""Which sides a network takes, by trying them all, and what it should therefore state as its facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from mcir.archs.network import Network


def usable_sides(takes: Callable[[int], bool], most: int) -> list[int]:
    """Return the sides from 1 to ``most`` that are taken."""
    return [side for side in range(1, most + 1) if takes(side)]


def facts_of(sides: Iterable[int]) -> tuple[int, int]:
    """Return the largest multiple and the smallest side that describe the usable sides.

    The multiple divides every usable side, and from the smallest one on every multiple is usable.
    """
    sides = sorted(sides)
    assert sides, "no side is usable"
    return math.gcd(*sides), sides[0]


def takes_sides(net: Network, fixed: int) -> Callable[[int], bool]:
    """Return a function that tells whether ``restore`` takes a side, as height and as width, beside a ``fixed`` one."""

    def takes(side: int) -> bool:
        for height, width in ((side, fixed), (fixed, side)):
            image = torch.rand(1, net.in_channels, height, width, generator=torch.Generator().manual_seed(side))
            try:
                with torch.no_grad():
                    output = net.restore(image)
            except (RuntimeError, ValueError, IndexError, AssertionError):
                return False
            if output.shape[2:] != (height * net.scale, width * net.scale) or not output.isfinite().all():
                return False
        return True

    return takes


def complaint(net: Network, sides: Iterable[int]) -> str | None:
    """Say what the network should state instead of its facts, or None when they describe the usable sides."""
    sides = sorted(sides)
    multiple, least = facts_of(sides)
    first = -(-net.min_size // net.size_multiple) * net.size_multiple
    if (net.size_multiple, first) == (multiple, least):
        return None
    return (
        f"{type(net).__name__} states size_multiple = {net.size_multiple} and min_size = {net.min_size}, but takes "
        f"{sides[:6]}{'…' if len(sides) > 6 else ''}: state size_multiple = {multiple} and min_size = {least}."
    )
