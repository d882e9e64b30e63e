"""The helpers of the contract find the sizes that a network accepts, and the correct spec."""

import pytest
import torch
from torch import Tensor

from mcir.archs.network import Network
from mcir.network_spec import NetworkSpec
from tests.archs.sizes import accepted_sides, accepts_side, spec_error, spec_for


class Strided(Network):
    """Network that accepts multiples of ``multiple`` that are at least ``minimum``, except ``gap``."""

    def __init__(self, multiple: int, minimum: int, gap: int | None = None) -> None:
        super().__init__()
        self.accepted = (multiple, minimum, gap)

    def restore(self, x: Tensor) -> Tensor:
        multiple, minimum, gap = self.accepted
        if any(side % multiple or side < minimum or side == gap for side in x.shape[-2:]):
            raise RuntimeError("shapes do not match")
        return x


def error_of(net: Network, maximum: int = 40) -> str | None:
    return spec_error(net, accepted_sides(accepts_side(net, 24), maximum), maximum)


@pytest.mark.parametrize(("multiple", "minimum"), [(1, 1), (1, 7), (4, 4), (4, 12), (8, 8)])
def test_the_correct_spec_is_proposed(multiple: int, minimum: int) -> None:
    net = Strided(multiple, minimum)
    net.spec = NetworkSpec(size_multiple=multiple, min_size=minimum)
    assert error_of(net) is None
    net.spec = NetworkSpec(size_multiple=3, min_size=2)
    assert f"expected size_multiple = {multiple} and min_size = {minimum}." in (error_of(net) or "")


def test_a_gap_in_the_accepted_sizes_is_found() -> None:
    net = Strided(8, 8, gap=16)
    net.spec = NetworkSpec(size_multiple=8, min_size=8)
    assert "expected size_multiple = 8 and min_size = 24" in (error_of(net) or "")


def test_no_spec_describes_sizes_that_are_never_accepted() -> None:
    assert spec_for([], 20) is None
    assert "no spec describes them" in (error_of(Strided(64, 64)) or "")
    assert not accepts_side(Strided(64, 64), 24)(int(torch.tensor(24)))
