"""The losses of a model."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mcir.errors import ArgumentError, locate_errors
from mcir.losses import share_features
from mcir.losses.base import Comparison, Loss, is_batch_mean
from mcir.registry import LOSSES, LossSection


@runtime_checkable
class Observer(Protocol):
    """A loss that depends on the validation results, for example because it has a curriculum."""

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Update the loss with the mean metrics of the first validation set."""


class Criteria(nn.ModuleDict):
    """The losses of a model by name. They share feature networks, and the activations within a step.

    Args:
        require_batch_means: whether the loss of a batch must equal the mean of the losses of its equal parts, which
            gradient accumulation requires.
    """

    def __init__(self, require_batch_means: bool = False) -> None:
        super().__init__()
        self._require_batch_means = require_batch_means
        self._options: dict[str, str] = {}
        self._features = share_features(self)

    def add(self, name: str, loss: LossSection | nn.Module, option: str = "", compares: Comparison = "image") -> None:
        """Add a loss.

        Args:
            name: name of the loss and of its logged value.
            loss: section of the option file, or a module. The first argument of its forward pass is the output.
            option: name of the option that defines the loss, for error messages.
            compares: what the model passes to the loss; see :class:`~mcir.losses.base.Loss`.

        Raises:
            ArgumentError: the loss compares other tensors, or is not a mean over the batch although it must be.
        """
        built: nn.Module = loss if isinstance(loss, nn.Module) else LOSSES.build(loss, key=option or ())
        if isinstance(built, Loss) and built.compares != compares:
            classes = {kind: LOSSES.get(kind) for kind in LOSSES.names()}
            known = [kind for kind, cls in classes.items() if issubclass(cls, Loss) and cls.compares == compares]
            message = f"expected one of {', '.join(known)}, got {type(built).__name__}."
            raise ArgumentError(option or name, message)
        if self._require_batch_means and not is_batch_mean(built):
            raise ArgumentError("accumulation_steps", f"expected 1, because {name} is not a mean over the batch.")
        self[name] = built
        self._options[name] = option
        self._features = share_features(self)

    def evaluate(self, name: str, *inputs: Any) -> Tensor:
        """Compute a loss. Errors include the name of the option that defines it."""
        with locate_errors(key=self._options.get(name) or ()):
            value: Tensor = self[name](*inputs)
        return value

    def clear_features(self) -> None:
        """Release the shared activations at the end of a step."""
        self._features.clear()

    @property
    def observers(self) -> list[Observer]:
        """The losses that depend on the validation results."""
        return [loss for loss in self.modules() if isinstance(loss, Observer)]
