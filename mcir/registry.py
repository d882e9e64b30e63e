"""Registries: the names that option files use, and the classes behind them.

A class enters with a decorator and is built from a *section*, the mapping that an option file holds::

    @ARCHS.register()
    class EDSR(nn.Module):
        def __init__(self, num_feat: int = 64, upscale: int = 4) -> None: ...

    ARCHS.build({"type": "EDSR", "upscale": 2})

The constructor's signature is the schema of its section: every argument is explicit, typed and checked. An argument
that is itself a component is annotated with the section type of its registry (``LossSection`` …), so that a checker can
follow it down.

A registry fills itself at its first question: it imports the package that is its home and then every installed plug-in
(entry-point group ``mcir.plugins``). Code of your own registers without a change here, through such an entry point or
through ``imports: [my_package.my_module]`` in the option file.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import Annotated, Any, TypeAlias, TypeVar

PLUGIN_GROUP = "mcir.plugins"

Section: TypeAlias = Mapping[str, Any]
"""A component in an option file: its ``type`` and the arguments of its constructor."""

C = TypeVar("C", bound=type)


class Placed(str):
    """The ``type`` of a section that knows where the section was written.

    Attributes:
        places: of its arguments by name, like ``x.yml:12: train.scheduler.T_max``; that of the section itself under
            ``type``.
    """

    places: Mapping[str, str]

    def __new__(cls, name: str, places: Mapping[str, str] | None = None) -> Placed:
        """Return the name with its places; a copy gets them afterwards."""
        placed = super().__new__(cls, name)
        placed.places = places or {}
        return placed


class RegistryError(ValueError):
    """A name that is unknown or taken, or a section that does not fit its class."""


class ArgumentError(ValueError):
    """A constructor argument with a value that the class does not accept.

    Constructors of registered classes raise it; whoever builds the class from an option file adds file and line.

    Args:
        name: name of the argument.
        message: what is wrong: expected X, got Y.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known name nearest to ``name``, or an empty string when none is near."""
    by_folded = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(str(name).lower(), by_folded, n=1, cutoff=0.6)
    return f" Did you mean '{by_folded[near[0]]}'?" if near else ""


class Registry:
    """Names of one kind of component.

    Args:
        kind: what the components are called in messages, for example ``"architecture"``.
        home: the package whose import registers the components that mcir brings.
        runtime_args: names of the leading constructor arguments that mcir passes itself and an option file cannot set,
            for example ``("params",)`` for optimizers.
    """

    def __init__(self, kind: str, home: str, runtime_args: Sequence[str] = ()) -> None:
        self.kind = kind
        self.home = home
        self.runtime_args = tuple(runtime_args)
        self._classes: dict[str, type] = {}
        self._aliases: dict[str, str] = {}
        self._filled = False

    def __repr__(self) -> str:
        return f"Registry({self.kind!r})"

    # -- entering -------------------------------------------------------------------------------------------------

    def register(self, name: str | None = None, aliases: Sequence[str] = ()) -> Callable[[C], C]:
        """Return a decorator that enters a class, which from then on keeps the arguments it is built with.

        The arguments (defaults filled in, the runtime ones left out) stand in the ``hyperparameters`` of each instance,
        so that a checkpoint can say how its network is rebuilt.

        Raises:
            RegistryError: the name is taken, or the constructor swallows unknown arguments (``*args``, ``**kwargs``).
        """

        def enter(cls: C) -> C:
            self.add(cls, name, aliases)
            _keep_arguments(cls, name or cls.__name__, len(self.runtime_args))
            return cls

        return enter

    def add(self, cls: type, name: str | None = None, aliases: Sequence[str] = ()) -> None:
        """Enter a class of another library as it is.

        Raises:
            RegistryError: the name is taken, or the constructor swallows unknown arguments.
        """
        for parameter in _signature(cls).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                raise RegistryError(
                    f"{self.kind} {cls.__name__}: the constructor takes '{parameter}', in which a misspelt option "
                    "would vanish. Name every argument."
                )
        name = name or cls.__name__
        for candidate in (name, *aliases):
            holder = self._classes.get(self._aliases.get(candidate, candidate))
            if holder is not None:
                raise RegistryError(
                    f"{self.kind} '{candidate}' is already {holder.__module__}.{holder.__qualname__}; "
                    f"{cls.__module__}.{cls.__qualname__} needs another name."
                )
        self._classes[name] = cls
        self._aliases.update(dict.fromkeys(aliases, name))

    # -- asking ---------------------------------------------------------------------------------------------------

    def names(self, pattern: str = "*") -> list[str]:
        """Return the registered names that match a glob pattern (case does not matter), sorted, without aliases."""
        self._fill()
        return sorted(name for name in self._classes if fnmatchcase(name.lower(), pattern.lower()))

    def aliases(self, name: str) -> list[str]:
        """Return the other names of a registered class, sorted."""
        self._fill()
        return sorted(alias for alias, target in self._aliases.items() if target == name)

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._classes or name in self._aliases

    def get(self, name: str) -> type[Any]:
        """Return the class of that name or alias.

        Raises:
            RegistryError: no such name; the message offers the nearest one and says where known names come from.
        """
        self._fill()
        cls = self._classes.get(self._aliases.get(name, name))
        if cls is None:
            near = suggestion(name, [*self._classes, *self._aliases])
            raise RegistryError(f"There is no {self.kind} '{name}'.{near} {self._origins()}")
        return cls

    def parameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the constructor arguments that a section of this name may set, annotations resolved.

        Raises:
            RegistryError: no such name.
        """
        cls = self.get(name)
        parameters = list(_signature(cls, eval_str=True).parameters.items())
        return dict(parameters[len(self.runtime_args) :])

    def takes(self, key: str) -> bool:
        """Return whether any class takes an argument of that name."""
        return any(key in self.parameters(name) for name in self.names())

    def build(self, section: Section, /, *runtime_args: Any) -> Any:
        """Build the class that ``section["type"]`` names with the section's other entries as arguments.

        The section is not changed. ``runtime_args`` are the leading arguments that mcir passes itself.

        Raises:
            RegistryError: the section has no type, an unknown one, an argument that the class does not take, or lacks
                one that it needs.
            ValueError: what the class itself objects to. Of a section from an option file the message begins with the
                place: that of the argument that it names first, else the section's.
        """
        try:
            return self._built(section, runtime_args)
        except ValueError as error:
            if isinstance(section, Mapping) and isinstance(section.get("type"), Placed):
                _tell_place(error, section)
            raise

    def _built(self, section: Section, runtime_args: Sequence[Any]) -> Any:
        if not isinstance(section, Mapping) or not isinstance(section.get("type"), str):
            raise RegistryError(
                f"A section of a {self.kind} is a mapping with the key 'type', like {{type: {self._example()}, …}}, "
                f"not {section!r}."
            )
        name = section["type"]
        arguments = {key: value for key, value in section.items() if key != "type"}
        parameters = self.parameters(name)
        for key in arguments:
            if key not in parameters:
                raise RegistryError(f"{name} takes no '{key}'.{suggestion(key, parameters)}")
        for key, parameter in parameters.items():
            if parameter.default is parameter.empty and key not in arguments:
                raise RegistryError(f"{name} needs '{key}'.")
        return self.get(name)(*runtime_args, **arguments)

    # -- within ---------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        if not self._filled:
            self._filled = True  # before the import, during which the home may ask
            try:
                importlib.import_module(self.home)
                load_plugins()
            except BaseException:
                self._filled = False
                raise

    def _example(self) -> str:
        return next(iter(self.names()), "…")

    def _origins(self) -> str:
        """Say which packages the known classes came from, and the file of each package."""
        packages = sorted({cls.__module__.partition(".")[0] for cls in self._classes.values()})
        files = (getattr(importlib.import_module(package), "__file__", "built in") for package in packages)
        places = (f"{package} ({file})" for package, file in zip(packages, files, strict=True))
        return f"Known are {', '.join(sorted(self._classes)) or 'none'}, from {', '.join(places) or 'nowhere'}."


def _tell_place(error: ValueError, section: Section) -> None:
    """Put the place of a section before the message of an error, unless a section within has done so."""
    if hasattr(error, "place"):
        return
    message, places = str(error), section["type"].places
    named = next((word for word in re.findall(r"\w+", message) if word in section and word in places), "type")
    error.place = places[named]  # type: ignore[attr-defined]
    error.args = (f"{places[named]}: {message}",)


def _has_no_constructor(cls: type) -> bool:
    """Tell whether a class takes the constructor of ``object`` or of torch's modules, which swallow any argument."""
    construct = cls.__init__  # type: ignore[misc]
    return construct is object.__init__ or getattr(construct, "__module__", None) == "torch.nn.modules.module"


def _signature(cls: type, eval_str: bool = False) -> inspect.Signature:
    """Return the signature of a constructor; a module without one of its own takes no arguments."""
    if _has_no_constructor(cls):
        return inspect.Signature()
    return inspect.signature(cls, eval_str=eval_str)


def _keep_arguments(cls: type, name: str, skip: int) -> None:
    """Make every instance of exactly this class keep its name and, in ``hyperparameters``, its arguments."""
    construct = cls.__init__  # type: ignore[misc]
    signature = _signature(cls)
    if _has_no_constructor(cls):

        def construct(self: Any, inherited: Any = construct) -> None:
            inherited(self)

        construct.__signature__ = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)])  # type: ignore[attr-defined]

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            own = list(bound.arguments.items())[skip:]
            self.__dict__["hyperparameters"] = copy.deepcopy(dict(own))
            self.__dict__["registered_as"] = name
        construct(self, *args, **kwargs)

    cls.__init__ = __init__  # type: ignore[misc]


@functools.cache
def load_plugins() -> tuple[str, ...]:
    """Import every installed plug-in once and return their names.

    Raises:
        RegistryError: a plug-in fails to import; the message names it.
    """
    plugins = tuple(entry_points(group=PLUGIN_GROUP))
    for plugin in plugins:
        try:
            plugin.load()
        except Exception as error:
            raise RegistryError(f"The plug-in '{plugin.name}' ({plugin.value}) failed to import: {error!r}") from error
    return tuple(plugin.name for plugin in plugins)


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
