"""Weight files: read them, detect the architecture, and build the network."""

from mcir.weights.detection import DetectedNetwork, detect, detect_network
from mcir.weights.errors import WeightsError, first_names
from mcir.weights.files import Weights, network_config, network_metadata, read_weights
from mcir.weights.finite import describe_non_finite, is_finite, non_finite_keys, require_finite
from mcir.weights.keys import KEYS
from mcir.weights.loading import load_network, load_state, mismatch_error
from mcir.weights.matching import derived_keys, match_state_dict, matching_part
from mcir.weights.safetensors_file import to_safetensors
from mcir.weights.torch_file import read_torch_file

__all__ = [
    "KEYS",
    "DetectedNetwork",
    "Weights",
    "WeightsError",
    "derived_keys",
    "describe_non_finite",
    "detect",
    "detect_network",
    "first_names",
    "is_finite",
    "load_network",
    "load_state",
    "match_state_dict",
    "matching_part",
    "mismatch_error",
    "network_config",
    "network_metadata",
    "non_finite_keys",
    "read_torch_file",
    "read_weights",
    "require_finite",
    "to_safetensors",
]
