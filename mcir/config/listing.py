"""Text of the lists of components, with their arguments, and of option files."""

import inspect
import re
from itertools import takewhile
from pathlib import Path

from mcir.config.components import describe
from mcir.config.files import FOR_EDITORS, SUFFIX, shipped, shipped_names
from mcir.errors import RegistryError, suggestion
from mcir.registry import Registry


def list_components(registry: Registry, pattern: str = "*") -> str:
    """Return the names that match a pattern, with their arguments, sources and first docstring lines.

    Args:
        registry: the registry.
        pattern: a glob pattern, like ``*SR*``.

    Raises:
        RegistryError: no name matches.
    """
    names = registry.names(pattern)
    if not names:
        raise RegistryError(f"No {registry.kind} matches '{pattern}'.{suggestion(pattern, registry.names())}")
    return "\n".join(_entry(registry, name) for name in names)


def list_option_files(pattern: str = "*") -> str:
    """Return the names of the option files that come with mcir, with the first sentence of their comments.

    Args:
        pattern: a glob pattern, like ``sr/*``.

    Raises:
        ValueError: no name matches.
    """
    names = shipped_names(pattern)
    if not names:
        raise ValueError(f"No option file matches '{pattern}'.{suggestion(pattern, shipped_names())}")
    return "\n".join(f"{name}\n    {_summary(shipped() / f'{name}{SUFFIX}')}" for name in names)


def _summary(file: Path) -> str:
    """Return the first sentence of the comment at the top of an option file."""
    lines = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    prose = (line.strip("# ") for line in lines if not line.startswith(FOR_EDITORS))
    return re.split(r"(?<=\.)\s", " ".join(prose))[0]


def _entry(registry: Registry, name: str) -> str:
    cls = registry.get(name)
    aliases = registry.aliases(name)
    also = f" (also {', '.join(aliases)})" if aliases else ""
    lines = [f"{name}{also}  {cls.__module__}"]
    for key, parameter in registry.parameters(name).items():
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"    {key}: {describe(parameter.annotation)}{default}")
    if summary := (inspect.getdoc(cls) or "").partition("\n")[0]:
        lines.append(f"    — {summary}\n")
    return "\n".join(lines)
