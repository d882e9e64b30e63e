"""Registries map the component names in option files to classes.

A class is registered with a decorator and built from a *section*, a mapping in an option file::

    @ARCHS.register()
    class EDSR(nn.Module):
        def __init__(self, num_feat: int = 64, upscale: int = 4) -> None: ...

    ARCHS.build({"type": "EDSR", "upscale": 2})

The constructor's signature is the schema of the section: every argument needs a name and a type, and values are checked
against them. A number or list may have a domain (see :mod:`mcir.domains`), which the constructor also checks when it is
called from Python. An argument that is a component itself is annotated with the section type of its registry
(``LossSection`` …).

A registry is filled when it is first used. It then imports the package of mcir's own components, and all installed
plug-ins (entry-point group ``mcir.plugins``). Register your own classes through such an entry point, or with
``imports: [my_package.my_module]`` in the option file.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import Annotated, Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from mcir.domains import find_problem
from mcir.errors import ArgumentError, KeyPath, RegistryError, Where, locate_errors, suggestion
from mcir.text import flow_style, shortened

PLUGIN_GROUP = "mcir.plugins"

Section: TypeAlias = Mapping[str, Any]
"""A component in an option file: its ``type`` and the arguments of its constructor."""

C = TypeVar("C", bound=type)


class Registry:
    """The classes of one kind of component, by name.

    Args:
        kind: kind of component in messages, for example ``"architecture"``.
        package: package whose import registers mcir's own components.
        runtime_args: names of the leading constructor arguments that mcir passes itself and that an option file cannot
            set, for example ``("params",)`` for optimizers.
    """

    def __init__(self, kind: str, package: str, runtime_args: Sequence[str] = ()) -> None:
        self.kind = kind
        self.package = package
        self.runtime_args = tuple(runtime_args)
        self._classes: dict[str, type] = {}
        self._aliases: dict[str, str] = {}
        self._domains: dict[str, Mapping[str, Any]] = {}
        self._filled = False

    def __repr__(self) -> str:
        return f"Registry({self.kind!r})"

    # -- registration ---------------------------------------------------------------------------------------------

    def register(self, name: str | None = None, aliases: Sequence[str] = ()) -> Callable[[C], C]:
        """Return a decorator that registers a class whose constructor checks the domains of its arguments.

        Instances record how they were built. :func:`config_of` returns this record, for example to store it in a
        checkpoint next to the weights.

        Raises:
            RegistryError: the name is taken, or the constructor accepts unknown arguments (``*args``, ``**kwargs``).
        """

        def decorate(cls: C) -> C:
            self.add(cls, name, aliases)
            _wrap_constructor(cls, name or cls.__name__, len(self.runtime_args))
            return cls

        return decorate

    def add(
        self,
        cls: type,
        name: str | None = None,
        aliases: Sequence[str] = (),
        domains: Mapping[str, Any] | None = None,
    ) -> None:
        """Register a class from another library without modifying it.

        Args:
            cls: class to register.
            name: registered name. Default: the name of the class.
            aliases: other names.
            domains: annotations that replace those of arguments of the class, by argument name.

        Raises:
            RegistryError: the name is taken, or the constructor accepts unknown arguments.
        """
        for parameter in _signature(cls).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                raise RegistryError(
                    f"{self.kind} {cls.__name__}: the constructor accepts '{parameter}', so misspelt options would go "
                    "unnoticed. Name every argument."
                )
        name = name or cls.__name__
        for candidate in (name, *aliases):
            existing = self._classes.get(self._aliases.get(candidate, candidate))
            if existing is not None:
                raise RegistryError(
                    f"The name '{candidate}' of {cls.__module__}.{cls.__qualname__} is taken: {self.kind} "
                    f"{existing.__module__}.{existing.__qualname__} is registered under it."
                )
        self._classes[name] = cls
        if domains:
            self._domains[name] = domains
        self._aliases.update(dict.fromkeys(aliases, name))

    # -- lookup ---------------------------------------------------------------------------------------------------

    def names(self, pattern: str = "*") -> list[str]:
        """Return the registered names that match a glob pattern, ignoring case, sorted and without aliases."""
        self._fill()
        return sorted(name for name in self._classes if fnmatchcase(name.lower(), pattern.lower()))

    def aliases(self, name: str) -> list[str]:
        """Return the aliases of a registered class, sorted."""
        self._fill()
        return sorted(alias for alias, target in self._aliases.items() if target == name)

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._classes or name in self._aliases

    def get(self, name: str) -> type[Any]:
        """Return the class with that name or alias.

        Raises:
            RegistryError: the name is unknown; the message suggests the closest one and lists all known names.
        """
        self._fill()
        cls = self._classes.get(self._aliases.get(name, name))
        if cls is None:
            near = suggestion(name, [*self._classes, *self._aliases])
            raise RegistryError(f"There is no {self.kind} '{name}'.{near} {self._known_names()}", ("type",))
        return cls

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the constructor arguments that a section of this type can set, with annotations resolved.

        Raises:
            RegistryError: the name is unknown.
        """
        parameters = list(_signature(self.get(name), eval_str=True).parameters.items())[len(self.runtime_args) :]
        domains = self._domains.get(self._aliases.get(name, name), {})
        return {key: value.replace(annotation=domains.get(key, value.annotation)) for key, value in parameters}

    # -- construction ---------------------------------------------------------------------------------------------

    def build(
        self, section: Section, /, *runtime_args: Any, key: str | KeyPath = (), where: Where | None = None
    ) -> Any:
        """Build an instance of the class ``section["type"]`` with the other entries of the section as arguments.

        Args:
            section: type and arguments. It is not modified.
            runtime_args: leading constructor arguments that mcir passes itself.
            key: argument of the enclosing component that contains this section, for the key paths of errors. Default:
                the section is not part of another component.
            where: function that returns the location of a value of the section in the option file.

        Raises:
            RegistryError: the type is missing or unknown, or an argument is unknown or missing.
            ValueError: the constructor rejected an argument. With ``where``, the message starts with the location of
                that argument (``ArgumentError``) or of the section (other errors).
        """
        with locate_errors(where, key):
            if not isinstance(section, Mapping) or not isinstance(section.get("type"), str):
                example = f"{{type: {next(iter(self.names()), '…')}, …}}"
                raise RegistryError(
                    f"{self.kind}: expected a mapping with the key 'type', like {example}, "
                    f"got {shortened(flow_style(section))}."
                )
            name = section["type"]
            arguments = {key: value for key, value in section.items() if key != "type"}
            parameters = self.parameters(name)
            for argument in arguments:
                if argument not in parameters:
                    message = f"{name} has no argument '{argument}'.{suggestion(argument, parameters)}"
                    raise RegistryError(message, (argument,))
            for argument, parameter in parameters.items():
                if parameter.default is parameter.empty and argument not in arguments:
                    raise RegistryError(f"{name} requires the argument '{argument}'.")
            _check_domains(parameters, arguments)
            return self.get(name)(*runtime_args, **arguments)

    # -- internals ------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        if not self._filled:
            self._filled = True  # before the import, which may use the registry
            try:
                importlib.import_module(self.package)
                load_plugins()
            except BaseException:
                self._filled = False
                raise

    def _known_names(self) -> str:
        """Return the part of a message that lists the registered names and the packages that define them."""
        packages = sorted({cls.__module__.partition(".")[0] for cls in self._classes.values()})
        files = (getattr(importlib.import_module(package), "__file__", "built in") for package in packages)
        origins = (f"{package} ({file})" for package, file in zip(packages, files, strict=True))
        return f"Known names: {', '.join(sorted(self._classes)) or 'none'}. Defined in: {', '.join(origins) or 'none'}."


def _signature(cls: type, eval_str: bool = False) -> inspect.Signature:
    """Return the signature of a constructor; it is empty for a class that does not define one."""
    init = inspect.unwrap(cls.__init__)  # type: ignore[misc]
    if init is object.__init__ or getattr(init, "__module__", None) == "torch.nn.modules.module":
        return inspect.Signature()  # object and nn.Module accept any arguments
    return inspect.signature(cls, eval_str=eval_str)


def _resolve_default_factories(cls: type) -> None:
    """Show the values of a dataclass's default factories in its signature."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    defaults = {
        field.name: field.default_factory() for field in fields if field.default_factory is not dataclasses.MISSING
    }
    if defaults:
        signature = inspect.signature(cls.__init__, eval_str=True)  # type: ignore[misc]
        parameters = [p.replace(default=defaults.get(name, p.default)) for name, p in signature.parameters.items()]
        cls.__init__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[misc]


def _wrap_constructor(cls: type, name: str, runtime_args: int) -> None:
    """Make a constructor check the domains of its arguments, and instances record their registered name and arguments.

    Instances of subclasses do not record them.

    Args:
        cls: class to modify.
        name: registered name.
        runtime_args: number of leading arguments that are neither checked nor recorded.
    """
    _resolve_default_factories(cls)
    original_init = cls.__init__  # type: ignore[misc]
    signature = _signature(cls)
    parameters = functools.cache(lambda: _signature(cls, eval_str=True).parameters)  # the names may be defined later

    @functools.wraps(original_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(*args, **kwargs)
        _check_domains(parameters(), dict(list(bound.arguments.items())[runtime_args:]))
        if type(self) is cls:
            bound.apply_defaults()
            self.__dict__["hyperparameters"] = copy.deepcopy(dict(list(bound.arguments.items())[runtime_args:]))
            self.__dict__["registered_as"] = name
        original_init(self, *args, **kwargs)

    cls.__init__ = __init__  # type: ignore[misc]


def _check_domains(parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]) -> None:
    """Raise an ArgumentError if an argument contains a number or a list outside its domain."""
    for name, value in arguments.items():
        if problem := find_problem(parameters[name].annotation, value):
            path, expected, got = problem
            error = ArgumentError(name, f"expected {expected}, got {got!r}.")
            error.path += path
            raise error


@runtime_checkable
class _Recorded(Protocol):
    """An instance of a class that :meth:`Registry.register` decorated."""

    registered_as: str
    hyperparameters: dict[str, Any]


class ComponentConfig(NamedTuple):
    """How an instance of a registered class was built."""

    name: str
    """Registered name of the class."""
    arguments: dict[str, Any]
    """Constructor arguments with defaults, without runtime arguments."""


def config_of(instance: object) -> ComponentConfig | None:
    """Return how an instance of a registered class was built, or None for other objects."""
    if not isinstance(instance, _Recorded):
        return None
    return ComponentConfig(instance.registered_as, instance.hyperparameters)


@functools.cache
def load_plugins() -> None:
    """Import all installed plug-ins, once per process.

    Raises:
        RegistryError: a plug-in cannot be imported.
    """
    for plugin in entry_points(group=PLUGIN_GROUP):
        try:
            plugin.load()
        except Exception as error:
            message = (
                f"The plug-in '{plugin.name}' ({plugin.value}) cannot be imported: {type(error).__name__}: {error}"
            )
            raise RegistryError(message) from error


ARCHS = Registry("architecture", "mcir.archs")
LOSSES = Registry("loss", "mcir.losses")
DISTANCES = Registry("distance", "mcir.losses")
DEGRADATIONS = Registry("degradation", "mcir.data")
DATASETS = Registry("data set", "mcir.data")
METRICS = Registry("metric", "mcir.metrics")
OPTIMIZERS = Registry("optimizer", "mcir.models", runtime_args=("params",))
SCHEDULERS = Registry("scheduler", "mcir.models")
NEGATIVES = Registry("kind of negatives", "mcir.models", runtime_args=("network",))
MODELS = Registry("model", "mcir.models")

ArchSection: TypeAlias = Annotated[Section, ARCHS]
LossSection: TypeAlias = Annotated[Section, LOSSES]
DistanceSection: TypeAlias = Annotated[Section, DISTANCES]
DegradationSection: TypeAlias = Annotated[Section, DEGRADATIONS]
MetricSection: TypeAlias = Annotated[Section, METRICS]
OptimizerSection: TypeAlias = Annotated[Section, OPTIMIZERS]
SchedulerSection: TypeAlias = Annotated[Section, SCHEDULERS]
NegativesSection: TypeAlias = Annotated[Section, NEGATIVES]
