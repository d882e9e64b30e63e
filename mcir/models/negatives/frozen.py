"""Networks that never change as negatives: random ones, and pretrained ones."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcir.models.negatives.base import Negatives, another, beside, build_seeded, stream
from mcir.network_spec import spec_of
from mcir.registry import ARCHS, NEGATIVES, ArchSection, KeyPath
from mcir.weights import WeightsError, load_network, match_state_dict, mismatch_error, read_weights

RANDOM = "random"


class _Frozen(Negatives):
    """Networks in evaluation mode whose weights stand in the state dict and never change."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members).requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the outputs (N, B, C, sH, sW) of the networks for ``lq`` (B, C, H, W)."""
        return torch.stack([member(lq) for member in self.members])


@NEGATIVES.register()
class FrozenNegatives(_Frozen):
    """Networks that never change: at random, or pretrained ("Learning from History", AAAI 2024, Table 6).

    Their weights are part of the state, so that a run resumes with those that it began with, even when a file has
    changed meanwhile.

    Args:
        network: the network in training.
        arch: the architecture of the negatives, any registered one of the same scale. Without it random networks are of
            that of ``network``, and a file's is read off the file; what no file tells, like ``img_range``, then has
            its default.
        weights: ``random``, or the path of a checkpoint (``.safetensors`` or ``.pth``, of mcir or an official release),
            or a list of these: one network for each.
        count: how many networks ``random`` stands for, each of its own initialisation.
        param_key: which of the files' weights, like ``params``; without it the moving average where there is one.
        seed: of the random networks.

    Raises:
        ValueError: no network, a count for a file, a network of another scale or number of channels, a random one of a
            class that is not registered, or a file (``WeightsError``) that cannot be read or does not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        arch: ArchSection | None = None,
        weights: str | Sequence[str] = RANDOM,
        count: int = 1,
        param_key: str | None = None,
        seed: int = 0,
    ) -> None:
        sources = [weights] if isinstance(weights, str) else list(weights)
        if count < 1 or not sources:
            raise ValueError("FrozenNegatives: it takes at least one network: count from 1 on, weights not empty.")
        if count > 1 and sources != [RANDOM]:
            raise ValueError(f"FrozenNegatives: count is for 'weights: {RANDOM}'; list the files instead.")
        members = []
        for number, source in enumerate(sources * count):
            if source == RANDOM:
                build = another(network) if arch is None else lambda section=arch: ARCHS.build(section, key="arch")
                members.append(build_seeded(stream(seed, number), build, network))
            else:
                members.append(_pretrained(network, source, arch, param_key, ("arch",)))
        _require_same_images("FrozenNegatives", network, members)
        super().__init__(members)


@NEGATIVES.register()
class ConsensusNegatives(_Frozen):
    """What several pretrained models make of the input, as in CCR (C2PNet, CVPR 2023, arXiv:2303.14218).

    Either the models run beside the training, or their outputs were stored once and come with the data set, as in the
    released code. C2PNet takes the degraded input as a further negative: combine this kind with ``InputNegatives``,
    the input last.

    Args:
        network: the network in training.
        weights: checkpoints of the models, in the order of their negatives.
        archs: for each checkpoint the section of its architecture, or null where the file tells it; without the list
            all files tell theirs.
        stored: take the images that the data set brings from its ``dataroot_negatives`` instead.
        param_key: which of the files' weights, like ``params``; without it the moving average where there is one.

    Raises:
        ValueError: not exactly one of ``weights`` and ``stored``, not one section for each checkpoint, a model of
            another scale or number of channels, or a file (``WeightsError``) that cannot be read or does not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Sequence[str] = (),
        archs: Sequence[ArchSection | None] | None = None,
        stored: bool = False,
        param_key: str | None = None,
    ) -> None:
        if stored == bool(weights):
            raise ValueError("ConsensusNegatives: expected either 'weights', a list of checkpoints, or 'stored: true'.")
        sections = [None] * len(weights) if archs is None else list(archs)
        if len(sections) != len(weights):
            raise ValueError(
                f"ConsensusNegatives: {len(weights)} weights need as many archs (null where the file tells it), not "
                f"{len(sections)}."
            )
        members = [
            _pretrained(network, file, section, param_key, ("archs", number))
            for number, (file, section) in enumerate(zip(weights, sections, strict=True))
        ]
        _require_same_images("ConsensusNegatives", network, members)
        super().__init__(members)
        self.stored = stored

    def forward(self, lq: Tensor, gt: Tensor, stored: Tensor | None = None) -> Tensor:
        """Return the models' outputs (N, B, C, sH, sW), computed or stored.

        Raises:
            ValueError: they should be stored, and the batch has none.
        """
        if not self.stored:
            return super().forward(lq, gt)
        if stored is None:
            raise ValueError(
                "ConsensusNegatives with 'stored: true' needs the images: give the training set "
                "'dataroot_negatives', a list of folders or data bases with one output for each ground truth."
            )
        return stored.detach().transpose(0, 1)


def _pretrained(
    network: nn.Module, file: str, arch: ArchSection | None, key: str | None, argument: KeyPath
) -> nn.Module:
    """Return the network of a checkpoint, where ``network`` is and of its type.

    On the meta device, where only costs are asked for, a file that need not tell the architecture is not read.
    """
    if arch is None:
        with torch.device("cpu"):
            return beside(network, load_network(file, key))
    with torch.random.fork_rng(devices=[]):
        built: nn.Module = ARCHS.build(arch, key=argument)
    if next(network.parameters()).is_meta:
        return beside(network, built)
    weights = read_weights(file, key).tensors
    tensors, mismatches = match_state_dict(built, weights)
    if mismatches:
        raise WeightsError(f"{file}: {mismatch_error(built, weights, mismatches)}")
    built.load_state_dict(tensors)
    return beside(network, built)


def _require_same_images(kind: str, network: nn.Module, members: Sequence[nn.Module]) -> None:
    """Check that the networks make images of the same size and kind from the same input."""
    own = spec_of(network)
    for member in members:
        other = spec_of(member)
        if own is None or other is None:
            continue
        for fact, ours, its in (
            ("scale", own.scale, other.scale),
            ("in_channels", own.in_channels, other.in_channels),
        ):
            if ours != its:
                raise ValueError(
                    f"{kind}: {type(member).__name__} has {fact} {its}, but {type(network).__name__} {ours}; "
                    "negatives are images of the same kind."
                )
