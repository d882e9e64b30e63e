"""From a checkpoint of any origin to a network that restores, and from any picture to a restored one."""

from mcir.inference.pictures import Picture, PictureError, probe_picture, read_picture, with_bits, write_picture
from mcir.inference.restore import Restorer, restore
from mcir.inference.weights import Detected, derived_keys, detect, fitting, identify, load_network, unfit
from mcir.weight_files import Weights, WeightsError, read_weights

__all__ = [
    "Detected",
    "Picture",
    "PictureError",
    "Restorer",
    "Weights",
    "WeightsError",
    "derived_keys",
    "detect",
    "fitting",
    "identify",
    "load_network",
    "probe_picture",
    "read_picture",
    "read_weights",
    "restore",
    "unfit",
    "with_bits",
    "write_picture",
]
