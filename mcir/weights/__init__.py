"""Weight files: read them, detect the architecture, and build the network."""

from mcir.weights.detection import DetectedNetwork, detect, detect_network, load_network, mismatch_error
from mcir.weights.errors import WeightsError
from mcir.weights.files import Weights, network_config, network_metadata, read_weights
from mcir.weights.keys import KEYS
from mcir.weights.matching import derived_keys, match_state_dict
from mcir.weights.safetensors_file import to_safetensors
from mcir.weights.torch_file import read_torch_file

__all__ = [
    "KEYS",
    "DetectedNetwork",
    "Weights",
    "WeightsError",
    "derived_keys",
    "detect",
    "detect_network",
    "load_network",
    "match_state_dict",
    "mismatch_error",
    "network_config",
    "network_metadata",
    "read_torch_file",
    "read_weights",
    "to_safetensors",
]
