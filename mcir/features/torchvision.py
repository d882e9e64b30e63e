"""Feature networks: activations of torchvision's classifiers by node name.

Node names are those of ``torchvision.models.feature_extraction``. In a ResNet50, ``layer2.0.relu_1`` is a node, and the
module name ``layer2`` means the last node of that module. Only nodes that the selected nodes depend on are
computed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor, fx, nn

from mcir.errors import ArgumentError, suggestion
from mcir.features.base import FeatureNetwork, on_meta_device
from mcir.features.vgg import VGGFeatures, VGGType


def feature_network(
    layer_names: Sequence[str],
    network: str = "vgg16",
    weights: str = "imagenet",
    use_input_norm: bool = True,
    range_norm: bool = False,
    seed: int = 0,
    channels: Sequence[int] | None = None,
) -> FeatureNetwork:
    """Build a VGG, whose layers have layer names, or another torchvision classifier, whose layers have node names.

    For arguments and errors, see :class:`VGGFeatures` and :class:`ClassifierFeatures`.
    """
    for vgg_type in get_args(VGGType):
        if network == vgg_type:
            return VGGFeatures(layer_names, vgg_type, weights, use_input_norm, range_norm, seed, channels)
    return ClassifierFeatures(layer_names, network, weights, use_input_norm, range_norm, seed, channels)


class ClassifierFeatures(FeatureNetwork):
    """Activations of a frozen torchvision classifier at selected nodes.

    For the other arguments, see :class:`FeatureNetwork`.

    Args:
        layer_names: names of nodes or modules; a module name selects the last node of the module.
        network: name of the classifier, such as ``resnet50``.
        weights: ``"imagenet"`` (torchvision's ``IMAGENET1K_V1``), the name of another version such as
            ``"IMAGENET1K_V2"``, ``"random"`` (torchvision's initialization), or the path of a state dict with
            torchvision's keys. The file may omit layers that the selected nodes do not depend on.
    """

    def __init__(
        self,
        layer_names: Sequence[str],
        network: str = "resnet50",
        weights: str = "imagenet",
        use_input_norm: bool = True,
        range_norm: bool = False,
        seed: int = 0,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(network, weights, use_input_norm, range_norm, seed, channels)
        self.network = network
        self.net = _extractor(_classifier(network, seed if weights == "random" else None), network, layer_names)
        self.layer_names = tuple(layer_names)
        import torchvision  # takes a second to import

        self._load_and_freeze(self.net, list(torchvision.models.get_model_weights(network).__members__))

    def stream(self, x: Tensor, layers: Sequence[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Compute all activations, then yield them; see :meth:`FeatureNetwork.stream`."""
        activations: dict[str, Tensor] = self.net(self.prepare(x))
        storages = {activation.untyped_storage()._cdata for activation in activations.values()}
        for name in self.layer_names if layers is None else layers:
            activation = activations.pop(name)
            yield name, activation if len(storages) == len(self.layer_names) else activation.clone()


def _classifier(network: str, seed: int | None) -> nn.Module:
    """Build a classifier on the meta device, or with random weights without changing the global random generator."""
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if network not in known:
        near = suggestion(network, known)
        message = f"torchvision has no classifier '{network}'.{near} Its classifiers are {', '.join(known)}."
        raise ArgumentError("network", message)
    if seed is None or on_meta_device():
        with torch.device("meta"):
            classifier: nn.Module = torchvision.models.get_model(network, weights=None)
    else:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            classifier = torchvision.models.get_model(network, weights=None)
    return classifier


def _extractor(classifier: nn.Module, network: str, layer_names: Sequence[str]) -> fx.GraphModule:
    """Reduce a classifier to what the selected nodes depend on, and replace its in-place operations."""
    from torchvision.models import feature_extraction as extraction

    classifier.eval()
    _, nodes = extraction.get_graph_node_names(classifier, suppress_diff_warning=True)
    parts = [node.split(".") for node in nodes[1:]]  # the first node is the image
    known = {".".join(names[:depth]) for names in parts for depth in range(1, len(names) + 1)}
    if not layer_names:
        message = f"expected at least one node of {network}, for example {nodes[len(nodes) // 2]}."
        raise ArgumentError("layer_names", message)
    for name in layer_names:
        if name not in known:
            modules = ", ".join(sorted({names[0] for names in parts}))
            raise ArgumentError(
                "layer_names",
                f"{network} has no node '{name}'.{suggestion(name, known)} Its modules are {modules}. "
                "torchvision.models.feature_extraction.get_graph_node_names returns the nodes in them.",
            )
    extractor = extraction.create_feature_extractor(
        classifier, return_nodes={name: name for name in layer_names}, suppress_diff_warning=True
    ).eval()
    graph = extractor.graph
    for node in graph.nodes:
        if node.target is operator.iadd:
            node.target = operator.add
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    module = fx.GraphModule(extractor, graph)
    for part in module.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    return module
