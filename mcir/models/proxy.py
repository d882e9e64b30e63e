"""Proxy evaluation of pretrained weights: only a new last layer is trained, on few labelled images.

"Residual Contrastive Learning for Image Reconstruction", IJCAI 2022, arXiv:2106.10070, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mcir.errors import ArgumentError, suggestion
from mcir.models.restoration import RestorationModel
from mcir.registry import MODELS
from mcir.weights import matching_part


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class ProxyModel(RestorationModel):
    """A RestorationModel that trains only the last layer of its network.

    Pretrained weights are loaded except for the last layer, which is initialized from the seed. Its shape may differ,
    for example because ``UNet`` has another ``scale``. The frozen part is in evaluation mode, including its batch
    norms, and runs without a graph. Without pretrained weights, the frozen part is random, which gives a lower bound.
    Without an optimizer, the model only restores images, and all weights are loaded.
    """

    last_layer: str | None = None
    """Name of the module in the network to train. Default: ``last_layer`` of the network's spec."""

    def __post_init__(self) -> None:
        """Freeze the network except for the last layer."""
        super().__post_init__()
        if self.optim_g is not None:
            self.network.requires_grad_(False)
            self.trained_part.requires_grad_(True)

    @property
    def trained_part(self) -> nn.Module:
        """The last layer.

        Raises:
            ArgumentError: the network has no module of this name, or the module has no weights.
        """
        name = self._layer_name
        names = {key.rpartition(".")[0]: None for key, _ in self.network.named_parameters()}
        if not name or not any(key == name or key.startswith(f"{name}.") for key in names):
            raise ArgumentError(
                "last_layer",
                f"expected a module of {type(self.network).__name__} with weights, got '{name}'."
                f"{suggestion(name, names)} The last modules are {', '.join(list(names)[-5:])}.",
            )
        return self.network.get_submodule(name)

    @property
    def _layer_name(self) -> str:
        return self.last_layer or self.spec.last_layer

    def enter_training(self) -> None:
        """Set the last layer to training mode and everything else to evaluation mode."""
        self.network.eval()
        self.trained_part.train()

    def load_weights(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Load pretrained weights except for the last layer."""
        if self.optim_g is None:
            return super().load_weights(weights, strict)
        prefix = f"{self._layer_name}."
        _, weights = matching_part(self.network, weights)
        body = {key: value for key, value in weights.items() if not key.startswith(prefix)}
        own = self.network.state_dict()
        matches = not own.keys().isdisjoint(body)  # otherwise loading fails, also if ``strict`` is not set
        fresh = {key: value for key, value in own.items() if matches and key.startswith(prefix)}
        return super().load_weights(body | fresh, strict)
