"""Sizes that the layers of a network accept, found by trying, and the spec that describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from mcir.archs.network import Network


def usable_sides(accepts: Callable[[int], bool], most: int) -> list[int]:
    """Return the accepted sides from 1 to ``most``."""
    return [side for side in range(1, most + 1) if accepts(side)]


def spec_for(sides: Iterable[int], most: int) -> tuple[int, int] | None:
    """Return the smallest ``size_multiple`` and ``min_size`` that describe the usable sides, or None.

    Every multiple from ``min_size`` on is usable, and no other larger side is.
    """
    usable = set(sides)
    for multiple in range(1, most + 1):
        for least in range(multiple, most + 1, multiple):
            described = set(range(least, most + 1, multiple))
            if {side for side in usable if side >= least} == described and len(described) > 1:
                return multiple, least
    return None


def accepts_sides(net: Network, fixed: int) -> Callable[[int], bool]:
    """Return a function that tries whether ``restore`` accepts a side as height and width, next to a ``fixed`` one."""

    def accepts(side: int) -> bool:
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

    return accepts


def complaint(net: Network, sides: Iterable[int], most: int) -> str | None:
    """Return the correction of a spec that does not describe the usable sides, or None if it does."""
    sides = sorted(sides)
    found = spec_for(sides, most)
    multiple, least = net.spec.size_multiple, net.spec.min_size
    if (multiple, -(-least // multiple) * multiple) == found:
        return None
    correction = found and f"expected size_multiple = {found[0]} and min_size = {found[1]}"
    return (
        f"{type(net).__name__} has size_multiple = {multiple} and min_size = {least}, but accepts these sides up to "
        f"{most}: {sides}: {correction or 'no spec describes them'}."
    )
