"""A network with its moving average, which restores images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from mcir.models.ema import EMA
from mcir.models.options import ModelOptions
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS
from mcir.weights import match_state_dict, mismatch_error


@dataclass(kw_only=True, eq=False)
class NetworkModel(ModelOptions):
    """The part of a :class:`~mcir.models.base.Model` that restores images.

    Attributes:
        parts: all modules that ``to`` moves.
        network: the network.
        ema: the moving average of the network, if there is one.
    """

    restore_options: ClassVar[tuple[str, ...]] = ()
    """Training options that also change how images are restored."""

    parts: nn.ModuleDict = field(init=False, repr=False)
    network: nn.Module = field(init=False, repr=False)
    ema: EMA | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Build the network and its moving average."""
        super().__post_init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = ARCHS.build(self.network_g, key="network_g")
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.parts = nn.ModuleDict({"network_g": self.network})
        if self.ema_decay:
            self.parts["ema"] = self.ema = EMA(self.network)

    @property
    def spec(self) -> NetworkSpec:
        """The spec of the network, or the defaults if it has none."""
        return spec_of(self.network) or NetworkSpec()

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def restore(self, lq: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1] to (B, C, sH, sW), with the moving average if there is one."""
        network = self.network if self.ema is None else self.ema
        network.eval()
        output: Tensor = network(lq)
        return output

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights of the network, ``params``, and of the moving average if there is one, ``params_ema``."""
        weights = {"params": self.network.state_dict()}
        if self.ema is not None:
            weights["params_ema"] = self.ema.network.state_dict()
        return weights

    def load_weights(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Load pretrained weights into the network and its moving average.

        Returns:
            The keys that are missing, unknown or of another shape. With ``strict``, this list is empty.

        Raises:
            WeightsError: ``strict`` is set, and keys or shapes differ.
        """
        fits, mismatches = match_state_dict(self.network, weights)
        if strict and mismatches:
            raise mismatch_error(self.network, weights, mismatches)
        self.network.load_state_dict(fits, strict=False)
        if self.ema is not None:
            self.ema.update(self.network, decay=0.0)
        return mismatches
