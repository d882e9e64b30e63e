"""The weights of a network from any checkpoint: found, brought to one form, recognised and fitted.

Official releases keep weights bare or under ``params``, ``params_ema``, ``state_dict``, ``model`` …, with the prefixes
of parallel or compiled training, and with buffers that depend on the size of the training images. What comes out here
is always the same: the weights by the keys of the network. Files are never unpickled as code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mcir.registry import ARCHS, RegistryError

KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Where files keep the weights, the preferred place first."""

_PREFIXES = ("module.", "_orig_mod.")  # of parallel training, of torch.compile
_SCALAR = np.float64(0).__reduce__()[0]
_NUMBERS: list[Any] = [  # which training scripts keep beside the weights: a best PSNR, say
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
]


class WeightsError(ValueError):
    """A weight file that cannot be read, or weights that do not fit a network."""


@dataclass(frozen=True)
class Weights:
    """The weights of a network, and what their file says of it.

    Attributes:
        tensors: the weights by the network's own keys.
        found_under: the key that held them; None where the file holds nothing else.
        architecture: its registered name, where the file says it.
        hyperparameters: its arguments, where the file says them.
    """

    tensors: dict[str, Tensor]
    found_under: str | None = None
    architecture: str | None = None
    hyperparameters: dict[str, Any] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its key."""
        return {key: tuple(value.shape) for key, value in self.tensors.items()}


@dataclass(frozen=True)
class Detected:
    """An architecture whose state dict has the keys and shapes of a file, or nearly.

    Attributes:
        architecture: its registered name.
        arguments: what could be read off; the constructor's defaults hold for the others.
        scale: how much larger the output is.
        parameters: how many numbers are learnt.
        differing: what is nevertheless different, a line each.
    """

    architecture: str
    arguments: dict[str, Any]
    scale: int
    parameters: int
    differing: list[str]

    def __str__(self) -> str:
        return f"{self.architecture} ({', '.join(f'{key}: {value}' for key, value in self.arguments.items())})"


def read_weights(file: str | Path, key: str | None = None) -> Weights:
    """Read the weights of a network from a ``.safetensors`` or a ``.pth`` file.

    Args:
        file: where they are.
        key: which of the file's weights, like ``params``; without it the first of ``KEYS`` that is there.

    Raises:
        WeightsError: the file is missing, damaged, holds code instead of tensors, or has no such key.
    """
    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            return _read_safetensors(file)
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{file}: there is no such weight file.") from None
    except Exception as error:
        why = "it holds more than tensors" if "weights_only" in str(error) else _first_line(error)
        raise WeightsError(f"{file} cannot be read as weights: {why}.") from error
    found_under = None
    if isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        found_under = next((name for name in ([key] if key else KEYS) if name in content), None)
        if found_under is None:
            raise WeightsError(f"{file} has no '{key or KEYS[0]}'; it holds {sorted(map(str, content))}.")
        content = content[found_under]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{file} holds no weights.")
    return Weights(_without_prefixes(content), found_under)


def derived_keys(network: nn.Module, weights: Iterable[str] = ()) -> set[str]:
    """Return the keys of buffers that the network computes itself, among its own and those of ``weights``."""
    derived = set(getattr(network, "derived_buffers", ()))
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
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    found = []
    for name in ARCHS.names():
        arguments = ARCHS.get(name).detect(shapes) if hasattr(ARCHS.get(name), "detect") else None
        if arguments is not None:
            with torch.device("meta"):
                network: nn.Module = ARCHS.build({"type": name, **arguments})
            parameters = sum(parameter.numel() for parameter in network.parameters())
            found.append(
                Detected(name, arguments, int(getattr(network, "scale", 1)), parameters, fitting(network, weights)[1])
            )
    return min(found, key=lambda candidate: len(candidate.differing), default=None)


def load_network(file: str | Path, key: str | None = None) -> nn.Module:
    """Build the network of a checkpoint and give it its weights: in ``eval`` mode, on the CPU.

    The architecture and its arguments are those that the file states, or else those that its keys and shapes tell.

    Args:
        file: ``.safetensors`` or ``.pth``, of mcir or of an official release.
        key: which of the file's weights, like ``params``.

    Raises:
        WeightsError: the file cannot be read, or no architecture fits it.
    """
    weights = read_weights(file, key)
    if weights.architecture is not None and weights.hyperparameters is not None:
        section: dict[str, Any] = {"type": weights.architecture, **weights.hyperparameters}
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
    except RegistryError as error:
        raise WeightsError(f"{file}: its network cannot be built here. {error}") from error
    tensors, differing = fitting(network, weights.tensors)
    if differing:
        raise unfit(network, weights.tensors, differing)
    network.load_state_dict(tensors)
    return network.eval()


def _read_safetensors(file: Path) -> Weights:
    with safe_open(file, "pt") as content:
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 (no mapping)
        facts = content.metadata() or {}
    arguments = json.loads(facts["hyperparameters"]) if "hyperparameters" in facts else None
    return Weights(_without_prefixes(tensors), facts.get("weights"), facts.get("architecture"), arguments)


def _without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what parallel training and compilation put before every name."""
    keys = list(weights)
    while prefix := next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), ""):
        keys = [key.removeprefix(prefix) for key in keys]
    return dict(zip(keys, weights.values(), strict=True))


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
