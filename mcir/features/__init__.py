"""Feature networks: frozen classifiers whose activations losses compare."""

from mcir.features.base import FeatureNetwork
from mcir.features.cache import FeatureCache
from mcir.features.torchvision import feature_network
from mcir.features.vgg import VGGFeatures, VGGType

__all__ = ["FeatureCache", "FeatureNetwork", "VGGFeatures", "VGGType", "feature_network"]
