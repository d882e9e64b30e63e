"""mcir: train image-restoration networks with contrastive learning.

>>> import mcir
>>> network = mcir.build_network({"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "upscale": 2})

The names of this package are imported when they are first used, so that ``import mcir`` and ``mcir --help`` are fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mcir.errors import ArgumentError, RegistryError
from mcir.registry import (
    ARCHS,
    DATASETS,
    DEGRADATIONS,
    DISTANCES,
    LOSSES,
    METRICS,
    MODELS,
    NEGATIVES,
    OPTIMIZERS,
    SCHEDULERS,
    Registry,
)
from mcir.version import __version__ as __version__

if TYPE_CHECKING:
    from mcir.config import OptionError, Options
    from mcir.config.load import load
    from mcir.inference import Restorer, restore
    from mcir.losses import SPNLoss
    from mcir.models import HistoryNegatives, Model
    from mcir.network_spec import NetworkSpec
    from mcir.weights import load_network

build_network = ARCHS.build
build_loss = LOSSES.build
build_dataset = DATASETS.build
build_metric = METRICS.build
build_model = MODELS.build

_LAZY_IMPORTS = {
    "HistoryNegatives": "mcir.models",
    "Model": "mcir.models",
    "NetworkSpec": "mcir.network_spec",
    "OptionError": "mcir.config",
    "Options": "mcir.config",
    "Restorer": "mcir.inference",
    "SPNLoss": "mcir.losses",
    "load": "mcir.config",
    "load_network": "mcir.weights",
    "restore": "mcir.inference",
}

__all__ = [
    "ARCHS",
    "DATASETS",
    "DEGRADATIONS",
    "DISTANCES",
    "LOSSES",
    "METRICS",
    "MODELS",
    "NEGATIVES",
    "OPTIMIZERS",
    "SCHEDULERS",
    "ArgumentError",
    "HistoryNegatives",
    "Model",
    "NetworkSpec",
    "OptionError",
    "Options",
    "Registry",
    "RegistryError",
    "Restorer",
    "SPNLoss",
    "build_dataset",
    "build_loss",
    "build_metric",
    "build_model",
    "build_network",
    "load",
    "load_network",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY_IMPORTS:
        return getattr(importlib.import_module(_LAZY_IMPORTS[name]), name)
    raise AttributeError(f"module 'mcir' has no attribute '{name}'")
