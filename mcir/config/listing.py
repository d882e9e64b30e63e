"""Lists of components, with their arguments, and of option files, as pairs of a name and a description."""

from __future__ import annotations

import inspect
import re
from itertools import takewhile
from pathlib import Path
from typing import TypeAlias

from mcir.config.components import describe
from mcir.config.files import FOR_EDITORS, SUFFIX, shipped, shipped_names
from mcir.config.wording import describe_value
from mcir.errors import RegistryError, suggestion
from mcir.registry import Registry

OPTION_FILES = "options"
KINDS = {
    "archs": "networks, for network_g",
    "losses": "pixel, perceptual, contrastive and other losses of a training",
    "distances": "distances between features, for contrastive losses",
    "datasets": "pairs of images, or good images that are degraded",
    "degradations": "ways to make degraded images from good ones",
    "models": "training steps, for model_type",
    "metrics": "measures of quality, for val.metrics",
    "negatives": "sources of negatives, for contrastive losses",
    "optimizers": "optimizers, for train.optim_g",
    "schedulers": "schedules of the learning rate, for train.scheduler",
    OPTION_FILES: "option files that come with mcir",
}
"""What can be listed, with descriptions. All but the option files are names of registries."""

Entry: TypeAlias = tuple[str, str]
"""A name and its description."""


def list_components(registry: Registry, pattern: str = "*") -> list[Entry]:
    """Return the names that match a pattern, with their descriptions.

    Args:
        registry: the registry.
        pattern: a glob pattern, like ``*SR*``.

    Raises:
        RegistryError: no name matches.
    """
    names = registry.names(pattern)
    if not names:
        raise RegistryError(f"No {registry.kind} matches '{pattern}'.{suggestion(pattern, registry.names())}")
    return [(name, describe_component(registry, name)) for name in names]


def describe_component(registry: Registry, name: str) -> str:
    """Return the first docstring line of a component, with its other names.

    Raises:
        RegistryError: the name is unknown.
    """
    cls = registry.get(name)
    summary = (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "`").removeprefix(f"{cls.__name__}: ")
    aliases = registry.aliases(name)
    return f"{summary} (also {', '.join(aliases)})" if aliases else summary


def list_arguments(registry: Registry, name: str) -> list[Entry]:
    """Return the arguments of a component, with the accepted values and the defaults as in an option file.

    Raises:
        RegistryError: the name is unknown.
    """
    entries = []
    for key, parameter in registry.parameters(name).items():
        default = "" if parameter.default is parameter.empty else f" (default: {describe_value(parameter.default)})"
        entries.append((key, f"{describe(parameter.annotation)}{default}"))
    return entries


def list_option_files(pattern: str = "*") -> list[Entry]:
    """Return the names of the option files that come with mcir, with the first sentence of their comments.

    Args:
        pattern: a glob pattern, like ``sr/*``.

    Raises:
        ValueError: no name matches.
    """
    names = shipped_names(pattern)
    if not names:
        raise ValueError(f"No option file matches '{pattern}'.{suggestion(pattern, shipped_names())}")
    return [(name, _summary(shipped() / f"{name}{SUFFIX}")) for name in names]


def _summary(file: Path) -> str:
    """Return the first sentence of the comment at the top of an option file."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    prose = (line.strip("# ") for line in lines if not line.startswith(FOR_EDITORS))
    return re.split(r"(?<=\.)\s", " ".join(prose))[0]
