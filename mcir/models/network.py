"""A network with its moving average, and the options that all models share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from mcir.domains import BatchSize, Positive, Probability, Seed
from mcir.models.ema import EMA
from mcir.network_call import call_network
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS, ArchSection, OptimizerSection, SchedulerSection
from mcir.weights import load_state


@dataclass(kw_only=True, eq=False)
class NetworkModel:
    """The part of a :class:`~mcir.models.base.Model` that restores images. The fields are keys of the option file.

    Attributes:
        parts: all modules of the model.
        network: the network.
        ema: the moving average of the network, if there is one.
    """

    restore_options: ClassVar[tuple[str, ...]] = ()
    """Training options that also change how images are restored."""

    network_g: ArchSection
    """Network."""
    optim_g: OptimizerSection | None = None
    """Optimizer: the name of a class in torch.optim and its arguments. Required for training."""
    scheduler: SchedulerSection | None = None
    """Learning rate as a function of the iteration. Default: constant."""
    warmup_iter: Annotated[int, Interval(ge=-1, le=10**12)] = -1
    """Number of iterations in which the learning rate rises linearly from 0; -1: no warm-up."""
    ema_decay: Probability = 0.0
    """Decay of the exponential moving average of the network; 0: no moving average."""
    grad_clip: Positive | None = None
    """Maximum L2 norm of the gradient; longer gradients are scaled down to it."""
    accumulation_steps: BatchSize = 1
    """Number of equal parts into which a batch is split to save memory. The gradients of all parts are accumulated."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the networks during training. Losses are summed in float32, and images are restored in float32. With
    fp16, the loss is scaled to keep gradients in range, steps whose gradients overflow are skipped, and the feature
    networks of losses run in bf16."""
    channels_last: bool = False
    """Whether to use the channels-last memory layout, which is faster on most machines."""
    compile: bool = False
    """Whether to compile the network with torch.compile."""
    seed: Seed = 0
    """Seed for the initial weights."""

    parts: nn.ModuleDict = field(init=False, repr=False)
    network: nn.Module = field(init=False, repr=False)
    ema: EMA | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Build the network and its moving average."""
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
        network = self.network if self.ema is None else self.ema.network
        return call_network(network.eval(), lq)

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
            WeightsError: weights are not finite, no weight matches, or ``strict`` is set and keys or shapes differ.
        """
        mismatches = load_state(self.network, weights, strict)
        if self.ema is not None:
            self.ema.update(self.network, decay=0.0)
        return mismatches
