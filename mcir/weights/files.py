"""Read the weights of a network from a file, and describe networks in the metadata of files.

Official releases store weights at the top level of a file or under a key such as ``params``, ``params_ema``,
``state_dict`` or ``model``, sometimes with the key prefixes of parallel or compiled training. :func:`read_weights`
returns them with the keys of the network's state dict. Code in a file is never executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mcir.registry import ComponentConfig, config_of
from mcir.weights.errors import WeightsError
from mcir.weights.keys import find_tensors, own_keys
from mcir.weights.matching import shapes_of
from mcir.weights.safetensors_file import read_safetensors
from mcir.weights.torch_file import read_torch_file

_MAX_EXPANSION = 4  # views of one tensor under several keys


@dataclass(frozen=True)
class Weights:
    """The weights of a network, with the metadata of their file.

    Attributes:
        tensors: state dict of the network.
        key: key of the file under which the weights were stored; None if they were at the top level.
        section: type and constructor arguments of the network, from the file's metadata; None without metadata.
        file: file that contains the weights.
    """

    tensors: dict[str, Tensor]
    key: str | None = None
    section: dict[str, Any] | None = None
    file: Path | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its key."""
        return shapes_of(self.tensors)


def read_weights(file: str | Path, key: str | None = None) -> Weights:
    """Read the weights of a network from a ``.safetensors`` or ``.pth`` file.

    Files in the current formats are memory-mapped.

    Args:
        file: path of the file.
        key: key of the weights in the file, for example ``params``. Default: the first of ``KEYS`` in the file.

    Raises:
        WeightsError: the file is missing or damaged, contains objects other than tensors, or does not have the key.
    """
    file = Path(file)
    if file.suffix.lower() == ".safetensors":
        tensors, metadata = read_safetensors(file)
        stored_key = metadata.get("weights")
        if key is not None and stored_key is not None and key != stored_key:
            raise WeightsError(
                f"{file}: expected the key '{key}', got '{stored_key}'. The .pth file with the same name contains both."
            )
        return Weights(own_keys(tensors), stored_key, _read_metadata(metadata, file), file)
    content = read_torch_file(file)
    tensors, stored_key = find_tensors(content, key, file)
    _check_size(tensors, file)
    return Weights(own_keys(tensors), stored_key, _read_metadata(dict(dict.items(content)), file), file)


def network_config(network: nn.Module) -> ComponentConfig:
    """Return how a network was built; for a class that is not registered, its name without arguments."""
    return config_of(network) or ComponentConfig(type(network).__name__, {})


def network_metadata(architecture: str, hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata that :func:`load_network` needs in a weight file to rebuild the network.

    Args:
        architecture: registered name of the network.
        hyperparameters: constructor arguments of the network.
    """
    return {"architecture": architecture, "hyperparameters": json.dumps(dict(hyperparameters), default=repr)}


def _read_metadata(metadata: Mapping[str, Any], file: Path) -> dict[str, Any] | None:
    """Return the section of the network from a file's metadata, or None."""
    architecture, text = metadata.get("architecture"), metadata.get("hyperparameters")
    if not isinstance(architecture, str) or not isinstance(text, str):
        return None
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise WeightsError(f"{file}: 'hyperparameters' of the network: expected a JSON object, got {text[:80]}.")
    return {**arguments, "type": architecture}


def _check_size(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Check that weights are not views that expand a few stored values to large tensors."""
    distinct = {(tensor.data_ptr(), tensor.shape, tensor.stride()): tensor.nbytes for tensor in tensors.values()}
    if sum(distinct.values()) > _MAX_EXPANSION * file.stat().st_size:
        raise WeightsError(f"{file}: the weights are much larger than the file.")
