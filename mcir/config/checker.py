"""Checks sections against the signatures of the classes that they name, collecting every problem.

The constructor's signature is the schema: a key must be an argument, an argument without default must be given, a value
must fit the annotation, and an argument annotated as the section of a registry is checked in turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from inspect import Parameter
from typing import Annotated, Any, Literal, get_args

import pydantic

from mcir.config.annotations import (
    MAPPINGS,
    SEQUENCES,
    annotation_of,
    describe,
    describe_value,
    fit_scalar,
    is_fixed_tuple,
    is_union,
    kind_of,
    members,
    registry_of,
    with_article,
)
from mcir.registry import DATASETS, DEGRADATIONS, KeyPath, Registry, RegistryError, closest, suggestion

_TAKE_THE_SCALE = (DATASETS, DEGRADATIONS)


def meant_by(given: Iterable[str], known: Collection[str]) -> set[str]:
    """Return the known keys that misspelt keys probably stand for, and that are therefore not missing."""
    return {match for key in given if key not in known and (match := closest(key, known))}


class Checker:
    """Converts values to what annotations want and keeps a list of what does not fit.

    Args:
        scale: the option file's ``scale``. A data set or a degradation whose class takes a ``scale`` gets it, and may
            not say another.

    Attributes:
        problems: path and message of everything that did not fit.
    """

    def __init__(self, scale: int | None = None) -> None:
        self.scale = scale
        self.problems: list[tuple[KeyPath, str]] = []

    def report(self, path: KeyPath, message: str) -> None:
        """Keep a problem."""
        self.problems.append((path, message))

    def section(self, registry: Registry, value: Any, path: KeyPath, beside: Collection[str] = ()) -> Any:
        """Return the section of a component, ``{type: …, its arguments}``, with its values converted.

        Args:
            registry: where the class is registered.
            value: the section.
            path: where it stands.
            beside: keys that may stand beside the arguments, for the suggestions.
        """
        if not isinstance(value, Mapping):
            hint = f" Write {{type: {value}}}." if isinstance(value, str) and value in registry else ""
            self.report(path, f"Expected {describe(Annotated[Any, registry])}, not {describe_value(value)}.{hint}")
            return value
        name = value.get("type")
        if not isinstance(name, str):
            misspelt = closest("type", value)
            hint = f" Is it misspelt as '{misspelt}'?" if misspelt else ""
            known = ", ".join(registry.names()) or "none"
            self.report(
                path, f"{with_article(registry.kind).capitalize()} needs a 'type', its class.{hint} Known are {known}."
            )
            return value
        try:
            parameters = registry.parameters(name)
        except RegistryError as error:
            self.report((*path, "type"), str(error))
            return value
        given = {key: entry for key, entry in value.items() if key != "type"}
        takes_scale = registry in _TAKE_THE_SCALE and "scale" in parameters and self.scale is not None
        if takes_scale and given.setdefault("scale", self.scale) != self.scale:
            self.report((*path, "scale"), f"The scale is {self.scale} at the top of the options: leave it out here.")
        arguments = self.arguments(name, parameters, given, path, ("type", *beside), registry)
        return {"type": name, **arguments}

    def arguments(
        self,
        owner: str,
        parameters: Mapping[str, Parameter],
        given: Mapping[str, Any],
        path: KeyPath,
        beside: Collection[str] = (),
        registry: Registry | None = None,
    ) -> dict[str, Any]:
        """Return the given arguments with their values converted.

        An argument of null says that it is not there: the owner need not take it, as long as one of its kind does.

        Args:
            owner: what takes the arguments, for the messages.
            parameters: the arguments by name.
            given: the values by name.
            path: where ``given`` stands.
            beside: further keys that may be meant by a misspelt one.
            registry: where the owner and its kind are registered.
        """
        known = [*parameters, *beside]
        for key, value in given.items():
            if key in parameters or (value is None and registry is not None and registry.takes(key)):
                continue
            self.report((*path, key), f"{owner} takes no '{key}'.{suggestion(key, known)}")
        present = given.keys() | meant_by(given, known)
        for key, parameter in parameters.items():
            if parameter.default is Parameter.empty and key not in present:
                self.report(path, f"{owner} needs '{key}', {describe(annotation_of(parameter))}.")
        return {
            key: self.convert(annotation_of(parameters[key]), value, (*path, key))
            for key, value in given.items()
            if key in parameters
        }

    def convert(self, annotation: Any, value: Any, path: KeyPath) -> Any:
        """Return a value as the annotation wants it; lists become tuples unless a list is asked for."""
        kind, arguments = kind_of(annotation), get_args(annotation)
        if kind is Annotated:
            registry = registry_of(annotation)
            return self.section(registry, value, path) if registry else self._constrained(annotation, value, path)
        if is_union(annotation):
            return self._union(annotation, value, path)
        if kind in SEQUENCES and isinstance(value, list | tuple):
            return self._sequence(annotation, value, path)
        if kind in MAPPINGS and isinstance(value, Mapping):
            of = arguments[1] if arguments else Any
            return {key: self.convert(of, entry, (*path, key)) for key, entry in value.items()}
        converted, fits = fit_scalar(annotation, value)
        if not fits:
            hint = suggestion(value, map(str, arguments)) if kind is Literal and isinstance(value, str) else ""
            self._misfit(annotation, value, path, hint)
        return converted

    def _misfit(self, annotation: Any, value: Any, path: KeyPath, hint: str = "") -> None:
        if isinstance(value, bool | int | float) and "text" in describe(annotation).split(" or "):
            hint = " Put it in quotes."
        self.report(path, f"Expected {describe(annotation)}, not {describe_value(value)}.{hint}")

    def _attempt(self, annotation: Any, value: Any, path: KeyPath) -> tuple[Any, list[tuple[KeyPath, str]]]:
        """Convert without reporting; return the result and the problems."""
        trial = Checker(self.scale)
        return trial.convert(annotation, value, path), trial.problems

    def _constrained(self, annotation: Any, value: Any, path: KeyPath) -> Any:
        """Convert to what ``Annotated[inner, limits…]`` wants and check the limits."""
        inner = get_args(annotation)[0]
        converted, problems = self._attempt(inner, value, path)
        if not problems:
            try:
                pydantic.TypeAdapter(annotation).validate_python(converted)
            except pydantic.ValidationError as error:
                limits = " and ".join(detail["msg"].removeprefix("Input should be ") for detail in error.errors())
                problems = [(path, f"Expected {describe(inner)} {limits}, not {describe_value(value)}.")]
        self.problems += problems
        return converted

    def _union(self, annotation: Any, value: Any, path: KeyPath) -> Any:
        candidates = members(annotation)
        exact = [member for member in candidates if type(value) is member]
        misfits = []
        for member in exact or candidates:
            converted, problems = self._attempt(member, value, path)
            if not problems:
                return converted
            kind = kind_of(member)
            holds = kind in SEQUENCES if isinstance(value, list) else kind in MAPPINGS and isinstance(value, Mapping)
            if holds or registry_of(member):
                misfits.append(problems)
        if len(misfits) == 1:  # one member holds such values: what is wrong inside explains best
            self.problems += misfits[0]
        else:
            self._misfit(annotation, value, path)
        return value

    def _sequence(self, annotation: Any, value: Sequence[Any], path: KeyPath) -> list[Any] | tuple[Any, ...]:
        arguments = get_args(annotation)
        of = arguments if is_fixed_tuple(annotation) else [arguments[0] if arguments else Any] * len(value)
        if len(of) != len(value):
            self._misfit(annotation, value, path)
            return tuple(value)
        converted = [
            self.convert(annotation, entry, (*path, index))
            for index, (annotation, entry) in enumerate(zip(of, value, strict=True))
        ]
        return converted if kind_of(annotation) is list else tuple(converted)
