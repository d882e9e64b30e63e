"""Base class of losses, and helpers for losses."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from mcir.domains import Positive
from mcir.errors import KeyPath

Comparison: TypeAlias = Literal["image", "negatives", "residuals", "views"]
"""What a loss compares, and the arguments of its ``forward``: ``image``: (output, image); ``negatives``: (output,
negatives, positives); ``residuals``: (anchors, keys, images); ``views``: projections of two views, see
:class:`~mcir.losses.dense.DenseLoss`."""

Reduction: TypeAlias = Literal["mean", "sum"]


@dataclass(kw_only=True, eq=False)
class Loss(nn.Module):
    """Base class of losses. Constructor arguments are the fields of a dataclass.

    A subclass is also a keyword-only dataclass. It adds arguments as fields, whose annotations contain their domains
    (see :mod:`mcir.domains`), checks them against each other in ``__post_init__`` (after ``super().__post_init__()``),
    and returns a weighted scalar from ``forward``. A loss that depends on validation results, for example for a
    curriculum, defines a method ``observe(metrics: Mapping[str, float])``. It is called after each validation with the
    mean metrics of the first validation set, for example ``{"psnr": 31.2}``.

    Raises:
        ArgumentError: an argument has a value that the loss does not accept.
    """

    compares: ClassVar[Comparison] = "image"
    """What the loss compares."""
    sound_ratios: ClassVar[tuple[float, float] | None] = None
    """Range of the gradient ratio to the first loss with which the loss is known to work, if there is one."""

    loss_weight: Positive = 1.0
    """Factor of the loss."""

    def __post_init__(self) -> None:
        """Initialize the module."""
        super().__init__()

    def risky_arguments(self) -> dict[KeyPath, str]:
        """Return the key paths of arguments whose values are known to fail, with the reason. By default, none."""
        return {}

    @property
    def is_batch_mean(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its equal parts. Gradient accumulation needs it."""
        return True


@runtime_checkable
class _DefinesBatchMean(Protocol):
    @property
    def is_batch_mean(self) -> bool: ...


def is_batch_mean(loss: nn.Module) -> bool:
    """Return whether the loss of a batch is the mean of the losses of its equal parts.

    Any module can define ``is_batch_mean``, as an attribute or as a property. The default is True.
    """
    return loss.is_batch_mean if isinstance(loss, _DefinesBatchMean) else True


def require_same_shape(loss: nn.Module, output: Tensor, reference: Tensor) -> None:
    """Raise a ValueError unless two batches have the same shape."""
    if output.shape != reference.shape:
        raise ValueError(
            f"{type(loss).__name__}: expected two batches of the same shape, got {tuple(output.shape)} and "
            f"{tuple(reference.shape)}."
        )


def in_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or unchanged if its precision is higher."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context manager that disables autocast on the device of ``x``."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)  # autocast rejects the meta device
