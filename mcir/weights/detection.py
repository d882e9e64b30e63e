"""Detect the architecture of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mcir.network_spec import NetworkSpec, spec_of
from mcir.registry import ARCHS
from mcir.weights.building import build_on_meta, check_arguments
from mcir.weights.errors import WeightsError
from mcir.weights.files import Weights
from mcir.weights.keys import parts_of
from mcir.weights.matching import match_state_dict, matching_part, shapes_of


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
        prefix: prefix of the keys in the file that those of the network do not have.
    """

    architecture: str
    arguments: dict[str, Any]
    guessed: tuple[str, ...]
    scale: int
    parameters: int
    mismatches: list[str]
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.architecture} ({', '.join(f'{key}: {value}' for key, value in self.arguments.items())})"

    @property
    def section(self) -> dict[str, Any]:
        """Type and arguments, as in an option file."""
        return {"type": self.architecture, **self.arguments}


def detect(weights: Mapping[str, Tensor]) -> DetectedNetwork | None:
    """Return the registered architecture whose keys and shapes are those of the weights, or None.

    A prefix before all keys, or before those of one of several networks, is allowed. If several architectures recognize
    the weights, the one with the fewest mismatches is returned.
    """
    found: list[DetectedNetwork] = []
    for _, part in parts_of(weights):
        found += filter(None, (_detect_as(name, part, weights) for name in ARCHS.names()))
        if any(not candidate.mismatches for candidate in found):
            break
    return min(found, key=lambda candidate: len(candidate.mismatches), default=None)


def _detect_as(name: str, part: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> DetectedNetwork | None:
    """Return the network that one architecture detects, or None; also None for a class that inherits ``detect``."""
    cls = ARCHS.get(name)
    if "detect" not in vars(cls):
        return None
    try:
        arguments = cls.detect(shapes_of(part))
        return None if arguments is None else _compare({"type": name, **arguments}, weights)
    except (LookupError, ValueError, TypeError, ArithmeticError):  # missing keys or invalid shapes
        return None


def _compare(section: Mapping[str, Any], weights: Mapping[str, Tensor]) -> DetectedNetwork:
    """Build a network on the meta device, and compare its state dict with weights."""
    network = build_on_meta(section, weights)
    arguments = {key: value for key, value in section.items() if key != "type"}
    spec = spec_of(network) or NetworkSpec()
    guessed = tuple(key for key in spec.guessed if key in arguments)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    mismatches = match_state_dict(network, weights)[1]
    prefix, _ = matching_part(network, weights)
    return DetectedNetwork(section["type"], arguments, guessed, spec.scale, parameters, mismatches, prefix)


def detect_network(weights: Weights) -> DetectedNetwork | None:
    """Return the network of a weight file from its metadata, or else from keys and shapes; None if it is unknown.

    Raises:
        WeightsError: the metadata contains an unknown architecture, or arguments that it does not accept.
    """
    if weights.section is None:
        return detect(weights.tensors)
    try:
        check_arguments(weights.section)
        return replace(_compare(weights.section, weights.tensors), guessed=())
    except WeightsError as error:
        raise WeightsError(f"{weights.file}: {error}") from error
