"""Detect the architecture of weights, and build the network of a weight file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS
from mcir.weights.errors import WeightsError
from mcir.weights.files import Weights, read_weights
from mcir.weights.matching import match_state_dict, shapes_of

_LOG = logging.getLogger("mcir")


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
        arguments = cls.detect(shapes_of(weights))
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


def mismatch_error(network: nn.Module, weights: Mapping[str, Tensor], mismatches: list[str]) -> WeightsError:
    """Return an error that lists the first ten mismatches and, if one is detected, the network that does match."""
    lines = mismatches[:10] + ([f"and {len(mismatches) - 10} more"] if len(mismatches) > 10 else [])
    message = "\n  ".join([f"{len(mismatches)} weights do not match {type(network).__name__}:", *lines])
    found = detect(weights)
    if found is not None and not found.mismatches:
        message += f"\nThe weights match {found}."
    return WeightsError(message)


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
