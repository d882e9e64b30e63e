"""Several kinds of negatives together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcir.models.negatives.base import Negatives, stream
from mcir.registry import NEGATIVES, KeyPath, NegativesSection, Section


def build_negatives(section: Section, network: nn.Module, seed: int, key: str | KeyPath = ()) -> Negatives:
    """Build a kind of negatives beside ``network``; one that takes a seed and does not say it gets this one.

    Raises:
        RegistryError: the section does not fit its class.
    """
    name = section.get("type")
    takes_seed = isinstance(name, str) and name in NEGATIVES and "seed" in NEGATIVES.parameters(name)
    built = NEGATIVES.build({"seed": seed, **section} if takes_seed else section, network, key=key)
    assert isinstance(built, Negatives)
    return built


@NEGATIVES.register()
class CombinedNegatives(Negatives):
    """The negatives of several kinds, one after the other, and all their positives.

    Every negative counts as much as any other in a loss that takes their mean, whatever the kind it is of.

    Args:
        network: the network in training.
        members: the kinds, in the order of their negatives.
        seed: what is random about the members comes from seeds of their own, derived from it; a member may say one.

    Raises:
        ValueError: no members, or a section that does not fit.
    """

    def __init__(self, network: nn.Module, members: Sequence[NegativesSection], seed: int = 0) -> None:
        super().__init__()
        if not members:
            raise ValueError("CombinedNegatives: members is a list of at least one kind, like [{type: …}, {type: …}].")
        self.members = nn.ModuleList(
            build_negatives(section, network, stream(seed, number), ("members", number))
            for number, section in enumerate(members)
        )

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the negatives of all members (N, B, C, sH, sW)."""
        return torch.cat([member(lq, gt, stored) for member in self.kinds()])

    def positives(self, gt: Tensor) -> list[Tensor]:
        """Return ``gt`` (B, C, sH, sW) and the further positives of all members, P images of that size."""
        return [gt, *(positive for member in self.kinds() for positive in member.positives(gt)[1:])]

    def start_from(self, network: nn.Module) -> None:
        """Let every member begin anew."""
        for member in self.kinds():
            member.start_from(network)

    def update(self, network: nn.Module, iteration: int, output: Tensor, gt: Tensor) -> None:
        """Let every member follow the network."""
        for member in self.kinds():
            member.update(network, iteration, output, gt)

    def kinds(self) -> list[Negatives]:
        """Return the members."""
        return [member for member in self.members if isinstance(member, Negatives)]
