"""From a checkpoint of any origin to a network that restores."""

from mcir.inference.weights import (
    Detected,
    Weights,
    WeightsError,
    derived_keys,
    detect,
    fitting,
    load_network,
    read_weights,
    unfit,
)

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
