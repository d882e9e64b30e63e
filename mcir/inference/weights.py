"""Weights and networks: which architecture a checkpoint is of, and what of it a network can take over."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcir.registry import ARCHS
from mcir.weight_files import Weights, WeightsError, read_weights

_LOG = logging.getLogger("mcir")


@dataclass(frozen=True)
class Detected:
    """An architecture whose state dict has the keys and shapes of a file, or nearly; or the one that the file states.

    Attributes:
        architecture: its registered name.
        arguments: what could be read off, or is stated; the constructor's defaults hold for the others.
        guessed: those of the arguments that no key or shape tells, but that go with published configurations.
        scale: how much larger the output is.
        parameters: how many numbers are learnt.
        differing: what is nevertheless different, a line each.
    """

    architecture: str
    arguments: dict[str, Any]
    guessed: tuple[str, ...]
    scale: int
    parameters: int
    differing: list[str]

    def __str__(self) -> str:
        return f"{self.architecture} ({', '.join(f'{key}: {value}' for key, value in self.arguments.items())})"


def derived_keys(network: nn.Module, weights: Iterable[str] = ()) -> set[str]:
    """Return the keys of buffers that the network computes itself, among its own and those of ``weights``."""
    derived = {name for module in network.modules() for name in getattr(module, "derived_buffers", ())}
    return {key for key in (*network.state_dict(), *weights) if key.rpartition(".")[2] in derived}


def fitting(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return what of the weights a network can take over, and what differs, a line each, sorted.

    Buffers that the network computes itself (``derived_buffers``) are its own, whatever the file says of them.
    """
    own = network.state_dict()
    derived = derived_keys(network, weights)
    computed = {key: own[key] for key in derived & own.keys()}
    given = {key: value for key, value in weights.items() if key not in derived}
    shapes = {key: tuple(value.shape) for key, value in own.items() if key not in computed}
    differing = _differences(shapes, {key: tuple(value.shape) for key, value in given.items()})
    fits = {key: value for key, value in given.items() if shapes.get(key) == tuple(value.shape)}
    return {**computed, **fits}, differing


def unfit(network: nn.Module, weights: Mapping[str, Tensor], differing: list[str]) -> WeightsError:
    """Return the error of weights that must fit and do not: the first ten differences, and what they look like."""
    shown = "\n  ".join(differing[:10] + ([f"and {len(differing) - 10} more"] if len(differing) > 10 else []))
    message = f"{len(differing)} weights do not fit {type(network).__name__}:\n  {shown}"
    found = detect(weights)
    if found is not None and not found.differing:
        message += f"\nThe weights look like those of {found}."
    return WeightsError(message)


def detect(weights: Mapping[str, Tensor]) -> Detected | None:
    """Return the architecture and the arguments that the keys and shapes of weights tell, or None if none does.

    Of several architectures that know the keys, the one with the fewest differences is returned.
    """
    found = [candidate for name in ARCHS.names() if (candidate := _candidate(name, weights)) is not None]
    return min(found, key=lambda candidate: len(candidate.differing), default=None)


def _candidate(name: str, weights: Mapping[str, Tensor]) -> Detected | None:
    """Ask one architecture whether it knows the weights; one that inherits the answer of another is not asked."""
    cls = ARCHS.get(name)
    if "detect" not in vars(cls):
        return None
    try:
        arguments = cls.detect({key: tuple(value.shape) for key, value in weights.items()})
        if arguments is None:
            return None
        with torch.device("meta"):
            network: nn.Module = ARCHS.build({"type": name, **arguments})
    except (LookupError, ValueError, TypeError, ArithmeticError):  # keys are missing, or shapes are none of its own
        return None
    guessed = tuple(key for key in getattr(cls, "guessed", ()) if key in arguments)
    return _compared(network, name, arguments, guessed, weights)


def _compared(
    network: nn.Module, name: str, arguments: dict[str, Any], guessed: tuple[str, ...], weights: Mapping[str, Tensor]
) -> Detected:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    scale = int(getattr(network, "scale", 1))
    return Detected(name, arguments, guessed, scale, parameters, fitting(network, weights)[1])


def stated(weights: Weights) -> dict[str, Any] | None:
    """Return type and arguments of the network as a file states them beside its weights; None if it does not."""
    if weights.architecture is None or weights.hyperparameters is None:
        return None
    return {"type": weights.architecture, **weights.hyperparameters}


def identify(weights: Weights) -> Detected | None:
    """Return the network that a file states, or else the one that its keys and shapes tell, or None.

    Raises:
        ValueError: the file states one that is not known here, or not with these arguments.
    """
    section = stated(weights)
    if section is None:
        return detect(weights.tensors)
    with torch.device("meta"):
        network: nn.Module = ARCHS.build(section)
    name = section.pop("type")
    return _compared(network, name, section, (), weights.tensors)


def load_network(file: str | Path, key: str | None = None, section: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of a checkpoint and give it its weights: in ``eval`` mode, on the CPU.

    The architecture and its arguments are those of ``section``, or else those that the file states, or else those that
    its keys and shapes tell.

    Args:
        file: ``.safetensors`` or ``.pth``, of mcir or of an official release.
        key: which of the file's weights, like ``params``.
        section: type and arguments of the network, as an option file has them in ``network_g``.

    Raises:
        WeightsError: the file cannot be read, or no architecture fits it, or the section does not.
    """
    weights = read_weights(file, key)
    own = stated(weights)
    if section is not None:
        if own is not None and (others := _others(own, section)):
            _LOG.warning("%s was trained with %s; here it is %s.", file, *map(", ".join, zip(*others, strict=True)))
        section = dict(section)
    elif own is not None:
        section = own
    else:
        found = detect(weights.tensors)
        if found is None:
            raise WeightsError(
                f"{file}: its {len(weights.tensors)} keys are of no architecture that is known here "
                f"({', '.join(ARCHS.names())}); the first are {', '.join(list(weights.tensors)[:5])}."
            )
        section = {"type": found.architecture, **found.arguments}
    try:
        network: nn.Module = ARCHS.build(section)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{file}: its network cannot be built here. {error}") from error
    tensors, differing = fitting(network, weights.tensors)
    if differing:
        raise unfit(network, weights.tensors, differing)
    network.load_state_dict(tensors)
    return network.eval()


def _others(own: Mapping[str, Any], section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the arguments of a network that are others in a section than in the one that a file states, each twice."""
    name = str(section["type"])
    if own["type"] != name:
        return [(str(own["type"]), name)]
    defaults = {key: parameter.default for key, parameter in ARCHS.parameters(name).items()}
    one, other = ({**defaults, **given} for given in (own, section))
    return [
        (f"{key} {one[key]}", f"{key} {other[key]}")
        for key in defaults
        if _as_stored(one[key]) != _as_stored(other[key])
    ]


def _as_stored(value: Any) -> Any:
    """Return a value as a file states it, tuples as lists."""
    return json.loads(json.dumps(value, default=repr))


def _differences(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> list[str]:
    def lines() -> Iterable[str]:
        for key in own.keys() - given.keys():
            yield f"{key} (missing in the file)"
        for key in given.keys() - own.keys():
            yield f"{key} (not in the network)"
        for key in own.keys() & given.keys():
            if own[key] != given[key]:
                yield f"{key} ({given[key]} in the file, {own[key]} here)"

    return sorted(lines())
