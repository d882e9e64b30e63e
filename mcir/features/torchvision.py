"""Feature networks out of torchvision's classifiers: the activations at any node of any of them, by the node's name.

The names are those of ``torchvision.models.feature_extraction``: ``layer2`` of a ResNet50 is the last node within it,
``layer2.0.relu_1`` a node of its own. What no chosen node needs is not computed.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, fx, nn

from mcir.features.base import FeatureNetwork, imagenet_file, kind_of
from mcir.features.vgg import VGGFeatures, VGGType
from mcir.registry import suggestion
from mcir.weights import WeightsError, read_weights

logger = logging.getLogger(__name__)


def feature_network(
    layer_names: Sequence[str],
    network: str = "vgg16",
    weights: str = "imagenet",
    use_input_norm: bool = True,
    range_norm: bool = False,
    seed: int = 0,
) -> FeatureNetwork:
    """Build a feature network: a VGG by its layer names, any other classifier of torchvision by its node names.

    The arguments are those of :class:`~mcir.features.vgg.VGGFeatures` and :class:`ClassifierFeatures`.

    Raises:
        ValueError: an unknown network or layer.
        WeightsError: weights that are not there or do not fit.
    """
    for vgg_type in get_args(VGGType):
        if network == vgg_type:
            return VGGFeatures(layer_names, vgg_type, weights, use_input_norm, range_norm, seed)
    return ClassifierFeatures(layer_names, network, weights, use_input_norm, range_norm, seed)


class ClassifierFeatures(FeatureNetwork):
    """Activations of a frozen classifier of torchvision at chosen nodes.

    Built under ``with torch.device("meta")`` it has shapes but no weights, and reads none.

    Args:
        layer_names: names of nodes, or of modules, which mean their last node.
        network: name of the classifier, such as ``resnet50``.
        weights: ``"imagenet"`` (torchvision's ``IMAGENET1K_V1``), the name of another version of torchvision's, such as
            ``"IMAGENET1K_V2"``, ``"random"`` (torchvision's initialisation, from ``seed``), or the path of a state dict
            with torchvision's keys; only what the chosen nodes need has to be in it.
        use_input_norm: subtract ImageNet's mean and divide by its standard deviation first.
        range_norm: the input is in [-1, 1]; map it to [0, 1] before anything else.
        seed: of random weights.

    Raises:
        ValueError: an unknown node or classifier, or no node at all.
        WeightsError: weights that are not there or do not fit.
    """

    def __init__(
        self,
        layer_names: Sequence[str],
        network: str = "resnet50",
        weights: str = "imagenet",
        use_input_norm: bool = True,
        range_norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(use_input_norm, range_norm)
        self._arguments = (network, weights, use_input_norm, range_norm, seed)
        self.kind = kind_of(*self._arguments)
        self.network = network
        self.net = _extractor(_classifier(network, seed if weights == "random" else None), network, layer_names)
        self.layer_names = tuple(layer_names)
        self._fill(weights)
        _freeze(self.net)
        self.eval()

    def with_layers(self, layer_names: Sequence[str]) -> ClassifierFeatures:
        """Return the same classifier with other nodes."""
        return ClassifierFeatures(layer_names, *self._arguments)

    def stream(self, x: Tensor, wanted: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the activations one by one; all of them are computed before the first is given.

        Raises:
            ValueError: images without three channels.
        """
        if x.dim() != 4 or x.shape[1] != 3:
            raise ValueError(f"{self.network} takes (B, 3, H, W), not {tuple(x.shape)}.")
        found: dict[str, Tensor] = self.net(self.prepared(x))
        memories = {activation.untyped_storage()._cdata for activation in found.values()}
        for name in self.layer_names if wanted is None else wanted:
            activation = found.pop(name)
            yield name, activation if len(memories) == len(self.layer_names) else activation.clone()

    def _fill(self, weights: str) -> None:
        """Put values in place of parameters that are on the meta device so far; random ones are there already."""
        meta = torch.get_default_device().type == "meta"
        if weights == "random":
            if not meta:
                logger.warning(
                    "%s has random weights: results differ from those with ImageNet's weights.", self.network
                )
            return
        versions = _versions(self.network)
        version = "IMAGENET1K_V1" if weights == "imagenet" else weights
        if version not in versions and not Path(weights).is_file():
            raise WeightsError(
                f"There is no file '{weights}'. weights of {self.network} is 'imagenet', one of "
                f"{', '.join(versions)}, 'random' or the path of a state dict."
            )
        if not meta:
            file = imagenet_file(self.network, version) if version in versions else Path(weights)
            self.net.load_state_dict(self._matching(read_weights(file).tensors, file), assign=True)

    def _matching(self, state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
        """Return those entries of a state dict that this network needs, in float32."""
        values: dict[str, Tensor] = {}
        wrong: list[str] = []
        for key, own in self.net.state_dict().items():
            if key.endswith("num_batches_tracked"):
                values[key] = torch.zeros((), dtype=torch.int64, device="cpu")  # in evaluation nobody counts
            elif key not in state:
                wrong.append(f"{key} is missing")
            elif state[key].shape != own.shape:
                wrong.append(f"{key} is {tuple(state[key].shape)} instead of {tuple(own.shape)}")
            else:
                values[key] = state[key].float()
        if wrong:
            more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise WeightsError(
                f"{file} does not hold {self.network} up to {', '.join(self.layer_names)}: {'; '.join(wrong[:10])}"
                f"{more}. It begins with {', '.join(list(state)[:4]) or 'nothing'}."
            )
        return values


def _classifier(network: str, seed: int | None) -> nn.Module:
    """Build a classifier: without values on the meta device, or from a seed, the global generators left alone."""
    import torchvision  # a second of start-up that only these networks need

    known = torchvision.models.list_models(torchvision.models)
    if network not in known:
        raise ValueError(
            f"torchvision has no classifier '{network}'.{suggestion(network, known)} Known are {', '.join(known)}."
        )
    if seed is None or torch.get_default_device().type == "meta":
        with torch.device("meta"):
            classifier: nn.Module = torchvision.models.get_model(network, weights=None)
    else:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            classifier = torchvision.models.get_model(network, weights=None)
    return classifier


def _versions(network: str) -> list[str]:
    import torchvision

    return list(torchvision.models.get_model_weights(network).__members__)


def _extractor(classifier: nn.Module, network: str, layer_names: Sequence[str]) -> fx.GraphModule:
    """Cut a classifier down to what its chosen nodes need; no node overwrites another."""
    from torchvision.models import feature_extraction as extraction

    classifier.eval()
    _, nodes = extraction.get_graph_node_names(classifier, suppress_diff_warning=True)
    parts = [node.split(".") for node in nodes[1:]]  # the first is the image
    known = {".".join(names[:depth]) for names in parts for depth in range(1, len(names) + 1)}
    if not layer_names:
        raise ValueError(f"Name at least one node of {network}, like {nodes[len(nodes) // 2]}.")
    for name in layer_names:
        if name not in known:
            modules = sorted({names[0] for names in parts})
            raise ValueError(
                f"{network} has no node '{name}'.{suggestion(name, known)} It has {', '.join(modules)}, and within "
                "them the names that torchvision.models.feature_extraction.get_graph_node_names tells."
            )
    both = extraction.create_feature_extractor(
        classifier, return_nodes={name: name for name in layer_names}, suppress_diff_warning=True
    ).eval()
    graph = both.graph
    for node in graph.nodes:
        if node.target is operator.iadd:
            node.target = operator.add
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    cut = fx.GraphModule(both, graph)
    for module in cut.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return cut


def _freeze(net: nn.Module) -> None:
    """Make every parameter and buffer a buffer that stands in no state dict."""
    for module in net.modules():
        values = {
            name: value for name, value in (*module._parameters.items(), *module._buffers.items()) if value is not None
        }
        for name, value in values.items():
            delattr(module, name)
            module.register_buffer(name, value.detach(), persistent=False)
