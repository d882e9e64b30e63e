"""Combination of several kinds of negatives."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcir.domains import Seed
from mcir.errors import ArgumentError, KeyPath
from mcir.models.negatives.base import Negatives, child_seed
from mcir.registry import NEGATIVES, NegativesSection, Section


def build_negatives(section: Section, network: nn.Module, seed: int, key: str | KeyPath = ()) -> Negatives:
    """Build negatives from a section of the option file.

    Args:
        section: section of the option file.
        network: trained network.
        seed: default of the argument ``seed``, if the class has it.
        key: name of the argument that contains the section, for error messages.

    Raises:
        RegistryError: the class is unknown or does not accept the arguments.
    """
    name = section.get("type")
    takes_seed = isinstance(name, str) and name in NEGATIVES and "seed" in NEGATIVES.parameters(name)
    built = NEGATIVES.build({"seed": seed, **section} if takes_seed else section, network, key=key)
    assert isinstance(built, Negatives)
    return built


@NEGATIVES.register()
class CombinedNegatives(Negatives):
    """The negatives and the positives of several kinds, in order.

    A loss that averages over negatives gives all of them the same weight.

    Args:
        network: trained network.
        members: sections of the combined negatives, in order.
        seed: seed from which the default seeds of the members are derived.

    Raises:
        ArgumentError: ``members`` is empty.
    """

    def __init__(self, network: nn.Module, members: Sequence[NegativesSection], seed: Seed = 0) -> None:
        super().__init__()
        if not members:
            raise ArgumentError("members", "expected a list of kinds of negatives, got an empty one.")
        self.kinds = [
            build_negatives(section, network, child_seed(seed, number), ("members", number))
            for number, section in enumerate(members)
        ]
        self.members = nn.ModuleList(self.kinds)

    @property
    def follows_network(self) -> bool:
        """Whether the negatives of a member are outputs of the past of the trained network."""
        return any(member.follows_network for member in self.kinds)

    def risky_arguments(self) -> dict[KeyPath, str]:
        """Return the key paths of arguments of the members whose values are known to fail, with the reason."""
        return {
            ("members", number, *path): reason
            for number, member in enumerate(self.kinds)
            for path, reason in member.risky_arguments().items()
        }

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor | None = None, stored: Tensor | None = None) -> Tensor:
        """Return the negatives of all members (N, B, C, sH, sW)."""
        return torch.cat([member(lq, gt, stored) for member in self.kinds])

    def positives(self, gt: Tensor) -> list[Tensor]:
        """Return ``gt`` (B, C, sH, sW) and the additional positives of all members."""
        return [gt, *(positive for member in self.kinds for positive in member.positives(gt)[1:])]

    def start_from(self, network: nn.Module) -> None:
        """Restart every member."""
        for member in self.kinds:
            member.start_from(network)

    def update_before_step(self, network: nn.Module, output: Tensor, gt: Tensor) -> None:
        """Update every member with the weights that computed ``output``."""
        for member in self.kinds:
            member.update_before_step(network, output, gt)

    def update(
        self, network: nn.Module, iteration: int, output: Tensor | None = None, gt: Tensor | None = None
    ) -> None:
        """Update every member after an optimizer step."""
        for member in self.kinds:
            member.update(network, iteration, output, gt)
