"""The proxy evaluation of pre-trained weights: all but the last layer frozen, a new last layer trained on few labels.

"Residual Contrastive Learning for Image Reconstruction", IJCAI 2022, arXiv:2106.10070, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mcir.models.restoration import RestorationModel
from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import MODELS, suggestion


@MODELS.register()
@dataclass(kw_only=True, eq=False)
class ProxyModel(RestorationModel):
    """A RestorationModel that trains the last layer of its network and nothing else.

    Trained weights are taken over but for the last layer, which begins anew from the seed and may have another shape:
    the task's head is part of the architecture (``UNet`` with ``scale`` 2 enlarges). What is frozen is in evaluation
    mode, its batch norms too, and runs without a graph. Without trained weights a random network is frozen, which is
    what others are to be better than. Without an optimizer the model restores, and takes over all weights.
    """

    last_layer: str | None = None
    """The module that is trained, by its name in the network; what the architecture states without."""

    def __post_init__(self) -> None:
        """Freeze what is not trained."""
        super().__post_init__()
        if self.optim_g is not None:
            self.network.requires_grad_(False)
            self.trained_part.requires_grad_(True)

    @property
    def trained_part(self) -> nn.Module:
        """The last layer.

        Raises:
            ValueError: the network has no such module, or one without weights.
        """
        name = self._layer
        names = {key.rpartition(".")[0]: None for key, _ in self.network.named_parameters()}
        if not name or not any(key == name or key.startswith(f"{name}.") for key in names):
            raise ValueError(
                f"last_layer is a module of {type(self.network).__name__} that has weights, not {name!r}."
                f"{suggestion(name, names)} The last ones are {', '.join(list(names)[-5:])}."
            )
        return self.network.get_submodule(name)

    @property
    def _layer(self) -> str:
        """The name of the last layer."""
        return self.last_layer or (spec_of(self.network) or NetworkSpec()).last_layer

    def enter_training(self) -> None:
        """Bring the last layer into training mode, and all else into evaluation mode."""
        self.network.eval()
        self.trained_part.train()

    def load_weights(self, weights: Mapping[str, Tensor], strict: bool = True) -> list[str]:
        """Start from trained weights, but for the last layer; see :class:`Model`."""
        if self.optim_g is None:
            return super().load_weights(weights, strict)
        prefix = f"{self._layer}."
        body = {key: value for key, value in weights.items() if not key.startswith(prefix)}
        fresh = {key: value for key, value in self.network.state_dict().items() if key.startswith(prefix)}
        return super().load_weights(body | fresh, strict)
