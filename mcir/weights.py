"""Read weight files, detect the architecture of the weights, and build the network.

Official releases store weights at the top level of a file or under a key such as ``params``, ``params_ema``,
``state_dict`` or ``model``, sometimes with the key prefixes of parallel or compiled training. :func:`read_weights`
returns them with the keys of the network's state dict. Code in a file is never executed.
"""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mcir.network_spec import NetworkSpec, derived_buffer_names, spec_of
from mcir.registry import ARCHS, ComponentConfig, config_of

_LOG = logging.getLogger("mcir")

KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Keys under which files store weights, in order of preference."""

_PREFIXES = ("module.", "_orig_mod.")  # added by parallel training and by torch.compile
_NUMPY_TYPES: list[Any] = [  # training scripts store NumPy numbers next to the weights, such as the best PSNR
    *((np.float64(0).__reduce__()[0], f"numpy.{name}.multiarray.scalar") for name in ("core", "_core")),
    *((np.zeros(0).__reduce__()[0], f"numpy.{name}.multiarray._reconstruct") for name in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


class WeightsError(ValueError):
    """A weight file cannot be read, or weights do not match a network."""


# -- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """The weights of a network, with the metadata of their file.

    Attributes:
        tensors: state dict of the network.
        key: key of the file under which the weights were stored; None if they were at the top level.
        section: type and constructor arguments of the network, from the file's metadata; None without metadata.
    """

    tensors: dict[str, Tensor]
    key: str | None = None
    section: dict[str, Any] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its key."""
        return _shapes(self.tensors)


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
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise WeightsError(f"{file}: expected a weight file, but the path {problem}.")
    try:
        if file.suffix == ".safetensors":
            return _read_safetensors(file, key)
        with torch.serialization.safe_globals(_NUMPY_TYPES):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{file} cannot be read as weights: {_reason(file, error)}.") from error
    tensors, stored_key = _find_tensors(content, key, file)
    return Weights(_strip_prefixes(tensors), stored_key, _read_metadata(content, file))


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


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a ``.safetensors`` file.

    Tensors that share memory are copied, because the format does not allow sharing. The caller writes the file, because
    the writer of the safetensors library creates files that only their owner can read.
    """
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        value = tensor.contiguous()
        separate[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return save(separate, dict(metadata))


def _find_tensors(content: Any, key: str | None, file: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights in the content of a ``.pth`` file, and the key under which they are stored."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"{file}: the file contains no weights.")
    sections = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    found = next((name for name in ([key] if key else KEYS) if name in sections), None)
    if found is not None:
        section = sections[found]
        if section and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in section.items()):
            return dict(section), found
        if not any(isinstance(value, Tensor) for value in section.values()):
            return _find_tensors(section, None, file)[0], found
        raise WeightsError(f"{file}: the key '{found}' contains no weights.")
    if sections:
        expected = f"the key '{key}'" if key else f"one of the keys {', '.join(KEYS)}"
        raise WeightsError(
            f"{file}: expected {expected}, got {', '.join(sorted(sections))}. Set the key of the weights."
        )
    if not tensors:
        raise WeightsError(f"{file}: the file contains no weights.")
    return tensors, None


def _read_safetensors(file: Path, key: str | None) -> Weights:
    with safe_open(file, "pt") as content:
        metadata = content.metadata() or {}
        stored_key = metadata.get("weights")
        if key is not None and stored_key is not None and key != stored_key:
            raise WeightsError(
                f"{file}: expected the key '{key}', got '{stored_key}'. The .pth file with the same name contains both."
            )
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a mapping)
    return Weights(_strip_prefixes(tensors), stored_key, _read_metadata(metadata, file))


def _read_metadata(metadata: Mapping[str, Any], file: Path) -> dict[str, Any] | None:
    """Return the section of the network from a file's metadata, or None."""
    architecture, text = metadata.get("architecture"), metadata.get("hyperparameters")
    if not isinstance(architecture, str) or not isinstance(text, str):
        return None
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise WeightsError(f"{file}: 'hyperparameters' of the network: expected a JSON object, got {text[:80]!r}.")
    return {"type": architecture, **arguments}


def _strip_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of parallel training and compilation, if all keys have them."""
    keys = list(weights)
    while prefix := next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), ""):
        keys = [key.removeprefix(prefix) for key in keys]
    return dict(zip(keys, weights.values(), strict=True))


def _reason(file: Path, error: Exception) -> str:
    """Return the reason why a file cannot be read, as part of a message."""
    with file.open("rb") as stream:
        is_torch = stream.read(2) in (b"PK", b"\x80\x02")  # the current format, and the format before PyTorch 1.6
    if file.suffix != ".safetensors" and not is_torch:
        return "it is neither a PyTorch nor a safetensors file"
    if isinstance(error, pickle.UnpicklingError):
        return "it contains objects other than tensors"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if zipfile.is_zipfile(file) else f"it is damaged or truncated ({line})"


# -- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DetectedNetwork:
    """The architecture of a weight file, from its metadata or from the keys and shapes of the weights.

    Attributes:
        architecture: registered name.
        arguments: stored or detected constructor arguments; other arguments have their defaults.
        guessed: names of detected arguments that do not affect keys and shapes. Their values are those of published
            configurations.
        scale: height and width of the output divided by those of the input.
        parameters: number of learned parameters.
        mismatches: differences in keys and shapes between the network and the weights, as lines of text.
    """

    architecture: str
    arguments: dict[str, Any]
    guessed: tuple[str, ...]
    scale: int
    parameters: int
    mismatches: list[str]

    def __str__(self) -> str:
        return f"{self.architecture} ({', '.join(f'{key}: {value}' for key, value in self.arguments.items())})"

    @property
    def section(self) -> dict[str, Any]:
        """Type and arguments, as in an option file."""
        return {"type": self.architecture, **self.arguments}


def derived_keys(network: nn.Module, weights: Iterable[str] = ()) -> set[str]:
    """Return the keys of the buffers that the network computes itself, both in its state dict and in ``weights``."""
    derived = derived_buffer_names(network)
    return {key for key in (*network.state_dict(), *weights) if key.rpartition(".")[2] in derived}


def match_state_dict(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights that a network can load, and a sorted list of mismatches as lines of text.

    Buffers that the network computes itself (``NetworkSpec.derived_buffers``) keep their values and never mismatch.
    """
    own, derived = network.state_dict(), derived_keys(network, weights)
    expected = {key: shape for key, shape in _shapes(own).items() if key not in derived}
    stored = {key: shape for key, shape in _shapes(weights).items() if key not in derived}
    mismatches = [f"{key} (missing in the file)" for key in expected.keys() - stored.keys()]
    mismatches += [f"{key} (not in the network)" for key in stored.keys() - expected.keys()]
    mismatches += [
        f"{key} (expected {expected[key]}, got {stored[key]})"
        for key in expected.keys() & stored.keys()
        if expected[key] != stored[key]
    ]
    computed = {key: own[key] for key in derived & own.keys()}
    matching = {key: weights[key] for key, shape in stored.items() if expected.get(key) == shape}
    return {**computed, **matching}, sorted(mismatches)


def mismatch_error(network: nn.Module, weights: Mapping[str, Tensor], mismatches: list[str]) -> WeightsError:
    """Return an error that lists the first ten mismatches and, if one is detected, the network that does match."""
    lines = mismatches[:10] + ([f"and {len(mismatches) - 10} more"] if len(mismatches) > 10 else [])
    message = "\n  ".join([f"{len(mismatches)} weights do not match {type(network).__name__}:", *lines])
    found = detect(weights)
    if found is not None and not found.mismatches:
        message += f"\nThe weights match {found}."
    return WeightsError(message)


def detect(weights: Mapping[str, Tensor]) -> DetectedNetwork | None:
    """Return the registered architecture whose keys and shapes are those of the weights, or None.

    If several architectures recognize the weights, the one with the fewest mismatches is returned.
    """
    found = [candidate for name in ARCHS.names() if (candidate := _detect_as(name, weights)) is not None]
    return min(found, key=lambda candidate: len(candidate.mismatches), default=None)


def _detect_as(name: str, weights: Mapping[str, Tensor]) -> DetectedNetwork | None:
    """Return the network that one architecture detects, or None; also None for a class that inherits ``detect``."""
    cls = ARCHS.get(name)
    if "detect" not in vars(cls):
        return None
    try:
        arguments = cls.detect(_shapes(weights))
        return None if arguments is None else _compare({"type": name, **arguments}, weights)
    except (LookupError, ValueError, TypeError, ArithmeticError):  # missing keys or invalid shapes
        return None


def _compare(section: Mapping[str, Any], weights: Mapping[str, Tensor]) -> DetectedNetwork:
    """Build a network on the meta device, and compare its state dict with weights."""
    with torch.device("meta"):
        network: nn.Module = ARCHS.build(section)
    arguments = {key: value for key, value in section.items() if key != "type"}
    spec = spec_of(network) or NetworkSpec()
    guessed = tuple(key for key in spec.guessed if key in arguments)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    mismatches = match_state_dict(network, weights)[1]
    return DetectedNetwork(section["type"], arguments, guessed, spec.scale, parameters, mismatches)


def detect_network(weights: Weights) -> DetectedNetwork | None:
    """Return the network of a weight file from its metadata, or else from keys and shapes; None if it is unknown.

    Raises:
        ValueError: the metadata contains an unknown architecture, or arguments that it does not accept.
    """
    if weights.section is None:
        return detect(weights.tensors)
    return replace(_compare(weights.section, weights.tensors), guessed=())


def load_network(file: str | Path, key: str | None = None, section: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of a weight file and load the weights, in evaluation mode on the CPU.

    Args:
        file: ``.safetensors`` or ``.pth`` file, from mcir or from an official release.
        key: key of the weights in the file, for example ``params``.
        section: type and arguments of the network, as in ``network_g`` of an option file. Default: those in the file's
            metadata, or else those detected from keys and shapes.

    Raises:
        WeightsError: the file cannot be read, its architecture is unknown, or the section does not match the weights.
    """
    weights = read_weights(file, key)
    if section is None:
        section = weights.section or _detected_section(weights.tensors, file)
    elif weights.section is not None and (changes := _changes(weights.section, section)):
        _LOG.warning(
            "%s was trained with %s, but is loaded with %s.", file, *map(", ".join, zip(*changes, strict=True))
        )
    try:
        network: nn.Module = ARCHS.build(section)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{file}: the network cannot be built: {error}") from error
    tensors, mismatches = match_state_dict(network, weights.tensors)
    if mismatches:
        raise WeightsError(f"{file}: {mismatch_error(network, weights.tensors, mismatches)}")
    network.load_state_dict(tensors)
    return network.eval()


def _detected_section(weights: Mapping[str, Tensor], file: str | Path) -> dict[str, Any]:
    found = detect(weights)
    if found is None:
        raise WeightsError(
            f"{file}: no known architecture ({', '.join(ARCHS.names())}) has these {len(weights)} keys: "
            f"{', '.join(list(weights)[:5])} …"
        )
    return found.section


def _changes(stored: Mapping[str, Any], section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the arguments that differ between a file's metadata and a section, as pairs of "name value" texts."""
    name = str(section["type"])
    if stored["type"] != name:
        return [(str(stored["type"]), name)]
    defaults = {key: parameter.default for key, parameter in ARCHS.parameters(name).items()}
    before, after = (json.loads(json.dumps({**defaults, **each}, default=repr)) for each in (stored, section))
    return [(f"{key} {before[key]}", f"{key} {after[key]}") for key in defaults if before[key] != after[key]]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}
