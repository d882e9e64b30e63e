"""Find the sizes that the layers of a network accept, and the spec that describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from mcir.archs.network import Network


def accepted_sides(accepts: Callable[[int], bool], maximum: int) -> list[int]:
    """Return the accepted sides from 1 to ``maximum``."""
    return [side for side in range(1, maximum + 1) if accepts(side)]


def spec_for(sides: Iterable[int], maximum: int) -> tuple[int, int] | None:
    """Return the smallest ``size_multiple`` and ``min_size`` that describe the accepted sides, or None.

    Of all sides that are at least ``min_size``, exactly the multiples of ``size_multiple`` are accepted.
    """
    accepted = set(sides)
    for multiple in range(1, maximum + 1):
        for minimum in range(multiple, maximum + 1, multiple):
            described = set(range(minimum, maximum + 1, multiple))
            if {side for side in accepted if side >= minimum} == described and len(described) > 1:
                return multiple, minimum
    return None


def accepts_side(net: Network, other: int) -> Callable[[int], bool]:
    """Return a function that tests whether ``restore`` accepts a side as height and as width, with ``other`` pixels."""

    def accepts(side: int) -> bool:
        for height, width in ((side, other), (other, side)):
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


def spec_error(net: Network, sides: Iterable[int], maximum: int) -> str | None:
    """Return a message with the right values if the spec does not describe the accepted sides, otherwise None."""
    sides = sorted(sides)
    found = spec_for(sides, maximum)
    multiple, minimum = net.spec.size_multiple, net.spec.min_size
    if (multiple, -(-minimum // multiple) * multiple) == found:
        return None
    correction = found and f"expected size_multiple = {found[0]} and min_size = {found[1]}"
    return (
        f"{type(net).__name__} has size_multiple = {multiple} and min_size = {minimum}, but accepts these sides up to "
        f"{maximum}: {sides}: {correction or 'no spec describes them'}."
    )
