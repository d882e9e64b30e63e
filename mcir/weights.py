"""Read weight files, detect the architecture that they belong to, and build the network.

Official releases store weights at the top level of a file or under ``params``, ``params_ema``, ``state_dict``,
``model`` and so on, with the key prefixes of parallel or compiled training. :func:`read_weights` always returns the
weights by the keys of the network. Code in a file is never executed.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mcir.network_spec import NetworkSpec, derived_buffer_names, spec_of
from mcir.registry import ARCHS

_LOG = logging.getLogger("mcir")

KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Where files keep the weights, the preferred place first."""

_PREFIXES = ("module.", "_orig_mod.")  # of parallel training, of torch.compile
_NUMBERS: list[Any] = [  # which training scripts keep beside the weights: a best PSNR, say
    *((np.float64(0).__reduce__()[0], f"numpy.{home}.multiarray.scalar") for home in ("core", "_core")),
    *((np.zeros(0).__reduce__()[0], f"numpy.{home}.multiarray._reconstruct") for home in ("core", "_core")),
    np.ndarray,
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


def read_weights(file: str | Path, key: str | None = None) -> Weights:
    """Read the weights of a network from a ``.safetensors`` or a ``.pth`` file.

    A file in the current format is mapped, so that only what is used is read.

    Args:
        file: where they are.
        key: which of the file's weights, like ``params``; without it the first of ``KEYS`` that is there.

    Raises:
        WeightsError: the file is missing, damaged, holds code instead of tensors, or has no such key.
    """
    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            return _read_safetensors(file, key)
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except FileNotFoundError:
        raise WeightsError(f"{file}: there is no such weight file.") from None
    except IsADirectoryError:
        raise WeightsError(f"{file} is a folder: name a weight file in it.") from None
    except WeightsError:
        raise
    except Exception as error:
        if not _may_be_of_torch(file):
            why = "it is neither a file of PyTorch nor one of safetensors"
        elif "weights_only" in str(error):
            why = "it holds more than tensors"
        else:
            why = _first_line(error) if zipfile.is_zipfile(file) else f"it is damaged or cut off ({_first_line(error)})"
        raise WeightsError(f"{file} cannot be read as weights: {why}.") from error
    tensors, found_under = _find(content, key, file)
    return Weights(_without_prefixes(tensors), found_under, *_facts(content, file))


def network_metadata(architecture: str, hyperparameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a weight file: the network's registered name and its constructor arguments."""
    return {"architecture": architecture, "hyperparameters": json.dumps(dict(hyperparameters), default=repr)}


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a ``.safetensors`` file; weights that share memory are stored one by one.

    The format's own writer would leave a file that nobody else may read.
    """
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        value = tensor.contiguous()
        apart[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return save(apart, dict(metadata))


def _find(content: Any, key: str | None, file: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the weights in what a file holds, and the key that they were under."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise WeightsError(f"{file} holds no weights.")
    sections = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    found = next((name for name in ([key] if key else KEYS) if name in sections), None)
    if found is not None:
        section = sections[found]
        if section and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in section.items()):
            return dict(section), found
        if not any(isinstance(value, Tensor) for value in section.values()):
            return _find(section, None, file)[0], found
        raise WeightsError(f"{file} holds no weights under '{found}'.")
    if tensors and not sections:
        return tensors, None
    if sections:
        looked_for = f"no '{key}'" if key else f"none of {', '.join(KEYS)}"
        raise WeightsError(f"{file} has {looked_for}; as the key name {' or '.join(sorted(sections))}.")
    raise WeightsError(f"{file} holds no weights.")


def _facts(content: Mapping[str, Any], file: Path) -> tuple[str | None, dict[str, Any] | None]:
    """Return the architecture and its arguments, where a file says them."""
    architecture, text = content.get("architecture"), content.get("hyperparameters")
    if not isinstance(architecture, str) or not isinstance(text, str):
        return None, None
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise WeightsError(f"{file}: what it says of its network's arguments cannot be read: {text[:80]!r}.")
    return architecture, arguments


def _read_safetensors(file: Path, key: str | None) -> Weights:
    with safe_open(file, "pt") as content:
        facts = content.metadata() or {}
        held = facts.get("weights")
        if key is not None and held is not None and key != held:
            raise WeightsError(f"{file} holds '{held}', not '{key}'; the .pth file beside it has both.")
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
    return Weights(_without_prefixes(tensors), held, *_facts(facts, file))


def _without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what parallel training and compilation put before every name."""
    keys = list(weights)
    while prefix := next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), ""):
        keys = [key.removeprefix(prefix) for key in keys]
    return dict(zip(keys, weights.values(), strict=True))


def _may_be_of_torch(file: Path) -> bool:
    """Tell whether a file begins like one that ``torch.save`` wrote, in this format or that of before torch 1.6."""
    with file.open("rb") as stream:
        return file.suffix == ".safetensors" or stream.read(2) in (b"PK", b"\x80\x02")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DetectedNetwork:
    """An architecture whose state dict has the keys and shapes of a file, or nearly; or the one that the file states.

    Attributes:
        architecture: its registered name.
        arguments: what could be read off, or is stated; the constructor's defaults hold for the others.
        guessed: those of the arguments that no key or shape tells, but that go with published configurations.
        scale: how much larger the output is.
        parameters: how many numbers are learnt.
        mismatches: what is nevertheless different, a line each.
    """

    architecture: str
    arguments: dict[str, Any]
    guessed: tuple[str, ...]
    scale: int
    parameters: int
    mismatches: list[str]

    def __str__(self) -> str:
        return f"{self.architecture} ({', '.join(f'{key}: {value}' for key, value in self.arguments.items())})"


def derived_keys(network: nn.Module, weights: Iterable[str] = ()) -> set[str]:
    """Return the keys of buffers that the network computes itself, among its own and those of ``weights``."""
    derived = derived_buffer_names(network)
    return {key for key in (*network.state_dict(), *weights) if key.rpartition(".")[2] in derived}


def match_state_dict(network: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return what of the weights a network can take over, and what differs, a line each, sorted.

    Buffers that the network computes itself (``derived_buffers``) are its own, whatever the file says of them.
    """
    own = network.state_dict()
    derived = derived_keys(network, weights)
    computed = {key: own[key] for key in derived & own.keys()}
    given = {key: value for key, value in weights.items() if key not in derived}
    shapes = {key: tuple(value.shape) for key, value in own.items() if key not in computed}
    mismatches = _differences(shapes, {key: tuple(value.shape) for key, value in given.items()})
    fits = {key: value for key, value in given.items() if shapes.get(key) == tuple(value.shape)}
    return {**computed, **fits}, mismatches


def mismatch_error(network: nn.Module, weights: Mapping[str, Tensor], mismatches: list[str]) -> WeightsError:
    """Return the error of weights that must fit and do not: the first ten differences, and what they look like."""
    shown = "\n  ".join(mismatches[:10] + ([f"and {len(mismatches) - 10} more"] if len(mismatches) > 10 else []))
    message = f"{len(mismatches)} weights do not fit {type(network).__name__}:\n  {shown}"
    found = detect(weights)
    if found is not None and not found.mismatches:
        message += f"\nThe weights look like those of {found}."
    return WeightsError(message)


def detect(weights: Mapping[str, Tensor]) -> DetectedNetwork | None:
    """Return the architecture and the arguments that the keys and shapes of weights tell, or None if none does.

    Of several architectures that know the keys, the one with the fewest differences is returned.
    """
    found = [candidate for name in ARCHS.names() if (candidate := _candidate(name, weights)) is not None]
    return min(found, key=lambda candidate: len(candidate.mismatches), default=None)


def _candidate(name: str, weights: Mapping[str, Tensor]) -> DetectedNetwork | None:
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
    guessed = (spec_of(network) or NetworkSpec()).guessed
    return _compared(network, name, arguments, tuple(key for key in guessed if key in arguments), weights)


def _compared(
    network: nn.Module, name: str, arguments: dict[str, Any], guessed: tuple[str, ...], weights: Mapping[str, Tensor]
) -> DetectedNetwork:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    scale = (spec_of(network) or NetworkSpec()).scale
    return DetectedNetwork(name, arguments, guessed, scale, parameters, match_state_dict(network, weights)[1])


def stored_config(weights: Weights) -> dict[str, Any] | None:
    """Return type and arguments of the network as a file states them beside its weights; None if it does not."""
    if weights.architecture is None or weights.hyperparameters is None:
        return None
    return {"type": weights.architecture, **weights.hyperparameters}


def detect_network(weights: Weights) -> DetectedNetwork | None:
    """Return the network that a file states, or else the one that its keys and shapes tell, or None.

    Raises:
        ValueError: the file states one that is not known here, or not with these arguments.
    """
    section = stored_config(weights)
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
    own = stored_config(weights)
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
    tensors, mismatches = match_state_dict(network, weights.tensors)
    if mismatches:
        raise mismatch_error(network, weights.tensors, mismatches)
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
