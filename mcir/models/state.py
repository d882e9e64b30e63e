"""The state of a model for resuming: what is saved, how it is loaded and verified, and whether it is finite."""

import copy
import inspect
from collections.abc import Mapping
from textwrap import shorten
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from mcir.models.optim import moments_of
from mcir.registry import OptimizerSection


class OptimizerState:
    """The state of an optimizer without its hyperparameters, which are options.

    Args:
        optimizer: optimizer.
        section: section of the option file from which it was built.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, section: OptimizerSection) -> None:
        self.optimizer = optimizer
        self._section = section
        constructors = [inspect.signature(cls.__init__) for cls in type(optimizer).__mro__]  # type: ignore[misc]
        arguments = {name for signature in constructors for name in signature.parameters}
        self._options = arguments | optimizer.defaults.keys()

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of the parameters, and values of the groups that are not arguments of the optimizer."""
        state = self.optimizer.state_dict()
        return {"state": state["state"], "param_groups": [self._kept(group) for group in state["param_groups"]]}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Load a state, also of earlier versions, whose hyperparameters are ignored.

        Returns:
            Whether the moments fit. If the state is that of an optimizer with other moments, they start anew.

        Raises:
            ValueError: the state is that of other parameters.
        """
        if len(state["param_groups"]) != len(self.optimizer.param_groups):  # only one of the optimizers is Muon
            self.optimizer.state.clear()
            return False
        parameters = [value for group in self.optimizer.param_groups for value in group["params"]]
        expected = moments_of(self._section, parameters)
        moments: Mapping[int, Mapping[str, Any]] = state["state"]
        for number, kept in moments.items():
            names = {name for name, value in kept.items() if value is not None}
            if names != expected[number].keys():
                self.optimizer.state.clear()
                return False
            like_parameter = [kept[name] for name in names if expected[number][name] is None]
            if any(moment.shape != parameters[number].shape for moment in like_parameter):
                raise ValueError(f"the moments of parameter {number} have other shapes than the parameter")
        pairs = zip(self.optimizer.state_dict()["param_groups"], state["param_groups"], strict=True)
        groups = [{**group, **self._kept(saved)} for group, saved in pairs]
        # torch keeps the loaded tensors, which may be mapped from a file
        self.optimizer.load_state_dict({"state": copy.deepcopy(moments), "param_groups": groups})
        return True

    def _kept(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in group.items() if key not in self._options}


def load_parts(parts: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Load the state of each part, and return the names of the parts whose state is not used because of new options.

    These are the loss scale, if only one of state and model uses fp16, and the moments of another kind of optimizer.

    Args:
        parts: parts of a model by name.
        state: state of each part by name.

    Raises:
        ValueError: the state has other parts, or tensors with other names or shapes.
    """
    unused = [name for name in ("loss_scale",) if (name in parts) != (name in state)]
    if parts.keys() - set(unused) != state.keys() - set(unused):
        raise ValueError(f"expected the parts {', '.join(sorted(parts))}, got {', '.join(sorted(state))}")
    for name, part in parts.items():
        try:
            if name not in unused and part.load_state_dict(state[name]) is False:
                unused.append(name)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the state of '{name}' does not match: {_summary(error)}") from error
    return unused


@torch.no_grad()
def not_finite(parts: Mapping[str, Any]) -> list[str]:
    """Return the names of parameters that are NaN or infinite, and of buffers that are NaN. This waits for the device.

    Infinite values in buffers are allowed, because masks and best values may contain them.

    Args:
        parts: parts of a model by name. Parts that are not modules are ignored.
    """
    tensors: dict[str, Tensor] = {}
    parameters: set[str] = set()
    for part, module in parts.items():
        if isinstance(module, nn.Module):
            values = {f"{part}.{key}": value for key, value in module.state_dict().items()}
            tensors |= {
                key: value for key, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()
            }
            parameters |= {f"{part}.{key}" for key, _ in module.named_parameters(remove_duplicate=False)}
    tensors = {key: value for key, value in tensors.items() if value.numel()}
    if not tensors:
        return []
    extremes = [value for tensor in tensors.values() for value in torch.aminmax(tensor)]
    bounds = torch.stack([value.float().to(extremes[0].device) for value in extremes]).view(-1, 2)
    infinite, nan = bounds.isinf().any(1).tolist(), bounds.isnan().any(1).tolist()
    return [
        key
        for key, is_infinite, is_nan in zip(tensors, infinite, nan, strict=True)
        if is_nan or (is_infinite and key in parameters)
    ]


def digest(tree: Any) -> str:
    """Return a CRC-32 of the tensors and values in a tree. It does not depend on devices and memory layouts."""
    return f"{_crc32(tree, 0):08x}"


def _crc32(tree: Any, start: int) -> int:
    if isinstance(tree, Tensor):
        data = tree.detach().cpu().reshape(-1).view(torch.uint8).numpy().data
        return crc32(data, crc32(f"{tree.dtype} {tuple(tree.shape)}".encode(), start))
    if isinstance(tree, Mapping):
        pairs = sorted(((repr(key), value) for key, value in tree.items()), key=lambda pair: pair[0])
        return _crc32([part for pair in pairs for part in pair], crc32(b"mapping", start))
    if isinstance(tree, list | tuple):
        total = crc32(f"sequence {len(tree)}".encode(), start)
        for value in tree:
            total = _crc32(value, total)
        return total
    return crc32(repr(tree).encode(), start)


def _summary(error: Exception) -> str:
    """Return an error in one line; torch names every tensor, in many long lines."""
    lines = [shorten(line, 200, placeholder=" …") for line in str(error).splitlines() if line.strip()]
    more = f" … ({len(lines) - 4} more lines)" if len(lines) > 4 else ""
    return " ".join(lines[:4] or [type(error).__name__]) + more
