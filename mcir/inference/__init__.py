"""From a checkpoint of any origin to a network that restores."""

from mcir.inference.weights import Detected, derived_keys, detect, fitting, load_network, unfit
from mcir.weight_files import Weights, WeightsError, read_weights

__all__ = [
    "Detected",
    "Weights",
    "WeightsError",
    "derived_keys",
    "detect",
    "fitting",
    "load_network",
    "read_weights",
    "unfit",
]
