"""Outputs of frozen networks, random or pretrained, as negatives."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcir.domains import Count, Seed
from mcir.errors import ArgumentError, KeyPath
from mcir.models.negatives.base import Negatives, build_seeded, child_seed, fresh_builder, to_like
from mcir.network_call import call_network
from mcir.network_spec import spec_of
from mcir.paths import UserPath, WeightsPath
from mcir.registry import ARCHS, NEGATIVES, ArchSection
from mcir.weights import WeightsError, load_network, load_state, read_weights

RANDOM = "random"


class _Frozen(Negatives):
    """Frozen networks in evaluation mode. The options determine their weights, so the state dict does not have them."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members).requires_grad_(False)
        self.members.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
        self.members.register_load_state_dict_pre_hook(_keep_own)  # type: ignore[no-untyped-call]
        self.train(False)

    @torch.no_grad()
    def forward(self, lq: Tensor, gt: Tensor | None = None, stored: Tensor | None = None) -> Tensor:
        """Return the outputs (N, B, C, sH, sW) of the networks for ``lq`` (B, C, H, W)."""
        return torch.stack([call_network(member, lq) for member in self.members])


@NEGATIVES.register()
class FrozenNegatives(_Frozen):
    """Outputs of frozen networks, random or pretrained ("Learning from History", AAAI 2024, Table 6).

    The weights are not part of the state: a resumed run uses those of its options.

    Args:
        network: trained network.
        arch: architecture of the negatives, with the same scale as ``network``. Default: the architecture of
            ``network`` for random weights; for a file, the architecture stored in it or detected from its weights.
            Arguments that cannot be detected, like ``img_range``, then have their defaults.
        weights: ``random`` or the path of a checkpoint (``.safetensors`` or ``.pth``, of mcir or an official release),
            or a list of these.
        count: number of random networks.
        param_key: key of the weights in the files, for example ``params``. Default: the moving average, if there is
            one.
        seed: seed for the random networks.

    Raises:
        ArgumentError: ``weights`` is empty, ``count`` is set for files, or a network has another scale or
            number of channels.
        WeightsError: a file cannot be read or does not fit its architecture.
    """

    def __init__(
        self,
        network: nn.Module,
        arch: ArchSection | None = None,
        weights: WeightsPath | Sequence[WeightsPath] = RANDOM,
        count: Count = 1,
        param_key: str | None = None,
        seed: Seed = 0,
    ) -> None:
        sources = [weights] if isinstance(weights, str) else list(weights)
        if not sources:
            raise ArgumentError("weights", f"expected '{RANDOM}' or checkpoint files, got an empty list.")
        if count > 1 and sources != [RANDOM]:
            raise ArgumentError("count", f"expected 1, because weights is not '{RANDOM}', got {count}.")
        members = []
        for number, source in enumerate(sources * count):
            if source == RANDOM:
                build = (
                    fresh_builder(network) if arch is None else lambda section=arch: ARCHS.build(section, key="arch")
                )
                members.append(build_seeded(child_seed(seed, number), build, network))
            else:
                members.append(_pretrained(network, source, arch, param_key, ("arch",)))
        _check_specs("weights" if arch is None else "arch", network, members)
        super().__init__(members)


@NEGATIVES.register()
class ConsensusNegatives(_Frozen):
    """Outputs of several pretrained models, as in CCR (C2PNet, CVPR 2023, arXiv:2303.14218).

    The models run during training, or the data set contains their stored outputs, as in the released code.
    C2PNet's last negative is the degraded input: add it with ``CombinedNegatives`` and ``InputNegatives``.

    Args:
        network: trained network.
        weights: checkpoints of the models, in the order of the negatives.
        archs: section of the architecture for each checkpoint; null: stored in the file or detected from the weights.
            Default: null for all.
        stored: whether to use the images from the data set (``dataroot_negatives``) instead of models.
        param_key: key of the weights in the files, for example ``params``. Default: the moving average, if there is
            one.

    Raises:
        ArgumentError: both or neither of ``weights`` and ``stored`` are set, the length of ``archs`` is not that of
            ``weights``, or a model has another scale or number of channels.
        WeightsError: a file cannot be read or does not fit its architecture.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Sequence[UserPath] = (),
        archs: Sequence[ArchSection | None] | None = None,
        stored: bool = False,
        param_key: str | None = None,
    ) -> None:
        if stored == bool(weights):
            got = "both" if stored else "neither"
            raise ArgumentError("weights", f"expected either 'weights', a list of checkpoints, or 'stored', got {got}.")
        sections = [None] * len(weights) if archs is None else list(archs)
        if len(sections) != len(weights):
            message = f"expected one entry or null for each of the {len(weights)} weights, got {len(sections)}."
            raise ArgumentError("archs", message)
        members = [
            _pretrained(network, file, section, param_key, ("archs", number))
            for number, (file, section) in enumerate(zip(weights, sections, strict=True))
        ]
        _check_specs("weights", network, members)
        super().__init__(members)
        self.stored = stored

    def forward(self, lq: Tensor, gt: Tensor | None = None, stored: Tensor | None = None) -> Tensor:
        """Return the outputs (N, B, C, sH, sW) of the models, computed or stored.

        Raises:
            ValueError: ``stored`` is set, and the batch has no stored negatives.
        """
        if not self.stored:
            return super().forward(lq)
        if stored is None:
            raise ValueError(
                "ConsensusNegatives: 'stored: true' requires 'dataroot_negatives' in the training set, a list of "
                "folders or LMDBs with one image for each ground truth."
            )
        return stored.detach().transpose(0, 1)


def _pretrained(
    network: nn.Module, file: str, arch: ArchSection | None, param_key: str | None, key: KeyPath
) -> nn.Module:
    """Return the network of a checkpoint, on the device and in the dtype of ``network``.

    On the meta device, the file is read only if ``arch`` is None. ``key`` is the path of the argument that contains
    ``arch``, for error messages.
    """
    if arch is None:
        with torch.device("cpu"):
            return to_like(load_network(file, param_key), network)
    with torch.random.fork_rng(devices=[]):
        built: nn.Module = ARCHS.build(arch, key=key)
    if next(network.parameters()).is_meta:
        return to_like(built, network)
    weights = read_weights(file, param_key).tensors
    try:
        load_state(built, weights)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    return to_like(built, network)


def _leave_out(members: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Remove the weights of the members from a state dict."""
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]


def _keep_own(members: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Replace the weights in a state dict of an earlier version by those of the members."""
    _leave_out(members, state, prefix)
    for name, member in members.named_children():
        state.update(member.state_dict(prefix=f"{prefix}{name}."))


def _check_specs(argument: str, network: nn.Module, members: Sequence[nn.Module]) -> None:
    """Check that scale and number of channels of all members equal those of the network, if they are known."""
    own = spec_of(network)
    for member in members:
        spec = spec_of(member)
        if own and spec and (spec.scale, spec.in_channels) != (own.scale, own.in_channels):
            raise ArgumentError(
                argument,
                f"expected networks like {type(network).__name__}, with scale {own.scale} and "
                f"{own.in_channels} channels, got {type(member).__name__} with scale {spec.scale} and "
                f"{spec.in_channels} channels.",
            )
