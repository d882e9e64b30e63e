"""Run a network on images: its input does not change, and its output is one tensor."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_LOG = logging.getLogger("mcir")

_UNCHANGED: WeakKeyDictionary[nn.Module, set[tuple[bool, torch.Size]]] = WeakKeyDictionary()
"""Modes (training or evaluation) and input shapes for which a network is known not to change its input."""


def call_network(network: nn.Module, images: Tensor) -> Tensor:
    """Return the output (B, C', sH, sW) of a network for images (B, C, H, W), which do not change.

    The first call in each mode and with each shape gets a copy of the images. If the network modifies the copy in
    place, for example to subtract a mean, it also gets a copy in later calls.

    Raises:
        ValueError: the output is not a tensor.
    """
    call = (network.training, images.shape)
    unchanged = _UNCHANGED.setdefault(network, set())
    if call in unchanged:
        return check_output(network, network(images))
    own = images.clone()
    version = None if own.is_inference() else own._version  # in inference mode, tensors do not count changes
    output = network(own)
    if version is not None and own._version == version:
        unchanged.add(call)
    elif version is not None:
        _warn_once(type(unwrapped(network)).__name__)
    return check_output(network, output)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Switch a network to ``eval`` mode, and switch each module back afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def copy_network(network: nn.Module) -> nn.Module:
    """Return a deep copy of a network.

    Tensors that a module computed and keeps, such as the weight of ``torch.nn.utils.weight_norm``, are copied without
    their graph.
    """
    kept = [value for module in network.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    return copy.deepcopy(network, memo)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of torch.compile, DataParallel and DistributedDataParallel."""
    inner = network._modules.get("_orig_mod")  # torch.compile; its class is slow to import
    if isinstance(network, nn.DataParallel | DistributedDataParallel):
        inner = network.module
    return network if inner is None else unwrapped(inner)


def check_output(network: nn.Module, output: object) -> Tensor:
    """Return the output of a network, which is one tensor.

    Raises:
        ValueError: the output is not a tensor.
    """
    if isinstance(output, Tensor):
        return output
    kind, name = type(output).__name__, type(unwrapped(network)).__name__
    got = f"a {kind} of {len(output)} entries" if isinstance(output, list | tuple | dict) else f"an object {kind}"
    raise ValueError(
        f"{name}: expected one tensor (B, C, H, W) as output, got {got}. Return only the restored image from 'forward' "
        "of the network, or register a network that returns one of these outputs."
    )


@functools.cache
def _warn_once(name: str) -> None:
    _LOG.warning(
        "%s modifies its input in place. mcir passes a copy to it in every step; in your own training loop, do the "
        "same: network(images.clone()).",
        name,
    )
