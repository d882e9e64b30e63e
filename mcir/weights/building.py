"""Build networks from what a file states, within bounds that follow from the weights in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from inspect import Parameter
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from mcir.errors import RegistryError
from mcir.registry import ARCHS
from mcir.weights.errors import WeightsError

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
_FREE_PARTS = 10_000  # modules, parameters and buffers; large published networks have about 5,000
_PARTS_PER_TENSOR = 10
_FREE_BUFFERS = 2**26  # elements of tables and masks that the constructor computes; a window mask for 1024² pixels
_BUFFERS_PER_ELEMENT = 16


def build_on_meta(section: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a network on the meta device, where its tensors need no memory.

    Args:
        section: type and arguments of the network, for example from the metadata of a weight file.
        weights: weights of the same file. They bound the size of the network.

    Raises:
        WeightsError: the section is not valid, or the network has many more parts than the weights.
    """
    try:
        with _limit_parts(_FREE_PARTS + _PARTS_PER_TENSOR * len(weights)), torch.device("meta"):
            network: nn.Module = ARCHS.build(section)
    except Exception as error:  # constructors raise errors of many kinds for arguments that an option file cannot have
        raise WeightsError(f"the network cannot be built: {_text(error)}") from error
    computed = sum(buffer.numel() for buffer in network.buffers())
    expected = _FREE_BUFFERS + _BUFFERS_PER_ELEMENT * sum(tensor.numel() for tensor in weights.values())
    if computed > expected:
        raise WeightsError(
            f"the network cannot be built: expected at most {expected:,} elements in tables and masks, "
            f"got {computed:,}."
        )
    return network


def check_arguments(section: Mapping[str, Any]) -> None:
    """Check the types of arguments that come from the metadata of a weight file.

    Raises:
        WeightsError: a value does not have the type of the constructor's argument.
    """
    try:
        parameters = ARCHS.parameters(section["type"])
    except RegistryError as error:
        raise WeightsError(f"the network cannot be built: {error}") from error
    for name, value in section.items():
        annotation = parameters[name].annotation if name in parameters else Parameter.empty
        if annotation is Parameter.empty:
            continue
        try:
            TypeAdapter(annotation, config=_STRICT).validate_json(json.dumps(value))
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            place = ".".join(map(str, (name, *detail["loc"])))
            raise WeightsError(
                f"the network cannot be built: argument '{place}' in the file: {detail['msg']}, got {value!r:.80}."
            ) from None


@contextmanager
def _limit_parts(limit: int) -> Iterator[None]:
    """Raise an error in the ``with`` block as soon as more modules, parameters and buffers have been registered."""
    count = 0

    def register(_module: nn.Module, _name: str, _part: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise WeightsError(f"it has more than {limit:,} modules and parameters, too many for the file.")

    with ExitStack() as stack:
        for kind in ("module", "parameter", "buffer"):
            handle = getattr(hooks, f"register_module_{kind}_registration_hook")(register)
            stack.callback(handle.remove)
        yield


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
