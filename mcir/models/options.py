"""The training options that all models share."""

from dataclasses import dataclass
from typing import Literal

from mcir.checks import check_argument, check_at_least, check_probability
from mcir.registry import ArchSection, OptimizerSection, SchedulerSection


@dataclass(kw_only=True, eq=False)
class ModelOptions:
    """The options of :class:`~mcir.models.base.Model`. The fields are keys of the option file.

    Raises:
        ArgumentError: ``ema_decay``, ``accumulation_steps`` or ``grad_clip`` is out of range.
    """

    network_g: ArchSection
    """Network."""
    optim_g: OptimizerSection | None = None
    """Optimizer: the name of a class in torch.optim and its arguments. Required for training."""
    scheduler: SchedulerSection | None = None
    """Learning rate as a function of the iteration. Default: constant."""
    warmup_iter: int = -1
    """Number of iterations in which the learning rate rises linearly from 0; -1: no warm-up."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the network; 0: no moving average."""
    grad_clip: float | None = None
    """Maximum L2 norm of the gradient; longer gradients are scaled down to it."""
    accumulation_steps: int = 1
    """Number of equal parts into which a batch is split to save memory. The gradients of all parts are accumulated."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the networks during training. Losses are summed in float32, and images are restored in float32. With
    fp16, the loss is scaled to keep gradients in range, steps whose gradients overflow are skipped, and the feature
    networks of losses run in bf16."""
    channels_last: bool = False
    """Whether to use the channels-last memory layout, which is faster on most machines."""
    compile: bool = False
    """Whether to compile the network with torch.compile."""
    seed: int = 0
    """Seed for the initial weights."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_probability(ema_decay=self.ema_decay)
        check_at_least(1, accumulation_steps=self.accumulation_steps)
        clip_is_valid = self.grad_clip is None or self.grad_clip > 0
        check_argument("grad_clip", self.grad_clip, clip_is_valid, "a norm above 0, or null to disable clipping")
