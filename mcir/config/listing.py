"""A list of registered components and their arguments, as text."""

import inspect

from mcir.config.components import describe
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
